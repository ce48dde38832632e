//! What PID 1 tells the worker of the last sync to do: a line on its channel. Must never take what it does not know for anything else.

use std::time::Duration;

/// How the last sync is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// By the Litestream that runs.
    Socket,
    /// By a pass of our own.
    Pass,
    /// After Litestream's end, by a pass where others still write to the database: 0.5's `/sync` ends the lock by which it has read all of
    /// it, and what they write until its end may leave a gap.
    Shared,
    /// Not at all: the databases go back to what they were before a migration that failed.
    Rollback,
}

impl Sync {
    const WORDS: [(Self, &str); 4] =
        [(Self::Socket, "socket"), (Self::Pass, "pass"), (Self::Shared, "shared"), (Self::Rollback, "rollback")];
}

/// One of them, with what it needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastSync {
    /// How it is made.
    pub sync: Sync,
    /// In what time; whole milliseconds.
    pub within: Duration,
    /// The app failed soon after its start, beside pins.
    pub app_failed: bool,
}

/// No line is longer.
pub const LONGEST: usize = 64;

impl LastSync {
    /// As a line.
    pub fn encode(self) -> String {
        let word = Sync::WORDS.iter().find(|(sync, _)| *sync == self.sync).map_or("", |(_, word)| word);
        format!("{word} {} {}\n", self.within.as_millis(), u8::from(self.app_failed))
    }

    /// From a line without its end; none for anything else.
    pub fn decode(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (word, millis, flag) = (words.next()?, words.next()?, words.next()?);
        let (sync, _) = Sync::WORDS.iter().find(|(_, each)| *each == word)?;
        let app_failed = match flag {
            "0" => false,
            "1" => true,
            _ => return None,
        };
        let within = Duration::from_millis(millis.parse().ok()?);
        words.next().is_none().then_some(Self { sync: *sync, within, app_failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_arrives_as_it_was_sent_and_nothing_else_is_taken_for_one() {
        for (sync, _) in Sync::WORDS {
            for app_failed in [false, true] {
                let sent = LastSync { sync, within: Duration::from_millis(9200), app_failed };
                let line = sent.encode();
                assert!(line.len() <= LONGEST && line.ends_with('\n'));
                assert_eq!(LastSync::decode(line.trim_end_matches('\n')), Some(sent));
            }
        }
        for none in ["", "pass", "pass 1", "pass x 0", "pass 1 2", "pass 1 0 0", "passes 1 0", "pass -1 0"] {
            assert_eq!(LastSync::decode(none), None, "{none}");
        }
    }
}
