//! Puts a restored file in its place, in one step. Must never leave the place without what was there before it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::aside::{discard, move_companions_aside, move_database_aside};
use super::fetch::{Restored, Source};
use crate::continuity::{self, Mark, meta_dir, own_position};
use crate::identity::{self, Named};
use crate::litestream::backup::{self, Depth, Position};
use crate::litestream::{Line, ltx};
use crate::pages;
use crate::settings::Entry;

/// Changes a file's owner to `USER[:GROUP]`, by name or number; a user's own group where only a name is given.
fn give(file: &Path, owner: &str) -> io::Result<()> {
    let unknown = |what: &str| io::Error::new(io::ErrorKind::NotFound, format!("LITESTREAM_ENTRY_DB_OWNER: {what}"));
    let Named { uid, group, user } = identity::look_up(owner).map_err(unknown)?;
    // A number alone changes the owner alone, as with chown(1).
    let by_name = user.filter(|user| owner.split(':').next() == Some(user.name.as_str()));
    let gid = if owner.contains(':') { group } else { by_name.map(|user| user.gid.as_raw()) };
    std::os::unix::fs::chown(file, Some(uid), gid)
        .map_err(|error| io::Error::new(error.kind(), format!("LITESTREAM_ENTRY_DB_OWNER: {error}; only root may give a file away")))
}

/// What becomes of a database that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// It is kept aside.
    Keep,
    /// It is removed, once the new one is in its place.
    Discard,
}

/// How long those who have just been killed have to let go of a file.
const LET_GO_WITHIN: Duration = Duration::from_secs(2);

/// What is written to a file that is moved aside is lost.
///
/// # Errors
/// `ResourceBusy` where another process has the database open.
pub fn nobody_has_it_open(database: &Path) -> io::Result<()> {
    let deadline = Instant::now() + LET_GO_WITHIN;
    while continuity::is_in_use(database) {
        if Instant::now() >= deadline {
            let what = "another process has it open, and would write to a file that is moved aside: end that one first";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Puts a restored file in its place: owner and mode, fsync, what is there aside, rename, fsync.
///
/// # Errors
/// What the kernel says.
pub fn install(restored: &Restored, database: &Path, entry: &Entry, old: Old) -> io::Result<()> {
    let directory = database.parent().unwrap_or(Path::new("/"));
    let place = fs::metadata(directory)?;
    let file = &restored.file;
    match &entry.db_owner {
        Some(owner) => give(file, owner)?,
        None if nix::unistd::geteuid().is_root() => std::os::unix::fs::chown(file, Some(place.uid()), Some(place.gid()))?,
        None => {}
    }
    fs::set_permissions(file, fs::Permissions::from_mode(entry.db_mode.unwrap_or(place.mode() & 0o666)))?;
    File::open(file)?.sync_all()?;
    // A crash from here to the rename leaves no database, which the next boot restores.
    let replaced = fs::metadata(database).is_ok_and(|m| m.len() > 0);
    if replaced {
        nobody_has_it_open(database)?;
    }
    let aside = if replaced { move_database_aside(database)? } else { None };
    move_companions_aside(database)?;
    fs::rename(file, database)?;
    File::open(directory)?.sync_all()?;
    if let (Some(aside), Old::Discard) = (aside, old) {
        discard(&aside)?;
    }
    Ok(())
}

/// Notes where the restored database ends, or for one from the past, what it takes the place of.
///
/// # Errors
/// What the kernel says.
pub fn note_position(restored: &Restored, database: &Path) -> io::Result<()> {
    let Some(position) = restored.position.clone() else { return Ok(()) };
    if restored.is_of_the_past { Mark::Rewound(position) } else { Mark::Restored(position) }.write(database)
}

/// How long a replica is asked where it ends.
pub const END_FOR: Duration = Duration::from_secs(5);

/// Sees to it that Litestream goes on after what was restored, whatever the replica has of it.
///
/// 0.5 goes on after the last transaction of which the replica has a file of its own. Where a snapshot is ahead of that (its writer died
/// in that second), it would use numbers a second time, and each restore would take the snapshot's.
///
/// # Errors
/// What the kernel says.
pub fn note_end(source: &Source<'_>, restored: &Restored) -> io::Result<()> {
    match (source.litestream.line, &restored.position) {
        (Line::V05, Some(Position::Txid(txid))) if !restored.is_of_the_past => {
            if transactions_there(source).is_some_and(|last| last >= *txid) { Ok(()) } else { go_on_after(source, *txid) }
        }
        _ => Ok(()),
    }
}

/// Makes 0.5 go on after this transaction.
///
/// # Errors
/// What the kernel says, or that there are too many before it.
pub fn go_on_after(source: &Source<'_>, txid: u64) -> io::Result<()> {
    stand_in(transactions_there(source).unwrap_or(txid.saturating_sub(1)), txid, source.database)
}

/// Makes 0.5 begin with a full snapshot after the last transaction that it has read, whatever was read until then.
///
/// # Errors
/// What the kernel says.
pub fn go_on_from_here(database: &Path) -> io::Result<()> {
    let Some(Position::Txid(last)) = own_position(database, Line::V05) else { return Ok(()) };
    stand_in(last.saturating_sub(1), last, database)
}

/// The last transaction of which the replica has a file of its own, 0 without any; none where it does not answer.
fn transactions_there(source: &Source<'_>) -> Option<u64> {
    let files = source.list(Depth::Newest, END_FOR).ok()?;
    Some(if let Some(Position::Txid(last)) = backup::newest(&files) { last } else { 0 })
}

/// So many transactions at most may stand between what a replica has of them and its end.
const MOST_STAND_INS: u64 = 10_000;

/// Leaves in Litestream's own directory files that stand for the newest transactions there (0.5): which may be damaged, or of which
/// there are no files of their own. Litestream goes on after the last, and uploads those that the replica lacks, from `after` on.
///
/// # Errors
/// What the kernel says, or that there are too many.
fn stand_in(after: u64, last: u64, database: &Path) -> io::Result<()> {
    let first = after.saturating_add(1).min(last);
    if last.saturating_sub(first) > MOST_STAND_INS {
        let what = format!(
            "the replica's last transaction of its own is {after:x}, and its snapshot is of {last:x}: name an empty place for a new backup"
        );
        return Err(io::Error::other(what));
    }
    let folder = meta_dir(database).join("ltx/0");
    fs::create_dir_all(&folder)?;
    let (page_size, pages) = pages::shape(database)?;
    let now = SystemTime::now();
    (first..=last).try_for_each(|txid| fs::write(folder.join(ltx::name(txid)), ltx::without_pages(txid, page_size, pages, now)))
}
