//! The signals that PID 1 sends. Must never signal a process that got the number of one that is reaped, nor keep to itself that a
//! signal could not be sent.

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use super::machine::Role;
use super::{Child, Shell, drain};
use crate::identity::signal_as_its_user;
use crate::{report, sys};

/// Whom a signal is for.
#[derive(Clone, Copy)]
enum Target {
    One(Pid),
    Group(Pid),
}

impl Target {
    fn send(self, signal: i32) -> nix::Result<()> {
        match self {
            Self::One(pid) => signal_as_its_user(pid, || sys::kill(pid, signal)),
            Self::Group(leader) => signal_as_its_user(leader, || sys::kill_group(leader, signal)),
        }
    }
}

impl Shell {
    pub(super) fn signal_app(&self, signal: i32) {
        let Some(pid) = self.pid_of(Role::App) else { return };
        Self::send("the app", &[if self.boot.signal_group { Target::Group(pid) } else { Target::One(pid) }], signal);
    }

    /// Asks a helper to end, with its group.
    pub(super) fn stop(&self, role: Role) {
        if let Some(pid) = self.pid_of(role) {
            Self::send(role.name(), &[Target::Group(pid)], libc::SIGTERM);
        }
    }

    /// Kills a helper with its group, and forgets it.
    pub(super) fn kill(&mut self, role: Role) {
        let killed: Vec<Child> = self.children.extract_if(.., |c| c.role == role).collect();
        for Child { id, pid, .. } in killed {
            if let Some(pid) = pid {
                Self::send(role.name(), &[Target::Group(pid), Target::One(pid)], libc::SIGKILL);
            }
            self.pipes.retain(|(other, _)| *other != id);
            if role == Role::Litestream {
                self.hold = None;
            }
        }
    }

    /// Signals (0 sends none) what the app has left behind, and counts it.
    pub(super) fn drain(&mut self, signal: i32) -> usize {
        // It never became the app.
        if let Some((pid, _)) = self.ready.take() {
            Self::send("the app", &[Target::One(pid)], libc::SIGKILL);
        }
        let helpers: Vec<i32> = self.children.iter().filter(|c| c.role != Role::App).filter_map(|c| Some(c.pid?.as_raw())).collect();
        let left = drain::left(Pid::this().as_raw(), &helpers);
        if signal != 0 {
            let targets: Vec<Target> = left.iter().copied().map(Target::One).collect();
            Self::send("what the app has left behind", &targets, signal);
        }
        left.len()
    }

    /// Signals them all; what is gone already needs none.
    fn send(whom: &str, targets: &[Target], signal: i32) {
        let refused = targets.iter().filter_map(|target| target.send(signal).err()).filter(|errno| *errno != Errno::ESRCH);
        if let Some(errno) = refused.reduce(|first, _| first) {
            report::news(format_args!("{whom} cannot be signalled ({signal}): {}", errno.desc()));
        }
    }
}
