//! A copy of each database from before its migration, and the way back to it. Must never leave the place without a database, go
//! back but from a migration that failed or died, nor put an old copy in the place of anything that was written since.
//!
//! What says that a copy may still be put back is a note beside the mark: the boot whose migration it is of, and the file that was
//! copied. It goes with each start of an app; without it a copy is only kept.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};

use super::aside;
use super::fetch::Restored;
use super::install::{Old, install, nobody_has_it_open};
use super::{Local, look};
use crate::exit::Failure;
use crate::files::{Dir, Owner, name_of};
use crate::interrupt;
use crate::layout;
use crate::litestream::backup::Position;
use crate::mark::{self, Mark};
use crate::settings::Entry;
use crate::sqlite;
use crate::sqlite::beside_app;

/// What a copy's name begins with after the database's: `.app.db-before-migration-BOOT`. An older release has no more than this.
const COPY: &str = "-before-migration";
/// A copy that is not whole yet.
const UNFINISHED: &str = ".new";

/// What is noted while a migration runs that is to be rolled back where it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// It runs, in this boot, on the file with this number.
    Migrating { life: String, inode: u64 },
    /// It has failed, and the copy is being put back.
    Undoing { life: String },
}

/// How the words begin that it is noted in.
const STEPS: [&str; 2] = ["migrating=", "undoing="];

impl Step {
    fn read(database: &Path) -> Option<Self> {
        mark::more(database).split_whitespace().find_map(|word| match word.split_once('=')? {
            ("migrating", value) => {
                let (life, inode) = value.split_once(':')?;
                Some(Self::Migrating { life: life.to_owned(), inode: inode.parse().ok()? })
            }
            ("undoing", life) => Some(Self::Undoing { life: life.to_owned() }),
            _ => None,
        })
    }

