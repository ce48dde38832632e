//! The pages of a database as hashes, so that two databases can be compared. Must never write to the one that is looked at.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::exit::{self, Failure};
use crate::files::{self, Dir, Owner, name_of};
use crate::sqlite::wal;
use crate::{identity, interrupt, layout, sqlite};

/// A hash of every page of a database at one moment, by SQLite's own online copy into `copy`, which is left for the caller;
/// `read_only` where not even its WAL may be touched.
///
/// # Errors
/// What SQLite says; 71 where root may not act as the owner; 128+n where this process has been asked to end.
pub fn of_live(database: &Path, copy: &Path, read_only: bool) -> Result<Hashes, Failure> {
    let unreadable = |error| failure(database, &error);
    let refused = |why| Failure::new(exit::SYSTEM, why);
    let _ = fs::remove_file(copy);
    if !read_only || !copied_as_it_lies(database, copy) {
        let access = if read_only { OpenFlags::SQLITE_OPEN_READ_ONLY } else { OpenFlags::SQLITE_OPEN_READ_WRITE };
        // One read transaction: without it the copy would start again at each write of the app's.
        let begin = || {
            let source = open_with(database, access)?;
            source.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;").map(|()| source)
        };
        // What is opened may make a WAL, and what is closed may remove it; what is between only reads.
        let source = identity::as_owner_of(database, begin).map_err(refused)?.map_err(unreadable)?;
        let copied = copy_pages(&source, copy);
        identity::as_owner_of(database, || drop(source)).map_err(refused)?;
        interrupt::check()?;
        copied.map_err(unreadable)?;
    }
    of_file(copy).map_err(|e| Failure::new(exit::SYSTEM, format!("{}: {e}", copy.display())))
}

/// Nobody has it open, and to open it would make a WAL or the WAL's index: all that was written is in the files.
fn copied_as_it_lies(database: &Path, copy: &Path) -> bool {
    let index = layout::beside(database, "-shm");
    let wal = |of: &Path| layout::beside(of, "-wal");
    let stamp = || [database, &wal(database)].map(|file| fs::metadata(file).and_then(|m| Ok((m.len(), m.modified()?))).ok());
    let before = stamp();
    let [Some(_), log] = before else { return false };
    let copied = !index.exists()
        && duplicate(database, copy).is_ok()
        && (log.is_none() || duplicate(&wal(database), &wal(copy)).is_ok())
        // Somebody came meanwhile.
        && !index.exists()
        && stamp() == before
        // The last to close it takes its WAL in.
        && (log.is_none() || sqlite::open(copy, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|c| c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))).is_ok());
    if !copied {
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(layout::beside(copy, end));
        }
    }
    copied
}

fn duplicate(from: &Path, to: &Path) -> io::Result<()> {
    let mut made = Dir::of(to)?.create(name_of(to), 0o600, Owner::Ours)?;
    io::copy(&mut files::open(from)?, &mut made).map(drop)
}

/// Until it is asked to end.
fn copy_pages(source: &Connection, copy: &Path) -> rusqlite::Result<()> {
    let mut target = sqlite::create(copy, Owner::Ours)?;
    target.execute_batch("PRAGMA journal_mode=off; PRAGMA synchronous=off;")?;
    let backup = Backup::new(source, &mut target)?;
    while backup.step(4096)? != StepResult::Done && interrupt::check().is_ok() {}
    Ok(())
}

/// Opens a database beside the app, with patience.
///
/// # Errors
/// What SQLite says.
pub fn open(database: &Path) -> rusqlite::Result<Connection> {
    open_with(database, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// The name of a table or column, as SQL takes it whatever it is.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// So often a lock is tried that another holds: for some 20 s, or as long as the command may take.
static BUSY_TRIES: AtomicI32 = AtomicI32::new(10_000);
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// From now on, a lock that another holds is waited for no longer than this.
pub fn be_patient_for(limit: Duration) {
    let tries = limit.as_millis().checked_div(BUSY_PAUSE.as_millis()).unwrap_or_default();
    BUSY_TRIES.fetch_min(i32::try_from(tries).unwrap_or(i32::MAX), Ordering::Relaxed);
}

/// What to say of a database that SQLite could not read or write: that it is in use says nothing of it.
pub fn failure(database: &Path, error: &rusqlite::Error) -> Failure {
    let (code, instead) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (exit::SYSTEM, " by the app, all the time; try again"),
        // What is no file of SQLite's is in the place of one.
        Some(ErrorCode::PermissionDenied) => (exit::SYSTEM, ""),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) => (exit::SYSTEM, "; where nothing can be written, --read-only needs no write"),
        _ => (exit::DAMAGED, ""),
    };
    Failure::new(code, format!("{}: {error}{instead}", database.display()))
}

