//! A replica that cannot be reached at the end: the code says so, and the last line says what is not saved.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::container::Container;
use crate::support::s3::Server;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, lines, when};

both_lines!(
    a_file_replica_that_is_gone_at_the_stop_is_said,
    an_app_that_failed_keeps_its_code_when_the_replica_is_gone,
    of_two_replicas_the_one_that_is_gone_is_said,
    an_s3_server_that_is_gone_at_the_stop_is_said,
    the_stop_budget_holds_whatever_the_app_does_and_the_replica_does_not,
);

fn a_file_replica_that_is_gone_at_the_stop_is_said(line: Line) {
    let site = Site::new(line);
    stop_without_the_replica(&site, "--on-term exit=0", 74);
}

/// The app's own code says more than ours would.
fn an_app_that_failed_keeps_its_code_when_the_replica_is_gone(line: Line) {
    let site = Site::new(line);
    stop_without_the_replica(&site, "--on-term exit=5", 5);
}

fn stop_without_the_replica(site: &Site, options: &str, code: i32) {
    let mut container = site.writing(&format!("--every 1000 {options}")).start();
    container.ready();
    write_until_replicated(site);
    // A file where a directory has to be: nobody can write below it, not even root.
    fs::rename(site.replica(), site.path("away")).expect("the replica moves away");
    fs::write(site.replica(), "").expect("a file in its place");
    site.write_on(50);
    assert_eq!(container.stop(), code);
    assert_names(&container, "app.db");
}

fn of_two_replicas_the_one_that_is_gone_is_said(line: Line) {
    let site = Site::new(line).with_two_databases();
    let mut container = site.writing("--every 1000").start();
    container.ready();
    write_until_replicated(&site);
    let replica = site.replica().join("jobs.db");
    fs::rename(&replica, site.path("away")).expect("the replica moves away");
    fs::write(&replica, "").expect("a file in its place");
    site.write_on(50);
    assert_eq!(container.stop(), 74);
    assert_names(&container, "jobs");
    let last = last_line(&container);
    assert!(!last.contains("app"), "the other one is saved: {last}");
}

fn an_s3_server_that_is_gone_at_the_stop_is_said(line: Line) {
    let Some(mut server) = Server::start() else {
        return;
    };
    let site = Site::new(line).in_bucket_of(&server, "gone");
    let mut container = site.writing("--every 1000").start();
    container.ready();
    write_until_replicated(&site);
    server.kill();
    site.write_on(50);
    assert_eq!(container.stop(), 74);
    assert_names(&container, "app.db");
}

/// Fly's five seconds, Docker's ten, Kubernetes' thirty: an app that ignores TERM or drains, a replica that is gone, a second and a
/// third signal. The whole is over before who stops us would kill.
fn the_stop_budget_holds_whatever_the_app_does_and_the_replica_does_not(line: Line) {
    let site = |gone: bool, budget: u64, options: &str| {
        let site = Site::new(line);
        let mut container =
            site.writing(&format!("--every 1000 {options}")).env("LITESTREAM_ENTRY_STOP_TIMEOUT", format!("{budget}s")).start();
        container.ready();
        write_until_replicated(&site);
        if gone {
            fs::rename(site.replica(), site.path("away")).expect("the replica moves away");
            fs::write(site.replica(), "").expect("a file in its place");
            site.write_on(50);
        }
        (site, container)
    };
    for (gone, budget, options, signals, codes) in [
        (false, 5, "--on-term ignore", 1, [137, 137]),
        (true, 5, "--on-term ignore", 1, [137, 137]),
        (false, 10, "--on-term drain=4000", 1, [0, 0]),
        (true, 30, "--on-term drain=1000", 3, [74, 74]),
        (false, 30, "--on-term exit=0", 1, [0, 0]),
    ] {
        let (site, mut container) = site(gone, budget, options);
        let began = Instant::now();
        container.signal(Signal::SIGTERM);
        for _ in 1..signals {
            // Each goes to the app while it lives; then it cuts the sync short.
            std::thread::sleep(Duration::from_millis(900));
            container.signal_if_any(Signal::SIGTERM);
        }
        let code = container.wait(Duration::from_secs(budget));
        println!("{line:?}: {budget} s, {options}, gone {gone}, {signals} signals: {code} after {:?}", began.elapsed());
        assert!(codes.contains(&code), "{code}: {}", container.stderr());
        if gone {
            assert!(container.stderr().contains("NOT SAVED"), "{}", container.stderr());
        } else {
            site.assert_saved();
        }
    }
}

/// Until there is something to restore for every database, so that the replica is in full swing.
fn write_until_replicated(site: &Site) {
    for database in site.databases() {
        eventually("a first backup", PATIENCE, || when(site.try_restore(database).2.exists()));
    }
}

fn last_line(container: &Container) -> String {
    lines(&container.stderr()).last().map(ToString::to_string).unwrap_or_default()
}

fn assert_names(container: &Container, database: &str) {
    let last = last_line(container);
    assert!(
        last.contains(database) || (database == "app.db" && last.contains("default")),
        "the last line names the database that is not saved: {last}"
    );
}
