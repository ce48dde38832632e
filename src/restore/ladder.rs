//! Steps back from a damaged backup to the newest point that can be restored. Must never step back silently, nor on any
//! other failure than damage.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::clear;
use super::fetch::{Fetched, Restored, Source};
use crate::exit::{self, Failure};
use crate::litestream::Format;
use crate::litestream::backup::{self, Depth, File, Position};
use crate::{report, time};

/// How long the list of points is waited for at most.
const LIST_FOR: Duration = Duration::from_secs(30);

/// A point that a restore can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    flags: Vec<OsString>,
    created: String,
}

/// Fetches the newest backup; a damaged one, if `allowed`, as of the newest point before the damage.
///
/// # Errors
/// As [`Source::fetch`].
pub fn fetch(source: &Source<'_>, folder: &Path, allowed: bool) -> Result<Fetched, Failure> {
    let damaged = match source.fetch(folder) {
        Err(failure) if failure.code == exit::DAMAGED => failure,
        other => return other,
    };
    if let Some(fetched) = before_what_only_began(source, folder)? {
        return Ok(fetched);
    }
    if !allowed {
        let more = "look at an older one with `litestream-entry restore -timestamp … -o PATH`; LITESTREAM_ENTRY_RESTORE_LADDER=true takes the newest \
                    point before the damage, and loses what came after it";
        return Err(Failure::new(damaged.code, format!("{}; {more}", damaged.message)));
    }
    // A second way to look, before anything is given up: what comes of Litestream's restore, read row by row.
    let readable = Source { readable: true, waited: Duration::ZERO, config: source.config.clone(), ..*source };
    if let Ok(Fetched::Database(_)) = readable.fetch(folder) {
        let _ = clear(folder);
        let more = "every row of it can be read, so that no older point is gone back to; look at it with `litestream-entry restore -o PATH`, REINDEX it there, \
                    and start on that file";
        return Err(Failure::new(damaged.code, format!("{}; {more}", damaged.message)));
    }
    report::line(format_args!("{}: {}: looking for the newest point before that", source.alias, damaged.message));
    let files = source
        .list(Depth::All, LIST_FOR.min(source.timeout))
        .map_err(|why| Failure::new(exit::UNREACHABLE, format!("the backup's files cannot be listed: {why}")))?;
    let steps = steps(&files);
    let mut found: Option<(usize, Restored)> = None;
    let at = newest_good(steps.len(), |at| {
        let Some(step) = steps.get(at) else { return Ok(false) };
        // Each try empties the folder.
        found = None;
        let source = Source { tries: 2, waited: Duration::ZERO, ..source.asking(&step.flags) };
        match source.fetch(folder) {
            Ok(Fetched::Database(restored)) => {
                found = Some((at, restored));
                Ok(true)
            }
            Ok(Fetched::NoBackup) => Ok(false),
            Err(failure) if failure.code == exit::DAMAGED => Ok(false),
            Err(failure) => Err(failure),
        }
    })?;
    let Some(step) = at.and_then(|at| steps.get(at)) else {
        return Err(Failure::new(damaged.code, format!("{}, and none of its {} points can be restored", damaged.message, steps.len())));
    };
    // The best need not be the last that was tried.
    let mut restored = match found.filter(|(tried, _)| Some(*tried) == at) {
        Some((_, restored)) => restored,
        None => match source.asking(&step.flags).fetch(folder)? {
            Fetched::Database(restored) => restored,
            Fetched::NoBackup => return Ok(Fetched::NoBackup),
        },
    };
    let newest = steps.first().map(|s| s.created.as_str()).unwrap_or_default();
    restored.remark = format!(" AS OF {}: what was backed up from then to {newest} is damaged and LOST", step.created);
    // It takes the place of all that is there.
    restored.position = backup::newest(&files);
    restored.is_of_the_past = true;
    Ok(Fetched::Database(restored))
}

