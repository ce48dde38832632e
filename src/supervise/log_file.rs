//! The log file (`LITESTREAM_ENTRY_LOG=PATH`), which a process of its own writes: a disk that hangs would hang PID 1. Must never be waited for.

use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::Shell;
use super::machine::Role;
use super::start::{channel, why_not};
use crate::exit::{self, Ended, Failure};
use crate::protocol::Job;
use crate::report;
use crate::settings::LogTo;
use crate::sys::CHANNEL;

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
        if self.pid_of(Role::Log).is_some() {
            return Ok(());
        }
        let now = self.now();
        let Some((path, since)) = self.log_file.as_mut() else { return Ok(()) };
        *since = now;
        let words = [Job::Log.word().into(), path.clone().into_os_string()];
        let (ours, theirs) = channel()?;
        self.start_own(Role::Log, words, &[(theirs.as_raw_fd(), CHANNEL)])?;
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
        let lived = self.log_file.as_ref().map(|(_, since)| self.now().saturating_sub(*since));
        if self.took_its_end(Role::Log, ended) && lived >= Some(STEADY) {
            self.keep_log();
        }
    }
}
