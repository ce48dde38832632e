//! This program's own settings, `LITESTREAM_ENTRY_*`. Must never accept a name that it does not know.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::Point;
use super::options::{OPTIONS, PREFIX, variable};
use super::{ALERT_URL, Environment, HEARTBEAT_URL};
use crate::text::nearest;
use crate::time;

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

/// The variables as text; the names here are the names there.
#[derive(Debug, Default, Deserialize)]
struct Raw {
    restore: Option<String>,
    restore_timeout: Option<String>,
    restore_parallelism: Option<String>,
    stale: Option<String>,
    restore_ladder: Option<String>,
    restore_timestamp: Option<String>,
    restore_txid: Option<String>,
    db_owner: Option<String>,
    db_mode: Option<String>,
    stop_timeout: Option<String>,
    signal_group: Option<String>,
    migrate: Option<String>,
    migrate_timeout: Option<String>,
    migrate_rollback: Option<String>,
    user: Option<String>,
    signal_rewrite: Option<String>,
    stop_signal: Option<String>,
    hide_secrets: Option<String>,
    on_replication_failure: Option<String>,
    lock: Option<String>,
    role: Option<String>,
    verify_interval: Option<String>,
    http: Option<String>,
    max_lag: Option<String>,
    max_wal: Option<String>,
    runtime_dir: Option<String>,
    required: Option<String>,
    export_paths: Option<String>,
    log: Option<String>,
    debug: Option<String>,
}

/// Fly.io sets it to 1 in the temporary machine of a release command, which has a disk of its own.
const RELEASE_COMMAND: &str = "RELEASE_COMMAND";

pub(super) fn read(env: &Environment, problems: &mut Vec<String>) -> Entry {
    let known: Vec<String> = OPTIONS.iter().map(|(name, ..)| variable(name)).collect();
    let mut pairs = Vec::new();
    for (name, value) in env.prefixed(PREFIX) {
        let in_file = name.strip_suffix("_FILE").is_some_and(|name| [ALERT_URL, HEARTBEAT_URL].contains(&name));
        if in_file {
            // It has been read.
        } else if known.iter().any(|k| k == name) {
            pairs.push((name.to_owned(), value.trim().to_owned()));
        } else {
            problems.push(format!("{name}: unknown; did you mean {}?", nearest(name, known.iter().map(String::as_str))));
        }
    }
    // envy stops at its first error and quotes values, so it only ever sees known names and plain text.
    let raw: Raw = envy::prefixed(PREFIX).from_iter(pairs).unwrap_or_default();
    let mut check = Check { problems };
    let restore = check.one_of(
        "RESTORE",
        raw.restore,
        RestorePolicy::Auto,
        &[("auto", RestorePolicy::Auto), ("required", RestorePolicy::Required), ("never", RestorePolicy::Never)],
    );
    let entry = Entry {
        restore,
        restore_timeout: check.duration("RESTORE_TIMEOUT", raw.restore_timeout.as_deref(), Duration::from_secs(60)),
        restore_parallelism: check.count("RESTORE_PARALLELISM", raw.restore_parallelism.as_deref()),
        stale: check.one_of(
            "STALE",
            raw.stale,
            StalePolicy::Refuse,
            &[("refuse", StalePolicy::Refuse), ("restore", StalePolicy::Restore), ("keep", StalePolicy::Keep)],
        ),
        restore_ladder: check.flag("RESTORE_LADDER", raw.restore_ladder),
        restore_point: check.point(restore, raw.restore_timestamp.as_deref(), raw.restore_txid.as_deref()),
        db_owner: check.owner("DB_OWNER", raw.db_owner),
        db_mode: check.mode("DB_MODE", raw.db_mode.as_deref()),
        stop_timeout: check.duration("STOP_TIMEOUT", raw.stop_timeout.as_deref(), Duration::from_secs(10)),
        signal_group: check.flag("SIGNAL_GROUP", raw.signal_group),
        migrate: raw.migrate,
        migrate_timeout: check.duration("MIGRATE_TIMEOUT", raw.migrate_timeout.as_deref(), Duration::from_secs(900)),
        migrate_rollback: check.flag("MIGRATE_ROLLBACK", raw.migrate_rollback),
        user: check.owner("USER", raw.user),
        signal_rewrite: check.rewrite("SIGNAL_REWRITE", raw.signal_rewrite.as_deref()),
        stop_signal: check.signals("STOP_SIGNAL", raw.stop_signal.as_deref()),
        hide_secrets: check.flag("HIDE_SECRETS", raw.hide_secrets),
        on_replication_failure: check.one_of(
            "ON_REPLICATION_FAILURE",
            raw.on_replication_failure,
            OnFailure::Restart,
            &[("restart", OnFailure::Restart), ("exit", OnFailure::Exit), ("ignore", OnFailure::Ignore)],
        ),
        lock: check.one_of(
            "LOCK",
            raw.lock,
            LockPolicy::Standby,
            &[("standby", LockPolicy::Standby), ("wait", LockPolicy::Wait), ("refuse", LockPolicy::Refuse), ("off", LockPolicy::Off)],
        ),
        job: check.job(raw.role, env.get(RELEASE_COMMAND)),
        http: check.address("HTTP", raw.http.as_deref()),
        max_lag: check.duration("MAX_LAG", raw.max_lag.as_deref(), Duration::from_secs(300)),
        max_wal: check.size("MAX_WAL", raw.max_wal.as_deref(), 1 << 30),
        verify_interval: check.interval("VERIFY_INTERVAL", raw.verify_interval.as_deref()),
        runtime_dir: raw.runtime_dir.map(PathBuf::from),
        required: check.flag("REQUIRED", raw.required),
        export_paths: check.flag("EXPORT_PATHS", raw.export_paths),
        log: check.log("LOG", raw.log.as_deref()),
        debug: check.flag("DEBUG", raw.debug),
    };
    if entry.migrate_rollback && entry.lock == LockPolicy::Off {
        problems.push(
            "LITESTREAM_ENTRY_MIGRATE_ROLLBACK: needs the lock, without which it might take away what another container writes; unset \
             LITESTREAM_ENTRY_LOCK=off, or migrate without rollback"
                .to_owned(),
        );
    }
    entry
}

