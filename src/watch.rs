//! The watch over what Litestream replicates while it runs: whether the database's file is still the one that it has open, and whether
//! the replica still holds what was uploaded. Must never call missing what was not seen to be: no answer is no loss.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::laps::Lap;
use crate::litestream::backup::Position;
use crate::litestream::chain::{self, Part};
use crate::litestream::{Ability, Format, socket};
use crate::litestream::{kind, local};
use crate::plan::{Database, Plan};
use crate::state::State;
use crate::status::{self, Uploaded};
use crate::watched::{Identity, Owed, Watched};
use crate::{identity, report};

/// What a look came to, that PID 1 is to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// To be said.
    Note(String),
    /// The backup needs a new snapshot, by a Litestream that is started again; why.
    Begin(String),
}

/// How often a replica is looked at: a folder, while its database is written and while it is not; the same of any other, for which each
/// look is a Litestream of its own.
const FOLDER: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(60));
const OTHER: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(300));
/// How long one that is not a folder has to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// What seems to be missing is looked for again after this.
const AGAIN: Duration = Duration::from_secs(2);
/// A snapshot that is owed and has not come is asked for again after this.
const PATIENCE: Duration = Duration::from_secs(600);
/// When it is said that there is no database yet.
const NO_DATABASE_AFTER: Duration = Duration::from_secs(60);

/// How long a look waits for the beginning of a generation of 0.3's, which comes a second after its start.
const FIRST_LAP: Duration = Duration::from_secs(1);

/// Looks at each of these databases.
pub fn look(plan: &Plan, databases: &[Database]) -> Vec<Finding> {
    let state = State::read(&plan.runtime);
    let uploaded = status::uploaded(plan, state.as_ref());
    let quiet = quiet(plan);
    let mut findings = Vec::new();
    let mut asked = false;
    let by = Instant::now() + FIRST_LAP;
    for database in databases {
        let mut watched = Watched::read(plan, &database.path);
        let before = watched.clone();
        match look_at_file(database, plan.litestream.format(), &mut watched, state.as_ref()) {
            Some(finding) => {
                if let Finding::Begin(why) = &finding {
                    Owed::note(plan, &database.path, why);
                }
                findings.push(finding);
            }
            None if let Some(why) = left_out(database, plan.litestream.format(), &mut watched, by)
                && Owed::read(plan, &database.path).is_none() =>
            {
                Owed::note(plan, &database.path, &why);
                findings.push(Finding::Begin(why));
            }
            None if watched.file.is_some() && !watched.deleted => {
                let facts = Facts { quiet: quiet.contains(&database.path), since: state.as_ref().map(|state| state.since) };
                let wanted = uploaded_position(database, &mut watched, uploaded.get(&database.path), facts);
                findings.extend(look_at_replica(plan, database, &mut watched, wanted, &mut asked));
            }
            None => {}
        }
        if watched != before {
            watched.write(plan, &database.path);
        }
    }
    findings
}

/// What has become of the database's file.
fn look_at_file(database: &Database, format: Format, watched: &mut Watched, state: Option<&State>) -> Option<Finding> {
    let (alias, path) = (&database.alias, database.path.display());
    let Some(now) = Identity::of(&database.path) else {
        // What Litestream has read was there.
        let was_here = watched.file.is_some() || local::own_position(&database.path, format).is_some();
        if was_here && !std::mem::replace(&mut watched.deleted, true) {
            return Some(Finding::Note(format!("{alias}: {path} was deleted while it was replicated; what its replica has of it stays")));
        }
        let young = state.is_none_or(|state| state.began.elapsed().unwrap_or_default() < NO_DATABASE_AFTER);
        if was_here || young || std::mem::replace(&mut watched.told, true) {
            return None;
        }
        return Some(Finding::Note(no_database(database)));
    };
    watched.deleted = false;
    let became = match watched.file.replace(now) {
        Some(before) => before.became(&now),
        // Before the first look: Litestream has the one open that it was started on.
        None if state.is_some_and(|state| holds_deleted(state.litestream, &database.path)) => Some("was replaced by another file"),
        None => None,
    };
    became.map(|became| Finding::Begin(format!("{path} {became}"))).map(|finding| named(alias, finding))
}

