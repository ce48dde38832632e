//! Nothing is uploaded without the lock, nor before it is decided that a database is the one to go on with: two containers on one
//! volume, volumes that come back, boots that are stopped. What is in the replica is asked of a bare Litestream.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::container::{Container, Recipe};
use crate::support::contents::Contents;
use crate::support::process;
use crate::support::s3::Server;
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, namespaces, when};

both_lines!(
    an_old_volume_on_two_containers_is_replicated_by_neither,
    a_take_over_of_a_volume_that_is_behind_stops_the_app_and_leaves_the_backup,
    a_take_over_replicates_at_once,
    two_that_end_at_the_same_time_leave_nothing_unsaved_and_unsaid,
    a_standby_waits_until_the_holder_has_decided,
    a_standby_beside_a_sidecar_starts_and_its_first_database_is_saved,
    a_boot_that_is_stopped_saves_what_a_killed_life_left_or_says_that_it_did_not,
    an_undecided_boot_uploads_nothing_and_says_so,
    a_replica_that_answers_late_with_something_newer_stops_the_app,
    a_worker_that_is_killed_is_started_again,
    a_file_that_somebody_has_open_is_not_replaced,
    a_single_pass_by_hand_asks_before_it_uploads,
);

/// Every file of a folder with its size and time: what changes when anything is uploaded.
fn uploads(folder: &Path) -> Vec<(String, u64, SystemTime)> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                all.push((entry.path().display().to_string(), meta.len(), meta.modified().unwrap()));
            }
        }
    }
    all.sort();
    all
}

fn copy_folder(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

/// A life of the writer up to so many more rows, and a clean end.
#[track_caller]
fn live(site: &Site, rows: i64) {
    let mut container = site.writing("--every 1000").start();
    container.ready();
    site.write_on(rows);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}

/// A life that is killed with rows that have not reached the replica: it writes them at once, and lives less than a second.
#[track_caller]
fn leave_unsaved(site: &Site) {
    let before = site.acknowledged();
    let mut killed = site.writing("--burst 200:60000").start();
    eventually("all of them", PATIENCE, || when(site.acknowledged() >= before + 200));
    killed.kill();
}

/// The volume as it is now, to come back later: the place where it is kept.
fn keep_volume(site: &Site) -> std::path::PathBuf {
    let kept = site.path("kept");
    copy_folder(&site.path("data"), &kept);
    kept
}

fn bring_back_volume(site: &Site, kept: &Path) {
    fs::remove_dir_all(site.path("data")).unwrap();
    copy_folder(kept, &site.path("data"));
    let _ = fs::remove_file(site.path("ack"));
}

fn second(site: &Site) -> Recipe {
    site.recipe().env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("run2"))
}

/// Another app on the same volume: rows in a table of its own until TERM.
fn other(site: &Site) -> Recipe {
    let script = "
import os, signal, sqlite3, sys, time
# An exception that a handler raises may come where Python ignores it, as in the end of a file.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
c = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
c.execute('PRAGMA journal_mode=wal')
c.execute('CREATE TABLE IF NOT EXISTS other(id INTEGER PRIMARY KEY, body TEXT)')
while True:
    c.execute('INSERT INTO other(body) VALUES (hex(randomblob(50)))')
    open(sys.argv[2], 'w').write('ran')
    time.sleep(0.002)
";
    second(site).app([
        "/usr/bin/python3".as_ref(),
        "-c".as_ref(),
        script.as_ref(),
        site.database().as_os_str(),
        site.path("other").as_os_str(),
    ])
}

#[track_caller]
fn other_runs(site: &Site, container: &Container) {
    eventually(format!("the other app runs:\n{}", container.stderr()), PATIENCE, || when(site.path("other").exists()));
}

/// Rows of the other app that a bare Litestream restores.
fn others_backed_up(site: &Site) -> i64 {
    let (output, _scratch, copy) = site.try_restore(site.database());
    if !output.status.success() || !copy.exists() {
        return 0;
    }
    let connection = rusqlite::Connection::open(&copy).unwrap();
    connection.query_row("SELECT count(*) FROM other", (), |row| row.get(0)).unwrap_or_default()
}

