//! Directories of databases (`dir:`, 0.5): which databases are in them now, each with an entry of its own in a
//! configuration for what Litestream does with one database; and the list of them, by which those that are lost come
//! back. Must never restore one.
//!
//! Litestream lists what a replica holds of one database, but not which databases it holds. So the list is a small database in
//! the directory that is replicated as the others are.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::litestream::{Format, kind};
use crate::pattern::{LIST, matches, takes_list};
use crate::plan::{Database, Directory, Plan};
use crate::{files, layout, report, runtime, sqlite};

/// Directories below one that is searched are followed so deep, as a guard against links in a circle.
const DEEPEST: usize = 16;

/// The plan with every database that is in its directories now, and with those that are named as if they were: a
/// worker's or an operator's plan, never PID 1's.
#[must_use]
pub fn expand(mut plan: Plan, named: &[PathBuf]) -> Plan {
    if plan.directories.is_empty() {
        return plan;
    }
    let found = found(&plan, named);
    let paths: Vec<&Path> = found.iter().map(|d| d.path.as_path()).collect();
    let written = runtime::document(&plan)
        .and_then(|document| runtime::Handed::write(&plan, runtime::each_file(&plan), &document.with_each(&paths).text()));
    match written {
        Ok(config) => (plan.config, plan.users_file) = (config.for_good(), false),
        Err(why) => report::line(why),
    }
    plan.databases.extend(found);
    plan
}

/// The same for one who only looks: nothing is written for Litestream.
#[must_use]
pub fn members(mut plan: Plan) -> Plan {
    let found = found(&plan, &[]);
    plan.databases.extend(found);
    plan
}

fn found(plan: &Plan, named: &[PathBuf]) -> Vec<Database> {
    let with_list = |directory: &Directory| {
        let list = is_listed(plan, directory).then(|| directory.path.join(LIST));
        databases_in(directory, &named.iter().cloned().chain(list).collect::<Vec<_>>())
    };
    plan.directories.iter().flat_map(with_list).collect()
}

/// Removes what [`expand`] wrote for this process.
pub fn forget(plan: &Plan) {
    if plan.config == runtime::each_file(plan) {
        let _ = fs::remove_file(&plan.config);
    }
}

fn databases_in(directory: &Directory, named: &[PathBuf]) -> Vec<Database> {
    let mut paths: Vec<PathBuf> = named.iter().filter(|path| path.starts_with(&directory.path)).cloned().collect();
    search(directory, &directory.path, 0, &mut paths);
    paths.retain(|path| oddity(path).is_none());
    paths.sort();
    paths.dedup();
    // `a.db` is `a`, unless there is an `a.sqlite`, too.
    let mut alone: HashMap<PathBuf, bool> = HashMap::new();
    for path in &paths {
        alone.entry(path.with_extension("")).and_modify(|alone| *alone = false).or_insert(true);
    }
    let entry = |path: PathBuf| {
        let relative = path.strip_prefix(&directory.path).unwrap_or(&path).to_string_lossy().into_owned();
        let alias = if relative == LIST {
            format!("{}:list", directory.alias)
        } else if alone.get(&path.with_extension("")) == Some(&false) {
            relative.clone()
        } else {
            Path::new(&relative).with_extension("").to_string_lossy().into_owned()
        };
        let replica = format!("{}/{relative}", directory.replica.trim_end_matches('/'));
        Database { alias, path, replica, from: directory.from.clone(), has_own_meta: directory.has_own_meta, elsewhere: Vec::new() }
    };
    paths.into_iter().map(entry).collect()
}

/// Whether a directory has a list: Litestream must replicate it, which a file of the user's own has to allow.
pub fn is_listed(plan: &Plan, directory: &Directory) -> bool {
    !plan.users_file || takes_list(&directory.pattern)
}

/// What is in a directory now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The names of its databases, the list excepted.
    pub names: BTreeSet<String>,
    /// What is wrong with names that Litestream takes all the same: a line each.
    pub odd: BTreeSet<String>,
}

/// Looks into a directory: each file that matches is opened once.
///
/// # Errors
/// What the kernel says, where it cannot be read.
pub fn scan(directory: &Directory) -> io::Result<Scan> {
    fs::read_dir(&directory.path)?;
    let mut paths = Vec::new();
    search(directory, &directory.path, 0, &mut paths);
    let mut scan = Scan::default();
    for path in paths {
        if let Some(why) = oddity(&path) {
            scan.odd.insert(format!("{}: {}: its name {why}: IT IS NOT REPLICATED; rename it", directory.alias, path.display()));
            continue;
        }
        let name = path.strip_prefix(&directory.path).ok().and_then(Path::to_str);
        scan.names.extend(name.filter(|name| *name != LIST).map(str::to_owned));
    }
    Ok(scan)
}

