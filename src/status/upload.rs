//! How far the first upload of a life is that begins with a whole database (0.5): until that is in the replica, nothing new is. Must never be
//! taken for more than an estimate: Litestream does not tell.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::identity;
use crate::litestream::backup::Position;
use crate::litestream::local;
use crate::litestream::local::Ltx;
use crate::mark::Mark;

/// How far it is, in percent and never 100; none where there is none under way.
///
/// 0.5 goes on after a restore with a file of the whole database, and uploads its files one after the other (`replica.go`: `Sync`). What
/// the process has written besides its own files has gone to the replica. `synced` is when the replica last had everything.
pub(super) fn first_snapshot(database: &Path, litestream: i32, synced: Option<SystemTime>) -> Option<u8> {
    let Mark::Restored(Position::Txid(restored)) = Mark::read(database) else { return None };
    let own: Vec<Ltx> = local::every_ltx(database).collect();
    let made = |ltx: &Ltx| fs::metadata(&ltx.path).and_then(|m| m.modified()).ok();
    // Up to there it may have fetched what the replica has. After a restore from the past a snapshot is made before it starts.
    let first = own.iter().filter(|ltx| ltx.txid > restored).min_by_key(|ltx| ltx.txid);
    let Some(first) = first else { return (restored < u64::MAX).then_some(0) };
    if synced.is_some_and(|at| made(first).is_some_and(|made| made <= at)) {
        return None;
    }
    let bytes = |ltx: &Ltx| ltx.bytes().unwrap_or_default();
    let written = written_by(litestream)?.saturating_sub(own.iter().map(bytes).fold(0, u64::saturating_add));
    percent(written, bytes(first))
}

fn percent(done: u64, whole: u64) -> Option<u8> {
    u8::try_from(done.saturating_mul(100).checked_div(whole)?.min(99)).ok()
}

/// Bytes that a process has written to files and sockets (proc(5): `wchar` in `io`).
pub fn written_by(pid: i32) -> Option<u64> {
    let file = format!("/proc/{pid}/io");
    // Root without CAP_SYS_PTRACE, as in a container, may not look into another user's process, and that user may.
    let read = || fs::read_to_string(&file).ok();
    let text = identity::as_owner_of(Path::new(&format!("/proc/{pid}")), read).unwrap_or_else(|_| read())?;
    text.lines().find_map(|line| line.strip_prefix("wchar: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_called_complete() {
        assert_eq!((percent(0, 200), percent(68, 200), percent(200, 200), percent(u64::MAX, 7)), (Some(0), Some(34), Some(99), Some(99)));
        assert_eq!(percent(5, 0), None);
    }
}
