//! Puts a restored file in its place, in one step. Must never leave the place without what was there before it.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::aside::{discard, move_companions_aside, move_database_aside};
use super::fetch::{Restored, Source};
use crate::files::{Dir, Found, Owner, name_of};
use crate::identity::{self, Named};
use crate::layout::meta_dir;
use crate::litestream::backup::{self, Position};
use crate::litestream::local::own_position;
use crate::litestream::{Format, ltx};
use crate::mark::{Mark, note_origin};
use crate::pages;
use crate::settings::Entry;
use crate::sqlite::locks;

/// Changes a file's owner to `USER[:GROUP]`, by name or number; a user's own group where only a name is given.
fn give(file: &File, owner: &str) -> io::Result<()> {
    let unknown = |what: &str| io::Error::new(io::ErrorKind::NotFound, format!("LITESTREAM_ENTRY_DB_OWNER: {what}"));
    let Named { uid, group, user } = identity::look_up(owner).map_err(unknown)?;
    // A number alone changes the owner alone, as with chown(1).
    let by_name = user.filter(|user| owner.split(':').next() == Some(user.name.as_str()));
    let gid = if owner.contains(':') { group } else { by_name.map(|user| user.gid.as_raw()) };
    fchown(file, Some(uid), gid)
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
    while locks::is_in_use(database) {
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
    // From here on whatever becomes of the paths is somebody else's affair.
    let (place, folder) = (Dir::of(database)?, Dir::of(&restored.file)?);
    let file = only_our_own(&folder, &restored.file)?;
    let (uid, gid, mode) = place.about()?;
    match &entry.db_owner {
        Some(owner) => give(&file, owner)?,
        None if nix::unistd::geteuid().is_root() => fchown(&file, Some(uid), Some(gid))?,
        None => {}
    }
    file.set_permissions(Permissions::from_mode(entry.db_mode.unwrap_or(mode & 0o666)))?;
    file.sync_all()?;
    // A crash from here to the rename leaves no database, which the next boot restores.
    let replaced = fs::metadata(database).is_ok_and(|m| m.len() > 0);
    if replaced {
        nobody_has_it_open(database)?;
    }
    let aside = if replaced { move_database_aside(database)? } else { None };
    move_companions_aside(database)?;
    folder.rename(name_of(&restored.file), &place, name_of(database))?;
    place.sync()?;
    if let (Some(aside), Old::Discard) = (aside, old) {
        discard(&aside)?;
    }
    Ok(())
}

/// The restored file, which has no other name by which another one would be given away with it.
fn only_our_own(folder: &Dir, file: &Path) -> io::Result<File> {
    match folder.look(name_of(file))? {
        Found::File(file) => Ok(file),
        Found::Nothing => Err(io::ErrorKind::NotFound.into()),
        Found::Shared(_) => Err(io::Error::other(format!("{} has another name elsewhere", file.display()))),
        Found::Other(what) => Err(io::Error::other(format!("{} is {what}", file.display()))),
    }
}

/// Notes where the restored database ends, or for one from the past, what it takes the place of.
///
/// # Errors
/// What the kernel says.
pub fn note_position(restored: &Restored, database: &Path) -> io::Result<()> {
    let Some(position) = restored.position.clone() else { return Ok(()) };
    if let (Some(until), Position::Wal { generation, .. }) = (restored.passes_over, &position) {
        note_origin(database, generation, until)?;
    }
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
    match (source.litestream.format(), &restored.position) {
        (Format::Ltx, Some(Position::Txid(txid))) if !restored.is_of_the_past => go_on_after_the_end(source, *txid),
        _ => Ok(()),
    }
}

/// The same of a database that was restored up to this transaction.
///
/// # Errors
/// What the kernel says.
pub fn go_on_after_the_end(source: &Source<'_>, txid: u64) -> io::Result<()> {
    if transactions_there(source).is_some_and(|last| last >= txid) { Ok(()) } else { go_on_after(source, txid) }
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
    let Some(Position::Txid(last)) = own_position(database, Format::Ltx) else { return Ok(()) };
    stand_in(last.saturating_sub(1), last, database)
}

/// The last transaction of which the replica has a file of its own, 0 without any; none where it does not answer.
fn transactions_there(source: &Source<'_>) -> Option<u64> {
    let files: Vec<_> = source.look(END_FOR).ok()?.into_iter().filter(|file| !file.snapshot).collect();
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
    let meta = meta_dir(database);
    let make = |dir: Dir, name: &OsStr| dir.make_dir(name, Owner::Directorys);
    let folder = [name_of(&meta), "ltx".as_ref(), "0".as_ref()].into_iter().try_fold(Dir::of(&meta)?, make)?;
    let (page_size, pages) = pages::shape(database)?;
    let now = SystemTime::now();
    (first..=last).try_for_each(|txid| {
        let name = ltx::name(txid);
        match folder.remove(name.as_ref()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        folder.create(name.as_ref(), 0o644, Owner::Directorys)?.write_all(&ltx::without_pages(txid, page_size, pages, now))
    })
}
