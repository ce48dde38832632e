//! Where a database stands to its replica: current, behind it (an old volume came back, another host wrote), or diverged from it (both
//! wrote after the same transaction). Must never take "not known" for current.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::fetch::{Fetched, Restored, Source};
use crate::exit::Failure;
use crate::litestream::Format;
use crate::litestream::backup::{self, File, Position};
use crate::litestream::folder::Folder;
use crate::litestream::local;
use crate::litestream::local::Ltx;
use crate::mark::{self, Mark};
use crate::plan::{Database, Plan};
use crate::{continuity, pages, sqlite, time};

/// How a database stands to its replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has all that the replica has, or the replica has nothing.
    Current,
    /// The replica has what it lacks; in words.
    Behind(String),
    /// Both have gone on after the same transaction, each by its own; in words.
    Diverged(String),
    /// The replica has other contents, and which is newer is not known.
    Different,
    /// There is a backup, and nothing beside the database says what the two have to do with each other.
    Unknown,
    /// The replica did not answer; why.
    NotAsked(String),
}

/// How long the replica is asked at a boot whose databases are here, where an app waits for the answer.
pub const ASK_FOR: Duration = Duration::from_secs(5);
/// So long after it is copied a part of the WAL is in the replica, as a rule: another one's clock may be as much ahead.
const UPLOADED_WITHIN: Duration = Duration::from_secs(5);
/// 0.3's times are whole seconds.
const SECOND: Duration = Duration::from_secs(1);

/// Asks the replica: a look into its folder, or one call of Litestream's.
pub fn ask(plan: &Plan, database: &Database, within: Duration) -> Standing {
    let line = plan.litestream.line;
    let folder = Folder::of(&database.replica);
    let there = match Source::newest(plan, database).look(within) {
        Ok(there) => there,
        Err(why) => return Standing::NotAsked(why),
    };
    let path = &database.path;
    match line.format() {
        Format::Ltx => lineage(&Here::of(path), &there, |own| folder?.has_the_same(&own.path)),
        Format::Generations => compare(continuity::position(path, line.format()), &there, &Begun::of(path), SystemTime::now()),
    }
}

/// What shows after a last sync that another host writes to the same replica (0.5): a transaction after ours, or another one in the place of ours.
/// None where it does not answer in time, or where nothing tells.
pub fn foreign(plan: &Plan, database: &Database, within: Duration) -> Option<String> {
    if plan.litestream.format() != Format::Ltx || database.has_own_meta {
        return None;
    }
    match ask(plan, database, within) {
        Standing::Behind(what) | Standing::Diverged(what) => Some(what),
        _ => None,
    }
}

/// What is known of a database without its replica (0.5).
#[derive(Debug, Default)]
struct Here {
    /// Litestream's own files.
    files: Vec<Own>,
    /// Where the backup ended that we have restored, or the end of what it takes the place of.
    restored: Option<u64>,
}

/// One of 0.5's own files beside the database.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Own {
    txid: u64,
    bytes: u64,
    /// It is one of ours, in the place of the replica's.
    stands_in: bool,
    path: PathBuf,
}

impl Here {
    fn of(database: &Path) -> Self {
        let own = |ltx: Ltx| Some(Own { txid: ltx.txid, bytes: ltx.bytes().ok()?, stands_in: ltx.stands_in(), path: ltx.path });
        let restored = match Mark::read(database) {
            Mark::Restored(Position::Txid(txid)) | Mark::Rewound(Position::Txid(txid)) => Some(txid),
            _ => None,
        };
        Self { files: local::every_ltx(database).filter_map(own).collect(), restored }
    }

    /// The last transaction here.
    fn end(&self) -> Option<u64> {
        self.files.iter().map(|own| own.txid).max().or(self.restored)
    }

    /// Up to where it is what the replica had, as far as we know by ourselves.
    fn known(&self) -> Option<u64> {
        self.files.iter().filter(|own| own.stands_in).map(|own| own.txid).chain(self.restored).max()
    }
}

fn txid(position: &Position) -> Option<u64> {
    if let Position::Txid(txid) = position { Some(*txid) } else { None }
}

/// No file of transactions is smaller than its header and its trailer (github.com/superfly/ltx). One that is has lost its content.
const SMALLEST: u64 = 116;

