//! Migrations beside another container on the same volume: nothing that the other one has acknowledged is ever rolled back.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use rusqlite::Connection;

use crate::support::container::{Container, Recipe};
use crate::support::contents::Contents;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    a_migration_that_is_rolled_back_waits_for_the_lock_and_rolls_back_nothing_of_the_others,
    an_app_starts_only_when_the_holders_migration_is_over,
    two_migrations_at_once_are_one_after_the_other,
    a_copy_of_a_killed_boot_is_not_put_over_what_was_written_since,
    a_killed_migration_is_rolled_back_by_the_next_boot_that_rolls_back,
    a_boot_that_does_not_roll_back_keeps_the_copy_of_a_killed_migration_aside,
    a_stop_anywhere_in_a_migrating_boot_leaves_nothing_to_go_back_to_later,
    what_somebody_has_open_is_not_rolled_back,
    after_a_rollback_the_backup_follows,
);

/// Rows that a boot has acknowledged before.
fn with_rows(line: Line) -> Site {
    let site = Site::new(line);
    live(&site, 200);
    site
}

#[track_caller]
fn live(site: &Site, rows: i64) {
    let mut container = site.writing("--every 500").start();
    container.ready();
    site.write_on(rows);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert_eq!(Contents::of(site.database()).difference(&site.backup_of(site.database())), None, "{}", container.stderr());
}

/// Python's own shell of SQLite.
fn sql(site: &Site, statements: &str) -> String {
    let script = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],timeout=20); c.executescript(sys.argv[2])";
    format!("/usr/bin/python3 -c '{script}' {} '{statements}'", site.database().display())
}

/// Says by a file that it has come so far.
fn mark(site: &Site, name: &str) -> String {
    format!("touch {}", site.path(name).display())
}

#[track_caller]
fn reached(site: &Site, name: &str, container: &Container) {
    eventually(format!("{name}:\n{}", container.stderr()), PATIENCE, || when(site.path(name).exists()));
}

fn rolling_back(recipe: Recipe, migrate: &str) -> Recipe {
    recipe.env("LITESTREAM_ENTRY_MIGRATE", migrate).env("LITESTREAM_ENTRY_MIGRATE_ROLLBACK", "true")
}

fn second(site: &Site) -> Recipe {
    site.recipe().env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("run2"))
}

fn copies(site: &Site) -> Vec<String> {
    let names = fs::read_dir(site.path("data")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("-before-migration")).collect()
}

fn tables(database: &Path) -> Vec<String> {
    let connection = Connection::open(database).unwrap();
    let mut names = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
    names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).filter(|n: &String| !n.starts_with('_')).collect()
}

fn a_migration_that_is_rolled_back_waits_for_the_lock_and_rolls_back_nothing_of_the_others(line: Line) {
    let site = with_rows(line);
    let mut first = site.writing("--every 500").start();
    first.ready();
    let migrate = format!("{}; {}; exit 5", mark(&site, "migrated"), sql(&site, "DELETE FROM t"));
    let mut new = rolling_back(second(&site), &migrate).shell("true").start();
    eventually("it waits", PATIENCE, || {
        when(new.stderr().contains("LITESTREAM_ENTRY_MIGRATE_ROLLBACK") && new.stderr().contains("stop-first"))
    });
    site.write_on(300);
    assert!(!site.path("migrated").exists(), "{}", new.stderr());
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    assert_eq!(new.wait(PATIENCE), 5, "{}", new.stderr());
    assert!(new.stderr().contains("as it was before the migration"), "{}", new.stderr());
    Contents::of(site.database()).assert_complete_up_to(site.acknowledged());
    live(&site, 100);
}

