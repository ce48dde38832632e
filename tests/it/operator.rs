//! `docker exec app litestream-entry verify default` and its like, beside the running app.

use std::fs;
use std::process::Output;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::support::container::{Container, said};
use crate::support::contents::{Contents, beside};
use crate::support::process;
use crate::support::site::{Mounted, Site};
use crate::support::{Line, PATIENCE, eventually, lines, when};

both_lines!(
    verify_says_what_it_proved,
    verify_twice_and_four_at_once,
    verify_of_a_hot_writer,
    verify_of_one_of_two_databases,
    verify_as_json,
    verify_finds_a_stopped_litestream,
    verify_finds_a_lost_replica,
    verify_finds_an_unreachable_replica,
    verify_compares_pages,
    verify_leaves_nothing_behind,
    verify_read_only_writes_nothing,
    verify_says_when_two_copies_do_not_fit if root,
    restore_to_another_path,
    restore_of_a_live_database_is_refused,
    restore_does_not_overwrite,
    unknown_database,
);

fn running(site: &Site, options: &str) -> Container {
    let mut container = site.writing(options).start();
    container.ready();
    container
}

#[track_caller]
fn assert_proved(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
    let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
    for proof in ["restores", "passes", "current", "equal"] {
        assert!(text.contains(proof), "verify says {proof:?}: {text}");
    }
}

