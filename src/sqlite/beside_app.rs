//! A connection beside the app's: what it may do to a database that is not ours. Must never write to an app's tables, and must open a database only
//! once (a process that closes a file drops all its POSIX locks on it).

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

/// How long a checkpoint may keep the app's writers waiting.
const BUSY: Duration = Duration::from_millis(250);

/// Pause between tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Empties the WAL, trying again until the deadline while readers or writers are in the way.
///
/// # Errors
/// A line that says what was in the way.
pub fn truncate(database: &Path, deadline: Instant) -> Result<(), String> {
    let connection = open(database).and_then(|c| c.busy_timeout(BUSY).map(|()| c)).map_err(|e| e.to_string())?;
    loop {
        let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        let reason = match busy {
            Ok(0) => return Ok(()),
            Ok(_) => "a transaction of the app's keeps the WAL from being emptied".to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(reason);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Makes a transaction without content, as Litestream itself does to have something to replicate.
///
/// # Errors
/// What SQLite says.
pub fn touch(database: &Path) -> rusqlite::Result<()> {
    let connection = open(database)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.execute_batch("INSERT INTO _litestream_seq (id, seq) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET seq = seq + 1")
}

/// Opens an existing database as one more reader and writer beside the app.
///
/// # Errors
/// What SQLite says.
pub fn open(database: &Path) -> rusqlite::Result<Connection> {
    let connection = super::open(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // If the app is gone already, the last to close would delete the WAL, and with it Litestream's place.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use super::*;

    pub(crate) fn database() -> (tempfile::TempDir, PathBuf, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1);").unwrap();
        (dir, path, app)
    }

    #[test]
    fn a_reader_in_the_way_is_reported_not_waited_for_without_end() {
        let (_dir, path, app) = database();
        let reader = Connection::open(&path).unwrap();
        reader.execute_batch("BEGIN; SELECT * FROM t;").unwrap();
        app.execute_batch("INSERT INTO t VALUES(2)").unwrap();
        assert!(truncate(&path, Instant::now()).unwrap_err().contains("transaction"));
    }
}
