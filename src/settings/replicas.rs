//! Where each database is replicated to: URLs, buckets and their parts, in every dialect in use. Must
//! never show a secret.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Database, Environment};

/// A replica in Litestream's own keys (`type`, `path`, `bucket`, …), both lines alike.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replica {
    keys: BTreeMap<String, String>,
}

/// A pair of keys for S3.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: String,
    /// Whether they are the `AWS_…` pair itself, so that its session token belongs to them.
    pub from_aws: bool,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

const URLS: [&str; 2] = ["LITESTREAM_REPLICA_URL", "REPLICA_URL"];
const BUCKETS: [&str; 5] = ["LITESTREAM_REPLICA_BUCKET", "LITESTREAM_BUCKET", "BUCKET_NAME", "AWS_BUCKET", "S3_BUCKET"];
/// Litestream's key, and the variables that give it, first wins.
const PARTS: [(&str, &[&str]); 5] = [
    ("type", &["LITESTREAM_REPLICA_TYPE", "LITESTREAM_TYPE"]),
    ("region", &["LITESTREAM_REPLICA_REGION", "LITESTREAM_REGION", "AWS_REGION", "AWS_DEFAULT_REGION", "S3_REGION"]),
    (
        "endpoint",
        &["LITESTREAM_REPLICA_ENDPOINT", "LITESTREAM_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "S3_ENDPOINT"],
    ),
    ("force-path-style", &["LITESTREAM_REPLICA_FORCE_PATH_STYLE", "LITESTREAM_FORCE_PATH_STYLE"]),
    ("skip-verify", &["LITESTREAM_REPLICA_SKIP_VERIFY", "LITESTREAM_SKIP_VERIFY"]),
];
const PREFIXES: [&str; 2] = ["LITESTREAM_REPLICA_PATH", "LITESTREAM_PATH"];
const KEY_IDS: [&str; 2] = ["LITESTREAM_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"];
const SECRETS: [&str; 2] = ["LITESTREAM_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"];
const SCHEMES: [&str; 10] = ["s3", "gs", "gcs", "abs", "sftp", "nats", "webdav", "webdavs", "oss", "file"];

impl Replica {
    /// For tests and defaults: exactly these keys.
    pub fn parts<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self { keys: pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect() }
    }

    /// Litestream's keys.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.keys.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    /// Whether nothing is configured.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn set(&mut self, key: &str, value: &str) {
        self.keys.insert(key.to_owned(), value.to_owned());
    }

    /// Type and place for people, without user, password or query.
    pub fn shown(&self) -> String {
        if let Some(url) = self.get("url") {
            return redact(url);
        }
        let path = self.get("path").unwrap_or_default();
        match (self.get("type"), self.get("bucket")) {
            (Some("file"), _) => format!("file://{path}"),
            (Some(kind), Some(bucket)) => format!("{kind}://{bucket}/{}", path.trim_start_matches('/')),
            (kind, _) => format!("{}:{path}", kind.unwrap_or("replica")),
        }
    }
}

/// A URL without what may be secret in it.
fn redact(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, String::new()), |(h, p)| (h, format!("/{p}")));
            format!("{scheme}://{}{path}", host.rsplit('@').next().unwrap_or_default())
        }
        None => url.to_owned(),
    }
}

/// Every variable that is read here.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let parts = PARTS.iter().flat_map(|(_, names)| names.iter());
    URLS.iter().chain(&BUCKETS).chain(parts).chain(&PREFIXES).chain(&KEY_IDS).chain(&SECRETS).copied()
}

/// Whether a variable that has no other purpose asks for replication.
pub(super) fn intended(env: &Environment) -> bool {
    [URLS[0], URLS[1], BUCKETS[0], BUCKETS[1], KEY_IDS[0], SECRETS[0]].iter().any(|n| env.get(n).is_some())
}

/// The variable that names a replica for every database.
pub(super) fn decided_by(env: &Environment) -> Option<&'static str> {
    URLS.into_iter().chain(BUCKETS).find(|name| env.get(name).is_some())
}

/// The keys that every replica uses.
pub(super) fn shared_credentials(env: &Environment, problems: &mut Vec<String>) -> Option<Credentials> {
    credentials(env, "", problems)
}

fn credentials(env: &Environment, suffix: &str, problems: &mut Vec<String>) -> Option<Credentials> {
    for (id_name, secret_name) in KEY_IDS.iter().zip(SECRETS) {
        let (id_name, secret_name) = (format!("{id_name}{suffix}"), format!("{secret_name}{suffix}"));
        let from_aws = id_name.starts_with("AWS_");
        match (env.get(&id_name), env.get(&secret_name)) {
            (Some(id), Some(secret)) => return Some(Credentials { id: id.to_owned(), secret: secret.to_owned(), from_aws }),
            // An `AWS_…` half may be the app's own business.
            (id, secret) if id.is_some() != secret.is_some() && !from_aws => {
                let (set, unset) = if id.is_some() { (&id_name, &secret_name) } else { (&secret_name, &id_name) };
                problems.push(format!("{set} is set, but {unset} is not; set both"));
            }
            _ => {}
        }
    }
    None
}

