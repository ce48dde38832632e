//! What a boot and `restore` bring back: never an old state over a new one, never a part of one, and nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::container::{Container, Recipe};
use crate::support::contents::Contents;
use crate::support::process;
use crate::support::pty::Terminal;
use crate::support::s3::Server;
use crate::support::site::{Mounted, Site, lose};
use crate::support::slow::SlowLine;
use crate::support::{Line, PATIENCE, eventually, fill, when};

both_lines!(
    an_old_volume_is_refused_and_both_ways_on_work,
    a_volume_behind_another_host_is_refused_however_short_its_pause_was,
    a_database_without_a_position_is_compared_with_its_backup,
    a_restart_beside_a_replica_in_a_folder_runs_no_litestream_but_the_one_that_replicates,
    a_crash_right_after_a_restore_does_not_make_it_stale,
    a_boot_goes_back_in_time_once,
    a_damaged_backup_is_refused_or_stepped_back_from,
    a_dry_run_says_what_and_changes_nothing,
    a_database_with_a_long_name_comes_back_or_is_refused_at_its_first_start,
    what_is_replaced_is_kept_unless_it_is_to_be_discarded,
    a_url_is_restored_wherever_it_is_wanted,
    term_during_a_restore_ends_it_at_once_and_leaves_nothing,
    progress_is_said_with_percentage_and_rate,
    on_a_terminal_each_restore_has_a_bar,
    a_full_disk_is_named_with_what_is_needed_and_nothing_changes if root,
    a_directory_that_cannot_be_written_is_refused_before_anything_is_fetched if root,
);

only_0_3!(
    that_0_3_cannot_see_a_newer_backup_of_0_5_in_a_bucket_is_said,
    which_of_several_generations_is_restored_is_said,
    a_clock_that_was_set_back_makes_no_old_generation_the_newest,
);

/// One life of the writer until so many more rows are acknowledged.
#[track_caller]
fn live(site: &Site, rows: i64) -> Contents {
    let mut container = site.writing("--every 500").start();
    container.ready();
    site.write_on(rows);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    Contents::of(site.database())
}

fn noting(site: &Site) -> Recipe {
    let _ = fs::remove_file(site.path("ran"));
    site.recipe().shell(&format!("echo ran > {}", site.path("ran").display()))
}

#[track_caller]
fn boots(site: &Site, recipe: Recipe) -> String {
    let (code, container) = recipe.run();
    assert_eq!(code, 0, "{}", container.stderr());
    assert!(site.path("ran").exists());
    container.stderr()
}

