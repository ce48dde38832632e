//! What a replica holds, in Litestream's own words. Must never change anything there, nor call a restore's success by it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;

use super::call::{self, Config};
use super::{Ability, Format, Litestream};
use crate::time;

/// A place in the history of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// 0.5: a transaction.
    Txid(u64),
    /// 0.3: a place in a WAL.
    Wal {
        /// Its generation, sixteen hexadecimal digits.
        generation: String,
        /// The WAL's number in it.
        index: u64,
        /// Bytes in that WAL.
        offset: u64,
    },
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Txid(txid) => write!(f, "{txid:016x}"),
            Self::Wal { generation, index, offset } => write!(f, "{generation}/{index:08x}/{offset:08x}"),
        }
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |digits: &str| u64::from_str_radix(digits, 16).map_err(drop);
        match text.split('/').collect::<Vec<_>>().as_slice() {
            [txid] => number(txid).map(Self::Txid),
            [generation, index, offset] => {
                Ok(Self::Wal { generation: (*generation).to_owned(), index: number(index)?, offset: number(offset)? })
            }
            _ => Err(()),
        }
    }
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The last transaction in it, or where its part of a WAL begins.
    pub position: Position,
    /// It stands for all before it.
    pub snapshot: bool,
    /// Its size there, compressed.
    pub bytes: u64,
    /// When it was written, RFC 3339 in UTC to the second: as text it sorts by time.
    pub created: String,
}

/// How much is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Enough to know the newest transactions: one request on 0.5.
    Newest,
    /// Enough to know where it ends: a snapshot may be there before the transactions that it has (0.5).
    End,
    /// Everything.
    All,
}

/// Lists a backup; nothing where there is none.
///
/// # Errors
/// Litestream's reason, or that it has not answered by the deadline.
pub fn list(litestream: &Litestream, config: &Config<'_>, database: &Path, depth: Depth, by: Instant) -> Result<Vec<File>, String> {
    let ask = |words: &[&str]| {
        let (command, flags) = words.split_first().unwrap_or((&"", &[]));
        let mut args: Vec<OsString> = vec![command.into()];
        args.extend(config.flags());
        args.extend(flags.iter().map(Into::into));
        args.push(database.into());
        answer(litestream, &args, by)
    };
    match litestream.format() {
        // Before it had levels, it listed the lowest alone.
        Format::Ltx if !litestream.can(Ability::Socket) => Ok(table(&ask(&["ltx"])?)),
        Format::Ltx => {
            let level = |level: &str| ask(&["ltx", "-level", level]).map(|said| table(&said));
            match depth {
                Depth::Newest => level(TRANSACTIONS),
                Depth::All => level("all"),
                // Both at once: an app waits for it.
                Depth::End => std::thread::scope(|scope| {
                    let snapshots = std::thread::Builder::new().spawn_scoped(scope, || level(&SNAPSHOTS.to_string()));
                    let mut files = level(TRANSACTIONS)?;
                    let snapshots = snapshots
                        .map_or_else(|_| level(&SNAPSHOTS.to_string()), |asked| asked.join().unwrap_or_else(|_| Err(FAILED.to_owned())));
                    files.extend(snapshots?);
                    Ok(files)
                }),
            }
        }
        Format::Generations => {
            let mut files = table(&ask(&["snapshots"])?);
            files.extend(table(&ask(&["wal"])?));
            Ok(files)
        }
    }
}

