//! What a restore replaces is moved aside under a time stamp, as a whole. Must never delete but the oldest of many.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::files::{Dir, name_of};
use crate::layout::{beside, meta_dir};
use crate::mark::{Mark, mark_path};
use crate::{report, time};

/// So many are kept of each: a container that is started again and again must not fill its volume.
const KEPT: usize = 5;
/// What SQLite keeps beside a database; without its own, a database is another one.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Moves a stale `-wal`, `-shm`, `-journal` and Litestream's local state away from a database that is
/// missing: SQLite would replay them over the next one. Nothing is deleted. Says what it moved.
///
/// # Errors
/// What the kernel says.
pub fn move_companions_aside(database: &Path) -> io::Result<()> {
    for path in COMPANIONS.iter().map(|suffix| beside(database, suffix)).chain([meta_dir(database)]) {
        move_aside(&path)?;
    }
    // What was known of the one before does not hold for the next.
    if mark_path(database).exists() { Mark::None.write(database) } else { Ok(()) }
}

/// Moves a database aside with what SQLite keeps beside it, so that it can be opened there: `a.db.aside-TIME`,
/// `a.db.aside-TIME-wal`. Its new name, if it was there.
///
/// # Errors
/// What the kernel says.
pub fn move_database_aside(database: &Path) -> io::Result<Option<PathBuf>> {
    let Some(aside) = free_name(database) else { return Ok(None) };
    // The database first: what a crash leaves behind is moved aside by the next boot, but never opened without its WAL.
    let place = Dir::of(database)?;
    let rename = |from: &Path, to: &Path| place.rename(name_of(from), &place, name_of(to));
    rename(database, &aside)?;
    for suffix in COMPANIONS {
        match rename(&beside(database, suffix), &beside(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let (here, there) = (database.display(), aside.display());
    report::line(format_args!("{here} is replaced: kept as {there}; `litestream-entry diff {here} {there}` shows what only it has"));
    forget_oldest(database);
    Ok(Some(aside))
}

/// Keeps a copy from before a migration among what was moved aside of its database.
///
/// # Errors
/// What the kernel says.
pub fn keep_copy(copy: &Path, database: &Path) -> io::Result<()> {
    let Some(aside) = free_name(database) else { return Ok(()) };
    fs::rename(copy, &aside)?;
    report::line(format_args!("{}, a copy from before an earlier migration, is not used: kept as {}", copy.display(), aside.display()));
    forget_oldest(database);
    Ok(())
}

/// Removes a database that was moved aside.
///
/// # Errors
/// What the kernel says.
pub fn discard(aside: &Path) -> io::Result<()> {
    remove(aside)?;
    report::line(format_args!("{}: removed, as asked for", aside.display()));
    Ok(())
}

fn remove(database: &Path) -> io::Result<()> {
    for suffix in COMPANIONS {
        let _ = fs::remove_file(beside(database, suffix));
    }
    fs::remove_file(database)
}

/// Renames a file or folder to `NAME.aside-TIME`, if it is there.
///
/// # Errors
/// What the kernel says.
pub fn move_aside(path: &Path) -> io::Result<()> {
    let Some(aside) = free_name(path) else { return Ok(()) };
    fs::rename(path, &aside)?;
    report::line(format_args!("{} is stale: kept as {}", path.display(), aside.display()));
    forget_oldest(path);
    Ok(())
}

/// A name for it with the time; none where there is nothing to move.
fn free_name(path: &Path) -> Option<PathBuf> {
    fs::symlink_metadata(path).ok()?;
    let stamp = time::compact(SystemTime::now());
    let name = |n: u32| beside(path, &if n == 0 { format!(".aside-{stamp}") } else { format!(".aside-{stamp}-{n:03}") });
    // Behind the last of this second: an earlier one may have been removed meanwhile, and names are the order.
    let last = (0..999).rev().find(|n| fs::symlink_metadata(name(*n)).is_ok());
    Some(name(last.map_or(0, |n| n.saturating_add(1))))
}

/// Removes what was moved aside longest ago, beyond the number that is kept. What cannot be removed stays.
fn forget_oldest(path: &Path) {
    let prefix = format!("{}.aside-", path.file_name().unwrap_or_default().to_string_lossy());
    let entries = fs::read_dir(path.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten();
    let names: BTreeSet<String> = entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with(&prefix)).collect();
    let companion_of = |name: &str| COMPANIONS.iter().find_map(|suffix| name.strip_suffix(suffix)).is_some_and(|n| names.contains(n));
    // Their names end with the time, and those of one second with a number.
    let aside: Vec<&String> = names.iter().filter(|name| !companion_of(name)).collect();
    for oldest in aside.iter().take(aside.len().saturating_sub(KEPT)) {
        let oldest = path.with_file_name(OsString::from(oldest));
        let removed = if oldest.is_dir() { fs::remove_dir_all(&oldest) } else { remove(&oldest) };
        if removed.is_ok() {
            report::line(format_args!("{}: removed, {KEPT} newer ones are kept", oldest.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn of_what_is_moved_aside_the_newest_five_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db-wal");
        for second in 0..7 {
            fs::write(dir.path().join(format!("a.db-wal.aside-20200101T00000{second}Z")), "old").unwrap();
        }
        fs::write(dir.path().join("a.db-wal2.aside-20200101T000000Z"), "another's").unwrap();
        fs::write(&path, "new").unwrap();
        move_aside(&path).unwrap();
        let kept = names(dir.path());
        assert_eq!(kept.len(), 6, "{kept:?}");
        assert_eq!(kept[0], "a.db-wal.aside-20200101T000003Z");
        assert!(kept[4].as_str() > "a.db-wal.aside-2026", "the newest is kept");
    }

    #[test]
    fn a_database_goes_aside_with_its_wal_and_counts_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        for round in 0..7 {
            for suffix in ["", "-wal", "-shm"] {
                fs::write(beside(&path, suffix), format!("{round}")).unwrap();
            }
            let aside = move_database_aside(&path).unwrap().unwrap();
            assert_eq!(fs::read_to_string(beside(&aside, "-wal")).unwrap(), format!("{round}"));
        }
        assert_eq!(names(dir.path()).len(), 15, "{:?}", names(dir.path()));
        assert_eq!(move_database_aside(&path).unwrap(), None);
    }

    #[test]
    fn stale_companions_are_moved_aside_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        for round in ["one", "two"] {
            fs::write(beside(&path, "-wal"), round).unwrap();
            fs::create_dir(meta_dir(&path)).unwrap();
            move_companions_aside(&path).unwrap();
        }
        let kept = names(dir.path());
        assert_eq!(kept.iter().filter(|n| n.starts_with("a.db-wal.aside-")).count(), 2);
        assert_eq!(kept.iter().filter(|n| n.starts_with(".a.db-litestream.aside-")).count(), 2);
    }
}
