//! Starting a process: `posix_spawn(3)`, so that none of our code runs between fork and exec. Must never give a child more of ours
//! than it is told to.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use super::{Signals, block_all_signals, every_signal, set_of};

/// What a child is to be, which says what it is given of ours.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// The app, by way of `__exec`, which unblocks the signals: a process group of its own in our session, and ignored what was
    /// when we came.
    App(Signals),
    /// One of our own: a session of its own, since a terminal stops those of its session that write to it from the background
    /// (`stty tostop`).
    Helper,
}

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Absolute path; PATH is not searched.
    pub path: &'a Path,
    /// argv, the first word included.
    pub args: &'a [OsString],
    /// `NAME=value` strings, handed over as they are.
    pub env: &'a [CString],
    /// What it is to be.
    pub kind: Kind,
    /// What it gets of our descriptors, one after the other: ours, and which it becomes there. Besides 0, 1 and 2 all others close on exec.
    pub descriptors: &'a [(RawFd, RawFd)],
}

impl Program<'_> {
    /// Starts it. Only PID 1 does, whose signals are all blocked, and stay so.
    ///
    /// # Errors
    /// What `posix_spawn(3)` says, exec's errors included; `EINVAL` for a NUL byte in an argument.
    pub fn spawn(&self) -> nix::Result<Pid> {
        let path = cstring(self.path.as_os_str())?;
        let args = self.args.iter().map(|a| cstring(a)).collect::<nix::Result<Vec<_>>>()?;
        let mut attr = PosixSpawnAttr::init()?;
        let mut flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
        match self.kind {
            Kind::App(ignored) => {
                flags |= PosixSpawnFlags::POSIX_SPAWN_SETPGROUP;
                attr.set_pgroup(Pid::from_raw(0))?;
                attr.set_sigdefault(&set_of(!ignored))?;
                attr.set_sigmask(&every_signal())?;
            }
            Kind::Helper => {
                // nix has no name for it. A session's leader leads a group, too.
                flags |= PosixSpawnFlags::from_bits_retain(libc::POSIX_SPAWN_SETSID.into());
                attr.set_sigdefault(&every_signal())?;
                attr.set_sigmask(&SigSet::empty())?;
            }
        }
        attr.set_flags(flags)?;
        let mut files = PosixSpawnFileActions::init()?;
        // Those that keep their number are not for dup2, which refuses one that is above RLIMIT_NOFILE, as an inherited one may be.
        let (kept, moved): (Vec<_>, Vec<_>) = self.descriptors.iter().copied().partition(|(ours, theirs)| ours == theirs);
        for (ours, theirs) in moved {
            files.add_dup2(ours, theirs)?;
        }
        for (fd, _) in &kept {
            super::close_on_exec(*fd, false);
        }
        let spawned = posix_spawn(path.as_c_str(), &files, &attr, &args, self.env);
        for (fd, _) in &kept {
            super::close_on_exec(*fd, true);
        }
        // musl saves and restores the mask meanwhile, and forgets its own signals at that.
        let _ = block_all_signals();
        spawned
    }
}

fn cstring(text: &OsStr) -> nix::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)
}