#[track_caller]
fn refused(site: &Site, recipe: Recipe, with: i32) -> String {
    let (code, container) = recipe.run();
    assert_eq!(code, with, "{}", container.stderr());
    assert!(!site.path("ran").exists(), "the app never ran");
    container.stderr()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The database that was moved aside.
#[track_caller]
fn aside(site: &Site) -> PathBuf {
    let folder = site.path("data");
    let names = names(&folder);
    let found: Vec<&String> =
        names.iter().filter(|n| n.starts_with("app.db.aside-") && !n.ends_with("-wal") && !n.ends_with("-shm")).collect();
    assert_eq!(found.len(), 1, "{names:?}");
    folder.join(found[0])
}

fn an_old_volume_is_refused_and_both_ways_on_work(line: Line) {
    let site = Site::new(line);
    let old = live(&site, 300);
    copy(&site.path("data"), &site.path("old"));
    let new = live(&site, 300);
    let come_back = || {
        fs::remove_dir_all(site.path("data")).unwrap();
        copy(&site.path("old"), &site.path("data"));
    };
    come_back();
    let before = names(&site.path("data"));
    let said = refused(&site, noting(&site), 65);
    let says = ["default: ", "behind its replica", "LITESTREAM_ENTRY_STALE=restore", "LITESTREAM_ENTRY_STALE=keep"];
    assert!(says.iter().all(|text| said.contains(text)), "{said}");
    assert_eq!(Contents::of(site.database()).difference(&old), None, "the file is as it was");
    assert_eq!(names(&site.path("data")), before);
    assert_eq!(site.backup_of(site.database()).difference(&new), None, "so is the backup");

    boots(&site, noting(&site).env("LITESTREAM_ENTRY_STALE", "restore"));
    assert_eq!(Contents::of(site.database()).difference(&new), None);
    assert_eq!(Contents::of(&aside(&site)).difference(&old), None, "the old one is kept, with its WAL");

    come_back();
    let mut container = site.writing("--every 500").env("LITESTREAM_ENTRY_STALE", "keep").start();
    let _ = fs::remove_file(site.path("ack"));
    container.ready();
    site.write_on(50);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert!(Contents::of(site.database()).last() > old.last());
    // From here on it is the one that counts, in the backup too.
    site.assert_saved();
    boots(&site, noting(&site));
}

fn a_volume_behind_another_host_is_refused_however_short_its_pause_was(line: Line) {
    let site = Site::new(line);
    live(&site, 300);
    fs::rename(site.path("data"), site.path("first-host")).unwrap();
    fs::create_dir(site.path("data")).unwrap();
    live(&site, 300);
    fs::rename(site.path("data"), site.path("second-host")).unwrap();
    fs::rename(site.path("first-host"), site.path("data")).unwrap();
    let said = refused(&site, noting(&site), 65);
    assert!(said.contains("behind its replica"), "{said}");
    // A replica that does not answer keeps nobody from working.
    let moved = site.path("replica-elsewhere");
    fs::rename(site.replica(), &moved).unwrap();
    fs::write(site.replica(), "not a directory").unwrap();
    let (_, container) = noting(&site).run();
    assert!(container.stderr().contains("whether it is behind its replica is not known"), "{}", container.stderr());
    assert!(site.path("ran").exists());
}

/// As a bare `litestream restore` leaves it: the file alone.
fn a_database_without_a_position_is_compared_with_its_backup(line: Line) {
    let site = Site::new(line);
    let before = live(&site, 300);
    let (output, _scratch, restored) = site.try_restore(site.database());
    assert!(output.status.success());
    lose(site.database());
    fs::copy(&restored, site.database()).unwrap();
    boots(&site, noting(&site));
    assert_eq!(Contents::of(site.database()).difference(&before), None);
    // Another database altogether: one that was built into the image, say.
    lose(site.database());
    fs::remove_dir_all(site.path("data/.app.db-litestream")).unwrap();
    rusqlite::Connection::open(site.database())
        .unwrap()
        .execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES (1)")
        .unwrap();
    let said = refused(&site, noting(&site), 65);
    assert!(said.contains("is not what its replica") && said.contains("LITESTREAM_ENTRY_STALE=keep"), "{said}");
    boots(&site, noting(&site).env("LITESTREAM_ENTRY_STALE", "restore"));
    assert_eq!(Contents::of(site.database()).difference(&before), None);
}

fn a_restart_beside_a_replica_in_a_folder_runs_no_litestream_but_the_one_that_replicates(line: Line) {
    let site = Site::new(line).with_two_databases();
    let (wrapper, log) = (site.path("litestream"), site.path("calls"));
    fs::write(&wrapper, format!("#!/bin/sh\necho \"$1\" >> {}\nexec {} \"$@\"\n", log.display(), line.binary().display())).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let calls = || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        // A script's version is asked for; a binary's is read.
        said.lines().filter(|l| *l != "version").map(str::to_owned).collect::<Vec<_>>()
    };
    let begin = || {
        let _ = (fs::remove_file(&log), fs::remove_file(site.ready_file()));
        let mut container = site.writing("--every 2000").env("LITESTREAM_BIN", &wrapper).start();
        container.ready();
        container
    };
    let mut first = begin();
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    let mut second = begin();
    assert_eq!(calls(), ["replicate"], "after a clean end");
    second.kill();
    let mut third = begin();
    assert_eq!(calls(), ["replicate"], "after a crash");
    assert_eq!(third.stop(), 0, "{}", third.stderr());
    site.assert_saved();
}

/// Litestream has no position of its own yet, and the app has written already.
fn a_crash_right_after_a_restore_does_not_make_it_stale(line: Line) {
    let site = Site::new(line);
    live(&site, 300);
    lose(site.database());
    let mut container = site.writing("--every 0").start();
    container.ready();
    container.kill();
    let here = Contents::of(site.database());
    boots(&site, noting(&site));
    assert_eq!(Contents::of(site.database()).difference(&here), None);
}

