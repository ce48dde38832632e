//! Environment → [`Settings`]: what the variables mean, all problems at once. Must never show a
//! secret's value, and touches the file system only to read `…_FILE` secrets.

mod database_url;
mod databases;
mod dialects;
mod entry;
mod environment;
mod options;
mod parse;
mod point;
mod replica;
mod replica_url;
mod replicas;
mod secrets;
mod tuning;
mod values;
pub mod webhook;

use std::path::{Path, PathBuf};

pub use databases::Database;
pub use entry::{Entry, Job, LockPolicy, LogTo, OnFailure, RestorePolicy, StalePolicy};
pub use environment::{Environment, Values, secret_in};
pub use options::{OPTIONS, variable};
pub use parse::{duration, txid};
pub use point::Point;
pub use replica::Replica;
pub use replicas::suffix;
pub use secrets::{ALERT_URL, HEARTBEAT_URL, Secrets};
pub use tuning::Tuning;
pub use values::read_flag;

use crate::exit::{self, Failure};

/// What the environment says, typed and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// This program's own settings.
    pub entry: Entry,
    /// What is replicated.
    pub source: Source,
    /// `LITESTREAM_BIN`.
    pub litestream: Option<PathBuf>,
    /// Litestream's own settings that have a variable.
    pub tuning: Vec<Tuning>,
    /// Keys for every replica that has none of its own, handed to Litestream in its environment.
    pub secrets: Secrets,
    /// Lines to say at start.
    pub notes: Vec<String>,
}

/// Where the databases come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Nothing is replicated; why is said.
    Nothing(String),
    /// A configuration file of the user's own, used as it is.
    File(PathBuf),
    /// Variables.
    Variables(Vec<Database>),
}

/// The file that Litestream itself would read without being told.
const DEFAULT_FILE: &str = "/etc/litestream.yml";

/// Reads everything. `exists` tells whether a file is there.
///
/// # Errors
/// 78 with a line per problem.
pub fn read(env: &Environment, exists: &dyn Fn(&Path) -> bool) -> Result<Settings, Failure> {
    let mut problems = env.problems().to_vec();
    let mut notes = Vec::new();
    let entry = entry::read(env, &mut problems);
    let secrets = secrets::read(env, &mut problems);
    replicas::check(env, &mut problems);
    let tuning = tuning::read(env);
    let source = source(env, exists, &entry, &mut problems, &mut notes);
    let mut seen = std::collections::BTreeSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    if !problems.is_empty() {
        return Err(Failure::new(exit::CONFIG, problems.join("\n")));
    }
    Ok(Settings { entry, source, litestream: env.get("LITESTREAM_BIN").map(PathBuf::from), tuning, secrets, notes })
}

/// Whether a variable holds credentials of a replica, or may (a URL), or a URL that is itself a secret, or says in which file they are.
pub fn holds_secret(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name);
    environment::is_secret(name.strip_suffix("_FILE").unwrap_or(&name))
}