fn oddity(path: &Path) -> Option<&'static str> {
    match path.to_str() {
        None => Some("is not UTF-8, which makes Litestream fall over again and again"),
        Some(_) if layout::too_long(path).is_some() => Some("is too long for what lies beside a database"),
        Some(text) => Format::Ltx.misread(text.as_bytes()).map(|_| "has a character (?, #, %) by which Litestream opens another file"),
    }
}

/// The paths of databases that are lost: listed, or found in a replica that is a folder, and not here. The list
/// itself has to be here.
pub fn lost(plan: &Plan) -> Vec<PathBuf> {
    let lost = |directory: &Directory| {
        let here = scan(directory).unwrap_or_default().names;
        let mut known = Known::default();
        if is_listed(plan, directory) {
            match List::open(directory).and_then(|list| list.read()) {
                Ok(read) => known = read,
                Err(error) => report::line(format_args!("{}: the list of its databases cannot be read: {error}", directory.alias)),
            }
        }
        known.present.extend(in_folder(directory));
        let missing = known.present.into_iter().filter(move |name| !here.contains(name) && !known.removed.contains(name));
        missing.map(|name| directory.path.join(name)).filter(|path| oddity(path).is_none()).collect::<Vec<_>>()
    };
    plan.directories.iter().flat_map(lost).collect()
}

/// Notes what is in the directories now.
pub fn note(plan: &Plan) {
    for directory in &plan.directories {
        let found = scan(directory).unwrap_or_default();
        found.odd.iter().for_each(report::line);
        if is_listed(plan, directory)
            && let Err(error) = List::open(directory).and_then(|list| list.add(&found.names))
        {
            report::line(format_args!("{}: the list of its databases cannot be kept: {error}", directory.alias));
        }
    }
}

/// The names of the backups in a replica that is a folder: bare Litestream keeps no list.
fn in_folder(directory: &Directory) -> BTreeSet<String> {
    fn search(directory: &Directory, root: &Path, folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
        for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.join("ltx").is_dir() {
                let relative = path.strip_prefix(root).ok().and_then(Path::to_str).filter(|_| matches(&directory.pattern, &name));
                found.extend(relative.filter(|name| *name != LIST).map(str::to_owned));
            } else if directory.recursive && depth < DEEPEST {
                search(directory, root, &path, depth.saturating_add(1), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    if let Some(root) = kind::folder(&directory.replica) {
        search(directory, root, root, 0, &mut found);
    }
    found
}

/// What a list says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// These are to be there.
    pub present: BTreeSet<String>,
    /// These the app has removed.
    pub removed: BTreeSet<String>,
}

/// The list of a directory's databases.
#[derive(Debug)]
pub struct List(Connection);

impl List {
    /// Opens it, and makes it where there is none.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(directory: &Directory) -> rusqlite::Result<Self> {
        let list = sqlite::open_or_create(&directory.path.join(LIST))?;
        list.busy_timeout(std::time::Duration::from_secs(5))?;
        // If Litestream is gone, the last to close would delete the WAL, and with it Litestream's place.
        list.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        list.query_row("PRAGMA journal_mode=wal", [], |_| Ok(()))?;
        list.execute_batch("CREATE TABLE IF NOT EXISTS tenants(name TEXT PRIMARY KEY, removed INTEGER NOT NULL DEFAULT 0)")?;
        Ok(Self(list))
    }

    /// Notes that these are there.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn add(&self, names: &BTreeSet<String>) -> rusqlite::Result<()> {
        let change = self.0.unchecked_transaction()?;
        for name in names {
            // Only what is news is written: each write is uploaded.
            change.execute("INSERT INTO tenants(name) VALUES (?1) ON CONFLICT(name) DO UPDATE SET removed = 0 WHERE removed", [name])?;
        }
        change.commit()
    }

    /// Notes that the app has removed these.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn remove(&self, names: &[&String]) -> rusqlite::Result<()> {
        let change = self.0.unchecked_transaction()?;
        for name in names {
            change.execute("UPDATE tenants SET removed = 1 WHERE name = ?1", [name])?;
        }
        change.commit()
    }

    /// What it says.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn read(&self) -> rusqlite::Result<Known> {
        let mut known = Known::default();
        let mut rows = self.0.prepare("SELECT name, removed FROM tenants")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let names = if row.get(1)? { &mut known.removed } else { &mut known.present };
            names.insert(row.get(0)?);
        }
        Ok(known)
    }
}

