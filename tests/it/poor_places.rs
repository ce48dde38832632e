//! Places that give less than the usual: limits, kernel facilities that are missing or refused, streams that take nothing. The same lives in
//! each, judged by what is in the backup.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::container::{Recipe, said};
use crate::support::contents::Contents;
use crate::support::process;
use crate::support::site::{Mounted, Site, fill_up, lose};
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    without_proc,
    with_the_proc_of_another_namespace,
    without_unix_sockets,
    with_few_descriptors,
    with_children_that_are_not_reported,
    without_capabilities,
    without_stdin,
    a_container_that_stands_still_in_its_stop_goes_on_where_it_was,
    a_database_that_is_mounted_without_its_directory_is_refused,
    a_mounted_directory_is_a_good_place,
    a_restore_without_a_byte_free_is_refused_at_once_for_what_it_is if root,
    without_prctl,
    without_file_locks_it_says_how_to_go_on_and_does,
    a_limit_that_is_too_low_is_named,
    what_a_sandbox_forbids_is_named,
    a_first_boot_on_a_full_volume_is_told_to_make_room if root,
);

only_0_5!(a_log_at_its_size_limit_is_no_signal_to_the_app,);

/// Behind these words of the shell's.
fn after(recipe: Recipe, words: &str) -> Recipe {
    recipe.behind(&["sh", "-c", &format!("{words} exec \"$@\""), "sh"])
}

/// To which the kernel denies system calls (`deny.py`).
fn denied(recipe: Recipe, calls: &str) -> Recipe {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/deny.py");
    recipe.behind(&["python3", &script.display().to_string(), calls])
}

fn without_proc(line: Line) {
    lives(line, |recipe| after(recipe, "mount -t tmpfs none /proc;"));
}

fn with_the_proc_of_another_namespace(line: Line) {
    lives(line, |recipe| after(recipe, "umount -l /proc;"));
}

fn without_unix_sockets(line: Line) {
    lives(line, |recipe| denied(recipe, "unix=13"));
}

fn with_few_descriptors(line: Line) {
    lives(line, |recipe| recipe.behind(&["prlimit", "--nofile=24:24"]));
}

fn with_children_that_are_not_reported(line: Line) {
    lives(line, |recipe| recipe.behind(&["env", "--ignore-signal=CHLD"]));
}

fn without_capabilities(line: Line) {
    lives(line, |recipe| recipe.behind(&["setpriv", "--bounding-set", "-all"]));
}

fn without_stdin(line: Line) {
    lives(line, |recipe| after(recipe, "exec 0<&-;"));
}

/// An app that leaves its writer behind; a kept volume, Litestream's death, a proof, a stop; and a lost volume.
fn lives(line: Line, place: impl Fn(Recipe) -> Recipe) {
    let site = Site::new(line);
    leaves_a_writer_behind(&site, &place);
    let mut container = place(site.writing("--every 2000")).start();
    container.ready();
    let litestream = container.running_litestream().pid;
    process::send(litestream, Signal::SIGKILL);
    eventually("another Litestream", PATIENCE, || when(container.litestream().is_some_and(|new| new.pid != litestream)));
    let before = site.acknowledged();
    eventually("newer rows in the backup", PATIENCE, || when(site.backed_up() > before));
    eventually("health is 0", PATIENCE, || when(container.exec(["health"]).status.success()));
    let proof = container.exec(["verify", "default"]);
    assert!(proof.status.success(), "{}\n{}", said(&proof), container.stderr());
    let stop = std::time::Instant::now();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert!(stop.elapsed() < Duration::from_secs(9), "the whole budget is used up");
    assert!(!container.stderr().contains("hangs"), "{}", container.stderr());
    site.assert_saved();
    let was = Contents::of(site.database());
    lose(site.database());
    let (code, container) = place(site.recipe().shell("exit 0")).run();
    assert_eq!(code, 0, "{}", container.stderr());
    assert_eq!(Contents::of(site.database()).difference(&was), None);
}