/// What stands for the variables when one replica's URL is to be restored to a path, whatever is configured: an empty value
/// is unset.
pub fn of_url(path: &str, url: &str) -> Vec<(String, String)> {
    let unset = databases::names().map(|name| (name.to_owned(), String::new()));
    let config = [("LITESTREAM_CONFIG", ""), ("LITESTREAM_DB_PATH", path), ("LITESTREAM_REPLICA_URL", url)];
    unset.chain(config.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
}

fn source(env: &Environment, exists: &dyn Fn(&Path) -> bool, entry: &Entry, problems: &mut Vec<String>, notes: &mut Vec<String>) -> Source {
    match env.get("LITESTREAM_CONFIG") {
        Some(path) if exists(Path::new(path)) => return Source::File(path.into()),
        Some(path) => problems.push(format!("LITESTREAM_CONFIG: {path} does not exist; correct the path or unset it")),
        None if exists(Path::new(DEFAULT_FILE)) => return Source::File(DEFAULT_FILE.into()),
        None => {}
    }
    let before = problems.len();
    let mut found = databases::read(env, problems);
    let misread = problems.len() > before;
    let intended = found.intended || replicas::intended(env);
    let has_replica = replicas::complete(env, &mut found.databases, problems);
    notes.append(&mut found.notes);
    let nothing = match (found.databases.is_empty(), has_replica) {
        (false, true) => return Source::Variables(found.databases),
        // What was wrong with its variable has been said.
        (true, _) if misread => return Source::Nothing(String::new()),
        (true, true) => {
            let set = replicas::decided_by(env).unwrap_or_default();
            problems.push(format!("{set} is set, but no database: set DATABASE_PATH or LITESTREAM_DBS to what is to be replicated"));
            return Source::Nothing(String::new());
        }
        (true, false) => "no database and no replica are configured".to_owned(),
        (false, false) => format!("{} is set, but no replica: set LITESTREAM_REPLICA_URL or LITESTREAM_REPLICA_BUCKET", found.decided_by),
    };
    if entry.required {
        problems.push(format!("LITESTREAM_ENTRY_REQUIRED: {nothing}"));
    } else if intended && problems.is_empty() {
        problems.push(nothing.clone());
    }
    Source::Nothing(nothing)
}

#[cfg(test)]
mod arbitrary;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::litestream::schema::{KEYS, Lines};

    fn read_vars(vars: &[(&str, &str)]) -> Result<Settings, Failure> {
        read(&Environment::of(vars), &|_| false)
    }

    fn databases(vars: &[(&str, &str)]) -> Vec<Database> {
        match read_vars(vars).unwrap().source {
            Source::Variables(databases) => databases,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_configured_runs_plainly_and_required_makes_it_an_error() {
        assert!(matches!(read_vars(&[]).unwrap().source, Source::Nothing(_)));
        assert!(matches!(read_vars(&[("DATABASE_PATH", "/d/a.db")]).unwrap().source, Source::Nothing(_)));
        assert!(matches!(read_vars(&[("DATABASE_URL", "postgres://u:p@h/db")]).unwrap().source, Source::Nothing(_)));
        assert_eq!(read_vars(&[("LITESTREAM_ENTRY_REQUIRED", "true")]).unwrap_err().code, exit::CONFIG);
    }

    #[test]
    fn half_a_configuration_is_an_error() {
        for half in [
            ("LITESTREAM_REPLICA_BUCKET", "b"),
            ("LITESTREAM_REPLICA_URL", "file:///r"),
            ("LITESTREAM_DB_PATH", "/d/a.db"),
            ("LITESTREAM_ACCESS_KEY_ID", "k"),
        ] {
            assert!(read_vars(&[half]).is_err(), "{half:?}");
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let failure = read_vars(&[
            ("DATABASE_PATH", "/d/a.db"),
            ("LITESTREAM_REPLICA_URL", "nonsense"),
            ("LITESTREAM_ENTRY_STOP_TIMEOUT", "soon"),
            ("LITESTREAM_ENTRY_STOP_TIMEOT", "1s"),
        ])
        .unwrap_err();
        assert_eq!(failure.message.lines().count(), 3, "{failure}");
        assert!(failure.message.contains("LITESTREAM_ENTRY_STOP_TIMEOT: unknown; did you mean LITESTREAM_ENTRY_STOP_TIMEOUT?"));
    }

    #[test]
    fn one_database_uses_the_url_as_it_is_and_several_get_their_file_name() {
        let one = databases(&[("DATABASE_PATH", "/d/a.db"), ("REPLICA_URL", "file:///r")]);
        assert_eq!(one[0].alias, "default");
        assert_eq!(one[0].replica.shown(), "file:///r");
        let two = databases(&[("LITESTREAM_DBS", "default=/d/a.db,cache=/d/c.db"), ("LITESTREAM_REPLICA_URL", "file:///r")]);
        assert_eq!(two[1].alias, "cache");
        assert_eq!(two[1].replica.shown(), "file:///r/c.db");
    }

    #[test]
    fn a_database_called_file_does_not_take_the_secrets_files_for_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "s").unwrap();
        let path = secret.to_str().unwrap();
        let vars = [
            ("LITESTREAM_DBS", "/d/file.db,/d/b.db"),
            ("LITESTREAM_REPLICA_BUCKET", "b"),
            ("LITESTREAM_ACCESS_KEY_ID_FILE", path),
            ("LITESTREAM_SECRET_ACCESS_KEY_FILE", path),
        ];
        assert!(databases(&vars)[0].replica.value("access-key-id").is_none());
    }

    #[test]
    fn tigris_names_of_fly_work_as_they_are() {
        let one = databases(&[
            ("DATABASE_PATH", "/data/app.db"),
            ("BUCKET_NAME", "b"),
            ("AWS_ENDPOINT_URL_S3", "https://fly.storage.tigris.dev"),
            ("AWS_REGION", "auto"),
            ("AWS_ACCESS_KEY_ID", "k"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
        ]);
        let expected =
            [("type", "s3"), ("bucket", "b"), ("path", "app.db"), ("endpoint", "https://fly.storage.tigris.dev"), ("region", "auto")];
        assert!(expected.iter().all(|(key, value)| one[0].replica.get(key) == Some(value)), "{:?}", one[0].replica);
    }

    #[test]
    fn two_databases_on_one_replica_path_are_refused() {
        let failure = read_vars(&[("LITESTREAM_DBS", "a=/x/app.db,b=/y/app.db"), ("LITESTREAM_REPLICA_URL", "file:///r")]).unwrap_err();
        assert!(failure.message.contains("LITESTREAM_REPLICA_URL_B"), "{failure}");
    }

    #[test]
    fn credentials_are_told_from_what_the_app_may_see() {
        for secret in [
            "AWS_SECRET_ACCESS_KEY",
            "LITESTREAM_SECRET_ACCESS_KEY_FILE",
            "LITESTREAM_REPLICA_URL",
            "LITESTREAM_ACCESS_KEY_ID_CACHE",
            "LITESTREAM_ENTRY_ALERT_URL",
            "LITESTREAM_ENTRY_HEARTBEAT_URL_FILE",
        ] {
            assert!(holds_secret(secret.as_bytes()), "{secret}");
        }
        for plain in ["PATH", "DATABASE_PATH", "LITESTREAM_REPLICA_BUCKET", "SECRET_KEY_BASE", "AWS_REGION", "LITESTREAM_ENTRY_RESTORE"] {
            assert!(!holds_secret(plain.as_bytes()), "{plain}");
        }
    }

    #[test]
    fn a_secret_is_never_in_a_message() {
        let failure = read_vars(&[
            ("DATABASE_PATH", "/d/a.db"),
            ("LITESTREAM_REPLICA_URL", "s3x://u:hunter2@b/p"),
            ("LITESTREAM_SECRET_ACCESS_KEY", "hunter3"),
            ("LITESTREAM_ENTRY_RESTORE", "hunter4"),
            ("LITESTREAM_ENTRY_ALERT_URL", "hooks.example/hunter5"),
            ("LITESTREAM_ENTRY_HEARTBEAT_URL", "https:///hunter6"),
        ])
        .unwrap_err();
        assert!(!failure.message.contains("hunter"), "{failure}");
        assert!(failure.message.contains("LITESTREAM_ENTRY_ALERT_URL: ") && failure.message.contains("LITESTREAM_ENTRY_HEARTBEAT_URL: "));
    }

    /// The page's tables of providers and of Litestream's keys, as the code has them.
    fn tables() -> [(&'static str, String); 2] {
        let list = |names: &[&str]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let mut providers = vec!["| provider | bucket | endpoint, region | keys |".to_owned(), "| --- | --- | --- | --- |".to_owned()];
        for dialect in dialects::all() {
            let name = if dialect.is_generic() { "any S3" } else { dialect.name };
            let mut place: Vec<&str> = [dialect.endpoints, dialect.regions, dialect.derived.map_or(&[][..], |(_, names)| names)].concat();
            let mut seen = std::collections::BTreeSet::new();
            place.retain(|n| seen.insert(*n));
            let pairs: Vec<String> = dialect.keys.iter().map(|(id, secret)| format!("`{id}` and `{secret}`")).collect();
            providers.push(format!("| {name} | {} | {} | {} |", list(dialect.buckets), list(&place), pairs.join("; ")));
        }
        let mut keys = vec!["| variable | Litestream's key | lines |".to_owned(), "| --- | --- | --- |".to_owned()];
        for key in KEYS.iter().filter(|k| k.variable.is_some()) {
            let lines = match key.lines {
                Lines::Both => "both",
                Lines::Only03 => "0.3",
                Lines::Only05 => "0.5",
            };
            let place = format!("{:?}", key.section).to_lowercase();
            let names: Vec<String> = replicas::key_names(key).iter().map(|n| format!("`{n}`")).collect();
            keys.push(format!("| {} | `{}` ({place}) | {lines} |", names.join(", "), key.name));
        }
        [("providers", providers.join("\n") + "\n"), ("keys", keys.join("\n") + "\n")]
    }

    /// `UPDATE=1 cargo test --lib configuration_page` writes the tables.
    #[test]
    fn the_configuration_page_has_the_codes_tables_and_names_every_variable() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let mut page = std::fs::read_to_string(path).unwrap();
        for (name, table) in tables() {
            let (begin, end) = (format!("<!-- {name} -->\n"), "<!-- end -->");
            let from = page.find(&begin).unwrap() + begin.len();
            let to = from + page[from..].find(end).unwrap();
            if std::env::var_os("UPDATE").is_some() {
                page.replace_range(from..to, &table);
                std::fs::write(path, &page).unwrap();
            } else {
                assert_eq!(page[from..to], table, "the page's table of {name} is out of date");
            }
        }
        for (name, _, help) in OPTIONS.iter().copied() {
            let default = help.rsplit_once('[').unwrap().1.trim_end_matches(']');
            let row = page.lines().find(|l| l.starts_with(&format!("| `{}`", variable(name))));
            assert!(row.is_some_and(|r| r.contains(&format!("`{default}`"))), "{name}");
        }
        let read: Vec<String> = OPTIONS.iter().map(|(name, ..)| variable(name)).collect();
        let mut named = page.split('`').filter(|w| w.starts_with("LITESTREAM_ENTRY_"));
        assert!(named.all(|n| read.iter().any(|r| r == n)));
        for name in replicas::names().chain(databases::names()) {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
    }
}
