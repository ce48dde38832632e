//! What a check makes for its time: a row of its own in the database, and a folder beside it. Must leave neither behind.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use rusqlite::{Connection, OptionalExtension};

use crate::exit::{self, Failure};
use crate::files::Dir;
use crate::{identity, pages, restore, time};

/// Rows of runs that were killed are removed after this time.
const OLD_ROWS: &str = "-1 day";

/// The row that must come back; removed when dropped, together with those of runs that were killed.
pub(super) struct Sentinel<'a> {
    database: &'a Path,
    /// Open until the row is removed.
    connection: Option<Connection>,
    code: String,
}

impl<'a> Sentinel<'a> {
    pub(super) fn write(database: &'a Path) -> Result<Self, Failure> {
        let written = identity::as_owner_of(database, || Self::insert(database)).map_err(|why| Failure::new(exit::SYSTEM, why))?;
        let (connection, code) = written.map_err(|error| pages::failure(database, &error))?;
        Ok(Self { database, connection: Some(connection), code })
    }

    fn insert(database: &Path) -> rusqlite::Result<(Connection, String)> {
        let connection = pages::open(database)?;
        connection.execute_batch("CREATE TABLE IF NOT EXISTS _litestream_verification(id INTEGER PRIMARY KEY, code TEXT, created TEXT)")?;
        let code: String = connection.query_row("SELECT hex(randomblob(16))", [], |row| row.get(0))?;
        connection
            .execute("INSERT INTO _litestream_verification(code, created) VALUES (?1, ?2)", [&code, &time::rfc3339(SystemTime::now())])?;
        Ok((connection, code))
    }

    pub(super) fn is_in(&self, restored: &Path) -> bool {
        let found = restore::open_immutable(restored)
            .and_then(|c| c.query_row("SELECT 1 FROM _litestream_verification WHERE code = ?1", [&self.code], |_| Ok(())).optional());
        matches!(found, Ok(Some(())))
    }
}

impl Drop for Sentinel<'_> {
    fn drop(&mut self) {
        let connection = self.connection.take();
        let _ = identity::as_owner_of(self.database, || {
            connection.map(|connection| {
                connection.execute(
                    "DELETE FROM _litestream_verification WHERE code = ?1 OR datetime(created) < datetime('now', ?2)",
                    [self.code.as_str(), OLD_ROWS],
                )
            })
        });
    }
}

/// A folder of this run's own, where there is room for it; removed when dropped.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    /// Tells others that it is in use, also in another container on this volume.
    _held: Flock<File>,
}

/// How often a folder is made that another run takes away.
const TRIES: usize = 5;

static RUNS: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    /// Beside the database, or, where that may not be written and nothing else is to be, in the directory for temporary files.
    pub(super) fn new(database: &Path, read_only: bool) -> Result<Self, Failure> {
        let beside = database.parent().unwrap_or(Path::new("."));
        let refused = match Self::within(beside, database) {
            Ok(scratch) => return Ok(scratch),
            Err(error) => format!("{}: {error}", beside.display()),
        };
        let refused = |why: &str| Failure::new(exit::SYSTEM, format!("no room to restore: {refused}; {why}"));
        if !read_only {
            return Err(refused("make it writable, or prove it with --read-only"));
        }
        let elsewhere = std::env::temp_dir();
        Self::within(&elsewhere, database).map_err(|error| {
            refused(&format!("{}: {error}; set TMPDIR to a directory with room for three copies of the database", elsewhere.display()))
        })
    }

    fn within(folder: &Path, database: &Path) -> io::Result<Self> {
        sweep_in(folder, database);
        for _ in 0..TRIES {
            let run = RUNS.fetch_add(1, Ordering::Relaxed);
            // The pid alone may stand for two processes where containers share a volume.
            let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|d| d.subsec_nanos()).unwrap_or_default();
            let path = folder.join(format!("{}{}-{run}-{nanos}", prefix(database), std::process::id()));
            DirBuilder::new().mode(0o700).create(&path)?;
            // Between the two another run may have taken it for one that is left over.
            match hold(&path) {
                Some(held) if Dir::own(&path).is_ok() => return Ok(Self { path, _held: held }),
                _ => drop(fs::remove_dir(&path)),
            }
        }
        Err(io::Error::other("a folder there cannot be locked"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Takes a folder that nobody uses.
fn hold(folder: &Path) -> Option<Flock<File>> {
    // In a directory for temporary files anybody may have put anything there.
    let folder = File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(folder).ok()?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).ok()
}

fn prefix(database: &Path) -> String {
    format!(".{}-verify-", database.file_name().unwrap_or_default().to_string_lossy())
}

/// Whether there is a folder of a check's, perhaps of one that was killed.
pub fn has_left_something(database: &Path) -> bool {
    folders(database.parent().unwrap_or(Path::new(".")), database).next().is_some()
}

/// Removes the folders of checks that were killed and could not do it.
pub fn sweep(database: &Path) {
    sweep_in(database.parent().unwrap_or(Path::new(".")), database);
}

fn sweep_in(folder: &Path, database: &Path) {
    for folder in folders(folder, database) {
        if let Some(_held) = hold(&folder) {
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

fn folders(within: &Path, database: &Path) -> impl Iterator<Item = PathBuf> {
    let prefix = prefix(database);
    let entries = fs::read_dir(within).into_iter().flatten().flatten();
    entries.filter(move |e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path())
}