/// Longer than the whole stop timeout, as a frozen cgroup or a paused machine may.
fn a_container_that_stands_still_in_its_stop_goes_on_where_it_was(line: Line) {
    let site = Site::new(line);
    let (told, done) = (site.path("told"), site.path("done"));
    let script = format!(
        "\"$@\" & trap 'touch {}; sleep 2; kill $!; wait $!; touch {}; exit 0' TERM; while :; do wait $!; done",
        told.display(),
        done.display()
    );
    let app = site.recipe().shell(&script).arguments(["sh"]).arguments(site.writer("--every 1000"));
    let mut container = app.start();
    container.ready();
    site.write_on(100);
    container.signal(Signal::SIGTERM);
    eventually("the app is told", PATIENCE, || when(told.exists()));
    let everybody: Vec<i32> = std::iter::once(container.pid1()).chain(container.processes().into_iter().map(|p| p.pid)).collect();
    let all = |signal| {
        for pid in &everybody {
            process::send(*pid, signal);
        }
    };
    all(Signal::SIGSTOP);
    // It is the time itself that is tried.
    std::thread::sleep(Duration::from_secs(12));
    all(Signal::SIGCONT);
    assert_eq!(container.wait(PATIENCE), 0, "{}", container.stderr());
    assert!(done.exists() && container.stderr().contains("stood still"), "{}", container.stderr());
    site.assert_saved();
}

fn leaves_a_writer_behind(site: &Site, place: &impl Fn(Recipe) -> Recipe) {
    let script = format!("setsid \"$@\" & while ! [ -e {} ]; do sleep 0.01; done; sleep 0.2; exit 0", site.ready_file().display());
    let app = site.recipe().shell(&script).arguments(["sh"]).arguments(site.writer("--every 1000"));
    let (code, container) = place(app).run();
    assert_eq!(code, 0, "{}", container.stderr());
    assert!(site.acknowledged() > 0);
    site.assert_saved();
}

fn a_log_at_its_size_limit_is_no_signal_to_the_app(line: Line) {
    let site = Site::new(line);
    let plain = site.recipe().without("DATABASE_PATH").without("LITESTREAM_REPLICA_URL");
    let app = plain.shell(&format!("echo ran > /dev/null; : > {}; sleep 0.3", site.path("ran").display()));
    let (code, container) = after(app, "ulimit -f 0;").run();
    assert_eq!((code, container.stderr()), (0, String::new()));
    assert!(fs::metadata(site.path("ran")).is_ok());
}

/// What lies beside it would be in the container's own layer, and go with it.
fn a_database_that_is_mounted_without_its_directory_is_refused(line: Line) {
    let site = Site::new(line);
    let elsewhere = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let beside = site.path("on the host.db");
    fs::write(&beside, "").unwrap();
    fs::write(site.database(), "").unwrap();
    // The same file system has the same number.
    for host in [beside.as_path(), elsewhere.path()] {
        let mount = format!("mount --bind '{}' '{}';", host.display(), site.database().display());
        let mut containers = vec![after(site.recipe().shell(&format!("echo ran > {}", site.path("ran").display())), &mount).run()];
        if line == Line::V05 {
            let tenants = site.recipe().without("DATABASE_PATH").env("LITESTREAM_DB_DIR", site.path("data"));
            fs::write(host, "SQLite format 3\0 and more").unwrap();
            containers.push(after(tenants.shell("true"), &mount).run());
        }
        for (code, container) in containers {
            let said = container.stderr();
            assert!(code == 78 && said.contains(site.database().to_str().unwrap()), "{code}: {said}");
            assert!(said.contains("mount its directory, not the file") && !site.path("ran").exists(), "{said}");
        }
        fs::write(host, "").unwrap();
    }
    // What an engine makes where the host has no such file.
    fs::remove_file(site.database()).unwrap();
    fs::create_dir(site.database()).unwrap();
    let mount = format!("mount -t tmpfs none '{}';", site.database().display());
    let (code, container) = after(site.recipe().shell("true"), &mount).run();
    let said = container.stderr();
    assert!(code == 78 && said.contains("is a directory") && said.contains("mount its directory"), "{code}: {said}");
}

