//! How far a replica is behind: from Litestream's own files and what it says. Must never call it 0 where that is not known.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::replicated::{self, Replicated};
use crate::litestream::backup::Position;
use crate::litestream::folder::Folder;
use crate::litestream::local;
use crate::plan::Plan;
use crate::position::{self, Read};
use crate::sqlite::wal;
use crate::{files, runtime, state};

/// For how long something has been here that is not in the replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lag {
    /// So long; zero where the replica has everything.
    For(Duration),
    /// Why that is not known.
    Unknown(Unknown),
}

/// Why it is not known how far a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// In a few words.
    pub why: String,
    /// The user's own configuration has no means to tell, which need not be a fault.
    pub by_configuration: bool,
}

impl Unknown {
    pub(super) fn by_configuration(why: impl Into<String>) -> Self {
        Self { why: why.into(), by_configuration: true }
    }
}

impl<T: Into<String>> From<T> for Unknown {
    fn from(why: T) -> Self {
        Self { why: why.into(), by_configuration: false }
    }
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) lag: Lag,
    pub(super) there: Option<Position>,
    /// Transactions (0.5) or bytes (0.3).
    pub(super) behind: Option<u64>,
    pub(super) synced: Option<SystemTime>,
}

/// Looks at one database, which Litestream has read up to `read`; `since` is when this Litestream was started.
pub(super) fn look(plan: &Plan, database: &Path, read: Option<&Read>, since: SystemTime, replicated: &Replicated) -> Found {
    let now = SystemTime::now();
    let unread = is_unread(database, read);
    match replicated {
        Replicated::Unknown(why) => Found { lag: Lag::Unknown(why.clone()), there: None, behind: None, synced: None },
        Replicated::Synced(synced) => {
            let files: Vec<(u64, SystemTime)> = local::ltx_files(database).collect();
            let path = runtime::file_of(plan, runtime::SYNCED, database);
            let (told, mut mark) = (synced.get(database).copied(), Mark::read(&path));
            if told > mark.synced {
                mark.synced = told;
                mark.write(plan, &path);
            }
            by_time(&files, unread, mark.synced, since, now)
        }
        Replicated::Placed(places) => {
            let path = runtime::file_of(plan, runtime::SYNCED, database);
            let mut mark = Mark::read(&path);
            let found = by_place(read, unread, places.get(database).copied(), &mut mark, since);
            mark.write(plan, &path);
            found
        }
    }
}

/// Litestream has not read the WAL to its end.
fn is_unread(database: &Path, read: Option<&Read>) -> bool {
    let Some(wal) = wal::wal_end(database) else { return false };
    let place = read.and_then(|read| read.place);
    place.is_none_or(|place| place.salts != wal.salts || place.end < wal.end)
}

/// 0.5: its files are dated, and so is the moment at which all of them were in the replica.
fn by_time(files: &[(u64, SystemTime)], unread: bool, synced: Option<SystemTime>, since: SystemTime, now: SystemTime) -> Found {
    let ago = |at: SystemTime| now.duration_since(at).unwrap_or_default();
    let Some(at) = synced else {
        return Found { lag: Lag::For(ago(since)), there: None, behind: None, synced };
    };
    let newest = |of: &dyn Fn(SystemTime) -> bool| files.iter().filter(|(_, made)| of(*made)).map(|(txid, _)| *txid).max();
    let pending = files.iter().map(|(_, made)| *made).filter(|made| *made > at).min();
    let there = newest(&|made| made <= at);
    let here = newest(&|_| true);
    // What it has not read came after all that it has.
    let unread = unread.then(|| files.iter().map(|(_, made)| *made).max().map_or(at, |made| made.max(at)));
    let lag = pending.or(unread).map_or(Duration::ZERO, ago);
    Found {
        lag: Lag::For(lag),
        there: there.map(Position::Txid),
        behind: Some(here.unwrap_or_default().saturating_sub(there.unwrap_or_default())),
        synced,
    }
}

