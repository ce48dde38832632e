//! What an app asks of a database that SQLite refuses while anybody else has it open, so that a pin would end the app: to leave WAL
//! mode, or to hold the database for itself. Seen in the first moments of a life, and noted beside the database for the next boot.
//! Must never look at a database that this process has open (a process that closes a file drops all its POSIX locks on it).
//!
//! That it asked cannot be seen where it was refused: SQLite tries its lock once, and no busy timeout counts. So an app that failed
//! soon after its start beside a pin may have, which is tried once, at the next boot.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::plan::Database;
use crate::sqlite::locks;
use crate::{files, mark, report, sqlite};

/// What is noted of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// It began the database, or found it, in another mode than WAL: it may set that at each start, or Litestream's from now on.
    Began,
    /// It took a database out of WAL mode.
    Left,
    /// It holds the database in exclusive locking mode.
    Alone,
    /// It failed soon after its start, while the WAL was pinned.
    Failed,
}

/// How the word begins that it is noted in.
const WORD: &str = "app=";

impl Habit {
    const WORDS: [(Self, &str); 4] = [(Self::Began, "began"), (Self::Left, "left"), (Self::Alone, "alone"), (Self::Failed, "failed")];

    /// What is noted; none for an app with which the WAL can be pinned.
    pub fn read(database: &Path) -> Option<Self> {
        let noted = mark::more(database);
        let word = noted.split_whitespace().find_map(|word| word.strip_prefix(WORD))?;
        Self::WORDS.iter().find(|(_, each)| *each == word).map(|(habit, _)| *habit)
    }

    /// Notes it. Best effort: what is not noted is seen anew.
    pub fn note(habit: Option<Self>, database: &Path) {
        if Self::read(database) == habit {
            return;
        }
        let word = Self::WORDS.iter().find(|(each, _)| Some(*each) == habit).map_or_else(String::new, |(_, word)| format!("{WORD}{word}"));
        if let Err(error) = mark::note_more(database, &[WORD], &word) {
            report::debug(format_args!("{}: {error}", mark::mark_path(database).display()));
        }
    }

    /// Notes that the app failed, where nothing more is known of it.
    pub fn failed(database: &Path) {
        if Self::read(database).is_none() && open(database).is_some() {
            Self::note(Some(Self::Failed), database);
        }
    }

    /// Why the WAL is emptied at this start though it could be pinned; none where that is no news to anybody.
    pub fn at_the_boot(self) -> Option<&'static str> {
        match self {
            Self::Began => None,
            Self::Left => Some(
                "its app leaves WAL mode at each start, and Litestream needs it: the WAL was emptied, for a full snapshot; \
                 leave PRAGMA journal_mode alone",
            ),
            Self::Alone => Some(
                "its app holds it for itself (PRAGMA locking_mode=EXCLUSIVE): the WAL was emptied, and nothing is replicated before the app ends",
            ),
            Self::Failed => Some(
                "its app failed soon after its last start, as one does that asks for another journal mode than WAL, which Litestream needs, \
                 while the WAL is held back for Litestream: this time the WAL was emptied instead, for a full snapshot",
            ),
        }
    }

    fn in_the_life(self) -> Option<&'static str> {
        match self {
            Self::Began | Self::Failed => None,
            Self::Left => Some(
                "the app has left WAL mode, which Litestream needs and sets again; leave PRAGMA journal_mode alone, or each start makes a full snapshot",
            ),
            Self::Alone => Some("the app holds it for itself (PRAGMA locking_mode=EXCLUSIVE): nothing is replicated before it ends"),
        }
    }
}

/// A commit, and the end of a last connection, hold a database alone for a moment.
const ALONE_FOR: Duration = Duration::from_millis(500);

/// A database in the first moments of an app.
#[derive(Debug)]
pub struct Look {
    database: Database,
    /// It was in WAL mode before the app.
    was_wal: bool,
    /// Since when somebody has held it alone at each look.
    alone: Option<Instant>,
}

