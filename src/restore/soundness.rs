//! Whether a restored file is damaged, by SQLite's own check of its structure. Must never call damage what cannot be checked here, or
//! what is wrong with rows alone: a check needs the app's collations, functions and modules, and a constraint may be younger than its rows.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::functions::FunctionFlags;
use rusqlite::types::Null;
use rusqlite::{Connection, ErrorCode};

use super::{QUICK_CHECK_ABOVE, STEPS, open_immutable};
use crate::interrupt;
use crate::pages::quoted;

/// What a file that is not damaged is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Soundness {
    /// SQLite finds no fault in it.
    Sound,
    /// Its structure is whole, as far as it could be checked here; what could not be, or what is wrong with rows.
    Partly(String),
}

impl Soundness {
    /// What is to be said of it besides.
    pub fn remark(&self) -> Option<&str> {
        match self {
            Self::Sound => None,
            Self::Partly(why) => Some(why),
        }
    }
}

/// So many complaints are read: those of the structure come first, but a table's rows may come before another's index.
const COMPLAINTS: usize = 100_000;
/// So many functions of the app's own may be missing.
const FUNCTIONS: usize = 200;

/// Checks a file that nobody else has open; ends early when this process is asked to.
///
/// # Errors
/// The first fault of its structure.
pub fn check(database: &Path) -> Result<Soundness, String> {
    let size = std::fs::metadata(database).map(|m| m.len()).unwrap_or_default();
    let pragma = if size > QUICK_CHECK_ABOVE { "quick_check" } else { "integrity_check" };
    // `immutable`: no -wal and -shm are made beside it.
    let connection = open_immutable(database).map_err(|e| e.to_string())?;
    let mut check = Check { connection, stubs: BTreeSet::new(), remarks: Vec::new() };
    check.prepare().map_err(|e| e.to_string())?;
    match check.run(&format!("PRAGMA {pragma}({COMPLAINTS})")) {
        Err(Fault::Unchecked(why)) => check.table_by_table(pragma, &why)?,
        Err(Fault::Damage(what)) => return Err(what),
        Ok(()) => {}
    }
    Ok(check.outcome())
}

/// Whether the rows of every table can be read, by another way than the check's: where they can, no row is lost.
///
/// # Errors
/// The first page that cannot be read.
pub fn read_every_row(database: &Path) -> Result<(), String> {
    let connection = open_immutable(database).map_err(|e| e.to_string())?;
    let mut check = Check { connection, stubs: BTreeSet::new(), remarks: Vec::new() };
    check.prepare().map_err(|e| e.to_string())?;
    for table in check.tables().map_err(|e| e.to_string())? {
        match check.with_stubs(|connection| count(connection, &format!("SELECT * FROM {} NOT INDEXED", quoted(&table)))) {
            Err(error) if is_damage(&error) => return Err(format!("{table}: {error}")),
            // A virtual table without its module has its rows in tables of its own.
            _ => {}
        }
    }
    Ok(())
}

