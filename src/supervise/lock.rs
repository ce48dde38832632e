//! One replicator per database: a lock beside each file, held by PID 1 for its whole life, and a second one on the same file that
//! says what it has decided about the database. Must never wait, and a killed holder must not block, nor go on saying anything (the
//! kernel lets go of both with the process).
//!
//! The lock is flock(2)'s. The second one is of an open file description (fcntl(2), `F_OFD_SETLK`), since that can be asked for
//! without being taken: for reading it says "not decided yet, or at the last sync", for writing "decided, and replicated". Where there is neither, the
//! holder is of an older release, or its file system has no such locks: then others decide for themselves.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;

use crate::continuity::mark_path;
use crate::exit::{self, Failure};
use crate::plan::Database;
use crate::report;

/// The locks on all databases.
#[derive(Debug, Default)]
pub struct Locks(Vec<Flock<File>>);

/// Who has a database's lock, and what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Nobody.
    Free,
    /// One that has decided about the database and replicates it.
    Passed,
    /// One that has not yet, or makes its last sync.
    Undecided,
    /// One of a release that does not say.
    Silent,
}

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
        locks.say(libc::F_RDLCK);
        Ok(Ok(locks))
    }

    /// Says that all are decided about and replicated.
    pub fn pass(&self) {
        self.say(libc::F_WRLCK);
    }

    /// Says that from here on nothing more is replicated: whoever writes later must not take it for granted.
    pub fn withdraw(&self) {
        self.say(libc::F_RDLCK);
    }

    fn say(&self, kind: libc::c_int) {
        for file in &self.0 {
            if let Err(errno) = fcntl(&**file, FcntlArg::F_OFD_SETLK(&first_byte(kind))) {
                report::debug(format_args!("what is decided cannot be said to others on this volume: {}", errno.desc()));
            }
        }
    }
}

fn first_byte(kind: libc::c_int) -> libc::flock {
    let short = |value: libc::c_int| i16::try_from(value).unwrap_or_default();
    libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start: 0, l_len: 1, l_pid: 0 }
}

/// Whether another process replicates this database now.
pub fn is_held(database: &Path) -> bool {
    holding(database) != Holding::Free
}

/// Who has this database's lock.
pub fn holding(database: &Path) -> Holding {
    let Ok(file) = File::open(mark_path(database)) else { return Holding::Free };
    let Err((file, Errno::EWOULDBLOCK)) = Flock::lock(file, FlockArg::LockSharedNonblock) else { return Holding::Free };
    // Only now, so that what is said is of one who had the lock after that.
    let mut said = first_byte(libc::F_WRLCK);
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut said)).map(|_| i32::from(said.l_type)) {
        Ok(libc::F_WRLCK) => Holding::Passed,
        Ok(libc::F_RDLCK) => Holding::Undecided,
        _ => Holding::Silent,
    }
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
        assert_eq!((holding(&a.path), holding(&b.path)), (Holding::Free, Holding::Undecided));
        first.pass();
        assert_eq!(holding(&b.path), Holding::Passed);
        first.withdraw();
        assert_eq!(holding(&b.path), Holding::Undecided);
        first.pass();
        assert_eq!(Locks::take(&[a.clone(), b.clone()]).unwrap().unwrap_err(), "b");
        assert!(!is_held(&a.path));
        drop(first);
        assert_eq!(holding(&b.path), Holding::Free);
        let older = lock(&a.path).unwrap();
        assert_eq!(holding(&a.path), Holding::Silent);
        drop(older);
        let second = Locks::take(std::slice::from_ref(&b)).unwrap().unwrap();
        assert_eq!(holding(&b.path), Holding::Undecided, "what the first one said does not hold for the second");
        drop(second);
        assert!(Locks::take(&[a, b]).unwrap().is_ok());
    }
}