fn an_app_starts_only_when_the_holders_migration_is_over(line: Line) {
    let site = with_rows(line);
    let migrate = format!(
        "{}; while [ ! -e {} ]; do sleep 0.05; done; {}; exit 5",
        mark(&site, "migrating"),
        site.path("go").display(),
        sql(&site, "DELETE FROM t")
    );
    let mut holder = rolling_back(second(&site), &migrate).shell("true").start();
    reached(&site, "migrating", &holder);
    let mut other = site.writing("--every 500").start();
    eventually("it stands by", PATIENCE, || when(other.stderr().contains("standing by")));
    let before = site.acknowledged();
    fs::write(site.path("go"), "").unwrap();
    assert_eq!(holder.wait(PATIENCE), 5, "{}", holder.stderr());
    assert!(holder.stderr().contains("as it was before the migration"), "{}", holder.stderr());
    other.ready();
    assert!(site.acknowledged() >= before);
    site.write_on(300);
    assert_eq!(other.stop(), 0, "{}", other.stderr());
    site.assert_saved();
}

fn two_migrations_at_once_are_one_after_the_other(line: Line) {
    let site = with_rows(line);
    // As most tools write it: the second one fails.
    let migrate = sql(&site, "CREATE TABLE other(id INTEGER PRIMARY KEY)");
    for rollback in ["true", "false"] {
        let begin = |recipe: Recipe| {
            let recipe = recipe.env("LITESTREAM_ENTRY_MIGRATE", &migrate).env("LITESTREAM_ENTRY_MIGRATE_ROLLBACK", rollback);
            recipe.shell(&format!("{}; sleep 1", mark(&site, "ran"))).start()
        };
        let (mut one, mut two) = (begin(site.recipe()), begin(second(&site)));
        let mut codes = [one.wait(PATIENCE), two.wait(PATIENCE)];
        codes.sort_unstable();
        assert_eq!(codes, [0, 1], "{}\n{}", one.stderr(), two.stderr());
        assert!(site.path("ran").exists());
        assert_eq!(tables(site.database()), ["other", "t"], "rollback {rollback}: the winner's migration stays");
        live(&site, 50);
        Connection::open(site.database()).unwrap().execute_batch("DROP TABLE other").unwrap();
        live(&site, 50);
    }
}

/// A boot that is killed in the middle of its migration.
#[track_caller]
fn kill_in_migration(site: &Site) {
    let statements = "CREATE TABLE half(id INTEGER PRIMARY KEY); DELETE FROM t";
    let migrate = format!("{}; {}; exec sleep 1000", sql(site, statements), mark(site, "half"));
    let mut killed = rolling_back(site.recipe(), &migrate).shell("true").start();
    reached(site, "half", &killed);
    killed.kill();
    assert_eq!(copies(site).len(), 1);
    assert_eq!(tables(site.database()), ["half", "t"]);
}

fn a_copy_of_a_killed_boot_is_not_put_over_what_was_written_since(line: Line) {
    let site = with_rows(line);
    kill_in_migration(&site);
    // An app works with what there is, and acknowledges rows.
    let _ = fs::remove_file(site.path("ack"));
    let mut first = site.writing("--every 500").start();
    first.ready();
    site.write_on(200);
    let mut failing = rolling_back(second(&site), "exit 5").shell("true").start();
    eventually("it waits", PATIENCE, || when(failing.stderr().contains("stop-first")));
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    assert_eq!(failing.wait(PATIENCE), 5, "{}", failing.stderr());
    assert_eq!(Contents::of(site.database()).last(), site.acknowledged(), "{}", failing.stderr());
    live(&site, 50);
}

fn a_killed_migration_is_rolled_back_by_the_next_boot_that_rolls_back(line: Line) {
    let site = with_rows(line);
    let before = Contents::of(site.database());
    kill_in_migration(&site);
    let (code, next) = rolling_back(site.recipe(), "exit 5").shell("true").run();
    assert!(code == 5 && next.stderr().contains("died in its migration: as it was before that"), "{code}\n{}", next.stderr());
    assert_eq!(Contents::of(site.database()).difference(&before), None);
    assert!(copies(&site).is_empty(), "{:?}", copies(&site));
    live(&site, 50);
}

