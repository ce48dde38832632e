//! litestream.yml: rendered from settings, read where it is the user's own, cut down for a last pass.
//! Must never write a secret that Litestream can read from its environment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use crate::litestream::Line;
use crate::litestream::expand::expand;
use crate::settings::{Database, Replica, Tuning, Where};

/// A configuration as a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Document(Mapping);

/// What a document says of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path, absolute.
    pub path: PathBuf,
    /// Type and place of its replica, without secrets.
    pub replica: String,
}

/// Renders the configuration for databases that variables named.
///
/// `socket` is where 0.5 shall listen; `last_sync` bounds its own try at a last sync, which comes
/// after ours and is not waited for.
pub fn render(databases: &[Database], tuning: &[Tuning], line: Line, socket: Option<&Path>, last_sync: Duration) -> Document {
    let mut top = Mapping::new();
    let settings = |place: Where| tuning.iter().filter(move |t| t.place(line) == Some(place)).map(|t| (t.key, t.value.as_str()));
    put_all(&mut top, settings(Where::Top));
    let mut logging = Mapping::new();
    // The app's stdout stays the app's.
    put(&mut logging, "stderr", true);
    put_all(&mut logging, settings(Where::Logging));
    put(&mut top, "logging", logging);
    if line == Line::V05 {
        let mut snapshot = Mapping::new();
        put_all(&mut snapshot, settings(Where::Snapshot));
        if !snapshot.is_empty() {
            put(&mut top, "snapshot", snapshot);
        }
        put(&mut top, "shutdown-sync-timeout", format!("{}ms", last_sync.as_millis()));
        if let Some(path) = socket {
            let mut socket = Mapping::new();
            put(&mut socket, "enabled", true);
            put(&mut socket, "path", path.to_string_lossy().into_owned());
            put(&mut top, "socket", socket);
        }
    }
    let dbs: Vec<Value> = databases
        .iter()
        .map(|database| {
            let mut entry = database.extra.clone();
            put(&mut entry, "path", database.path.to_string_lossy().into_owned());
            put_all(&mut entry, settings(Where::Database));
            if !database.replica.is_empty() {
                let mut replica = replica_keys(&database.replica, line);
                put_all(&mut replica, settings(Where::Replica));
                match line {
                    // 0.3 ignores `replica:` silently.
                    Line::V03 => put(&mut entry, "replicas", vec![Value::Mapping(replica)]),
                    Line::V05 => put(&mut entry, "replica", replica),
                }
            }
            Value::Mapping(entry)
        })
        .collect();
    put(&mut top, "dbs", dbs);
    Document(top)
}

/// The lines name Google's storage differently.
fn replica_keys(replica: &Replica, line: Line) -> Mapping {
    let mut keys = Mapping::new();
    for (key, value) in replica.keys() {
        let value = match (key, line) {
            ("type", Line::V03) if value == "gs" => "gcs",
            ("type", Line::V05) if value == "gcs" => "gs",
            _ => value,
        };
        match (key, value) {
            ("url", url) => put(
                &mut keys,
                key,
                match line {
                    Line::V03 => url.replacen("gs://", "gcs://", usize::from(url.starts_with("gs://"))),
                    Line::V05 => url.replacen("gcs://", "gs://", usize::from(url.starts_with("gcs://"))),
                },
            ),
            (_, "true") => put(&mut keys, key, true),
            (_, "false") => put(&mut keys, key, false),
            _ => put(&mut keys, key, value.to_owned()),
        }
    }
    keys
}

fn put(mapping: &mut Mapping, key: &str, value: impl Into<Value>) {
    mapping.insert(Value::String(key.to_owned()), value.into());
}

fn put_all<'a>(mapping: &mut Mapping, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    for (key, value) in pairs {
        match value.parse::<u64>() {
            Ok(number) => put(mapping, key, number),
            Err(_) => put(mapping, key, value.to_owned()),
        }
    }
}

impl Document {
    /// Reads a file of the user's own, expanded as Litestream expands it: over the whole text.
    ///
    /// # Errors
    /// A line that says where it is not YAML, or not a configuration.
    pub fn parse_expanded(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        Self::parse(&expand(text, env))
    }

