//! Keeps gaps out of 0.5's backups: decides what a WAL needs before Litestream starts, and does it.
//! Must never write to an app's tables, and must open each only once (a process
//! that closes a file drops all its POSIX locks on it).
//!
//! Litestream 0.5 goes on from its last position although frames in between were lost, whenever the
//! WAL was restarted while Litestream did not hold its read lock: it finds the last frame it knows still in place
//! and takes that for proof (`db.go`, `verifyWithExecutor`). So before every start of a 0.5, the WAL is
//! either pinned, so that nobody can restart it, or emptied, so that Litestream takes a snapshot.

mod anew;

use std::io;
use std::path::Path;

use crate::files::Dir;
use crate::litestream::Format;
use crate::litestream::backup::Position;
use crate::litestream::local::{begun_at, ltx_salts, newest_ltx, own_position, shadow_position};
use crate::mark::{self, Mark, mark_path, note_generation, note_origin};
use crate::plan::Database;
use crate::sqlite::locks;
use crate::sqlite::wal::{self, Salts};
use crate::{layout, report};
use anew::stood_at;
pub use anew::{begin_anew, forget_generation};

/// What is known of a database before Litestream starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts that hold or not, in any combination")]
pub struct Facts {
    /// The WAL's salts; none where it is empty or missing.
    pub wal: Option<Salts>,
    /// The salts in the newest local LTX file, Litestream's own record of its position; none without one.
    pub ltx: Option<Salts>,
    /// Whether another process has the database open.
    pub open_elsewhere: bool,
    /// Whether all before that position is known to be without gap.
    pub proven: bool,
    /// Whether this Litestream shows when it has taken its lock, so that a pin can be let go.
    pub shows_lock: bool,
    /// Whether the app may ask for what SQLite refuses while somebody else has the database open: a pin would end it.
    pub asks_alone: bool,
}

/// What it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: an empty WAL has no frame to lose, and Litestream sees that it is shorter than it was.
    Nothing,
    /// Hold a read transaction until Litestream has its own.
    Pin,
    /// Empty it; Litestream then takes a full snapshot, which also heals what was wrong before.
    Truncate,
}

/// What this WAL needs before Litestream starts.
pub fn decide(facts: Facts) -> Need {
    match (facts.wal, facts.ltx) {
        (None, _) => Need::Nothing,
        (Some(wal), Some(ltx)) if wal == ltx && !facts.open_elsewhere && facts.proven && facts.shows_lock && !facts.asks_alone => Need::Pin,
        _ => Need::Truncate,
    }
}

/// Looks at a database's files. Must not be called while this process has the database open.
pub fn survey(database: &Path, shows_lock: bool) -> Facts {
    let newest = newest_ltx(database);
    Facts {
        wal: wal::salts(database),
        ltx: newest.as_ref().and_then(|ltx| ltx_salts(&ltx.path)),
        open_elsewhere: locks::is_open_elsewhere(database),
        proven: Mark::read(database).proves(newest.map(|ltx| ltx.txid)),
        shows_lock,
        asks_alone: false,
    }
}

/// A life begins under 0.3: after a crash the last clean end proves nothing. The generation that it goes on in is noted: 0.3 takes
/// its pointer away itself, where it finds that its copy of the WAL is wrong, and may be killed before it has begun another.
/// Whatever the replica has of that generation is of this database.
///
/// What was noted so before stays noted beside it, and what the database was restored from: whatever is begun now may never reach the replica.
pub fn begin(database: &Database) {
    let before = Mark::read(&database.path);
    let mark = match (&before, shadow_position(&database.path)) {
        (Mark::Rewound(_), _) => return,
        (_, Some(Position::Wal { generation, .. })) => Mark::Restored(Position::Wal { generation, index: u64::MAX, offset: u64::MAX }),
        (Mark::Clean(_), _) => Mark::Open,
        _ => return,
    };
    let noted = if mark == before { Ok(()) } else { note_past(&database.path, &before) };
    if let Err(error) = noted.and_then(|()| mark.write(&database.path)) {
        report::line(format_args!("{}: {}: {error}", database.alias, mark_path(&database.path).display()));
    }
}

/// Notes what a mark says of where a database comes from (0.3), before another one takes its place.
fn note_past(database: &Path, mark: &Mark) -> io::Result<()> {
    match mark {
        Mark::Restored(Position::Wal { generation, index: u64::MAX, .. }) => note_generation(database, generation),
        Mark::Restored(Position::Wal { generation, .. }) if !mark::is_its_own(database, generation) => match begun_at(database) {
            Some(at) => note_origin(database, generation, at),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Litestream's own position beside a database, or the one that we have restored: `None` where nothing is known.
pub fn position(database: &Path, format: Format) -> Option<Position> {
    own_position(database, format).or_else(|| match Mark::read(database) {
        Mark::Restored(position) | Mark::Rewound(position) => Some(position),
        _ => None,
    })
}

/// Makes Litestream go on with a database as with one that was restored from a backup that ends here, whatever it knew: with neither its own
/// record nor the mark nothing is known, and is found out; 0.3, which cannot compare, has one of them at any time.
///
/// # Errors
/// What the kernel says.
pub fn go_on_as_restored(database: &Path, end: Position) -> io::Result<()> {
    if let Position::Wal { .. } = end {
        stood_at(database, end)?;
        return forget_generation(database);
    }
    forget_own(database)?;
    Mark::Restored(end).write(database)
}

/// Takes away 0.5's own record of where it is.
///
/// # Errors
/// What the kernel says.
pub fn forget_own(database: &Path) -> io::Result<()> {
    match Dir::real(&layout::meta_dir(database)).and_then(|dir| dir.remove_all("ltx".as_ref())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// How large a pinned WAL may become: the configured limit, or half of what is free on its disk.
pub fn wal_limit(database: &Path, configured: u64) -> u64 {
    let free = crate::sys::free_bytes(database).unwrap_or(u64::MAX);
    configured.min(free / 2)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sqlite::beside_app;
    use crate::sqlite::beside_app::tests::database;

    #[test]
    fn only_an_unbroken_private_and_proven_wal_is_pinned() {
        let salts = [Some([1; 8]), Some([2; 8]), None];
        for wal in salts {
            for ltx in salts {
                for bits in 0..16 {
                    let facts = Facts {
                        wal,
                        ltx,
                        open_elsewhere: bits & 1 != 0,
                        proven: bits & 2 != 0,
                        shows_lock: bits & 4 != 0,
                        asks_alone: bits & 8 != 0,
                    };
                    let expected = match (wal, ltx) {
                        (None, _) => Need::Nothing,
                        (a, b) if a == b && bits == 6 => Need::Pin,
                        _ => Need::Truncate,
                    };
                    assert_eq!(decide(facts), expected, "{facts:?}");
                }
            }
        }
    }

    #[test]
    fn a_wal_that_is_truncated_is_empty_and_the_survey_sees_it() {
        let (_dir, path, _app) = database();
        assert!(survey(&path, true).wal.is_some());
        beside_app::truncate(&path, Instant::now()).unwrap();
        assert_eq!((survey(&path, true).wal, wal::wal_size(&path)), (None, 0));
    }
}
