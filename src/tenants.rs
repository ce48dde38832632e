//! Directories of databases (`dir:`, 0.5): which databases are in them now, each with an entry of its own in a
//! configuration for what Litestream does with one database. Must never open or restore one.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::plan::{Database, Directory, Plan};
use crate::{report, runtime};

/// Directories below one that is searched are followed so deep, as a guard against links in a circle.
const DEEPEST: usize = 16;

/// The plan with every database that is in its directories now, and with those that are named as if they were: a
/// worker's or an operator's plan, never PID 1's.
#[must_use]
pub fn expand(mut plan: Plan, named: &[PathBuf]) -> Plan {
    if plan.directories.is_empty() {
        return plan;
    }
    let found: Vec<Database> = plan.directories.iter().flat_map(|directory| databases_in(directory, named)).collect();
    let path = each_file(&plan);
    let paths: Vec<&Path> = found.iter().map(|d| d.path.as_path()).collect();
    let written = runtime::document(&plan).and_then(|document| {
        runtime::write(&path, &document.with_each(&paths).text()).map_err(|error| format!("{}: {error}", path.display()))
    });
    match written {
        Ok(()) => (plan.config, plan.users_file) = (path, false),
        Err(why) => report::line(why),
    }
    plan.databases.extend(found);
    plan
}

/// Removes what [`expand`] wrote for this process.
pub fn forget(plan: &Plan) {
    if plan.config == each_file(plan) {
        let _ = fs::remove_file(&plan.config);
    }
}

/// Each process has its own: another one's may not have the database that was named here.
fn each_file(plan: &Plan) -> PathBuf {
    plan.runtime.join(format!("litestream-each-{}.yml", std::process::id()))
}

fn databases_in(directory: &Directory, named: &[PathBuf]) -> Vec<Database> {
    let mut paths: Vec<PathBuf> = named.iter().filter(|path| path.starts_with(&directory.path)).cloned().collect();
    search(directory, &directory.path, 0, &mut paths);
    paths.sort();
    paths.dedup();
    let entry = |path: PathBuf| {
        let relative = path.strip_prefix(&directory.path).unwrap_or(&path).to_string_lossy().into_owned();
        let alias = Path::new(&relative).with_extension("").to_string_lossy().into_owned();
        let replica = format!("{}/{relative}", directory.replica.trim_end_matches('/'));
        Database { alias, path, replica, from: directory.from.clone(), elsewhere: Vec::new() }
    };
    paths.into_iter().map(entry).collect()
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
    let mut header = [0; 16];
    fs::File::open(path).and_then(|mut f| f.read_exact(&mut header)).is_ok() && &header == b"SQLite format 3\0"
}

/// Go's `filepath.Match` on a file's name: `*`, `?`, and `[…]` with ranges.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    matches_from(&pattern, &name)
}

fn matches_from(pattern: &[char], name: &[char]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => (0..=name.len()).any(|at| name.get(at..).is_some_and(|left| matches_from(rest, left))),
        (Some(('?', rest)), Some((_, left))) => matches_from(rest, left),
        (Some(('[', rest)), Some((c, left))) => {
            let Some(end) = rest.iter().skip(1).position(|c| *c == ']').map(|at| at.saturating_add(1)) else { return false };
            let (class, rest) = rest.split_at(end);
            in_class(class, *c) && matches_from(rest.get(1..).unwrap_or_default(), left)
        }
        (Some((p, rest)), Some((c, left))) => p == c && matches_from(rest, left),
        _ => false,
    }
}

fn in_class(class: &[char], c: char) -> bool {
    let (negated, class) = if let Some(('^', rest)) = class.split_first() { (true, rest) } else { (false, class) };
    let single = class.contains(&c) && c != '-';
    let ranged = class.windows(3).any(|w| matches!(w, [from, '-', to] if (*from..=*to).contains(&c)));
    (single || ranged) != negated
}

#[cfg(test)]
mod tests {
    use super::*;

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
                from: Vec::new(),
            };
            databases_in(&directory, &[]).into_iter().map(|d| (d.alias, d.replica)).collect::<Vec<_>>()
        };
        assert_eq!(found(false), [("a".to_owned(), "s3://b/p/a.db".to_owned())]);
        assert_eq!(found(true)[1], ("deep/c".to_owned(), "s3://b/p/deep/c.db".to_owned()));
    }
}
