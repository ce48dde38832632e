//! Restores: decides from what is here and what the policy says, then fetches into a private folder,
//! checks, and renames. Must never replace or delete a database, nor leave a part of one behind.

pub mod aside;
pub mod fetch;
pub mod install;
pub mod ladder;
pub mod point;
pub mod present;
pub mod rollback;
pub mod snapshot;
pub mod soundness;
pub mod standing;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use fetch::{Fetched, Restored, Source};

pub use crate::sqlite::open_immutable;

use crate::settings::{RestorePolicy, StalePolicy};
use crate::sqlite;
use standing::Standing;

/// What is at a database's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// Nothing.
    Missing,
    /// A file without content.
    Empty,
    /// A SQLite database.
    Sqlite,
    /// Something else, which may be somebody's data.
    Other,
}

/// What a boot does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is here: use it.
    Use,
    /// Ask the replica.
    Fetch,
    /// Let the app make a new one.
    StartEmpty,
    /// Do not start.
    Refuse,
}

/// The first half of the table: before anybody has asked the replica.
pub fn decide(local: Local, policy: RestorePolicy) -> Decision {
    match (local, policy) {
        (Local::Sqlite, _) => Decision::Use,
        (Local::Other, _) => Decision::Refuse,
        (Local::Missing | Local::Empty, RestorePolicy::Never) => Decision::StartEmpty,
        (Local::Missing | Local::Empty, RestorePolicy::Auto | RestorePolicy::Required) => Decision::Fetch,
    }
}

/// The second half of the table: the replica has answered that there is no backup.
pub fn without_backup(policy: RestorePolicy) -> Decision {
    if policy == RestorePolicy::Required { Decision::Refuse } else { Decision::StartEmpty }
}

/// What a boot does about a database that is here, once its replica has been asked.
pub fn with_standing(standing: &Standing, policy: StalePolicy) -> Decision {
    match (standing, policy) {
        (Standing::Behind(_) | Standing::Diverged(_) | Standing::Different, StalePolicy::Refuse) => Decision::Refuse,
        (Standing::Behind(_) | Standing::Diverged(_) | Standing::Different, StalePolicy::Restore) => Decision::Fetch,
        // A replica that does not answer keeps nobody from working with what is here.
        (Standing::Current | Standing::Unknown | Standing::NotAsked(_), _) | (_, StalePolicy::Keep) => Decision::Use,
    }
}

/// Looks at a database's path.
///
/// # Errors
/// What the kernel says, where it cannot be read.
pub fn look(path: &Path) -> io::Result<Local> {
    // A FIFO in its place must keep nobody waiting.
    let file = match File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Local::Missing),
        // A socket.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => return Ok(Local::Other),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(Local::Other);
    }
    if meta.len() == 0 {
        return Ok(Local::Empty);
    }
    let is_sqlite = meta.len() >= 512 && sqlite::header::<16>(&file).is_some();
    Ok(if is_sqlite { Local::Sqlite } else { Local::Other })
}

/// Above this size `quick_check` is made instead of `integrity_check`, which also compares each index with its table.
pub const QUICK_CHECK_ABOVE: u64 = 1 << 30;
/// The private folder of a database's restore, in the same directory: same disk, so a rename is one step.
pub fn folder(database: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(database.file_name().unwrap_or_default());
    name.push("-restoring");
    database.with_file_name(name)
}

/// Removes what a killed restore left behind.
///
/// # Errors
/// What the kernel says.
pub fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// So many steps of SQLite's are made between looks at whether this is to end: well under a millisecond.
const STEPS: std::ffi::c_int = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decision_table_holds() {
        use RestorePolicy::{Auto, Never, Required};
        for (local, policy, decision) in [
            (Local::Sqlite, Auto, Decision::Use),
            (Local::Sqlite, Required, Decision::Use),
            (Local::Sqlite, Never, Decision::Use),
            (Local::Missing, Auto, Decision::Fetch),
            (Local::Empty, Auto, Decision::Fetch),
            (Local::Missing, Required, Decision::Fetch),
            (Local::Empty, Required, Decision::Fetch),
            (Local::Missing, Never, Decision::StartEmpty),
            (Local::Empty, Never, Decision::StartEmpty),
            (Local::Other, Auto, Decision::Refuse),
            (Local::Other, Required, Decision::Refuse),
            (Local::Other, Never, Decision::Refuse),
        ] {
            assert_eq!(decide(local, policy), decision, "{local:?} {policy:?}");
        }
        assert_eq!(without_backup(Auto), Decision::StartEmpty);
        assert_eq!(without_backup(Required), Decision::Refuse);
    }

    #[test]
    fn what_is_at_the_path_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        assert_eq!(look(&path).unwrap(), Local::Missing);
        fs::write(&path, "").unwrap();
        assert_eq!(look(&path).unwrap(), Local::Empty);
        fs::write(&path, "somebody's letters").unwrap();
        assert_eq!(look(&path).unwrap(), Local::Other);
        assert_eq!(look(dir.path()).unwrap(), Local::Other);
        fs::remove_file(&path).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        assert_eq!(look(&path).unwrap(), Local::Sqlite);
    }

    #[test]
    fn only_a_database_that_is_known_to_be_behind_is_not_used() {
        use StalePolicy::{Keep, Refuse, Restore};
        for policy in [Refuse, Restore, Keep] {
            for standing in [Standing::Current, Standing::Unknown, Standing::NotAsked(String::new())] {
                assert_eq!(with_standing(&standing, policy), Decision::Use, "{standing:?} {policy:?}");
            }
        }
        for other in [Standing::Behind(String::new()), Standing::Diverged(String::new()), Standing::Different] {
            assert_eq!(with_standing(&other, Refuse), Decision::Refuse);
            assert_eq!(with_standing(&other, Restore), Decision::Fetch);
            assert_eq!(with_standing(&other, Keep), Decision::Use);
        }
    }
}
