//! litestream.yml: rendered from settings, read where it is the user's own, cut down for a last pass.
//! Must never write a secret that Litestream can read from its environment.

mod pass;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::{Mapping, Value};

use crate::litestream::expand::expand;
use crate::litestream::schema::shown_key;
use crate::litestream::schema::{KEYS, Lines, Section, find, is_grave, is_known};
use crate::litestream::{Format, Line, ReplicaKind};
use crate::model::Directory;
use crate::settings::{Database, Replica, Tuning};
use crate::{lint, pattern};
pub use text::{REDACTED, Style, redacted};

/// A configuration as a tree, with the variables that its values came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    top: Mapping,
    /// By path, as `dbs.0.replica.bucket`.
    origins: BTreeMap<String, String>,
}

/// What a document says of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path, absolute.
    pub path: PathBuf,
    /// Type and place of its replica, without secrets.
    pub replica: String,
    /// It has a `meta-path`.
    pub has_own_meta: bool,
}

/// Where 0.3 serves its metrics unless something else is set.
const ANY_PORT: &str = "127.0.0.1:0";

/// Renders the configuration for databases that variables named.
///
/// `socket` is where 0.5 shall listen; `last_sync` bounds its own try at a last sync, which comes
/// after ours and is not waited for.
pub fn render(databases: &[Database], tuning: &[Tuning], line: Line, socket: Option<&Path>, last_sync: Duration) -> Document {
    let mut document = Document { top: Mapping::new(), origins: BTreeMap::new() };
    // The app's stdout stays the app's.
    document.set(Section::Logging, "stderr", true.into(), "");
    if line.format() == Format::Ltx {
        document.set(Section::Top, "shutdown-sync-timeout", format!("{}ms", last_sync.as_millis()).into(), "");
        if let Some(path) = socket {
            document.set(Section::Socket, "enabled", true.into(), "");
            document.set(Section::Socket, "path", path.to_string_lossy().into_owned().into(), "");
        }
    }
    if line.format() == Format::Generations {
        // Its metrics alone tell how far a replica is. The kernel chooses a port, which `status` finds.
        document.set(Section::Top, "addr", ANY_PORT.into(), "");
    }
    for tuning in tuning.iter().filter(|t| t.key.is_known_to(line)) {
        document.set(tuning.key.section, tuning.key.name, tuning.value.clone(), tuning.from);
    }
    let mut dbs = databases.iter().enumerate().map(|(at, database)| Value::Mapping(document.entry(at, database, line))).collect::<Vec<_>>();
    // Behind all others, so that their places stay.
    for directory in databases.iter().filter(|d| d.is_dir) {
        let pattern = directory.extra.get("pattern").and_then(Value::as_str).unwrap_or("*");
        let entry = dbs.iter().find(|e| e.get("dir").and_then(Value::as_str).is_some_and(|d| Path::new(d) == directory.path));
        let list = entry
            .filter(|_| !pattern::takes_list(pattern))
            .map(|e| one_of(e, &directory.path.join(pattern::LIST), Path::new(pattern::LIST)));
        dbs.extend(list);
    }
    put(&mut document.top, "dbs", dbs);
    document
}

