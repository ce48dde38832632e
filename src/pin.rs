//! Pins: a read transaction beside the app that keeps its WAL from being begun anew, until Litestream has one of its own. Must never be
//! taken where the WAL would be begun anew all the same.

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::sqlite::beside_app;
use crate::sqlite::locks;
use crate::sqlite::wal;
use crate::{files, layout, sqlite};

/// A read transaction that keeps the WAL from being restarted for as long as it lives.
///
/// After a boot the first opener rebuilds the `-shm` with nothing backfilled, so the reader takes a
/// read mark ≥ 1, and no writer restarts a WAL while a reader is on such a mark. On an empty WAL it takes mark 0, which keeps every
/// checkpointer out, and a WAL of which nothing is checkpointed is not restarted (SQLite's `wal.c`, `walRestartLog`).
#[derive(Debug)]
pub struct Pin {
    /// The database.
    pub database: PathBuf,
    _reader: Connection,
    /// Closed after the reader: with a file that is closed go all locks of a process on it.
    index: Option<File>,
    waited_for: Cell<Option<Instant>>,
}

/// How long it must look as if somebody waited for a pin.
const WAITS: Duration = Duration::from_millis(100);
/// The bytes of a `-shm` that a writer, and a checkpointer, hold for themselves (SQLite's `wal.c`, `WAL_WRITE_LOCK`, `WAL_CKPT_LOCK`).
const WRITER: i64 = 120;
const CHECKPOINTER: i64 = 121;

impl Pin {
    /// Whether somebody waits for its end: a checkpoint that empties the WAL, or restarts it, keeps every writer out meanwhile, Litestream
    /// included, for which the pin waits in its turn.
    pub fn is_waited_for(&self) -> bool {
        let waits = self.index.as_ref().is_some_and(|index| [WRITER, CHECKPOINTER].iter().all(|byte| locks::is_taken(index, *byte)));
        self.waited_for.set(if waits { self.waited_for.get().or_else(|| Some(Instant::now())) } else { None });
        self.waited_for.get().is_some_and(|since| since.elapsed() >= WAITS)
    }
}

/// How long whoever holds a database for a moment is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pins the WAL.
///
/// # Errors
/// What SQLite says, where the database cannot be read.
pub fn pin(database: &Path) -> rusqlite::Result<Pin> {
    within(database, PATIENCE)
}

/// The same of a database that the app has begun to write to: before that it may ask for what a pin forbids. None where a pin would not
/// hold, or cannot be had at once.
pub fn when_written_to(database: &Path) -> Option<Pin> {
    if is_written_to(database) { within(database, Duration::ZERO).ok() } else { None }
}

fn within(database: &Path, patience: Duration) -> rusqlite::Result<Pin> {
    let reader = beside_app::open(database)?;
    reader.busy_timeout(patience)?;
    reader.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;")?;
    let index = files::open(&layout::beside(database, "-shm")).ok();
    Ok(Pin { database: database.to_owned(), _reader: reader, index, waited_for: Cell::new(None) })
}

/// Whether a pin would hold: in a WAL that is in the database as a whole, a reader needs nothing, and the next commit begins it anew
/// beside it. A snapshot that Litestream reads just then has pages of other frames in it (0.5.17; seen with a bare one).
///
/// Must not be called while this process has it open.
fn would_hold(database: &Path) -> bool {
    is_in_wal_mode(database) && !wal::is_checkpointed(database)
}

/// Whether all that is in its WAL is in the database: its next commit begins it anew; see [`would_hold`].
pub fn is_begun_anew(database: &Path) -> bool {
    wal::wal_size(database) > 0 && is_in_wal_mode(database) && wal::is_checkpointed(database)
}

/// Whether something is in its WAL; see [`would_hold`].
fn is_written_to(database: &Path) -> bool {
    wal::wal_size(database) > 0 && would_hold(database)
}

fn is_in_wal_mode(database: &Path) -> bool {
    files::open(database).is_ok_and(|file| sqlite::is_in_wal_mode(&file) == Some(true))
}

/// Pins the WAL of a database that others have open, emptied before where a pin would not hold.
///
/// # Errors
/// What was in the way.
pub fn beside_others(database: &Path, by: Instant) -> Result<Option<Pin>, String> {
    if !is_in_wal_mode(database) {
        return Ok(None);
    }
    while !would_hold(database) {
        beside_app::truncate(database, by)?;
        if Instant::now() >= by {
            return Err("the app writes faster than its WAL can be held back".to_owned());
        }
    }
    pin(database).map(Some).map_err(|error| error.to_string())
}

/// The same for one pass of Litestream's, where others have it open; best effort: without it the pass is as good as theirs.
pub fn for_a_pass(database: &Path, by: Instant) -> Option<Pin> {
    if locks::is_open_elsewhere(database) { beside_others(database, by).ok().flatten() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::continuity;
    use crate::sqlite::beside_app::tests::database;
    use rusqlite::config::DbConfig;

    fn salts(database: &Path) -> Option<wal::Salts> {
        continuity::survey(database, false).wal
    }

    #[test]
    fn a_pinned_wal_is_not_restarted_by_a_writer() {
        let (_dir, path, app) = database();
        // As at a boot: nobody has it open, and the WAL is kept.
        app.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        drop(app);
        let before = salts(&path);
        let pin = pin(&path).unwrap();
        let writer = Connection::open(&path).unwrap();
        let write = || writer.execute_batch("INSERT INTO t VALUES(2); PRAGMA wal_checkpoint(PASSIVE); INSERT INTO t VALUES(3);").unwrap();
        write();
        assert_eq!(salts(&path), before);
        drop(pin);
        write();
        write();
        assert_ne!(salts(&path), before);
    }

    #[test]
    fn a_wal_that_is_checkpointed_as_a_whole_is_not_pinned_as_it_is() {
        let (_dir, path, app) = database();
        assert!(would_hold(&path) && is_written_to(&path));
        app.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        assert!(!would_hold(&path));
        let pin = beside_others(&path, Instant::now() + Duration::from_secs(5)).unwrap();
        assert!(pin.is_some() && would_hold(&path) && !is_written_to(&path));
        let write = || app.execute_batch("INSERT INTO t VALUES(2); PRAGMA wal_checkpoint(PASSIVE); INSERT INTO t VALUES(3);").unwrap();
        write();
        let before = salts(&path);
        write();
        assert_eq!(salts(&path), before);
        assert!(pin.as_ref().is_some_and(|pin| !pin.is_waited_for()));
        drop(pin);
        app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=delete").unwrap();
        assert!(!would_hold(&path) && beside_others(&path, Instant::now()).unwrap().is_none());
    }
}