/// What 0.3 has left out of its generation, in words. It is looked for from the first copy of the WAL on that was seen.
fn left_out(database: &Database, format: Format, watched: &mut Watched, by: Instant) -> Option<String> {
    // Nothing is waited for that is in a place of the user's, or that Litestream has nothing to read for.
    if format != Format::Generations || database.has_own_meta || watched.file.is_none() {
        return None;
    }
    let now = Lap::awaited(&database.path, by)?;
    let Some(left_out) = watched.lap.as_ref().and_then(|first| first.left_out_until(&now)) else {
        if watched.lap.as_ref().is_none_or(|first| !first.is_of_the_same(&now)) {
            watched.lap = Some(now);
        }
        return None;
    };
    let what = if left_out == 1 { "a lap".to_owned() } else { format!("{left_out} laps") };
    let why = "the app began it anew while Litestream 0.3 had let go of it for a checkpoint";
    Some(format!("{}: {what} of its WAL is in no backup: {why}", database.alias))
}

/// What it has left out since the last look, where there was one.
pub fn has_left_out(plan: &Plan, database: &Database) -> Option<String> {
    left_out(database, plan.litestream.format(), &mut Watched::read(plan, &database.path), Instant::now())
}

fn named(alias: &str, finding: Finding) -> Finding {
    match finding {
        Finding::Begin(why) => Finding::Begin(format!("{alias}: {why}")),
        Finding::Note(text) => Finding::Note(text),
    }
}

/// That the app has not made one.
pub fn no_database(database: &Database) -> String {
    format!("{}: no database at {} yet: nothing of it is backed up", database.alias, database.path.display())
}

/// Whether a process has a file open that was at this path and is not any more (proc(5), `fd`).
fn holds_deleted(pid: i32, path: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let gone = format!("{} (deleted)", path.display());
    let holds = || {
        let entries = fs::read_dir(process.join("fd")).ok()?;
        Some(entries.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(&gone))))
    };
    pid > 0 && identity::as_owner_of(&process, holds).ok().flatten().or_else(holds).unwrap_or_default()
}

/// 0.5's databases for which no sync is under way or has failed.
fn quiet(plan: &Plan) -> Vec<PathBuf> {
    let Some(socket) = &plan.socket else { return Vec::new() };
    let statuses = socket::sync_status(socket, Duration::from_secs(1)).unwrap_or_default();
    statuses.into_iter().filter(socket::SyncStatus::holds_lock).map(|status| status.path.into()).collect()
}

/// What else is known of the Litestream that runs.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// 0.5: no sync of this database is under way or has failed.
    quiet: bool,
    /// When it was started.
    since: Option<SystemTime>,
}

/// Up to where the replica has had everything for certain.
fn uploaded_position(database: &Database, watched: &mut Watched, uploaded: Option<&Uploaded>, facts: Facts) -> Option<Position> {
    match uploaded? {
        // What was made before the last sync but one ended has gone with the last one, which had not begun then.
        Uploaded::Synced(at) => {
            let before = watched.synced.replace(*at)?;
            let settled = *at > before || (*at == before && facts.quiet);
            let made = local::ltx_files(&database.path).filter(|(_, made)| settled && *made <= before).map(|(txid, _)| txid);
            made.max().map(Position::Txid)
        }
        Uploaded::Placed(index, offset) => {
            let generation = local::generation(&database.path)?;
            let begun = fs::metadata(local::generation_path(&database.path)).and_then(|m| m.modified()).ok();
            let now = Position::Wal { generation, index: *index, offset: *offset };
            let before = watched.placed.replace(now.clone());
            // Where a generation has just begun, what is told may still be of the one before.
            let moved = before.as_ref().is_some_and(|before| is_after(&now, before));
            let kept = begun.zip(facts.since).is_some_and(|(begun, since)| begun < since);
            (moved || kept || same_generation(watched.newest.as_ref(), &now)).then_some(now)
        }
    }
}

fn same_generation(one: Option<&Position>, other: &Position) -> bool {
    matches!((one, other), (Some(Position::Wal { generation: a, .. }), Position::Wal { generation: b, .. }) if a == b)
}

/// In the same generation, and further.
fn is_after(now: &Position, before: &Position) -> bool {
    match (now, before) {
        (Position::Wal { generation: g, index, offset }, Position::Wal { generation: h, index: i, offset: o }) => {
            g == h && (index, offset) > (i, o)
        }
        _ => false,
    }
}