    /// Reads a generated file.
    ///
    /// # Errors
    /// A line that says where it is not YAML, or not a configuration.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_yaml::from_str(text).map_err(|error| {
            // The message quotes the text, which may be a secret; the place is enough.
            let place = error.location().map(|l| format!(" at line {}, column {}", l.line(), l.column()));
            format!("not YAML{}", place.unwrap_or_default())
        })?;
        match value {
            Value::Mapping(top) => Ok(Self(top)),
            _ => Err("not a configuration: it has no `dbs:`".to_owned()),
        }
    }

    /// The databases in it, those of a `dir:` excepted.
    pub fn databases(&self) -> Vec<Listed> {
        self.entries()
            .iter()
            .filter_map(|entry| {
                let path = entry.get("path")?.as_str()?;
                let path = std::path::absolute(path).ok()?;
                let replica = entry.get("replica").or_else(|| entry.get("replicas")?.as_sequence()?.first());
                Some(Listed { path, replica: replica.map(shown).unwrap_or_default() })
            })
            .collect()
    }

    /// Where its control socket is, if it has one.
    pub fn socket(&self) -> Option<PathBuf> {
        let socket = self.0.get("socket")?;
        if socket.get("enabled")?.as_bool()? {
            Some(socket.get("path").and_then(Value::as_str).unwrap_or("/var/run/litestream.sock").into())
        } else {
            None
        }
    }

    fn entries(&self) -> &[Value] {
        self.0.get("dbs").and_then(Value::as_sequence).map_or(&[], Vec::as_slice)
    }

    /// For a start under a live app: 0.5 looks at its databases and uploads by two clocks of a second each, so
    /// that an upload may just miss what was found. An upload clock that ticks more often costs nothing: there
    /// is one file a second either way.
    #[must_use]
    pub fn again(&self, line: Line) -> Self {
        let mut top = self.0.clone();
        let entries = top.get_mut("dbs").and_then(Value::as_sequence_mut).into_iter().flatten();
        for replica in entries.filter(|_| line == Line::V05).flat_map(replicas).filter(|r| !r.contains_key("sync-interval")) {
            put(replica, "sync-interval", "250ms".to_owned());
        }
        Self(top)
    }

    /// For a pass after the app's end: one database (0.5's `-once` stops at the first that fails), no port and no socket of its own, and on 0.3 intervals that do not wait.
    #[must_use]
    pub fn last_pass(&self, line: Line, database: &Path) -> Self {
        let mut top = self.0.clone();
        for key in ["addr", "socket", "exec", "mcp-addr", "dbs"] {
            top.remove(key);
        }
        let kept = self
            .entries()
            .iter()
            .filter(|e| e.get("path").and_then(Value::as_str).and_then(|p| std::path::absolute(p).ok()).is_some_and(|p| p == database));
        let dbs = kept.cloned().map(|mut entry| {
            if line == Line::V03 {
                if let Value::Mapping(entry) = &mut entry {
                    put(entry, "monitor-interval", "20ms".to_owned());
                }
                for replica in replicas(&mut entry) {
                    put(replica, "sync-interval", "20ms".to_owned());
                }
            }
            entry
        });
        let dbs: Vec<Value> = dbs.collect();
        put(&mut top, "dbs", dbs);
        if line == Line::V03 {
            let mut logging = Mapping::new();
            put(&mut logging, "level", "debug".to_owned());
            put(&mut logging, "type", "json".to_owned());
            put(&mut logging, "stderr", true);
            put(&mut top, "logging", logging);
        }
        Self(top)
    }

    /// As text. Every string is a double-quoted scalar, so that no value can become another type,
    /// a comment or a second key.
    pub fn text(&self) -> String {
        let mut out = String::from("# written by litestream-entry at every start\n");
        write_mapping(&mut out, &self.0, 0);
        out
    }
}

/// A database's replicas, under either line's key.
fn replicas(entry: &mut Value) -> impl Iterator<Item = &mut Mapping> {
    let keys = entry.as_mapping_mut().into_iter().flat_map(Mapping::iter_mut);
    keys.filter(|(key, _)| matches!(key.as_str(), Some("replica" | "replicas")))
        .flat_map(|(_, value)| match value {
            Value::Sequence(several) => several.as_mut_slice(),
            one => std::slice::from_mut(one),
        })
        .filter_map(Value::as_mapping_mut)
}

fn shown(replica: &Value) -> String {
    let text = |key: &str| replica.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let keys: BTreeMap<String, String> =
        ["type", "url", "bucket", "path"].iter().map(|k| ((*k).to_owned(), text(k))).filter(|(_, v)| !v.is_empty()).collect();
    Replica::parts(keys.iter().map(|(k, v)| (k.as_str(), v.as_str()))).shown()
}

fn write_mapping(out: &mut String, mapping: &Mapping, depth: usize) {
    for (key, value) in mapping {
        let _ = write!(out, "{}{}:", "  ".repeat(depth), scalar(key));
        write_value(out, value, depth);
    }
}

