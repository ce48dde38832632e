//! 0.3's last pass: a short `replicate` of its own after Litestream's end, until everything is in the
//! replica and would be restored. Must never be believed for its exit code alone.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;

use super::flush::PAUSE;
use super::full;
use crate::laps::Lap;
use crate::litestream::backup::Position;
use crate::litestream::local;
use crate::litestream::{Format, call, verdict};
use crate::plan::{Database, Plan};
use crate::protocol::stand_in;
use crate::runtime::{pass_config, pass_file};
use crate::sqlite::beside_app;
use crate::sqlite::locks;
use crate::sys::{self, limits};
use crate::{continuity, report, time};

/// How long it must do nothing in its replica before a pass is taken to have nothing more to do: three intervals.
const QUIET: Duration = Duration::from_millis(60);

/// How far ahead the storage's clock may be where one more write makes a generation the newest.
const SOON: Duration = Duration::from_secs(5);

/// So long after the last that was done in its replica it is looked whether that takes anything: where it takes nothing, 0.3 waits for itself.
const STUCK: Duration = Duration::from_secs(1);

/// What 0.3 says where it has to begin another generation, and cannot write to the database.
pub(super) const BEGINS_ANEW: &str = "pre-snapshot checkpoint";

/// How long a process that was killed may still be there.
const LINGERS: Duration = Duration::from_millis(500);

/// 0.3: short passes of `replicate` with intervals of 20 ms, until one has nothing to write. The end of a pass
/// compares with what the replica lists, and exits 0 only if that worked. One that wrote is not believed: at its
/// end 0.3 may sync in two goroutines at once, and the shorter segment replace the longer under one name. Where it `gives_up`, until
/// the replica refuses it.
/// Litestream's own files may be in another place.
pub(super) fn run(plan: &Plan, database: &Database, meta: Option<&Path>, deadline: Instant, gives_up: bool) -> Result<(), String> {
    let config = pass_config(plan, database, meta)?;
    let shared = is_shared(&database.path);
    let mut why = "no time was left".to_owned();
    while Instant::now() < deadline {
        match one_pass(plan, config.path(), database, (shared, gives_up), deadline).and_then(|()| make_newest(plan, database, deadline)) {
            Ok(Newest::Ours) => return Ok(()),
            // More of the same would change nothing.
            Ok(Newest::Ahead(why)) => return Err(why),
            Err(reason) if gives_up && verdict::is_denied(&reason) => return Err(reason),
            Err(reason) if meta.is_some() && reason.contains(BEGINS_ANEW) => return Err(reason),
            Err(reason) => why = reason,
        }
        // The next one would be stuck until there is no time left to say why.
        if deadline.saturating_duration_since(Instant::now()) < 2 * STUCK && full::replica_takes_nothing(database).is_some() {
            return Err(why);
        }
        if is_damage(&why)
            && meta.is_none()
            && let Err(error) = continuity::begin_anew(&database.path)
        {
            why = format!("{why}; {error}");
        }
        std::thread::sleep(PAUSE);
    }
    Err(why)
}

/// No larger database is written once more at each stop.
const ANEW_UP_TO: u64 = 32 << 20;
/// What is kept of the time for the last sync, and what it takes at least.
const ANEW_BEFORE: Duration = Duration::from_millis(300);
const ANEW_WITHIN: Duration = Duration::from_millis(500);

/// After a sync that is confirmed, a snapshot of its own. 0.3 lets go of its lock for each checkpoint of its own, and an app that writes in that
/// moment may begin the WAL anew before the end of it is copied: what is uploaded from then on lacks that, and nothing in the replica shows
/// it. Where a WAL has come after another since the last snapshot, this may have been. Without the time for it, all stays as it is.
pub(super) fn begin_anew_after_laps(plan: &Plan, database: &Database, deadline: Instant) {
    let Some(by) = deadline.checked_sub(ANEW_BEFORE).filter(|by| by.saturating_duration_since(Instant::now()) >= ANEW_WITHIN) else {
        return;
    };
    let is_small = || fs::metadata(&database.path).is_ok_and(|about| about.len() <= ANEW_UP_TO);
    if database.has_own_meta || !Lap::newest(&database.path).is_some_and(|lap| lap.follows_another()) || !is_small() {
        return;
    }
    let made = continuity::begin_anew(&database.path).map_err(|error| error.to_string());
    if let Err(why) = made.and_then(|()| run(plan, database, None, by, true)) {
        report::debug(format_args!("{}: no snapshot after the last sync: {why}", database.alias));
    }
}

