//! One replica in Litestream's own keys, with the variable that each came from. Must never show a secret.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use crate::litestream::ReplicaKind;

/// A replica in Litestream's own keys (`type`, `path`, `bucket`, …), both lines alike.
#[derive(Clone, Default, PartialEq)]
pub struct Replica {
    keys: BTreeMap<String, Value>,
    from: BTreeMap<String, String>,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replica({})", self.shown())
    }
}

impl Replica {
    /// What a mapping holds; `from` is the variable or file that it stands in.
    pub fn of(mapping: &Mapping, from: &str) -> Self {
        let mut replica = Self::default();
        for (key, value) in mapping {
            if let Some(key) = key.as_str() {
                replica.set_value(key, value.clone(), from);
            }
        }
        replica
    }

    /// Litestream's keys.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.keys.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// One key, where it is text.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.keys.get(key).and_then(Value::as_str)
    }

    /// One key, whatever it holds.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key)
    }

    /// The variable that a key came from; none for a default of ours.
    pub fn from(&self, key: &str) -> Option<&str> {
        self.from.get(key).map(String::as_str).filter(|f| !f.is_empty())
    }

    /// The variables that decided it, each once.
    pub fn variables(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for key in ["url", "bucket", "host", "webdav-url", "path", "endpoint"].into_iter().chain(self.keys.keys().map(String::as_str)) {
            names.extend(self.from(key).filter(|f| !names.contains(f)));
        }
        names
    }

    /// Whether nothing is configured.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Sets a key to a text.
    pub fn set(&mut self, key: &str, value: &str, from: &str) {
        self.set_value(key, Value::String(value.to_owned()), from);
    }

    /// The same with a key set to a text.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str, from: &str) -> Self {
        self.set(key, value, from);
        self
    }

    /// Sets a key.
    pub fn set_value(&mut self, key: &str, value: Value, from: &str) {
        self.keys.insert(key.to_owned(), value);
        self.from.insert(key.to_owned(), from.to_owned());
    }

    /// Whether its path was put together here, from the file's name and at most a prefix that is everybody's.
    pub fn is_path_ours(&self) -> bool {
        self.from("path").is_none_or(|from| super::dialects::all().any(|d| d.prefixes.contains(&from)))
    }

    /// Its kind, from the URL where that says it; none of a text that is no kind's.
    pub fn kind(&self) -> Option<ReplicaKind> {
        ReplicaKind::parse(self.kind_text())
    }

    fn kind_text(&self) -> &str {
        let of_url = self.get("url").and_then(|url| url.split_once("://")).map(|(scheme, _)| scheme);
        of_url.or(self.get("type")).unwrap_or_default()
    }

    /// Type and place for people, without user, password or query.
    pub fn shown(&self) -> String {
        let path = self.get("path").unwrap_or_default();
        let trimmed = path.trim_start_matches('/');
        let kind = self.kind();
        let name = kind.map_or(self.kind_text(), |kind| kind.name());
        match (self.get("url").or(self.get("webdav-url")), kind, self.get("bucket").or(self.get("host"))) {
            (Some(url), Some(ReplicaKind::Webdav), _) if !path.is_empty() => format!("{}/{trimmed}", redact(url).trim_end_matches('/')),
            (Some(url), ..) => redact(url),
            (None, Some(ReplicaKind::File), None) if path.starts_with('/') => format!("file://{path}"),
            (None, _, Some(place)) => format!("{name}://{place}/{trimmed}"),
            (None, None, None) if name.is_empty() && path.starts_with('/') => format!("file://{path}"),
            (None, _, None) => format!("{name}:{path}"),
        }
    }

    /// Where it is, so that two replicas are one exactly if this is one.
    pub fn place(&self) -> String {
        format!("{} {}", self.get("endpoint").unwrap_or_default(), self.shown().trim_end_matches('/'))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_replica_holds_no_secret() {
        let mut replica = Replica::default();
        replica.set("url", "sftp://user:hunter2@h:22/p?token=hunter3", "REPLICA_URL");
        assert_eq!(replica.shown(), "sftp://h:22/p");
        assert!(!format!("{replica:?}").contains("hunter"));
    }
}
