//! `verify` where not everything is as usual: beside another user's app, where little can be written, interrupted, killed, and
//! on a larger database.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::container::{Container, said};
use crate::support::process::{self, Process};
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, entry, eventually, root, when};

both_lines!(
    root_leaves_no_file_of_its_own,
    root_without_chown_leaves_none_either,
    a_read_only_root,
    a_read_only_directory,
    an_interrupted_check,
    a_killed_check,
    memory_does_not_grow_with_the_database,
);

const USER: u32 = 4711;

const BOTH: [&[&str]; 2] = [&["verify", "default"], &["verify", "--read-only", "default"]];

fn everything_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { [vec![path.clone()], everything_below(&path)].concat() } else { vec![path] }).collect()
}

/// A site that is another user's, with the directory of its data.
fn of_user(line: Line) -> Site {
    let site = Site::new(line);
    let home = site.path(".");
    fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
    for path in [home.clone()].into_iter().chain(everything_below(&home)) {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    site
}

#[track_caller]
fn assert_nothing_is_roots(site: &Site) {
    for path in everything_below(&site.path("data")) {
        let meta = fs::symlink_metadata(&path);
        assert!(meta.is_err() || meta.is_ok_and(|meta| meta.uid() == USER && meta.gid() == USER), "{} is not the app's", path.display());
    }
}

fn start_as_user(site: &Site) -> Container {
    let mut container = site.writing("--every 5000").of_user(USER).start();
    container.ready();
    container
}

fn root_leaves_no_file_of_its_own(line: Line) {
    if root() {
        beside_another_users_app(line, &[]);
    }
}

/// SQLite itself gives the files that root makes beside a database to its owner, but cannot without this capability.
fn root_without_chown_leaves_none_either(line: Line) {
    if root() {
        beside_another_users_app(line, &["setpriv", "--bounding-set=-chown", "--inh-caps=-chown"]);
    }
}

fn beside_another_users_app(line: Line, root: &[&str]) {
    let site = of_user(line);
    let mut container = start_as_user(&site);
    for words in BOTH {
        let program = entry();
        let words: Vec<&OsStr> = root.iter().map(OsStr::new).chain([program.as_os_str()]).chain(words.iter().map(OsStr::new)).collect();
        let status = container.exec_program(&words).wait().expect("it ran");
        assert!(status.success(), "{words:?}: {status}");
        assert_nothing_is_roots(&site);
    }
    site.write_on(10);
    assert_eq!(container.stop(), 0, "{}", container.stderr());

    // The app is gone, and so is its WAL: the check is the only one that opens the database.
    rusqlite::Connection::open(site.database()).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
    let check = site.recipe().arguments(["verify", "--timeout", "60s", "default"]).behind(root).start();
    let uid = |name: &str| Some(fs::metadata(site.path("data").join(name)).ok()?.uid());
    let files = eventually("the database is open", PATIENCE, || Some([uid("app.db-wal")?, uid("app.db-shm")?]));
    assert_eq!(files, [USER; 2], "while it is open");
    // Killed, it leaves them where they are.
    drop(check);
    for path in everything_below(&site.path("data")).iter().filter(|path| !path.to_string_lossy().contains("-verify-")) {
        assert_eq!(fs::metadata(path).map_or(USER, |meta| meta.uid()), USER, "{}", path.display());
    }
    let (code, ended) = site.recipe().arguments(["verify", "--timeout", "1s", "default"]).behind(root).run();
    assert_eq!(code, 65, "nobody replicates: {}", ended.stderr());
    assert_nothing_is_roots(&site);
    let mut container = start_as_user(&site);
    site.write_on(10);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// What is written goes beside the database and into `/run`.
fn a_read_only_root(line: Line) {
    if !root() {
        return;
    }
    let site = Site::new(line);
    let recipe = site.writing("--every 5000").without("LITESTREAM_ENTRY_RUNTIME_DIR");
    let mut container = recipe.with_read_only(Path::new("/")).start();
    container.ready();
    for words in BOTH {
        let output = container.exec(words);
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// `--read-only` needs no more than a directory for temporary files; without one it says what to do, and so does a check that has to
/// write.
fn a_read_only_directory(line: Line) {
    if !root() {
        return;
    }
    let site = Site::new(line);
    fs::create_dir(site.path("tmp")).unwrap();
    let data = site.path("data");
    let verify = |words: &[&str], tmp: &Path| {
        let (code, ended) = site.recipe().env("TMPDIR", tmp).arguments(words).with_read_only(&data).run();
        assert_eq!(everything_below(&site.path("tmp")), Vec::<PathBuf>::new(), "{words:?}");
        (code, ended.stderr())
    };
    let proved = |what: &str| {
        let (code, said) = verify(&["verify", "--read-only", "default"], &site.path("tmp"));
        assert_eq!(code, 0, "{what}: {said}");
    };
    let mut container = site.writing("--every 5000").start();
    container.ready();
    site.write_on(20);
    proved("beside the app, in another container");
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    proved("the WAL lies there, and perhaps its index");
    let _ = fs::remove_file(site.path("data/app.db-shm"));
    proved("without its index");
    rusqlite::Connection::open(site.database()).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
    proved("without a WAL");

    let (code, said) = verify(&["verify", "--read-only", "default"], Path::new("/proc"));
    assert!(code == 71 && said.contains("set TMPDIR to a directory with room for three copies"), "{code}: {said}");
    let (code, said) = verify(&["verify", "default"], &site.path("tmp"));
    assert!(code == 71 && said.contains("make it writable, or prove it with --read-only"), "{code}: {said}");
}

/// The real Litestream, but for a restore that never ends.
fn endless_restore(site: &Site) -> PathBuf {
    let script = site.path("litestream");
    let text = format!("#!/bin/sh\n[ \"$1\" = restore ] && exec sleep 1000\nexec {} \"$@\"\n", site.line.binary().display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// A database with a backup.
fn filled(line: Line) -> Site {
    let site = Site::new(line);
    let mut container = site.writing("--every 500 --rows 200").start();
    container.ready();
    eventually("all rows", PATIENCE, || when(site.acknowledged() == 200));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site
}

/// A check in the middle of a restore, in a container with nothing else: all that is in it.
fn restoring(site: &Site, words: &[&str]) -> (Container, std::process::Child, Process) {
    let container = site.recipe().env("LITESTREAM_BIN", endless_restore(site)).app(["sleep", "1000"]).unwrapped().start();
    container.pid1();
    let command: Vec<_> = [entry().into_os_string()].into_iter().chain(words.iter().map(Into::into)).collect();
    let child = container.exec_program(&command);
    // Who enters a container is not below its PID 1, unless orphaned.
    let check = eventually("a restore", PATIENCE, || {
        let all = process::descendants(i32::try_from(child.id()).expect("a pid"));
        let restore = all.iter().find(|process| process.runs("sleep"))?;
        all.iter().find(|process| process.pid == restore.parent).cloned()
    });
    (container, child, check)
}

/// Its PID 1 reaps nobody.
fn alive(container: &Container) -> Vec<Process> {
    container.processes().into_iter().filter(|process| !process.is_zombie()).collect()
}

fn scratch(site: &Site) -> Vec<PathBuf> {
    everything_below(&site.path("data")).into_iter().filter(|path| path.to_string_lossy().contains("-verify-")).collect()
}

fn rows_of_checks(site: &Site) -> i64 {
    let connection = rusqlite::Connection::open(site.database()).unwrap();
    connection.query_row("SELECT count(*) FROM _litestream_verification", (), |row| row.get(0)).unwrap_or(0)
}

fn an_interrupted_check(line: Line) {
    let site = filled(line);
    for words in [&["verify", "--read-only", "default"][..], &["verify", "--timeout", "1s", "default"]] {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let (container, mut child, check) = restoring(&site, words);
            assert!(!scratch(&site).is_empty());
            process::send(check.pid, signal);
            let status = child.wait().expect("it ran");
            assert_eq!(status.code(), Some(128 + signal as i32), "{words:?}, {signal}");
            assert_eq!(scratch(&site), Vec::<PathBuf>::new(), "{words:?}, {signal}");
            assert!(alive(&container).is_empty(), "{words:?}, {signal}: {:?}", alive(&container));
            assert_eq!(rows_of_checks(&site), 0);
        }
    }
}

/// It cannot clean up: its Litestream ends with it, and the next check or boot does the rest.
fn a_killed_check(line: Line) {
    let site = filled(line);
    let kill = || {
        let (container, mut child, check) = restoring(&site, &["verify", "--read-only", "default"]);
        process::send(check.pid, Signal::SIGKILL);
        let _ = child.wait();
        eventually("its Litestream is gone", PATIENCE, || when(alive(&container).is_empty()));
        assert!(!scratch(&site).is_empty());
    };
    kill();
    let (code, next) = site.recipe().arguments(["verify", "--read-only", "default"]).run();
    assert_eq!(code, 0, "{}", next.stderr());
    assert_eq!(scratch(&site), Vec::<PathBuf>::new());
    kill();
    let mut container = site.writing("--every 5000").start();
    container.ready();
    assert_eq!(scratch(&site), Vec::<PathBuf>::new());
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}

/// The most memory that its process needed at once, in kB.
fn peak(container: &Container, words: &[&str]) -> u64 {
    let command: Vec<_> = [entry().into_os_string()].into_iter().chain(words.iter().map(Into::into)).collect();
    let mut child = container.exec_program(&command);
    let mut most = 0;
    let status = eventually("it ends", PATIENCE, || {
        for process in process::children(i32::try_from(child.id()).expect("a pid")) {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().trim_end_matches(" kB").parse().ok());
            most = most.max(peak.unwrap_or(0));
        }
        child.try_wait().expect("our child")
    });
    assert!(status.success(), "{words:?}: {status}");
    most
}

/// `benches/verify --megabytes 1024` does it with more.
fn memory_does_not_grow_with_the_database(line: Line) {
    let peaks = [1, 50].map(|megabytes| {
        let site = Site::new(line);
        let connection = rusqlite::Connection::open(site.database()).unwrap();
        let fill = "PRAGMA journal_mode=wal; CREATE TABLE b(x); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<?)
                    INSERT INTO b SELECT randomblob(4000) FROM c; PRAGMA wal_checkpoint(TRUNCATE);";
        connection.execute_batch(&fill.replace('?', &(megabytes * 250).to_string())).unwrap();
        drop(connection);
        let mut first = site.recipe().env("LITESTREAM_ENTRY_STOP_TIMEOUT", "60s").app(["true"]).start();
        assert_eq!(first.wait(PATIENCE), 0, "{}", first.stderr());
        let mut container = site.writing("--rows 1").start();
        container.ready();
        let peaks = BOTH.map(|words| peak(&container, words));
        println!("{line:?}: {megabytes} MB: {peaks:?} kB");
        peaks
    });
    for (small, large) in peaks[0].into_iter().zip(peaks[1]) {
        assert!(small > 0 && large < small * 3 / 2, "{peaks:?} kB");
    }
}