/// Whether somebody else goes on with it: Litestream has ended, or was killed, and what was killed may hold its lock for a moment still.
pub(super) fn is_shared(database: &Path) -> bool {
    let began = Instant::now();
    while locks::is_open_elsewhere(database) {
        if began.elapsed() >= LINGERS {
            return true;
        }
        std::thread::sleep(PAUSE);
    }
    false
}

/// One pass, from its start to its end. Where another process goes on writing (`shared`: a container that takes over, a shell),
/// a pass always has something to write: then it has to get past what was there at its beginning, our app's last writes.
fn one_pass(plan: &Plan, config: &Path, database: &Database, (shared, gives_up): (bool, bool), deadline: Instant) -> Result<(), String> {
    let (mut running, stand_in) = start(plan, database, config)?;
    let mut letting_go = Some(stand_in);
    let mut deadline = deadline;
    let mut last = (0, Instant::now());
    let mut looked = Instant::now();
    let mut beginning = None;
    loop {
        let lines = Logged::read(&running);
        if shared && beginning.is_none() && Logged::has_read(&lines) {
            beginning = local::own_position(&database.path, Format::Generations);
        }
        let past = beginning.as_ref().is_some_and(|at| lines.iter().filter_map(Logged::replicated).any(|there| is_past(&there, at)));
        let done = lines.iter().filter(|l| l.is_of_replica()).count();
        if done != last.0 {
            last = (done, Instant::now());
        }
        let in_vain = |why: &String| (gives_up && verdict::is_denied(why)) || why.contains(BEGINS_ANEW);
        if let Some(why) = Some(Logged::last_error(&lines)).filter(in_vain) {
            return Err(why);
        }
        if looked.max(last.1).elapsed() >= STUCK && !Logged::is_idle(&lines) {
            looked = Instant::now();
            if let Some(why) = full::replica_takes_nothing(database) {
                return Err(why);
            }
        }
        if letting_go.is_some() && (past || last.1.elapsed() >= QUIET) && Logged::is_idle(&lines) {
            letting_go = None;
            // It may hang at its end; then another pass must still have its time.
            let left = deadline.saturating_duration_since(Instant::now());
            deadline = Instant::now() + (left / 2).max(Duration::from_secs(1)).min(left);
        }
        match running.ended() {
            Some(ended) if ended.ok() && letting_go.is_none() => {
                let wrote = Logged::read(&running).iter().any(Logged::is_write);
                return if wrote && !past { Err("its last pass still had something to write".to_owned()) } else { Ok(()) };
            }
            Some(_) => {
                let said = running.said_in_all();
                let why = limits::why_go_ended(&said);
                return Err(why.unwrap_or_else(|| Logged::last_error(&Logged::lines(&said).collect::<Vec<_>>())));
            }
            None if Instant::now() >= deadline => {
                return Err(format!("the replica does not answer in time; litestream's last words: {}", Logged::last_error(&lines)));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Whether a place in a WAL is that one or after it. The replica may be looked at before the database is, whose generation then is another.
fn is_past(there: &Position, at: &Position) -> bool {
    match (there, at) {
        (Position::Wal { generation, index, offset }, Position::Wal { generation: g, index: i, offset: o }) => {
            generation == g && (index, offset) >= (i, o)
        }
        _ => false,
    }
}

/// Starts a pass, with its output in memory where there is such; it goes on until the socket is closed.
pub(super) fn start(plan: &Plan, database: &Database, config: &Path) -> Result<(call::Running, UnixStream), String> {
    // The runtime directory may be full.
    let file = sys::file_in_memory().or_else(|_| {
        let log = pass_file(plan, database, "log");
        let _ = fs::remove_file(&log);
        fs::File::options().read(true).append(true).create_new(true).mode(0o600).open(&log).map_err(|e| format!("{}: {e}", log.display()))
    })?;
    let (ours, theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
    // Ours closes on exec, theirs goes through Litestream to the stand-in.
    sys::keep_on_exec(&theirs).map_err(|e| e.to_string())?;
    let path = sys::own_path().map_err(|e| e.to_string())?;
    let own = sys::own_file(&path);
    own.iter().try_for_each(sys::keep_on_exec).map_err(|e| e.to_string())?;
    let path = own.as_ref().map_or(path, |own| sys::by_descriptor(own.as_raw_fd()));
    let command = stand_in(&path, theirs.as_raw_fd()).map_err(|e| e.to_string())?;
    let config = call::Config { path: config, expand: false };
    let args: Vec<OsString> = call::replicate(&plan.litestream, &config, command).into_iter().skip(1).collect();
    let running = call::start(&plan.litestream, &args, file).map_err(|e| e.to_string())?;
    Ok((running, ours))
}

/// A segment in the replica cannot be read. 0.3 makes such itself: at its end two goroutines may write
/// one under the same temporary name. It would stop at it for ever.
fn is_damage(reason: &str) -> bool {
    reason.contains("cannot determine replica position") && (reason.contains("lz4") || reason.contains("EOF"))
}

/// What a restore would take.
enum Newest {
    /// The generation that was written now.
    Ours,
    /// Another, for a time to come.
    Ahead(String),
}

/// `restore` takes the generation that was written last, and S3's times are whole seconds: one that
/// began right after another may be passed over. Then one more write, a second later, makes it the newest.
fn make_newest(plan: &Plan, database: &Database, deadline: Instant) -> Result<Newest, String> {
    // Which one is the last stands in a directory of Litestream's that is elsewhere.
    if database.has_own_meta {
        return Ok(Newest::Ours);
    }
    let mut args: Vec<OsString> = vec!["generations".into()];
    args.extend(plan.config().flags());
    args.push(database.path.clone().into());
    let output = call::run(&plan.litestream, &args, deadline).map_err(|e| e.to_string())?;
    let output = output.filter(|o| o.ended.ok()).ok_or("the replica does not list its generations in time")?;
    let current = local::generation(&database.path).unwrap_or_default();
    let Some(end) = passed_over(&output.stdout, &current) else { return Ok(Newest::Ours) };
    if let Some(soon) = SystemTime::now().checked_add(SOON)
        && end > time::rfc3339(soon).as_str()
    {
        let what = format!("all is in the replica, but a restore takes another generation there that ends at {end}");
        return Ok(Newest::Ahead(format!("{what}, ahead of this host's clock: set the clock right, or remove that generation")));
    }
    std::thread::sleep(Duration::from_millis(1100).min(deadline.saturating_duration_since(Instant::now())));
    beside_app::touch(&database.path).map_err(|e| e.to_string())?;
    Err("the replica does not show the last generation as its newest".to_owned())
}

/// The end of the generation that a restore would take instead of this one, as far as it is listed. Lines of replica, generation, lag,
/// start and end; a time of RFC 3339 sorts as text.
fn passed_over<'a>(listing: &'a str, current: &str) -> Option<&'a str> {
    let rows: Vec<Vec<&str>> = listing.lines().map(|l| l.split_whitespace().collect()).collect();
    let ends = |wanted: bool| {
        let of = rows.iter().filter(move |r| (r.get(1) == Some(&current)) == wanted && r.get(1) != Some(&"generation"));
        of.filter_map(|r| r.get(4).copied()).max()
    };
    match (ends(true), ends(false)) {
        (Some(ours), Some(other)) => Some(other).filter(|other| ours <= *other),
        (Some(_), None) => None,
        (None, other) => Some(other.unwrap_or_default()),
    }
}

/// One line of 0.3's log in JSON.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Logged {
    level: String,
    msg: String,
    error: String,
    position: String,
}

impl Logged {
    fn read(running: &call::Running) -> Vec<Self> {
        Self::lines(&running.said_in_all()).collect()
    }

    fn lines(said: &str) -> impl Iterator<Item = Self> {
        said.lines().filter_map(|line| serde_yaml::from_str(line).ok())
    }

    fn last_error(lines: &[Self]) -> String {
        lines
            .iter()
            .rev()
            .find(|l| l.level == "ERROR" && !l.error.is_empty())
            .map_or_else(|| "no reason given".to_owned(), |l| l.error.clone())
    }

    /// The database has been opened, the replica's position is known, and no upload is under way: at an
    /// end that met one, two goroutines would write one segment, and might wait for each other for ever.
    fn is_idle(lines: &[Self]) -> bool {
        let count = |msg: &str| lines.iter().filter(|l| l.msg == msg).count();
        count("sync: ok") > 0
            && count("replica sync: calc new pos") > 0
            && count("write wal segment") == count("wal segment written")
            && count("write snapshot") == count("snapshot written")
    }

    /// The WAL as it was at the pass's start has been read.
    fn has_read(lines: &[Self]) -> bool {
        lines.iter().any(|l| l.msg == "sync: ok")
    }

    /// Where the replica ends, at first or before the next segment: `GENERATION/INDEX:OFFSET`, the index in hexadecimal.
    fn replicated(&self) -> Option<Position> {
        let says = self.msg == "replica sync: calc new pos" || self.msg == "write wal segment";
        let (generation, place) = self.position.split_once('/').filter(|_| says)?;
        let (index, offset) = place.split_once(':')?;
        let index = u64::from_str_radix(index, 16).ok()?;
        Some(Position::Wal { generation: generation.to_owned(), index, offset: offset.parse().ok()? })
    }

    /// Something was done in the replica; that it was looked at may be said every 20 ms.
    fn is_of_replica(&self) -> bool {
        ["replica sync: ", "write ", "wal segment ", "snapshot "].iter().any(|start| self.msg.starts_with(start))
    }

    fn is_write(&self) -> bool {
        self.msg == "write wal segment" || self.msg == "write snapshot"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_wrote_is_told_from_one_that_had_nothing_to_write() {
        let quiet = r#"{"time":"2026-11-24T21:03:10Z","level":"DEBUG","msg":"sync: ok","db":"/d/app.db"}
{"time":"2026-11-24T21:03:10Z","level":"DEBUG","msg":"replica sync: calc new pos","db":"/d/app.db","replica":"s3","position":"0d74e0c1fd818949/00000000:2031192"}
{"time":"2026-11-24T21:03:10Z","level":"INFO","msg":"litestream shut down"}"#;
        assert!(!Logged::lines(quiet).any(|l| l.is_write()));
        let place = |generation: &str, index, offset| Position::Wal { generation: generation.to_owned(), index, offset };
        assert_eq!(Logged::lines(quiet).filter_map(|l| l.replicated()).collect::<Vec<_>>(), [place("0d74e0c1fd818949", 0, 2_031_192)]);
        assert!(is_past(&place("a", 2, 8), &place("a", 1, 9)) && is_past(&place("a", 2, 8), &place("a", 2, 8)));
        assert!(!is_past(&place("a", 2, 8), &place("a", 2, 9)) && !is_past(&place("b", 2, 8), &place("a", 1, 9)));
        let wrote = r#"{"level":"INFO","msg":"write wal segment","db":"/d/app.db","position":"0d74e0c1fd818949/00000000:32"}"#;
        let lines: Vec<_> = Logged::lines(&format!("{quiet}\n{wrote}\nnot json {{")).collect();
        assert!(lines.iter().any(Logged::is_write));
        // A write that is under way must not meet the end.
        assert!(Logged::is_idle(&Logged::lines(quiet).collect::<Vec<_>>()) && !Logged::is_idle(&lines));
    }

    #[test]
    fn only_the_generation_that_ends_last_would_be_restored() {
        let listing = "name  generation        lag     start                 end\n\
                       s3    0d74e0c1fd818949  0s      2026-11-24T21:04:58Z  2026-11-24T21:05:00Z\n\
                       s3    9a74e0c1fd818949  -251ms  2026-11-24T21:05:00Z  2026-11-24T21:05:01Z\n";
        assert_eq!(passed_over(listing, "9a74e0c1fd818949"), None);
        assert_eq!(passed_over(listing, "0d74e0c1fd818949"), Some("2026-11-24T21:05:01Z"));
        assert_eq!(passed_over(listing, "1111111111111111"), Some("2026-11-24T21:05:01Z"));
        assert_eq!(passed_over(&listing.replace("05:01Z", "05:00Z"), "9a74e0c1fd818949"), Some("2026-11-24T21:05:00Z"));
        assert_eq!(passed_over(listing.rsplit_once("s3").unwrap().0, "0d74e0c1fd818949"), None);
        assert_eq!(passed_over("", "0d74e0c1fd818949"), Some(""));
    }

    #[test]
    fn a_segment_that_cannot_be_read_is_told_from_a_replica_that_cannot_be_reached() {
        assert!(is_damage("cannot determine replica position: lz4: invalid source or destination buffer too short"));
        assert!(!is_damage("cannot determine replica position: dial tcp 127.0.0.1:1: connect: connection refused"));
        assert!(!is_damage("client write: lz4"));
    }
}
