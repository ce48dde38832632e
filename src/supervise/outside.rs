//! What PID 1 leaves for those who ask how it is, and the one thing that they may ask for. Must never make it wait for them.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use super::Shell;
use super::machine::Role;
use super::pipe::Pipe;
use crate::state::{EVENTS, STATE_FILE, View};
use crate::worker::CONTROL_FILE;
use crate::{report, runtime};

impl Shell {
    /// Opens the FIFO for reading and writing, so that it never ends. Without it, only `resnapshot` is not to be had.
    pub(super) fn listen(&mut self) {
        let Some(plan) = &self.boot.plan else { return };
        let path = plan.runtime.join(CONTROL_FILE);
        let made = mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(std::io::Error::from);
        let shared = made.and_then(|()| self.boot.identity.as_ref().map_or(Ok(()), |identity| identity.own(&path)));
        let opened = shared.and_then(|()| File::options().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&path));
        match opened {
            Ok(fifo) => self.control = Pipe::new(fifo.into()),
            Err(error) => report::debug(format_args!("{}: {error}", path.display())),
        }
    }

    /// Keeps what was said for those who ask later.
    pub(super) fn note(&mut self, text: String) {
        let state = &mut self.state;
        state.events.push((SystemTime::now(), text));
        let surplus = state.events.len().saturating_sub(EVENTS);
        state.events.drain(..surplus);
        self.stale = true;
    }

    /// Leaves how things stand where it has changed. One that cannot be written is an old one: nothing depends on it.
    pub(super) fn leave_state(&mut self, view: View) {
        let litestream = self.pid_of(Role::Litestream).map_or(0, Pid::as_raw);
        let Some(plan) = &self.boot.plan else { return };
        let state = &mut self.state;
        if !self.stale && state.view == view && state.litestream == litestream {
            return;
        }
        if state.view.replication != view.replication {
            state.since = SystemTime::now();
        }
        (state.view, state.litestream, self.stale) = (view, litestream, false);
        let path = plan.runtime.join(STATE_FILE);
        let shared = |()| self.boot.identity.as_ref().map_or(Ok(()), |identity| identity.own(&path));
        if let Err(error) = runtime::write(&path, &state.encode()).and_then(shared) {
            report::debug(format_args!("{}: {error}", path.display()));
        }
    }
}
