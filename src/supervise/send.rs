//! The signals that PID 1 sends. Must never signal a process that got the number of one that is reaped, nor keep to itself that a
//! signal could not be sent.

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Pid, getpgid};

use super::drain::Left;
use super::machine::{Event, Named, Role};
use super::{Child, Shell, drain};
use crate::identity::signal_as_its_user;
use crate::{process, report, sys};

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

/// The group that the app was started with, and the app where it has left that for another one (setpgid(2)).
fn group_of(app: Pid) -> Vec<Target> {
    let has_left = getpgid(Some(app)).is_ok_and(|group| group != app);
    [Target::Group(app)].into_iter().chain(has_left.then_some(Target::One(app))).collect()
}

impl Shell {
    pub(super) fn signal_app(&mut self, signal: i32) {
        let Some(pid) = self.pid_of(Role::App) else { return };
        self.told = self.boot.signal_group.then_some((pid.as_raw(), signal));
        Self::send("the app", &if self.boot.signal_group { group_of(pid) } else { vec![Target::One(pid)] }, signal);
    }

    /// What has stopped the app has stopped its group, as a terminal's Ctrl-Z does.
    pub(super) fn wake_app(&self) {
        if let Some(pid) = self.pid_of(Role::App).filter(|pid| process::may_be_stopped(pid.as_raw())) {
            Self::send("the app", &group_of(pid), libc::SIGCONT);
        }
    }

    /// Asks a helper to end, with its group.
    pub(super) fn stop(&mut self, role: Role) -> Option<Event> {
        if self.keeper.forget_start(role) {
            return Some(Event::NotStarted(role));
        }
        if let Some(pid) = self.pid_of(role) {
            Self::send(role.name(), &[Target::Group(pid)], libc::SIGTERM);
        }
        None
    }

    /// Lets those of our helpers go on that somebody has stopped: at the end there is no time for that.
    pub(super) fn wake(&self) {
        for (role, pid) in self.children.iter().filter(|c| c.role != Role::App).filter_map(|c| Some((c.role, c.pid?))) {
            Self::send(role.name(), &[Target::Group(pid)], libc::SIGCONT);
        }
    }

    /// Kills a helper with its group, and forgets it.
    pub(super) fn kill(&mut self, role: Role) {
        self.keeper.forget_start(role);
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

    /// Signals (0 sends none) those that are left and that this is for, and counts all.
    pub(super) fn drain(&mut self, signal: i32, is_for: impl Fn(&Left) -> bool) -> Event {
        // It never became the app.
        if let Some((pid, _)) = self.ready.take() {
            Self::send("the app", &[Target::One(pid)], libc::SIGKILL);
        }
        let helpers: Vec<i32> = self.children.iter().filter(|c| c.role != Role::App).filter_map(|c| Some(c.pid?.as_raw())).collect();
        self.left = drain::left(Pid::this().as_raw(), self.newest, &helpers);
        if signal != 0 {
            let targets = self.left.iter().filter(|left| is_for(left)).map(|left| Target::One(Pid::from_raw(left.process.pid)));
            Self::send("what the app has left behind", &targets.collect::<Vec<_>>(), signal);
            let stopped = self.left.iter().filter(|left| left.process.stopped).map(|left| Target::One(Pid::from_raw(left.process.pid)));
            Self::send("what the app has left behind", &stopped.collect::<Vec<_>>(), libc::SIGCONT);
        }
        Event::Left(self.left.len())
    }

    /// Says who is left, if anybody is.
    pub(super) fn name_left(&mut self, why: Named) {
        let Some(names) = drain::names(&self.left, why == Named::OutsideKilled) else { return };
        let said = match why {
            Named::LeftBehind => format!("the app ended with 0 and left behind {names}, which is ended, too: run it in the foreground"),
            Named::Killed => format!("what the app left behind has not ended in time: killing {names}"),
            Named::OutsideKilled => {
                format!("what was started beside the app (docker exec) has not ended in time: killing {names}")
            }
        };
        report::line(&said);
        self.note(said);
    }

    /// Signals them all; what is gone already needs none.
    fn send(whom: &str, targets: &[Target], signal: i32) {
        let refused = targets.iter().filter_map(|target| target.send(signal).err()).filter(|errno| *errno != Errno::ESRCH);
        if let Some(errno) = refused.reduce(|first, _| first) {
            report::news(format_args!("{whom} cannot be signalled ({signal}): {}", errno.desc()));
        }
    }
}