fn open_with(database: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let mut connection = sqlite::open(database, access)?;
    if wal::wal_size(database) > 0 {
        // The last to close it would empty the WAL and remove it, and with it Litestream's place: the next start could not go on from there.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    }
    // SQLite's own waits get longer and longer, and an app that writes all the time is never waiting that long.
    connection.busy_handler(Some(|tried| {
        std::thread::sleep(BUSY_PAUSE);
        tried < BUSY_TRIES.load(Ordering::Relaxed) && interrupt::check().is_ok()
    }))?;
    Ok(connection)
}

/// A hash of each page, in a file without a name: however large the database is, they take no memory.
#[derive(Debug)]
pub struct Hashes {
    file: File,
    count: usize,
}

/// So many are read at once.
const AT_ONCE: usize = 1 << 13;
const SIZE: usize = size_of::<u64>();

impl Hashes {
    /// One after another.
    pub fn each(&self) -> Each<'_> {
        Each { hashes: self, next: 0, buffer: Vec::new().into_iter() }
    }
}

/// They are the same.
impl PartialEq for Hashes {
    fn eq(&self, other: &Self) -> bool {
        self.each().eq(other.each())
    }
}

/// See [`Hashes::each`].
#[derive(Debug)]
pub struct Each<'a> {
    hashes: &'a Hashes,
    next: usize,
    buffer: std::vec::IntoIter<u64>,
}

impl Iterator for Each<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.buffer.len() == 0 {
            let mut bytes = vec![0; self.len().min(AT_ONCE).saturating_mul(SIZE)];
            let at = u64::try_from(self.next.saturating_mul(SIZE)).ok()?;
            self.hashes.file.read_exact_at(&mut bytes, at).ok()?;
            let hashes = bytes.chunks_exact(SIZE).filter_map(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
            self.buffer = hashes.collect::<Vec<_>>().into_iter();
        }
        self.next = self.next.saturating_add(1);
        self.buffer.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.hashes.count.saturating_sub(self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Each<'_> {}

/// A hash of each page of a file. They are kept in its directory.
///
/// # Errors
/// What the kernel says.
pub fn of_file(path: &Path) -> io::Result<Hashes> {
    let beside = layout::beside(path, "-pages");
    let dir = Dir::of(&beside)?;
    let mut hashes = dir.create(name_of(&beside), 0o600, Owner::Ours)?;
    dir.remove(name_of(&beside))?;
    let mut kept = io::BufWriter::with_capacity(AT_ONCE, &mut hashes);
    let mut file = io::BufReader::with_capacity(1 << 16, files::open(path)?);
    let mut header = [0; 100];
    file.read_exact(&mut header)?;
    let size = page_size(&header);
    let mut count = 0_usize;
    let mut page = vec![0; size];
    if let Some(start) = page.get_mut(..100) {
        start.copy_from_slice(&header);
    }
    let mut filled = 100;
    while file.read_exact(page.get_mut(filled..).unwrap_or_default()).is_ok() {
        if count == 0 {
            // A copy gets its own change counter, schema cookie and version stamps.
            for range in [24..28, 40..44, 92..100] {
                page.get_mut(range).unwrap_or_default().fill(0);
            }
        }
        let mut digest = DefaultHasher::new();
        digest.write(&page);
        kept.write_all(&digest.finish().to_ne_bytes())?;
        count = count.saturating_add(1);
        filled = 0;
    }
    kept.flush()?;
    drop(kept);
    Ok(Hashes { file: hashes, count })
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
    let mut file = files::open(path)?;
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
        Backup::new(&db, &mut copy).unwrap().run_to_completion(1000, Duration::ZERO, None).unwrap();
        drop(copy);
        let pages = of_file(&a).unwrap();
        assert!(pages.each().len() > 40 && pages.each().count() == pages.each().len());
        assert_eq!(of_file(&a).unwrap(), of_file(&b).unwrap());
        db.execute("UPDATE t SET x = 'changed' WHERE rowid = 250", []).unwrap();
        assert_ne!(of_file(&a).unwrap(), of_file(&b).unwrap());
    }
}
