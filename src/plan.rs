//! Settings + Litestream → [`Plan`]: everything that the processes of a boot need to know, secrets
//! excepted. Must never do I/O.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{self, Document};
use crate::exit::{self, Failure};
use crate::facilities::Facilities;
use crate::layout;
use crate::lint;
use crate::litestream::call::Config;
use crate::litestream::{Ability, Format, Litestream};
pub use crate::model::{Database, Directory};
use crate::settings::{self, Entry, Secrets, Settings, Source};

/// What a boot does, without how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The binary.
    pub litestream: Litestream,
    /// What Litestream reads.
    pub config: PathBuf,
    /// Whether that is a file of the user's own, in which Litestream expands variables.
    pub users_file: bool,
    /// Litestream's control socket; 0.3 has none, and a file of the user's own may have none.
    pub socket: Option<PathBuf>,
    /// Our own directory, for this boot.
    pub runtime: PathBuf,
    /// What is replicated.
    pub databases: Vec<Database>,
    /// Directories of databases.
    pub directories: Vec<Directory>,
    /// This program's settings.
    pub entry: Entry,
    /// The boot that this is, unlike any other's.
    pub life: String,
}

/// The plan, and the configuration to be written where it is not the user's own.
#[derive(Debug)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The configuration as a tree.
    pub document: Document,
    /// Lines to say at start.
    pub notes: Vec<String>,
    /// What is to be corrected: it is ignored, or does not mean what it looks like.
    pub findings: Vec<String>,
}

/// The generated configuration's name in the runtime directory.
pub const CONFIG_FILE: &str = "litestream.yml";
/// The same for a Litestream that is started again under a live app.
pub const CONFIG_AGAIN_FILE: &str = "litestream-again.yml";
/// The plan's name there: what `docker exec` reads.
pub const PLAN_FILE: &str = "plan.yml";
/// Google's service account there, where a variable holds it: Litestream reads it from a file alone.
pub const GOOGLE_FILE: &str = "google.json";
/// Litestream's control socket there.
pub const SOCKET_FILE: &str = "litestream.sock";
/// `sockaddr_un` holds 108 bytes with the NUL (unix(7)); a longer path cannot be bound.
const LONGEST_SOCKET: usize = 107;

impl Plan {
    /// How Litestream is told which configuration to read.
    pub fn config(&self) -> Config<'_> {
        Config { path: &self.config, expand: self.users_file }
    }

    /// The configuration for a Litestream that is started again under a live app.
    pub fn config_again(&self) -> PathBuf {
        if self.users_file { self.config.clone() } else { self.runtime.join(CONFIG_AGAIN_FILE) }
    }

    /// The database that an operator names: an alias, `default` for the only one, or a path.
    ///
    /// # Errors
    /// 66, with the names that there are.
    pub fn find(&self, name: &str) -> Result<&Database, Failure> {
        let path = std::path::absolute(name).ok();
        let by_name = self.databases.iter().find(|d| d.alias == name || Some(&d.path) == path.as_ref());
        let only = || if let ([only], "default") = (self.databases.as_slice(), name) { Some(only) } else { None };
        by_name.or_else(only).ok_or_else(|| {
            let names: Vec<&str> = self.databases.iter().map(|d| d.alias.as_str()).collect();
            Failure::new(exit::NO_BACKUP, format!("{name}: no such database; there are: {}", names.join(", ")))
        })
    }

    /// The databases' paths for the app's environment: the first one's, and each by its alias.
    pub fn exported_paths(&self) -> Vec<CString> {
        let entry = |name: &str, path: &Path| CString::new([name.as_bytes(), b"=", path.as_os_str().as_bytes()].concat()).ok();
        let first = self.databases.first().and_then(|d| entry("LITESTREAM_DB_PATH", &d.path));
        let each = self.databases.iter().filter_map(|d| entry(&format!("LITESTREAM_DB_PATH{}", settings::suffix(&d.alias)), &d.path));
        first.into_iter().chain(each).collect()
    }

    /// What is replicated where, and which variables said so: a line per database.
    pub fn lines(&self) -> Vec<String> {
        let line = |d: &Database, which: &str| {
            let from = if d.from.is_empty() { self.config.display().to_string() } else { d.from.join(", ") };
            format!("{}: {}{which} → {} (litestream {}; {from})", d.alias, d.path.display(), d.replica, self.litestream.version)
        };
        let databases = self.databases.iter().map(|d| line(d, ""));
        databases.chain(self.directories.iter().map(|d| line(&d.as_database(), &format!("/{}", d.pattern)))).collect()
    }

    /// What one replicator at a time may have: each database, and each directory as a whole.
    pub fn locked(&self) -> Vec<Database> {
        self.databases.iter().cloned().chain(self.directories.iter().map(Directory::as_database)).collect()
    }

    /// The directories that they are in, for a message.
    pub fn directories_of_databases(&self) -> String {
        let all: BTreeSet<String> = self.locked().iter().filter_map(|d| Some(d.path.parent()?.display().to_string())).collect();
        all.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// What is kept of the stop timeout for the last sync: 30 %, at least 2 s where half allows it.
    pub fn reserve(&self) -> Duration {
        let whole = self.entry.stop_timeout;
        (whole.mul_f32(0.3)).max(Duration::from_secs(2)).min(whole / 2)
    }
}

