//! What is taken away from under it while it runs: the runtime directory, the program's own file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::container::{Container, said};
use crate::support::fuse::PassedThrough;
use crate::support::process;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    a_runtime_directory_that_is_wiped_is_made_anew,
    one_that_is_wiped_right_before_the_stop_costs_nothing,
    one_that_is_wiped_is_as_it_was_for_another_user if root,
    the_programs_own_file_may_be_deleted_or_replaced,
    docker_exec_after_an_upgrade_is_what_pid_1_is,
    a_keeper_that_is_killed_is_followed_by_another_and_its_locks_stay,
    a_keeper_that_is_killed_while_it_boots_boots_again if fuse,
);

/// As a start script or a cleaner does it: with the directory, or only what is in it.
fn wipe(runtime: &Path, whole: bool) {
    if whole {
        fs::remove_dir_all(runtime).unwrap();
        return;
    }
    for entry in fs::read_dir(runtime).unwrap().flatten() {
        fs::remove_file(entry.path()).unwrap();
    }
}

fn kill_litestream(container: &Container) {
    let first = container.running_litestream().pid;
    process::send(first, Signal::SIGKILL);
    eventually("another Litestream", PATIENCE, || when(container.litestream().is_some_and(|it| it.pid != first)));
}

/// And everything is as it was before.
#[track_caller]
fn is_replaced_after_a_kill(site: &Site, container: &Container) {
    kill_litestream(container);
    let row = site.acknowledged();
    eventually("newer rows in the backup", PATIENCE, || when(site.backed_up() > row));
    assert_well(container);
}