fn write_value(out: &mut String, value: &Value, depth: usize) {
    let deeper = depth.saturating_add(1);
    match value {
        Value::Mapping(inner) if inner.is_empty() => out.push_str(" {}\n"),
        Value::Mapping(inner) => {
            out.push('\n');
            write_mapping(out, inner, deeper);
        }
        Value::Sequence(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Sequence(items) => {
            out.push('\n');
            for item in items {
                let _ = write!(out, "{}-", "  ".repeat(deeper));
                write_value(out, item, deeper);
            }
        }
        other => {
            let _ = writeln!(out, " {}", scalar(other));
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !is_word(text) => {
            text.clone()
        }
        Value::String(text) => crate::litestream::socket::json_string(text),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        _ => "null".to_owned(),
    }
}

/// YAML 1.1's words for true, false and null, which Litestream's parser still knows.
fn is_word(text: &str) -> bool {
    matches!(text, "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null") || text.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn database(path: &str, replica: Replica) -> Database {
        Database { alias: "default".into(), path: path.into(), replica, extra: Mapping::new(), named_by: "DB_PATH".into() }
    }

    #[test]
    fn each_line_gets_the_keys_that_it_knows() {
        let dbs = [database("/d/a.db", Replica::parts([("type", "gs"), ("bucket", "b"), ("path", "p")]))];
        let v5 = render(&dbs, &[], Line::V05, Some(Path::new("/run/s")), Duration::from_secs(3)).text();
        assert!(v5.contains("replica:") && v5.contains("type: gs\n") && v5.contains("socket:"), "{v5}");
        let v3 = render(&dbs, &[], Line::V03, None, Duration::from_secs(3)).text();
        assert!(v3.contains("replicas:") && v3.contains("type: gcs\n") && !v3.contains("socket:"), "{v3}");
    }

    #[test]
    fn a_file_that_is_not_yaml_says_where_and_quotes_nothing() {
        let error = Document::parse("dbs: [\nsecret: hunter2: x").unwrap_err();
        assert!(error.contains("line") && !error.contains("hunter2"), "{error}");
        assert!(Document::parse("just text").is_err());
    }

    #[test]
    fn a_last_pass_is_of_one_database() {
        let dbs = [
            database("/d/a.db", Replica::parts([("type", "file"), ("path", "/r/a")])),
            database("/d/b.db", Replica::parts([("type", "file"), ("path", "/r/b")])),
        ];
        let all = render(&dbs, &[], Line::V03, None, Duration::from_secs(3));
        let pass = all.last_pass(Line::V03, Path::new("/d/b.db"));
        assert_eq!(pass.databases().iter().map(|d| d.path.clone()).collect::<Vec<_>>(), [PathBuf::from("/d/b.db")]);
        assert!(pass.text().contains("monitor-interval: \"20ms\"") && pass.text().contains("sync-interval: \"20ms\""));
    }

    #[test]
    fn a_restart_uploads_more_often_unless_told_how_often() {
        let with = |tuning: &[Tuning], line| {
            let dbs = [database("/d/a.db", Replica::parts([("type", "file"), ("path", "/r/a")]))];
            render(&dbs, tuning, line, None, Duration::from_secs(3)).again(line).text()
        };
        assert!(with(&[], Line::V05).contains("sync-interval: \"250ms\"") && !with(&[], Line::V03).contains("sync-interval"));
        let place = Some(Where::Replica);
        let own = Tuning { variable: "LITESTREAM_SYNC_INTERVAL", key: "sync-interval", value: "9s".to_owned(), v05: place, v03: place };
        assert!(with(&[own], Line::V05).contains("sync-interval: \"9s\""));
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back_as_it_was_meant(path in "[^\u{0}]{1,60}", bucket in "\\PC{1,40}", secret in any::<String>()) {
            let replica = Replica::parts([("type", "s3"), ("bucket", bucket.as_str()), ("secret-access-key", secret.as_str()), ("path", path.as_str())]);
            let document = render(&[database("/d/a.db", replica)], &[], Line::V05, None, Duration::from_secs(1));
            let value: Value = serde_yaml::from_str(&document.text()).unwrap();
            let read = &value["dbs"][0]["replica"];
            for (key, meant) in [("bucket", &bucket), ("secret-access-key", &secret), ("path", &path)] {
                let same = read[key].as_str() == Some(meant.as_str()) || (meant == "true" || meant == "false") && read[key].is_bool();
                prop_assert!(same, "{key}: {meant:?} became {:?}", read[key]);
            }
        }
    }
}