fn a_boot_goes_back_in_time_once(line: Line) {
    let site = Site::new(line);
    let then = live(&site, 300);
    // Times are whole seconds on 0.3.
    let (at, written) = eventually("a second later", PATIENCE, || {
        let dry = site.recipe().arguments(["restore", "--dry-run", "--json", "default"]).run();
        let text = String::from_utf8_lossy(&dry.1.stdout()).into_owned();
        let created = text.split_once("\"created\":\"")?.1.split_once('"')?.0.to_owned();
        let now = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap().stdout;
        let now = String::from_utf8_lossy(&now).trim().to_owned();
        (now > created).then_some((now, created))
    });
    eventually("the next second", PATIENCE, || {
        let now = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap().stdout;
        when(String::from_utf8_lossy(&now).trim() > at.as_str())
    });
    let later = live(&site, 300);
    let back = |site: &Site| site.writing("--every 500 --rows 50").env("LITESTREAM_ENTRY_RESTORE_TIMESTAMP", &at);
    let gone_back = |site: &Site, recipe: Recipe| {
        let _ = fs::remove_file(site.path("ack"));
        let mut container = recipe.start();
        container.ready();
        eventually("its rows", PATIENCE, || when(site.acknowledged() >= 50));
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        (Contents::of(site.database()), container.stderr())
    };
    let (first, said) = gone_back(&site, back(&site));
    assert!(said.contains(&format!("as of {written}, the newest point at or before {at}")), "{said}");
    assert!(first.last() > then.last() && first.last() < later.last(), "{} {} {}", then.last(), first.last(), later.last());
    assert_eq!(Contents::of(&aside(&site)).difference(&later), None, "what was there is kept");
    // Another boot with the variable still set, and one on an empty disk: what was written since is there.
    let (second, said) = gone_back(&site, back(&site));
    assert!(second.last() > first.last() && !said.contains("at or before"), "{said}");
    lose(site.database());
    let (third, said) = gone_back(&site, back(&site));
    assert!(third.last() > second.last(), "{} {}: {said}", second.last(), third.last());
    // Nothing was backed up so early.
    let said = refused(&site, noting(&site).env("LITESTREAM_ENTRY_RESTORE_TIMESTAMP", "2020-01-01T00:00:00Z"), 66);
    assert!(said.contains("no backup as it was at 2020-01-01T00:00:00Z"), "{said}");
    let said = refused(&site, noting(&site).env("LITESTREAM_ENTRY_RESTORE_TIMESTAMP", "2999-01-01T00:00:00Z"), 78);
    assert!(said.contains("still to come"), "{said}");
    assert_eq!(Contents::of(site.database()).difference(&third), None);
}

/// The files of a file replica, the oldest first.
fn backup_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort_by_key(|f| fs::metadata(f).unwrap().modified().unwrap());
    files
}

fn a_damaged_backup_is_refused_or_stepped_back_from(line: Line) {
    let site = Site::new(line);
    // Over several seconds: 0.3 knows no other points.
    let mut container = site.writing("--every 2000").start();
    container.ready();
    for _ in 0..4 {
        site.write_on(600);
    }
    // A stop would end with a snapshot of 0.3's.
    let rows = site.acknowledged();
    eventually("the rows are in the backup", PATIENCE, || when(site.backed_up() >= rows));
    container.kill();
    let all = Contents::of(site.database());
    // The newest transaction of 0.5 that no other file has, 0.3's newest part of a WAL.
    let place = if line == Line::V05 { "/ltx/0/" } else { "/wal/" };
    let with_rows = |f: &PathBuf| f.display().to_string().contains(place) && fs::metadata(f).unwrap().len() > 5000;
    let damaged = backup_files(&site.replica()).into_iter().rev().find(with_rows);
    let damaged = damaged.unwrap();
    let bytes = fs::read(&damaged).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    lose(site.database());
    let said = refused(&site, noting(&site), 65);
    assert!(said.contains("damaged") && said.contains("LITESTREAM_ENTRY_RESTORE_LADDER=true"), "{said}");
    assert!(!site.database().exists());
    let said = boots(&site, noting(&site).env("LITESTREAM_ENTRY_RESTORE_LADDER", "true"));
    assert!(said.contains("AS OF 20") && said.contains("LOST"), "{said}");
    let left = Contents::of(site.database());
    assert!(left.last() > 0 && left.last() < all.last(), "{} of {}", left.last(), all.last());
    assert_eq!(names(&site.path("data")).iter().filter(|n| n.contains("restoring")).count(), 0);
    // The backup is whole again: what was damaged is behind a new beginning.
    assert_eq!(site.backup_of(site.database()).difference(&Contents::of(site.database())), None);
    lose(site.database());
    boots(&site, noting(&site));
}