/// What such a command of Litestream's says on stdout.
///
/// # Errors
/// Litestream's reason, or that it has not answered by the deadline.
pub fn answer(litestream: &Litestream, args: &[OsString], by: Instant) -> Result<String, String> {
    match call::run(litestream, args, by) {
        // 0.3 ends well although it could not ask, and says so in its log alone.
        Ok(Some(output)) if output.ended.ok() && !output.said.contains("level=ERROR") => Ok(output.stdout),
        Ok(Some(output)) => Err(output.reason()),
        Ok(None) => Err("it does not answer in time".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// How the tables begin: 0.3's, 0.5's with levels and without.
const HEADINGS: [&str; 3] = ["replica ", "level ", "min_txid "];
/// 0.5's level that holds snapshots, and the one with each transaction.
const SNAPSHOTS: u8 = 9;
const TRANSACTIONS: &str = "0";
/// Of a look that came to no end of its own.
const FAILED: &str = "the list of its snapshots failed";

#[derive(Deserialize)]
struct LtxFile {
    level: u8,
    max_txid: String,
    size: u64,
    timestamp: String,
}

impl From<LtxFile> for File {
    fn from(file: LtxFile) -> Self {
        let txid = u64::from_str_radix(&file.max_txid, 16).unwrap_or_default();
        Self { position: Position::Txid(txid), snapshot: file.level == SNAPSHOTS, bytes: file.size, created: file.timestamp }
    }
}

/// A table with a heading: 0.5's `ltx`, 0.3's `snapshots` and `wal`.
fn table(text: &str) -> Vec<File> {
    // Its log may come before it.
    let is_log = |line: &&str| !HEADINGS.iter().any(|heading| line.starts_with(heading));
    let mut lines = text.lines().skip_while(is_log).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let heading = lines.next().unwrap_or_default();
    let row = |words: Vec<&str>| {
        let cell = |name: &str| heading.iter().position(|h| *h == name).and_then(|at| words.get(at).copied());
        let number = |name: &str| cell(name)?.parse::<u64>().ok();
        if let Some(txid) = cell("max_txid") {
            let position = Position::Txid(u64::from_str_radix(txid, 16).ok()?);
            let snapshot = number("level") == Some(u64::from(SNAPSHOTS));
            return Some(File { position, snapshot, bytes: number("size")?, created: cell("created")?.to_owned() });
        }
        let position = Position::Wal {
            generation: cell("generation")?.to_owned(),
            index: number("index")?,
            offset: number("offset").unwrap_or_default(),
        };
        Some(File { position, snapshot: cell("offset").is_none(), bytes: number("size")?, created: cell("created")?.to_owned() })
    };
    lines.filter_map(row).collect()
}

/// The newest position there; all of the WAL that it is in.
pub fn newest(files: &[File]) -> Option<Position> {
    let key = |file: &&File| match &file.position {
        Position::Txid(txid) => (*txid, String::new(), 0, 0),
        Position::Wal { index, offset, .. } => (0, file.created.clone(), *index, *offset),
    };
    files.iter().max_by_key(key).map(|file| match file.position.clone() {
        Position::Wal { generation, index, .. } => Position::Wal { generation, index, offset: u64::MAX },
        txid @ Position::Txid(_) => txid,
    })
}

/// So far a file's time may be ahead of this host's clock without a word: the storage has a clock of its own.
pub const AHEAD: Duration = Duration::from_secs(60);

/// Where 0.3's newest generation is the newest only by times that are ahead of this host's clock, which has been set back since, or whose
/// other hosts' are ahead: that one with its time, and the newest of the others with its own. Which was written last is not known then.
pub fn ahead_of_the_clock(files: &[File], now: SystemTime) -> Option<[(String, String); 2]> {
    let by_now = time::rfc3339(now.checked_add(AHEAD)?);
    let generations = generations(files);
    let last = generations.iter().max_by_key(|one| one.created).filter(|one| one.created > by_now.as_str())?;
    let other = generations.iter().filter(|one| one.created <= by_now.as_str()).max_by_key(|one| one.created)?;
    Some([last.owned(), other.owned()])
}

/// One of 0.3's generations there.
struct Generation<'a> {
    name: &'a str,
    /// When it was last written.
    created: &'a str,
    /// It has parts of a WAL.
    has_wal: bool,
}

impl Generation<'_> {
    fn owned(&self) -> (String, String) {
        (self.name.to_owned(), self.created.to_owned())
    }
}

/// All of them, by their names.
fn generations(files: &[File]) -> Vec<Generation<'_>> {
    let mut all: BTreeMap<&str, (&str, bool)> = BTreeMap::new();
    for file in files {
        if let Position::Wal { generation, .. } = &file.position {
            let (last, has_wal) = all.entry(generation).or_default();
            (*last, *has_wal) = ((*last).max(&file.created), *has_wal || !file.snapshot);
        }
    }
    all.into_iter().map(|(name, (created, has_wal))| Generation { name, created, has_wal }).collect()
}