    fn note(&self, database: &Path) -> io::Result<()> {
        mark::note_more(
            database,
            &STEPS,
            &match self {
                Self::Migrating { life, inode } => format!("migrating={life}:{inode}"),
                Self::Undoing { life } => format!("undoing={life}"),
            },
        )
    }
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undone {
    /// It is in its place again.
    PutBack,
    /// There is none: the migration made the database.
    NoCopy,
}

fn copy_of(database: &Path, life: &str) -> PathBuf {
    layout::hidden(database, &format!("{COPY}-{life}"))
}

/// Every copy beside a database, whole or not.
fn copies(database: &Path) -> Vec<PathBuf> {
    let prefix = layout::hidden(database, COPY).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = fs::read_dir(database.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten();
    // Another database may be called `app.db-before-migration…` itself, but not begin with a dot, too.
    entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .collect()
}

/// Keeps a copy of the database as it is, its WAL included, and notes that its migration may run; of one that is not there yet,
/// no copy.
///
/// # Errors
/// What SQLite or the kernel says; 128+n where this process has been asked to end. Then there is no copy.
pub fn save(database: &Path, life: &str) -> Result<(), Failure> {
    let failed = |what: String| {
        Failure::new(crate::exit::SYSTEM, format!("no copy for LITESTREAM_ENTRY_MIGRATE_ROLLBACK: {what}; make room for it"))
    };
    let copy = copy_of(database, life);
    let inode = fs::metadata(database).map_or(0, |m| m.ino());
    if matches!(look(database), Ok(Local::Sqlite)) {
        let unfinished = layout::beside(&copy, UNFINISHED);
        let copied = copy_pages(database, &unfinished).map_err(|e| failed(e.to_string()));
        let whole = copied.and_then(|()| interrupt::check()).and_then(|()| put(&unfinished, &copy).map_err(|e| failed(e.to_string())));
        if whole.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        whole?;
    }
    Step::Migrating { life: life.to_owned(), inode }.note(database).map_err(|e| failed(e.to_string()))
}

fn copy_pages(database: &Path, to: &Path) -> rusqlite::Result<()> {
    let source = beside_app::open(database)?;
    let mut target = sqlite::create(to, Owner::Directorys)?;
    let backup = Backup::new(&source, &mut target)?;
    while backup.step(4096)? != StepResult::Done && interrupt::check().is_ok() {}
    Ok(())
}

/// The copy gets its name when it is whole and on the disk.
fn put(unfinished: &Path, copy: &Path) -> io::Result<()> {
    let place = Dir::of(copy)?;
    place.file(name_of(unfinished))?.sync_all()?;
    place.rename(name_of(unfinished), &place, name_of(copy))?;
    place.sync()
}

/// Puts this boot's copy back; what the migration left is kept aside. A database that there was none of before stays.
///
/// # Errors
/// What the kernel says; `ResourceBusy` where another process has the database open.
pub fn undo(database: &Path, life: &str, entry: &Entry) -> io::Result<Undone> {
    let copy = copy_of(database, life);
    if !copy.exists() {
        forget(database, life)?;
        return Ok(Undone::NoCopy);
    }
    let restored = Restored {
        position: None,
        file: copy.clone(),
        is_of_the_past: false,
        remark: String::new(),
        checked: Duration::ZERO,
        passes_over: None,
    };
    let done = nobody_has_it_open(database).and_then(|()| {
        // A crash from here on is made good by the next boot.
        Step::Undoing { life: life.to_owned() }.note(database)?;
        install(&restored, database, entry, Old::Keep)
    });
    match done {
        Ok(()) => take_its_place(database).map(|()| Undone::PutBack),
        Err(error) => {
            if error.kind() == io::ErrorKind::ResourceBusy {
                // From here on somebody may write what the copy lacks.
                is_over(database)?;
                aside::keep_copy(&copy, database)?;
            }
            Err(error)
        }
    }
}

/// It takes the place of whatever has reached the replica, which a snapshot has to stand for before Litestream goes on.
fn take_its_place(database: &Path) -> io::Result<()> {
    Mark::Rewound(Position::Txid(u64::MAX)).write(database)?;
    mark::note_more(database, &STEPS, "")
}

/// Finishes what an earlier boot had begun: a copy that was being put back when it died. Whether there was one.
///
/// # Errors
/// As [`undo`].
pub fn resume(database: &Path, entry: &Entry) -> io::Result<bool> {
    let Some(Step::Undoing { life }) = Step::read(database) else { return Ok(false) };
    if copy_of(database, &life).exists() {
        undo(database, &life, entry)?;
    } else {
        // It was in its place already.
        take_its_place(database)?;
    }
    Ok(true)
}

/// The copy that an older release was putting back when it died, with the database itself already put aside: what is in that copy may be
/// nowhere else. A copy of this release's is put back by [`resume`].
pub fn stranded(database: &Path) -> Option<PathBuf> {
    let copy = layout::hidden(database, COPY);
    let is_left = !database.exists() && matches!(look(&copy), Ok(Local::Sqlite));
    is_left.then_some(copy)
}

/// What a boot does, with the lock, about copies that an earlier one has left. Only where that one died in its migration, nothing has
/// been started since, and this boot is to roll back, too (`may_undo`), the copy is put back; any other is kept aside. Whether one
/// was put back.
///
/// # Errors
/// As [`undo`].
pub fn settle(database: &Path, entry: &Entry, may_undo: bool) -> io::Result<bool> {
    let step = Step::read(database);
    if step.is_none() && !entry.migrate_rollback && !layout::hidden(database, COPY).exists() {
        return Ok(false);
    }
    let put_back = match step {
        Some(Step::Migrating { life, inode }) if may_undo && copy_of(database, &life).exists() && is_the_same(database, inode) => {
            undo(database, &life, entry)? == Undone::PutBack
        }
        _ => false,
    };
    for copy in copies(database) {
        if copy.to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_file(&copy)?;
        } else {
            aside::keep_copy(&copy, database)?;
        }
    }
    is_over(database)?;
    Ok(put_back)
}

/// The database has been replaced as somebody wished: what an unfinished migration would be rolled back to is not for it.
///
/// # Errors
/// What the kernel says.
pub fn is_over(database: &Path) -> io::Result<()> {
    if Step::read(database).is_some() { mark::note_more(database, &STEPS, "") } else { Ok(()) }
}

fn is_the_same(database: &Path, inode: u64) -> bool {
    fs::metadata(database).is_ok_and(|m| m.ino() == inode)
}

/// Removes this boot's copy, and the note that it may be put back: one of both is enough, so that an app may start.
///
/// # Errors
/// What the kernel says.
pub fn forget(database: &Path, life: &str) -> io::Result<()> {
    let removed = match fs::remove_file(copy_of(database, life)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    removed.or(is_over(database))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{self, Environment};
    use rusqlite::Connection;

    const LIFE: &str = "00000000000000aa";

    struct Place {
        _dir: tempfile::TempDir,
        path: PathBuf,
        entry: Entry,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.db");
            let mut entry = settings::read(&Environment::of(&[]), &|_| false).unwrap().entry;
            entry.migrate_rollback = true;
            let place = Self { _dir: dir, path, entry };
            place.run("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(1)");
            place
        }

        fn run(&self, statements: &str) {
            Connection::open(&self.path).unwrap().execute_batch(statements).unwrap();
        }

        fn rows(&self) -> i64 {
            let connection = Connection::open(&self.path).unwrap();
            connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap_or(-1)
        }

        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(self.path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.contains(COPY) || name.contains("aside")).collect()
        }
    }