/// What Litestream takes: files whose names match, and that begin as a SQLite database.
fn search(directory: &Directory, folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            if directory.recursive && depth < DEEPEST {
                search(directory, &path, depth.saturating_add(1), found);
            }
        } else if matches(&directory.pattern, &name) && is_sqlite(&path) {
            found.push(path);
        }
    }
}

fn is_sqlite(path: &Path) -> bool {
    files::open(path).is_ok_and(|file| sqlite::header::<16>(&file).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: &Path, replica: &str) -> Directory {
        let (alias, pattern) = ("tenants".into(), "*.db".into());
        Directory { alias, path: path.into(), pattern, recursive: false, replica: replica.into(), has_own_meta: false, from: Vec::new() }
    }

    #[test]
    fn a_list_says_what_is_there_and_what_was_removed() {
        let dir = tempfile::tempdir().unwrap();
        let list = List::open(&directory(dir.path(), "")).unwrap();
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        list.add(&names(&["a.db", "b.db", "c.db"])).unwrap();
        list.remove(&[&"b.db".to_owned(), &"never.db".to_owned()]).unwrap();
        assert_eq!(list.read().unwrap(), Known { present: names(&["a.db", "c.db"]), removed: names(&["b.db"]) });
        list.add(&names(&["b.db"])).unwrap();
        assert_eq!(list.read().unwrap().removed, names(&[]), "it came again");
    }

    #[test]
    fn in_a_folder_the_backups_that_match_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.db", "notes.txt", "deep/b.db", LIST] {
            fs::create_dir_all(dir.path().join(name).join("ltx")).unwrap();
        }
        let mut tenants = directory(Path::new("/d"), &format!("file://{}", dir.path().display()));
        assert_eq!(in_folder(&tenants), BTreeSet::from(["a.db".to_owned()]));
        tenants.recursive = true;
        assert_eq!(in_folder(&tenants), BTreeSet::from(["a.db".to_owned(), "deep/b.db".to_owned()]));
        tenants.replica = "s3://bucket/x".into();
        assert!(in_folder(&tenants).is_empty());
    }

    #[test]
    fn a_pattern_matches_as_gos_does() {
        for (pattern, name, meant) in [
            ("*.db", "a.db", true),
            ("*.db", "a.db-wal", false),
            ("*", "a", true),
            ("tenant-?.sqlite", "tenant-7.sqlite", true),
            ("tenant-?.sqlite", "tenant-77.sqlite", false),
            ("[a-c]*.db", "bx.db", true),
            ("[^a-c]*.db", "bx.db", false),
            ("a**b", "ab", true),
            ("[", "[", false),
        ] {
            assert_eq!(matches(pattern, name), meant, "{pattern} {name}");
        }
    }

    #[test]
    fn databases_that_differ_by_their_extension_alone_are_called_by_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.db", "a.sqlite", "a-b.db", "c.db"] {
            fs::write(dir.path().join(name), b"SQLite format 3\0...").unwrap();
        }
        let mut directory = directory(dir.path(), "file:///r");
        directory.pattern = "*".into();
        let aliases: Vec<_> = databases_in(&directory, &[]).into_iter().map(|d| d.alias).collect();
        assert_eq!(aliases, ["a-b", "a.db", "a.sqlite", "c"]);
    }

    #[test]
    fn only_databases_that_match_are_found_and_deeper_ones_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        make("a.db", b"SQLite format 3\0...");
        make("b.db", b"text");
        make("a.db-wal", b"SQLite format 3\0...");
        make("deep/c.db", b"SQLite format 3\0...");
        let found = |recursive| {
            let directory = Directory {
                alias: "tenants".into(),
                path: dir.path().into(),
                pattern: "*.db".into(),
                recursive,
                replica: "s3://b/p/".into(),
                has_own_meta: false,
                from: Vec::new(),
            };
            databases_in(&directory, &[]).into_iter().map(|d| (d.alias, d.replica)).collect::<Vec<_>>()
        };
        assert_eq!(found(false), [("a".to_owned(), "s3://b/p/a.db".to_owned())]);
        assert_eq!(found(true)[1], ("deep/c".to_owned(), "s3://b/p/deep/c.db".to_owned()));
    }
}