fn a_dry_run_says_what_and_changes_nothing(line: Line) {
    let site = Site::new(line);
    let dry = |recipe: Recipe| recipe.arguments(["restore", "--dry-run", "--all"]).run();
    let (code, container) = dry(site.recipe());
    assert_eq!(code, 66, "{}", container.stderr());
    let before = live(&site, 300);
    for present in [true, false] {
        if !present {
            lose(site.database());
        }
        let files = names(&site.path("data"));
        let (code, container) = dry(site.recipe());
        let said = String::from_utf8_lossy(&container.stdout()).into_owned();
        assert_eq!(code, 0, "{}", container.stderr());
        assert!(["default: would restore file://", "kB in", " files", "Z, ", " s ago"].iter().all(|text| said.contains(text)), "{said}");
        assert_eq!(said.contains("kept aside"), present, "{said}");
        assert_eq!(names(&site.path("data")), files);
    }
    boots(&site, noting(&site));
    assert_eq!(Contents::of(site.database()).difference(&before), None);
}

fn what_is_replaced_is_kept_unless_it_is_to_be_discarded(line: Line) {
    let site = Site::new(line);
    let before = live(&site, 300);
    let restore = |words: &[&str]| {
        let (code, container) = site.recipe().arguments(words).run();
        assert_eq!(code, 0, "{}", container.stderr());
    };
    restore(&["restore", "default"]);
    assert_eq!(Contents::of(&aside(&site)).difference(&before), None);
    restore(&["restore", "--discard", "default"]);
    aside(&site);
    assert_eq!(Contents::of(site.database()).difference(&before), None);
    assert_eq!(names(&site.path("data")).iter().filter(|n| n.contains("-restoring")).count(), 0);
    // The next life knows where it stands.
    boots(&site, noting(&site));
    live(&site, 50);
    site.assert_saved();
}

fn a_url_is_restored_wherever_it_is_wanted(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "by-url");
    let before = live(&site, 300);
    let target = site.path("elsewhere.db");
    let plain = |words: &[&str]| {
        let recipe = site.recipe().without("LITESTREAM_REPLICA_BUCKET").without("LITESTREAM_REPLICA_PATH").without("DATABASE_PATH");
        recipe.arguments(words).run()
    };
    let (code, container) = plain(&["restore", "-o", target.to_str().unwrap(), "s3://test/by-url/app.db"]);
    assert_eq!(code, 0, "{}", container.stderr());
    assert_eq!(Contents::of(&target).difference(&before), None);
    // The same beside the variables of a database, with -o alone missing, and once more where the file is.
    let other = site.path("other.db");
    let (code, container) = site.recipe().arguments(["restore", "-o", other.to_str().unwrap(), "s3://test/by-url/app.db"]).run();
    assert_eq!(code, 0, "{}", container.stderr());
    assert_eq!(Contents::of(&other).difference(&before), None);
    let (code, container) = plain(&["restore", "s3://test/by-url/app.db"]);
    assert!(code == 64 && container.stderr().contains("-o PATH"), "{code} {}", container.stderr());
    let (code, container) = plain(&["restore", "-o", target.to_str().unwrap(), "s3://test/by-url/app.db"]);
    assert!(code == 71 && container.stderr().contains("exists"), "{code} {}", container.stderr());
    let (code, container) = plain(&["restore", "-o", site.path("none.db").to_str().unwrap(), "s3://test/nothing-there"]);
    assert_eq!(code, 66, "{}", container.stderr());
}