struct Check<'a> {
    problems: &'a mut Vec<String>,
}

impl Check<'_> {
    /// What is set here counts more than what a platform sets.
    fn job(&mut self, role: Option<String>, release_command: Option<&str>) -> Option<Job> {
        let given = role.is_some();
        let is_job = self.one_of("ROLE", role, release_command == Some("1"), &[("app", false), ("job", true)]);
        let from = if given { format!("{}=job", variable("role")) } else { format!("{RELEASE_COMMAND}=1") };
        is_job.then_some(Job { from })
    }

    fn bad<T>(&mut self, name: &str, form: &str, default: T) -> T {
        self.problems.push(format!("{PREFIX}{name}: not understood; write {form}"));
        default
    }

    fn one_of<T: Copy>(&mut self, name: &str, value: Option<String>, default: T, words: &[(&str, T)]) -> T {
        let Some(value) = value else { return default };
        match words.iter().find(|(word, _)| value.eq_ignore_ascii_case(word)) {
            Some((_, choice)) => *choice,
            None => self.bad(name, &words.iter().map(|(w, _)| *w).collect::<Vec<_>>().join(", "), default),
        }
    }

    fn flag(&mut self, name: &str, value: Option<String>) -> bool {
        self.one_of(name, value, false, &[("true", true), ("false", false), ("1", true), ("0", false), ("yes", true), ("no", false)])
    }

    fn duration(&mut self, name: &str, value: Option<&str>, default: Duration) -> Duration {
        match value.map(duration) {
            None => default,
            Some(Some(duration)) if !duration.is_zero() => duration,
            Some(_) => self.bad(name, "a duration as 500ms, 10s or 2m", default),
        }
    }

    /// `:9091` is on loopback: what others may see is to be said.
    fn address(&mut self, name: &str, value: Option<&str>) -> Option<SocketAddr> {
        let text = value.map(str::trim).filter(|text| !text.is_empty())?;
        let text = match text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':')) {
            Some(port) => format!("127.0.0.1:{port}"),
            None if text.bytes().all(|b| b.is_ascii_digit()) => format!("127.0.0.1:{text}"),
            None => text.to_owned(),
        };
        text.parse()
            .ok()
            .filter(|a: &SocketAddr| a.port() != 0)
            .or_else(|| self.bad(name, "a port as :9091, or an address as 0.0.0.0:9091 or [::]:9091", None))
    }

    /// A duration, or never.
    fn interval(&mut self, name: &str, value: Option<&str>) -> Option<Duration> {
        match value?.trim() {
            "0" | "off" | "" => None,
            text => {
                duration(text).filter(|d| *d >= Duration::from_secs(1)).or_else(|| self.bad(name, "a duration as 6h, or 0 for never", None))
            }
        }
    }

    fn rewrite(&mut self, name: &str, value: Option<&str>) -> Vec<(i32, i32)> {
        let pair = |text: &str| {
            let (from, to) = text.split_once(':')?;
            Some((signal(from)?, if to.trim() == "0" { 0 } else { signal(to)? }))
        };
        let Some(value) = value else { return Vec::new() };
        let pairs: Option<Vec<(i32, i32)>> = value.split(',').map(pair).collect();
        pairs.unwrap_or_else(|| self.bad(name, "pairs of signals, as TERM:QUIT or 15:3; KILL and STOP cannot be rewritten", Vec::new()))
    }

    fn signals(&mut self, name: &str, value: Option<&str>) -> Vec<i32> {
        let signals: Option<Vec<i32>> = value.map_or_else(|| Some(Vec::new()), |value| value.split(',').map(signal).collect());
        signals.unwrap_or_else(|| self.bad(name, "signals, as WINCH or USR1,RTMIN+3; KILL and STOP cannot be caught", Vec::new()))
    }

    fn owner(&mut self, name: &str, value: Option<String>) -> Option<String> {
        let is_name = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-$".contains(c));
        let owner = value?;
        let parts: Vec<&str> = owner.split(':').collect();
        if parts.len() <= 2 && parts.iter().all(|part| is_name(part)) {
            Some(owner)
        } else {
            self.bad(name, "USER or USER:GROUP, by name or number", None)
        }
    }

    /// A path has a slash, so that `true` or `off` makes no file of that name.
    fn log(&mut self, name: &str, value: Option<&str>) -> LogTo {
        match value {
            None | Some("stderr") => LogTo::Stderr,
            Some("none") => LogTo::Nowhere,
            Some(path) if path.contains('/') && !path.contains(char::is_control) => LogTo::File(path.into()),
            Some(_) => self.bad(name, "stderr, none, or a path as /var/log/litestream-entry.log", LogTo::Stderr),
        }
    }

    fn mode(&mut self, name: &str, value: Option<&str>) -> Option<u32> {
        match u32::from_str_radix(value?, 8) {
            Ok(mode) if mode <= 0o777 => Some(mode),
            _ => self.bad(name, "octal digits, as 0640", None),
        }
    }

    fn point(&mut self, restore: RestorePolicy, time: Option<&str>, txid: Option<&str>) -> Option<Point> {
        let time =
            time.map(|text| time::utc(text).map_or_else(|| self.bad("RESTORE_TIMESTAMP", "a time as 2026-01-31T12:00:00Z", None), Some));
        let is_txid = |text: &str| text.len() == 16 && text.chars().all(|c| c.is_ascii_hexdigit());
        let txid = txid.map(|text| {
            if is_txid(text) {
                Some(text.to_ascii_lowercase())
            } else {
                self.bad("RESTORE_TXID", "sixteen hexadecimal digits, as `ltx` prints them", None)
            }
        });
        let contradicts = |with: &str| {
            format!("{PREFIX}RESTORE_{} contradicts {PREFIX}{with}; unset one", if time.is_some() { "TIMESTAMP" } else { "TXID" })
        };
        if time.is_some() && txid.is_some() {
            self.problems.push(contradicts("RESTORE_TXID"));
        } else if (time.is_some() || txid.is_some()) && restore == RestorePolicy::Never {
            self.problems.push(contradicts("RESTORE=never"));
        }
        time.flatten().map(Point::Time).or_else(|| txid.flatten().map(Point::Txid))
    }

    /// None for `auto`.
    fn count(&mut self, name: &str, value: Option<&str>) -> Option<usize> {
        match value.map(|text| (text, text.parse::<usize>())) {
            None | Some(("auto", _)) => None,
            Some((_, Ok(count))) if (1..=64).contains(&count) => Some(count),
            Some(_) => self.bad(name, "a number from 1 to 64, or auto", None),
        }
    }

    fn size(&mut self, name: &str, value: Option<&str>, default: u64) -> u64 {
        match value.map(size) {
            None => default,
            Some(Some(size)) => size,
            Some(None) => self.bad(name, "a size as 512MB or 1GiB", default),
        }
    }
}