/// Where 0.3 has only begun its newest generation, with a snapshot and no part of a WAL: the snapshot is a copy of a file that is written to, and
/// is whole only with the WAL beside it. That generation, and the newest of the others that has one, with its time.
pub fn only_begun(files: &[File]) -> Option<[(String, String); 2]> {
    let generations = generations(files);
    // Times are whole seconds, and it was begun after the other.
    let newest = generations.iter().max_by_key(|one| (one.created, !one.has_wal)).filter(|one| !one.has_wal)?;
    let other = generations.iter().filter(|one| one.has_wal).max_by_key(|one| one.created)?;
    Some([newest.owned(), other.owned()])
}

/// The flags for 0.3's newest state of this second or before: it knows no time after a generation's last write, only the
/// generation as a whole.
pub fn up_to(files: &[File], second: &str) -> Option<Vec<OsString>> {
    let of = |file: &File| match &file.position {
        Position::Wal { generation, .. } => Some(generation.clone()),
        Position::Txid(_) => None,
    };
    let generation = of(files.iter().filter(|f| f.created.as_str() <= second).max_by_key(|f| &f.created)?)?;
    if files.iter().any(|f| of(f).as_ref() == Some(&generation) && f.created.as_str() > second) {
        // All of that second, since the list has no fractions.
        Some(vec!["-timestamp".into(), format!("{}.999Z", second.trim_end_matches('Z')).into()])
    } else {
        Some(vec!["-generation".into(), generation.into()])
    }
}

/// The value of one of Litestream's flags.
pub fn flag<'a>(flags: &'a [OsString], name: &str) -> Option<&'a str> {
    flags.iter().position(|f| f == name).and_then(|at| flags.get(at.checked_add(1)?)?.to_str())
}

/// What a restore would fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// How many files.
    pub files: usize,
    /// Their size there, compressed.
    pub bytes: u64,
    /// Where it would end.
    pub position: Position,
    /// When the newest of them was written.
    pub created: String,
}

/// Asks what a restore with these flags of Litestream's would fetch; nothing where there is no backup.
///
/// # Errors
/// Litestream's reason, or that it has not answered by the deadline.
pub fn needed(
    litestream: &Litestream,
    config: &Config<'_>,
    database: &Path,
    flags: &[OsString],
    by: Instant,
) -> Result<Option<Needed>, String> {
    if litestream.format() == Format::Generations {
        return list(litestream, config, database, Depth::All, by).map(|files| newest_restore(&files, flags));
    }
    if !litestream.can(Ability::Status) {
        return Err(litestream.lacks("dry run of a restore", Ability::Status));
    }
    let mut args: Vec<OsString> = vec!["restore".into()];
    args.extend(config.flags());
    // It refuses where the file exists, though it writes nothing.
    args.extend(["-dry-run".into(), "-json".into(), "-o".into(), crate::layout::beside(database, ".dry-run").into()]);
    args.extend(flags.iter().cloned());
    args.push(database.into());
    match answer(litestream, &args, by) {
        Ok(json) => Ok(dry_run(&json)),
        Err(why) if why.contains("no matching backup") => Ok(None),
        Err(why) => Err(why),
    }
}

#[derive(Deserialize)]
struct DryRun {
    files: Vec<LtxFile>,
}

fn dry_run(json: &str) -> Option<Needed> {
    let files: Vec<File> = serde_yaml::from_str::<DryRun>(json).ok()?.files.into_iter().map(File::from).collect();
    summed(files.iter())
}

fn summed<'a>(files: impl Iterator<Item = &'a File> + Clone) -> Option<Needed> {
    let last = files.clone().last()?;
    Some(Needed {
        files: files.clone().count(),
        bytes: files.clone().map(|f| f.bytes).fold(0, u64::saturating_add),
        position: last.position.clone(),
        created: files.map(|f| f.created.clone()).max()?,
    })
}

