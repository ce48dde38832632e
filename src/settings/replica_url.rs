//! A replica's URL in Litestream's keys. Must never repeat it: there may be a password in it.

use super::replica::Replica;
use super::values::{self, Kept};
use crate::litestream::ReplicaKind;
use crate::litestream::schema::{KEYS, Section};

/// A replica URL in Litestream's keys. S3 and file are taken apart, since 0.3 ignores a query and
/// would talk to AWS; the other types are handed over as they are.
pub(super) fn parse(name: &str, url: &str, file_name: Option<&str>) -> Result<Replica, String> {
    if url.chars().any(char::is_control) {
        return Err("a control character in it; write it in one line".to_owned());
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("not a URL; write it as s3://BUCKET/PATH or file:///PATH".to_owned());
    };
    let Some(kind) = ReplicaKind::parse(scheme) else {
        return Err(format!("no such replica type; one of {}", ReplicaKind::ALL.map(|kind| format!("{}://", kind.name())).join(", ")));
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let place = match file_name {
        Some(file) => format!("{}/{file}", place.trim_end_matches('/')),
        None => place.to_owned(),
    };
    let mut replica = Replica::default();
    match kind {
        ReplicaKind::File if !place.starts_with('/') || place.trim_matches('/').is_empty() => {
            return Err("a file replica needs an absolute path, as file:///backup/app".to_owned());
        }
        ReplicaKind::File => {
            replica.set("type", kind.name(), name);
            replica.set("path", place.trim_end_matches('/'), name);
        }
        ReplicaKind::S3 => s3(&mut replica, name, &place, query)?,
        ReplicaKind::Nats if file_name.is_some() => {
            return Err("a NATS bucket holds one database; set LITESTREAM_REPLICA_URL_ALIAS for each".to_owned());
        }
        _ if place.trim_matches('/').is_empty() => return Err(format!("names no place; write it as {scheme}://HOST/PATH")),
        _ => {
            let query = if query.is_empty() { String::new() } else { format!("?{query}") };
            replica.set("url", &format!("{scheme}://{place}{query}"), name);
        }
    }
    Ok(replica)
}

fn s3(replica: &mut Replica, from: &str, place: &str, query: &str) -> Result<(), String> {
    let (bucket, path) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err("names no bucket; write it as s3://BUCKET/PATH".to_owned());
    }
    if bucket.contains('@') {
        return Err("keys do not belong in the URL; set LITESTREAM_ACCESS_KEY_ID and LITESTREAM_SECRET_ACCESS_KEY".to_owned());
    }
    replica.set("type", ReplicaKind::S3.name(), from);
    replica.set("bucket", bucket, from);
    replica.set("path", path.trim_matches('/'), from);
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, "true"));
        let value = value.replace("%3A", ":").replace("%2F", "/").replace("%3a", ":").replace("%2f", "/").replace("%40", "@");
        // Litestream takes both forms: forcePathStyle and force-path-style.
        let dashed: String =
            name.chars().flat_map(|c| if c.is_ascii_uppercase() { vec!['-', c.to_ascii_lowercase()] } else { vec![c] }).collect();
        let dashed = dashed.replace("-m-d5", "-md5");
        let known = KEYS
            .iter()
            .find(|k| k.section == Section::Replica && k.name == dashed && k.variable.is_some() && ReplicaKind::S3.takes(k.of, k.name));
        let Some(key) = known else {
            return Err("an unknown parameter behind the ?; known are endpoint, region, force-path-style, skip-verify, sign-payload, storage-class, part-size, concurrency".to_owned());
        };
        match values::read(key.kind, &value) {
            Kept::Value(value) => replica.set_value(key.name, value, from),
            Kept::Bad(form) => return Err(format!("{}: {form}", key.name)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str, file: Option<&str>) -> Result<Replica, String> {
        parse("REPLICA_URL", text, file)
    }

    #[test]
    fn an_s3_url_is_taken_apart_with_its_query() {
        let replica = url("s3://b/p/q/?endpoint=http://127.0.0.1:9000&forcePathStyle=true&require-content-md5=false", None).unwrap();
        assert_eq!(
            (replica.get("bucket"), replica.get("path"), replica.get("endpoint")),
            (Some("b"), Some("p/q"), Some("http://127.0.0.1:9000"))
        );
        assert_eq!((replica.value("force-path-style"), replica.value("require-content-md5")), (Some(&true.into()), Some(&false.into())));
    }

    #[test]
    fn other_types_keep_their_url_and_several_databases_get_their_name() {
        assert_eq!(url("sftp://u@h:22/p", Some("a.db")).unwrap().get("url"), Some("sftp://u@h:22/p/a.db"));
        assert_eq!(url("file:///r/", Some("a.db")).unwrap().get("path"), Some("/r/a.db"));
    }

    #[test]
    fn a_bad_url_says_how_to_write_it() {
        for bad in
            ["nonsense", "s3://", "s3:///p", "s3://key:secret@b/p", "file://relative", "http://x", "s3://b?wat=1", "sftp://", "s3://b/p\nq"]
        {
            let why = url(bad, None).unwrap_err();
            assert!(!why.contains("secret@"), "{why}");
        }
    }
}