/// What the running line does not have of all that was set: a line each, naming the variable and both lines.
/// Those that concern who may read a backup or where it goes are refused; the others are notes.
///
/// # Errors
/// The former.
pub fn ignored(databases: &[Database], tuning: &[Tuning], line: Line) -> Result<Vec<String>, Vec<String>> {
    let mut set: Vec<(&str, Section, &str)> = tuning.iter().map(|t| (t.from, t.key.section, t.key.name)).collect();
    for database in databases {
        let keys = database.extra.keys().filter_map(Value::as_str);
        set.extend(keys.map(|key| (database.from.get(key).unwrap_or(&database.named_by).as_str(), Section::Database, key)));
        let keys = database.replica.keys().map(|(key, _)| key);
        set.extend(keys.filter_map(|key| Some((database.replica.from(key)?, Section::Replica, key))));
    }
    let (mut lines, mut refused): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for (from, section, key) in set.into_iter().filter(|(_, section, key)| !is_known(*section, key, line)) {
        // A variable may mean one key to one line and another to the other.
        let meant = KEYS.iter().filter(|k| k.name == key).filter_map(|k| k.variable).find(|v| from.starts_with(v));
        if meant.is_some_and(|v| KEYS.iter().any(|k| k.variable == Some(v) && k.is_known_to(line))) {
            continue;
        }
        let (ours, theirs) = if line.format() == Format::Ltx { ("0.5", "0.3") } else { ("0.3", "0.5") };
        let known = match find(section, key).map(|k| k.lines) {
            Some(Lines::Both) | None => "neither line".to_owned(),
            Some(_) => format!("Litestream {theirs}"),
        };
        let key = shown_key(key);
        if is_grave(key) {
            let instead =
                if key == "age" { "let the bucket encrypt, or run Litestream 0.3.13" } else { "remove it, or run the line that has it" };
            let there = if known == "neither line" { "neither line reads it here".to_owned() } else { format!("{known} has it") };
            refused.push(format!(
                "{from}: `{key}` means nothing to Litestream {ours}, and a backup without it is not what was asked for; {there}: {instead}"
            ));
        } else {
            lines.push(format!("{from}: `{key}` is ignored by Litestream {ours}; {known} has it"));
        }
    }
    lines.dedup();
    refused.dedup();
    if refused.is_empty() { Ok(lines) } else { Err(refused) }
}

/// The lines name some kinds of replica differently.
fn for_line(key: &str, value: &Value, line: Line) -> Value {
    let named = |text: &str| ReplicaKind::parse(text).filter(|kind| kind.row().other_scheme != Some(text))?.name_in(line.format());
    let renamed = match (key, value.as_str()) {
        ("type", Some(text)) => named(text).map(str::to_owned),
        ("url", Some(url)) => url.split_once("://").and_then(|(scheme, rest)| Some(format!("{}://{rest}", named(scheme)?))),
        _ => None,
    };
    renamed.map_or_else(|| value.clone(), Value::from)
}

fn put(mapping: &mut Mapping, key: &str, value: impl Into<Value>) {
    mapping.insert(Value::String(key.to_owned()), value.into());
}

/// The key under which a section stands at the top.
fn section_name(section: Section) -> Option<&'static str> {
    match section {
        Section::Snapshot => Some("snapshot"),
        Section::Retention => Some("retention"),
        Section::Validation => Some("validation"),
        Section::Logging => Some("logging"),
        Section::Socket => Some("socket"),
        _ => None,
    }
}

/// The first line of what this program writes: what begins otherwise is somebody else's.
pub const HEADER: &str = "# written by litestream-entry\n";

impl Document {
    fn set(&mut self, section: Section, key: &str, value: Value, from: &str) {
        let (mapping, path) = match section_name(section) {
            None => (&mut self.top, key.to_owned()),
            Some(name) => {
                let inner = self.top.entry(name.into()).or_insert_with(|| Value::Mapping(Mapping::new()));
                let Value::Mapping(inner) = inner else { return };
                (inner, format!("{name}.{key}"))
            }
        };
        put(mapping, key, value);
        self.origins.insert(path, from.to_owned());
    }

