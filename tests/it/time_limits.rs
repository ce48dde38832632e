//! A time limit is for a whole command: a replica that never answers, or that nobody listens at, keeps nobody longer than was said.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::support::container::{Container, said};
use crate::support::s3::Server;
use crate::support::server::closed_port;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    commands_end_within_their_limit,
    a_database_that_is_locked_keeps_no_check_longer_than_its_limit,
    a_boot_ends_within_the_limit_of_its_restore,
    commands_beside_an_app_end_within_their_limit,
    many_databases_in_one_place_take_no_longer_than_one,
);

/// What the commands are given.
const LIMIT: Duration = Duration::from_secs(2);
/// When they have to be over, on a machine that has other things to do.
const OVER: Duration = Duration::from_secs(6);

/// It takes connections, as far as the kernel does, and nobody ever reads what comes.
struct Silent(TcpListener);

impl Silent {
    fn new() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }
}

fn url(port: u16) -> String {
    format!("s3://bucket/app?endpoint=http://127.0.0.1:{port}&region=us-east-1")
}

/// The program, without a container, with a database and a replica at that port.
fn command(site: &Site, port: u16) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=1", "100"])
        .arg(crate::support::entry())
        .env_clear()
        .env("PATH", crate::support::SEARCH_PATH)
        .env("LITESTREAM_BIN", site.litestream())
        .env("DATABASE_PATH", site.database())
        .env("LITESTREAM_REPLICA_URL", url(port))
        .env("LITESTREAM_ACCESS_KEY_ID", "k")
        .env("LITESTREAM_SECRET_ACCESS_KEY", "s")
        .env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("run"))
        .env("LITESTREAM_ENTRY_RESTORE_TIMEOUT", format!("{}s", LIMIT.as_secs()));
    command
}

#[track_caller]
fn ends_in_time(what: &str, codes: &[i32], run: impl FnOnce() -> Output) {
    let began = Instant::now();
    let output = run();
    let took = began.elapsed();
    println!("{what}: {took:?}: {}", said(&output));
    assert!(took < OVER, "{what}: {took:?}: {}", said(&output));
    assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{what}: {}", said(&output));
    assert!(!said(&output).contains("os error 11"), "{what}: {}", said(&output));
    // What was waited for, and that it took too long, or what the replica said before.
    let names = ["s3://bucket/app", "s3://test/", "a new snapshot"];
    assert!(names.iter().any(|name| said(&output).contains(name)), "{what}: {}", said(&output));
    // A new snapshot leaves its proof only a part of the limit.
    let reasons = ["2 s", "has not said within", "connection refused"];
    assert!(reasons.iter().any(|why| said(&output).contains(why)), "{what}: {}", said(&output));
}

fn commands_end_within_their_limit(line: Line) {
    let silent = Silent::new();
    for (how, port) in [("silent", silent.port()), ("refused", closed_port())] {
        let site = Site::new(line);
        let app = Connection::open(site.database()).unwrap();
        app.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(a); INSERT INTO t VALUES(1);").unwrap();
        let beside = site.path("beside.db");
        let beside = beside.to_str().unwrap();
        let limited: &[(&[&str], i32)] = &[
            (&["verify", "--timeout", "2s", "default"], 65),
            (&["verify", "--timeout", "2s", "--quick", "default"], 65),
            (&["verify", "--timeout", "2s", "--read-only", "default"], 65),
            (&["sync", "--timeout", "2s", "default"], 65),
            (&["restore", "--dry-run", "default"], 69),
            (&["restore", "-o", beside, "default"], 69),
            (&["restore", "-o", beside, "-timestamp", "2026-01-01T00:00:00Z", "default"], 69),
        ];
        for (words, code) in limited {
            let what = format!("{line:?}, {how}: {}", words.join(" "));
            ends_in_time(&what, &[*code], || command(&site, port).args(*words).output().unwrap());
        }
    }
}

fn a_database_that_is_locked_keeps_no_check_longer_than_its_limit(line: Line) {
    let silent = Silent::new();
    let site = Site::new(line);
    let app = Connection::open(site.database()).unwrap();
    app.execute_batch("PRAGMA journal_mode=delete; CREATE TABLE t(a); BEGIN EXCLUSIVE; INSERT INTO t VALUES(1);").unwrap();
    let began = Instant::now();
    let output = command(&site, silent.port()).args(["verify", "--timeout", "2s", "default"]).output().unwrap();
    assert!(began.elapsed() < OVER, "{}", said(&output));
    assert!(output.status.code() == Some(71) && said(&output).contains("locked"), "{}", said(&output));
}

fn a_boot_ends_within_the_limit_of_its_restore(line: Line) {
    let silent = Silent::new();
    for (how, port) in [("silent", silent.port()), ("refused", closed_port())] {
        let site = Site::new(line);
        let what = format!("{line:?}, {how}: a boot");
        ends_in_time(&what, &[69], || command(&site, port).args(["--", "true"]).output().unwrap());
    }
}

/// The replica stops answering while an app runs.
fn commands_beside_an_app_end_within_their_limit(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "limits");
    let mut container: Container = site.writing("--every 1000").env("LITESTREAM_ENTRY_RESTORE_TIMEOUT", "2s").start();
    container.ready();
    eventually("a first backup", PATIENCE, || when(site.try_restore(site.database()).2.exists()));
    server.freeze();
    for words in [
        &["verify", "--timeout", "2s", "default"][..],
        &["verify", "--timeout", "2s", "--read-only", "default"],
        &["sync", "--timeout", "2s", "default"],
        &["restore", "--dry-run", "default"],
        &["resnapshot", "--timeout", "2s", "default"],
    ] {
        ends_in_time(&format!("{line:?}: {}", words.join(" ")), &[65, 69, 71], || container.exec(words));
    }
    server.thaw();
    container.kill();
}

fn many_databases_in_one_place_take_no_longer_than_one(line: Line) {
    let silent = Silent::new();
    let site = Site::new(line);
    let names: Vec<String> = (0..20).map(|n| site.path(&format!("data/{n}.db")).display().to_string()).collect();
    for name in &names {
        Connection::open(name).unwrap().execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(a);").unwrap();
    }
    for (words, code, limit) in [(&["status"][..], 0, Duration::from_secs(9)), (&["verify", "--all", "--timeout", "2s"], 65, OVER)] {
        let began = Instant::now();
        let mut command = command(&site, silent.port());
        let output = command.env_remove("DATABASE_PATH").env("LITESTREAM_DBS", names.join(",")).args(words).output().unwrap();
        let took = began.elapsed();
        assert!(took < limit, "{took:?}: {}", said(&output));
        assert!(said(&output).contains("not asked, since s3://bucket"), "{}", said(&output));
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!((0..20).all(|n| said(&output).contains(&n.to_string())), "{}", said(&output));
    }
}
