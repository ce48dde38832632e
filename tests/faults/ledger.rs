//! Which rows have to be where, as plain data: acknowledged, confirmed, owed by a volume. It reads no database and no file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::schedule::Host;

/// Of one owner: number of each row → its version.
pub(crate) type Rows = BTreeMap<u64, u64>;
/// Owner → rows.
pub(crate) type Owned = BTreeMap<String, Rows>;

/// What was acknowledged, per owner, what must be in any backup from now on, and what each volume has to have.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) confirmed: Owned,
    /// The owners whose every acknowledged row is owed to the volume's database.
    owed: BTreeMap<Host, BTreeSet<String>>,
}

impl Ledger {
    /// An owner begins to write on this volume.
    pub(crate) fn owe(&mut self, host: Host, owner: &str) {
        self.owed.entry(host).or_default().insert(owner.to_owned());
    }

    /// What lay there is gone: only what was confirmed is still asked for.
    pub(crate) fn lose(&mut self, host: Host) {
        self.owed.remove(&host);
    }

    pub(crate) fn owed(&self, host: Host) -> Vec<String> {
        self.owed.get(&host).into_iter().flatten().cloned().collect()
    }

    /// These rows must never be missing again.
    pub(crate) fn confirm(&mut self, rows: &Owned) {
        for (owner, rows) in rows {
            let known = self.confirmed.entry(owner.clone()).or_default();
            for (number, version) in rows {
                let highest = known.entry(*number).or_default();
                *highest = (*highest).max(*version);
            }
        }
    }

    pub(crate) fn confirmed_rows(&self) -> usize {
        self.confirmed.values().map(BTreeMap::len).sum()
    }
}

/// What was acknowledged of what is there, in the version that is there or the one acknowledged, whichever is older.
pub(crate) fn both(acknowledged: &Owned, there: &Owned) -> Owned {
    let common = |(owner, rows): (&String, &Rows)| {
        let there = there.get(owner)?;
        let rows: Rows = rows.iter().filter_map(|(number, version)| Some((*number, *version.min(there.get(number)?)))).collect();
        Some((owner.clone(), rows))
    };
    acknowledged.iter().filter_map(common).collect()
}

/// The rows that are not there, or only in an older version: `owner=1a rows 105–107, 110; owner=…`, and how many.
pub(crate) fn missing(wanted: &Owned, there: &Owned) -> Option<(usize, String)> {
    let (mut count, mut words) = (0, Vec::new());
    for (owner, rows) in wanted {
        let has = |number: &u64, version: &u64| there.get(owner).and_then(|rows| rows.get(number)).is_some_and(|it| it >= version);
        let gone: Vec<u64> = rows.iter().filter(|(number, version)| !has(number, version)).map(|(number, _)| *number).collect();
        if !gone.is_empty() {
            count += gone.len();
            words.push(format!("owner={owner} rows {} of {}", ranges(&gone), rows.len()));
        }
    }
    (count > 0).then(|| (count, words.join("; ")))
}

/// `1–3, 7` of numbers in order; the first eight ranges.
fn ranges(numbers: &[u64]) -> String {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match found.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => found.push((*number, *number)),
        }
    }
    let mut text = String::new();
    for (first, last) in found.iter().take(8) {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = if first == last { write!(text, "{comma}{first}") } else { write!(text, "{comma}{first}–{last}") };
    }
    if found.len() > 8 {
        text.push_str(", …");
    }
    text
}

/// What a container said at its end, as far as it counts here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Killed from outside: it could say nothing.
    Killed,
    /// A refusal, or NOT SAVED.
    Honest,
    /// Its app's end, and not a word.
    Silent,
}

/// The word in an exit code and the log.
pub(crate) fn word(code: i32, log: &str, killed: bool) -> Word {
    match code {
        _ if killed => Word::Killed,
        _ if log.contains("NOT SAVED") => Word::Honest,
        65 | 66 | 69 | 70 | 71 | 74 | 75 | 78 => Word::Honest,
        _ => Word::Silent,
    }
}
