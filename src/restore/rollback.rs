//! A copy of each database from before its migration, and the way back to it. Must never leave the place without a
//! database, nor go back but from a migration that failed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::fetch::Restored;
use super::install::{Old, install, note_position};
use super::{Local, look};
use crate::litestream::backup::Position;
use crate::pages;
use crate::settings::Entry;

/// The copy's place: `.app.db-before-migration`.
fn copy_of(database: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(database.file_name().unwrap_or_default());
    name.push("-before-migration");
    database.with_file_name(name)
}

/// Keeps a copy of the database as it is, its WAL included; of one that is not there yet, none.
///
/// # Errors
/// What SQLite says.
pub fn save(database: &Path) -> rusqlite::Result<()> {
    let copy = copy_of(database);
    let _ = fs::remove_file(&copy);
    if !matches!(look(database), Ok(Local::Sqlite)) {
        return Ok(());
    }
    let source = pages::open(database)?;
    let mut target = Connection::open(&copy)?;
    rusqlite::backup::Backup::new(&source, &mut target)?.run_to_completion(4096, Duration::ZERO, None)
}

/// Puts the copy back; what the migration left is kept aside. A database that there was none of before stays.
///
/// # Errors
/// What the kernel says.
pub fn undo(database: &Path, entry: &Entry) -> io::Result<()> {
    let copy = copy_of(database);
    if !copy.exists() {
        return Ok(());
    }
    // It takes the place of whatever has reached the replica since.
    let restored = Restored { file: copy, position: Some(Position::Txid(u64::MAX)), is_of_the_past: false, remark: String::new() };
    install(&restored, database, entry, Old::Keep)?;
    note_position(&restored, database)
}

/// Removes the copy.
///
/// # Errors
/// What the kernel says.
pub fn forget(database: &Path) -> io::Result<()> {
    match fs::remove_file(copy_of(database)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{self, Environment};

    #[test]
    fn a_database_goes_back_to_what_it_was_with_its_wal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let entry = settings::read(&Environment::of(&[]), &|_| false).unwrap().entry;
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
        save(&path).unwrap();
        app.execute_batch("DROP TABLE t").unwrap();
        drop(app);
        undo(&path, &entry).unwrap();
        let count: i64 = Connection::open(&path).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 1);
        assert!(!copy_of(&path).exists());
        save(&path).unwrap();
        forget(&path).unwrap();
        forget(&path).unwrap();
        assert!(!copy_of(&path).exists());
    }
}
