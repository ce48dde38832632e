//! Two containers on one volume: one replicates at every moment, both write, and no row is lost.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::Connection;

use crate::support::container::{Container, Recipe};
use crate::support::contents::{Contents, beside};
use crate::support::process;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    a_rolling_deploy_loses_no_row_of_either,
    a_killed_replicator_is_taken_over_from,
    a_command_beside_the_app_writes_what_is_saved,
    waiting_starts_the_app_only_when_the_other_has_left,
    refused_beside_another_and_off_does_not_look,
    a_last_sync_beside_an_app_that_begins_the_wal_anew_leaves_a_whole_backup,
);

only_0_5!(
    what_the_first_one_leaves_is_whole_while_the_other_writes_on,
    what_the_first_one_could_not_leave_whole_is_said_and_whole_after_the_next_start,
);

/// Another app on the same volume: it writes to a table of its own until TERM.
const OTHER: &str = "
import signal, sqlite3, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
c = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
c.execute('PRAGMA journal_mode=wal')
c.execute('CREATE TABLE IF NOT EXISTS other(id INTEGER PRIMARY KEY, body TEXT)')
while True:
    c.execute('INSERT INTO other(body) VALUES (hex(randomblob(50)))')
    time.sleep(0.002)
";

fn second(site: &Site) -> Recipe {
    site.recipe().env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("run2"))
}

fn other(site: &Site) -> Recipe {
    let words = ["/usr/bin/python3".as_ref(), "-c".as_ref(), OTHER.as_ref(), site.database().as_os_str()];
    second(site).app(words)
}

fn rows_of_other(site: &Site) -> i64 {
    let connection = Connection::open(site.database()).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.query_row("SELECT count(*) FROM other", (), |row| row.get(0)).unwrap_or_default()
}

/// Litestream hangs, so that the last sync begins on a long WAL, which it has to checkpoint while the other app does so every few commits.
fn a_last_sync_beside_an_app_that_begins_the_wal_anew_leaves_a_whole_backup(line: Line) {
    let site = Site::new(line);
    let mut first = site.writing("--every 1000").start();
    first.ready();
    eventually("what is written is in the backup", PATIENCE, || when(site.backed_up() > 100));
    process::send(first.running_litestream().pid, Signal::SIGSTOP);
    let often = OTHER.replace("CREATE TABLE", "PRAGMA wal_autocheckpoint=4')\nc.execute('CREATE TABLE").replace("0.002", "0");
    let words = ["/usr/bin/python3".as_ref(), "-c".as_ref(), often.as_ref(), site.database().as_os_str()];
    let mut new = second(&site).app(words).start();
    eventually("a long WAL", PATIENCE, || when(fs::metadata(beside(site.database(), "-wal")).is_ok_and(|about| about.len() > 8 << 20)));
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    new.kill();
    let mut backup = site.backup_of(site.database());
    assert!(matches!(backup.take_numbered("other"), (1.., true)), "a gap in the other one's rows");
    backup.assert_complete_up_to(site.acknowledged());
}

#[track_caller]
fn other_writes_on(site: &Site) {
    let before = rows_of_other(site);
    eventually("the other one writes on", PATIENCE, || when(rows_of_other(site) > before + 100));
}

/// At no moment two.
fn replicators(containers: &[&Container]) -> usize {
    containers.iter().filter(|c| c.litestream().is_some()).count()
}

fn a_rolling_deploy_loses_no_row_of_either(line: Line) {
    let site = Site::new(line);
    let mut first = site.writing("--every 1000").start();
    first.ready();
    site.write_on(300);
    let mut new = other(&site).start();
    other_writes_on(&site);
    site.write_on(300);
    assert_eq!(replicators(&[&first, &new]), 1, "the new one stands by");
    assert!(new.stderr().contains("standing by to take over"), "{}", new.stderr());
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    eventually("the new one replicates", PATIENCE, || when(new.litestream().is_some()));
    other_writes_on(&site);
    assert_eq!(new.stop(), 0, "{}", new.stderr());
    let contents = Contents::of(site.database());
    assert_eq!(site.backup_of(site.database()).difference(&contents), None);
    assert!(contents.last() >= site.acknowledged());
}

/// Another app that changes rows all over a table of its own.
const EVERYWHERE: &str = "
import os, random, signal, sqlite3, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
c = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
c.execute('CREATE TABLE IF NOT EXISTS other(id INTEGER PRIMARY KEY, body TEXT)')
c.execute('CREATE INDEX IF NOT EXISTS bodies ON other(body)')
c.executemany('INSERT INTO other(body) VALUES (?)', [(os.urandom(200).hex(),) for _ in range(3000)])
while True:
    c.executemany('UPDATE other SET body = ? WHERE id = ?', [(os.urandom(200).hex(), random.randint(1, 3000)) for _ in range(20)])
";

/// What was asked of 0.5 by its socket, it has not locked any more: what another app writes until it ends may leave a gap.
fn what_the_first_one_leaves_is_whole_while_the_other_writes_on(line: Line) {
    let site = Site::new(line);
    for round in 0..2 {
        let mut first = site.writing("--every 1000").start();
        first.ready();
        site.write_on(300);
        let words = ["/usr/bin/python3".as_ref(), "-c".as_ref(), EVERYWHERE.as_ref(), site.database().as_os_str()];
        let mut new = second(&site).app(words).start();
        other_writes_on(&site);
        site.write_on(300);
        assert_eq!(first.stop(), 0, "{round}: {}", first.stderr());
        new.kill();
        assert!(site.backup_of(site.database()).last() >= site.acknowledged(), "{round}: {}", first.stderr());
    }
}

