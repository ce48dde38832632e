//! What PID 1 has left for those who ask how it is. Must never wait for its keeper to write it.

use std::time::SystemTime;

use nix::unistd::Pid;

use super::Shell;
use super::machine::Role;
use crate::protocol::keeper::Ask;
use crate::state::{EVENTS, View};

impl Shell {
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
        let state = &mut self.state;
        if !self.stale && state.view == view && state.litestream == litestream {
            return;
        }
        if state.view.replication != view.replication {
            state.since = SystemTime::now();
        }
        (state.view, state.litestream, self.stale) = (view, litestream, false);
        let text = state.encode();
        self.ask(Ask::State(text));
    }
}