/// What is kept from look to look: 0.3 tells where a replica is, not since when, and 0.5 tells nothing while it waits for one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mark {
    /// The replica had everything of this moment.
    synced: Option<SystemTime>,
    /// A place that it is still to reach, and when Litestream had read up to there.
    goal: Option<((String, u64, u64), SystemTime)>,
}

impl Mark {
    fn read(path: &Path) -> Self {
        let text = files::read_to_string(path).unwrap_or_default();
        let now = SystemTime::now();
        let past = |at: &str| Some(state::time(at)).filter(|at| *at <= now);
        let mut mark = Self::default();
        for words in text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            match words.as_slice() {
                ["synced", at] => mark.synced = past(at),
                ["goal", generation, index, offset, at] => {
                    if let (Ok(index), Ok(offset), Some(at)) = (index.parse(), offset.parse(), past(at)) {
                        mark.goal = Some((((*generation).to_owned(), index, offset), at));
                    }
                }
                _ => {}
            }
        }
        mark
    }

    /// Best effort: who may not write it goes on from what another one saw.
    fn write(&self, plan: &Plan, path: &Path) {
        let _ = runtime::leave(plan, path, &self.text());
    }

    fn text(&self) -> String {
        let mut text = self.synced.map(|at| format!("synced {}\n", state::millis(at))).unwrap_or_default();
        if let Some(((generation, index, offset), at)) = &self.goal {
            let _ = writeln!(text, "goal {generation} {index} {offset} {}", state::millis(*at));
        }
        text
    }

    /// What is known after a look: Litestream has read up to `own`, which it had at `read_at`, not all where `unread`; the
    /// replica is at `place`.
    fn after(mut self, own: &(String, u64, u64), read_at: SystemTime, unread: bool, place: (u64, u64), now: SystemTime) -> Self {
        let reached = |(_, index, offset): &(String, u64, u64)| place >= (*index, *offset);
        // Another generation counts from its own beginning.
        self.goal = self.goal.filter(|((generation, ..), _)| *generation == own.0);
        if let Some((_, at)) = self.goal.take_if(|(goal, _)| reached(goal)) {
            self.synced = self.synced.max(Some(at));
        }
        if reached(own) {
            self.synced = self.synced.max(Some(if unread { read_at } else { now }));
        } else if self.goal.is_none() {
            self.goal = Some((own.clone(), read_at));
        }
        self
    }
}

fn by_place(read: Option<&Read>, unread: bool, place: Option<(u64, u64)>, mark: &mut Mark, since: SystemTime) -> Found {
    let now = SystemTime::now();
    let behind = |mark: &Mark| Lag::For(now.duration_since(mark.synced.map_or(since, |at| at.max(since))).unwrap_or_default());
    let (Some(Read { position: Position::Wal { generation, index, offset }, at, .. }), Some(place)) = (read, place) else {
        return Found { lag: behind(mark), there: None, behind: None, synced: mark.synced };
    };
    *mark = std::mem::take(mark).after(&(generation.clone(), *index, *offset), *at, unread, place, now);
    let there = Position::Wal { generation: generation.clone(), index: place.0, offset: place.1 };
    let bytes = if place.0 == *index { Some(offset.saturating_sub(place.1)) } else { None };
    Found { lag: behind(mark), there: Some(there), behind: bytes, synced: mark.synced }
}

/// How often a replica that no folder and no Litestream tells of is listed, and for how long in all at a time.
const LIST_EVERY: Duration = Duration::from_secs(20);
const LIST_FOR: Duration = Duration::from_secs(4);

