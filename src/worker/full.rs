//! The last sync of a database whose volume takes nothing any more, since it is full or has become read-only: 0.5 makes it with its own
//! files in another place. Must never leave beside the database what the next Litestream would take for its position, nor try this where
//! it is the replica that takes nothing.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::libc;
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::continuity::{self, Need, beside};
use crate::litestream::backup::{self, Depth};
use crate::litestream::{Ability, Line, call};
use crate::mark::Mark;
use crate::plan::{Database, Plan};
use crate::restore::Source;
use crate::{runtime, sys};

/// With more than this free, nothing is tried.
const PLENTY: u64 = 64 << 20;
/// What Litestream needs besides what it takes from the WAL.
const LEAST: u64 = 64 << 10;

/// Why the last sync of this database has to be made so.
pub(super) fn keeps_from_syncing(plan: &Plan, database: &Database) -> Option<String> {
    // What the user has put in another place is not on this volume.
    let possible = plan.litestream.can(Ability::Once) && !database.has_own_meta;
    if possible { takes_nothing(&database.path) } else { None }
}

/// Why Litestream cannot write beside the database.
fn takes_nothing(database: &Path) -> Option<String> {
    let folder = database.parent()?;
    refuses(folder, needed(database)).map(|why| format!("{}: {why}", folder.display()))
}

/// Why a replica that is a folder cannot have been written to. 0.3 does not say it, and waits for ever.
pub(super) fn replica_takes_nothing(database: &Database) -> Option<String> {
    let replica = Path::new(database.replica.strip_prefix("file://")?);
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
    plan.litestream.line == Line::V05 && restored && continuity::newest_txid(database).is_none()
}

/// The last sync, with Litestream's own files where there is most room; `owed` is that a snapshot is. What is to be said of it.
///
/// # Errors
/// What was in the way.
pub(super) fn by_once(plan: &Plan, database: &Database, deadline: Instant, why: &str, owed: bool) -> Result<String, String> {
    let place = Place::take(plan, database).ok_or_else(|| format!("{why}, and litestream's files have no other place; make room there"))?;
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
    Ok(format!("{}: {why}: the last sync was made with litestream's files in {}; make room", database.alias, place.0.display()))
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
    fn take(plan: &Plan, database: &Database) -> Option<Self> {
        let ours = runtime::pass_file(plan, database, "meta");
        // A worker that was killed may have left it.
        let _ = fs::remove_dir_all(&ours);
        let number = ours.file_stem().unwrap_or_default().display().to_string();
        let theirs = std::env::temp_dir().join(format!("litestream-entry-{}-{}-{number}", plan.life, std::process::id()));
        let mut places = [ours, theirs].map(|path| (path.parent().and_then(sys::free_bytes).unwrap_or_default(), path));
        places.sort();
        let make = |path: &PathBuf| DirBuilder::new().mode(0o700).create(path).is_ok();
        places.into_iter().rev().find(|(free, path)| *free > 0 && make(path)).map(|(_, path)| Self(path))
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