/// What 0.3 would fetch: of the generation that was written last, the newest snapshot and the WAL after it, within
/// what the flags allow.
fn newest_restore(files: &[File], flags: &[OsString]) -> Option<Needed> {
    let flag = |name: &str| flag(flags, name);
    let place = |file: &File| match &file.position {
        Position::Wal { generation, index, offset } => Some((generation.clone(), *index, *offset)),
        Position::Txid(_) => None,
    };
    let most = flag("-index").and_then(|n| u64::from_str_radix(n, 16).ok()).unwrap_or(u64::MAX);
    let within = |f: &File| flag("-timestamp").is_none_or(|at| f.created.as_str() <= at) && place(f).is_some_and(|(_, i, _)| i <= most);
    let files: Vec<&File> = files.iter().filter(|f| within(f)).collect();
    let generation = match flag("-generation") {
        Some(name) => name.to_owned(),
        None => place(files.iter().max_by_key(|f| &f.created)?)?.0,
    };
    let mut ours: Vec<&File> = files.into_iter().filter(|f| place(f).is_some_and(|(g, ..)| g == generation)).collect();
    let from = ours.iter().filter(|f| f.snapshot).filter_map(|f| place(f)).map(|(_, index, _)| index).max()?;
    ours.retain(|f| place(f).is_some_and(|(_, index, _)| if f.snapshot { index == from } else { index >= from }));
    ours.sort_by_key(|f| (!f.snapshot, place(f)));
    summed(ours.iter().copied())
}

/// What a restore said of its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It ended there.
    At(Position),
    /// 0.5 has restored a backup of 0.3's, which has no transaction.
    Of03,
    /// It said nothing.
    Unsaid,
}

