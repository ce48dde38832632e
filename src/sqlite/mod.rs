//! Opens databases with SQLite. Must never open one through a link, nor wait for what is no file beside it: SQLite itself would.

pub mod beside_app;
pub mod locks;
pub mod wal;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::ffi::{Error, SQLITE_PERM};
use rusqlite::{Connection, OpenFlags};

use crate::files::{self, Dir, Owner, name_of};
use crate::layout::beside;

/// The first bytes of a file that begins as every SQLite database does (its file format, section 1.3); none of another, or of a shorter one.
/// `N` is 16 at least.
pub fn header<const N: usize>(file: &File) -> Option<[u8; N]> {
    let mut header = [0; N];
    file.read_exact_at(&mut header, 0).ok()?;
    header.starts_with(b"SQLite format 3\0").then_some(header)
}

/// Whether a database's header says that it is in WAL mode (SQLite's file format, section 1.3.3); none without a header.
pub fn is_in_wal_mode(file: &File) -> Option<bool> {
    header::<20>(file).map(|header| header.ends_with(&[2, 2]))
}

/// Opens a database that is there, by these flags besides.
///
/// # Errors
/// What SQLite says; what is in the place of one of its files.
pub fn open(database: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    only_files(database).map_err(refused)?;
    Connection::open_with_flags(without_links(database), access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW)
}

/// Makes a database of this process's own, where nothing may be yet.
///
/// # Errors
/// What SQLite or the kernel says.
pub fn create(database: &Path, owner: Owner) -> rusqlite::Result<Connection> {
    make(database, 0o600, owner).map_err(|error| refused(format!("{}: {error}", database.display())))?;
    open(database, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Opens a database, and makes it where there is none: its directory's owner's.
///
/// # Errors
/// As [`create`].
pub fn open_or_create(database: &Path) -> rusqlite::Result<Connection> {
    match make(database, 0o644, Owner::Directorys) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(refused(format!("{}: {error}", database.display()))),
        _ => open(database, OpenFlags::SQLITE_OPEN_READ_WRITE),
    }
}

fn make(database: &Path, mode: u32, owner: Owner) -> io::Result<()> {
    Dir::of(database)?.create(name_of(database), mode, owner).map(drop)
}

/// Opens a database that nobody writes.
///
/// # Errors
/// As [`open`].
pub fn open_immutable(database: &Path) -> rusqlite::Result<Connection> {
    only_files(database).map_err(refused)?;
    let path: String = without_links(database)
        .to_string_lossy()
        .chars()
        .map(|c| match c {
            '%' | '?' | '#' => format!("%{:02x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    Connection::open_with_flags(format!("file:{path}?immutable=1"), flags)
}

/// SQLite takes a link anywhere in the path for one that it is not to follow; those above the file are the administrator's.
fn without_links(database: &Path) -> PathBuf {
    let directory = database.parent().and_then(|directory| std::fs::canonicalize(directory).ok());
    directory.map_or_else(|| database.to_owned(), |directory| directory.join(name_of(database)))
}

/// Whether all that is there of a database is files. SQLite waits for a FIFO for ever, in whatever process.
///
/// # Errors
/// What is in the place of one, and what to do.
pub fn only_files(database: &Path) -> Result<(), String> {
    let odd = ["", "-journal", "-wal", "-shm"].map(|suffix| beside(database, suffix)).into_iter().find_map(|path| {
        let what = files::what_is_at(&path)?;
        Some(format!("{} is {what}, not a file of SQLite's; move it away", path.display()))
    });
    odd.map_or(Ok(()), Err)
}

fn refused(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(Error::new(SQLITE_PERM), Some(why))
}
