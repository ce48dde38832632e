//! This program's own settings, `LITESTREAM_ENTRY_*`. Must never accept a name that it does not know.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Point;
use super::options::{PREFIX, Setting, variable};
use super::parse;
use super::{ALERT_URL, Environment, HEARTBEAT_URL};
use crate::text::nearest;

/// What happens to a database that is missing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestorePolicy {
    /// Restore where a backup exists; start empty where the replica says that there is none.
    Auto,
    /// Restore; refuse to start without a backup.
    Required,
    /// Start empty.
    Never,
}

impl RestorePolicy {
    const WORDS: [(&str, Self); 3] = [("auto", Self::Auto), ("required", Self::Required), ("never", Self::Never)];
}

/// What happens to a database that is behind its replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StalePolicy {
    /// Refuse to start.
    Refuse,
    /// Move it aside and restore.
    Restore,
    /// Do not look: it is the one to go on with.
    Keep,
}

impl StalePolicy {
    const WORDS: [(&str, Self); 3] = [("refuse", Self::Refuse), ("restore", Self::Restore), ("keep", Self::Keep)];
}

/// What happens when Litestream ends while the app lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// Start it again, with backoff.
    Restart,
    /// Stop the app, exit 70.
    Exit,
    /// Go on without replication.
    Ignore,
}

impl OnFailure {
    const WORDS: [(&str, Self); 3] = [("restart", Self::Restart), ("exit", Self::Exit), ("ignore", Self::Ignore)];
}

/// What happens when another process replicates a database already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockPolicy {
    /// Run the app, take over replication when the other leaves.
    Standby,
    /// Start the app only when the other has left.
    Wait,
    /// Refuse to start.
    Refuse,
    /// Do not look.
    Off,
}

impl LockPolicy {
    const WORDS: [(&str, Self); 4] = [("standby", Self::Standby), ("wait", Self::Wait), ("refuse", Self::Refuse), ("off", Self::Off)];
}

/// This is a job: it uploads nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What said so, for messages.
    pub from: String,
}

/// Where this program's lines go, and Litestream's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogTo {
    /// To the stderr that the app has, too.
    Stderr,
    /// Nowhere.
    Nowhere,
    /// To the end of this file.
    File(PathBuf),
}

/// The settings, with their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a variable of its own")]
pub struct Entry {
    /// Default `auto`.
    pub restore: RestorePolicy,
    /// How long a restore may go without progress, default 60 s.
    pub restore_timeout: Duration,
    /// Databases that are restored at once; by default as many as the memory allows, at most sixteen.
    pub restore_parallelism: Option<usize>,
    /// Default `refuse`.
    pub stale: StalePolicy,
    /// A damaged backup is restored as of the newest point before the damage, default no.
    pub restore_ladder: bool,
    /// Where every database is to go back to, once.
    pub restore_point: Option<Point>,
    /// Who owns a restored database, `USER[:GROUP]` by name or number; by default who owns its directory.
    pub db_owner: Option<String>,
    /// Its permission bits; by default the directory's, without those to execute.
    pub db_mode: Option<u32>,
    /// From the stop signal to our own end, default 10 s (Docker's).
    pub stop_timeout: Duration,
    /// Signals go to the app's whole process group, default no.
    pub signal_group: bool,
    /// A command of the shell's that runs before the app, once the databases are there.
    pub migrate: Option<String>,
    /// How long that may take, default 15 min.
    pub migrate_timeout: Duration,
    /// Where it fails, the databases are put back as they were before it, default no.
    pub migrate_rollback: bool,
    /// Who Litestream and the app run as where this is root, `USER[:GROUP]`; by default as this does.
    pub user: Option<String>,
    /// Signals that reach the app as others, by number; 0 is none. Default: none is changed.
    pub signal_rewrite: Vec<(i32, i32)>,
    /// Signals that ask for the end besides TERM, INT and QUIT, by number. Default: none.
    pub stop_signal: Vec<i32>,
    /// Credentials of replicas are not in the app's environment, default no.
    pub hide_secrets: bool,
    /// Default `restart`.
    pub on_replication_failure: OnFailure,
    /// Default `standby`.
    pub lock: LockPolicy,
    /// A release command or a one-off task, default no.
    pub job: Option<Job>,
    /// How often PID 1 proves the backups, default never.
    pub verify_interval: Option<Duration>,
    /// Where health, metrics and a page are served, default nowhere.
    pub http: Option<SocketAddr>,
    /// How long something may be here that is not in the replica before `health` says so, default 5 min.
    pub max_lag: Duration,
    /// How large a WAL may grow while it is pinned, default 1 GiB.
    pub max_wal: u64,
    /// Where the generated configuration and the control socket are, default `/run/litestream-entry`.
    pub runtime_dir: Option<PathBuf>,
    /// Nothing to replicate is an error, default no.
    pub required: bool,
    /// The app gets the databases' paths in its environment, default no.
    pub export_paths: bool,
    /// Default stderr.
    pub log: LogTo,
    /// Say more, default no.
    pub debug: bool,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            restore: RestorePolicy::Auto,
            restore_timeout: Duration::from_secs(60),
            restore_parallelism: None,
            stale: StalePolicy::Refuse,
            restore_ladder: false,
            restore_point: None,
            db_owner: None,
            db_mode: None,
            stop_timeout: Duration::from_secs(10),
            signal_group: false,
            migrate: None,
            migrate_timeout: Duration::from_secs(900),
            migrate_rollback: false,
            user: None,
            signal_rewrite: Vec::new(),
            stop_signal: Vec::new(),
            hide_secrets: false,
            on_replication_failure: OnFailure::Restart,
            lock: LockPolicy::Standby,
            job: None,
            verify_interval: None,
            http: None,
            max_lag: Duration::from_secs(300),
            max_wal: 1 << 30,
            runtime_dir: None,
            required: false,
            export_paths: false,
            log: LogTo::Stderr,
            debug: false,
        }
    }
}