/// Whether the replica holds what was uploaded, where it is due to be looked at.
fn look_at_replica(plan: &Plan, database: &Database, watched: &mut Watched, wanted: Option<Position>, asked: &mut bool) -> Option<Finding> {
    if !can_look(plan, database) {
        return None;
    }
    let owed = Owed::read(plan, &database.path);
    let here = local::own_position(&database.path, plan.litestream.format());
    if !is_due(watched, here.as_ref(), kind::folder(&database.replica).is_some(), owed.is_some(), asked) {
        return None;
    }
    // Without a position nothing is known to have been uploaded in this life.
    let wanted = wanted.or_else(|| if owed.is_some() { here.clone() } else { None })?;
    (watched.looked, watched.at) = (Some(SystemTime::now()), here);
    let mut lacks = lacks(plan, database, &wanted, watched).map_err(|why| not_seen(database, &why)).ok()?;
    if lacks.is_some() && owed.is_none() {
        std::thread::sleep(AGAIN);
        lacks = self::lacks(plan, database, &wanted, watched).map_err(|why| not_seen(database, &why)).ok()?;
        // Begun anew meanwhile.
        let generation = local::generation(&database.path);
        lacks = lacks.filter(|_| !matches!(&wanted, Position::Wal { generation: g, .. } if Some(g) != generation.as_ref()));
    }
    let alias = &database.alias;
    match (lacks, owed) {
        (Some(why), None) => {
            Owed::note(plan, &database.path, &format!("{alias}: {why}, though it was uploaded"));
            Some(Finding::Begin(format!("{alias}: {why}, though it was uploaded")))
        }
        (Some(_), Some(owed)) if owed.age > PATIENCE => {
            Owed::note(plan, &database.path, &owed.why);
            Some(Finding::Begin(owed.why))
        }
        (Some(_), Some(_)) | (None, None) => None,
        (None, Some(_)) => {
            Owed::settle(plan, &database.path);
            Some(Finding::Note(format!("{alias}: a new snapshot is in the replica: the backup is whole again")))
        }
    }
}

fn not_seen(database: &Database, why: &str) {
    report::debug(format_args!("{}: what its replica holds could not be looked at: {why}", database.alias));
}

/// Whether a look is due; of those that cost a process one at a time.
fn is_due(watched: &Watched, here: Option<&Position>, folder: bool, owed: bool, asked: &mut bool) -> bool {
    let (written, idle) = if folder { FOLDER } else { OTHER };
    let every = if owed || watched.at.as_ref() == here { idle } else { written };
    let every = if owed { Duration::ZERO } else { every };
    let due = watched.looked.is_none_or(|at| at.elapsed().is_ok_and(|ago| ago >= every));
    due && (folder || !std::mem::replace(asked, true))
}

/// What of the backup is missing up to that position, of what was seen there before, too.
fn lacks(plan: &Plan, database: &Database, wanted: &Position, watched: &mut Watched) -> Result<Option<String>, String> {
    let parts = list(plan, database, Instant::now() + ANSWER)?;
    let lacks = chain::lacks(&parts, plan.litestream.format(), Some(wanted)).or_else(|| hole(database, &parts, wanted, watched));
    Ok(lacks.or_else(|| is_gone(&parts, wanted, watched)))
}

/// 0.3's files in a folder tell how much is in them: from the newest that was seen on, they have to join.
fn hole(database: &Database, parts: &[Part], wanted: &Position, watched: &Watched) -> Option<String> {
    let Position::Wal { generation, index, offset } = wanted else { return None };
    let folder = kind::folder(&database.replica)?;
    let from = match watched.newest.as_ref().filter(|seen| same_generation(Some(seen), wanted)) {
        Some(Position::Wal { index, offset, .. }) => (*index, *offset),
        // What is older than that WAL was looked at by nobody: it may be much.
        _ => (*index, 0),
    };
    chain::hole(folder, parts, generation, from, (*index, *offset))
}

/// 0.3 has no position that tells whether its newest parts are there: each that was seen must still be, up to the next snapshot.
fn is_gone(parts: &[Part], wanted: &Position, watched: &mut Watched) -> Option<String> {
    let Position::Wal { generation, .. } = wanted else { return None };
    let seen = watched.newest.clone().filter(|seen| same_generation(Some(seen), wanted));
    if let Some(Position::Wal { index, offset, .. }) = seen {
        let is_it = |part: &Part| matches!(part, Part::Segment { generation: g, index: i, offset: o } if g == generation && (*i, *o) == (index, offset));
        let covers = |part: &Part| matches!(part, Part::Snapshot { generation: g, index: i } if g == generation && *i > index);
        if !parts.iter().any(|part| is_it(part) || covers(part)) {
            return Some(format!("part {index:x}/{offset:x} of the WAL is gone from the replica"));
        }
    }
    let newest = chain::newest_segment(parts, generation);
    watched.newest = newest.map(|(index, offset)| Position::Wal { generation: generation.clone(), index, offset });
    None
}