fn a_boot_that_does_not_roll_back_keeps_the_copy_of_a_killed_migration_aside(line: Line) {
    let site = with_rows(line);
    kill_in_migration(&site);
    let (code, next) = site.recipe().shell("true").run();
    assert!(code == 0 && next.stderr().contains("a copy from before an earlier migration, is not used"), "{code}\n{}", next.stderr());
    assert_eq!(tables(site.database()), ["half", "t"]);
    assert!(copies(&site).is_empty());
    // And the one after it, which rolls back, does not find it either.
    let (code, later) = rolling_back(site.recipe(), "true").shell("true").run();
    assert_eq!(code, 0, "{}", later.stderr());
    assert_eq!(tables(site.database()), ["half", "t"]);
}

fn a_stop_anywhere_in_a_migrating_boot_leaves_nothing_to_go_back_to_later(line: Line) {
    let site = with_rows(line);
    for delay in [5, 20, 40, 60, 80, 120, 200, 400] {
        let mut stopped = rolling_back(site.recipe(), "sleep 0.1").app(site.writer("--every 500")).start();
        stopped.running();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        stopped.signal_if_any(Signal::SIGTERM);
        let code = stopped.wait(PATIENCE);
        assert!(matches!(code, 0 | 143), "{delay} ms: {code}\n{}", stopped.stderr());
        // Whatever it was: rows that come after it stay.
        live(&site, 50);
        let (code, failing) = rolling_back(site.recipe(), "exit 5").shell("true").run();
        assert_eq!(code, 5, "{}", failing.stderr());
        Contents::of(site.database()).assert_complete_up_to(site.acknowledged());
        assert!(copies(&site).is_empty(), "{delay} ms: {:?}", copies(&site));
    }
    live(&site, 50);
}

fn what_somebody_has_open_is_not_rolled_back(line: Line) {
    let site = with_rows(line);
    let script = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],isolation_level=None); c.execute('SELECT * FROM t').fetchall(); open(sys.argv[2],'w').write('x'); sys.stdin.read(); c.execute('INSERT INTO other VALUES(7)')";
    // One that is in no container of ours: a sidecar, a shell on the host.
    let migrate = format!(
        "{}; {}; while [ ! -e {} ]; do sleep 0.05; done; exit 5",
        sql(&site, "CREATE TABLE other(id)"),
        mark(&site, "migrating"),
        site.path("open").display()
    );
    let mut holder = rolling_back(site.recipe(), &migrate).shell("true").start();
    reached(&site, "migrating", &holder);
    let mut open = std::process::Command::new("/usr/bin/python3")
        .args(["-c", script])
        .args([site.database(), &site.path("open")])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(holder.wait(PATIENCE), 5, "{}", holder.stderr());
    let said = holder.stderr();
    assert!(said.contains("NOT SAVED") && said.contains("another process has it open"), "{said}");
    drop(open.stdin.take());
    assert!(open.wait().unwrap().success());
    let rows: i64 = Connection::open(site.database()).unwrap().query_row("SELECT count(*) FROM other", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1, "what it wrote is in the database");
    live(&site, 50);
    let rows: i64 = Connection::open(site.database()).unwrap().query_row("SELECT count(*) FROM other", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1, "and stays there");
}

fn after_a_rollback_the_backup_follows(line: Line) {
    let site = with_rows(line);
    // Litestream has read the migration's writes, or not yet, or is at it.
    for pause in ["0", "0.9", "1.2", "2.2"] {
        let migrate = format!("{}; sleep {pause}; exit 5", sql(&site, "CREATE TABLE half(id INTEGER PRIMARY KEY); DELETE FROM t"));
        let (code, failing) = rolling_back(site.recipe(), &migrate).shell("true").run();
        assert_eq!(code, 5, "{}", failing.stderr());
        live(&site, 20);
        site.assert_saved();
    }
}
