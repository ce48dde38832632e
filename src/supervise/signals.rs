//! Signals as a descriptor (signalfd(2)): each in its order, none lost from the first instruction on.
//! Must never block, and must be set up before the first child.

use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::sys;

/// The descriptor on which signals arrive.
#[derive(Debug)]
pub struct Signals {
    arrived: SignalFd,
    /// What was ignored when we came, SIGCHLD left out: the app is to ignore it, too.
    pub ignored: sys::Signals,
}

impl Signals {
    /// Blocks everything that can be blocked: a blocked signal is queued even for PID 1, whose default
    /// dispositions the kernel would otherwise take for "ignore".
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> nix::Result<Self> {
        sys::block_all_signals()?;
        let ignored = sys::ignored_signals();
        // While it is ignored, the kernel reaps our children, and keeps how they ended to itself.
        sys::default_disposition(Signal::SIGCHLD);
        let arrived = SignalFd::with_flags(&sys::every_signal(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { arrived, ignored })
    }

    /// All that have arrived, in order, SIGCHLD and our own noise left out.
    pub fn pending(&mut self) -> Vec<i32> {
        let own = u32::try_from(Pid::this().as_raw()).unwrap_or_default();
        let mut signals = Vec::new();
        while let Ok(Some(info)) = self.arrived.read_signal() {
            let Ok(signal) = i32::try_from(info.ssi_signo) else { continue };
            // Our own write to a closed stderr raises SIGPIPE, with our own pid as its sender.
            let ours = info.ssi_pid == own && signal == libc::SIGPIPE;
            if signal != libc::SIGCHLD && !ours {
                signals.push(signal);
            }
        }
        signals
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrived.as_fd()
    }
}
