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
            if signal != libc::SIGCHLD && !is_of_our_doing(signal, info.ssi_code, info.ssi_pid == own) {
                signals.push(signal);
            }
        }
        signals
    }
}

/// Where a signal comes from (siginfo(2)'s `si_code`): the kernel itself.
const SI_KERNEL: i32 = 0x80;

/// Whether the kernel raised it for what we did ourselves, so that it is nothing to the app: for our own write to a closed stderr, or to a
/// file at `RLIMIT_FSIZE`, with ourselves as its sender; for our own second of `RLIMIT_CPU`, as the kernel.
fn is_of_our_doing(signal: i32, code: i32, by_us: bool) -> bool {
    match signal {
        libc::SIGPIPE | libc::SIGXFSZ => by_us,
        libc::SIGXCPU => code == SI_KERNEL,
        _ => false,
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrived.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From kill(2).
    const SI_USER: i32 = 0;

    #[test]
    fn a_signal_that_somebody_sent_is_the_apps_and_one_for_our_own_doing_is_not() {
        for signal in [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGXCPU, libc::SIGTERM] {
            assert!(!is_of_our_doing(signal, SI_USER, false), "{signal}");
        }
        assert!(is_of_our_doing(libc::SIGXFSZ, SI_USER, true) && is_of_our_doing(libc::SIGXCPU, SI_KERNEL, false));
        // What a terminal sends comes from the kernel, too.
        assert!(!is_of_our_doing(libc::SIGINT, SI_KERNEL, false));
    }
}
