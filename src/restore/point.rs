//! A point in time that a boot goes back to, once: what was applied is noted in the database itself, so that the note is in
//! its backup, too, and a boot on an empty disk does not go back again. Must never lose what was written since.

use std::path::Path;
use std::time::SystemTime;

use rusqlite::{OpenFlags, OptionalExtension};

use crate::settings::Point;
use crate::{pages, sqlite, time};

/// Whether the database is one that has gone back there, or comes of one.
///
/// # Errors
/// What SQLite says.
pub fn is_applied(point: &Point, database: &Path) -> rusqlite::Result<bool> {
    let connection = pages::open(database)?;
    let exists = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_litestream_entry_restore'";
    if connection.query_row(exists, [], |_| Ok(())).optional()?.is_none() {
        return Ok(false);
    }
    let noted = "SELECT 1 FROM _litestream_entry_restore WHERE point = ?1";
    Ok(connection.query_row(noted, [point.key()], |_| Ok(())).optional()?.is_some())
}

/// Notes it in a restored file that nobody has open.
///
/// # Errors
/// What SQLite says.
pub fn note(point: &Point, restored: &Path) -> rusqlite::Result<()> {
    let connection = sqlite::open(restored, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.execute_batch("CREATE TABLE IF NOT EXISTS _litestream_entry_restore(point TEXT PRIMARY KEY, applied TEXT)")?;
    let now = time::rfc3339(SystemTime::now());
    connection.execute("INSERT OR REPLACE INTO _litestream_entry_restore VALUES (?1, ?2)", [point.key(), now])?;
    // The file alone is moved to its place.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;
    use crate::sqlite::wal;
    use rusqlite::Connection;

    #[test]
    fn a_look_at_a_database_that_nobody_has_open_leaves_its_wal() {
        let dir = tempfile::tempdir().unwrap();
        let (path, killed) = (dir.path().join("a.db"), dir.path().join("b.db"));
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
        for end in ["", "-wal"] {
            std::fs::copy(layout::beside(&path, end), layout::beside(&killed, end)).unwrap();
        }
        let size = wal::wal_size(&killed);
        assert!(size > 0 && !is_applied(&Point::Txid("000000000000002a".into()), &killed).unwrap());
        assert_eq!(wal::wal_size(&killed), size);
    }

    #[test]
    fn a_point_is_applied_once_it_is_noted_and_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(x)").unwrap();
        let point = Point::Time("2026-11-25T02:28:14Z".into());
        assert!(!is_applied(&point, &path).unwrap());
        note(&point, &path).unwrap();
        assert!(is_applied(&point, &path).unwrap());
        assert!(!is_applied(&Point::Txid("000000000000002a".into()), &path).unwrap());
        let alone = dir.path().join("b.db");
        std::fs::copy(&path, &alone).unwrap();
        assert!(is_applied(&point, &alone).unwrap(), "it is in the file itself");
    }
}