/// Code 65, and the reason on stderr.
#[track_caller]
fn assert_disproved(output: &Output) {
    assert_eq!(output.status.code(), Some(65), "{}", said(output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!lines(&stderr).is_empty(), "it says why: {}", said(output));
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn verify_says_what_it_proved(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 5000");
    for name in ["default", site.database().to_str().expect("a name")] {
        let start = Instant::now();
        let output = container.exec(["verify", name]);
        println!("{line:?}: verify took {:?}", start.elapsed());
        assert_proved(&output);
    }
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

fn verify_twice_and_four_at_once(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 5000");
    let verify = || container.exec(["verify", "default"]);
    assert_proved(&verify());
    assert_proved(&verify());
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let four: Vec<_> = (0..4).map(|_| scope.spawn(verify)).collect();
        four.into_iter().map(|one| one.join().expect("it ran")).collect()
    });
    outputs.iter().for_each(assert_proved);
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

fn verify_of_a_hot_writer(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 300");
    let target = site.acknowledged() + 2_000;
    eventually("some rows", PATIENCE, || when(site.acknowledged() >= target));
    assert_proved(&container.exec(["verify", "default"]));
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

fn verify_of_one_of_two_databases(line: Line) {
    let site = Site::new(line).with_two_databases();
    let mut container = running(&site, "--every 5000");
    for name in ["app", "jobs"] {
        assert_proved(&container.exec(["verify", name]));
    }
    // At once, and told in their order.
    let all = container.exec(["verify", "--all"]);
    assert_proved(&all);
    let text = String::from_utf8_lossy(&all.stdout).into_owned();
    let ended: Vec<&str> = text.lines().filter(|line| line.contains(": ok: ")).collect();
    assert!(ended.len() == 2 && ended[0].starts_with("app: ") && ended[1].starts_with("jobs: "), "{text}");
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

fn verify_as_json(line: Line) {
    let site = Site::new(line);
    let container = running(&site, "--every 5000");
    let output = container.exec(["verify", "--json", "default"]);
    assert!(output.status.success(), "{}", said(&output));
    let json: serde_yaml::Value = serde_yaml::from_slice(&output.stdout).expect("JSON is YAML too");
    assert!(json.is_mapping() || json.is_sequence(), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.trim_start().starts_with(['{', '[']), "{text}");
}

fn verify_finds_a_stopped_litestream(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 5000");
    assert_proved(&container.exec(["verify", "default"]));
    let litestream = container.running_litestream().pid;
    process::send(litestream, Signal::SIGSTOP);
    assert_disproved(&container.exec(["verify", "--timeout", "3s", "default"]));
    process::send(litestream, Signal::SIGCONT);
    assert_proved(&container.exec(["verify", "default"]));
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

fn verify_finds_a_lost_replica(line: Line) {
    let site = Site::new(line);
    let container = running(&site, "--every 5000");
    assert_proved(&container.exec(["verify", "default"]));
    // Litestream, where it goes on, makes a new backup in the lost one's place, and then all is well.
    process::send(container.running_litestream().pid, Signal::SIGSTOP);
    fs::rename(site.replica(), site.path("away")).expect("the replica moves away");
    assert_disproved(&container.exec(["verify", "--timeout", "3s", "default"]));
}

fn verify_finds_an_unreachable_replica(line: Line) {
    let site = Site::new(line);
    let container = running(&site, "--every 5000");
    assert_proved(&container.exec(["verify", "default"]));
    // A file where a directory has to be: nobody can read or write below it, not even root.
    fs::rename(site.replica(), site.path("away")).expect("the replica moves away");
    fs::write(site.replica(), "").expect("a file in its place");
    let output = container.exec(["verify", "--timeout", "3s", "default"]);
    let code = output.status.code();
    assert!([Some(65), Some(69)].contains(&code), "cut off: {}", said(&output));
    let lines = String::from_utf8_lossy(&output.stderr).lines().count();
    assert!((1..=5).contains(&lines), "it says why, and not again and again: {}", said(&output));
}

/// Most of the pages of a database that is hardly written to; "equal" without any proves nothing.
fn verify_compares_pages(line: Line) {
    let site = Site::new(line);
    let mut filler = running(&site, "--every 0 --rows 5000");
    eventually("a database of some size", PATIENCE, || when(site.acknowledged() == 5_000));
    assert_eq!(filler.stop(), 0);
    let mut container = running(&site, "--every 200000");
    let output = container.exec(["verify", "default"]);
    assert_proved(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    let equal = text.lines().find(|line| line.contains("equal")).unwrap_or_default();
    let pages = equal.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    let pages = pages.max().unwrap_or(0);
    let total = std::fs::metadata(site.database()).expect("the database").len() / 4096;
    assert!(pages > total / 2, "{pages} of {total} pages compared: {text}");
    assert_eq!(container.stop(), 0);
}

fn verify_leaves_nothing_behind(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 5000");
    assert_proved(&container.exec(["verify", "default"]));
    let before = names(&site);
    assert_proved(&container.exec(["verify", "default"]));
    assert_eq!(names(&site), before, "files of the volume and of the run time directory");
    assert_eq!(container.stop(), 0);
    let connection = rusqlite::Connection::open(site.database()).expect("the database");
    let count = "SELECT count(*) FROM _litestream_verification";
    let rows: i64 = connection.query_row(count, (), |row| row.get(0)).unwrap_or(0);
    assert!(rows <= 1, "{rows} rows of earlier checks");
}

/// Beside a writer, where replication is cut, and without anybody who has the database open.
fn verify_read_only_writes_nothing(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 5000");
    assert_proved(&container.exec(["verify", "--read-only", "default"]));
    let litestream = container.running_litestream().pid;
    process::send(litestream, Signal::SIGSTOP);
    site.write_on(50);
    let cut = container.exec(["verify", "--read-only", "--timeout", "3s", "default"]);
    assert_disproved(&cut);
    assert!(said(&cut).contains("replication is cut or behind"), "{}", said(&cut));
    process::send(litestream, Signal::SIGCONT);
    assert_proved(&container.exec(["verify", "--read-only", "default"]));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
    let bytes = || ["", "-wal"].map(|suffix| fs::read(beside(site.database(), suffix)).ok());
    let before = (bytes(), names(&site));
    let (code, alone) = site.recipe().arguments(["verify", "--read-only", "default"]).run();
    assert_eq!(code, 0, "{}", alone.stderr());
    assert_eq!(bytes(), before.0, "the database and its WAL");
    assert_eq!(
        names(&site).into_iter().filter(|name| !before.1.contains(name) && !name.ends_with("-shm")).count(),
        0,
        "{:?}",
        names(&site)
    );
    let connection = rusqlite::Connection::open(site.database()).expect("the database");
    let count = "SELECT count(*) FROM sqlite_schema WHERE name = '_litestream_verification'";
    assert_eq!(connection.query_row(count, (), |row| row.get::<_, i64>(0)), Ok(0));
    let both = site.recipe().arguments(["verify", "--read-only", "--quick", "default"]).run();
    assert_eq!(both.0, 64, "{}", both.1.stderr());
}

fn verify_says_when_two_copies_do_not_fit(line: Line) {
    let site = Site::new(line);
    let mut filler = running(&site, "--every 0 --rows 5000");
    eventually("a database of some size", PATIENCE, || when(site.acknowledged() == 5_000));
    assert_eq!(filler.stop(), 0, "{}", filler.stderr());
    let length = fs::metadata(site.database()).expect("the database").len();
    let kept = fs::read(site.database()).expect("the database");
    let _disk = Mounted::new(site.path("data"), &format!("{}k", length * 2 / 1024));
    fs::write(site.database(), kept).expect("the database on the small disk");
    let (code, verified) = site.recipe().arguments(["verify", "--read-only", "default"]).run();
    assert_eq!(code, 71, "{}", verified.stderr());
    let said = verified.stderr();
    assert!(["NOT PROVED: no room beside ", "3 copies take ", " are free; make room"].iter().all(|text| said.contains(text)), "{said}");
}

/// The files that a command might forget.
fn names(site: &Site) -> Vec<String> {
    let list = |directory: &str| fs::read_dir(site.path(directory)).into_iter().flatten();
    let entries = list("data").chain(list("run")).chain(list("."));
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn restore_to_another_path(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 2000");
    assert_proved(&container.exec(["verify", "default"]));
    let copy = site.path("copy.db");
    let copy_name = copy.to_str().expect("a name");
    let acknowledged = site.acknowledged();
    // Replication is a second or so behind: until a copy holds what was acknowledged before.
    eventually("a copy with that row", PATIENCE, || {
        let _ = fs::remove_file(&copy);
        let output = container.exec(["restore", "-o", copy_name, "default"]);
        assert!(output.status.success(), "{}", said(&output));
        when(Contents::of(&copy).last() >= acknowledged)
    });
    Contents::of(&copy).assert_complete_up_to(acknowledged);
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

fn restore_of_a_live_database_is_refused(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 2000");
    assert_proved(&container.exec(["verify", "default"]));
    let name = site.database().to_str().expect("a name").to_owned();
    for words in [vec!["restore", "default"], vec!["restore", "-o", &name, "default"]] {
        let output = container.exec(&words);
        assert!(!output.status.success(), "{words:?}: {}", said(&output));
        assert!(!output.stderr.is_empty(), "{words:?}: it says why");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    let acknowledged = site.acknowledged();
    eventually("the app goes on", PATIENCE, || when(site.acknowledged() > acknowledged));
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

fn restore_does_not_overwrite(line: Line) {
    let site = Site::new(line);
    let container = running(&site, "--every 2000");
    assert_proved(&container.exec(["verify", "default"]));
    let other = site.path("precious");
    fs::write(&other, "keep me").expect("a file");
    let output = container.exec(["restore", "-o", other.to_str().expect("a name"), "default"]);
    assert!(!output.status.success(), "{}", said(&output));
    assert_eq!(fs::read(&other).expect("it is still here"), b"keep me");
}

fn unknown_database(line: Line) {
    let site = Site::new(line);
    let container = running(&site, "--every 5000");
    for command in ["verify", "restore"] {
        let output = container.exec([command, "nonesuch"]);
        let code = output.status.code();
        assert!([Some(64), Some(66)].contains(&code), "{command}: {}", said(&output));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("nonesuch"), "{command}: {stderr}");
    }
}
