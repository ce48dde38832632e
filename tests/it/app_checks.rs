//! Databases that SQLite's check cannot run on in full here, since collations, functions, tokenizers and modules are the app's own: no
//! backup of them is called damaged, nothing is gone back to, and a page that is really broken is still found.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use crate::support::container::{Recipe, said};
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    what_only_the_app_can_check_is_restored_in_full_and_said,
    the_ladder_stays_at_the_newest_point_where_nothing_is_broken,
    the_ladder_does_not_leave_rows_that_can_be_read,
    a_broken_page_is_damage_whatever_else_cannot_be_checked,
);

/// What an app has made of table `t` and its index, and how its schema is changed by hand where no build of SQLite here could make it so.
const KINDS: [(&str, &str); 6] = [
    ("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t(v COLLATE icu_root)", ""),
    ("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t(app_md5(v))", ""),
    ("CREATE TABLE t(id INTEGER, v TEXT COLLATE icu_root PRIMARY KEY) WITHOUT ROWID", ""),
    (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES('some words')",
        "UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE f USING fts5(body, tokenize=''apps'')' WHERE name = 'f'",
    ),
    (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)",
        "INSERT INTO sqlite_schema VALUES('table', 'x', 'x', 0, 'CREATE VIRTUAL TABLE x USING vec99(y)')",
    ),
    (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE n(x); INSERT INTO n VALUES(NULL)",
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE n(x NOT NULL)' WHERE name = 'n'",
    ),
];

fn open_as_the_app(database: &Path) -> Connection {
    let app = Connection::open(database).unwrap();
    app.busy_timeout(PATIENCE).unwrap();
    app.create_collation("icu_root", |a, b| b.to_lowercase().cmp(&a.to_lowercase())).unwrap();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    app.create_scalar_function("app_md5", 1, flags, |c| Ok(c.get_raw(0).as_str().map_or(0, |v| i64::from(v.as_bytes()[v.len() / 2]))))
        .unwrap();
    app
}

fn insert(database: &Path, rows: std::ops::Range<i64>) {
    let app = open_as_the_app(database);
    for n in rows {
        app.execute("INSERT INTO t(id, v) VALUES(?1, ?2)", (n, format!("Row {} {}", n * 7919 % 5003, "x".repeat(100)))).unwrap();
    }
}

fn rows_in(database: &Path) -> i64 {
    open_as_the_app(database).query_row("SELECT count(*) FROM (SELECT * FROM t NOT INDEXED)", [], |row| row.get(0)).unwrap()
}

/// A volume with 500 rows of that kind, and its backup.
fn backed_up(site: &Site, (statements, by_hand): (&str, &str)) {
    let database = site.database();
    let app = open_as_the_app(database);
    app.execute_batch("PRAGMA journal_mode=wal").unwrap();
    app.execute_batch(statements).unwrap();
    insert(database, 0..500);
    app.execute_batch(&format!("PRAGMA writable_schema=on; {by_hand}; PRAGMA writable_schema=off")).unwrap();
    drop(app);
    let (code, first) = site.recipe().app(["true"]).run();
    assert_eq!(code, 0, "{statements}: {}", first.stderr());
}

/// An app that does nothing, and says that it was started.
fn waiting(recipe: Recipe, site: &Site) -> Recipe {
    recipe.shell(&format!("touch {}; exec sleep 60", site.ready_file().display()))
}

fn what_only_the_app_can_check_is_restored_in_full_and_said(line: Line) {
    for kind in KINDS {
        let site = Site::new(line);
        backed_up(&site, kind);
        lose(site.database());
        let mut container = waiting(site.recipe(), &site).start();
        container.ready();
        assert_eq!(rows_in(site.database()), 500, "{kind:?}");
        let verified = container.exec(["verify", "default"]);
        assert!(verified.status.success(), "{kind:?}: {}", said(&verified));
        assert_eq!(container.stop(), 143, "{}", container.stderr());
        assert!(!container.stderr().contains("damaged"), "{kind:?}: {}", container.stderr());
    }
}

fn the_ladder_stays_at_the_newest_point_where_nothing_is_broken(line: Line) {
    let site = Site::new(line);
    backed_up(&site, ("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)", ""));
    let mut container = waiting(site.recipe(), &site).start();
    container.ready();
    open_as_the_app(site.database()).execute_batch("CREATE INDEX i ON t(v COLLATE icu_root)").unwrap();
    insert(site.database(), 500..3000);
    assert_eq!(container.stop(), 143, "{}", container.stderr());
    lose(site.database());
    let _ = fs::remove_file(site.ready_file());
    let mut container = waiting(site.recipe().env("LITESTREAM_ENTRY_RESTORE_LADDER", "true"), &site).start();
    container.ready();
    assert_eq!(rows_in(site.database()), 3000, "{}", container.stderr());
    assert!(!container.stderr().contains("LOST"), "{}", container.stderr());
    assert!(container.stderr().contains("could not be checked in full"), "{}", container.stderr());
}

fn the_ladder_does_not_leave_rows_that_can_be_read(line: Line) {
    let site = Site::new(line);
    let missing = "PRAGMA writable_schema=on; UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t(id)' WHERE name = 'i'";
    backed_up(&site, ("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE INDEX i ON t(v)", missing));
    lose(site.database());
    let recipe = site.recipe().env("LITESTREAM_ENTRY_RESTORE_LADDER", "true");
    let (code, boot) = recipe.app(["true"]).run();
    assert_eq!(code, 65, "{}", boot.stderr());
    assert!(boot.stderr().contains("every row of it can be read") && !boot.stderr().contains("LOST"), "{}", boot.stderr());
    // What the line recommends shows every row.
    let copy = site.path("copy.db");
    let (code, restored) = site.recipe().arguments(["restore", "-o", &copy.display().to_string(), "default"]).run();
    assert_eq!(code, 0, "{}", restored.stderr());
    assert_eq!(rows_in(&copy), 500);
}

fn a_broken_page_is_damage_whatever_else_cannot_be_checked(line: Line) {
    let site = Site::new(line);
    let database = site.database();
    let app = open_as_the_app(database);
    app.execute_batch("PRAGMA journal_mode=wal").unwrap();
    app.execute_batch(KINDS[0].0).unwrap();
    insert(database, 0..500);
    app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(app);
    let mut bytes = fs::read(database).unwrap();
    let leaf = bytes.len() / 4096 / 3 * 4096;
    bytes[leaf..leaf + 4096].fill(0xaa);
    fs::write(database, bytes).unwrap();
    let (_, first) = site.recipe().app(["true"]).run();
    eventually("a backup of it", PATIENCE, || when(site.try_restore(database).0.status.success()));
    lose(database);
    let (code, boot) = site.recipe().app(["true"]).run();
    assert_eq!(code, 65, "{} {}", first.stderr(), boot.stderr());
    assert!(boot.stderr().contains("damaged"), "{}", boot.stderr());
}