/// The worker of this name in a container.
#[track_caller]
fn worker(container: &Container, word: &str) -> i32 {
    eventually(word, PATIENCE, || {
        container.processes().into_iter().find(|p| p.arguments.iter().any(|a| a == word.as_bytes())).map(|p| p.pid)
    })
}

fn an_old_volume_on_two_containers_is_replicated_by_neither(line: Line) {
    let site = Site::new(line);
    live(&site, 100);
    let kept = keep_volume(&site);
    live(&site, 300);
    let newest = site.backed_up();
    assert!(newest >= 400);
    bring_back_volume(&site, &kept);
    let before = uploads(&site.replica());
    let mut first = site.writing("--every 1000").start();
    let mut second = other(&site).start();
    let codes = (first.wait(PATIENCE), second.wait(PATIENCE));
    assert_eq!(codes, (65, 65), "{}\n{}", first.stderr(), second.stderr());
    assert!(second.stderr().contains("LITESTREAM_ENTRY_STALE=restore") && second.stderr().contains("LITESTREAM_ENTRY_STALE=keep"));
    assert_eq!(uploads(&site.replica()), before);
    assert_eq!(site.backed_up(), newest);
    assert!(!site.path("other").exists(), "its app never ran");
}

fn a_take_over_of_a_volume_that_is_behind_stops_the_app_and_leaves_the_backup(line: Line) {
    let site = Site::new(line);
    let mut first = site.writing("--every 1000").start();
    first.ready();
    site.write_on(200);
    let mut standby = other(&site).start();
    other_runs(&site, &standby);
    // The holder dies while nobody looks, and another host goes on from the same replica.
    process::send(standby.pid1(), Signal::SIGSTOP);
    first.kill();
    let elsewhere = TempDir::with_prefix_in("elsewhere-", site.path("")).unwrap();
    let database = elsewhere.path().join("app.db");
    let words = [
        "--db".into(),
        database.clone().into_os_string(),
        "--rows".into(),
        "300".into(),
        "--every".into(),
        "500".into(),
        "--live".into(),
        "2500".into(),
    ];
    let app = std::iter::once(crate::support::writer().into_os_string()).chain(words);
    let host = site.recipe().env("DATABASE_PATH", &database).env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("run3")).app(app);
    let (code, host) = host.run();
    assert_eq!(code, 0, "{}", host.stderr());
    let confirmed = Contents::of(&database);
    let before = uploads(&site.replica());
    process::send(standby.pid1(), Signal::SIGCONT);
    assert_eq!(standby.wait(PATIENCE), 65, "{}", standby.stderr());
    assert!(standby.stderr().contains("stopping the app") && standby.stderr().contains("NOT SAVED: default"), "{}", standby.stderr());
    assert_eq!(uploads(&site.replica()), before);
    assert_eq!(site.backup_of(site.database()).difference(&confirmed), None);
}

fn a_take_over_replicates_at_once(line: Line) {
    let site = Site::new(line);
    let mut first = site.writing("--every 1000").start();
    first.ready();
    site.write_on(200);
    let mut new = other(&site).start();
    other_runs(&site, &new);
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    let before = others_backed_up(&site);
    eventually("what it writes now reaches the replica while it lives", PATIENCE, || when(others_backed_up(&site) > before + 50));
    new.kill();
    let here = Contents::of(site.database());
    assert!(others_backed_up(&site) > before + 50, "and stays there");
    // The next one finds all of it.
    let mut next = site.writing("--every 1000").start();
    next.ready();
    assert_eq!(next.stop(), 0, "{}", next.stderr());
    let there = site.backup_of(site.database());
    assert_eq!(Contents::of(site.database()).difference(&there), None);
    assert!(here.last() <= there.last());
}

/// The one that stands by leaves its last writes to the holder, which may be past its last sync.
fn two_that_end_at_the_same_time_leave_nothing_unsaved_and_unsaid(line: Line) {
    for delay in [0, 20, 40, 60, 90, 120, 160, 250] {
        let site = Site::new(line);
        let mut first = site.writing("--every 1000").start();
        first.ready();
        site.write_on(200);
        let mut standby = other(&site).start();
        other_runs(&site, &standby);
        first.signal(Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(delay));
        standby.signal(Signal::SIGTERM);
        let codes = [first.wait(PATIENCE), standby.wait(PATIENCE)];
        let said = format!("{}\n{}", first.stderr(), standby.stderr());
        // On a machine that is busy 0.3's pass may not get past what the other one writes, and says so.
        if codes == [0, 0] {
            let difference = Contents::of(site.database()).difference(&site.backup_of(site.database()));
            assert_eq!(difference, None, "{delay} ms: {said}");
        } else {
            assert!(codes.iter().all(|code| [0, 74].contains(code)) && said.contains("NOT SAVED"), "{codes:?}: {said}");
        }
    }
}