/// Gives each database its replica. Whether any variable names one is the result.
pub(super) fn complete(env: &Environment, databases: &mut [Database], problems: &mut Vec<String>) -> bool {
    let several = databases.len() > 1;
    let mut any = databases.is_empty() && decided_by(env).is_some();
    for database in databases.iter_mut() {
        // The list form may bring its own.
        if database.extra.contains_key("replica") || database.extra.contains_key("replicas") {
            any = true;
            continue;
        }
        if let Some(replica) = replica_of(env, database, several, problems) {
            database.replica = replica;
            any = true;
        }
    }
    if any {
        for database in
            databases.iter().filter(|d| d.replica.is_empty() && !d.extra.contains_key("replica") && !d.extra.contains_key("replicas"))
        {
            let suffix = suffix(&database.alias);
            problems.push(format!("{}: no replica for {}; set LITESTREAM_REPLICA_URL{suffix}", database.named_by, database.alias));
        }
    }
    refuse_shared_paths(databases, problems);
    any
}

fn suffix(alias: &str) -> String {
    format!("_{}", alias.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect::<String>())
}

/// A variable's name and value.
type Found = (String, String);

/// The variables as one database sees them: `NAME_ALIAS` before `NAME`.
struct View<'a> {
    env: &'a Environment,
    suffix: String,
}

impl View<'_> {
    fn own(&self, names: &[&str]) -> Option<Found> {
        names.iter().map(|name| format!("{name}{}", self.suffix)).find_map(|name| Some((name.clone(), self.env.get(&name)?.to_owned())))
    }

    fn shared(&self, names: &[&str]) -> Option<Found> {
        self.env.first(names).map(|(name, value)| (name.to_owned(), value.to_owned()))
    }

    fn any(&self, names: &[&str]) -> Option<Found> {
        self.own(names).or_else(|| self.shared(names))
    }
}

fn replica_of(env: &Environment, database: &Database, several: bool, problems: &mut Vec<String>) -> Option<Replica> {
    let view = View { env, suffix: suffix(&database.alias) };
    let file_name = database.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let (own_url, own_bucket) = (view.own(&URLS), view.own(&BUCKETS));
    let shared_url = view.shared(&URLS).filter(|_| own_bucket.is_none());
    let append = (several && own_url.is_none()).then_some(file_name.as_str());
    let mut replica = match own_url.or(shared_url) {
        Some((name, url)) => from_url(&url, append).map_err(|why| problems.push(format!("{name}: {why}"))).ok()?,
        None => in_bucket(&view, &view.any(&BUCKETS)?.1, &file_name),
    };
    if replica.get("type") == Some("s3") {
        add_parts(&mut replica, &view, problems);
    }
    if let Some(keys) = credentials(env, &view.suffix, problems) {
        replica.set("access-key-id", &keys.id);
        replica.set("secret-access-key", &keys.secret);
    }
    Some(replica)
}

fn in_bucket(view: &View<'_>, bucket: &str, file_name: &str) -> Replica {
    let path = match (view.own(&PREFIXES), view.shared(&PREFIXES)) {
        (Some((_, path)), _) => path,
        (None, Some((_, prefix))) => format!("{}/{file_name}", prefix.trim_matches('/')),
        (None, None) => file_name.to_owned(),
    };
    // Slashes at the ends would become part of every object's name.
    Replica::parts([("type", "s3"), ("bucket", bucket), ("path", path.trim_matches('/'))])
}

fn add_parts(replica: &mut Replica, view: &View<'_>, problems: &mut Vec<String>) {
    for (key, names) in PARTS {
        let Some((name, value)) = view.any(names) else { continue };
        // What the URL itself says wins, but for the type, which nothing else says better.
        if replica.get(key).is_some() && key != "type" {
            continue;
        }
        match (key, value.as_str()) {
            ("force-path-style" | "skip-verify", "1" | "true" | "yes") => replica.set(key, "true"),
            ("force-path-style" | "skip-verify", "0" | "false" | "no") => replica.set(key, "false"),
            ("force-path-style" | "skip-verify", _) => problems.push(format!("{name}: not true or false")),
            ("type", kind) if !SCHEMES.contains(&kind) => {
                problems.push(format!("{name}: not a replica type; one of s3, gs, abs, sftp, nats, webdav, oss, file"));
            }
            _ => replica.set(key, &value),
        }
    }
    if replica.get("endpoint").is_some() && replica.get("region").is_none() {
        // Litestream would ask AWS where the bucket is; any name does for the others.
        replica.set("region", "us-east-1");
    }
}