/// How a database stands to what is there on 0.5's level of transactions. Of one host, a file here and there is the same; two hosts that
/// went on after the same transaction have files of the same name that differ. `is_the_same` compares bytes, where they can be had. A snapshot
/// is there as soon as it is made, before the transactions that it has.
fn lineage(here: &Here, there: &[File], is_the_same: impl Fn(&Own) -> Option<bool>) -> Standing {
    let Some(newest) = there.iter().filter_map(|file| txid(&file.position)).max() else { return Standing::Current };
    let there: BTreeMap<u64, u64> =
        there.iter().filter(|file| !file.snapshot).filter_map(|file| Some((txid(&file.position)?, file.bytes))).collect();
    let Some(end) = here.end() else { return Standing::Unknown };
    let whole = |own: &Own| there.get(&own.txid).copied().filter(|bytes| *bytes >= SMALLEST);
    let mut common: Vec<&Own> = here.files.iter().filter(|own| !own.stands_in && there.contains_key(&own.txid)).collect();
    common.sort_by_key(|own| own.txid);
    let resized = common.iter().find(|own| whole(own).is_some_and(|bytes| bytes != own.bytes));
    let rewritten = || common.last().filter(|own| whole(own).is_some() && is_the_same(own) == Some(false));
    if let Some(own) = resized.or_else(rewritten) {
        return Standing::Diverged(format!("transaction {:x} there is another one than here", own.txid));
    }
    if newest > end {
        return Standing::Behind(format!("transaction {newest:x} there, {end:x} here"));
    }
    if common.is_empty() && here.known().is_none_or(|known| known < newest) { Standing::Unknown } else { Standing::Current }
}

/// What is known of 0.3's generations, in case the one here is not there.
#[derive(Debug, Clone, Default)]
struct Begun {
    /// Those that this database has written, or how their names begin: all of them is its own.
    own: Vec<String>,
    /// The one that it was restored from, or how its name begins, which another host may have gone on with.
    after: Option<String>,
    /// When the first was begun after that, or until when else all there was known.
    at: Option<SystemTime>,
    /// When the WAL was last copied for Litestream.
    copied: Option<SystemTime>,
}

impl Begun {
    fn of(database: &Path) -> Self {
        let mut own = mark::generations(database);
        let (after, at) = match Mark::read(database) {
            Mark::Restored(Position::Wal { generation, index: u64::MAX, .. }) => {
                own.push(generation);
                mark::origin(database).unzip()
            }
            Mark::Restored(Position::Wal { generation, .. }) | Mark::Rewound(Position::Wal { generation, .. })
                if !mark::is_its_own(database, &generation) =>
            {
                let passed_over = mark::origin(database).filter(|(from, _)| generation.starts_with(from)).map(|(_, until)| until);
                (Some(generation), local::begun_at(database).max(passed_over))
            }
            _ => mark::origin(database).unzip(),
        };
        let copied = local::shadow_wal(database).and_then(|copy| std::fs::metadata(copy).ok()?.modified().ok());
        Self { own, after, at, copied }
    }

    /// Whether a part of this WAL was written there so long after it was last copied here that it may have more in it: lists do not tell
    /// where a part ends.
    fn is_older_than(&self, written: Option<&str>) -> bool {
        let copied = self.copied.and_then(|at| at.checked_add(UPLOADED_WITHIN)).map(time::rfc3339);
        written.zip(copied.as_deref()).is_some_and(|(written, copied)| written > copied)
    }

    /// Up to when all that is there is known to be this database's: what it went on after is there, and nothing later.
    fn known(&self, there: &[File]) -> Option<String> {
        let is_there = there.iter().any(|file| is_of(file, self.after.iter()));
        let until = self.at.filter(|_| is_there)?.checked_add(SECOND)?;
        Some(time::rfc3339(until))
    }
}

/// By names, or how they begin.
fn is_of<'a>(file: &File, mut generations: impl Iterator<Item = &'a String>) -> bool {
    matches!(&file.position, Position::Wal { generation, .. } if generations.any(|one| generation.starts_with(one.as_str())))
}