impl Look {
    /// Before the app's start.
    pub fn new(database: &Database) -> Self {
        Self { was_wal: open(&database.path).is_some_and(|(_, wal)| wal), database: database.clone(), alone: None }
    }

    /// Which database it is. May be asked while this process has it open, as [`Self::is_over`] may.
    pub fn path(&self) -> &Path {
        &self.database.path
    }

    /// Looks once; when something is seen it is noted, and that is all. What is to be said of it.
    pub fn again(&mut self) -> Option<Option<String>> {
        let (file, wal) = open(&self.database.path)?;
        let alone = wal && locks::is_held_alone(&file);
        self.alone = if alone { self.alone.or_else(|| Some(Instant::now())) } else { None };
        let habit = seen(wal, self.was_wal, self.alone.is_some_and(|since| since.elapsed() >= ALONE_FOR))?;
        let noted = Habit::read(&self.database.path);
        // No Litestream has come between that would have set WAL mode again.
        let habit = if (habit, noted) == (Habit::Began, Some(Habit::Left)) { Habit::Left } else { habit };
        let news = noted != Some(habit);
        Habit::note(Some(habit), &self.database.path);
        Some(habit.in_the_life().filter(|_| news).map(|said| format!("{}: {said}", self.database.alias)))
    }

    /// Whether somebody held it alone at the last look, be it for a moment.
    pub fn is_held_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// Litestream reads it, and nothing was seen until then.
    pub fn is_over(&self) {
        Habit::note(None, &self.database.path);
    }
}

fn seen(wal: bool, was_wal: bool, alone: bool) -> Option<Habit> {
    match (wal, was_wal) {
        (false, true) => Some(Habit::Left),
        (false, false) => Some(Habit::Began),
        (true, _) => alone.then_some(Habit::Alone),
    }
}

/// A database with content, and whether it is in WAL mode.
fn open(path: &Path) -> Option<(File, bool)> {
    let file = files::open(path).ok()?;
    let wal = sqlite::is_in_wal_mode(&file)?;
    Some((file, wal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::Mark;
    use rusqlite::Connection;

    fn database() -> (tempfile::TempDir, Database) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let database =
            Database { alias: "a".into(), path, replica: String::new(), from: Vec::new(), has_own_meta: false, elsewhere: Vec::new() };
        (dir, database)
    }

    #[test]
    fn an_app_that_leaves_wal_mode_is_told_from_one_that_began_in_another() {
        let (_dir, database) = database();
        let run = |sql: &str| Connection::open(&database.path).unwrap().execute_batch(sql).unwrap();
        let mut look = Look::new(&database);
        assert_eq!(look.again(), None, "not there yet");
        run("CREATE TABLE t(x)");
        assert_eq!(look.again(), Some(None));
        assert_eq!(Habit::read(&database.path), Some(Habit::Began));
        run("PRAGMA journal_mode=wal");
        let mut look = Look::new(&database);
        assert_eq!(look.again(), None);
        run("PRAGMA journal_mode=delete");
        assert!(look.again().unwrap().unwrap().starts_with("a: the app has left WAL mode"));
        assert_eq!(look.again(), Some(None), "said once");
        Mark::Clean(4).write(&database.path).unwrap();
        assert_eq!(Habit::read(&database.path), Some(Habit::Left), "it stays with each mark");
        look.is_over();
        assert_eq!((Habit::read(&database.path), Mark::read(&database.path)), (None, Mark::Clean(4)));
    }

    #[test]
    fn exclusive_locking_is_seen_only_where_it_lasts() {
        assert_eq!(seen(true, true, true), Some(Habit::Alone));
        assert_eq!((seen(true, true, false), seen(true, false, false)), (None, None));
        assert_eq!((seen(false, true, true), seen(false, false, true)), (Some(Habit::Left), Some(Habit::Began)));
    }
}
