//! The names of what lies beside a database: SQLite's, Litestream's and our own. Must never touch a disk.

use std::path::{Path, PathBuf};

/// `app.db` → `app.db-wal`.
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Litestream's own directory: `.app.db-litestream`.
pub fn meta_dir(database: &Path) -> PathBuf {
    hidden(database, "-litestream")
}

/// `app.db` → `.app.dbSUFFIX`.
pub fn hidden(database: &Path, suffix: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(database.file_name().unwrap_or_default());
    name.push(suffix);
    database.with_file_name(name)
}

/// The longest of what lies beside a database while it is copied and restored: `.NAME-before-migration-LIFE.new-journal`.
const COMPANION: usize = 47;

/// What a file system takes as a name, and what SQLite takes as a path (`MAX_PATHNAME` of `os_unix.c`).
const LONGEST_NAME: usize = 255 - COMPANION;

const LONGEST_PATH: usize = 512 - COMPANION - 1;

/// Why a database with this path could not be restored to it; none where it could.
pub fn too_long(database: &Path) -> Option<String> {
    let name = database.file_name().map_or(0, std::ffi::OsStr::len);
    if name > LONGEST_NAME {
        return Some(format!("is a name of {name} bytes, and {LONGEST_NAME} leave room for what lies beside it; shorten it"));
    }
    let path = database.as_os_str().len();
    (path > LONGEST_PATH).then(|| format!("has {path} bytes, and SQLite takes {LONGEST_PATH} with what lies beside it; shorten it"))
}
