//! Where a database stands to its replica: current, or behind it (an old volume came back, another host wrote). Must never
//! take "not known" for current.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::fetch::{Fetched, Source};
use crate::exit::Failure;
use crate::litestream::Line;
use crate::litestream::backup::{self, Depth, File, Position};
use crate::plan::{Database, Plan};
use crate::{continuity, pages, time};

/// How a database stands to its replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has all that the replica has, or the replica has nothing.
    Current,
    /// The replica has what it lacks; in words.
    Behind(String),
    /// The replica has other contents, and which is newer is not known.
    Different,
    /// There is a backup, and nothing beside the database says what the two have to do with each other.
    Unknown,
    /// The replica did not answer; why.
    NotAsked(String),
}

/// How long the replica is asked at a boot whose databases are here, where an app waits for the answer.
pub const ASK_FOR: Duration = Duration::from_secs(5);
/// 0.3's times come from the storage's clock, and that of a generation that it does not have yet from ours.
const CLOCKS: Duration = Duration::from_secs(60);

/// Asks the replica: one call of Litestream's, or none at all where the last life ended well here a moment ago.
pub fn ask(plan: &Plan, database: &Database, within: Duration) -> Standing {
    if continuity::is_fresh(&database.path) {
        return Standing::Current;
    }
    let by = Instant::now() + within;
    let there = match backup::list(&plan.litestream, &plan.config(), &database.path, Depth::Newest, by) {
        Ok(there) => there,
        Err(why) => return Standing::NotAsked(why),
    };
    let line = plan.litestream.line;
    compare(continuity::position(&database.path, line), &there, line, begun(&database.path))
}

/// When 0.3 began its generation here.
fn begun(database: &Path) -> Option<SystemTime> {
    std::fs::metadata(continuity::generation_path(database)).and_then(|m| m.modified()).ok()
}

/// Compares where the database is with what is there.
fn compare(here: Option<Position>, there: &[File], line: Line, begun: Option<SystemTime>) -> Standing {
    match (here, line) {
        _ if there.is_empty() => Standing::Current,
        // It was put there to take the place of all that is there.
        (Some(Position::Txid(u64::MAX)), _) => Standing::Current,
        (Some(Position::Txid(here)), Line::V05) => {
            let newest = there.iter().filter_map(|f| if let Position::Txid(txid) = f.position { Some(txid) } else { None }).max();
            match newest {
                Some(newest) if newest > here => Standing::Behind(format!("transaction {newest:x} there, {here:x} here")),
                _ => Standing::Current,
            }
        }
        (Some(Position::Wal { generation, index, offset }), Line::V03) => {
            let ours = |f: &&File| matches!(&f.position, Position::Wal { generation: g, .. } if *g == generation);
            let (own, others): (Vec<&File>, Vec<&File>) = there.iter().partition(ours);
            let beyond = own.iter().find(|f| match f.position {
                // What begins where ours ends is more than ours.
                Position::Wal { index: i, offset: o, .. } => i > index || (i == index && !f.snapshot && o >= offset),
                Position::Txid(_) => false,
            });
            if let Some(file) = beyond {
                return Standing::Behind(format!("WAL {} there, {index:08x}/{offset:08x} here", file.position));
            }
            let newest = |files: &[&File]| files.iter().map(|f| f.created.clone()).max();
            let ours = newest(&own).or_else(|| Some(time::rfc3339(begun?.checked_add(CLOCKS)?)));
            match (newest(&others), ours) {
                (Some(theirs), Some(ours)) if theirs > ours => {
                    Standing::Behind(format!("another generation there was written at {theirs}, this one's last at {ours}"))
                }
                _ => Standing::Current,
            }
        }
        // A position of the other line says nothing about this one's backup.
        _ => Standing::Unknown,
    }
}

/// Settles what is not known by a restore: the same pages are the same database.
///
/// # Errors
/// What keeps the backup from being had.
pub fn compare_contents(plan: &Plan, database: &Database, folder: &Path) -> Result<Standing, Failure> {
    let fetched = Source::newest(plan, database).fetch(folder)?;
    let Fetched::Database(restored) = fetched else { return Ok(Standing::Current) };
    let there = pages::of_file(&restored.file);
    let here = pages::of_live(&database.path, folder, false);
    let same = matches!((here, there), (Ok(here), Ok(there)) if here == there);
    Ok(if same { Standing::Current } else { Standing::Different })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: Position, created: &str) -> File {
        File { position, snapshot: false, bytes: 1, created: created.into() }
    }

    fn wal(generation: &str, index: u64, offset: u64) -> Position {
        Position::Wal { generation: generation.into(), index, offset }
    }

    fn is_behind(here: Position, there: &[File]) -> bool {
        let line = if matches!(here, Position::Txid(_)) { Line::V05 } else { Line::V03 };
        matches!(compare(Some(here), there, line, None), Standing::Behind(_))
    }

    #[test]
    fn a_lower_transaction_is_behind() {
        let there = [at(Position::Txid(5), "2026-01-01T00:00:05Z"), at(Position::Txid(9), "2026-01-01T00:00:09Z")];
        for (here, behind) in [(8, true), (9, false), (10, false)] {
            assert_eq!(is_behind(Position::Txid(here), &there), behind, "{here}");
        }
        assert!(!is_behind(Position::Txid(0), &[]), "nothing there");
    }

    #[test]
    fn an_earlier_place_in_the_same_generation_is_behind() {
        let there = [at(wal("a", 1, 0), "2026-01-01T00:00:05Z"), at(wal("a", 1, 4096), "2026-01-01T00:00:09Z")];
        for (index, offset, behind) in [(0, 9999, true), (1, 4096, true), (1, 8192, false), (1, u64::MAX, false), (2, 0, false)] {
            assert_eq!(is_behind(wal("a", index, offset), &there), behind, "{index} {offset}");
        }
        let snapshot = File { snapshot: true, ..at(wal("a", 1, 0), "2026-01-01T00:00:05Z") };
        assert!(!is_behind(wal("a", 1, 0), &[snapshot]), "a snapshot of this very WAL");
    }

    #[test]
    fn another_generation_that_was_written_later_is_ahead() {
        let ours = at(wal("a", 1, 0), "2026-01-01T00:00:05Z");
        let other = |created| [ours.clone(), at(wal("b", 0, 0), created)];
        assert!(is_behind(wal("a", 1, 99), &other("2026-01-01T00:00:06Z")));
        assert!(!is_behind(wal("a", 1, 99), &other("2026-01-01T00:00:05Z")));
        // Ours is not there yet: its own beginning counts, with a minute for the clocks.
        let began = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let only = [at(wal("b", 0, 0), "1970-01-01T00:10:00Z")];
        let standing = |seconds| compare(Some(wal("a", 0, 99)), &only, Line::V03, began(seconds));
        assert!(matches!(standing(500), Standing::Behind(_)));
        assert_eq!(standing(560), Standing::Current);
    }

    #[test]
    fn no_position_or_the_other_lines_is_not_known() {
        let there = [at(Position::Txid(5), "2026-01-01T00:00:05Z")];
        assert_eq!(compare(None, &there, Line::V05, None), Standing::Unknown);
        assert_eq!(compare(Some(wal("a", 0, 0)), &there, Line::V05, None), Standing::Unknown);
        assert_eq!(compare(None, &[], Line::V05, None), Standing::Current);
        for line in [Line::V03, Line::V05] {
            assert_eq!(compare(Some(Position::Txid(u64::MAX)), &there, line, None), Standing::Current, "put there on purpose");
        }
    }
}
