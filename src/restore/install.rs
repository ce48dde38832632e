//! Puts a restored file in its place, in one step. Must never leave the place without what was there before it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::aside::{discard, move_companions_aside, move_database_aside};
use super::fetch::Restored;
use crate::continuity::{self, Mark, meta_dir};
use crate::identity::{self, Named};
use crate::litestream::ltx;
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

/// Leaves in Litestream's own directory a file that stands for the newest there, which may be damaged (0.5).
///
/// # Errors
/// What the kernel says.
pub fn stand_in(txid: u64, database: &Path) -> io::Result<()> {
    let folder = meta_dir(database).join("ltx/0");
    fs::create_dir_all(&folder)?;
    let (page_size, pages) = pages::shape(database)?;
    fs::write(folder.join(ltx::name(txid)), ltx::without_pages(txid, page_size, pages, SystemTime::now()))
}