/// Fly.io sets it to 1 in the temporary machine of a release command, which has a disk of its own.
const RELEASE_COMMAND: &str = "RELEASE_COMMAND";

pub(super) fn read(env: &Environment, problems: &mut Vec<String>) -> Entry {
    let texts = texts(env, problems);
    let mut reader = Reader::default();
    for (setting, text) in Setting::ALL.iter().filter_map(|setting| Some((*setting, texts.get(&setting.name().replace('-', "_"))?))) {
        if let Err(form) = reader.take(setting, text) {
            problems.push(format!("{}: not understood; write {form}", variable(setting.name())));
        }
    }
    reader.finish(env.get(RELEASE_COMMAND) == Some("1"), problems)
}

/// What is set, by the settings' names with underscores.
fn texts(env: &Environment, problems: &mut Vec<String>) -> BTreeMap<String, String> {
    let known: Vec<String> = Setting::ALL.iter().map(|setting| variable(setting.name())).collect();
    let mut pairs = Vec::new();
    for (name, value) in env.prefixed(PREFIX) {
        let in_file = name.strip_suffix("_FILE").is_some_and(|name| [ALERT_URL, HEARTBEAT_URL].contains(&name));
        if in_file {
            // It has been read.
        } else if known.iter().any(|k| k == name) {
            // Blanks alone are as good as nothing.
            pairs.extend(Some((name.to_owned(), value.trim().to_owned())).filter(|(_, value)| !value.is_empty()));
        } else {
            problems.push(format!("{name}: unknown; did you mean {}?", nearest(name, known.iter().map(String::as_str))));
        }
    }
    envy::prefixed(PREFIX).from_iter(pairs).unwrap_or_default()
}

/// What has been read so far, and what only means something with something else.
#[derive(Default)]
struct Reader {
    entry: Entry,
    is_job: Option<bool>,
    timestamp: Option<Result<String, String>>,
    txid: Option<Result<String, String>>,
}

/// It was given, whatever it is.
fn note(given: &mut Option<Result<String, String>>, read: Result<String, String>) -> Result<(), String> {
    given.insert(read).clone().map(drop)
}

