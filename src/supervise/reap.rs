//! Reaping: every child that has ended, ours and those that were orphaned to us. Must never wait.

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::exit::Ended;
use crate::sys;

/// All that have ended since the last call. SIGCHLD coalesces, so the kernel is asked until it has no more.
pub fn ended() -> Vec<(Pid, Ended)> {
    let mut all = Vec::new();
    loop {
        match sys::reap_one() {
            Ok(Some(ended)) => all.push(ended),
            Err(Errno::EINTR) => {}
            Ok(None) | Err(_) => return all,
        }
    }
}
