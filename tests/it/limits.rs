//! Limits that are too low for another process, another thread, or Litestream's memory: each is named with its number and what would be enough.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::container::{Container, Recipe, said};
use crate::support::process;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, root, when};

both_lines!(
    a_boot_that_gets_no_process_or_thread_names_the_limit,
    a_stop_that_gets_no_process_names_the_limit,
    a_stop_that_gets_no_process_makes_the_last_sync_with_what_is_in_reserve,
    so_it_does_where_it_is_the_containers,
    verify_says_that_there_is_too_little_memory,
    so_it_does_in_a_container_with_a_limit,
);

/// A user that nobody else is: the limit counts all of its processes.
fn user(site: &Site, number: u32) -> u32 {
    let user = if site.line == Line::V05 { 45_000 + number } else { 46_000 + number };
    for name in [".", "data"] {
        std::os::unix::fs::chown(site.path(name), Some(user), Some(user)).unwrap();
    }
    user
}

/// The kernel's own words name no limit.
#[track_caller]
fn assert_named(said: &str, limit: &str) {
    assert!(said.contains(limit) && said.contains("64 more are enough"), "{said}");
    let unnamed =
        ["Try again", "emporarily unavailable; ", "emporarily unavailable (", "panicked", "newosproc", "gs 0x0", "no reason given"];
    // Litestream's own lines are its own.
    let ours = said.lines().filter(|line| line.starts_with("litestream-entry: ") || line.contains("panicked"));
    for line in ours {
        assert!(!unnamed.iter().any(|text| line.contains(text)), "{line}");
    }
}

fn a_boot_that_gets_no_process_or_thread_names_the_limit(line: Line) {
    if !root() {
        return;
    }
    for number in [1, 2, 3, 5, 8] {
        let site = Site::new(line);
        let user = user(&site, number);
        let app = site.recipe().shell("true").of_user(user);
        let began = Instant::now();
        let (code, container) = app.behind(&["prlimit", &format!("--nproc={number}")]).run();
        let log = container.stderr();
        // Where it is almost enough, Litestream is tried again beside the app.
        assert!(matches!(code, 70 | 71) || (code == 0 && number == 8), "{number}: {code}: {log}");
        assert_named(&log, &format!("RLIMIT_NPROC is {number}, for all of uid {user}"));
        assert!(began.elapsed() < Duration::from_secs(30), "{number}: {log}");
    }
}

/// A life of a user who may have 60 processes and threads, with a first backup.
fn limited(line: Line, number: u32, app: &str) -> (Site, u32, Container) {
    let site = Site::new(line);
    let user = user(&site, number);
    let mut container = site.writing(app).of_user(user).behind(&["prlimit", "--nproc=60"]).start();
    container.ready();
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    (site, user, container)
}

/// Others of the same user, another container's: so many that it gets no process any more. They end with this value.
struct Crowd(Child);

