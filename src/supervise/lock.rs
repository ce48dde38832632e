//! One replicator per database: a lock beside each file, held by PID 1 for its whole life. Must never
//! wait, and a killed holder must not block (the kernel lets go of flock(2) with the process).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::continuity::mark_path;
use crate::exit::{self, Failure};
use crate::plan::Database;

/// The locks on all databases.
#[derive(Debug, Default)]
pub struct Locks(Vec<Flock<File>>);

impl Locks {
    /// Takes all, or none: then the alias of one that another process has.
    ///
    /// # Errors
    /// 71 where the place beside a database cannot be written.
    pub fn take(databases: &[Database]) -> Result<Result<Self, String>, Failure> {
        let mut locks = Self::default();
        for database in databases {
            match lock(&database.path) {
                Ok(lock) => locks.0.push(lock),
                Err(Errno::EWOULDBLOCK) => return Ok(Err(database.alias.clone())),
                Err(errno) => {
                    let place = database.path.parent().unwrap_or(Path::new("/")).display();
                    return Err(Failure::new(
                        exit::SYSTEM,
                        format!(
                            "{}: cannot write beside the database in {place}: {}; Litestream must: make it writable for uid {}",
                            database.alias,
                            errno.desc(),
                            nix::unistd::geteuid()
                        ),
                    ));
                }
            }
        }
        Ok(Ok(locks))
    }
}

/// Whether another process replicates this database now.
pub fn is_held(database: &Path) -> bool {
    let Ok(file) = File::open(mark_path(database)) else { return false };
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
}

fn lock(database: &Path) -> Result<Flock<File>, Errno> {
    let io = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let path = mark_path(database);
    // On a new volume the app's directory may not be there yet.
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(io)?;
    }
    // As root beside an app's files: a link there must not lead us elsewhere.
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW);
    let file = options.open(&path).map_err(io)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_exclusive_all_or_nothing_and_gone_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let db = |name: &str| Database {
            alias: name.into(),
            path: dir.path().join(name),
            replica: String::new(),
            from: Vec::new(),
            has_own_meta: false,
            elsewhere: Vec::new(),
        };
        let (a, b) = (db("a"), db("b"));
        let first = Locks::take(std::slice::from_ref(&b)).unwrap().unwrap();
        assert!(is_held(&b.path) && !is_held(&a.path));
        assert_eq!(Locks::take(&[a.clone(), b.clone()]).unwrap().unwrap_err(), "b");
        assert!(!is_held(&a.path));
        drop(first);
        assert!(Locks::take(&[a, b]).unwrap().is_ok());
    }
}