/// The first and last real-time signal as Docker, glibc and systemd count them. A libc may keep more for itself (musl does), and begin later.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// A signal that can be caught, by name or number: `TERM`, `SIGTERM`, `15`, `RTMIN+3`.
fn signal(text: &str) -> Option<i32> {
    let name = text.trim().to_ascii_uppercase();
    let name = name.trim_start_matches("SIG");
    let number = name.parse::<i32>().ok();
    let named = || format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32);
    let found = number.or_else(|| real_time(name)).or_else(named);
    found.filter(|n| (1..=RTMAX).contains(n) && ![Signal::SIGKILL as i32, Signal::SIGSTOP as i32].contains(n))
}

fn real_time(name: &str) -> Option<i32> {
    let beyond =
        |rest: &str, sign: char| if rest.is_empty() { Some(0) } else { rest.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from) };
    let found = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => RTMIN.checked_add(beyond(rest, '+')?)?,
        (None, Some(rest)) => RTMAX.checked_sub(beyond(rest, '-')?)?,
        (None, None) => return None,
    };
    (RTMIN..=RTMAX).contains(&found).then_some(found)
}

/// `500ms`, `10s`, `2m`, `1h`; a bare number is seconds, as in `docker stop -t`. A year at most.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let value: u64 = number.parse().ok()?;
    let millis = match text.get(number.len()..)? {
        "ms" => value,
        "" | "s" => value.checked_mul(1000)?,
        "m" => value.checked_mul(60_000)?,
        "h" => value.checked_mul(3_600_000)?,
        _ => return None,
    };
    (millis <= 365 * 24 * 3_600_000).then(|| Duration::from_millis(millis))
}

