//! One replicator per database: a lock beside each file, held by PID 1's keeper for the life of a boot, and a second one on the same file that
//! says what it has decided about the database. Must never wait, and a killed holder must not block, nor go on saying anything (the
//! kernel lets go of both with the process).
//!
//! The lock is flock(2)'s. The second one is of an open file description (fcntl(2), `F_OFD_SETLK`), since that can be asked for
//! without being taken: for reading it says "not decided yet, or at the last sync", for writing "decided, and replicated". Where there is neither, the
//! holder is of an older release, or its file system has no such locks: then others decide for themselves.
//!
//! Who may write the directory may delete the file, and the next one would lock another in its place. So a guard lies on the directory
//! itself: a lock of an open file description again, on a byte that the file's name gives. A directory can be opened for reading
//! alone, and locked for reading alone, which keeps nobody out: who has taken it asks whether anybody else has, and then has not.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;

use crate::exit::{self, Failure};
use crate::files::{self, Dir, Owner, name_of};
use crate::mark::{self, mark_path};
use crate::plan::Database;
use crate::report;

/// The locks on all databases.
#[derive(Debug, Default)]
pub struct Locks {
    held: Vec<Held>,
    /// What is said beside them.
    said: libc::c_int,
}

/// The lock on one.
#[derive(Debug)]
struct Held {
    alias: String,
    database: PathBuf,
    file: Flock<File>,
    /// None where the directory has no such locks, or may not be read.
    _guard: Option<File>,
    /// It is not in its place any more, and cannot be put there.
    lost: bool,
}

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
        let mut locks = Self { held: Vec::new(), said: libc::F_RDLCK };
        for database in databases {
            match lock(&database.path) {
                Ok(Some((file, guard))) => {
                    let (alias, database) = (database.alias.clone(), database.path.clone());
                    locks.held.push(Held { alias, database, file, _guard: guard, lost: false });
                }
                Ok(None) => return Ok(Err(database.alias.clone())),
                Err(error) => return Err(cannot_write(database, &error)),
            }
        }
        locks.say(libc::F_RDLCK);
        Ok(Ok(locks))
    }

    /// Says that all are decided about and replicated.
    pub fn pass(&mut self) {
        self.say(libc::F_WRLCK);
    }

    /// Says that from here on nothing more is replicated: whoever writes later must not take it for granted.
    pub fn withdraw(&mut self) {
        self.say(libc::F_RDLCK);
    }

    fn say(&mut self, kind: libc::c_int) {
        self.said = kind;
        for held in &self.held {
            held.say(kind);
        }
    }

    /// Sees to it that each is where others look for it. They were locked all the time; a line for each that was not in its place.
    pub fn keep(&mut self) -> Vec<String> {
        let said = self.said;
        self.held.iter_mut().filter_map(|held| held.keep(said)).collect()
    }
}

impl Held {
    fn say(&self, kind: libc::c_int) {
        if let Err(errno) = fcntl(&*self.file, FcntlArg::F_OFD_SETLK(&one_byte(kind, 0))) {
            report::debug(format_args!("what is decided cannot be said to others on this volume: {}", errno.desc()));
        }
    }

    /// See [`Locks::keep`]. Where there is no guard, another process may have the new one by now.
    fn keep(&mut self, said: libc::c_int) -> Option<String> {
        if is_in_place(&self.database, &self.file) {
            return None;
        }
        let path = mark_path(&self.database);
        let again = mark::open_as(&self.database, &self.file).map_err(|error| error.to_string()).and_then(|file| {
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| "another process has locked what is there now".to_owned())
        });
        match again {
            Ok(file) => {
                (self.file, self.lost) = (file, false);
                self.say(said);
                Some(format!("{}: {} was removed or replaced: made again, and locked all the time", self.alias, path.display()))
            }
            Err(why) if !std::mem::replace(&mut self.lost, true) => {
                Some(format!("{}: {} was removed or replaced, and cannot be made again: {why}", self.alias, path.display()))
            }
            Err(_) => None,
        }
    }
}

fn cannot_write(database: &Database, error: &std::io::Error) -> Failure {
    let place = database.path.parent().unwrap_or(Path::new("/")).display();
    let alias = &database.alias;
    let what = match error.raw_os_error().map(Errno::from_raw) {
        Some(errno) if files::are_no_locks(errno) => format!(
            "{alias}: there are no file locks in {place} ({}), so that another container on this volume would not be noticed; see to it that there is \
             never more than one, and set LITESTREAM_ENTRY_LOCK=off to go on without",
            errno.desc()
        ),
        Some(errno) => {
            format!("{alias}: cannot write beside the database in {place}: {}; Litestream must: {}", errno.desc(), files::what_to_do(error))
        }
        None => format!("{alias}: {error}"),
    };
    Failure::new(exit::SYSTEM, what)
}

fn one_byte(kind: libc::c_int, start: i64) -> libc::flock {
    let short = |value: libc::c_int| i16::try_from(value).unwrap_or_default();
    libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start: start, l_len: 1, l_pid: 0 }
}

/// Whether another process replicates this database now.
pub fn is_held(database: &Path) -> bool {
    holding(database) != Holding::Free
}

/// Who has this database's lock.
pub fn holding(database: &Path) -> Holding {
    match by_file(database) {
        // Its holder makes the file again in a moment, and can say nothing until then.
        Holding::Free if is_guarded(database) => Holding::Silent,
        holding => holding,
    }
}

