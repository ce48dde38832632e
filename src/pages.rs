//! The pages of a database as hashes, so that two databases can be compared. Must never write to the one that is looked at.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::continuity;

/// A hash of every page of a database at one moment, by SQLite's own online copy into `copy`, which is left for the caller;
/// `read_only` where not even its WAL may be touched.
///
/// # Errors
/// What SQLite says.
pub fn of_live(database: &Path, copy: &Path, read_only: bool) -> rusqlite::Result<Vec<u64>> {
    let _ = fs::remove_file(copy);
    if read_only && !continuity::beside(database, "-wal").exists() {
        // Nobody has it open, and to open it would make one: all that was written is in the file.
        let _ = fs::copy(database, copy);
    } else {
        let source = if read_only { open_with(database, OpenFlags::SQLITE_OPEN_READ_ONLY)? } else { open(database)? };
        // One read transaction: without it the copy would start again at each write of the app's.
        source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;")?;
        let mut target = Connection::open(copy)?;
        target.execute_batch("PRAGMA journal_mode=off; PRAGMA synchronous=off;")?;
        rusqlite::backup::Backup::new(&source, &mut target)?.run_to_completion(4096, Duration::ZERO, None)?;
    }
    Ok(of_file(copy).unwrap_or_default())
}

/// Opens a database beside the app, with patience.
///
/// # Errors
/// What SQLite says.
pub fn open(database: &Path) -> rusqlite::Result<Connection> {
    open_with(database, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

fn open_with(database: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(database, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    Ok(connection)
}

/// A hash of each page of a file.
///
/// # Errors
/// What the kernel says.
pub fn of_file(path: &Path) -> io::Result<Vec<u64>> {
    let mut file = io::BufReader::with_capacity(1 << 16, File::open(path)?);
    let mut header = [0; 100];
    file.read_exact(&mut header)?;
    let size = page_size(&header);
    let mut hashes = Vec::new();
    let mut page = vec![0; size];
    if let Some(start) = page.get_mut(..100) {
        start.copy_from_slice(&header);
    }
    let mut filled = 100;
    while file.read_exact(page.get_mut(filled..).unwrap_or_default()).is_ok() {
        if hashes.is_empty() {
            // A copy gets its own change counter, schema cookie and version stamps.
            for range in [24..28, 40..44, 92..100] {
                page.get_mut(range).unwrap_or_default().fill(0);
            }
        }
        let mut digest = DefaultHasher::new();
        digest.write(&page);
        hashes.push(digest.finish());
        filled = 0;
    }
    Ok(hashes)
}

/// The file format: page size at 16, big-endian, 1 for 65,536.
fn page_size(header: &[u8; 100]) -> usize {
    match u16::from_be_bytes([header.get(16).copied().unwrap_or(0), header.get(17).copied().unwrap_or(0)]) {
        1 => 65_536,
        size => usize::from(size).max(512),
    }
}

/// A database file's page size in bytes, and how many pages it has.
///
/// # Errors
/// What the kernel says.
pub fn shape(path: &Path) -> io::Result<(u32, u32)> {
    let mut file = File::open(path)?;
    let mut header = [0; 100];
    file.read_exact(&mut header)?;
    let size = u32::try_from(page_size(&header)).unwrap_or(4096);
    Ok((size, u32::try_from(file.metadata()?.len().checked_div(u64::from(size)).unwrap_or_default()).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_by_sqlite_has_the_same_pages_as_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let db = Connection::open(&a).unwrap();
        db.execute_batch("PRAGMA page_size=1024; CREATE TABLE t(x); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<500) INSERT INTO t SELECT hex(randomblob(40)) FROM c;").unwrap();
        let mut copy = Connection::open(&b).unwrap();
        rusqlite::backup::Backup::new(&db, &mut copy).unwrap().run_to_completion(1000, Duration::ZERO, None).unwrap();
        drop(copy);
        assert!(of_file(&a).unwrap().len() > 40);
        assert_eq!(of_file(&a).unwrap(), of_file(&b).unwrap());
        db.execute("UPDATE t SET x = 'changed' WHERE rowid = 250", []).unwrap();
        assert_ne!(of_file(&a).unwrap(), of_file(&b).unwrap());
    }
}