fn a_mounted_directory_is_a_good_place(line: Line) {
    let site = Site::new(line);
    let data = site.path("data").display().to_string();
    let mut container = after(site.writing("--every 2000"), &format!("mount --bind '{data}' '{data}';")).start();
    container.ready();
    site.write_on(100);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

fn a_restore_without_a_byte_free_is_refused_at_once_for_what_it_is(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 500").start();
    container.ready();
    site.write_on(200);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    fs::remove_dir_all(site.path("data")).unwrap();
    fs::create_dir(site.path("data")).unwrap();
    let _disk = Mounted::new(site.path("data"), "8m");
    fill_up(&site.path("data"));
    let began = Instant::now();
    let (code, container) = site.recipe().shell(&format!("echo ran > {}", site.path("ran").display())).run();
    let said = container.stderr();
    assert_eq!(code, 71, "{said}");
    assert!(["no room in ", "B compressed", "0 B are free", "make room"].iter().all(|text| said.contains(text)), "{said}");
    assert!(!said.contains("never") && !said.contains("trying again") && !said.contains("no reason given"), "{said}");
    assert!(!site.path("ran").exists() && began.elapsed() < Duration::from_secs(20), "{said}");
    fs::remove_file(site.path("data/filler")).unwrap();
    let (code, container) = site.recipe().shell("true").run();
    assert_eq!(code, 0, "{}", container.stderr());
    Contents::of(site.database()).assert_complete_up_to(site.acknowledged());
}

fn without_prctl(line: Line) {
    lives(line, |recipe| denied(recipe, "prctl=1"));
}

fn without_file_locks_it_says_how_to_go_on_and_does(line: Line) {
    // ENOLCK, ENOSYS
    for call in ["flock=37", "flock=38"] {
        let site = Site::new(line);
        let (code, container) = denied(site.recipe().shell(&format!("echo ran > {}", site.path("ran").display())), call).run();
        let said = container.stderr();
        assert!(code == 71 && said.contains("LITESTREAM_ENTRY_LOCK=off") && said.contains("no file locks"), "{code}: {said}");
        assert!(!said.contains("can be written") && !site.path("ran").exists(), "{said}");
        let mut container = denied(site.writing("--every 2000").env("LITESTREAM_ENTRY_LOCK", "off"), call).start();
        container.ready();
        site.write_on(200);
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/deny.py");
        let health = || container.exec_by(&["python3", script.to_str().unwrap(), call], ["health"]);
        eventually("health is 0", PATIENCE, || when(health().status.success()));
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        site.assert_saved();
    }
}

/// By EPERM: one line, and 71.
fn what_a_sandbox_forbids_is_named(line: Line) {
    for (call, named) in [("signalfd4=1", "signalfd"), ("setsid=1", "setsid"), ("setpgid=1", "setpgid")] {
        let site = Site::new(line);
        let (code, container) = denied(site.recipe().shell(&format!("echo ran > {}", site.path("ran").display())), call).run();
        let said = container.stderr();
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("seccomp")).collect();
        assert!(code == 71 && matches!(lines.as_slice(), [only] if only.contains(named)), "{call}: {code}: {said}");
        assert!(!said.contains("died") && !site.path("ran").exists(), "{call}: {said}");
    }
}

fn a_limit_that_is_too_low_is_named(line: Line) {
    let site = Site::new(line);
    let app = || site.recipe().shell(&format!("echo ran > {}", site.path("ran").display()));
    for number in ["10", "13", "16"] {
        let (code, container) = app().behind(&["prlimit", &format!("--nofile={number}:{number}")]).run();
        let said = container.stderr();
        assert!(code == 71 && said.contains("RLIMIT_NOFILE") && said.contains("24"), "{number}: {code}: {said}");
    }
    for bytes in [200 << 20, 700 << 20] {
        let began = Instant::now();
        let (code, container) = app().behind(&["prlimit", &format!("--as={bytes}")]).run();
        let said = container.stderr();
        assert!(code == 71 && said.contains("memory") && said.contains("RLIMIT_AS"), "{bytes}: {code}: {said}");
        assert!(began.elapsed() < Duration::from_secs(30) && !said.contains("trying again"), "{said}");
    }
    assert!(!site.path("ran").exists());
}

fn a_first_boot_on_a_full_volume_is_told_to_make_room(line: Line) {
    let site = Site::new(line);
    let _disk = Mounted::new(site.path("data"), "1m,nr_inodes=3");
    fill_up(&site.path("data"));
    let (code, container) = site.recipe().shell("exit 0").run();
    let said = container.stderr();
    assert!(code == 71 && said.contains("make room"), "{code}: {said}");
    assert!(!said.contains("may write there") && !said.contains("make it writable"), "{said}");
}
