//! Litestream's own settings that have a variable of the same words. Must never reject what the
//! running line may know: that is said when the configuration is rendered.

use super::Environment;
use crate::litestream::Line;

/// Where a key stands in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// At the top.
    Top,
    /// Under `logging`.
    Logging,
    /// Under 0.5's `snapshot`.
    Snapshot,
    /// In each database.
    Database,
    /// In each replica.
    Replica,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// The variable it came from.
    pub variable: &'static str,
    /// Litestream's key.
    pub key: &'static str,
    /// Its value, as text.
    pub value: String,
    /// Where it stands on 0.5; none where that line has no such key.
    pub v05: Option<Where>,
    /// Where it stands on 0.3; none where that line has no such key.
    pub v03: Option<Where>,
}

impl Tuning {
    /// Where the running line has it.
    pub fn place(&self, line: Line) -> Option<Where> {
        match line {
            Line::V03 => self.v03,
            Line::V05 => self.v05,
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Duration,
    Number,
}

type Row = (&'static str, &'static str, Kind, Option<Where>, Option<Where>);

const ROWS: [Row; 13] = [
    ("LITESTREAM_ADDR", "addr", Kind::Text, Some(Where::Top), Some(Where::Top)),
    ("LITESTREAM_LOG_LEVEL", "level", Kind::Text, Some(Where::Logging), Some(Where::Logging)),
    ("LITESTREAM_LOG_TYPE", "type", Kind::Text, Some(Where::Logging), Some(Where::Logging)),
    ("LITESTREAM_SYNC_INTERVAL", "sync-interval", Kind::Duration, Some(Where::Replica), Some(Where::Replica)),
    ("LITESTREAM_SNAPSHOT_INTERVAL", "interval", Kind::Duration, Some(Where::Snapshot), None),
    ("LITESTREAM_SNAPSHOT_INTERVAL", "snapshot-interval", Kind::Duration, None, Some(Where::Replica)),
    ("LITESTREAM_SNAPSHOT_RETENTION", "retention", Kind::Duration, Some(Where::Snapshot), None),
    ("LITESTREAM_RETENTION", "retention", Kind::Duration, Some(Where::Snapshot), Some(Where::Replica)),
    ("LITESTREAM_RETENTION_CHECK_INTERVAL", "retention-check-interval", Kind::Duration, None, Some(Where::Replica)),
    ("LITESTREAM_MONITOR_INTERVAL", "monitor-interval", Kind::Duration, Some(Where::Database), Some(Where::Database)),
    ("LITESTREAM_CHECKPOINT_INTERVAL", "checkpoint-interval", Kind::Duration, Some(Where::Database), Some(Where::Database)),
    ("LITESTREAM_MIN_CHECKPOINT_PAGE_COUNT", "min-checkpoint-page-count", Kind::Number, Some(Where::Database), Some(Where::Database)),
    ("LITESTREAM_L0_RETENTION", "l0-retention", Kind::Duration, Some(Where::Top), None),
];

/// Every variable that is read here.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ROWS.into_iter().map(|(name, ..)| name)
}

pub(super) fn read(env: &Environment, problems: &mut Vec<String>) -> Vec<Tuning> {
    let mut found = Vec::new();
    for (variable, key, kind, v05, v03) in ROWS {
        let Some(value) = env.get(variable) else { continue };
        if let Some(why) = wrong(kind, value) {
            problems.push(format!("{variable}: {why}"));
        }
        found.push(Tuning { variable, key, value: value.to_owned(), v05, v03 });
    }
    found.dedup_by(|a, b| a.variable == b.variable && a.key == b.key);
    problems.dedup();
    found
}

fn wrong(kind: Kind, value: &str) -> Option<&'static str> {
    match kind {
        Kind::Text => None,
        Kind::Number => value.parse::<u32>().is_err().then_some("not a number"),
        // Litestream takes a bare number for nanoseconds.
        Kind::Duration => (!go_duration(value)).then_some("not a duration with a unit; write it as 10s, 5m or 24h"),
    }
}

/// Go's `time.ParseDuration` without sign: `1h30m`, `500ms`.
fn go_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"].into_iter().filter(|u| digits.starts_with(u)).max_by_key(|u| u.len());
        match unit.and_then(|u| digits.strip_prefix(u)) {
            Some(after) if digits.len() < rest.len() => rest = after,
            _ => return false,
        }
    }
    !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos_and_need_a_unit() {
        for good in ["10s", "1h30m", "500ms", "1.5s", "24h"] {
            assert!(go_duration(good), "{good}");
        }
        for bad in ["5", "", "1d", "s", "10 s", "1h30"] {
            assert!(!go_duration(bad), "{bad}");
        }
    }
}
