//! `LITESTREAM_ENTRY_MIGRATE`: before the app, on databases that are restored and replicated, and nothing half-done is started on.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::container::Recipe;
use crate::support::contents::Contents;
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, process, when};

both_lines!(
    a_migration_runs_once_before_the_app_and_is_in_the_backup,
    a_migration_that_fails_ends_the_start_with_its_code,
    a_copy_that_an_older_release_was_putting_back_is_not_passed_over,
    a_failed_migration_is_undone_where_that_is_asked_for,
    what_a_killed_life_left_is_saved_after_a_rollback,
    a_migration_that_takes_too_long_or_is_stopped_ends_the_start,
);

fn with_rows(line: Line) -> (Site, Contents) {
    let site = Site::new(line);
    let mut container = site.writing("--every 500").start();
    container.ready();
    site.write_on(200);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    let contents = Contents::of(site.database());
    (site, contents)
}

/// Python with the database open.
fn migration(site: &Site, statements: &str) -> String {
    let script = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2])";
    format!("echo migrated >> {}; /usr/bin/python3 -c '{script}' {} '{statements}'", site.path("log").display(), site.database().display())
}

fn noting(site: &Site, migrate: &str) -> Recipe {
    site.recipe().env("LITESTREAM_ENTRY_MIGRATE", migrate).shell(&format!("echo ran >> {}", site.path("log").display()))
}

fn log(site: &Site) -> String {
    fs::read_to_string(site.path("log")).unwrap_or_default()
}

fn a_migration_runs_once_before_the_app_and_is_in_the_backup(line: Line) {
    let (site, before) = with_rows(line);
    // On an empty disk: it sees what was restored.
    lose(site.database());
    for rollback in ["false", "true"] {
        let _ = fs::remove_file(site.path("log"));
        let migrate = migration(
            &site,
            "CREATE TABLE IF NOT EXISTS added(id INTEGER PRIMARY KEY); INSERT INTO added SELECT count(*) FROM t; DELETE FROM added",
        );
        let (code, container) = noting(&site, &migrate).env("LITESTREAM_ENTRY_MIGRATE_ROLLBACK", rollback).run();
        assert_eq!(code, 0, "{}", container.stderr());
        assert_eq!(log(&site), "migrated\nran\n");
        let after = Contents::of(site.database());
        assert_eq!(after.last(), before.last());
        assert!(before.difference(&after).is_some_and(|what| what.contains("added")), "the new table is there");
        assert_eq!(site.backup_of(site.database()).difference(&after), None);
        assert!(!site.path("data/.app.db-before-migration").exists());
    }
}

fn a_migration_that_fails_ends_the_start_with_its_code(line: Line) {
    let (site, before) = with_rows(line);
    let migrate = format!("{}; exit 9", migration(&site, "CREATE TABLE half(id INTEGER PRIMARY KEY)"));
    let (code, container) = noting(&site, &migrate).run();
    assert!(
        code == 9 && container.stderr().contains("the migration ended with exit code 9: the app does not start"),
        "{code}: {}",
        container.stderr()
    );
    assert_eq!(log(&site), "migrated\n");
    let after = Contents::of(site.database());
    assert!(before.difference(&after).is_some_and(|what| what.contains("half")));
    assert_eq!(site.backup_of(site.database()).difference(&after), None, "what it did is saved");
}

fn a_copy_that_an_older_release_was_putting_back_is_not_passed_over(line: Line) {
    let (site, before) = with_rows(line);
    let copy = site.path("data/.app.db-before-migration");
    let connection = rusqlite::Connection::open(site.database()).unwrap();
    connection.execute_batch("CREATE TABLE only_here(id INTEGER PRIMARY KEY); PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    fs::rename(site.database(), &copy).unwrap();
    let (code, container) = noting(&site, "true").run();
    assert!(code == 65 && container.stderr().contains(".app.db-before-migration"), "{code}: {}", container.stderr());
    assert!(!site.database().exists() && copy.exists());
    // One of the two ways on that the line says.
    fs::rename(&copy, site.database()).unwrap();
    let (code, container) = noting(&site, "true").run();
    assert_eq!(code, 0, "{}", container.stderr());
    let after = Contents::of(site.database());
    assert!(before.difference(&after).is_some_and(|what| what.contains("only_here")), "what was only there");
    assert_eq!(site.backup_of(site.database()).difference(&after), None);
}

fn a_failed_migration_is_undone_where_that_is_asked_for(line: Line) {
    let (site, before) = with_rows(line);
    let migrate = format!("{}; sleep 1.5; exit 9", migration(&site, "CREATE TABLE half(id INTEGER PRIMARY KEY); DELETE FROM t"));
    let (code, container) = noting(&site, &migrate).env("LITESTREAM_ENTRY_MIGRATE_ROLLBACK", "true").run();
    assert_eq!(code, 9, "{}", container.stderr());
    assert!(container.stderr().contains("default: as it was before the migration"), "{}", container.stderr());
    assert_eq!(site.backup_of(site.database()).difference(&before), None, "and so is the backup");
    assert_eq!(Contents::of(site.database()).difference(&before), None);
    let names: Vec<String> = fs::read_dir(site.path("data")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|n| n.starts_with("app.db.aside-")), "what it left is kept: {names:?}");
    // The next start goes on with it, and the backup follows.
    let mut container = site.writing("--every 500").start();
    container.ready();
    site.write_on(100);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
    assert!(Contents::of(site.database()).last() > before.last());
}

fn what_a_killed_life_left_is_saved_after_a_rollback(line: Line) {
    let (site, _) = with_rows(line);
    let mut killed = site.writing("--every 500").start();
    killed.ready();
    process::send(killed.running_litestream().pid, Signal::SIGSTOP);
    site.write_on(200);
    killed.kill();
    let here = Contents::of(site.database());
    let migrate = format!("{}; sleep 1.5; exit 9", migration(&site, "CREATE TABLE half(id INTEGER PRIMARY KEY); DELETE FROM t"));
    let (code, container) = noting(&site, &migrate).env("LITESTREAM_ENTRY_MIGRATE_ROLLBACK", "true").run();
    assert_eq!(code, 9, "{}", container.stderr());
    assert!(!container.stderr().contains("NOT SAVED"), "{}", container.stderr());
    assert_eq!(Contents::of(site.database()).difference(&here), None);
    assert_eq!(site.backup_of(site.database()).difference(&here), None);
}

fn a_migration_that_takes_too_long_or_is_stopped_ends_the_start(line: Line) {
    let (site, _) = with_rows(line);
    let (code, container) = noting(&site, "exec sleep 1000").env("LITESTREAM_ENTRY_MIGRATE_TIMEOUT", "1s").run();
    assert!(code == 143 && container.stderr().contains("LITESTREAM_ENTRY_MIGRATE_TIMEOUT"), "{code}: {}", container.stderr());
    let begun = format!("touch {}; exec sleep 1000", site.ready_file().display());
    let mut container = noting(&site, &begun).start();
    eventually("it has begun", PATIENCE, || when(site.ready_file().exists()));
    assert_eq!(container.stop(), 143, "{}", container.stderr());
    assert_eq!(log(&site), "", "the app never ran");
    let (code, container) = noting(&site, "no-such-command").run();
    assert_eq!(code, 127, "{}", container.stderr());
}
