//! What the headers of a WAL and of its `-shm` say. Must never open a database.

use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::files;
use crate::layout::beside;

/// A WAL's salts: they change whenever it is restarted (SQLite's file format, section 4.1).
pub type Salts = [u8; 8];

/// The salts of a database's WAL; none where that is empty or missing. Must not be called while this process has it open.
pub fn salts(database: &Path) -> Option<Salts> {
    salts_at(&beside(database, "-wal"), 16)
}

/// The salts that a file has at this place: a WAL or a copy of one at 16.
pub fn salts_at(file: &Path, offset: u64) -> Option<Salts> {
    let mut salts = Salts::default();
    files::open(file).ok()?.read_exact_at(&mut salts, offset).ok()?;
    Some(salts)
}

/// The WAL's size in bytes, 0 where there is none. Opens nothing, so that a pin's locks live on.
pub fn wal_size(database: &Path) -> u64 {
    std::fs::metadata(beside(database, "-wal")).map(|m| m.len()).unwrap_or_default()
}

/// A place in a WAL: bytes from its beginning, and which one it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The WAL's salts.
    pub salts: Salts,
    /// Bytes.
    pub end: u64,
}

/// A WAL has a header of this size, and one before each page (SQLite's file format, section 4.1).
const HEADER: u64 = 32;

const FRAME_HEADER: u64 = 24;

/// Where the last transaction in a database's WAL ends; none where it is empty or missing.
///
/// The `-shm` tells it exactly (SQLite's WAL-index header: `mxFrame` at 16, the salts at 32); where nobody has made one, what is
/// in the file may be less than its size.
pub fn wal_end(database: &Path) -> Option<Place> {
    let wal = files::open(&beside(database, "-wal")).ok()?;
    let mut header = [0; 32];
    wal.read_exact_at(&mut header, 0).ok()?;
    let salts = Salts::try_from(header.get(16..24)?).ok()?;
    let page = u64::from(u32::from_be_bytes(header.get(8..12)?.try_into().ok()?));
    let whole = Place { salts, end: wal.metadata().ok()?.len() };
    let Some(index) = wal_index(database) else { return Some(whole) };
    let frames = u64::from(u32::from_ne_bytes(index.get(16..20)?.try_into().ok()?));
    // The file still begins as the last WAL did, but nothing of this one is in it yet.
    let salts = Salts::try_from(index.get(32..40)?).ok()?;
    let end = HEADER.saturating_add(frames.saturating_mul(page.saturating_add(FRAME_HEADER)));
    (frames > 0).then_some(Place { salts, end })
}

/// Whether all of its WAL is in the database (`nBackfill` at 96 of the `-shm`). Must not be called while this process has it open, whose
/// locks would go with the file that is closed.
pub fn is_checkpointed(database: &Path) -> bool {
    let frames = |at: usize| {
        let index = wal_index(database)?;
        Some(u32::from_ne_bytes(index.get(at..at.checked_add(4)?)?.try_into().ok()?))
    };
    matches!((frames(16), frames(96)), (Some(all), Some(there)) if all > 0 && there >= all)
}

fn wal_index(database: &Path) -> Option<[u8; 100]> {
    let mut header = [0; 100];
    files::open(&beside(database, "-shm")).ok()?.read_exact_at(&mut header, 0).ok()?;
    // `isInit`: until the first opener has read the WAL, it says nothing.
    (header.get(12) == Some(&1)).then_some(header)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn the_end_of_a_wal_is_where_its_last_transaction_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch("PRAGMA page_size=1024; PRAGMA journal_mode=wal; CREATE TABLE t(x);").unwrap();
        let first = wal_end(&path).unwrap();
        assert_eq!(first.end, wal_size(&path));
        app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        let second = wal_end(&path).unwrap();
        assert!(second.salts == first.salts && second.end > first.end);
        app.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
        app.execute_batch("INSERT INTO t VALUES(2)").unwrap();
        let third = wal_end(&path).unwrap();
        assert!(third.salts != second.salts && third.end < wal_size(&path), "the file is as long as it was");
        app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        assert_eq!(wal_end(&path), None);
    }
}