/// A replica URL in Litestream's keys. S3 and file are taken apart, since 0.3 ignores a query and
/// would talk to AWS; the other types are handed over as they are.
fn from_url(url: &str, file_name: Option<&str>) -> Result<Replica, String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("not a URL; write it as s3://BUCKET/PATH or file:///PATH".to_owned());
    };
    if !SCHEMES.contains(&scheme) {
        return Err("no such replica type; one of s3://, gs://, abs://, sftp://, nats://, webdav://, oss://, file://".to_owned());
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let place = match file_name {
        Some(name) => format!("{}/{name}", place.trim_end_matches('/')),
        None => place.to_owned(),
    };
    match scheme {
        "file" if !place.starts_with('/') || place.trim_matches('/').is_empty() => {
            Err("a file replica needs an absolute path, as file:///backup/app".to_owned())
        }
        "file" => Ok(Replica::parts([("type", "file"), ("path", PathBuf::from(&place).to_string_lossy().trim_end_matches('/'))])),
        "s3" => s3(&place, query),
        _ if place.trim_matches('/').is_empty() => Err(format!("names no place; write it as {scheme}://HOST/PATH")),
        _ => {
            let query = if query.is_empty() { String::new() } else { format!("?{query}") };
            Ok(Replica::parts([("url", format!("{scheme}://{place}{query}").as_str())]))
        }
    }
}

fn s3(place: &str, query: &str) -> Result<Replica, String> {
    let (bucket, path) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err("names no bucket; write it as s3://BUCKET/PATH".to_owned());
    }
    if bucket.contains('@') {
        return Err("keys do not belong in the URL; set LITESTREAM_ACCESS_KEY_ID and LITESTREAM_SECRET_ACCESS_KEY".to_owned());
    }
    let mut replica = Replica::parts([("type", "s3"), ("bucket", bucket), ("path", path.trim_matches('/'))]);
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let value = value.replace("%3A", ":").replace("%2F", "/").replace("%3a", ":").replace("%2f", "/");
        let key = match name {
            "endpoint" | "region" | "concurrency" => name,
            "forcePathStyle" | "force-path-style" => "force-path-style",
            "skipVerify" | "skip-verify" => "skip-verify",
            "signPayload" | "sign-payload" => "sign-payload",
            "requireContentMD5" | "require-content-md5" => "require-content-md5",
            "storageClass" | "storage-class" => "storage-class",
            "partSize" | "part-size" => "part-size",
            _ => {
                return Err(format!(
                    "unknown query parameter {name:?}; known are endpoint, region, force-path-style, skip-verify, sign-payload, storage-class, part-size, concurrency"
                ));
            }
        };
        replica.set(key, &value);
    }
    // A bare host means https to Litestream.
    if let Some(endpoint) = replica.get("endpoint").filter(|e| !e.contains("://")).map(|e| format!("https://{e}")) {
        replica.set("endpoint", &endpoint);
    }
    Ok(replica)
}

fn refuse_shared_paths(databases: &[Database], problems: &mut Vec<String>) {
    for (at, database) in databases.iter().enumerate() {
        let shared = databases.iter().take(at).find(|o| !o.replica.is_empty() && o.replica.shown() == database.replica.shown());
        if let Some(other) = shared.filter(|_| !database.replica.is_empty()) {
            problems.push(format!(
                "{} and {} would share the replica {}, which destroys both backups; set LITESTREAM_REPLICA_URL{}",
                other.alias,
                database.alias,
                database.replica.shown(),
                suffix(&database.alias)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_s3_url_is_taken_apart_with_its_query() {
        let expected =
            [("type", "s3"), ("bucket", "b"), ("path", "p/q"), ("endpoint", "http://127.0.0.1:9000"), ("force-path-style", "true")];
        assert_eq!(from_url("s3://b/p/q/?endpoint=http://127.0.0.1:9000&forcePathStyle=true", None).unwrap(), Replica::parts(expected));
        assert_eq!(from_url("s3://b/p?endpoint=minio:9000", None).unwrap().get("endpoint"), Some("https://minio:9000"));
    }

    #[test]
    fn other_types_keep_their_url_and_several_databases_get_their_name() {
        assert_eq!(from_url("sftp://u@h:22/p", Some("a.db")).unwrap(), Replica::parts([("url", "sftp://u@h:22/p/a.db")]));
        assert_eq!(from_url("file:///r/", Some("a.db")).unwrap().get("path"), Some("/r/a.db"));
    }

    #[test]
    fn a_bad_url_says_how_to_write_it() {
        for bad in ["nonsense", "s3://", "s3:///p", "s3://key:secret@b/p", "file://relative", "http://x", "s3://b?wat=1", "sftp://"] {
            let why = from_url(bad, None).unwrap_err();
            assert!(!why.contains("secret@"), "{why}");
        }
    }

    #[test]
    fn what_is_shown_of_a_replica_holds_no_secret() {
        let replica = Replica::parts([("url", "sftp://user:hunter2@h:22/p?token=hunter3")]);
        assert_eq!(replica.shown(), "sftp://h:22/p");
    }
}
