//! What is different in a backup: pages first, then the rows of tables. Must never take what the app wrote meanwhile for a
//! difference.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Rows};

use crate::pages::quoted;
use crate::restore;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) unchanged: usize,
    /// The first of them, [`KEPT`] at most.
    pub(super) different: Vec<Page>,
    /// Nothing at all was written meanwhile.
    pub(super) still: bool,
}

/// A page that did not change here and is not the same there: its place from 0, and what it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    at: usize,
    here: Option<u64>,
}

/// So many pages are known one by one: memory is to be the same for any database.
const KEPT: usize = 10_000;

impl Compared {
    pub(super) fn equal(&self) -> String {
        match self.unchanged.saturating_sub(self.different.len()) {
            0 => "nothing to compare: every page has changed meanwhile".to_owned(),
            pages => format!("all {pages} pages that did not change meanwhile are the same"),
        }
    }
}

/// Every page that is the same before and after must be the same there; one that is missing in both
/// must be missing there, unless the file has grown or shrunk meanwhile, and may have done both.
pub(super) fn compare<I: ExactSizeIterator<Item = u64>>(mut before: I, mut after: I, mut there: I) -> Compared {
    let mut result = Compared { unchanged: 0, different: Vec::new(), still: before.len() == after.len() };
    let here = before.len().max(after.len());
    let end = if result.still { there.len().max(here) } else { here };
    for at in 0..end {
        let (before, after, there) = (before.next(), after.next(), there.next());
        if before != after {
            result.still = false;
            continue;
        }
        result.unchanged = result.unchanged.saturating_add(1);
        if there != before && result.different.len() < KEPT {
            result.different.push(Page { at, here: before });
        }
    }
    result
}

/// Pages that were different in each comparison so far, and here always the same. One may change and change back all the time:
/// then it looks as if it had not changed now and then, but hardly each time.
#[derive(Debug, Default)]
pub(super) struct Suspects(Option<Vec<Page>>);

impl Suspects {
    /// After one comparison alone.
    pub(super) fn of(compared: &Compared) -> Self {
        Self(Some(compared.different.clone()))
    }

    /// After one more comparison: whether there are any left.
    pub(super) fn narrow(&mut self, compared: &Compared) -> bool {
        let left = match &self.0 {
            None => compared.different.clone(),
            // Both are in the order of their places.
            Some(before) => {
                let again = |page: &&Page| {
                    compared.different.binary_search_by_key(&page.at, |p| p.at).ok().and_then(|i| compared.different.get(i)) == Some(*page)
                };
                before.iter().filter(again).copied().collect()
            }
        };
        let any = !left.is_empty();
        self.0 = Some(left);
        any
    }

    pub(super) fn text(&self, compared: &Compared) -> String {
        let pages = self.0.as_deref().unwrap_or_default();
        let (different, first) = (pages.len(), pages.first().map_or(0, |page| page.at.saturating_add(1)));
        let more = if different == KEPT { " or more" } else { "" };
        format!("{different}{more} of {} pages that did not change here are not the same there (first: page {first})", compared.unchanged)
    }
}

/// Rows of one table that did not change here and are not the same there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    missing: u64,
    changed: u64,
    surplus: u64,
}

impl Counted {
    fn count(&mut self, here: Option<u64>, there: Option<u64>) {
        let which = match (here, there) {
            (Some(_), None) => &mut self.missing,
            (None, Some(_)) => &mut self.surplus,
            _ => &mut self.changed,
        };
        *which = which.saturating_add(1);
    }

    fn text(&self, table: &str) -> Option<String> {
        let of = |count: u64, what: &str| match count {
            0 => None,
            1 => Some(format!("1 row {what}")),
            count => Some(format!("{count} rows {what}")),
        };
        let parts: Vec<String> =
            [of(self.missing, "missing"), of(self.changed, "changed"), of(self.surplus, "too many")].into_iter().flatten().collect();
        if parts.is_empty() { None } else { Some(format!("table {table}: {}", parts.join(", "))) }
    }
}

/// So many tables are named.
const NAMED: usize = 3;

/// Which tables differ, in words; none where that cannot be told. Reads all three as they stand, a row of each at a time.
pub(super) fn rows(before: &Path, after: &Path, there: &Path) -> Option<String> {
    let open = |path| restore::open_immutable(path).ok();
    let (before, after, there) = (open(before)?, open(after)?, open(there)?);
    let mut texts = Vec::new();
    for table in tables(&before).ok()? {
        let counted = match three_ways(&table, &before, &after, &there) {
            Ok(counted) => counted,
            Err(_) if tables(&there).is_ok_and(|there| !there.contains(&table)) => {
                texts.push(format!("table {table}: missing"));
                continue;
            }
            // Without a rowid, or virtual.
            Err(_) => continue,
        };
        texts.extend(counted.text(&table));
    }
    let mut out = String::new();
    for (at, text) in texts.iter().take(NAMED).enumerate() {
        let _ = write!(out, "{}{text}", if at > 0 { "; " } else { "" });
    }
    if texts.len() > NAMED {
        let _ = write!(out, "; and {} more tables", texts.len().saturating_sub(NAMED));
    }
    if out.is_empty() { None } else { Some(out) }
}

