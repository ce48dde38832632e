//! What PID 1 leaves for those who ask how it is, and the one thing that they may ask for. Must never make it wait for them.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::SystemTime;

use nix::sys::socket::UnixAddr;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Pid;

use super::Shell;
use super::machine::Role;
use crate::state::{EVENTS, STATE_FILE, View};
use crate::worker::{CONTROL_FILE, Message};
use crate::{report, runtime};

/// So many datagrams are read before other things are looked at.
const ROUND: usize = 16;

/// A socket at this path that is nobody else's from its first moment: it has the mode that it had before it had a name (`unix(7)`).
fn bind(path: &Path) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    fchmod(&socket, Mode::from_bits_truncate(0o600))?;
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

impl Shell {
    /// Opens a socket for datagrams (a FIFO would keep everybody waiting who just reads all files there). Without it, only
    /// `resnapshot` is not to be had.
    pub(super) fn listen(&mut self) {
        let Some(plan) = &self.boot.plan else { return };
        let path = plan.runtime.join(CONTROL_FILE);
        let _ = std::fs::remove_file(&path);
        let bound = bind(&path).and_then(|socket| self.boot.identity.as_ref().map_or(Ok(()), |who| who.own(&path)).map(|()| socket));
        match bound {
            Ok(socket) => self.control = Some(socket),
            Err(error) => report::debug(format_args!("{}: {error}", path.display())),
        }
    }

    /// What is asked for there: who may write to it may ask, but not speak for a worker. A flood waits for the next round.
    pub(super) fn asked(&self) -> Vec<Message> {
        let mut datagram = [0; 64];
        let received = std::iter::from_fn(|| {
            let length = self.control.as_ref()?.recv(&mut datagram).ok()?;
            Some(Message::decode(String::from_utf8_lossy(datagram.get(..length)?).trim_end()))
        });
        received.take(ROUND).flatten().filter(|message| *message == Message::Resnapshot).collect()
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
        if let Err(error) = runtime::write_for(&path, &state.encode(), self.boot.identity.as_ref()) {
            report::debug(format_args!("{}: {error}", path.display()));
        }
    }
}