impl Reader {
    /// Takes one setting's text; how it is written where it is not understood.
    fn take(&mut self, setting: Setting, text: &str) -> Result<(), String> {
        let entry = &mut self.entry;
        match setting {
            Setting::Restore => entry.restore = parse::one_of(text, &RestorePolicy::WORDS)?,
            Setting::RestoreTimeout => entry.restore_timeout = parse::duration_of_some(text)?,
            Setting::RestoreParallelism => entry.restore_parallelism = parse::count(text)?,
            Setting::Stale => entry.stale = parse::one_of(text, &StalePolicy::WORDS)?,
            Setting::RestoreLadder => entry.restore_ladder = parse::flag(text)?,
            Setting::RestoreTimestamp => note(&mut self.timestamp, parse::timestamp(text))?,
            Setting::RestoreTxid => note(&mut self.txid, parse::txid(text))?,
            Setting::DbOwner => entry.db_owner = Some(parse::owner(text)?),
            Setting::DbMode => entry.db_mode = Some(parse::mode(text)?),
            Setting::StopTimeout => entry.stop_timeout = parse::duration_of_some(text)?,
            Setting::SignalGroup => entry.signal_group = parse::flag(text)?,
            Setting::Migrate => entry.migrate = Some(text.to_owned()),
            Setting::MigrateTimeout => entry.migrate_timeout = parse::duration_of_some(text)?,
            Setting::MigrateRollback => entry.migrate_rollback = parse::flag(text)?,
            Setting::User => entry.user = Some(parse::owner(text)?),
            Setting::SignalRewrite => entry.signal_rewrite = parse::rewrite(text)?,
            Setting::StopSignal => entry.stop_signal = parse::signals(text)?,
            Setting::HideSecrets => entry.hide_secrets = parse::flag(text)?,
            Setting::OnReplicationFailure => entry.on_replication_failure = parse::one_of(text, &OnFailure::WORDS)?,
            Setting::Lock => entry.lock = parse::one_of(text, &LockPolicy::WORDS)?,
            Setting::Role => self.is_job = Some(parse::one_of(text, &[("app", false), ("job", true)])?),
            Setting::VerifyInterval => entry.verify_interval = parse::interval(text)?,
            // A secret, which `secrets` reads.
            Setting::AlertUrl | Setting::HeartbeatUrl => {}
            Setting::Http => entry.http = Some(parse::address(text)?),
            Setting::MaxLag => entry.max_lag = parse::duration_of_some(text)?,
            Setting::MaxWal => entry.max_wal = parse::size(text)?,
            Setting::RuntimeDir => entry.runtime_dir = Some(text.into()),
            Setting::Required => entry.required = parse::flag(text)?,
            Setting::ExportPaths => entry.export_paths = parse::flag(text)?,
            Setting::Log => entry.log = parse::log(text)?,
            Setting::Debug => entry.debug = parse::flag(text)?,
        }
        Ok(())
    }

    /// What is set here counts more than what a platform sets.
    fn finish(mut self, is_release_command: bool, problems: &mut Vec<String>) -> Entry {
        self.contradictions(problems);
        let entry = &mut self.entry;
        let from = match self.is_job {
            Some(_) => format!("{}=job", variable(Setting::Role.name())),
            None => format!("{RELEASE_COMMAND}=1"),
        };
        entry.job = self.is_job.unwrap_or(is_release_command).then_some(Job { from });
        let point = |given: Option<Result<String, String>>, of: fn(String) -> Point| given?.ok().map(of);
        entry.restore_point = point(self.timestamp, Point::Time).or_else(|| point(self.txid, Point::Txid));
        self.entry
    }