fn tables(database: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Counts the rows that are the same before and after, and not there. All three come in the order of their rowids.
fn three_ways(table: &str, before: &Connection, after: &Connection, there: &Connection) -> rusqlite::Result<Counted> {
    let sql = format!("SELECT _rowid_, * FROM {} ORDER BY _rowid_", quoted(table));
    let (mut before, mut after, mut there) = (before.prepare(&sql)?, after.prepare(&sql)?, there.prepare(&sql)?);
    let mut before = Stream::new(before.query([])?)?;
    let mut after = Stream::new(after.query([])?)?;
    let mut there = Stream::new(there.query([])?)?;
    let mut counted = Counted::default();
    while let Some(row) = [&before, &after, &there].into_iter().filter_map(|s| s.next).map(|(row, _)| row).min() {
        let (b, a, t) = (before.take(row)?, after.take(row)?, there.take(row)?);
        if b == a && t != b {
            counted.count(b, t);
        }
    }
    Ok(counted)
}

/// The rows of a table, each as its rowid and a hash.
struct Stream<'a> {
    rows: Rows<'a>,
    next: Option<(i64, u64)>,
}

impl<'a> Stream<'a> {
    fn new(rows: Rows<'a>) -> rusqlite::Result<Self> {
        let mut stream = Self { rows, next: None };
        stream.advance()?;
        Ok(stream)
    }

    fn advance(&mut self) -> rusqlite::Result<()> {
        self.next = match self.rows.next()? {
            Some(row) => {
                let mut hasher = DefaultHasher::new();
                for column in 1..row.as_ref().column_count() {
                    hash(row.get_ref(column)?, &mut hasher);
                }
                Some((row.get(0)?, hasher.finish()))
            }
            None => None,
        };
        Ok(())
    }

    /// The hash of the row with this number, where it is the next.
    fn take(&mut self, row: i64) -> rusqlite::Result<Option<u64>> {
        match self.next {
            Some((next, hash)) if next == row => {
                self.advance()?;
                Ok(Some(hash))
            }
            _ => Ok(None),
        }
    }
}

fn hash(value: ValueRef<'_>, hasher: &mut DefaultHasher) {
    match value {
        ValueRef::Null => hasher.write_u8(0),
        ValueRef::Integer(number) => (1_u8, number).hash(hasher),
        ValueRef::Real(number) => (2_u8, number.to_bits()).hash(hasher),
        ValueRef::Text(bytes) => (3_u8, bytes).hash(hasher),
        ValueRef::Blob(bytes) => (4_u8, bytes).hash(hasher),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn compare(before: &[u64], after: &[u64], there: &[u64]) -> Compared {
        super::compare(before.iter().copied(), after.iter().copied(), there.iter().copied())
    }

    #[test]
    fn only_pages_that_did_not_change_here_must_be_the_same_there() {
        let same = |different: &[(usize, Option<u64>)], unchanged, still| Compared {
            unchanged,
            different: different.iter().map(|(at, here)| Page { at: *at, here: *here }).collect(),
            still,
        };
        assert_eq!(compare(&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]), same(&[], 3, true));
        assert_eq!(compare(&[1, 2, 3], &[1, 9, 3], &[1, 5, 3]), same(&[], 2, false));
        assert_eq!(compare(&[1, 2, 3], &[1, 2, 3], &[1, 0, 3]), same(&[(1, Some(2))], 3, true));
        assert_eq!(compare(&[1, 2], &[1, 2], &[1]), same(&[(1, Some(2))], 2, true));
        assert_eq!(compare(&[1], &[1], &[1, 7]), same(&[(1, None)], 2, true));
        assert_eq!(compare(&[1], &[1, 7], &[1, 7]), same(&[], 1, false));
        assert_eq!(compare(&[1, 7, 7], &[1, 7], &[1, 7, 7, 7]), same(&[], 2, false), "it may have been longer");
    }

    #[test]
    fn a_page_that_changes_and_changes_back_is_no_difference() {
        let mut suspects = Suspects::default();
        let gap = |here, there| compare(&[1, here, 3], &[1, here, 3], &[1, there, 0]);
        assert!(suspects.narrow(&gap(7, 8)));
        assert!(suspects.text(&gap(7, 8)).starts_with("2 of 3 pages"), "both are different so far");
        assert!(suspects.narrow(&gap(8, 7)));
        assert_eq!(suspects.text(&gap(8, 7)), "1 of 3 pages that did not change here are not the same there (first: page 3)");
        assert!(!suspects.narrow(&compare(&[1, 7, 3], &[1, 7, 3], &[1, 7, 3])));
        assert!(!suspects.narrow(&gap(7, 8)), "it was the same once");
    }

    fn database(dir: &Path, name: &str, sql: &str) -> PathBuf {
        let path = dir.join(name);
        let table =
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE TABLE \"q\"\"q\"(x); INSERT INTO t VALUES(1,'a'),(2,'b'),(3,'c'),(4,'d');";
        Connection::open(&path).unwrap().execute_batch(&format!("{table}{sql}")).unwrap();
        path
    }

    #[test]
    fn rows_are_counted_but_for_those_that_changed_here_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name, sql| database(dir.path(), name, sql);
        let before = make("before", "");
        let after = make("after", "UPDATE t SET x='new' WHERE id=2; INSERT INTO t VALUES(5,'e'); DELETE FROM t WHERE id=4;");
        let fresh = make("fresh", "UPDATE t SET x='between' WHERE id=2;");
        assert_eq!(rows(&before, &after, &fresh), None);
        let stale = make("stale", "DELETE FROM t WHERE id IN (1,2); UPDATE t SET x='z' WHERE id=3; INSERT INTO \"q\"\"q\" VALUES(1),(2);");
        assert_eq!(rows(&before, &after, &stale).as_deref(), Some("table q\"q: 2 rows too many; table t: 1 row missing, 1 row changed"));
        let lost = make("lost", "DROP TABLE t;");
        assert_eq!(rows(&before, &after, &lost).as_deref(), Some("table t: missing"));
    }
}