/// Compares where the database is with what is there (0.3).
fn compare(here: Option<Position>, there: &[File], begun: &Begun, now: SystemTime) -> Standing {
    match here {
        _ if there.is_empty() => Standing::Current,
        // It was put there to take the place of all that is there.
        Some(Position::Txid(u64::MAX)) => Standing::Current,
        Some(Position::Wal { generation, index, offset }) => {
            let beyond = there.iter().filter(|f| is_of(f, [&generation].into_iter())).find(|f| match f.position {
                // What begins where ours ends is more than ours.
                Position::Wal { index: i, offset: o, .. } => i > index || (i == index && !f.snapshot && o >= offset),
                Position::Txid(_) => false,
            });
            if let Some(file) = beyond {
                return Standing::Behind(format!("WAL {} there, {index:08x}/{offset:08x} here", file.position));
            }
            let is_last = |f: &&File| matches!(&f.position, Position::Wal { generation: g, index: i, .. } if !f.snapshot && *g == generation && *i == index);
            if begun.is_older_than(there.iter().filter(is_last).map(|f| f.created.as_str()).max()) {
                return Standing::Unknown;
            }
            against_others(&generation, there, begun, now)
        }
        // A position of the other line says nothing about this one's backup.
        _ => Standing::Unknown,
    }
}

/// The same by time, where another generation may have been written later.
fn against_others(generation: &String, there: &[File], begun: &Begun, now: SystemTime) -> Standing {
    let (own, others): (Vec<&File>, Vec<&File>) = there.iter().partition(|f| is_of(f, begun.own.iter().chain([generation])));
    let newest = |files: &[&File]| files.iter().map(|f| f.created.clone()).max();
    let ours = newest(&own).max(begun.known(there));
    // What this one was restored from is no later than it by a clock that was set back since.
    let by_now = time::rfc3339(now.checked_add(backup::AHEAD).unwrap_or(now));
    let others: Vec<&File> = others.into_iter().filter(|f| f.created <= by_now || !is_of(f, begun.after.iter())).collect();
    match (newest(&others), ours) {
        (Some(theirs), Some(ours)) if theirs > ours => {
            Standing::Behind(format!("another generation there was written at {theirs}, this one's last at {ours}"))
        }
        // There are others, and nothing tells when ours was last written.
        (Some(_), None) => Standing::Unknown,
        _ => Standing::Current,
    }
}

/// Settles what is not known by a restore: the same pages are the same database.
///
/// # Errors
/// What keeps the backup from being had.
pub fn compare_contents(plan: &Plan, database: &Database, folder: &Path) -> Result<Standing, Failure> {
    let fetched = Source::newest(plan, database).fetch(folder)?;
    let Fetched::Database(restored) = fetched else { return Ok(Standing::Current) };
    Ok(if is_the_same(&restored, database, folder) { Standing::Current } else { Standing::Different })
}

fn is_the_same(restored: &Restored, database: &Database, folder: &Path) -> bool {
    let there = pages::of_file(&restored.file);
    let here = pages::of_live(&database.path, &folder.join("here.db"), false);
    matches!((here, there), (Ok(here), Ok(there)) if here == there)
}

/// The same, but for 0.3's own tables, which it has counted on in a copy of the database.
fn is_the_same_to_an_app(restored: &Restored, database: &Database, folder: &Path) -> bool {
    let copy = folder.join("here.db");
    let (Ok(here), Ok(there)) = (pages::of_live(&database.path, &copy, false), pages::of_file(&restored.file)) else { return false };
    let (Ok(ours), Ok(theirs)) = (Schema::of(&copy), Schema::of(&restored.file)) else { return false };
    let is_own = |page: &u32| *page == 1 || theirs.own.contains(page);
    let differing = (1..).zip(here.each().zip(there.each())).filter(|(_, (here, there))| here != there).map(|(page, _)| page);
    // The first page has the schema, and counters.
    ours == theirs && here.each().len() == there.each().len() && differing.into_iter().all(|page| is_own(&page))
}

/// What a database is made of.
#[derive(Debug, PartialEq)]
struct Schema {
    all: Vec<(String, Option<String>, u32)>,
    /// The first pages of 0.3's own tables, which have no other.
    own: Vec<u32>,
}

impl Schema {
    fn of(database: &Path) -> rusqlite::Result<Self> {
        let connection = sqlite::open_immutable(database)?;
        let mut query = connection.prepare("SELECT name, sql, rootpage FROM sqlite_schema ORDER BY rowid")?;
        let rows = query.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let all: Vec<(String, Option<String>, u32)> = rows.collect::<rusqlite::Result<_>>()?;
        let is_own = |name: &str| matches!(name, "_litestream_seq" | "_litestream_lock");
        let own = all.iter().filter(|(name, ..)| is_own(name)).map(|(.., page)| *page).collect();
        Ok(Self { all, own })
    }
}

/// So many transactions, or WALs, a last sync of ours makes at most that could leave nothing here.
const OF_ONE_PASS: u64 = 2;

