//! The file beside a database that is its lock, and says what is known of its backup. Must never be written through what somebody else has
//! put in its place.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::files::{self, Dir, Found, Owner, name_of};
use crate::layout::hidden;
use crate::litestream::backup::Position;
use crate::litestream::local::newest_txid;
use crate::report;

/// Our file beside a database: the lock, and what is known of its backup.
pub fn mark_path(database: &Path) -> PathBuf {
    hidden(database, "-litestream-entry")
}

/// How often what is in its place is taken away: somebody may put it there again.
const TRIES: usize = 5;

/// Opens it, and makes it where there is none. A link, a FIFO or a file of another name in its place is taken away, and nothing that it
/// leads to is touched; what is known of the backup is kept.
///
/// # Errors
/// What the kernel says; what is in its place where that may hold something.
pub fn open(database: &Path) -> io::Result<File> {
    open_or_make(database, String::new(), Owner::Directorys)
}

/// The same in the place of one that was deleted: a new one has its owner, and says what it said.
///
/// # Errors
/// As [`open`].
pub fn open_as(database: &Path, deleted: &File) -> io::Result<File> {
    let about = deleted.metadata()?;
    open_or_make(database, kept_of(deleted), Owner::Is(about.uid(), about.gid()))
}

fn open_or_make(database: &Path, mut kept: String, owner: Owner) -> io::Result<File> {
    let path = mark_path(database);
    let (dir, name) = (Dir::of(&path)?, name_of(&path));
    for _ in 0..TRIES {
        let what = match dir.look(name)? {
            Found::File(file) => return saying(file, &kept),
            Found::Nothing => match dir.create(name, 0o644, owner) {
                Ok(file) => return saying(file, &kept),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            },
            Found::Other(kind @ "a directory") => return Err(io::Error::other(format!("{} is {kind}; move it away", path.display()))),
            Found::Other(kind) => kind,
            Found::Shared(file) => {
                kept = kept_of(&file);
                "a file with another name elsewhere"
            }
        };
        match dir.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => report::line(format_args!("{} was {what}: taken away, nothing was written to it", path.display())),
        }
    }
    Err(io::Error::other(format!("{} is replaced again and again", path.display())))
}

/// A file that says nothing yet says what was kept.
fn saying(file: File, kept: &str) -> io::Result<File> {
    if !kept.is_empty() && file.metadata()?.len() == 0 {
        file.write_all_at(kept.as_bytes(), 0)?;
    }
    Ok(file)
}

/// A mark, and nothing else that such a file might hold.
fn kept_of(file: &File) -> String {
    let mut bytes = [0; LONGEST_MARK];
    let length = file.read_at(&mut bytes, 0).unwrap_or_default();
    let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default());
    text.lines().next().filter(|line| Mark::decode(line) != Mark::None).map(|line| format!("{line}\n")).unwrap_or_default()
}

fn read(database: &Path) -> String {
    files::read_to_string(&mark_path(database)).unwrap_or_default()
}

/// What is known of a backup's past, kept beside the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Nothing: earlier boots, not under us, may have left a gap.
    None,
    /// Under us, and without gap so far.
    Open,
    /// Ended well under us at this transaction: a later one here means that somebody else replicated.
    Clean(u64),
    /// Restored by us from a backup that ended here; Litestream has no position of its own yet.
    Restored(Position),
    /// The same from before the backup's end, which it takes the place of: a snapshot is owed before Litestream starts.
    Rewound(Position),
    /// Started without proof, because neither pin nor truncation could be had.
    Unproven,
}

/// A mark is a line of this many bytes at most.
const LONGEST_MARK: usize = 250;

impl Mark {
    /// Reads it.
    pub fn read(database: &Path) -> Self {
        Self::decode(&read(database))
    }

    fn decode(text: &str) -> Self {
        let mut words = text.split_whitespace();
        match (words.next(), words.next().and_then(|n| n.parse().ok())) {
            (Some("open"), _) => Self::Open,
            (Some("clean"), Some(txid)) => Self::Clean(txid),
            (Some("unproven"), _) => Self::Unproven,
            (Some("restored"), _) => text.split_whitespace().nth(1).and_then(|p| p.parse().ok()).map_or(Self::None, Self::Restored),
            (Some("rewound"), _) => text.split_whitespace().nth(1).and_then(|p| p.parse().ok()).map_or(Self::None, Self::Rewound),
            _ => Self::None,
        }
    }

