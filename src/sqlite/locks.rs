//! Who else has a database open, by SQLite's own locks. Must not be called while this process has it open: a process that closes a file drops all
//! its POSIX locks on it.

use std::fs::File;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::files;
use crate::layout::beside;

/// Every connection to a WAL database holds a shared lock on byte 128 of its `-shm` (SQLite's
/// "deadman switch"); across containers on one host too, where the pid reads 0.
///
/// Must not be called while this process has it open.
pub fn is_open_elsewhere(database: &Path) -> bool {
    files::open_with_locks(&beside(database, "-shm")).is_ok_and(|file| is_locked(&file, 128, 1))
}

/// Whether another process holds this byte of a `-shm` for itself.
pub fn is_taken(index: &File, byte: i64) -> bool {
    refuses(index, libc::F_RDLCK, byte, 1).unwrap_or_default()
}

/// Whether another process holds any lock in this range. Unknown is held: to empty a WAL, and to replace nothing, is right either way.
fn is_locked(file: &File, start: i64, length: i64) -> bool {
    refuses(file, libc::F_WRLCK, start, length).unwrap_or(true)
}

/// Whether another process' lock in this range would refuse one of this kind to us; none where the file system does not say.
fn refuses(file: &File, kind: libc::c_int, start: i64, length: i64) -> Option<bool> {
    let short = |value: i32| i16::try_from(value).unwrap_or_default();
    let mut lock = libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start: start, l_len: length, l_pid: 0 };
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    Some(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// Whether another process holds a database for itself, so that nobody else may even read it: for long, that is exclusive locking
/// mode, and for a moment a commit in any mode but WAL, or the end of the last connection (SQLite's `os_unix.c`: the shared lock's
/// bytes).
///
/// Must not be called while this process has it open.
pub fn is_held_alone(database: &File) -> bool {
    refuses(database, libc::F_RDLCK, 0x4000_0002, 510).unwrap_or_default()
}

/// Whether another process has a database open, whatever its journal mode, as far as its locks tell: in WAL mode and in exclusive
/// locking mode each connection holds one, in the other modes only a transaction does (SQLite's `os_unix.c`: the lock bytes begin
/// at 1 GiB).
///
/// Must not be called while this process has it open.
pub fn is_in_use(database: &Path) -> bool {
    is_open_elsewhere(database) || files::open_with_locks(database).is_ok_and(|file| is_locked(&file, 0x4000_0000, 512))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_database_that_somebody_has_open_is_in_use_in_any_journal_mode_as_far_as_locks_tell() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        assert!(!is_in_use(&path));
        // Locks of this very process do not count, so another one has it open.
        let open = |statements: &str| {
            let script = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],isolation_level=None); [c.execute(s).fetchall() for s in sys.argv[2].split(';')]; print('open',flush=True); sys.stdin.read()";
            let mut other = std::process::Command::new("python3");
            other.args(["-c", script]).arg(&path).arg(statements).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
            let mut other = other.spawn().unwrap();
            std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut [0; 4]).unwrap();
            other
        };
        for statements in
            ["BEGIN IMMEDIATE", "PRAGMA locking_mode=EXCLUSIVE;BEGIN IMMEDIATE;COMMIT", "PRAGMA journal_mode=WAL;SELECT * FROM t"]
        {
            let mut other = open(statements);
            assert!(is_in_use(&path), "{statements}");
            drop(other.stdin.take());
            other.wait().unwrap();
            assert!(!is_in_use(&path), "{statements}");
        }
    }
}
