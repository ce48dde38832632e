//! What the worker `__prepare` is started for, as its argument says it. Must never take an unknown word for one.

use std::ffi::OsStr;

/// What `__prepare` is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// A boot with the lock: decide about every database, restore what is missing, then pin or empty the WALs.
    Boot,
    /// Litestream is started again under a live app: empty the WALs, nothing else.
    Repair,
    /// The lock has become ours under a live app: decide as at a boot, but replace nothing, then empty the WALs.
    TakeOver,
    /// The process that has the lock does not say what it has decided: decide for our own app, and write nothing.
    Beside,
    /// The lock has become ours after the app's end: decide before the last sync, and write nothing.
    Ending,
    /// A job: restore what is missing, and use what is here as it is.
    Job,
}

impl Preparation {
    const WORDS: [(Self, &str); 6] = [
        (Self::Boot, "boot"),
        (Self::Repair, "repair"),
        (Self::TakeOver, "take-over"),
        (Self::Beside, "beside"),
        (Self::Ending, "ending"),
        (Self::Job, "job"),
    ];

    /// As an argument.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(each, _)| *each == self).map_or("", |(_, word)| word)
    }

    /// From an argument; none for anything else.
    pub fn parse(word: &OsStr) -> Option<Self> {
        Self::WORDS.iter().find(|(_, each)| word == *each).map(|(preparation, _)| *preparation)
    }
}