    /// An entry of `dbs:`, of what the running line knows.
    fn entry(&mut self, at: usize, database: &Database, line: Line) -> Mapping {
        let mut entry = Mapping::new();
        let path_key = if database.is_dir { "dir" } else { "path" };
        put(&mut entry, path_key, database.path.to_string_lossy().into_owned());
        self.origins.insert(format!("dbs.{at}.{path_key}"), database.named_by.clone());
        for (key, value) in &database.extra {
            let name = key.as_str().unwrap_or_default();
            // What neither line knows may be of a later version.
            if is_known(Section::Database, name, line) || find(Section::Database, name).is_none() {
                entry.insert(key.clone(), value.clone());
                self.origins.insert(format!("dbs.{at}.{name}"), database.from.get(name).unwrap_or(&database.named_by).clone());
            }
        }
        if database.replica.is_empty() {
            return entry;
        }
        // 0.3 ignores `replica:` silently.
        let place = if line.format() == Format::Generations { format!("dbs.{at}.replicas.0") } else { format!("dbs.{at}.replica") };
        let mut replica = Mapping::new();
        for (key, value) in database.replica.keys() {
            if is_known(Section::Replica, key, line) || find(Section::Replica, key).is_none() {
                put(&mut replica, key, for_line(key, value, line));
                self.origins.insert(format!("{place}.{key}"), database.replica.from(key).unwrap_or_default().to_owned());
            }
        }
        match line.format() {
            Format::Generations => put(&mut entry, "replicas", vec![Value::Mapping(replica)]),
            Format::Ltx => put(&mut entry, "replica", replica),
        }
        entry
    }

    /// Reads a file of the user's own, expanded as Litestream expands it: over the whole text.
    ///
    /// # Errors
    /// A line that says where it is not YAML, or not a configuration.
    pub fn parse_expanded(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        // What is there may be a secret; the place is enough.
        let value = lint::read(&expand(text, env)).map_err(|(line, column)| format!("not YAML at line {line}, column {column}"))?;
        Self::of(value)
    }