/// The same where a transaction of the other's keeps that from being seen to: it is said, and the next start makes the backup whole.
fn what_the_first_one_could_not_leave_whole_is_said_and_whole_after_the_next_start(line: Line) {
    let site = Site::new(line);
    let mut first = site.writing("--every 1000").env("LITESTREAM_ENTRY_STOP_TIMEOUT", "6s").start();
    first.ready();
    site.write_on(300);
    let reads = "r = sqlite3.connect(sys.argv[1]); r.execute('BEGIN'); r.execute('SELECT count(*) FROM other').fetchone()\nwhile True:";
    let script = OTHER.replace("while True:", reads);
    let words = ["/usr/bin/python3".as_ref(), "-c".as_ref(), script.as_ref(), site.database().as_os_str()];
    let mut new = second(&site).app(words).start();
    other_writes_on(&site);
    site.write_on(300);
    // Seldom the other's transaction holds nothing back, and all could be seen to.
    let saved = first.stop() == 0;
    assert!(saved || first.stderr().contains("NOT SAVED: default: a transaction of the app's"), "{}", first.stderr());
    new.kill();
    assert!(!saved || site.backup_of(site.database()).last() >= site.acknowledged(), "{}", first.stderr());
    let mut next = site.writing("--every 1000").start();
    next.ready();
    site.write_on(50);
    assert_eq!(next.stop(), 0, "{}", next.stderr());
    assert_eq!(site.backup_of(site.database()).difference(&Contents::of(site.database())), None);
}

fn a_killed_replicator_is_taken_over_from(line: Line) {
    let site = Site::new(line);
    let mut first = site.writing("--every 1000").start();
    first.ready();
    site.write_on(300);
    let mut new = other(&site).start();
    other_writes_on(&site);
    first.kill();
    eventually("the new one replicates", PATIENCE, || when(new.litestream().is_some()));
    other_writes_on(&site);
    assert_eq!(new.stop(), 0, "{}", new.stderr());
    assert_eq!(site.backup_of(site.database()).difference(&Contents::of(site.database())), None);
}

/// As `docker run … manage.py shell` on a shared volume.
fn a_command_beside_the_app_writes_what_is_saved(line: Line) {
    let site = Site::new(line);
    let mut app = site.writing("--every 1000").start();
    app.ready();
    let script = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1], timeout=10); c.execute('CREATE TABLE by_hand(id INTEGER PRIMARY KEY)'); c.execute('INSERT INTO by_hand VALUES (7)'); c.commit()";
    let words = ["/usr/bin/python3".as_ref(), "-c".as_ref(), script.as_ref(), site.database().as_os_str()];
    let (code, command) = second(&site).app(words).run();
    assert_eq!(code, 0, "{}", command.stderr());
    site.write_on(300);
    assert_eq!(replicators(&[&app]), 1);
    assert_eq!(app.stop(), 0, "{}", app.stderr());
    let (here, there) = (Contents::of(site.database()), site.backup_of(site.database()));
    assert_eq!(there.difference(&here), None);
    let by_hand = Connection::open(site.database()).unwrap().query_row("SELECT id FROM by_hand", (), |row| row.get::<_, i64>(0));
    assert_eq!(by_hand, Ok(7));
}

fn waiting_starts_the_app_only_when_the_other_has_left(line: Line) {
    let site = Site::new(line);
    let mut first = site.writing("--every 1000").start();
    first.ready();
    site.write_on(100);
    let mut new = other(&site).env("LITESTREAM_ENTRY_LOCK", "wait").start();
    eventually("it waits", PATIENCE, || when(new.stderr().contains("waiting for it to leave")));
    site.write_on(1000);
    assert_eq!(rows_of_other(&site), 0, "its app has not started");
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    other_writes_on(&site);
    assert_eq!(new.stop(), 0, "{}", new.stderr());
    assert_eq!(site.backup_of(site.database()).difference(&Contents::of(site.database())), None);
    // A stop while it waits ends it.
    let mut first = site.writing("--every 1000").start();
    first.ready();
    let mut waiting = other(&site).env("LITESTREAM_ENTRY_LOCK", "wait").start();
    eventually("it waits", PATIENCE, || when(waiting.stderr().contains("waiting for it to leave")));
    assert_eq!(waiting.stop(), 143);
    assert_eq!(first.stop(), 0, "{}", first.stderr());
}

fn refused_beside_another_and_off_does_not_look(line: Line) {
    let site = Site::new(line);
    let mut first = site.writing("--every 1000").start();
    first.ready();
    let ran = site.path("ran");
    let app = format!("echo ran > {}", ran.display());
    let (code, refused) = second(&site).env("LITESTREAM_ENTRY_LOCK", "refuse").shell(&app).run();
    assert!(code == 71 && refused.stderr().contains("stop that one first"), "{code}: {}", refused.stderr());
    assert!(!ran.exists());
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    let (code, _) = second(&site).env("LITESTREAM_ENTRY_LOCK", "off").shell(&app).run();
    assert_eq!(code, 0);
    assert!(fs::exists(&ran).unwrap());
}