fn by_file(database: &Path) -> Holding {
    let Ok(file) = files::open(&mark_path(database)) else { return Holding::Free };
    let Err((file, Errno::EWOULDBLOCK)) = Flock::lock(file, FlockArg::LockSharedNonblock) else { return Holding::Free };
    // Only now, so that what is said is of one who had the lock after that.
    let mut said = one_byte(libc::F_WRLCK, 0);
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut said)).map(|_| i32::from(said.l_type)) {
        Ok(libc::F_WRLCK) => Holding::Passed,
        Ok(libc::F_RDLCK) => Holding::Undecided,
        _ => Holding::Silent,
    }
}

/// The lock, and the guard; none where another process has one of them.
fn lock(database: &Path) -> std::io::Result<Option<(Flock<File>, Option<File>)>> {
    // On a new volume the app's directory may not be there yet.
    if let Some(directory) = database.parent() {
        files::make_directories(directory, Owner::Directorys)?;
    }
    for _ in 0..TRIES {
        let file = match Flock::lock(mark::open(database)?, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(errno.into()),
        };
        let Ok(guard) = guard(database) else { return Ok(None) };
        // Deleted between the two, it keeps nobody out.
        if is_in_place(database, &file) {
            return Ok(Some((file, guard)));
        }
    }
    Err(std::io::Error::other(format!("{} is removed again and again", mark_path(database).display())))
}

/// How often a file is tried that somebody deletes meanwhile.
const TRIES: usize = 5;

fn is_in_place(database: &Path, file: &File) -> bool {
    let path = mark_path(database);
    Dir::of(&path).is_ok_and(|dir| dir.names(name_of(&path), file))
}

/// Another process has it.
struct Guarded;

/// Takes the guard, unless another process has it; none where there are no such locks.
fn guard(database: &Path) -> Result<Option<File>, Guarded> {
    let Ok(directory) = directory_of(database) else { return Ok(None) };
    match fcntl(&directory, FcntlArg::F_OFD_SETLK(&one_byte(libc::F_RDLCK, place_of(database)))) {
        Ok(_) if has_another(&directory, database) => Err(Guarded),
        Ok(_) => Ok(Some(directory)),
        Err(errno) => {
            report::debug(format_args!("{}: its directory cannot be locked: {}", database.display(), errno.desc()));
            Ok(None)
        }
    }
}

fn is_guarded(database: &Path) -> bool {
    directory_of(database).is_ok_and(|directory| has_another(&directory, database))
}

fn directory_of(database: &Path) -> std::io::Result<File> {
    let directory = database.parent().unwrap_or(Path::new("/"));
    File::options().read(true).custom_flags(libc::O_DIRECTORY).open(directory)
}

/// Whether a lock for writing would meet somebody's.
fn has_another(directory: &File, database: &Path) -> bool {
    let mut lock = one_byte(libc::F_WRLCK, place_of(database));
    fcntl(directory, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
}

/// The byte for a name, the same in every release (FNV-1a), far from where anything could be.
fn place_of(database: &Path) -> i64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = name_of(database).as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    // Below the end of what a file may have, and not 0.
    i64::try_from(hash >> 2 | 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that another test starts has our descriptors, and with them our locks, until its exec.
    #[track_caller]
    fn assert_free(path: &Path) {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while holding(path) != Holding::Free {
            assert!(std::time::Instant::now() < until, "it is still held");
            std::thread::yield_now();
        }
    }

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
        let mut first = Locks::take(std::slice::from_ref(&b)).unwrap().unwrap();
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
        assert_free(&b.path);
        let older = Flock::lock(mark::open(&a.path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(holding(&a.path), Holding::Silent);
        drop(older);
        let second = Locks::take(std::slice::from_ref(&b)).unwrap().unwrap();
        assert_eq!(holding(&b.path), Holding::Undecided, "what the first one said does not hold for the second");
        drop(second);
        assert!(Locks::take(&[a, b]).unwrap().is_ok());
    }

    #[test]
    fn who_deletes_a_lock_does_not_get_it_and_its_holder_makes_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let (alias, replica) = ("a".to_owned(), String::new());
        let a = Database { alias, path, replica, from: Vec::new(), has_own_meta: false, elsewhere: Vec::new() };
        let mut first = Locks::take(std::slice::from_ref(&a)).unwrap().unwrap();
        first.pass();
        assert!(first.keep().is_empty());
        mark::Mark::Clean(7).write(&a.path).unwrap();
        for round in 0..2 {
            std::fs::remove_file(mark_path(&a.path)).unwrap();
            assert_eq!(holding(&a.path), Holding::Silent);
            assert_eq!(Locks::take(std::slice::from_ref(&a)).unwrap().unwrap_err(), "a");
            if round == 1 {
                std::fs::remove_file(mark_path(&a.path)).unwrap();
                std::os::unix::fs::symlink("/nowhere", mark_path(&a.path)).unwrap();
            }
            assert_eq!(first.keep().len(), 1);
            assert_eq!(holding(&a.path), Holding::Passed);
            assert_eq!(mark::Mark::read(&a.path), mark::Mark::Clean(7));
        }
        drop(first);
        assert_free(&a.path);
        assert!(Locks::take(std::slice::from_ref(&a)).unwrap().is_ok());
    }
}
