//! What the watch over a database and its backup keeps from look to look, in the runtime directory. Must never decide anything, nor
//! outlive the boot.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::laps::Lap;
use crate::litestream::backup::Position;
use crate::plan::Plan;
use crate::state::{millis, time};
use crate::{files, report, runtime, sqlite};

/// Which file a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// As its header says it; none while it has no header yet.
    page_size: Option<u16>,
}

impl Identity {
    /// Of the file at this path; none where there is none, or one without content.
    pub fn of(path: &Path) -> Option<Self> {
        let file = files::open(path).ok()?;
        let about = file.metadata().ok().filter(|about| about.len() > 0)?;
        let page_size = sqlite::header::<18>(&file).and_then(|header| Some(u16::from_be_bytes(*header.last_chunk()?)));
        Some(Self { device: about.dev(), inode: about.ino(), page_size })
    }

    /// What has become of it, in words; none where it is the same.
    pub fn became(&self, now: &Self) -> Option<&'static str> {
        if (self.device, self.inode) != (now.device, now.inode) {
            return Some("was replaced by another file");
        }
        let sizes = self.page_size.zip(now.page_size);
        sizes.is_some_and(|(before, now)| before != now).then_some("has another page size")
    }
}

/// One database, as it was last seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// The file that Litestream has open.
    pub file: Option<Identity>,
    /// It was gone.
    pub deleted: bool,
    /// It was said that there is none yet.
    pub told: bool,
    /// 0.5: when its replica last had everything.
    pub synced: Option<SystemTime>,
    /// 0.3: how far its replica was, in which generation.
    pub placed: Option<Position>,
    /// When its replica was last looked at, and where the database was then.
    pub looked: Option<SystemTime>,
    /// See [`Watched::looked`].
    pub at: Option<Position>,
    /// 0.3: the newest part of the WAL that was seen there.
    pub newest: Option<Position>,
    /// 0.3: the first copy of the WAL that was seen of its generation.
    pub lap: Option<Lap>,
}

impl Watched {
    /// What was kept of it in this boot.
    pub fn read(plan: &Plan, database: &Path) -> Self {
        Self::decode(&files::read_to_string(&runtime::file_of(plan, runtime::WATCHED, database)).unwrap_or_default())
    }

    fn decode(text: &str) -> Self {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let position = |name: &str| value(name)?.parse().ok();
        let identity = |text: &str| {
            let mut words = text.split_whitespace();
            let mut number = || words.next()?.parse::<u64>().ok();
            let (device, inode) = (number()?, number()?);
            Some(Identity { device, inode, page_size: number().and_then(|size| u16::try_from(size).ok()) })
        };
        Self {
            file: value("file").and_then(identity),
            deleted: value("deleted").is_some(),
            told: value("told").is_some(),
            synced: value("synced").map(time),
            placed: position("placed"),
            looked: value("looked").map(time),
            at: position("at"),
            newest: position("newest"),
            lap: value("lap").and_then(|lap| lap.parse().ok()),
        }
    }

    fn encode(&self) -> String {
        let mut text = String::new();
        if let Some(Identity { device, inode, page_size }) = self.file {
            let page_size = page_size.map_or_else(String::new, |size| size.to_string());
            let _ = writeln!(text, "file {device} {inode} {page_size}");
        }
        for (name, is) in [("deleted", self.deleted), ("told", self.told)] {
            text.extend(is.then(|| format!("{name} 1\n")));
        }
        for (name, at) in [("synced", self.synced), ("looked", self.looked)] {
            text.extend(at.map(|at| format!("{name} {}\n", millis(at))));
        }
        for (name, position) in [("placed", &self.placed), ("at", &self.at), ("newest", &self.newest)] {
            text.extend(position.as_ref().map(|position| format!("{name} {position}\n")));
        }
        text.extend(self.lap.as_ref().map(|lap| format!("lap {lap}\n")));
        text
    }

    /// Keeps it. Best effort: what is not kept is seen anew.
    pub fn write(&self, plan: &Plan, database: &Path) {
        leave(plan, runtime::WATCHED, database, &self.encode());
    }
}

/// A snapshot that a backup needs, since it is known not to be whole: a note with the reason, until it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// Why, in words.
    pub why: String,
    /// How long ago that was noted.
    pub age: Duration,
}

impl Owed {
    /// What is owed to this database's backup.
    pub fn read(plan: &Plan, database: &Path) -> Option<Self> {
        let path = runtime::file_of(plan, runtime::OWED, database);
        let why = files::read_to_string(&path).ok()?.trim().to_owned();
        let age = fs::metadata(&path).and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
        Some(Self { why, age })
    }

    /// Notes it, in the place of what was noted.
    pub fn note(plan: &Plan, database: &Path, why: &str) {
        leave(plan, runtime::OWED, database, &format!("{}\n", why.replace('\n', " ")));
    }

    /// It is there.
    pub fn settle(plan: &Plan, database: &Path) {
        let _ = fs::remove_file(runtime::file_of(plan, runtime::OWED, database));
    }
}

fn leave(plan: &Plan, kind: &str, database: &Path, text: &str) {
    let path = runtime::file_of(plan, kind, database);
    if let Err(error) = runtime::leave(plan, &path, text) {
        report::debug(format_args!("{}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
        let wal = Position::Wal { generation: "ab".into(), index: 3, offset: 4152 };
        let full = Watched {
            file: Some(Identity { device: 1, inode: 2, page_size: Some(4096) }),
            deleted: true,
            told: true,
            synced: Some(at),
            placed: Some(wal.clone()),
            looked: Some(at),
            at: Some(Position::Txid(42)),
            newest: Some(wal),
            lap: "ab/00000003/0000002a".parse().ok(),
        };
        let bare = Watched { file: Some(Identity { device: 1, inode: 2, page_size: None }), ..Watched::default() };
        for watched in [full, bare, Watched::default()] {
            assert_eq!(Watched::decode(&watched.encode()), watched);
        }
    }

    #[test]
    fn another_file_and_another_page_size_are_told_from_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.db"), dir.path().join("b.db"));
        assert_eq!(Identity::of(&path), None);
        fs::write(&path, "").unwrap();
        assert_eq!(Identity::of(&path), None, "nothing in it yet");
        let create = |path: &Path, size| {
            let sql = format!("PRAGMA page_size={size}; VACUUM; CREATE TABLE IF NOT EXISTS t(x)");
            rusqlite::Connection::open(path).unwrap().execute_batch(&sql).unwrap();
        };
        create(&path, 4096);
        let first = Identity::of(&path).unwrap();
        assert_eq!(first.became(&Identity::of(&path).unwrap()), None);
        create(&path, 8192);
        assert_eq!(first.became(&Identity::of(&path).unwrap()), Some("has another page size"));
        create(&other, 4096);
        fs::rename(&other, &path).unwrap();
        assert_eq!(first.became(&Identity::of(&path).unwrap()), Some("was replaced by another file"));
    }
}
