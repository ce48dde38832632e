//! What the worker `__prepare` is started for, as its argument says it. Must never take an unknown word for one.

use std::ffi::{OsStr, OsString};

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
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(each, _)| *each == self).map_or("", |(_, word)| word)
    }

    /// From an argument; none for anything else.
    fn parse(word: &OsStr) -> Option<Self> {
        Self::WORDS.iter().find(|(_, each)| word == *each).map(|(preparation, _)| *preparation)
    }
}

/// The arguments of `__prepare`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepare {
    /// What it is started for.
    pub preparation: Preparation,
    /// The app failed soon after its start, beside pins.
    pub app_failed: bool,
}

const FAILED: &str = "failed";

impl Prepare {
    /// As arguments.
    pub fn words(self) -> Vec<&'static str> {
        std::iter::once(self.preparation.word()).chain(self.app_failed.then_some(FAILED)).collect()
    }

    /// From arguments; none for anything else.
    pub fn parse(words: &[OsString]) -> Option<Self> {
        let (preparation, app_failed) = match words {
            [word] => (word, false),
            [word, failed] if failed == FAILED => (word, true),
            _ => return None,
        };
        Some(Self { preparation: Preparation::parse(preparation)?, app_failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_arrives_as_it_was_sent_and_nothing_else_is_taken_for_one() {
        for (preparation, _) in Preparation::WORDS {
            for app_failed in [false, true] {
                let sent = Prepare { preparation, app_failed };
                let words: Vec<OsString> = sent.words().into_iter().map(OsString::from).collect();
                assert_eq!(Prepare::parse(&words), Some(sent));
            }
        }
        for none in [&[][..], &["boots"], &["boot", "no"], &["failed"], &["boot", "failed", "failed"]] {
            assert_eq!(Prepare::parse(&none.iter().map(OsString::from).collect::<Vec<_>>()), None, "{none:?}");
        }
    }
}