/// A backup of some megabytes behind a slow line, and nothing here.
fn behind_a_slow_line(site: &Site, server: &Server, rate: u64) -> SlowLine {
    let mut container = site.recipe().shell(&format!(
        "{} {} 'CREATE TABLE b(id INTEGER PRIMARY KEY, x); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<3000) INSERT INTO b(x) SELECT randomblob(1000) FROM c;'; touch {}; sleep 1000",
        "python3 -c 'import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute(\"pragma journal_mode=wal\"); c.executescript(sys.argv[2])'",
        site.database().display(),
        site.ready_file().display()
    )).start();
    container.ready();
    container.stop();
    lose(site.database());
    SlowLine::to(&server.endpoint(), rate)
}

fn slowly(site: &Site, slow: &SlowLine) -> Recipe {
    noting(site).env("LITESTREAM_REPLICA_ENDPOINT", slow.endpoint())
}

#[track_caller]
fn in_the_middle(container: &Container, slow: &SlowLine) {
    eventually("the middle of the restore", PATIENCE, || when(slow.carried() > 300_000));
    assert!(container.processes().iter().any(|p| p.runs("litestream")));
}

fn term_during_a_restore_ends_it_at_once_and_leaves_nothing(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "slow");
    let slow = behind_a_slow_line(&site, &server, 400_000);
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let carried = slow.carried();
        let mut container = slowly(&site, &slow).start();
        eventually("the middle of the restore", PATIENCE, || when(slow.carried() > carried + 300_000));
        in_the_middle(&container, &slow);
        container.signal(signal);
        let began = std::time::Instant::now();
        assert_eq!(container.wait(PATIENCE), code, "{}", container.stderr());
        println!("{line:?}: {signal} during a restore: ended after {:?}", began.elapsed());
        let left = names(&site.path("data"));
        assert!(left.iter().all(|n| n.starts_with(".app.db-litestream")), "{left:?}");
        assert!(!site.path("ran").exists() && !container.stderr().contains("panicked"));
    }
    // The command, too.
    let words = ["restore", "default"];
    let mut container = site.recipe().env("LITESTREAM_REPLICA_ENDPOINT", slow.endpoint()).arguments(words).start();
    let carried = slow.carried();
    eventually("the middle of the restore", PATIENCE, || when(slow.carried() > carried + 300_000));
    process::send(container.pid1(), Signal::SIGTERM);
    assert_eq!(container.wait(PATIENCE), 143, "{}", container.stderr());
    let left = names(&site.path("data"));
    assert!(left.iter().all(|n| n.starts_with(".app.db-litestream")), "{left:?}");
}

fn progress_is_said_with_percentage_and_rate(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "slow");
    let slow = behind_a_slow_line(&site, &server, 500_000);
    let mut container = slowly(&site, &slow).start();
    eventually("a line with percentage and rate", PATIENCE, || {
        let said = container.stderr();
        let mut lines = said.lines().filter(|l| l.contains("default: restoring, ") && l.contains(" % ("));
        when(lines.any(|line| line.contains("B of ") && line.contains(" MB)") && line.ends_with("B/s")))
    });
    // `docker exec` can see it, too.
    let state = fs::read_to_string(site.path("run/restoring")).unwrap();
    assert!(state.contains("default: restoring, "), "{state}");
    assert_eq!(container.wait(PATIENCE), 0, "{}", container.stderr());
    assert!(site.path("ran").exists() && !site.path("run/restoring").exists());
}

fn on_a_terminal_each_restore_has_a_bar(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "slow");
    let slow = behind_a_slow_line(&site, &server, 800_000);
    let terminal = Terminal::new();
    let mut container = slowly(&site, &slow).start_on(&terminal.line);
    terminal.shows("░ ");
    terminal.shows("█");
    terminal.shows(" %");
    terminal.shows("\u{1b}[1A\u{1b}[J");
    terminal.shows("default: restored ");
    assert_eq!(container.wait(PATIENCE), 0, "{}", terminal.screen());
    // What is said after it stands on a line of its own.
    assert!(terminal.screen().contains("\u{1b}[Jlitestream-entry: "), "{:?}", terminal.screen());
    // One that takes nothing (Ctrl-S) keeps nobody waiting.
    lose(site.database());
    fs::remove_file(site.path("ran")).unwrap();
    let pty = nix::pty::openpty(None, None).unwrap();
    fill(&pty.slave);
    let mut container = slowly(&site, &slow).start_on(&pty.slave);
    assert_eq!(container.wait(PATIENCE), 0);
    assert!(site.path("ran").exists());
}