    /// Writes it. In place, since the file is also the lock that PID 1's keeper holds, and without cutting it short, which makes ext4
    /// write it out at once: blanks cover what was longer.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write(&self, database: &Path) -> io::Result<()> {
        let text = match self {
            Self::None => "none".to_owned(),
            Self::Open => "open".to_owned(),
            Self::Clean(txid) => format!("clean {txid}"),
            Self::Restored(position) => format!("restored {position}"),
            Self::Rewound(position) => format!("rewound {position}"),
            Self::Unproven => "unproven".to_owned(),
        };
        write_mark(database, &text, &more(database))
    }

    /// The mark of a clean end: the position that Litestream's own files show, 0 where 0.3 has none of this kind.
    pub fn clean(database: &Path) -> Self {
        Self::Clean(newest_txid(database).unwrap_or_default())
    }

    /// Whether all before the newest transaction here is known to be without gap.
    pub fn proves(&self, newest: Option<u64>) -> bool {
        match self {
            Self::Open | Self::Restored(_) | Self::Rewound(_) => true,
            Self::Clean(txid) => newest.is_none_or(|n| n == *txid),
            Self::None | Self::Unproven => false,
        }
    }
}

/// Between the mark and what else is noted behind it.
const MORE: &str = " | ";

fn write_mark(database: &Path, mark: &str, more: &str) -> io::Result<()> {
    let file = open(database)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or_default().clamp(1, LONGEST_MARK);
    let text = if more.is_empty() { mark.to_owned() } else { format!("{mark}{MORE}{more}") };
    file.write_all_at(format!("{text:<length$}\n").as_bytes(), 0)
}

/// What is noted beside the mark, in words. An older release writes over it.
pub fn more(database: &Path) -> String {
    read(database).lines().next().and_then(|line| line.split_once(MORE)).map(|(_, more)| more.trim().to_owned()).unwrap_or_default()
}

/// Notes a word beside the mark, in the place of those that begin so; an empty one only takes them away.
///
/// # Errors
/// What the kernel says.
pub fn note_more(database: &Path, place_of: &[&str], word: &str) -> io::Result<()> {
    let text = read(database);
    let mark = text.lines().next().unwrap_or_default().split(MORE).next().unwrap_or_default().trim();
    let noted = more(database);
    let stay = noted.split_whitespace().filter(|noted| !place_of.iter().any(|start| noted.starts_with(start)));
    let all: Vec<&str> = stay.chain((!word.is_empty()).then_some(word)).collect();
    write_mark(database, if mark.is_empty() { "none" } else { mark }, &all.join(" "))
}

/// So many of 0.3's generations are kept noted: the first, which is the likeliest to be in the replica, and the last.
const GENERATIONS: usize = 12;
/// How they are noted, each by so many of its digits: a mark is short.
const WAS: &str = "was:";
const DIGITS: usize = 8;

/// Notes one of 0.3's generations that this database has written, besides the one in the mark.
///
/// # Errors
/// What the kernel says.
pub fn note_generation(database: &Path, name: &str) -> io::Result<()> {
    let short = name.get(..DIGITS).unwrap_or(name);
    let mut all: Vec<String> = generations(database).into_iter().filter(|noted| noted != short).collect();
    if all.len() >= GENERATIONS {
        all.remove(1);
    }
    all.push(short.to_owned());
    note_more(database, &[WAS], &format!("{WAS}{}", all.join(",")))
}

/// How the generation is noted that this database was restored from, and until when all that the replica had was known here.
const AFTER: &str = "after:";

/// Notes where this database comes from, and that it knew all that its replica had until then (0.3): when it began a generation of its own,
/// none of which may have come there.
///
/// # Errors
/// What the kernel says.
pub fn note_origin(database: &Path, generation: &str, until: SystemTime) -> io::Result<()> {
    let short = generation.get(..DIGITS).unwrap_or(generation);
    let seconds = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    note_more(database, &[AFTER], &format!("{AFTER}{short}@{seconds}"))
}

