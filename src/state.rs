//! What a boot leaves for those who ask how it is: a file of plain words. Must never hold a secret, nor cost its keeper more than a write.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The file's name in the runtime directory.
pub const STATE_FILE: &str = "state";
/// So many events are kept.
pub const EVENTS: usize = 12;

/// What a boot is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// Databases are restored or looked at; there is no app yet.
    #[default]
    Starting,
    /// The migration runs.
    Migrating,
    /// The app runs.
    Running,
    /// The app is asked to end, or has ended.
    Stopping,
}

/// How Litestream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replication {
    /// It has not reported in yet, for the first time or after it ended.
    #[default]
    Starting,
    /// It runs.
    Up,
    /// It has ended, and is started again.
    Down,
    /// Another process replicates.
    Standby,
    /// It has ended, and is not started again.
    Off,
    /// This is a job, which replicates nothing.
    Job,
}

const PHASES: [(Phase, &str); 4] =
    [(Phase::Starting, "starting"), (Phase::Migrating, "migrating"), (Phase::Running, "running"), (Phase::Stopping, "stopping")];
const REPLICATIONS: [(Replication, &str); 6] = [
    (Replication::Starting, "starting"),
    (Replication::Up, "up"),
    (Replication::Down, "down"),
    (Replication::Standby, "standby"),
    (Replication::Off, "off"),
    (Replication::Job, "job"),
];

impl Phase {
    /// As a word.
    pub fn word(self) -> &'static str {
        PHASES.iter().find(|(phase, _)| *phase == self).map_or("", |(_, word)| word)
    }
}

impl Replication {
    /// As a word.
    pub fn word(self) -> &'static str {
        REPLICATIONS.iter().find(|(replication, _)| *replication == self).map_or("", |(_, word)| word)
    }
}

/// What of it the state machine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View {
    /// What the boot is at.
    pub phase: Phase,
    /// How Litestream is.
    pub replication: Replication,
    /// How often Litestream has been started again.
    pub restarts: u32,
    /// Some backup may have a gap.
    pub unproven: bool,
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What the state machine knows.
    pub view: View,
    /// When the boot began.
    pub began: SystemTime,
    /// Since when replication is as it is.
    pub since: SystemTime,
    /// Litestream's pid, 0 where there is none.
    pub litestream: i32,
    /// What PID 1 has said, the newest last, each with its time.
    pub events: Vec<(SystemTime, String)>,
}

impl Default for State {
    /// That of a boot that begins.
    fn default() -> Self {
        let now = SystemTime::now();
        Self { view: View::default(), began: now, since: now, litestream: 0, events: Vec::new() }
    }
}

impl State {
    /// As lines.
    pub fn encode(&self) -> String {
        let View { phase, replication, restarts, unproven } = self.view;
        let mut out = format!(
            "phase {}\nreplication {}\nrestarts {restarts}\nunproven {}\nbegan {}\nsince {}\nlitestream {}\n",
            phase.word(),
            replication.word(),
            u8::from(unproven),
            millis(self.began),
            millis(self.since),
            self.litestream
        );
        for (at, text) in &self.events {
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
            let _ = writeln!(out, "event {} {text}", millis(*at));
        }
        out
    }

    /// From lines; what is not understood is as if it were not there.
    pub fn decode(text: &str) -> Self {
        let mut state = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            match name {
                "phase" => state.view.phase = word(&PHASES, value),
                "replication" => state.view.replication = word(&REPLICATIONS, value),
                "restarts" => state.view.restarts = value.parse().unwrap_or_default(),
                "unproven" => state.view.unproven = value == "1",
                "began" => state.began = time(value),
                "since" => state.since = time(value),
                "litestream" => state.litestream = value.parse().unwrap_or_default(),
                "event" => state.events.extend(value.split_once(' ').map(|(at, text)| (time(at), text.to_owned()))),
                _ => {}
            }
        }
        state
    }

    /// What the boot that holds this runtime directory has left there.
    pub fn read(runtime: &Path) -> Option<Self> {
        crate::files::read_to_string(&runtime.join(STATE_FILE)).ok().map(|text| Self::decode(&text))
    }
}

fn word<T: Copy + Default>(words: &[(T, &str)], text: &str) -> T {
    words.iter().find(|(_, word)| *word == text).map(|(value, _)| *value).unwrap_or_default()
}

/// Milliseconds since 1970.
pub fn millis(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A time from its milliseconds since 1970; that year's beginning for anything else.
pub fn time(millis: &str) -> SystemTime {
    let after = Duration::from_millis(millis.parse().unwrap_or_default());
    UNIX_EPOCH.checked_add(after).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for (phase, _) in PHASES {
            for (replication, _) in REPLICATIONS {
                let at = UNIX_EPOCH + Duration::from_millis(1_764_000_000_123);
                let state = State {
                    view: View { phase, replication, restarts: 3, unproven: true },
                    began: at,
                    since: at,
                    litestream: 7,
                    events: vec![(at, "litestream ended".to_owned())],
                };
                assert_eq!(State::decode(&state.encode()), state);
            }
        }
        assert_eq!(State::decode("phase nonsense\nrestarts x\n\n\u{0}").view, View::default());
    }
}