fn count(connection: &Connection, query: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

enum Fault {
    Damage(String),
    Unchecked(String),
}

struct Check {
    connection: Connection,
    /// Functions of the app's own, in whose place others stand.
    stubs: BTreeSet<String>,
    remarks: Vec<String>,
}

impl Check {
    fn prepare(&mut self) -> rusqlite::Result<()> {
        // Of a large one it takes longer than a stop leaves time for.
        self.connection.progress_handler(STEPS, Some(|| interrupt::check().is_err()))?;
        self.connection.collation_needed(|connection, name| connection.create_collation(name, str::cmp))
    }

    /// Runs the check, with stand-ins for what it misses.
    fn run(&mut self, pragma: &str) -> Result<(), Fault> {
        let complaints = self.with_stubs(|connection| {
            let mut statement = connection.prepare(pragma)?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            rows.collect::<rusqlite::Result<Vec<String>>>()
        });
        match complaints {
            Ok(complaints) => complaints.iter().filter(|text| *text != "ok").try_for_each(|text| self.judge(text)).map_err(Fault::Damage),
            Err(error) if is_damage(&error) => Err(Fault::Damage(error.to_string())),
            Err(error) => Err(Fault::Unchecked(error.to_string())),
        }
    }

    /// Where the whole cannot be checked: each table for itself, so that a fault in another one is still found.
    fn table_by_table(&mut self, pragma: &str, why: &str) -> Result<(), String> {
        let tables = self.tables().map_err(|_| why.to_owned())?;
        for table in std::iter::once("sqlite_schema".to_owned()).chain(tables) {
            match self.run(&format!("PRAGMA {pragma}({})", quoted(&table))) {
                Err(Fault::Damage(what)) => return Err(what),
                Err(Fault::Unchecked(why)) => self.remarks.push(format!("table {table}: {why}")),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn tables(&self) -> rusqlite::Result<Vec<String>> {
        let mut names = self.connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
        names.query_map([], |row| row.get(0))?.collect()
    }

    /// Does that again with a stand-in for each function that it misses.
    fn with_stubs<T>(&mut self, what: impl Fn(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        loop {
            let error = match what(&self.connection) {
                Err(error) if self.stubs.len() < FUNCTIONS => error,
                other => return other,
            };
            let Some(name) = missing_function(&error.to_string()).filter(|name| !self.stubs.contains(name)) else { return Err(error) };
            let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
            self.connection.create_scalar_function(name.as_str(), -1, flags, |_| Ok(Null))?;
            self.stubs.insert(name);
        }
    }

    /// Whether a complaint is one of the structure; else it is a remark.
    fn judge(&mut self, complaint: &str) -> Result<(), String> {
        if is_of_rows(complaint) || index_of(complaint).is_some_and(|index| self.needs_the_app(index)) {
            // One of each kind tells enough.
            if self.remarks.len() < 3 {
                self.remarks.push(complaint.to_owned());
            }
            return Ok(());
        }
        Err(complaint.to_owned())
    }

    /// Whether an index is ordered, or filled, by what the app alone has.
    fn needs_the_app(&self, index: &str) -> bool {
        let own_collation = "SELECT 1 FROM pragma_index_xinfo(?1) WHERE upper(coll) NOT IN ('BINARY', 'NOCASE', 'RTRIM')";
        let computed = "SELECT 1 FROM pragma_index_xinfo(?1) WHERE cid = -2 UNION ALL \
             SELECT 1 FROM sqlite_schema s, pragma_index_list(s.tbl_name) l WHERE s.name = ?1 AND l.name = ?1 AND l.partial UNION ALL \
             SELECT 1 FROM sqlite_schema s, pragma_table_xinfo(s.tbl_name) c WHERE s.name = ?1 AND c.hidden IN (2, 3)";
        let is = |query: &str| self.connection.query_row(query, [index], |_| Ok(())).is_ok();
        is(own_collation) || (!self.stubs.is_empty() && is(computed))
    }

    fn outcome(mut self) -> Soundness {
        let functions: Vec<String> = std::mem::take(&mut self.stubs).into_iter().collect();
        if !functions.is_empty() {
            self.remarks.push(format!("the app's own functions are not known here: {}", functions.join(", ")));
        }
        if self.remarks.is_empty() { Soundness::Sound } else { Soundness::Partly(self.remarks.join("; ").replace(char::is_control, " ")) }
    }
}

/// `SQLITE_CORRUPT` and `SQLITE_NOTADB`.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// `no such function: NAME`, and in an expression of the schema `unknown function: NAME()`.
fn missing_function(error: &str) -> Option<String> {
    let (_, rest) = error.split_once("no such function: ").or_else(|| error.split_once("unknown function: "))?;
    let name: String = rest.chars().take_while(|c| !c.is_whitespace() && *c != '(').collect();
    (!name.is_empty()).then_some(name)
}

/// Complaints of constraints and of modules, as `pragma.c`, `fts5` and `rtree` have them: no page is wrong.
fn is_of_rows(complaint: &str) -> bool {
    const BEGINNINGS: [&str; 7] = [
        "NULL value in ",
        "CHECK constraint failed in ",
        "NUMERIC value in ",
        "TEXT value in ",
        "unable to validate the inverted index for ",
        "malformed inverted index for ",
        "In RTree ",
    ];
    BEGINNINGS.iter().any(|beginning| complaint.starts_with(beginning))
        || (complaint.starts_with("non-") && complaint.contains(" value in "))
}

/// The index that a complaint names, as `row 5 missing from index i`; of a table without rowids, which is its own index, its name:
/// `pragma_index_xinfo` takes both.
fn index_of(complaint: &str) -> Option<&str> {
    let (_, name) = complaint.split_once(" index ").or_else(|| complaint.split_once(" PRIMARY KEY order for "))?;
    Some(name.trim()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct File {
        _dir: tempfile::TempDir,
        path: std::path::PathBuf,
    }

    /// A file made by an app that has a collation, a function, and whatever `statements` need of them.
    fn made_by_an_app(statements: &str) -> File {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let app = Connection::open(&path).unwrap();
        app.create_collation("icu_root", |a, b| b.to_lowercase().cmp(&a.to_lowercase())).unwrap();
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        app.create_scalar_function("md5", 1, flags, |c| {
            Ok(c.get_raw(0).as_str().map_or(0, |v| v.bytes().map(i64::from).sum::<i64>() % 97))
        })
        .unwrap();
        let fill = "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v TEXT); \
                    WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<3000) INSERT INTO t(id,v) SELECT n, 'Row ' || (n*7919%3000) FROM c;";
        app.execute_batch(statements).unwrap();
        app.execute_batch(fill).unwrap();
        app.execute_batch("PRAGMA foreign_keys=off; VACUUM;").unwrap();
        File { _dir: dir, path }
    }

    const KINDS: [&str; 8] = [
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t(v COLLATE icu_root);",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT COLLATE icu_root); CREATE INDEX i ON t(v);",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE w(k TEXT COLLATE icu_root PRIMARY KEY) WITHOUT ROWID; INSERT INTO w VALUES('a'),('B'),('c');",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t(md5(v));",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t(v) WHERE md5(v) > 40;",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, m AS (md5(v))); CREATE INDEX i ON t(m);",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, CHECK (md5(v) > -1));",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, m AS (md5(v)) STORED);",
    ];

    #[test]
    fn what_only_the_app_can_check_is_no_damage() {
        for kind in KINDS {
            let file = made_by_an_app(kind);
            assert!(check(&file.path).is_ok(), "{kind}: {:?}", check(&file.path));
            assert_eq!(read_every_row(&file.path), Ok(()), "{kind}");
        }
        assert_eq!(check(&made_by_an_app("").path), Ok(Soundness::Sound));
    }

    #[test]
    fn a_page_that_is_broken_is_damage_whatever_else_cannot_be_checked() {
        for kind in KINDS {
            let file = made_by_an_app(kind);
            let mut bytes = std::fs::read(&file.path).unwrap();
            // A leaf of the table, behind its root.
            let at = bytes.len() / 4096 / 3 * 4096;
            bytes[at..at + 4096].fill(0xaa);
            std::fs::write(&file.path, bytes).unwrap();
            assert!(check(&file.path).is_err(), "{kind}: {:?}", check(&file.path));
            assert!(read_every_row(&file.path).is_err(), "{kind}");
        }
    }

    #[test]
    fn rows_that_break_a_constraint_are_no_damage() {
        let file = made_by_an_app("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE n(x); INSERT INTO n VALUES(NULL),(5);");
        let app = Connection::open(&file.path).unwrap();
        app.execute_batch(
            "PRAGMA writable_schema=on; UPDATE sqlite_schema SET sql='CREATE TABLE n(x NOT NULL CHECK (x > 9))' WHERE name='n'; PRAGMA writable_schema=off",
        )
        .unwrap();
        drop(app);
        let sound = check(&file.path).unwrap();
        assert!(sound.remark().is_some_and(|why| why.contains("NULL value in n.x")), "{sound:?}");
    }

    #[test]
    fn an_index_that_lacks_a_row_is_damage_but_every_row_can_be_read() {
        let file = made_by_an_app("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t(v);");
        let app = Connection::open(&file.path).unwrap();
        // The index is another one's for a moment.
        let sql =
            "PRAGMA writable_schema=on; UPDATE sqlite_schema SET sql='CREATE INDEX i ON t(id)' WHERE name='i'; PRAGMA writable_schema=off";
        app.execute_batch(sql).unwrap();
        drop(app);
        assert!(check(&file.path).unwrap_err().contains("index i"));
        assert_eq!(read_every_row(&file.path), Ok(()));
    }

    #[test]
    fn a_table_whose_tokenizer_or_module_is_not_known_is_no_damage() {
        for (create, odd) in [
            (
                "CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES('some words'), ('other words');",
                "CREATE VIRTUAL TABLE f USING fts5(body, tokenize=''apps'')",
            ),
            ("CREATE TABLE f_data(x); INSERT INTO f_data VALUES(1);", ""),
        ] {
            let file = made_by_an_app(create);
            let app = Connection::open(&file.path).unwrap();
            if odd.is_empty() {
                let insert = "PRAGMA writable_schema=on; INSERT INTO sqlite_schema VALUES('table','f','f',0,'CREATE VIRTUAL TABLE f USING vec99(x)'); PRAGMA writable_schema=off";
                app.execute_batch(insert).unwrap();
            } else {
                app.execute_batch(&format!(
                    "PRAGMA writable_schema=on; UPDATE sqlite_schema SET sql='{odd}' WHERE name='f'; PRAGMA writable_schema=off"
                ))
                .unwrap();
            }
            drop(app);
            assert!(check(&file.path).is_ok(), "{create}: {:?}", check(&file.path));
            assert_eq!(read_every_row(&file.path), Ok(()), "{create}");
        }
    }
}