/// Makes the plan. `file` is the text of the user's own configuration, where the settings name one.
///
/// # Errors
/// 78 where the user's file is not a configuration.
pub fn make(
    settings: &Settings,
    litestream: Litestream,
    runtime: &Path,
    file: Option<&str>,
    facilities: &Facilities,
) -> Result<Planned, Failure> {
    let line = litestream.line;
    let has_socket = litestream.can(Ability::Socket);
    let mut notes = notes(settings, &litestream);
    let mut findings = Vec::new();
    let socket = if has_socket { control_socket(runtime, facilities, &mut notes) } else { None };
    let mut plan = Plan {
        litestream,
        config: runtime.join(CONFIG_FILE),
        users_file: false,
        socket,
        runtime: runtime.to_owned(),
        databases: Vec::new(),
        directories: Vec::new(),
        entry: settings.entry.clone(),
        // Two numbers that the library takes at random for each of its hash tables.
        life: format!("{:016x}", RandomState::new().build_hasher().finish()),
    };
    let document = match &settings.source {
        Source::File(path) => {
            // 0.5 has a variable of its own; which number it is does not matter here.
            let env = |name: &str| std::env::var(name).ok().or_else(|| (name == "PID").then(|| "1".to_owned()));
            let text = file.unwrap_or_default();
            let place = |f: lint::Finding| format!("{}:{}:{}: {}", path.display(), f.line, f.column, f.what);
            let found = lint::lint(text, line, &env);
            let grave = found.iter().any(|finding| finding.grave);
            findings.extend(found.into_iter().map(place));
            if grave {
                return Err(Failure::new(exit::CONFIG, findings.join("\n")));
            }
            let document =
                Document::parse_expanded(text, &env).map_err(|why| Failure::new(exit::CONFIG, format!("{}: {why}", path.display())))?;
            plan.config.clone_from(path);
            plan.users_file = true;
            plan.socket = document.socket().filter(|_| has_socket);
            plan.databases = from_file(&document);
            plan.directories = document.directories();
            document
        }
        Source::Variables(databases) => {
            refuse_what_the_line_lacks(databases, &plan.litestream)?;
            let ignored = config::ignored(databases, &settings.tuning, line);
            findings.extend(ignored.map_err(|refused| Failure::new(exit::CONFIG, refused.join("\n")))?);
            plan.databases = databases.iter().filter(|d| !d.is_dir).map(|d| named(d, &settings.secrets)).collect();
            plan.directories = databases.iter().filter(|d| d.is_dir).map(|d| directory(d, &settings.secrets)).collect();
            let mut document = config::render(databases, &settings.tuning, line, plan.socket.as_deref(), plan.reserve());
            document.choose_port(facilities.port);
            document
        }
        Source::Nothing(why) => return Err(Failure::new(exit::CONFIG, why.clone())),
    };
    if plan.databases.is_empty() && plan.directories.is_empty() {
        return Err(Failure::new(exit::CONFIG, format!("{}: names no database; add one under `dbs:`", plan.config.display())));
    }
    refuse_unusable_paths(&plan)?;
    Ok(Planned { plan, document, notes, findings })
}

