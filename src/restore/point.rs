//! A point in time that a boot goes back to, once: what was applied is noted in the database itself, so that the note is in
//! its backup, too, and a boot on an empty disk does not go back again. Must never lose what was written since.

use std::ffi::OsString;
use std::path::Path;
use std::time::SystemTime;

use rusqlite::{OpenFlags, OptionalExtension};
use serde::{Deserialize, Serialize};

use crate::{pages, sqlite, time};

/// Where to go back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Point {
    /// As it was at this time, RFC 3339.
    Time(String),
    /// As it was after this transaction (0.5).
    Txid(String),
}

impl Point {
    /// Litestream's flags for it.
    pub fn flags(&self) -> Vec<OsString> {
        match self {
            Self::Time(time) => vec!["-timestamp".into(), time.into()],
            Self::Txid(txid) => vec!["-txid".into(), txid.into()],
        }
    }

    /// What is asked for, in words.
    pub fn asked(&self) -> String {
        match self {
            Self::Time(time) => format!("as it was at {time}"),
            Self::Txid(txid) => format!("as it was at transaction {txid}"),
        }
    }

    /// What was found for it, in words; `written` is when the newest of that was written.
    pub fn found(&self, written: Option<String>) -> String {
        match self {
            // Where transactions have been compacted, that may be some time before.
            Self::Time(time) => format!("as of {}the newest point at or before {time}", written.map(|at| at + ", ").unwrap_or_default()),
            Self::Txid(_) => self.asked(),
        }
    }

    fn key(&self) -> String {
        match self {
            Self::Time(time) => format!("timestamp {time}"),
            Self::Txid(txid) => format!("txid {txid}"),
        }
    }

    /// Whether the database is one that has gone back there, or comes of one.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn is_applied(&self, database: &Path) -> rusqlite::Result<bool> {
        let connection = pages::open(database)?;
        let exists = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_litestream_entry_restore'";
        if connection.query_row(exists, [], |_| Ok(())).optional()?.is_none() {
            return Ok(false);
        }
        let noted = "SELECT 1 FROM _litestream_entry_restore WHERE point = ?1";
        Ok(connection.query_row(noted, [self.key()], |_| Ok(())).optional()?.is_some())
    }

    /// Notes it in a restored file that nobody has open.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn note(&self, restored: &Path) -> rusqlite::Result<()> {
        let connection = sqlite::open(restored, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.execute_batch("CREATE TABLE IF NOT EXISTS _litestream_entry_restore(point TEXT PRIMARY KEY, applied TEXT)")?;
        let now = time::rfc3339(SystemTime::now());
        connection.execute("INSERT OR REPLACE INTO _litestream_entry_restore VALUES (?1, ?2)", [self.key(), now])?;
        // The file alone is moved to its place.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }
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
        assert!(size > 0 && !Point::Txid("000000000000002a".into()).is_applied(&killed).unwrap());
        assert_eq!(wal::wal_size(&killed), size);
    }

    #[test]
    fn a_point_is_applied_once_it_is_noted_and_another_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(x)").unwrap();
        let point = Point::Time("2026-11-25T02:28:14Z".into());
        assert!(!point.is_applied(&path).unwrap());
        point.note(&path).unwrap();
        assert!(point.is_applied(&path).unwrap());
        assert!(!Point::Txid("000000000000002a".into()).is_applied(&path).unwrap());
        let alone = dir.path().join("b.db");
        std::fs::copy(&path, &alone).unwrap();
        assert!(point.is_applied(&alone).unwrap(), "it is in the file itself");
    }
}