fn a_full_disk_is_named_with_what_is_needed_and_nothing_changes(line: Line) {
    let site = Site::new(line);
    let before = live(&site, 100);
    copy(&site.path("data"), &site.path("old"));
    live(&site, 8000);
    fs::remove_dir_all(site.path("data")).unwrap();
    fs::create_dir(site.path("data")).unwrap();
    // 0.3's own copy of the WAL is on the old volume, too.
    let _disk = Mounted::new(site.path("data"), if line == Line::V05 { "900k" } else { "1500k" });
    let says = |said: &str| ["no room in ", "B compressed", "B are free", "make room"].iter().all(|text| said.contains(text));
    let said = refused(&site, noting(&site), 71);
    assert!(says(&said), "{said}");
    let left = names(&site.path("data"));
    assert!(left.iter().all(|n| n.starts_with(".app.db-litestream")), "{left:?}");
    // An old volume that is to be replaced: it is not touched before its replacement is whole.
    let old = rusqlite::Connection::open(site.path("old/app.db")).unwrap();
    old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
    drop(old);
    for name in ["app.db", ".app.db-litestream"] {
        copy(&site.path("old").join(name), &site.path("data"));
    }
    let said = refused(&site, noting(&site).env("LITESTREAM_ENTRY_STALE", "restore"), 71);
    assert!(says(&said), "{said}");
    assert!(fs::read(site.database()).unwrap() == fs::read(site.path("old/app.db")).unwrap(), "the old state is untouched");
    assert_eq!(Contents::of(&site.path("old/app.db")).difference(&before), None);
}