/// Where a restore ended, from what it said: 0.5's `-json`, 0.3's log.
pub fn ended(format: Format, said: &str) -> Ended {
    match format {
        Format::Ltx => match said.split_once("\"txid\": \"").and_then(|(_, rest)| rest.split_once('"')) {
            Some(("", _)) => Ended::Of03,
            Some((txid, _)) => u64::from_str_radix(txid, 16).map_or(Ended::Unsaid, |txid| Ended::At(Position::Txid(txid))),
            None => Ended::Unsaid,
        },
        Format::Generations => {
            let value = |line: &str, key: &str| Some(line.split_once(key)?.1.split_whitespace().next()?.to_owned());
            let last = said.lines().rev().find(|l| l.contains("msg=\"applied wal\"") || l.contains("msg=\"restoring snapshot\""));
            let position = last.and_then(|l| {
                // The whole of that WAL, as far as it was there.
                Some(Position::Wal { generation: value(l, "generation=")?, index: value(l, " index=")?.parse().ok()?, offset: u64::MAX })
            });
            position.map_or(Ended::Unsaid, Ended::At)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let wal = Position::Wal { generation: "97c593a864339cab".into(), index: 3, offset: u64::MAX };
        for position in [Position::Txid(0x2a), wal] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        assert!("".parse::<Position>().is_err() && "a/b".parse::<Position>().is_err());
    }

    const TABLE: &str = "\
replica  generation        index  offset  size   created
file     97c593a864339cab  0      0       37728  2026-11-25T02:28:18Z
file     97c593a864339cab  2      140112  37832  2026-11-25T02:28:19Z
";
    const LTX: &str = "\
level  min_txid          max_txid          size  created
9      0000000000000001  000000000000001f  627   2026-11-28T08:04:17Z
";
    const LTX_BEFORE_LEVELS: &str = "\
min_txid          max_txid          size  created
0000000000000001  000000000000001f  627   2026-11-28T08:04:17Z
";
    const SNAPSHOTS: &str = "\
replica  generation        index  size     created
file     0000000000000001  0      11       2026-11-24T02:28:18Z
file     97c593a864339cab  1      4086234  2026-11-25T02:28:18Z
file     97c593a864339cab  0      12       2026-11-25T02:28:10Z
";

    #[test]
    fn both_lines_lists_are_understood() {
        let files = table(TABLE);
        let at = Position::Wal { generation: "97c593a864339cab".into(), index: 2, offset: 140_112 };
        assert_eq!(files[1], File { position: at, snapshot: false, bytes: 37832, created: "2026-11-25T02:28:19Z".into() });
        assert!(table("").is_empty() && table(&format!("time=2026 level=INFO msg=x\n{SNAPSHOTS}"))[0].snapshot);
        for (text, level) in [(LTX, true), (LTX_BEFORE_LEVELS, false)] {
            let file = &table(text)[0];
            assert_eq!((&file.position, file.snapshot, file.bytes), (&Position::Txid(31), level, 627));
            assert_eq!(file.created, "2026-11-28T08:04:17Z");
        }
    }

    #[test]
    fn what_the_older_line_would_fetch_is_its_newest_snapshot_and_the_wal_after_it() {
        let files = [table(SNAPSHOTS), table(TABLE)].concat();
        let needed = |flags: &[&str]| newest_restore(&files, &flags.iter().map(OsString::from).collect::<Vec<_>>());
        let newest = needed(&[]).unwrap();
        assert_eq!((newest.files, newest.bytes, newest.created.as_str()), (2, 4_086_234 + 37832, "2026-11-25T02:28:19Z"));
        assert_eq!(needed(&["-generation", "0000000000000001"]).unwrap().bytes, 11);
        assert_eq!(needed(&["-timestamp", "2026-11-24T12:00:00Z"]).unwrap().bytes, 11);
        assert_eq!(needed(&["-index", "0"]).unwrap().bytes, 12 + 37728);
        assert_eq!(needed(&["-timestamp", "2020-01-01T00:00:00Z"]), None);
    }

    #[test]
    fn a_generation_with_a_snapshot_alone_is_only_begun() {
        let begun = |begun: &str| table(&format!("{SNAPSHOTS}file     {begun}  0  11  2026-11-25T02:28:20Z\n"));
        let names = |files: &[File]| only_begun(files).map(|both| both.map(|(generation, _)| generation));
        let both = Some(["ffffffffffffffff", "97c593a864339cab"].map(str::to_owned));
        assert_eq!(names(&[begun("ffffffffffffffff"), table(TABLE)].concat()), both);
        assert_eq!(names(&[begun("97c593a864339cab"), table(TABLE)].concat()), None, "another snapshot of a generation with a WAL");
        assert_eq!(names(&begun("ffffffffffffffff")), None, "there is no other one with a WAL");
    }

    #[test]
    fn the_older_line_is_asked_for_a_time_within_a_generation_or_for_the_whole_of_it() {
        let files = [table(SNAPSHOTS), table(TABLE)].concat();
        let flags =
            |second: &str| up_to(&files, second).map(|f| f.iter().map(|w| w.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" "));
        assert_eq!(flags("2026-11-25T02:28:18Z").unwrap(), "-timestamp 2026-11-25T02:28:18.999Z");
        assert_eq!(flags("2026-11-25T02:28:19Z").unwrap(), "-generation 97c593a864339cab");
        assert_eq!(flags("2026-11-24T12:00:00Z").unwrap(), "-generation 0000000000000001");
        assert_eq!(flags("2020-01-01T00:00:00Z"), None);
    }

    #[test]
    fn where_a_restore_ended_is_read_from_what_it_said() {
        let json = |txid: &str| format!("{{\n  \"replica\": \"file\",\n  \"txid\": \"{txid}\",\n}}\n");
        assert_eq!(ended(Format::Ltx, &json("0000000000000005")), Ended::At(Position::Txid(5)));
        assert_eq!(ended(Format::Ltx, &json("")), Ended::Of03);
        assert_eq!(ended(Format::Ltx, ""), Ended::Unsaid);
        let log = "level=INFO msg=\"restoring snapshot\" db=/a replica=file generation=97c5 index=1 path=o\n\
                   level=INFO msg=\"applied wal\" db=/a replica=file generation=97c5 index=3 elapsed=3ms\n";
        let at = Position::Wal { generation: "97c5".into(), index: 3, offset: u64::MAX };
        assert_eq!(ended(Format::Generations, log), Ended::At(at));
    }
}
