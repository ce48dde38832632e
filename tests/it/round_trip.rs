//! The main job: what the app acknowledged before a stop is there after the volume was lost.

use std::path::Path;

use crate::support::contents::Contents;
use crate::support::s3::Server;
use crate::support::site::{Site, lose};
use crate::support::{Line, namespaces, skip};

both_lines!(file_replica, s3_replica, s3_replica_with_misleading_variables, two_databases, two_databases_in_a_bucket);

fn file_replica(line: Line) {
    lose_everything_and_start_again(&Site::new(line));
}

fn s3_replica(line: Line) {
    let Some(server) = needed_server() else {
        return;
    };
    lose_everything_and_start_again(&Site::new(line).in_bucket_of(&server, "one"));
}

/// The app's own variables, which Litestream would obey: `AWS_CA_BUNDLE` breaks the S3 client of 0.5.
fn s3_replica_with_misleading_variables(line: Line) {
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    if !Path::new(bundle).exists() {
        return skip(format!("no {bundle}"));
    }
    let Some(server) = needed_server() else {
        return;
    };
    let site = Site::new(line).in_bucket_of(&server, "bundle");
    let variables = [("AWS_CA_BUNDLE", bundle), ("LOG_LEVEL", "error"), ("LITESTREAM_LOG_LEVEL", "info")];
    lose_everything_and_start_again(&site.with_variables(&variables));
}

fn two_databases(line: Line) {
    lose_everything_and_start_again(&Site::new(line).with_two_databases());
}

fn two_databases_in_a_bucket(line: Line) {
    let Some(server) = needed_server() else {
        return;
    };
    lose_everything_and_start_again(&Site::new(line).with_two_databases().in_bucket_of(&server, "two"));
}

fn needed_server() -> Option<Server> {
    if namespaces() { Server::start() } else { None }
}

fn lose_everything_and_start_again(site: &Site) {
    let mut first = site.writing("--every 2000").start();
    first.ready();
    let litestream = first.running_litestream();
    let arguments = litestream.arguments.concat();
    assert!(arguments.windows(5).any(|word| word == b"-exec"), "it is `litestream replicate -exec`");
    site.write_on(200);
    assert_eq!(first.stop(), 0);
    site.assert_saved();
    let before: Vec<_> = site.databases().iter().map(|path| Contents::of(path)).collect();

    for database in site.databases() {
        lose(database);
    }
    // The writer itself looks for every row that it has acknowledged, and exits 99 if one is missing.
    let mut second = site.writing("--rows 1").start();
    second.ready();
    assert_eq!(second.stop(), 0);
    site.assert_saved();
    for (before, database) in before.iter().zip(site.databases()) {
        assert_eq!(Contents::of(database).last(), before.last() + 1, "it went on where it had stopped");
    }
}