/// Notes which replicas have everything now, for those who ask later. Where nothing tells, those are listed whose databases have gone on.
pub fn note(plan: &Plan) {
    let state = state::State::read(&plan.runtime);
    let mut replicated = replicated::ask(plan, state.as_ref());
    let until = Instant::now() + LIST_FOR;
    for database in &plan.databases {
        if let Replicated::Synced(synced) = &mut replicated
            && replicated::tells_nothing(plan)
            && Folder::of(&database.replica).is_none()
            && is_to_be_listed(plan, &database.path)
            && Instant::now() < until
        {
            let listed = replicated::list(plan, database, until.saturating_duration_since(Instant::now()));
            synced.extend(listed.map(|at| (database.path.clone(), at)));
        }
        let read = position::read(&database.path, plan.litestream.format());
        look(plan, &database.path, read.as_ref(), SystemTime::UNIX_EPOCH, &replicated);
    }
}

/// Something is here of which it is not known that it is there, and the last list is not of now.
fn is_to_be_listed(plan: &Plan, database: &Path) -> bool {
    let synced = Mark::read(&runtime::file_of(plan, runtime::SYNCED, database)).synced;
    let is_old = synced.is_none_or(|at| at.elapsed().is_ok_and(|ago| ago >= LIST_EVERY));
    is_old && local::ltx_files(database).any(|(_, made)| synced.is_none_or(|at| made > at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn lag(found: &Found) -> (u64, Option<u64>) {
        let Lag::For(lag) = &found.lag else { panic!("{found:?}") };
        (lag.as_secs(), found.behind)
    }

    #[test]
    fn a_replica_lags_since_the_oldest_file_that_it_has_not() {
        let files = [(5, at(10)), (6, at(20)), (7, at(30))];
        let found = |unread, synced| by_time(&files, unread, synced, at(1), at(100));
        assert_eq!(lag(&found(false, Some(at(30)))), (0, Some(0)));
        assert_eq!(lag(&found(false, Some(at(15)))), (80, Some(2)));
        assert_eq!(found(false, Some(at(15))).there, Some(Position::Txid(5)));
        assert_eq!(lag(&found(true, Some(at(99)))), (1, Some(0)), "something it has not read since it last looked");
        assert_eq!(lag(&found(true, Some(at(25)))), (70, Some(1)));
        assert_eq!(lag(&found(false, None)), (99, None), "never since it was started");
    }

    #[test]
    fn a_replica_of_0_3_has_everything_of_the_moment_whose_place_it_has_reached() {
        let own = |index, offset| ("g".to_owned(), index, offset);
        let level = Mark::default().after(&own(2, 400), at(9), false, (2, 400), at(10));
        assert_eq!(level, Mark { synced: Some(at(10)), goal: None });
        let written = level.after(&own(2, 500), at(19), false, (2, 400), at(20));
        assert_eq!(written, Mark { synced: Some(at(10)), goal: Some((own(2, 500), at(19))) });
        let more = written.clone().after(&own(2, 900), at(29), true, (2, 450), at(30));
        assert_eq!(more, written, "not there yet");
        let reached = more.after(&own(2, 950), at(39), true, (2, 600), at(40));
        assert_eq!(reached, Mark { synced: Some(at(19)), goal: Some((own(2, 950), at(39))) });
        let unread = reached.clone().after(&own(2, 950), at(39), true, (2, 950), at(41));
        assert_eq!(unread, Mark { synced: Some(at(39)), goal: None }, "what it has not read is not there");
        let anew = reached.after(&("h".to_owned(), 0, 100), at(50), false, (0, 32), at(51));
        assert_eq!(anew, Mark { synced: Some(at(19)), goal: Some((("h".to_owned(), 0, 100), at(50))) });
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let mark = Mark { synced: Some(at(10)), goal: Some((("g".to_owned(), 2, 500), at(19))) };
        std::fs::write(&path, mark.text()).unwrap();
        assert_eq!(Mark::read(&path), mark);
        let ahead = Mark { synced: Some(SystemTime::now() + Duration::from_secs(60)), goal: None };
        std::fs::write(&path, ahead.text()).unwrap();
        assert_eq!(Mark::read(&path), Mark::default(), "the clock was set back: until then it would be no lag");
        assert_eq!(Mark::read(&dir.path().join("none")), Mark::default());
    }
}
