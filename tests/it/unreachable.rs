//! A replica that cannot be reached at the end: the code says so, and the last line says what is not saved.

use std::fs;

use crate::support::container::Container;
use crate::support::s3::Server;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, lines, namespaces, when};

both_lines!(file_replica_gone, file_replica_gone_and_the_app_failed, one_replica_of_two_gone, s3_server_gone,);

fn file_replica_gone(line: Line) {
    if namespaces() {
        let site = Site::new(line);
        stop_without_the_replica(&site, "--on-term exit=0", 74);
    }
}

/// The app's own code says more than ours would.
fn file_replica_gone_and_the_app_failed(line: Line) {
    if namespaces() {
        let site = Site::new(line);
        stop_without_the_replica(&site, "--on-term exit=5", 5);
    }
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

fn one_replica_of_two_gone(line: Line) {
    if !namespaces() {
        return;
    }
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

fn s3_server_gone(line: Line) {
    if !namespaces() {
        return;
    }
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
