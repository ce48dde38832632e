//! The last sync of a database whose volume takes nothing any more, since it is full or has become read-only: Litestream makes it with its
//! own files in another place. Must never leave beside the database what the next Litestream would take for its position, nor try this where
//! it is the replica that takes nothing.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::libc;
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::continuity::{self, Need};
use crate::layout::beside;
use crate::litestream::backup::{self, Depth};
use crate::litestream::{Ability, Format, call};
use crate::litestream::{kind, local};
use crate::mark::Mark;
use crate::plan::{Database, Plan};
use crate::restore::Source;
use crate::runtime::Handed;
use crate::{files, layout, runtime, sys};

use super::pass;

/// With more than this free, nothing is tried.
const PLENTY: u64 = 64 << 20;
/// What Litestream needs besides what it takes from the WAL.
const LEAST: u64 = 64 << 10;

/// Why the last sync of this database has to be made so.
pub(super) fn keeps_from_syncing(plan: &Plan, database: &Database) -> Option<String> {
    // What the user has put in another place is not on this volume.
    let possible = (plan.litestream.format() == Format::Generations || plan.litestream.can(Ability::Once)) && !database.has_own_meta;
    if possible { takes_nothing(&database.path) } else { None }
}

/// Why Litestream cannot write beside the database.
fn takes_nothing(database: &Path) -> Option<String> {
    let folder = database.parent()?;
    refuses(folder, needed(database)).map(|why| format!("{}: {why}", folder.display()))
}

/// Why a replica that is a folder cannot have been written to. 0.3 does not say it, and waits for ever.
pub(super) fn replica_takes_nothing(database: &Database) -> Option<String> {
    let replica = kind::folder(&database.replica)?;
    let folder = replica.ancestors().find(|folder| folder.is_dir())?;
    refuses(folder, needed(&database.path)).map(|why| format!("the replica {}: {why}", replica.display()))
}

/// As much again as the WAL has, at most.
fn needed(database: &Path) -> u64 {
    let wal = fs::metadata(beside(database, "-wal")).map(|m| m.len()).unwrap_or_default();
    wal.saturating_add(LEAST).min(PLENTY)
}

/// Why so many bytes cannot be written there, in the kernel's words.
fn refuses(folder: &Path, bytes: u64) -> Option<&'static str> {
    let about = statvfs(folder).ok()?;
    if about.flags().contains(FsFlags::ST_RDONLY) {
        return Some("read-only file system");
    }
    // What is kept for root is not told as free, so it is tried.
    let is_scarce = sys::free_bytes(folder).is_some_and(|free| free < bytes);
    (is_scarce && !holds(folder, bytes)).then_some("no space left on device")
}

/// Whether so many bytes can be written there; a file system that has no files without a name is not tried.
fn holds(folder: &Path, bytes: u64) -> bool {
    let Ok(mut file) = File::options().write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder) else { return true };
    let block = [0; 4096];
    let full = |error: std::io::Error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    !(0..bytes.div_ceil(4096)).any(|_| file.write_all(&block).is_err_and(full))
}

/// Whether a last sync was made so, and noted.
pub(super) fn left_nothing(plan: &Plan, database: &Path) -> bool {
    let restored = matches!(Mark::read(database), Mark::Restored(_));
    restored && local::own_position(database, plan.litestream.format()).is_none()
}

/// The last sync, with Litestream's own files where there is most room; `owed` is that a snapshot is. What is to be said of it.
///
/// # Errors
/// What was in the way.
pub(super) fn by_once(plan: &Plan, database: &Database, deadline: Instant, why: &str, owed: bool) -> Result<String, String> {
    let place = Place::take(plan, database, why)?;
    let config = runtime::pass_config(plan, database, Some(&place.0.join("meta"))).map_err(|error| format!("{why}; {error}"))?;
    let mut args: Vec<OsString> = vec!["replicate".into()];
    args.extend(call::Config { path: config.path(), expand: false }.flags());
    args.push("-once".into());
    if owed || !continues(plan, database, deadline) {
        args.push("-force-snapshot".into());
    }
    match call::run(&plan.litestream, &args, deadline) {
        Ok(Some(output)) if output.ended.ok() => {}
        Ok(Some(output)) => return Err(format!("{why}; with litestream's files in {}: {}", place.0.display(), output.reason())),
        Ok(None) => return Err(format!("{why}; with litestream's files in {} there was not time enough", place.0.display())),
        Err(error) => return Err(error.to_string()),
    }
    settle(plan, database, deadline);
    Ok(made(database, why, &place))
}

fn made(database: &Database, why: &str, place: &Place) -> String {
    format!("{}: {why}: the last sync was made with litestream's files in {}; make room", database.alias, place.0.display())
}

