//! What the last check of a backup came to, kept for those who ask. Must never make a check fail.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::plan::Plan;
use crate::state::{millis, time};
use crate::verify::{Proof, Unproved};
use crate::{files, report, runtime};

/// The last check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// When a backup was last proved, by this check or one before it.
    pub proved: Option<SystemTime>,
    /// Why it could not be, this time.
    pub failed: Option<String>,
}

impl Verified {
    /// The last one of this database in this boot.
    pub fn read(plan: &Plan, database: &Path) -> Option<Self> {
        let text = files::read_to_string(&runtime::file_of(plan, runtime::VERIFIED, database)).ok()?;
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Some(Self {
            at: time(value("at")?),
            took: Duration::from_millis(value("took")?.parse().ok()?),
            proved: value("proved").map(time),
            failed: value("failed").map(str::to_owned),
        })
    }

    /// Notes what a check that took so long came to.
    pub fn note(plan: &Plan, database: &Path, took: Duration, outcome: &Result<Proof, Unproved>) {
        let now = SystemTime::now();
        let before = Self::read(plan, database).and_then(|last| last.proved);
        let proved = if outcome.is_ok() { Some(now) } else { before };
        let mut text = format!("at {}\ntook {}\n", millis(now), took.as_millis());
        if let Some(at) = proved {
            let _ = writeln!(text, "proved {}", millis(at));
        }
        if let Err(unproved) = outcome {
            let _ = writeln!(text, "failed {}", unproved.failure.message.replace('\n', " "));
        }
        let path = runtime::file_of(plan, runtime::VERIFIED, database);
        if let Err(error) = runtime::leave(plan, &path, &text) {
            report::debug(format_args!("{}: {error}", path.display()));
        }
    }
}
