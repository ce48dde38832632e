//! The log file (`LITESTREAM_ENTRY_LOG=PATH`), which a process of its own writes: a disk that hangs would hang PID 1. Must never be waited for.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::Shell;
use super::machine::Role;
use super::start::why_not;
use crate::exit::{self, Ended, Failure};
use crate::settings::LogTo;
use crate::sys::{self, CHANNEL, Kind, Program};
use crate::{report, worker};

/// A writer of the log file that has lived for so long is followed by another at once.
const STEADY: Duration = Duration::from_secs(1);

impl Shell {
    /// Where stderr is the app's alone.
    pub(super) fn leave_stderr(&mut self, log: &LogTo) -> Result<(), Failure> {
        match log {
            LogTo::Stderr => {}
            LogTo::Nowhere => report::leave_stderr(None).unwrap_or_default(),
            LogTo::File(path) => {
                self.log_file = Some((path.clone(), Duration::ZERO));
                let failed =
                    |errno| Failure::new(exit::SYSTEM, format!("LITESTREAM_ENTRY_LOG: no process can write it: {}", why_not(errno)));
                self.start_log().map_err(failed)?;
            }
        }
        Ok(())
    }

    /// A disk that hangs would hang us with it.
    fn start_log(&mut self) -> Result<(), Errno> {
        let now = self.now();
        let Some((path, since)) = self.log_file.as_mut().filter(|_| !self.children.iter().any(|c| c.role == Role::Log)) else {
            return Ok(());
        };
        let (ours, theirs) = UnixStream::pair().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
        let own = self.boot.own_path.clone();
        let args = [own.clone().into_os_string(), worker::log::NAME.into(), path.clone().into_os_string()];
        let program = sys::own_program(&own);
        let descriptors = [(theirs.as_raw_fd(), CHANNEL)];
        *since = now;
        let pid =
            Program { path: program, args: &args, env: &self.boot.started_with, kind: Kind::Helper, descriptors: &descriptors }.spawn()?;
        self.child(Role::Log, pid);
        report::leave_stderr_by(ours.into());
        Ok(())
    }

    /// Where it could not be started, it may be now.
    pub(super) fn keep_log(&mut self) {
        // What keeps it from that is not for a log that nobody writes.
        let _ = self.start_log();
    }

    /// It was killed, or its file cannot be opened.
    pub(super) fn note_logs_end(&mut self, ended: &[(Pid, Ended)]) {
        let Some(log) = self.pid_of(Role::Log).filter(|log| ended.iter().any(|(pid, _)| pid == log)) else { return };
        self.children.retain(|child| child.pid != Some(log));
        let now = self.now();
        if self.log_file.as_ref().is_some_and(|(_, since)| now.saturating_sub(*since) >= STEADY) {
            self.keep_log();
        }
    }
}