fn size(text: &str) -> Option<u64> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(number.len()..)?.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return None,
    };
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::super::secrets;
    use super::*;

    #[test]
    fn every_option_is_a_variable_that_is_read() {
        for (name, form, _) in OPTIONS {
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

    #[test]
    fn a_signal_has_a_name_or_a_number_and_can_be_caught() {
        for (text, meant) in [
            ("15", Some(15)),
            ("TERM", Some(15)),
            ("sigquit", Some(3)),
            (" HUP ", Some(1)),
            ("64", Some(64)),
            ("RTMIN+3", Some(37)),
            ("sigrtmax-1", Some(63)),
            ("RTMIN", Some(34)),
            ("winch", Some(28)),
        ] {
            assert_eq!(signal(text), meant, "{text}");
        }
        for bad in ["", "0", "65", "-1", "9", "KILL", "SIGSTOP", "NOPE", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMIN+-1", "RTMAX-31"] {
            assert_eq!(signal(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_and_sizes_are_read_as_people_write_them() {
        assert_eq!(duration("10"), Some(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        for bad in ["", "s", "-1s", "1.5s", "99999999999999999999s", "10 s", "1d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(size("1GiB"), Some(1 << 30));
        assert_eq!(size("512MB"), Some(512_000_000));
        assert_eq!(size("999999999999GiB"), None);
    }
}
