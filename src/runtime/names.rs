//! The names of what this program leaves in its runtime directory, which may be one for other things, too. Each of them is made here, and the
//! next boot removes what is called so. Must never take a name for ours that somebody else might give.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::plan::{CONFIG_AGAIN_FILE, CONFIG_FILE, Database, GOOGLE_FILE, PLAN_FILE, Plan, SOCKET_FILE};
use crate::state::STATE_FILE;

/// A socket in the runtime directory, by which an operator's command asks PID 1 for something.
pub const CONTROL_FILE: &str = "control";

/// How far the restores of a boot are.
pub const PROGRESS_FILE: &str = "restoring";

/// What has the same name in every boot.
const FIXED: [&str; 8] = [CONFIG_FILE, CONFIG_AGAIN_FILE, PLAN_FILE, GOOGLE_FILE, STATE_FILE, CONTROL_FILE, SOCKET_FILE, PROGRESS_FILE];

/// Kinds of [`file_of`]: what is known of a replica, and of the last check, in this boot.
pub const SYNCED: &str = "synced";
/// The other one.
pub const VERIFIED: &str = "verified";
/// What the watch over a database keeps from look to look.
pub const WATCHED: &str = "watched";
/// That a backup needs a new snapshot.
pub const OWED: &str = "owed";
const OF_DATABASES: [&str; 4] = [SYNCED, VERIFIED, WATCHED, OWED];

/// What has a number behind its name.
const EACH: &str = "litestream-each";
const PASS: &str = "last-pass";
const ELSEWHERE: &str = "elsewhere";
const NUMBERED: [&str; 3] = [EACH, PASS, ELSEWHERE];
const ENDINGS: [&str; 3] = ["yml", "log", "meta"];

/// A file about one database in the runtime directory, whatever its path is made of.
pub fn file_of(plan: &Plan, kind: &str, database: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    database.hash(&mut hasher);
    plan.runtime.join(format!("{kind}-{:016x}", hasher.finish()))
}

/// This process's configuration of every database that is in a directory.
pub fn each_file(plan: &Plan) -> PathBuf {
    numbered(plan, EACH, u64::from(std::process::id()), "yml")
}

/// A file of one database's pass.
pub fn pass_file(plan: &Plan, database: &Database, extension: &str) -> PathBuf {
    numbered(plan, PASS, place(plan, database), extension)
}

/// A configuration in which one database's replica is at another path.
pub fn elsewhere_file(plan: &Plan, database: &Database) -> PathBuf {
    numbered(plan, ELSEWHERE, place(plan, database), "yml")
}

fn place(plan: &Plan, database: &Database) -> u64 {
    let place = plan.databases.iter().position(|d| d.path == database.path);
    place.and_then(|place| u64::try_from(place).ok()).unwrap_or_default()
}

fn numbered(plan: &Plan, kind: &str, number: u64, extension: &str) -> PathBuf {
    plan.runtime.join(format!("{kind}-{number}.{extension}"))
}

/// Whether a file of this name is this program's.
pub(super) fn is_ours(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    // What was being written when its writer was killed.
    let unfinished = name.strip_suffix(".new").and_then(|name| name.rsplit_once('.')).filter(|(_, pid)| is_number(pid));
    let name = unfinished.map_or(name, |(name, _)| name);
    FIXED.contains(&name) || is_of_database(name) || is_numbered(name)
}

fn is_of_database(name: &str) -> bool {
    let hash = OF_DATABASES.iter().find_map(|kind| name.strip_prefix(kind)?.strip_prefix('-'));
    hash.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_numbered(name: &str) -> bool {
    let rest = NUMBERED.iter().find_map(|kind| name.strip_prefix(kind)?.strip_prefix('-'));
    rest.and_then(|rest| rest.split_once('.')).is_some_and(|(number, ending)| is_number(number) && ENDINGS.contains(&ending))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_told_from_what_is_somebody_elses() {
        for ours in [
            "plan.yml",
            "plan.yml.123.new",
            "litestream.yml",
            "litestream.sock",
            "restoring",
            "owed-01d6a8288078ed71",
            "owed-01d6a8288078ed71.7.new",
            "litestream-each-77.yml",
            "litestream-each-77.yml.77.new",
            "last-pass-0.yml",
            "last-pass-12.log",
            "last-pass-0.meta",
            "elsewhere-3.yml",
        ] {
            assert!(is_ours(OsStr::new(ours)), "{ours}");
        }
        for other in [
            "lock",
            "plan.yml.new",
            "plan.yml.x.new",
            "my-plan.yml",
            "elsewhere-.yml",
            "elsewhere-1.db",
            "owed-by-me",
            "last-pass-1a.yml",
            "app.db",
            ".new",
        ] {
            assert!(!is_ours(OsStr::new(other)), "{other}");
        }
    }
}
