//! What this binary is started for by itself and by nobody else, a word each. Must never take an unknown word for one of them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use crate::litestream::call;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Becomes the app, or another program; see [`super::When`].
    Exec,
    /// Stands in for the app as Litestream's `-exec` child.
    Hold,
    /// Does a boot's first half, holds the locks, and touches the disks for PID 1.
    Keep,
    /// Writes the log file.
    Log,
    /// Prepares the databases; see [`super::Prepare`].
    Prepare,
    /// Asks whether Litestream refuses its configuration.
    Probe,
    /// Keeps the list of what is in directories of databases.
    Watch,
    /// Looks whether Litestream hangs.
    Pulse,
    /// Proves the backups.
    Check,
    /// Serves status over HTTP.
    Serve,
    /// Removes the copies from before a migration.
    Forget,
    /// Makes the last sync, when it is told to; see [`super::last_sync`].
    Flush,
}

/// When PID 1 runs a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rhythm {
    /// When a decision asks for it.
    OnDemand,
    /// From the app's start to its end; `again` so long after it has ended by itself.
    WithTheApp {
        /// The pause.
        again: Duration,
    },
    /// The same from the boot's beginning on.
    FromTheBoot {
        /// The pause.
        again: Duration,
    },
}

/// When one that should run on, and has died, is started again.
const AGAIN: Duration = Duration::from_secs(5);

impl Job {
    /// Each of them.
    pub const ALL: [Self; 12] = [
        Self::Exec,
        Self::Hold,
        Self::Keep,
        Self::Log,
        Self::Prepare,
        Self::Probe,
        Self::Watch,
        Self::Pulse,
        Self::Check,
        Self::Serve,
        Self::Forget,
        Self::Flush,
    ];

    /// As the first argument.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exec => "__exec",
            Self::Hold => "__hold",
            Self::Keep => "__keep",
            Self::Log => "__log",
            Self::Prepare => "__prepare",
            Self::Probe => "__probe",
            Self::Watch => "__watch",
            Self::Pulse => "__pulse",
            Self::Check => "__check",
            Self::Serve => "__serve",
            Self::Forget => "__forget",
            Self::Flush => "__flush",
        }
    }

    /// When PID 1 runs it.
    pub fn rhythm(self) -> Rhythm {
        match self {
            Self::Watch => Rhythm::WithTheApp { again: AGAIN },
            Self::Serve => Rhythm::FromTheBoot { again: AGAIN },
            Self::Exec
            | Self::Hold
            | Self::Keep
            | Self::Log
            | Self::Prepare
            | Self::Probe
            | Self::Pulse
            | Self::Check
            | Self::Forget
            | Self::Flush => Rhythm::OnDemand,
        }
    }

    /// From the first argument; none for anything else.
    pub fn parse(word: &OsStr) -> Option<Self> {
        Self::ALL.into_iter().find(|job| word == job.word())
    }
}

/// Whether a first argument is one that only this program itself gives.
pub fn is_internal(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"__")
}

/// The command for Litestream's `-exec`: this binary, by that path, with the descriptor of its socket.
///
/// # Errors
/// `InvalidData` where go-shellwords could not pass it on.
pub fn stand_in(own: &Path, socket: RawFd) -> io::Result<OsString> {
    let own = own.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this program's path is not UTF-8"))?;
    Ok(format!("{} {} {socket}", call::quote(own), Job::Hold.word()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_by_its_word_and_nothing_else_is() {
        for job in Job::ALL {
            assert_eq!(Job::parse(OsStr::new(job.word())), Some(job));
            assert!(is_internal(OsStr::new(job.word())));
        }
        for none in ["", "__", "__execs", "exec", "__EXEC"] {
            assert_eq!(Job::parse(OsStr::new(none)), None, "{none}");
        }
    }
}