/// Litestream would lock and watch another file than it copies, or what lies beside a database could not: what the app writes would be
/// missing, or could not come back, and nothing would say so before.
fn refuse_unusable_paths(plan: &Plan) -> Result<(), Failure> {
    let wrong = plan.locked().into_iter().filter_map(|database| {
        let misread = |mark| format!("has a {mark} in it, by which Litestream opens another file; rename it");
        let mark = plan.litestream.format().misread(database.path.as_os_str().as_bytes());
        let why = mark.map(misread).or_else(|| layout::too_long(&database.path))?;
        let from = database.from.first().cloned().unwrap_or_else(|| plan.config.display().to_string());
        Some(format!("{from}: {} {why}", database.path.display()))
    });
    let wrong: Vec<String> = wrong.collect();
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(exit::CONFIG, wrong.join("\n"))) }
}

/// Where 0.5 shall listen, if it can; without it the last sync is a pass, and each start makes a full snapshot.
fn control_socket(runtime: &Path, facilities: &Facilities, notes: &mut Vec<String>) -> Option<PathBuf> {
    let path = runtime.join(SOCKET_FILE);
    let why = match &facilities.no_sockets {
        _ if path.as_os_str().len() > LONGEST_SOCKET => "too long for a control socket".to_owned(),
        Some(error) => format!("no control socket can be made there ({error})"),
        None => return Some(path),
    };
    notes
        .push(format!("{}: {why}; every start makes a full snapshot. LITESTREAM_ENTRY_RUNTIME_DIR names another place", runtime.display()));
    None
}

fn named(database: &settings::Database, secrets: &Secrets) -> Database {
    let replica = &database.replica;
    let mut from = vec![database.named_by.as_str()];
    from.extend(replica.variables());
    // Secrets of another kind of storage did not decide anything here.
    let shares = replica.kind().is_some_and(|kind| kind.row().credentials.is_some());
    let used = shares && replica.value("access-key-id").is_none();
    from.extend(secrets.from.iter().filter(|_| used).map(String::as_str));
    let mut seen: Vec<String> = Vec::new();
    for name in from {
        if !seen.iter().any(|s| s == name) {
            seen.push(name.to_owned());
        }
    }
    let elsewhere = elsewhere(database);
    let has_own_meta = database.extra.contains_key("meta-path") || database.extra.contains_key("meta-dir");
    Database { alias: database.alias.clone(), path: database.path.clone(), replica: replica.shown(), from: seen, has_own_meta, elsewhere }
}