    /// Reads a generated file.
    ///
    /// # Errors
    /// A line that says where it is not YAML, or not a configuration.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_yaml::from_str(text).map_err(|error| {
            let place = error.location().map(|l| format!(" at line {}, column {}", l.line(), l.column()));
            format!("not YAML{}", place.unwrap_or_default())
        })?;
        Self::of(value)
    }

    fn of(value: Value) -> Result<Self, String> {
        match value {
            Value::Mapping(top) => Ok(Self { top, origins: BTreeMap::new() }),
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
                let has_own_meta = entry.get("meta-path").is_some();
                Some(Listed { path, replica: replica.map(shown).unwrap_or_default(), has_own_meta })
            })
            .collect()
    }

    /// The directories of databases in it.
    pub fn directories(&self) -> Vec<Directory> {
        let directory = |entry: &Value| {
            let path = std::path::absolute(entry.get("dir")?.as_str()?).ok()?;
            let replica = entry.get("replica").or_else(|| entry.get("replicas")?.as_sequence()?.first());
            Some(Directory {
                alias: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                pattern: entry.get("pattern").and_then(Value::as_str).unwrap_or("*").to_owned(),
                recursive: entry.get("recursive").and_then(Value::as_bool).unwrap_or_default(),
                replica: replica.map(shown).unwrap_or_default(),
                has_own_meta: entry.get("meta-dir").is_some(),
                from: Vec::new(),
                path,
            })
        };
        self.entries().iter().filter_map(directory).collect()
    }

    /// The same with an entry for each of these databases in the place of the directory that it is in, as 0.5 makes
    /// them (`newDBFromDirectoryEntry`): the relative path is appended to the replica's.
    #[must_use]
    pub fn with_each(&self, databases: &[&Path]) -> Self {
        let mut dbs: Vec<Value> = Vec::new();
        for entry in self.entries() {
            let Some(dir) = entry.get("dir").and_then(Value::as_str).and_then(|d| std::path::absolute(d).ok()) else {
                dbs.push(entry.clone());
                continue;
            };
            let listed =
                |path: &Path| self.entries().iter().any(|e| e.get("path").and_then(Value::as_str).is_some_and(|p| Path::new(p) == path));
            let inside = databases.iter().filter(|path| !listed(path)).filter_map(|path| Some((path, path.strip_prefix(&dir).ok()?)));
            dbs.extend(inside.map(|(path, relative)| one_of(entry, path, relative)));
        }
        let mut top = self.top.clone();
        put(&mut top, "dbs", dbs);
        Self { top, origins: BTreeMap::new() }
    }

    /// Where its control socket is, if it has one.
    pub fn socket(&self) -> Option<PathBuf> {
        let socket = self.top.get("socket")?;
        if socket.get("enabled")?.as_bool()? {
            Some(socket.get("path").and_then(Value::as_str).unwrap_or("/var/run/litestream.sock").into())
        } else {
            None
        }
    }

    fn entries(&self) -> &[Value] {
        self.top.get("dbs").and_then(Value::as_sequence).map_or(&[], Vec::as_slice)
    }

    /// The same with one database's replica at another path.
    #[must_use]
    pub fn with_replica_path(&self, database: &Path, path: &str) -> Self {
        let mut top = self.top.clone();
        for entry in top.get_mut("dbs").and_then(Value::as_sequence_mut).into_iter().flatten() {
            if entry.get("path").and_then(Value::as_str).is_some_and(|p| Path::new(p) == database) {
                replicas(entry).for_each(|replica| put(replica, "path", path.to_owned()));
            }
        }
        Self { top, origins: BTreeMap::new() }
    }

    /// For a start under a live app: 0.5 looks at its databases and uploads by two clocks of a second each, so
    /// that an upload may just miss what was found. An upload clock that ticks more often costs nothing: there
    /// is one file a second either way.
    #[must_use]
    pub fn again(&self, format: Format) -> Self {
        let mut top = self.top.clone();
        let entries = top.get_mut("dbs").and_then(Value::as_sequence_mut).into_iter().flatten();
        for replica in entries.filter(|_| format == Format::Ltx).flat_map(replicas).filter(|r| !r.contains_key("sync-interval")) {
            put(replica, "sync-interval", "250ms".to_owned());
        }
        Self { top, origins: BTreeMap::new() }
    }

    /// Where it serves its metrics, if it does.
    pub fn address(&self) -> Option<&str> {
        self.top.get("addr").and_then(Value::as_str)
    }

    /// Its metrics on this port, where the kernel would have chosen one.
    pub fn choose_port(&mut self, port: Option<u16>) {
        if let Some(port) = port.filter(|_| self.address() == Some(ANY_PORT)) {
            self.set(Section::Top, "addr", format!("127.0.0.1:{port}").into(), "");
        }
    }

    /// As text, for Litestream.
    pub fn text(&self) -> String {
        format!("{HEADER}{}", self.written(Style::Whole))
    }

    /// As text, for people or for Litestream.
    pub fn written(&self, style: Style) -> String {
        text::text(&self.top, &self.origins, style)
    }

    /// As a tree.
    #[cfg(test)]
    pub(crate) fn value(&self) -> Value {
        Value::Mapping(self.top.clone())
    }

    /// As a tree without its secrets.
    pub fn redacted(&self) -> Value {
        redacted(&Value::Mapping(self.top.clone()), "")
    }
}