#[track_caller]
fn assert_well(container: &Container) {
    let mut last = String::new();
    let all = ["health", "status", "verify"].map(|command| if command == "verify" { vec![command, "default"] } else { vec![command] });
    for words in all {
        let what = words.join(" ");
        let began = std::time::Instant::now();
        loop {
            let output = container.exec(&words);
            if output.status.success() {
                break;
            }
            last = said(&output);
            assert!(began.elapsed() < PATIENCE, "{what}: {last}\n{}", container.stderr());
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
    let _ = last;
}

fn a_runtime_directory_that_is_wiped_is_made_anew(line: Line) {
    for whole in [true, false] {
        let site = Site::new(line);
        let mut container = site.writing("--every 2000").start();
        container.ready();
        eventually("a backup", PATIENCE, || when(site.backed_up() > 0));
        assert_well(&container);
        wipe(&site.path("run"), whole);
        assert_well(&container);
        assert!(container.stderr().contains("was wiped"), "{}", container.stderr());
        assert!(!container.stderr().contains("hangs"), "{}", container.stderr());
        // Again, and this time a Litestream is started on it.
        wipe(&site.path("run"), whole);
        is_replaced_after_a_kill(&site, &container);
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        site.assert_saved();
    }
}

fn one_that_is_wiped_right_before_the_stop_costs_nothing(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 2000").start();
    container.ready();
    eventually("a backup", PATIENCE, || when(site.backed_up() > 0));
    wipe(&site.path("run"), true);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// Names, owners and modes.
fn listing(runtime: &Path) -> BTreeMap<PathBuf, (u32, u32, u32)> {
    let of = |path: PathBuf| fs::symlink_metadata(&path).map(|m| (path, (m.uid(), m.gid(), m.permissions().mode())));
    let inside = fs::read_dir(runtime).into_iter().flatten().flatten().map(|entry| entry.path());
    let lasting = inside.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        !name.contains('-') && !name.contains(".new") || name == "litestream-again.yml"
    });
    lasting.chain([runtime.to_owned()]).filter_map(|path| of(path).ok()).collect()
}

fn one_that_is_wiped_is_as_it_was_for_another_user(line: Line) {
    let site = Site::new(line);
    for path in [site.path(""), site.path("data"), site.path("replica")] {
        let _ = fs::create_dir(&path);
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    }
    let mut container = site.writing("--every 2000").env("LITESTREAM_ENTRY_USER", "65534:65534").start();
    container.ready();
    eventually("a backup", PATIENCE, || when(site.backed_up() > 0));
    assert_well(&container);
    let before = listing(&site.path("run"));
    wipe(&site.path("run"), true);
    eventually("all is there again", PATIENCE, || when(listing(&site.path("run")) == before));
    is_replaced_after_a_kill(&site, &container);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// An executable copy, by another process: what another thread of ours starts meanwhile would have it open for writing (ETXTBSY).
fn copied(program: &Path, to: &Path) {
    let done = std::process::Command::new("install").args(["-m", "755"]).args([program, to]).status().unwrap();
    assert!(done.success());
}

/// An upgrade in place, or an installer that tidies up.
fn the_programs_own_file_may_be_deleted_or_replaced(line: Line) {
    for other in [None, Some("#!/bin/sh\necho another version; exit 42\n")] {
        let site = Site::new(line);
        let own = site.path("litestream-entry");
        copied(&crate::support::entry(), &own);
        let mut container = site.writing("--every 2000").of_program(&own).start();
        container.ready();
        eventually("a backup", PATIENCE, || when(site.backed_up() > 0));
        fs::remove_file(&own).unwrap();
        if let Some(other) = other {
            fs::write(&own, other).unwrap();
            fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
        }
        is_replaced_after_a_kill(&site, &container);
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        assert!(!container.stderr().contains("another version"), "{}", container.stderr());
        site.assert_saved();
    }
}

/// What is executed by then is another version, which need not know what PID 1 has left.
fn docker_exec_after_an_upgrade_is_what_pid_1_is(line: Line) {
    let site = Site::new(line);
    let own = site.path("litestream-entry");
    let mut program = fs::read(crate::support::entry()).unwrap();
    let (text, other) = (b"replication_since", b"REPLICATION_SINCE");
    let places: Vec<usize> = program.windows(text.len()).enumerate().filter(|(_, w)| w == text).map(|(at, _)| at).collect();
    for at in places {
        program[at..at + text.len()].copy_from_slice(other);
    }
    fs::write(site.path("patched"), program).unwrap();
    copied(&site.path("patched"), &own);
    let mut container = site.writing("--every 2000").of_program(&own).start();
    container.ready();
    let status = container.exec(["status", "--json"]);
    assert!(status.status.success() && said(&status).contains("REPLICATION_SINCE"), "{}", said(&status));
    assert!(said(&container.exec(["version"])).contains(crate::support::entry().to_str().unwrap()));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// The keeper of a container, once there is one that is not `before`.
fn keeper(container: &Container, before: Option<i32>) -> i32 {
    eventually("the keeper runs", PATIENCE, || {
        let all = process::children(container.pid1()).into_iter();
        all.filter(|process| process.arguments.iter().any(|word| word.as_slice() == b"__keep") && Some(process.pid) != before)
            .map(|process| process.pid)
            .next()
    })
}

/// Again and again, and beside a second container that would take over.
fn a_keeper_that_is_killed_is_followed_by_another_and_its_locks_stay(line: Line) {
    let site = Site::new(line);
    let mut container = site.recipe().app(site.writer("--every 2000")).start();
    container.ready();
    site.write_on(100);
    let mut last = keeper(&container, None);
    for _ in 0..3 {
        process::send(last, Signal::SIGKILL);
        last = keeper(&container, Some(last));
        eventually("health is 0", PATIENCE, || when(container.exec(["health"]).status.success()));
        site.write_on(100);
    }
    let (code, beside) =
        site.recipe().env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("run-2")).env("LITESTREAM_ENTRY_LOCK", "refuse").shell("true").run();
    assert_eq!(code, 71, "{}", beside.stderr());
    // What is wiped after that is made again, too.
    wipe(&site.path("run"), true);
    eventually("health is 0", PATIENCE, || when(container.exec(["health"]).status.success()));
    kill_litestream(&container);
    site.write_on(100);
    // And one that is killed as the container is stopped.
    let last = keeper(&container, None);
    container.signal(Signal::SIGTERM);
    process::send(last, Signal::SIGKILL);
    assert_eq!(container.wait(PATIENCE), 0, "{}", container.stderr());
    assert!(container.stderr().contains("another one goes on"), "{}", container.stderr());
    site.assert_saved();
}

/// Everything that it does is done again, since nothing has begun.
fn a_keeper_that_is_killed_while_it_boots_boots_again(line: Line) {
    let site = Site::new(line);
    let disk = PassedThrough::over(&site.path("run"));
    disk.hang();
    let mut container = site.recipe().app(site.writer("--every 2000")).start();
    let first = keeper(&container, None);
    process::send(first, Signal::SIGKILL);
    disk.go_on();
    container.ready();
    site.write_on(100);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}
