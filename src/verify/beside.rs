//! What a check puts beside a database for its time: a row of its own, and a folder. Must leave neither behind.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OptionalExtension};

use crate::{pages, restore, time};

/// Rows of runs that were killed are removed after this time.
const OLD_ROWS: &str = "-1 day";

/// The row that must come back; removed when dropped, together with those of runs that were killed.
pub(super) struct Sentinel {
    connection: Connection,
    code: String,
}

impl Sentinel {
    pub(super) fn write(database: &Path) -> rusqlite::Result<Self> {
        let connection = pages::open(database)?;
        connection.execute_batch("CREATE TABLE IF NOT EXISTS _litestream_verification(id INTEGER PRIMARY KEY, code TEXT, created TEXT)")?;
        let code: String = connection.query_row("SELECT hex(randomblob(16))", [], |row| row.get(0))?;
        connection
            .execute("INSERT INTO _litestream_verification(code, created) VALUES (?1, ?2)", [&code, &time::rfc3339(SystemTime::now())])?;
        Ok(Self { connection, code })
    }

    pub(super) fn is_in(&self, restored: &Path) -> bool {
        let found = restore::open_immutable(restored)
            .and_then(|c| c.query_row("SELECT 1 FROM _litestream_verification WHERE code = ?1", [&self.code], |_| Ok(())).optional());
        matches!(found, Ok(Some(())))
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.connection.execute(
            "DELETE FROM _litestream_verification WHERE code = ?1 OR datetime(created) < datetime('now', ?2)",
            [self.code.as_str(), OLD_ROWS],
        );
    }
}

/// A folder of this run's own beside the database, where there is room for it; removed when dropped.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    /// Tells others that it is in use, also in another container on this volume.
    _held: Flock<File>,
}

static RUNS: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    pub(super) fn new(database: &Path) -> io::Result<Self> {
        sweep(database);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        // The pid alone may stand for two processes where containers share a volume.
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|d| d.subsec_nanos()).unwrap_or_default();
        let path = database.with_file_name(format!("{}{}-{run}-{nanos}", prefix(database), std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let held = Flock::lock(File::open(&path)?, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        Ok(Self { path, _held: held })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn prefix(database: &Path) -> String {
    format!(".{}-verify-", database.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes the folders of checks that were killed and could not do it.
pub fn sweep(database: &Path) {
    let prefix = prefix(database);
    let entries = fs::read_dir(database.parent().unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)) {
        let unused = File::open(entry.path()).is_ok_and(|folder| Flock::lock(folder, FlockArg::LockExclusiveNonblock).is_ok());
        if unused {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