fn list(plan: &Plan, database: &Database, by: Instant) -> Result<Vec<Part>, String> {
    chain::list(&plan.litestream, &plan.config(), &database.path, &database.replica, by)
}

/// Whether this Litestream can list what the replica holds; a folder is looked at without it.
pub fn can_look(plan: &Plan, database: &Database) -> bool {
    plan.litestream.format() == Format::Generations || plan.litestream.can(Ability::Socket) || kind::folder(&database.replica).is_some()
}

/// Whether the file is another one than Litestream has open: before a last sync by that Litestream.
pub fn is_another_file(plan: &Plan, database: &Database) -> Option<String> {
    let mut watched = Watched::read(plan, &database.path);
    match look_at_file(database, plan.litestream.format(), &mut watched, State::read(&plan.runtime).as_ref()) {
        Some(Finding::Begin(why)) => Some(why),
        Some(Finding::Note(_)) | None => None,
    }
}

/// What the replica lacks of all that Litestream has read, after a last sync that was confirmed.
///
/// # Errors
/// What kept it from being looked at.
pub fn lacks_after_the_last_sync(plan: &Plan, database: &Database, by: Instant) -> Result<Option<String>, String> {
    let format = plan.litestream.format();
    if let Some(why) = left_out(database, format, &mut Watched::read(plan, &database.path), Instant::now()) {
        return Ok(Some(why));
    }
    let parts = list(plan, database, by)?;
    let wanted = local::own_position(&database.path, format);
    let hole = || hole(database, &parts, wanted.as_ref()?, &Watched::read(plan, &database.path));
    Ok(chain::lacks(&parts, format, wanted.as_ref()).or_else(hole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(generation: &str, index: u64, offset: u64) -> Position {
        Position::Wal { generation: generation.into(), index, offset }
    }

    #[test]
    fn a_folder_is_looked_at_while_it_is_written_and_another_replica_once_a_minute_one_at_a_time() {
        let ago = |seconds| Some(SystemTime::now() - Duration::from_secs(seconds));
        let watched = |seconds| Watched { looked: ago(seconds), at: Some(Position::Txid(5)), ..Watched::default() };
        let due = |seconds, txid, folder, owed| is_due(&watched(seconds), Some(&Position::Txid(txid)), folder, owed, &mut false);
        assert!(due(1, 6, true, false) && !due(59, 5, true, false) && due(61, 5, true, false));
        assert!(!due(59, 6, false, false) && due(61, 6, false, false) && !due(299, 5, false, false) && due(301, 5, false, false));
        assert!(due(1, 5, false, true), "what is owed is waited for");
        let mut asked = false;
        assert!(is_due(&watched(999), None, false, false, &mut asked) && !is_due(&watched(999), None, false, false, &mut asked));
        assert!(is_due(&watched(999), None, true, false, &mut asked), "a folder costs no process");
    }

    #[test]
    fn a_part_that_was_seen_is_gone_unless_a_snapshot_has_taken_its_place() {
        let segment = |index, offset| Part::Segment { generation: "a".into(), index, offset };
        let snapshot = |index| Part::Snapshot { generation: "a".into(), index };
        let mut watched = Watched::default();
        assert_eq!(is_gone(&[snapshot(0), segment(0, 0), segment(0, 900)], &wal("a", 0, 999), &mut watched), None);
        assert_eq!(watched.newest, Some(wal("a", 0, 900)));
        assert!(is_gone(&[snapshot(0), segment(0, 0)], &wal("a", 0, 999), &mut watched.clone()).is_some());
        assert_eq!(is_gone(&[snapshot(1), segment(1, 0)], &wal("a", 1, 9), &mut watched.clone()), None);
        assert_eq!(is_gone(&[], &wal("b", 0, 0), &mut watched), None, "another generation");
    }

    #[test]
    fn a_place_counts_for_a_generation_in_which_it_has_moved() {
        assert!(is_after(&wal("a", 1, 0), &wal("a", 0, 9)) && !is_after(&wal("a", 1, 0), &wal("a", 1, 0)));
        assert!(!is_after(&wal("b", 1, 0), &wal("a", 0, 9)));
        assert!(same_generation(Some(&wal("a", 1, 0)), &wal("a", 2, 0)) && !same_generation(None, &wal("a", 0, 0)));
    }
}