    fn contradictions(&self, problems: &mut Vec<String>) {
        let entry = &self.entry;
        let point = if self.timestamp.is_some() { Setting::RestoreTimestamp } else { Setting::RestoreTxid };
        let contradicts = |with: &str| format!("{} contradicts {with}; unset one", variable(point.name()));
        if self.timestamp.is_some() && self.txid.is_some() {
            problems.push(contradicts(&variable(Setting::RestoreTxid.name())));
        } else if (self.timestamp.is_some() || self.txid.is_some()) && entry.restore == RestorePolicy::Never {
            problems.push(contradicts(&format!("{}=never", variable(Setting::Restore.name()))));
        }
        if entry.migrate_rollback && entry.lock == LockPolicy::Off {
            problems.push(
                "LITESTREAM_ENTRY_MIGRATE_ROLLBACK: needs the lock, without which it might take away what another container writes; unset \
                 LITESTREAM_ENTRY_LOCK=off, or migrate without rollback"
                    .to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{OPTIONS, secrets};
    use super::*;

    #[test]
    fn every_option_is_a_variable_that_is_read() {
        for (name, form, _) in OPTIONS.iter().copied() {
            let value = match form {
                "DURATION" => "17s",
                "SIZE" | "N" | "MODE" | "USER[:GROUP]" => "7",
                "PATH" | "COMMAND" | "stderr|none|PATH" => "/x",
                "URL" => "https://h/x",
                "TIME" => "2026-01-31T12:00:00Z",
                "TXID" => "000000000000002a",
                "FROM:TO,…" => "TERM:3,HUP:0",
                "SIGNAL,…" => "WINCH,RTMIN+3",
                "[ADDRESS]:PORT" => ":9091",
                words => words.split('|').next_back().unwrap(),
            };
            let mut problems = Vec::new();
            let read = |env: &Environment, p: &mut Vec<String>| (read(env, p), secrets::read(env, p));
            let set = read(&Environment::of(&[(&variable(name), value)]), &mut problems);
            assert!(problems.is_empty(), "{name}: {problems:?}");
            let bad = read(&Environment::of(&[(&variable(name), "\u{1}?")]), &mut problems);
            assert!(["PATH", "COMMAND"].contains(&form) || problems.len() == 1, "{name}");
            assert!(matches!(value, "false") || set != bad, "{name} has no effect");
        }
    }

    #[test]
    fn the_help_names_the_defaults() {
        let in_words = ["none", "its directory's owner", "its directory's", "as this does", "/run/litestream-entry"];
        for (name, _, help) in OPTIONS {
            let default = help.rsplit_once('[').unwrap().1.trim_end_matches(']');
            if !in_words.contains(&default) {
                let mut problems = Vec::new();
                let set = read(&Environment::of(&[(&variable(name), default)]), &mut problems);
                assert_eq!((set, problems), (Entry::default(), Vec::new()), "{name}");
            }
        }
    }

    #[test]
    fn blanks_alone_are_unset() {
        let mut problems = Vec::new();
        let blank = |name: &str| (variable(name), "  ".to_owned());
        let all: Vec<(String, String)> = OPTIONS.iter().map(|(name, ..)| blank(name)).collect();
        let pairs: Vec<(&str, &str)> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!((read(&Environment::of(&pairs), &mut problems), problems), (Entry::default(), Vec::new()));
    }

    #[test]
    fn what_is_served_is_on_loopback_unless_an_address_is_given() {
        let address = |text: &str| read(&Environment::of(&[("LITESTREAM_ENTRY_HTTP", text)]), &mut Vec::new()).http.map(|a| a.to_string());
        for here in [":9091", "9091", "localhost:9091", "127.0.0.1:9091"] {
            assert_eq!(address(here).as_deref(), Some("127.0.0.1:9091"), "{here}");
        }
        assert_eq!(address("0.0.0.0:9091").as_deref(), Some("0.0.0.0:9091"));
        assert_eq!(address("[::]:9091").as_deref(), Some("[::]:9091"));
        for bad in [":", ":0", ":70000", "example.com:80", "::", "http://x"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_url_may_be_in_a_file_and_only_one_that_is_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("url");
        std::fs::write(&file, "https://h/s3cret\n").unwrap();
        let path = file.to_str().unwrap();
        let env = Environment::of(&[("LITESTREAM_ENTRY_ALERT_URL_FILE", path), ("LITESTREAM_ENTRY_DB_OWNER_FILE", path)]);
        let mut problems = env.problems().to_vec();
        read(&env, &mut problems);
        assert!(problems.len() == 1 && problems[0].starts_with("LITESTREAM_ENTRY_DB_OWNER_FILE: unknown"), "{problems:?}");
        assert_eq!(secrets::read(&env, &mut problems).env, [(ALERT_URL, "https://h/s3cret".to_owned())]);
    }
}