impl Crowd {
    fn of(user: u32) -> Self {
        let script = "for n in $(seq 60); do sleep 60 & done; wait";
        let words = [&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "--pdeathsig=KILL", "sh", "-c", script];
        let crowd = Self(Command::new("unshare").args(["--pid", "--fork", "--kill-child", "setpriv"]).args(words).spawn().unwrap());
        let of_user = || process::all().iter().filter(|p| fs::metadata(format!("/proc/{}", p.pid)).is_ok_and(|m| m.uid() == user)).count();
        eventually("a crowd", PATIENCE, || when(of_user() > 60));
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_stop_that_gets_no_process_names_the_limit(line: Line) {
    if !root() {
        return;
    }
    let (site, user, mut container) = limited(line, 100, "--every 2000");
    let crowd = Crowd::of(user);
    process::send(container.running_litestream().pid, Signal::SIGKILL);
    site.write_on(10);
    let code = container.stop();
    drop(crowd);
    let log = container.stderr();
    assert!(code == 74 && log.lines().last().unwrap_or_default().contains("NOT SAVED"), "{code}: {log}");
    assert_named(&log, &format!("RLIMIT_NPROC is 60, for all of uid {user}"));
}

/// 0.5's Litestream that runs makes it; 0.3's pass is one of its own, for which there is room again after a while.
fn a_stop_that_gets_no_process_makes_the_last_sync_with_what_is_in_reserve(line: Line) {
    if !root() {
        return;
    }
    let (site, user, mut container) = limited(line, 101, "--every 500");
    let crowd = Crowd::of(user);
    site.write_on(200);
    container.signal(Signal::SIGTERM);
    if line == Line::V03 {
        eventually("the end of litestream", PATIENCE, || when(container.stderr().contains("litestream shut down")));
        // It is the time itself that is tried.
        std::thread::sleep(Duration::from_secs(1));
        drop(crowd);
        assert_eq!(container.wait(PATIENCE), 0, "{}", container.stderr());
    } else {
        assert_eq!(container.wait(PATIENCE), 0, "{}", container.stderr());
        drop(crowd);
    }
    site.assert_saved();
}

/// A group of processes of its own, by either version's files; removed with this value.
struct Group(PathBuf);

impl Group {
    fn new(controller: &str, files: &[(&str, &str)]) -> Option<Self> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("le-{}-{number}", std::process::id());
        let places = [format!("/sys/fs/cgroup/{controller}"), "/sys/fs/cgroup".to_owned()];
        let made = places.into_iter().map(|place| PathBuf::from(place).join(&name)).find(|path| fs::create_dir(path).is_ok());
        let group = Self(made?);
        let limited = files.iter().any(|(file, limit)| group.0.join(file).exists() && fs::write(group.0.join(file), limit).is_ok());
        if !limited {
            eprintln!("skipped: no group with a limit of {controller} can be made here");
        }
        limited.then_some(group)
    }

    fn holds(&self, recipe: Recipe) -> Recipe {
        recipe.behind(&["sh", "-c", &format!("echo 0 > {}/cgroup.procs; exec \"$@\"", self.0.display()), "sh"])
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = || when(fs::remove_dir(&self.0).is_ok());
        for _ in 0..100 {
            if gone().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn so_it_does_where_it_is_the_containers(line: Line) {
    if !root() {
        return;
    }
    for number in ["3", "8"] {
        let Some(group) = Group::new("pids", &[("pids.max", number)]) else { return };
        let site = Site::new(line);
        let (code, container) = group.holds(site.recipe().shell("true")).run();
        let log = container.stderr();
        // Litestream is tried again beside the app.
        assert!(matches!(code, 0 | 70 | 71), "{number}: {code}: {log}");
        assert_named(&log, &format!("{}/pids.max is {number}", group.0.display()));
    }
}

fn verify_says_that_there_is_too_little_memory(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 2000").start();
    container.ready();
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    for megabytes in [64, 200] {
        let began = Instant::now();
        let proof = container.exec_by(&["prlimit", &format!("--as={}", megabytes << 20)], ["verify", "default", "--timeout", "5s"]);
        let told = said(&proof);
        assert!(matches!(proof.status.code(), Some(71)), "{told}");
        assert!(told.contains(&format!("RLIMIT_AS is {megabytes} MB")) && told.contains("1 GiB is enough"), "{told}");
        assert!(began.elapsed() < Duration::from_secs(15), "{told}");
    }
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// Of the command alone, as a group below the container's.
fn so_it_does_in_a_container_with_a_limit(line: Line) {
    if !root() {
        return;
    }
    let limit = (16 << 20).to_string();
    let Some(group) = Group::new("memory", &[("memory.max", &limit), ("memory.limit_in_bytes", &limit)]) else { return };
    let site = Site::new(line);
    let mut container = site.writing("--every 2000").start();
    container.ready();
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    let began = Instant::now();
    let words = format!("echo 0 > {}/cgroup.procs; exec \"$@\"", group.0.display());
    let proof = container.exec_by(&["sh", "-c", &words, "sh"], ["verify", "default", "--timeout", "5s"]);
    let told = said(&proof);
    if proof.status.success() {
        // It was enough.
    } else {
        assert!(told.contains("memory") && told.contains("is 16 MB"), "{told}");
        assert!(matches!(proof.status.code(), Some(71)), "{told}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?} {told}", began.elapsed());
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}