/// A directory's entry for one database in it.
fn one_of(entry: &Value, path: &Path, relative: &Path) -> Value {
    let mut entry = entry.clone();
    let below = |base: &str| format!("{}/{}", base.trim_end_matches('/'), relative.display());
    if let Value::Mapping(keys) = &mut entry {
        for key in ["dir", "pattern", "recursive", "watch"] {
            keys.remove(key);
        }
        if let Some(meta) = keys.remove("meta-dir").and_then(|m| m.as_str().map(below)) {
            put(keys, "meta-path", format!("{meta}-litestream"));
        }
        put(keys, "path", path.to_string_lossy().into_owned());
    }
    for replica in replicas(&mut entry) {
        let text = |key: &str| replica.get(key).and_then(Value::as_str).map(str::to_owned);
        match (text("url"), text("path")) {
            (Some(url), _) => {
                let (place, query) = url.split_once('?').map_or((url.as_str(), String::new()), |(p, q)| (p, format!("?{q}")));
                let url = format!("{}{query}", below(place));
                put(replica, "url", url);
            }
            (None, Some(base)) if !base.is_empty() => put(replica, "path", below(&base)),
            (None, _) => put(replica, "path", relative.to_string_lossy().into_owned()),
        }
    }
    entry
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
    replica.as_mapping().map(|keys| Replica::of(keys, "").shown()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn database(path: &str, replica: Replica) -> Database {
        Database {
            alias: "default".into(),
            path: path.into(),
            is_dir: false,
            replica,
            extra: Mapping::new(),
            from: BTreeMap::new(),
            named_by: "DB_PATH".into(),
        }
    }

    fn replica(keys: &[(&str, &str)]) -> Replica {
        let mut replica = Replica::default();
        for (key, value) in keys {
            replica.set(key, value, "X");
        }
        replica
    }

    #[test]
    fn each_line_gets_the_keys_that_it_knows() {
        let dbs = [database("/d/a.db", replica(&[("type", "gs"), ("bucket", "b"), ("path", "p")]))];
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
    fn a_users_file_is_read_as_litestream_reads_it() {
        let text = "base: &b {type: file, path: /r}\ndbs:\n  - path: /d/x.db\n    path: ${DB}\n    replicas:\n      - <<: *b\n        path: /r/app\n---\nother: 1\n";
        let env = |name: &str| (name == "DB").then(|| "/d/app.db".to_owned());
        let databases = Document::parse_expanded(text, &env).unwrap().databases();
        assert_eq!(databases, [Listed { path: "/d/app.db".into(), replica: "file:///r/app".into(), has_own_meta: false }]);
        assert!(Document::parse_expanded("dbs: [", &env).is_err() && Document::parse_expanded("", &env).is_err());
    }

    #[test]
    fn a_last_pass_is_of_one_database() {
        let dbs = [
            database("/d/a.db", replica(&[("type", "file"), ("path", "/r/a")])),
            database("/d/b.db", replica(&[("type", "file"), ("path", "/r/b")])),
        ];
        let all = render(&dbs, &[], Line::V03, None, Duration::from_secs(3));
        let pass = all.last_pass(Format::Generations, Path::new("/d/b.db"), None);
        assert_eq!(pass.databases().iter().map(|d| d.path.clone()).collect::<Vec<_>>(), [PathBuf::from("/d/b.db")]);
        assert!(pass.text().contains("monitor-interval: \"20ms\"") && pass.text().contains("sync-interval: \"20ms\""));
    }

    #[test]
    fn a_restart_uploads_more_often_unless_told_how_often() {
        let with = |interval: Option<&str>, line| {
            let mut replica = replica(&[("type", "file"), ("path", "/r/a")]);
            if let Some(interval) = interval {
                replica.set("sync-interval", interval, "LITESTREAM_SYNC_INTERVAL");
            }
            render(&[database("/d/a.db", replica)], &[], line, None, Duration::from_secs(3)).again(line.format()).text()
        };
        assert!(with(None, Line::V05).contains("sync-interval: \"250ms\"") && !with(None, Line::V03).contains("sync-interval"));
        assert!(with(Some("9s"), Line::V05).contains("sync-interval: \"9s\""));
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back_as_it_was_meant(path in "[^\u{0}]{1,60}", bucket in "\\PC{1,40}", secret in any::<String>()) {
            let replica = self::tests::replica(&[("type", "s3"), ("bucket", bucket.as_str()), ("secret-access-key", secret.as_str()), ("path", path.as_str())]);
            let document = render(&[database("/d/a.db", replica)], &[], Line::V05, None, Duration::from_secs(1));
            let value: Value = serde_yaml::from_str(&document.text()).unwrap();
            let read = &value["dbs"][0]["replica"];
            for (key, meant) in [("bucket", &bucket), ("secret-access-key", &secret), ("path", &path)] {
                prop_assert!(read[key].as_str() == Some(meant.as_str()), "{key}: {meant:?} became {:?}", read[key]);
            }
        }
    }
}