/// What 0.3 had before its newest generation, of which it had only written a snapshot when it was killed: nothing of that can be restored, and
/// what was backed up until then is all in the one before.
fn before_what_only_began(source: &Source<'_>, folder: &Path) -> Result<Option<Fetched>, Failure> {
    if source.litestream.format() != Format::Generations || !source.flags.is_empty() {
        return Ok(None);
    }
    let files = source.list(Depth::All, LIST_FOR.min(source.timeout)).unwrap_or_default();
    let Some([(begun, begun_at), (generation, written)]) = backup::only_begun(&files) else { return Ok(None) };
    let flags = ["-generation", &generation].map(OsString::from);
    match source.asking(&flags).fetch(folder)? {
        Fetched::Database(restored) => {
            let remark =
                format!(" (generation {generation}, written last at {written}: of {begun} there is a snapshot alone, which is not whole)");
            Ok(Some(Fetched::Database(Restored { remark, passes_over: time::parse(&begun_at), ..restored })))
        }
        Fetched::NoBackup => Ok(None),
    }
}

/// The points of a backup, the newest first: each transaction that ends a file on 0.5; each second on 0.3, whose
/// restores end at a time alone.
fn steps(files: &[File]) -> Vec<Step> {
    let mut steps: BTreeMap<(u64, String), Step> = BTreeMap::new();
    for file in files {
        let (key, flags) = match &file.position {
            Position::Txid(txid) => ((*txid, String::new()), Some(vec!["-txid".into(), format!("{txid:016x}").into()])),
            Position::Wal { .. } => ((0, file.created.clone()), backup::up_to(files, &file.created)),
        };
        let Some(flags) = flags else { continue };
        let step = Step { flags, created: file.created.clone() };
        // A transaction that is in several files was written with the first of them.
        let known = steps.entry(key).or_insert_with(|| step.clone());
        if file.created < known.created {
            *known = step;
        }
    }
    steps.into_values().rev().collect()
}

/// The first good one of `count` that are ordered so that all after a good one are good, in few tries: by steps that double,
/// then by halves. A backup is so: what cannot be read spoils all points after it, up to the next snapshot.
///
/// # Errors
/// What a try says.
fn newest_good<E>(count: usize, mut good: impl FnMut(usize) -> Result<bool, E>) -> Result<Option<usize>, E> {
    let (mut bad, mut step) = (0_usize, 1_usize);
    // The very newest has been tried, by other words; on 0.3 its point may still be had.
    let mut at = 0_usize;
    let mut best = loop {
        if at >= count {
            let last = count.saturating_sub(1);
            if count == 0 || bad >= last || !good(last)? {
                return Ok(None);
            }
            break last;
        }
        if good(at)? {
            break at;
        }
        bad = at;
        at = at.saturating_add(step);
        step = step.saturating_mul(2);
    };
    while best > bad.saturating_add(1) {
        let middle = bad.midpoint(best);
        if good(middle)? {
            best = middle;
        } else {
            bad = middle;
        }
    }
    Ok(Some(best))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_good_point_is_found_in_few_tries() {
        for count in 0..70_usize {
            for first_good in 0..=count {
                let mut tries = 0;
                let found = newest_good(count, |at| {
                    tries += 1;
                    assert!(at < count);
                    Ok::<_, ()>(at >= first_good)
                });
                assert_eq!(found, Ok((first_good < count).then_some(first_good)), "{first_good} of {count}");
                assert!(tries <= 15, "{tries} tries for {first_good} of {count}");
            }
        }
        assert_eq!(newest_good(3, |_| Err::<bool, _>("no")), Err("no"));
    }

    #[test]
    fn a_transaction_in_several_files_is_one_point() {
        let file = |txid, created: &str| File { position: Position::Txid(txid), snapshot: false, bytes: 1, created: created.into() };
        let steps = steps(&[file(1, "2026-01-01T00:00:01Z"), file(2, "2026-01-01T00:00:02Z"), file(2, "2026-01-01T00:00:09Z")]);
        let all: Vec<&str> = steps.iter().map(|s| s.created.as_str()).collect();
        assert_eq!(all, ["2026-01-01T00:00:02Z", "2026-01-01T00:00:01Z"]);
        assert_eq!(steps[0].flags, ["-txid", "0000000000000002"].map(OsString::from));
    }
}