/// Where the backup ends that has exactly what is here, though by what Litestream has left here it is behind or another: a last sync of
/// ours, made while nothing could be written beside the database. Only what such a one may have made is fetched for it.
pub fn end_of_our_own(plan: &Plan, database: &Database, folder: &Path, within: Duration) -> Option<Position> {
    let source = Source::newest(plan, database);
    let there = backup::newest(&source.look(within).ok()?)?;
    let may_be = match (&there, local::own_position(&database.path, Format::Generations)) {
        (Position::Txid(there), _) => Here::of(&database.path).end().is_some_and(|here| there.abs_diff(here) <= OF_ONE_PASS),
        (Position::Wal { generation, index, .. }, Some(Position::Wal { generation: own, index: i, .. })) => {
            // One that it began with a copy of the database.
            let began_with = if *generation == own { i } else { 0 };
            index.abs_diff(began_with) <= OF_ONE_PASS
        }
        _ => false,
    };
    if !may_be {
        return None;
    }
    let Ok(Fetched::Database(restored)) = source.fetch(folder) else { return None };
    let is_ours = match plan.litestream.format() {
        Format::Ltx => is_the_same(&restored, database, folder),
        Format::Generations => is_the_same_to_an_app(&restored, database, folder),
    };
    restored.position.filter(|_| is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    /// 2026-11-30T12:00:00Z
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_040_000)
    }

    fn at(position: Position, created: &str) -> File {
        File { position, snapshot: false, bytes: 1, created: created.into() }
    }

    fn wal(generation: &str, index: u64, offset: u64) -> Position {
        Position::Wal { generation: generation.into(), index, offset }
    }

    fn is_behind(here: Position, there: &[File]) -> bool {
        matches!(compare(Some(here), there, &Begun::default(), now()), Standing::Behind(_))
    }

    /// Transactions and sizes here, and where a restore ended; the same there; whether the newest has the same bytes.
    fn stands(here: &[(u64, u64)], restored: Option<u64>, there: &[(u64, u64)], same: Option<bool>) -> Standing {
        let own = |&(txid, bytes): &(u64, u64)| Own { txid, bytes, stands_in: bytes == STAND_IN, path: PathBuf::new() };
        let file = |&(txid, bytes): &(u64, u64)| File { bytes, ..at(Position::Txid(txid), "") };
        let there: Vec<File> = there.iter().map(file).collect();
        lineage(&Here { files: here.iter().map(own).collect(), restored }, &there, |_| same)
    }

    const STAND_IN: u64 = 131;

    #[test]
    fn a_lower_transaction_is_behind() {
        let there = [(5, 500), (9, 500)];
        assert!(matches!(stands(&[(5, 500), (8, 500)], None, &there, None), Standing::Behind(_)));
        assert!(matches!(stands(&[], Some(8), &there, None), Standing::Behind(_)));
        for ends in [9, 10] {
            assert_eq!(stands(&[(5, 500), (ends, 500)], None, &there, None), Standing::Current, "{ends}");
        }
        assert_eq!(stands(&[], Some(0), &[], None), Standing::Current, "nothing there");
    }

    #[test]
    fn a_snapshot_there_that_is_later_than_all_here_is_behind_before_its_transactions_are_there() {
        let file = |txid, snapshot| File { bytes: 500, snapshot, ..at(Position::Txid(txid), "") };
        let own = |txid| Own { txid, bytes: 500, stands_in: false, path: PathBuf::new() };
        let stands = |ends, there: &[File]| lineage(&Here { files: vec![own(1), own(ends)], restored: None }, there, |_| Some(true));
        let there = [file(1, false), file(2, false), file(5, true)];
        assert!(matches!(stands(2, &there), Standing::Behind(_)));
        assert_eq!(stands(5, &there), Standing::Current, "it is its own");
        assert!(matches!(stands(2, &there[2..]), Standing::Behind(_)), "there is nothing else");
    }

    #[test]
    fn another_ones_transaction_of_the_same_number_is_diverged_however_far_the_database_is() {
        let diverged = |standing| matches!(standing, Standing::Diverged(_));
        for ends in [4, 6, 9] {
            let here = [(3, 500), (4, 700), (ends, 600)];
            assert!(diverged(stands(&here, None, &[(3, 500), (4, 9000), (6, 600)], None)), "{ends}");
        }
        let both = [(3, 500), (4, 700)];
        assert!(diverged(stands(&both, None, &both, Some(false))), "of the same size");
        assert_eq!(stands(&both, None, &both, Some(true)), Standing::Current);
        // Its content is lost there, which is not another one's.
        assert_eq!(stands(&both, None, &[(3, 500), (4, 0)], Some(false)), Standing::Current);
        // What stands for the replica's own file here differs from it.
        assert_eq!(stands(&[(4, STAND_IN), (5, 700)], None, &[(3, 500), (4, 9000)], None), Standing::Current);
    }

    #[test]
    fn no_file_in_common_is_known_only_after_a_restore() {
        let there = [(3, 500), (4, 700)];
        assert_eq!(stands(&[(5, 900), (6, 500)], Some(4), &there, None), Standing::Current);
        assert_eq!(stands(&[(5, 900)], Some(u64::MAX), &there, None), Standing::Current, "it takes the place of all there");
        assert_eq!(stands(&[(5, 900)], Some(3), &there, None), Standing::Unknown);
        assert_eq!(stands(&[(50, 900)], None, &there, None), Standing::Unknown, "another database's replica");
        assert_eq!(stands(&[], None, &there, None), Standing::Unknown);
    }

    #[test]
    fn an_earlier_place_in_the_same_generation_is_behind() {
        let there = [at(wal("a", 1, 0), "2026-01-01T00:00:05Z"), at(wal("a", 1, 4096), "2026-01-01T00:00:09Z")];
        for (index, offset, behind) in [(0, 9999, true), (1, 4096, true), (1, 8192, false), (1, u64::MAX, false), (2, 0, false)] {
            assert_eq!(is_behind(wal("a", index, offset), &there), behind, "{index} {offset}");
        }
        let snapshot = File { snapshot: true, ..at(wal("a", 1, 0), "2026-01-01T00:00:05Z") };
        assert!(!is_behind(wal("a", 1, 0), &[snapshot]), "a snapshot of this very WAL");
    }

    #[test]
    fn another_generation_that_was_written_later_is_ahead() {
        let ours = at(wal("a", 1, 0), "2026-01-01T00:00:05Z");
        let other = |created| [ours.clone(), at(wal("b", 0, 0), created)];
        assert!(is_behind(wal("a", 1, 99), &other("2026-01-01T00:00:06Z")));
        assert!(!is_behind(wal("a", 1, 99), &other("2026-01-01T00:00:05Z")));
        // Ours is not there yet: its own beginning counts where it went on after what is there, and tells nothing where it did not.
        let begun = |after: &str, seconds| Begun {
            after: Some(after.into()),
            at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
            ..Begun::default()
        };
        let only = [at(wal("b", 0, 0), "1970-01-01T00:10:00Z")];
        let standing = |after, seconds| compare(Some(wal("a", 0, 99)), &only, &begun(after, seconds), now());
        assert!(matches!(standing("b", 598), Standing::Behind(_)));
        assert_eq!((standing("b", 599), standing("c", 599)), (Standing::Current, Standing::Unknown));
        // An earlier one of ours is there, from before that restore.
        let earlier = [at(wal("e", 0, 0), "1970-01-01T00:00:10Z"), only[0].clone()];
        let standing = |seconds| compare(Some(wal("a", 0, 99)), &earlier, &Begun { own: vec!["e".into()], ..begun("b", seconds) }, now());
        assert!(standing(599) == Standing::Current && matches!(standing(598), Standing::Behind(_)));
        // A generation that is only noted: all that is there of it is ours, and it counts for nothing where nothing is.
        let noted = wal("a", u64::MAX, u64::MAX);
        assert_eq!(compare(Some(noted.clone()), &other("2026-01-01T00:00:04Z"), &Begun::default(), now()), Standing::Current);
        assert!(is_behind(noted.clone(), &other("2026-01-01T00:00:06Z")));
        assert_eq!(compare(Some(noted), &only, &Begun::default(), now()), Standing::Unknown);
        // So is all of those that were noted before it, none of which may have come there.
        let own = |name: &str| Begun { own: vec!["c".into(), name.into()], ..Begun::default() };
        assert_eq!(compare(Some(wal("a", 0, 99)), &only, &own("b"), now()), Standing::Current);
        assert_eq!(compare(Some(wal("a", 0, 99)), &only, &own("d"), now()), Standing::Unknown);
        assert!(matches!(compare(Some(wal("a", 1, 99)), &other("2026-01-01T00:00:06Z"), &own("d"), now()), Standing::Behind(_)));
        // What it was restored from may be dated later by a clock that was set back since.
        let from = |name: &str| Begun { after: Some(name.into()), ..Begun::default() };
        let ahead = other("2030-01-01T00:00:00Z");
        assert_eq!(compare(Some(wal("a", 1, 99)), &ahead, &from("b"), now()), Standing::Current);
        assert!(matches!(compare(Some(wal("a", 1, 99)), &ahead, &from("c"), now()), Standing::Behind(_)));
        assert!(matches!(compare(Some(wal("a", 1, 99)), &other("2026-01-01T00:00:06Z"), &from("b"), now()), Standing::Behind(_)));
    }

    /// What 0.3 leaves beside a database that has begun this generation.
    fn begins(database: &Path, generation: &str) {
        let wal = layout::meta_dir(database).join("generations").join(generation).join("wal");
        std::fs::create_dir_all(&wal).unwrap();
        std::fs::write(wal.join("00000000.wal"), [7; 4152]).unwrap();
        std::fs::write(local::generation_path(database), generation).unwrap();
    }

    #[test]
    fn what_a_database_was_restored_from_is_known_whatever_it_has_begun_since() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let database = Database {
            alias: "a".into(),
            path: path.clone(),
            replica: String::new(),
            from: Vec::new(),
            has_own_meta: false,
            elsewhere: Vec::new(),
        };
        Mark::Restored(wal("aaaaaaaaaaaaaaaa", 3, 99)).write(&path).unwrap();
        begins(&path, "bbbbbbbbbbbbbbbb");
        let first = local::begun_at(&path);
        // A new snapshot is asked for, all is killed, and it is asked for again; lives begin.
        for generation in ["bbbbbbbbbbbbbbbb", "cccccccccccccccc"] {
            continuity::begin_anew(&path).unwrap();
            continuity::begin_anew(&path).unwrap();
            begins(&path, generation);
            continuity::begin(&database);
            continuity::begin(&database);
            let begun = Begun::of(&path);
            let seconds = |at: Option<SystemTime>| at.map(time::rfc3339);
            assert_eq!((begun.after.as_deref(), seconds(begun.at)), (Some("aaaaaaaa"), seconds(first)), "{begun:?}");
            assert!(is_of(&at(wal(generation, 0, 0), ""), begun.own.iter()), "{begun:?}");
        }
    }

    #[test]
    fn a_part_that_was_written_long_after_its_wal_was_copied_may_have_more_in_it() {
        let there = [at(wal("a", 1, 4096), "1970-01-01T00:10:00Z")];
        let copied = |seconds| Begun { copied: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), ..Begun::default() };
        let standing = |seconds, index| compare(Some(wal("a", index, 9000)), &there, &copied(seconds), now());
        assert_eq!((standing(594, 1), standing(595, 1), standing(900, 1)), (Standing::Unknown, Standing::Current, Standing::Current));
        assert_eq!(standing(500, 2), Standing::Current, "another WAL was begun since");
    }

    #[test]
    fn what_was_passed_over_is_known_before_a_generation_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        Mark::Restored(wal("aaaaaaaaaaaaaaaa", 3, 99)).write(&path).unwrap();
        let there = [at(wal("aaaaaaaaaaaaaaaa", 3, 0), "1970-01-01T00:10:00Z"), at(wal("b", 0, 0), "1970-01-01T00:10:03Z")];
        let stands = || compare(continuity::position(&path, Format::Generations), &there, &Begun::of(&path), now());
        assert!(matches!(stands(), Standing::Behind(_)));
        mark::note_origin(&path, "aaaaaaaaaaaaaaaa", SystemTime::UNIX_EPOCH + Duration::from_secs(603)).unwrap();
        assert_eq!(stands(), Standing::Current);
    }

    #[test]
    fn no_position_or_the_other_lines_is_not_known() {
        let there = [at(wal("a", 1, 0), "2026-01-01T00:00:05Z")];
        assert_eq!(compare(None, &there, &Begun::default(), now()), Standing::Unknown);
        assert_eq!(compare(Some(Position::Txid(5)), &there, &Begun::default(), now()), Standing::Unknown);
        assert_eq!(compare(None, &[], &Begun::default(), now()), Standing::Current);
        assert_eq!(compare(Some(Position::Txid(u64::MAX)), &there, &Begun::default(), now()), Standing::Current, "put there on purpose");
    }
}