fn a_standby_waits_until_the_holder_has_decided(line: Line) {
    let site = Site::new(line);
    live(&site, 100);
    lose(site.database());
    let gate = site.path("gate");
    // A Litestream that restores only when it may.
    let slow = site.path("litestream");
    let real = site.line.binary();
    let script = format!(
        "#!/bin/sh\ncase $1 in restore) while [ ! -e {} ]; do sleep 0.05; done;; esac\nexec {} \"$@\"\n",
        gate.display(),
        real.display()
    );
    fs::write(&slow, script).unwrap();
    fs::set_permissions(&slow, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut holder = site.writing("--every 1000").env("LITESTREAM_BIN", &slow).start();
    holder.running();
    worker(&holder, "__prepare");
    let mut standby = other(&site).start();
    eventually("it stands by", PATIENCE, || when(standby.stderr().contains("standing by")));
    let before = uploads(&site.replica());
    // Whatever it is asked meanwhile uploads nothing.
    for words in [&["resnapshot", "default"][..], &["sync", "--timeout", "1s", "default"]] {
        let output = standby.exec(words);
        assert!(!output.status.success(), "{words:?}");
    }
    assert!(!site.path("other").exists(), "nobody has decided about the database");
    assert_eq!(standby.stop(), 143, "{}", standby.stderr());
    assert_eq!(uploads(&site.replica()), before);
    let mut standby = other(&site).start();
    fs::write(&gate, "").unwrap();
    holder.ready();
    other_runs(&site, &standby);
    assert_eq!(standby.stop(), 0, "{}", standby.stderr());
    site.write_on(100);
    assert_eq!(holder.stop(), 0, "{}", holder.stderr());
    assert_eq!(Contents::of(site.database()).difference(&site.backup_of(site.database())), None);
}

fn a_standby_beside_a_sidecar_starts_and_its_first_database_is_saved(line: Line) {
    let site = Site::new(line);
    // A sidecar has no app, and there is no database yet.
    let mut sidecar = second(&site).arguments(["replicate"]).start();
    sidecar.running_litestream();
    let mut app = site.writing("--every 1000").start();
    app.ready();
    site.write_on(200);
    assert_eq!(app.stop(), 0, "{}", app.stderr());
    assert_eq!(sidecar.stop(), 0, "{}", sidecar.stderr());
    site.assert_saved();
}

fn a_boot_that_is_stopped_saves_what_a_killed_life_left_or_says_that_it_did_not(line: Line) {
    for delay in [0, 30, 60, 100, 150, 300, 600] {
        let site = Site::new(line);
        live(&site, 50);
        leave_unsaved(&site);
        let mut stopped = site.writing("--every 100000").start();
        stopped.running();
        std::thread::sleep(Duration::from_millis(delay));
        let code = stopped.stop();
        let stderr = stopped.stderr();
        assert!(matches!(code, 0 | 143), "{delay} ms: {code}\n{stderr}");
        if !stderr.contains("NOT SAVED") {
            let difference = Contents::of(site.database()).difference(&site.backup_of(site.database()));
            assert_eq!(difference, None, "{delay} ms: {code}\n{stderr}");
        }
    }
}

fn an_undecided_boot_uploads_nothing_and_says_so(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "undecided");
    live(&site, 100);
    leave_unsaved(&site);
    server.freeze();
    let mut stopped = site.writing("--every 1000").start();
    stopped.running();
    worker(&stopped, "__prepare");
    stopped.signal(Signal::SIGTERM);
    let code = stopped.wait(PATIENCE);
    server.thaw();
    let stderr = stopped.stderr();
    assert!(code != 0 && stderr.contains("NOT SAVED: default"), "{code}\n{stderr}");
    // Nothing is lost: the next one saves it.
    live(&site, 50);
    site.assert_saved();
}