fn a_directory_that_cannot_be_written_is_refused_before_anything_is_fetched(line: Line) {
    let site = Site::new(line);
    live(&site, 100);
    lose(site.database());
    for folder in ["data", "."] {
        fs::set_permissions(site.path(folder), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    for folder in ["run", "logs"] {
        let _ = fs::remove_dir_all(site.path(folder));
        fs::create_dir(site.path(folder)).unwrap();
        std::os::unix::fs::chown(site.path(folder), Some(65534), Some(65534)).unwrap();
    }
    // A lock file that is there already and may be opened: it is the restore itself that has to refuse.
    let lock = site.database().with_file_name(".app.db-litestream-entry");
    fs::write(&lock, "").unwrap();
    std::os::unix::fs::chown(&lock, Some(65534), Some(65534)).unwrap();
    let said = refused(&site, noting(&site).of_user(65534), 71);
    assert!(said.contains("data") && said.contains("uid 65534") && !said.contains("restoring"), "{said}");
}

#[test]
fn a_backup_of_0_3_is_taken_over_by_0_5_on_a_kept_volume_and_on_a_new_one() {
    for kept in [true, false] {
        let mut site = Site::new(Line::V03);
        let before = live(&site, 300);
        if !kept {
            lose(site.database());
        }
        site.line = Line::V05;
        let said = boots(&site, noting(&site));
        assert!(kept || said.contains("a backup of Litestream 0.3"), "{said}");
        assert_eq!(Contents::of(site.database()).difference(&before), None, "kept: {kept}");
        live(&site, 300);
        site.assert_saved();
    }
}

#[test]
fn a_folder_with_a_newer_backup_of_0_5_is_not_passed_over_by_0_3() {
    for has_an_older_one in [false, true] {
        let mut site = Site::new(Line::V03);
        if has_an_older_one {
            live(&site, 100);
        }
        site.line = Line::V05;
        live(&site, 100);
        lose(site.database());
        site.line = Line::V03;
        let said = refused(&site, noting(&site), 66);
        assert!(said.contains("a backup of Litestream 0.5") && !site.database().exists(), "{said}");
        assert_eq!(said.contains("restore the older one"), has_an_older_one, "{said}");
        if has_an_older_one {
            // Whoever wants it all the same has it.
            assert_eq!(site.recipe().arguments(["restore", "default"]).run().0, 0);
            boots(&site, noting(&site));
            // And from then on 0.3's is the newer one.
            lose(site.database());
            boots(&site, noting(&site));
        }
    }
}

fn that_0_3_cannot_see_a_newer_backup_of_0_5_in_a_bucket_is_said(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "two-lines");
    for _ in ["a first boot", "a restore"] {
        let said = boots(&site, noting(&site));
        assert!(said.contains("cannot see whether it has one of Litestream 0.5"), "{said}");
        lose(site.database());
    }
}

fn which_of_several_generations_is_restored_is_said(line: Line) {
    let site = Site::new(line);
    live(&site, 100);
    lose(site.database());
    assert!(!boots(&site, noting(&site)).contains("generation"));
    let mut container = site.writing("--every 2000").start();
    container.ready();
    assert!(container.exec(["resnapshot", "default"]).status.success());
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    lose(site.database());
    let said = boots(&site, noting(&site));
    assert!(said.contains("(generation ") && [" of 3)", " of 4)"].iter().any(|of| said.contains(of)), "{said}");
}

/// 0.3 restores what was written last by the storage's times. After a clock that was set back that is an old generation: it is never taken
/// for the newest without a word, and the database that went on after it is never taken for an old one.
fn a_clock_that_was_set_back_makes_no_old_generation_the_newest(line: Line) {
    let site = Site::new(line);
    live(&site, 100);
    let lose_all = || {
        fs::remove_dir_all(site.path("data")).unwrap();
        fs::create_dir(site.path("data")).unwrap();
    };
    lose_all();
    let words = ["-type", "f", "-exec", "touch", "-d", "+1 hour", "{}", "+"];
    assert!(Command::new("find").arg(site.replica()).args(words).status().unwrap().success());
    for _ in 0..2 {
        let mut container = site.writing("--every 2000 --rows 50").start();
        container.ready();
        let rows = site.acknowledged();
        eventually("more rows", PATIENCE, || when(site.acknowledged() > rows));
        assert_eq!(container.stop(), 74, "{}", container.stderr());
        assert!(container.stderr().contains("ahead of this host's clock: set the clock right"), "{}", container.stderr());
    }
    let here = Contents::of(site.database());
    lose_all();
    let (code, container) = noting(&site).run();
    assert_eq!(code, 65, "{}", container.stderr());
    let said = container.stderr();
    let time = said
        .split("LITESTREAM_ENTRY_RESTORE_TIMESTAMP=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or_else(|| panic!("{said}"));
    eventually("that second is over", PATIENCE, || {
        let (_, container) = noting(&site).env("LITESTREAM_ENTRY_RESTORE_TIMESTAMP", time).run();
        when(!container.stderr().contains("still to come"))
    });
    assert_eq!(here.difference(&Contents::of(site.database())), None);
}

/// Whatever can be begun with can be come back to.
fn a_database_with_a_long_name_comes_back_or_is_refused_at_its_first_start(line: Line) {
    let at = |length: usize| {
        let site = Site::new(line);
        let room = length - site.path("data").as_os_str().len() - 3;
        let name = format!("{}/{}/{}", "d".repeat(200), "d".repeat(100), "n".repeat(room - 300));
        (site.with_databases(&[&name]), name)
    };
    for (site, name) in [at(464), (Site::new(line).with_databases(&["n".repeat(208).as_str()]), "n".repeat(208))] {
        let rolls_back = |recipe: Recipe| recipe.env("LITESTREAM_ENTRY_MIGRATE", "true").env("LITESTREAM_ENTRY_MIGRATE_ROLLBACK", "true");
        for _ in ["a first boot", "a migration with a copy"] {
            fs::create_dir_all(site.database().parent().unwrap()).unwrap();
            let mut container = rolls_back(site.writing("--every 2000")).start();
            container.ready();
            site.write_on(50);
            assert_eq!(container.stop(), 0, "{name}: {}", container.stderr());
        }
        let here = Contents::of(site.database());
        fs::remove_dir_all(site.path("data")).unwrap();
        fs::create_dir_all(site.database().parent().unwrap()).unwrap();
        boots(&site, rolls_back(noting(&site)));
        assert_eq!(here.difference(&Contents::of(site.database())), None, "{name}");
    }
    for (site, name) in [at(465), (Site::new(line).with_databases(&["n".repeat(209).as_str()]), "n".repeat(209))] {
        fs::create_dir_all(site.database().parent().unwrap()).unwrap();
        let said = refused(&site, noting(&site), 78);
        assert!(said.contains("shorten it") && said.contains("DATABASE_PATH"), "{name}: {said}");
    }
}