/// The same by 0.3, which goes on in its generation: another one begins with a checkpoint, which writes to the database. Where it cannot go
/// on, another one is begun by a copy of the database.
///
/// # Errors
/// What was in the way.
pub(super) fn by_pass(
    plan: &Plan,
    database: &Database,
    (deadline, gives_up): (Instant, bool),
    why: &str,
    owed: bool,
) -> Result<String, String> {
    if owed {
        return Err(format!("{why}, and the backup needs a new snapshot, which needs room there; make room"));
    }
    let place = Place::take(plan, database, why)?;
    let mut meta = place.0.join("meta");
    let went_on = match local::copy_shadow(&database.path, &meta) {
        Ok(()) => pass::run(plan, database, Some(&meta), deadline, gives_up),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(pass::BEGINS_ANEW.to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let done = match went_on {
        Err(error) if error.contains(pass::BEGINS_ANEW) => by_copy(plan, database, (deadline, gives_up), &place).map(|there| meta = there),
        went_on => went_on,
    };
    done.map_err(|error| format!("{why}; with litestream's files in {}: {error}", place.0.display()))?;
    // What is beside the database is behind the replica now. Where this cannot be written, the next boot compares the two.
    if let Some(end) = local::position_in(&meta) {
        let _ = continuity::go_on_as_restored(&database.path, end);
    }
    Ok(made(database, why, &place))
}

/// Of a copy of the database, which nobody writes to any more. Where Litestream's files of it are.
fn by_copy(plan: &Plan, database: &Database, (deadline, gives_up): (Instant, bool), place: &Place) -> Result<PathBuf, String> {
    let copy = place.0.join("copy").join(files::name_of(&database.path));
    let failed = |error: std::io::Error| format!("{}: {error}", copy.display());
    DirBuilder::new().mode(0o700).create(place.0.join("copy")).map_err(failed)?;
    for (from, to) in [(database.path.clone(), copy.clone()), (beside(&database.path, "-wal"), beside(&copy, "-wal"))] {
        match files::open(&from) {
            Ok(mut from) => drop(std::io::copy(&mut from, &mut File::create_new(to).map_err(failed)?).map_err(failed)?),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let text = runtime::document(plan)?.with_path(&database.path, &copy).text();
    let config = Handed::apart(plan, "copy.yml", &text).map_err(failed)?;
    let mut plan = Plan { config: config.path().to_owned(), users_file: false, ..plan.clone() };
    for there in plan.databases.iter_mut().filter(|there| there.path == database.path) {
        there.path.clone_from(&copy);
    }
    let database = Database { path: copy.clone(), ..database.clone() };
    pass::run(&plan, &database, None, deadline, gives_up)?;
    Ok(layout::meta_dir(&copy))
}

/// Whether the WAL goes on after the replica's newest transaction. Then Litestream, which fetches that one, goes on after it, too.
fn continues(plan: &Plan, database: &Database, deadline: Instant) -> bool {
    let goes_on = continuity::decide(continuity::survey(&database.path, true)) != Need::Truncate;
    goes_on && super::flush::is_listed(plan, database, deadline)
}

/// Litestream's files beside the database are behind the replica now. Without them, and with the mark of a database whose backup ends there,
/// the next boot goes on after it. Where that cannot be written, the next boot compares the two.
fn settle(plan: &Plan, database: &Database, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let files = Source::newest(plan, database).list(Depth::All, left).unwrap_or_default();
    if let Some(end) = backup::newest(&files) {
        let _ = continuity::go_on_as_restored(&database.path, end);
    }
}

/// A folder of this pass's own where there is most room, removed with this value.
struct Place(PathBuf);

impl Place {
    fn take(plan: &Plan, database: &Database, why: &str) -> Result<Self, String> {
        let ours = runtime::pass_file(plan, database, "meta");
        // A worker that was killed may have left it.
        let _ = fs::remove_dir_all(&ours);
        let number = ours.file_stem().unwrap_or_default().display().to_string();
        let theirs = std::env::temp_dir().join(format!("litestream-entry-{}-{}-{number}", plan.life, std::process::id()));
        let mut places = [ours, theirs].map(|path| (path.parent().and_then(sys::free_bytes).unwrap_or_default(), path));
        places.sort();
        let make = |path: &PathBuf| DirBuilder::new().mode(0o700).create(path).is_ok();
        let place = places.into_iter().rev().find(|(free, path)| *free > 0 && make(path)).map(|(_, path)| Self(path));
        place.ok_or_else(|| format!("{why}, and litestream's files have no other place; make room there"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_with_room_takes_something() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(takes_nothing(&dir.path().join("a.db")), None);
        assert!(holds(dir.path(), 100_000));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }
}
