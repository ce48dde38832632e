//! Exit codes: the table of this program's own, and wait status → code. Must never decide anything else.

use std::fmt;

/// `health`: not all is well, as Docker's HEALTHCHECK has it.
pub const UNWELL: u8 = 1;
/// Wrong command line (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;
/// A database or a backup is damaged, or verify found the backup behind or different (`EX_DATAERR`).
pub const DAMAGED: u8 = 65;
/// `required` and there is no backup; no such database (`EX_NOINPUT`).
pub const NO_BACKUP: u8 = 66;
/// The replica cannot be reached (`EX_UNAVAILABLE`).
pub const UNREACHABLE: u8 = 69;
/// Litestream failed and the policy is `exit`; an internal error (`EX_SOFTWARE`).
pub const INTERNAL: u8 = 70;
/// The operating system refused: fork, lock, permission (`EX_OSERR`).
pub const SYSTEM: u8 = 71;
/// The last sync could not be confirmed (`EX_IOERR`).
pub const UNSAVED: u8 = 74;
/// The configuration is wrong (`EX_CONFIG`).
pub const CONFIG: u8 = 78;
/// The app was found but cannot be executed, as shells and Docker have it.
pub const NOT_EXECUTABLE: u8 = 126;
/// The app was not found, as shells and Docker have it.
pub const NOT_FOUND: u8 = 127;

/// Whether this program says something by it, where it is not the app's.
pub fn is_ours(code: u8) -> bool {
    (USAGE..=CONFIG).contains(&code)
}

/// What a signal's number is added to for the code of what it ended, as shells and Docker have it.
pub const SIGNAL_BASE: u8 = 128;

/// All of them as the man page and docs/configuration.md have them.
pub const TABLE: [(&str, &str); 11] = [
    ("the app's, 128+n", "as the app ended; n is the signal"),
    ("126, 127", "the app cannot be executed, was not found"),
    ("1", "`health`: not all is well"),
    ("64", "wrong command line"),
    ("65", "a database or a backup is damaged, a database is behind its replica, or verify found the backup behind or different"),
    ("66", "`required` and there is no backup; no such database"),
    ("69", "the replica cannot be reached"),
    ("70", "Litestream failed and the policy is `exit`; an internal error"),
    ("71", "the operating system refused: fork, lock, permission"),
    ("74", "the last sync could not be confirmed"),
    ("78", "the configuration is wrong"),
];

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Code(u8),
    /// This signal ended it.
    Signal(i32),
}

impl Ended {
    /// The container's exit code for it: its own, or 128+n (as shells and Docker have it).
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            // Signal numbers end at 64, so the sum fits.
            Self::Signal(signal) => u8::try_from(signal).map_or(u8::MAX, |n| n.saturating_add(SIGNAL_BASE)),
        }
    }

    /// Whether it ended well.
    pub fn ok(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// An error that knows the exit code it deserves. Its text is one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One of the codes of this module.
    pub code: u8,
    /// One line (or one line per problem), never a secret.
    pub message: String,
}

impl Failure {
    /// A failure with this code and text.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_kept_and_a_signal_is_128_plus_n() {
        for code in 0..=255 {
            assert_eq!(Ended::Code(code).code(), code);
        }
        for (signal, code) in [(1, 129), (9, 137), (15, 143), (64, 192)] {
            assert_eq!(Ended::Signal(signal).code(), code);
        }
    }
    #[test]
    fn the_table_has_every_code_and_the_configuration_page_has_the_table() {
        let named: Vec<String> = TABLE.iter().flat_map(|(codes, _)| codes.split(", ")).map(str::to_owned).collect();
        for code in [UNWELL, USAGE, DAMAGED, NO_BACKUP, UNREACHABLE, INTERNAL, SYSTEM, UNSAVED, CONFIG, NOT_EXECUTABLE, NOT_FOUND] {
            assert!(named.contains(&code.to_string()), "{code}");
        }
        let page = include_str!("../docs/configuration.md");
        let rows: Vec<String> = TABLE.iter().map(|(codes, meaning)| format!("| {codes} | {meaning} |")).collect();
        assert!(page.contains(&rows.join("\n")), "docs/configuration.md lacks:\n{}", rows.join("\n"));
    }
}