    #[test]
    fn a_copy_that_an_older_release_was_putting_back_is_seen_where_there_is_no_database() {
        let place = Place::new();
        let copy = layout::hidden(&place.path, COPY);
        fs::copy(&place.path, &copy).unwrap();
        assert_eq!(stranded(&place.path), None);
        fs::remove_file(&place.path).unwrap();
        assert_eq!(stranded(&place.path), Some(copy));
    }

    #[test]
    fn a_database_goes_back_to_what_it_was_with_its_wal() {
        let place = Place::new();
        save(&place.path, LIFE).unwrap();
        place.run("DROP TABLE t");
        assert_eq!(undo(&place.path, LIFE, &place.entry).unwrap(), Undone::PutBack);
        assert_eq!(place.rows(), 1);
        assert!(copies(&place.path).is_empty() && Step::read(&place.path).is_none());
        assert_eq!(Mark::read(&place.path), Mark::Rewound(Position::Txid(u64::MAX)));
        assert_eq!(undo(&place.path, LIFE, &place.entry).unwrap(), Undone::NoCopy, "there is nothing to go back to");
        save(&place.path, LIFE).unwrap();
        forget(&place.path, LIFE).unwrap();
        forget(&place.path, LIFE).unwrap();
        assert!(copies(&place.path).is_empty() && Step::read(&place.path).is_none());
    }

    #[test]
    fn a_boot_that_died_in_its_migration_is_undone_by_the_next_that_rolls_back() {
        let place = Place::new();
        save(&place.path, LIFE).unwrap();
        place.run("DELETE FROM t");
        assert!(settle(&place.path, &place.entry, true).unwrap());
        assert_eq!(place.rows(), 1);
        assert!(!settle(&place.path, &place.entry, true).unwrap(), "once");
    }

    #[test]
    fn an_old_copy_is_kept_aside_and_never_put_back() {
        // The app has been started since.
        let place = Place::new();
        save(&place.path, LIFE).unwrap();
        mark::note_more(&place.path, &STEPS, "").unwrap();
        place.run("INSERT INTO t VALUES(2)");
        assert!(!settle(&place.path, &place.entry, true).unwrap());
        assert_eq!(place.rows(), 2);
        assert!(place.names().iter().all(|name| name.contains("aside")) && !place.names().is_empty());
        // The boot that finds it does not roll back.
        let place = Place::new();
        save(&place.path, LIFE).unwrap();
        place.run("INSERT INTO t VALUES(2)");
        assert!(!settle(&place.path, &place.entry, false).unwrap());
        assert!(place.rows() == 2 && Step::read(&place.path).is_none());
        // Of an older release, which notes nothing.
        let place = Place::new();
        fs::copy(&place.path, layout::hidden(&place.path, COPY)).unwrap();
        place.run("INSERT INTO t VALUES(2)");
        place.run("PRAGMA wal_checkpoint(TRUNCATE)");
        assert!(!settle(&place.path, &Entry { migrate_rollback: false, ..place.entry.clone() }, false).unwrap());
        assert!(place.rows() == 2 && copies(&place.path).is_empty());
        // The file is another one now.
        let place = Place::new();
        save(&place.path, LIFE).unwrap();
        let other = place.path.with_file_name("other.db");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        fs::rename(&other, &place.path).unwrap();
        assert!(!settle(&place.path, &place.entry, true).unwrap());
    }

    #[test]
    fn a_crash_while_the_copy_is_put_back_is_made_good() {
        let place = Place::new();
        save(&place.path, LIFE).unwrap();
        place.run("DELETE FROM t");
        Step::Undoing { life: LIFE.into() }.note(&place.path).unwrap();
        assert!(resume(&place.path, &place.entry).unwrap(), "it had been begun");
        assert_eq!(place.rows(), 1);
        Step::Undoing { life: LIFE.into() }.note(&place.path).unwrap();
        assert!(resume(&place.path, &place.entry).unwrap());
        assert!(!resume(&place.path, &place.entry).unwrap());
        assert!(Mark::read(&place.path) == Mark::Rewound(Position::Txid(u64::MAX)) && Step::read(&place.path).is_none());
    }
}