/// How the generation begins that is noted so, and until when.
pub fn origin(database: &Path) -> Option<(String, SystemTime)> {
    let noted = more(database);
    let (short, seconds) = noted.split_whitespace().find_map(|word| word.strip_prefix(AFTER)?.split_once('@'))?;
    Some((short.to_owned(), UNIX_EPOCH.checked_add(Duration::from_secs(seconds.parse().ok()?))?))
}

/// How the generations begin that are noted so, the oldest first.
pub fn generations(database: &Path) -> Vec<String> {
    let noted = more(database);
    noted.split_whitespace().filter_map(|word| word.strip_prefix(WAS)).flat_map(|list| list.split(',').map(str::to_owned)).collect()
}

/// Whether a generation is noted so.
pub fn is_its_own(database: &Path, generation: &str) -> bool {
    generations(database).iter().any(|start| generation.starts_with(start.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_end_proves_only_its_own_position() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        assert_eq!(Mark::read(&path), Mark::None);
        for mark in [Mark::Open, Mark::Clean(42), Mark::Restored(Position::Txid(7)), Mark::Rewound(Position::Txid(8)), Mark::Unproven] {
            mark.write(&path).unwrap();
            assert_eq!(Mark::read(&path), mark);
        }
        assert!(Mark::Clean(42).proves(Some(42)) && !Mark::Clean(42).proves(Some(43)));
        assert!(Mark::Open.proves(Some(1)) && !Mark::None.proves(None) && !Mark::Unproven.proves(Some(1)));
    }

    #[test]
    fn what_is_noted_beside_the_mark_stays_with_each_mark_and_is_gone_with_an_older_releases() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        note_more(&path, &[], "2").unwrap();
        note_more(&path, &["migra"], "migrating").unwrap();
        assert_eq!((Mark::read(&path), more(&path).as_str()), (Mark::None, "2 migrating"));
        for mark in [Mark::Clean(42), Mark::Open, Mark::Restored(Position::Txid(7))] {
            mark.write(&path).unwrap();
            assert_eq!((Mark::read(&path), more(&path).as_str()), (mark, "2 migrating"));
        }
        Mark::Clean(42).write(&path).unwrap();
        note_more(&path, &["migra"], "").unwrap();
        assert_eq!((Mark::read(&path), more(&path).as_str()), (Mark::Clean(42), "2"));
        // As an older release writes it.
        let file = File::options().write(true).open(mark_path(&path)).unwrap();
        let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
        file.write_all_at(format!("{:<length$}\n", "open").as_bytes(), 0).unwrap();
        assert_eq!((Mark::read(&path), more(&path).as_str()), (Mark::Open, ""));
    }

    #[test]
    fn the_last_few_generations_are_known_and_the_mark_stays_in_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        note_more(&path, &[], "2").unwrap();
        note_more(&path, &["migra"], "migrating:0123456789abcdef").unwrap();
        let names: Vec<String> = (0_u64..20).map(|n| format!("{:016x}", n << 40)).collect();
        for name in names.iter().chain([&names[15]]) {
            note_generation(&path, name).unwrap();
        }
        let mark = Mark::Restored(Position::Wal { generation: names[5].clone(), index: u64::MAX, offset: u64::MAX });
        mark.write(&path).unwrap();
        let until = UNIX_EPOCH + Duration::from_secs(1_796_052_592);
        for from in [&names[3], &names[4]] {
            note_origin(&path, from, until).unwrap();
        }
        assert_eq!(origin(&path), Some((names[4][..DIGITS].to_owned(), until)));
        let kept: Vec<String> = [0, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 15].map(|n| names[n][..DIGITS].to_owned()).into();
        assert_eq!(generations(&path), kept);
        assert_eq!((Mark::read(&path), more(&path).starts_with("2 migrating:0123456789abcdef was:")), (mark, true));
        assert!(std::fs::metadata(mark_path(&path)).unwrap().len() <= 251);
    }

    #[test]
    fn a_shorter_mark_leaves_nothing_of_a_longer_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        Mark::Clean(42).write(&path).unwrap();
        for _ in 0..50 {
            Mark::Open.write(&path).unwrap();
            assert_eq!(std::fs::read_to_string(mark_path(&path)).unwrap().trim_end(), "open");
        }
        assert!(std::fs::metadata(mark_path(&path)).unwrap().len() <= 251);
    }
}