/// Where a `litestream.yml` of before may have put it: the prefix itself (`path: ${LITESTREAM_REPLICA_PATH}`), the database's whole
/// path (litestream-ruby), its folder and name, its name without the ending.
fn elsewhere(database: &settings::Database) -> Vec<String> {
    let replica = &database.replica;
    let ours = replica.get("path").filter(|_| replica.get("bucket").is_some() && replica.is_path_ours());
    let (Some(ours), Some(name)) = (ours, database.path.file_name().and_then(|n| n.to_str())) else { return Vec::new() };
    let text = |path: &Path| path.to_string_lossy().trim_start_matches('/').to_owned();
    let folder = database.path.parent().and_then(Path::file_name).map(|folder| text(&Path::new(folder).join(name)));
    let prefix = ours.strip_suffix(name).map(|prefix| prefix.trim_end_matches('/').to_owned());
    let mut places = Vec::new();
    for place in [prefix, Some(text(&database.path)), folder, Some(text(&Path::new(name).with_extension("")))].into_iter().flatten() {
        if !place.is_empty() && place != ours && !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

fn directory(database: &settings::Database, secrets: &Secrets) -> Directory {
    let Database { alias, path, replica, from, has_own_meta, .. } = named(database, secrets);
    let pattern = database.extra.get("pattern").and_then(serde_yaml::Value::as_str).unwrap_or("*").to_owned();
    let recursive = database.extra.get("recursive").and_then(serde_yaml::Value::as_bool).unwrap_or_default();
    Directory { alias, path, pattern, recursive, replica, has_own_meta, from }
}

/// Replica types and directories that only 0.5 has.
fn refuse_what_the_line_lacks(databases: &[settings::Database], litestream: &Litestream) -> Result<(), Failure> {
    if litestream.format() == Format::Ltx {
        let several = databases.iter().find(|d| d.extra.contains_key("replicas"));
        let refused = |d: &settings::Database| {
            format!("{}: {} has several replicas; Litestream 0.5 takes one: `replica: {{…}}`", d.named_by, d.alias)
        };
        return several.map_or(Ok(()), |database| Err(Failure::new(exit::CONFIG, refused(database))));
    }
    let needs = |what: &str, from: &str| format!("{from}: {what} needs Litestream 0.5, and this is {}", litestream.version);
    let mut lacking = Vec::new();
    for database in databases {
        if let Some(kind) = database.replica.kind().filter(|kind| kind.name_in(litestream.format()).is_none()) {
            let from = database.replica.variables().first().map_or(database.named_by.as_str(), |from| from).to_owned();
            lacking.push(needs(&format!("a replica of type {}", kind.name()), &from));
        }
        if database.is_dir {
            lacking.push(needs("a directory of databases", &database.named_by));
        }
    }
    lacking.dedup();
    if lacking.is_empty() { Ok(()) } else { Err(Failure::new(exit::CONFIG, lacking.join("\n"))) }
}

fn from_file(document: &Document) -> Vec<Database> {
    let mut databases: Vec<Database> = document
        .databases()
        .into_iter()
        .map(|d| Database {
            alias: d.path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            path: d.path,
            replica: d.replica,
            from: Vec::new(),
            has_own_meta: d.has_own_meta,
            elsewhere: Vec::new(),
        })
        .collect();
    if let [only] = databases.as_mut_slice() {
        "default".clone_into(&mut only.alias);
    }
    databases
}

fn notes(settings: &Settings, litestream: &Litestream) -> Vec<String> {
    let mut notes = settings.notes.clone();
    let version = litestream.version;
    if version.is_untried() {
        notes.push(format!("Litestream {version} is older than any that was tried (0.5.5): it is run as that one"));
    }
    if version.stops_silently() {
        notes.push(format!("Litestream {version} is known to stop replicating silently; use a later 0.5.x"));
    }
    if version.leaves_gaps() {
        notes.push(format!(
            "Litestream {version} may leave rows out of its backup where it checkpoints while the app writes: use 0.5.15 or later, or have the backup \
             proved and made whole with LITESTREAM_ENTRY_VERIFY_INTERVAL"
        ));
    }
    if litestream.format() == Format::Ltx && !litestream.can(Ability::Status) {
        notes.push(format!("Litestream {version}: every start makes a full snapshot; 0.5.12 and later do not need it"));
    }
    notes
}

/// The name in `NAME=value`.
pub fn name_of(entry: &CString) -> &[u8] {
    entry.to_bytes().split(|b| *b == b'=').next().unwrap_or_default()
}

/// What must not reach Litestream: `LOG_LEVEL`, which apps use too and which beats its configuration;
/// `AWS_CA_BUNDLE`, which breaks 0.5's S3 client; `LITESTREAM_CONFIG`, since it is told.
const MISLEADING: [&str; 3] = ["LOG_LEVEL", "AWS_CA_BUNDLE", "LITESTREAM_CONFIG"];

/// Litestream's environment: the app's, cleaned, with the keys under the names that it reads. `google` is the file
/// that the runtime directory has of a service account.
pub fn litestream_environment(app: &[CString], secrets: &Secrets, google: Option<&Path>) -> Vec<CString> {
    let mut drop: Vec<&str> = MISLEADING.to_vec();
    drop.extend(secrets.env.iter().map(|(name, _)| *name));
    if !secrets.keep_session_token() {
        // It belongs to the other pair.
        drop.push("AWS_SESSION_TOKEN");
    }
    let mut env: Vec<CString> = app.iter().filter(|e| !drop.iter().any(|d| d.as_bytes() == name_of(e))).cloned().collect();
    let mut add = |name: &str, value: &[u8]| {
        if let Ok(entry) = CString::new([name.as_bytes(), b"=", value].concat()) {
            env.push(entry);
        }
    };
    for (name, secret) in &secrets.env {
        add(name, secret.as_bytes());
    }
    if let Some(file) = google {
        add("GOOGLE_APPLICATION_CREDENTIALS", file.as_os_str().as_bytes());
    }
    let value = |name: &str| app.iter().find(|e| name_of(e) == name.as_bytes()).and_then(|e| e.to_bytes().splitn(2, |b| *b == b'=').nth(1));
    // At its start Litestream would collect garbage several times while the app waits; this costs it 9 MB instead.
    if value("GOGC").is_none() {
        add("GOGC", b"400");
    }
    // Go reads this one, with the same effect.
    if let (Some(bundle), None) = (value("AWS_CA_BUNDLE"), value("SSL_CERT_FILE")) {
        add("SSL_CERT_FILE", bundle);
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::litestream::Line;
    use crate::settings::{self, Environment};

    fn litestream(line: Line) -> Litestream {
        let version = if line == Line::V05 { "0.5.17" } else { "0.3.13" };
        Litestream { path: "/bin/litestream".into(), version: version.parse().unwrap(), line, env: None }
    }

    fn plan(vars: &[(&str, &str)]) -> Plan {
        let settings = settings::read(&Environment::of(vars), &|_| false).unwrap();
        make(&settings, litestream(Line::V05), Path::new("/run/x"), None, &Facilities::ALL).unwrap().plan
    }

    #[test]
    fn a_database_is_found_by_alias_path_or_as_the_only_one() {
        let one = plan(&[("LITESTREAM_DBS", "app=/d/a.db"), ("REPLICA_URL", "file:///r")]);
        assert_eq!(one.find("default").unwrap().path, Path::new("/d/a.db"));
        let two = plan(&[("LITESTREAM_DBS", "app=/d/a.db,cache=/d/c.db"), ("REPLICA_URL", "file:///r")]);
        assert_eq!(two.find("/d/c.db").unwrap().alias, "cache");
        let failure = two.find("nope").unwrap_err();
        assert!(failure.message.contains("app, cache") && failure.code == exit::NO_BACKUP);
    }

    #[test]
    fn the_reserve_for_the_last_sync_fits_every_budget() {
        for (timeout, reserve) in [("10s", 3000), ("5s", 2000), ("30s", 9000), ("1s", 500)] {
            let plan = plan(&[("DB_PATH", "/d/a.db"), ("REPLICA_URL", "file:///r"), ("LITESTREAM_ENTRY_STOP_TIMEOUT", timeout)]);
            assert_eq!(plan.reserve().as_millis().next_multiple_of(10), reserve, "{timeout}");
        }
    }

    #[test]
    fn a_url_to_call_is_in_the_workers_environment_and_not_in_the_plan() {
        let vars = [
            ("DB_PATH", "/d/a.db"),
            ("REPLICA_URL", "file:///r"),
            ("LITESTREAM_ENTRY_VERIFY_INTERVAL", "6h"),
            ("LITESTREAM_ENTRY_ALERT_URL", "https://h/s3cret"),
        ];
        let plan = plan(&vars);
        assert_eq!(plan.entry.verify_interval, Some(Duration::from_secs(21_600)));
        let text = serde_yaml::to_string(&plan).unwrap();
        assert!(!text.contains("s3cret") && !format!("{plan:?}").contains("s3cret"), "{text}");
        assert_eq!(serde_yaml::from_str::<Plan>(&text).unwrap(), plan);
        // As where it came from a file, or as an option: our own environment does not have it.
        let settings = settings::read(&Environment::of(&vars), &|_| false).unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
        let env = litestream_environment(&[], &settings.secrets, None);
        assert!(env.iter().any(|e| e.to_bytes() == b"LITESTREAM_ENTRY_ALERT_URL=https://h/s3cret"), "{env:?}");
    }

    #[test]
    fn litestream_sees_the_right_keys_and_nothing_that_misleads_it() {
        let app: Vec<CString> =
            ["LOG_LEVEL=error", "AWS_CA_BUNDLE=/ca", "AWS_SESSION_TOKEN=t", "A=b"].iter().map(|e| CString::new(*e).unwrap()).collect();
        let vars = [("LITESTREAM_ACCESS_KEY_ID", "i"), ("LITESTREAM_SECRET_ACCESS_KEY", "s"), ("BUCKET_NAME", "b"), ("DB_PATH", "/d/a")];
        let secrets = settings::read(&Environment::of(&vars), &|_| false).unwrap().secrets;
        let env = litestream_environment(&app, &secrets, None);
        let env: Vec<&str> = env.iter().map(|e| e.to_str().unwrap()).collect();
        assert_eq!(
            env,
            [
                "A=b",
                "OSS_ACCESS_KEY_ID=i",
                "OSS_ACCESS_KEY_SECRET=s",
                "AWS_ACCESS_KEY_ID=i",
                "AWS_SECRET_ACCESS_KEY=s",
                "GOGC=400",
                "SSL_CERT_FILE=/ca"
            ]
        );
    }
}