fn a_replica_that_answers_late_with_something_newer_stops_the_app(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "late");
    live(&site, 100);
    let kept = keep_volume(&site);
    live(&site, 200);
    let newest = site.backed_up();
    bring_back_volume(&site, &kept);
    server.freeze();
    // The database is here, so that the app may work.
    let mut old = site.writing("--every 1000").start();
    old.ready();
    site.write_on(50);
    server.thaw();
    assert_eq!(old.wait(PATIENCE), 65, "{}", old.stderr());
    assert!(old.stderr().contains("is behind its replica") && old.stderr().contains("NOT SAVED"), "{}", old.stderr());
    assert_eq!(site.backed_up(), newest);
    // And where it has nothing newer, replication begins.
    bring_back_volume(&site, &kept);
    assert_eq!(site.recipe().arguments(["restore", "default"]).run().0, 0);
    server.freeze();
    let mut late = site.writing("--every 1000").start();
    late.ready();
    site.write_on(50);
    server.thaw();
    let target = site.acknowledged();
    eventually("it reaches the replica", PATIENCE, || when(site.backed_up() >= target));
    assert_eq!(late.stop(), 0, "{}", late.stderr());
    site.assert_saved();
}

fn a_worker_that_is_killed_is_started_again(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "killed-worker");
    live(&site, 200);
    // In a restore.
    lose(site.database());
    server.freeze();
    let mut container = site.writing("--every 1000").start();
    container.running();
    process::send(worker(&container, "__prepare"), Signal::SIGKILL);
    server.thaw();
    container.ready();
    site.write_on(100);
    // And in the last sync.
    server.freeze();
    container.without_reserve();
    container.signal(Signal::SIGTERM);
    process::send(worker(&container, "__flush"), Signal::SIGKILL);
    server.thaw();
    assert_eq!(container.wait(PATIENCE), 0, "{}", container.stderr());
    assert!(container.stderr().contains("the worker of the last sync ended"), "{}", container.stderr());
    site.assert_saved();
}

fn a_file_that_somebody_has_open_is_not_replaced(line: Line) {
    let site = Site::new(line);
    live(&site, 100);
    let kept = keep_volume(&site);
    live(&site, 100);
    bring_back_volume(&site, &kept);
    for mode in ["wal", "delete"] {
        let script = format!(
            "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],isolation_level=None); c.execute('PRAGMA journal_mode={mode}').fetchall(); c.execute('BEGIN IMMEDIATE') if '{mode}'=='delete' else c.execute('SELECT * FROM t').fetchall(); open(sys.argv[2],'w').write('x'); sys.stdin.read()"
        );
        let _ = fs::remove_file(site.path("open"));
        let mut open = std::process::Command::new("/usr/bin/python3")
            .args(["-c", &script])
            .args([site.database(), &site.path("open")])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        eventually("it is open", PATIENCE, || when(site.path("open").exists()));
        let (code, refused) = site.recipe().env("LITESTREAM_ENTRY_STALE", "restore").shell("true").run();
        assert!(code == 71 && refused.stderr().contains("another process has it open"), "{mode}: {code}\n{}", refused.stderr());
        drop(open.stdin.take());
        open.wait().unwrap();
    }
    assert_eq!(site.recipe().env("LITESTREAM_ENTRY_STALE", "restore").shell("true").run().0, 0, "nobody has it open any more");
}

fn a_single_pass_by_hand_asks_before_it_uploads(line: Line) {
    if !namespaces() || line == Line::V03 {
        return;
    }
    let site = Site::new(line);
    live(&site, 100);
    let kept = keep_volume(&site);
    live(&site, 100);
    let newest = site.backed_up();
    bring_back_volume(&site, &kept);
    let before = uploads(&site.replica());
    for flag in [&["-once"][..], &["-once", "-force-snapshot"]] {
        let words = ["replicate"].into_iter().chain(flag.iter().copied());
        let (code, refused) = site.recipe().arguments(words).run();
        assert!(code == 65 && refused.stderr().contains("LITESTREAM_ENTRY_STALE"), "{code}\n{}", refused.stderr());
    }
    assert_eq!(uploads(&site.replica()), before);
    assert_eq!(site.backed_up(), newest);
}
