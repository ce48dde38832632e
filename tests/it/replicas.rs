//! Every replica type against a real server: write, stop, wipe, boot, compare. Files and S3 are in
//! `round_trip`; for Azure there is no server that can be had here, so only its configuration is tested.

use std::fs;
use std::process::Command;

use rusqlite::Connection;

use crate::support::container::{Recipe, said};
use crate::support::contents::Contents;
use crate::support::server::closed_port;
use crate::support::site::{Form, Site, lose};
use crate::support::stores::{BUCKET, Kind, Store};
use crate::support::{Line, PATIENCE, SEARCH_PATH, eventually, lines, when};

both_lines!(
    what_is_written_to_google_comes_back,
    what_is_written_to_google_by_a_url_comes_back,
    what_is_written_by_sftp_with_a_password_comes_back,
    what_is_written_by_sftp_with_a_key_comes_back,
    what_is_written_by_sftp_by_a_url_comes_back,
    an_app_starts_before_its_sftp_server_and_is_replicated_then,
    azures_configuration_is_accepted_by_litestream,
);

only_0_5!(
    what_is_written_to_nats_comes_back,
    what_is_written_by_webdav_comes_back,
    what_is_written_by_webdav_by_a_url_comes_back,
    what_is_written_to_alibaba_comes_back,
    what_is_written_to_alibaba_by_variables_comes_back,
    an_app_starts_before_its_nats_server_and_is_replicated_then,
    an_app_starts_before_its_webdav_server_and_is_replicated_then,
    a_list_with_the_older_key_on_the_newer_line,
    two_databases_of_a_list_with_one_replica_are_refused,
    two_databases_with_one_nats_bucket_are_refused,
);

only_0_3!(a_list_with_the_newer_key_on_the_older_line,);

// The form is how the program is told of the replica.

fn what_is_written_to_google_comes_back(line: Line) {
    round_trip(line, Kind::Gs, Form::Variables);
}

fn what_is_written_to_google_by_a_url_comes_back(line: Line) {
    round_trip(line, Kind::Gs, Form::Url);
}

fn what_is_written_by_sftp_with_a_password_comes_back(line: Line) {
    round_trip(line, Kind::SftpPassword, Form::Variables);
}

fn what_is_written_by_sftp_with_a_key_comes_back(line: Line) {
    round_trip(line, Kind::SftpKey, Form::List);
}

fn what_is_written_by_sftp_by_a_url_comes_back(line: Line) {
    round_trip(line, Kind::SftpPassword, Form::Url);
}

fn what_is_written_to_nats_comes_back(line: Line) {
    round_trip(line, Kind::Nats, Form::Variables);
}

fn what_is_written_by_webdav_comes_back(line: Line) {
    round_trip(line, Kind::Webdav, Form::Variables);
}

fn what_is_written_by_webdav_by_a_url_comes_back(line: Line) {
    round_trip(line, Kind::Webdav, Form::Url);
}

fn what_is_written_to_alibaba_comes_back(line: Line) {
    round_trip(line, Kind::Oss, Form::List);
}

fn what_is_written_to_alibaba_by_variables_comes_back(line: Line) {
    round_trip(line, Kind::Oss, Form::Variables);
}

fn an_app_starts_before_its_sftp_server_and_is_replicated_then(line: Line) {
    comes_after_the_app(line, Kind::SftpPassword, Form::List);
}

fn an_app_starts_before_its_nats_server_and_is_replicated_then(line: Line) {
    comes_after_the_app(line, Kind::Nats, Form::List);
}

fn an_app_starts_before_its_webdav_server_and_is_replicated_then(line: Line) {
    comes_after_the_app(line, Kind::Webdav, Form::List);
}

#[test]
fn nats_on_0_3_is_refused() {
    let keys = [("type", "nats"), ("url", "nats://127.0.0.1:4222/bucket")];
    needs_litestream_0_5("nats", &keys, "nats://127.0.0.1:4222/bucket");
}

#[test]
fn webdav_on_0_3_is_refused() {
    let keys = [("type", "webdav"), ("webdav-url", "http://127.0.0.1:8080"), ("path", "/a")];
    needs_litestream_0_5("webdav", &keys, "webdav://127.0.0.1:8080/a");
}

#[test]
fn alibaba_on_0_3_is_refused() {
    let keys = [("type", "oss"), ("bucket", "bucket"), ("path", "a")];
    needs_litestream_0_5("oss", &keys, "oss://bucket/a");
}

fn round_trip(line: Line, kind: Kind, form: Form) {
    let Some(store) = Store::start(kind) else {
        return;
    };
    let site = Site::new(line).in_store(&store, form);
    let mut first = site.writing("--every 2000").start();
    first.ready();
    site.write_on(100);
    assert_eq!(first.stop(), 0);
    site.assert_saved();
    let before = Contents::of(site.database());

    lose(site.database());
    // The writer itself looks for every row that it has acknowledged, and exits 99 if one is missing.
    let mut second = site.writing("--rows 1").start();
    second.ready();
    assert_eq!(second.stop(), 0);
    site.assert_saved();
    assert_eq!(Contents::of(site.database()).last(), before.last() + 1, "it went on where it had stopped");
}

/// Where Litestream 0.5 ends at once since its server is down, the app that has its database starts all the
/// same, and its rows are replicated when the server is there.
fn comes_after_the_app(line: Line, kind: Kind, form: Form) {
    let Some(mut store) = Store::down(kind) else {
        return;
    };
    let site = Site::new(line).in_store(&store, form);
    let words = site.writer("--every 1000 --live 50");
    let earlier = Command::new(&words[0]).args(&words[1..]).status();
    assert!(earlier.is_ok_and(|status| status.success()), "there is a database");
    let mut container = site.writing("--every 5000").start();
    container.ready();
    site.write_on(50);
    store.up();
    let target = site.acknowledged();
    eventually("the backup has every row of before", PATIENCE, || when(site.backed_up() >= target));
    site.write_on(50);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// The older line does not have this type: however it is configured, the boot ends with one clear line.
fn needs_litestream_0_5(kind: &str, keys: &[(&'static str, &str)], url: &str) {
    let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
    // Of several variables any may be the one that is named.
    let told = [(Form::Url, "LITESTREAM_REPLICA_URL"), (Form::Variables, "LITESTREAM_REPLICA_"), (Form::List, "LITESTREAM_DBS")];
    for (form, variable) in told {
        let site = Site::new(Line::V03).with_replica(keys.clone(), url, form);
        // With the database here nothing but the configuration can stop the boot.
        make_database(&site);
        refused_with_one_line(&site, site.recipe(), &[variable, kind, "0.5"]);
    }
}

fn a_list_with_the_newer_key_on_the_older_line(line: Line) {
    write_with_the_other_lines_key(&Site::new(line));
}

fn a_list_with_the_older_key_on_the_newer_line(line: Line) {
    write_with_the_other_lines_key(&Site::new(line));
}

/// `replica:` is 0.5's key and `replicas:` 0.3's. Litestream 0.3 ignores the former without a word.
fn write_with_the_other_lines_key(site: &Site) {
    let replica = format!("{{\"type\": \"file\", \"path\": {:?}}}", site.replica().display().to_string());
    let theirs = match site.line {
        Line::V03 => format!("\"replica\": {replica}"),
        Line::V05 => format!("\"replicas\": [{replica}]"),
    };
    let list = format!("[{{\"path\": {:?}, {theirs}}}]", site.database().display().to_string());
    let recipe = site.plain_recipe().env("LITESTREAM_DBS", list).app(site.writer("--every 2000"));
    let mut container = recipe.start();
    container.ready();
    site.write_on(50);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

fn two_databases_of_a_list_with_one_replica_are_refused(line: Line) {
    let site = Site::new(line).with_two_databases();
    let replica = format!("{{\"type\": \"file\", \"path\": {:?}}}", site.replica().display().to_string());
    let paths = site.databases().iter().map(|path| path.display().to_string());
    let entries: Vec<_> = paths.map(|path| format!("{{\"path\": {path:?}, \"replica\": {replica}}}")).collect();
    let recipe = site.plain_recipe().env("LITESTREAM_DBS", format!("[{}]", entries.join(", ")));
    refused_with_one_line(&site, recipe, &["LITESTREAM_DBS", "share"]);
}

/// In a bucket of NATS there are no paths, hence no room for a second database.
fn two_databases_with_one_nats_bucket_are_refused(line: Line) {
    let site = Site::new(line).with_two_databases();
    let recipe = site.recipe().env("LITESTREAM_REPLICA_URL", format!("nats://127.0.0.1:{}/{BUCKET}", closed_port()));
    refused_with_one_line(&site, recipe.env("LITESTREAM_ENTRY_RESTORE_TIMEOUT", "2s"), &["LITESTREAM_REPLICA_URL"]);
}

/// No server of Azure's storage can be had from `PyPI` or Debian: what is tested is that Litestream takes what the
/// program makes of the settings, and that the app starts.
fn azures_configuration_is_accepted_by_litestream(line: Line) {
    let endpoint = format!("http://127.0.0.1:{}/account", closed_port());
    // Azure's keys are Base64.
    let keys = [("type", "abs"), ("account-name", "account"), ("account-key", "a2V5"), ("bucket", "container"), ("path", "a")];
    let keys = keys.iter().copied().chain([("endpoint", endpoint.as_str())]).map(|(key, value)| (key, value.to_owned()));
    let site = Site::new(line).with_replica(keys.collect(), "abs://account@container/a", Form::List);
    // With a database here the server is not asked for one.
    make_database(&site);
    let mut container = site.writing("--every 2000").start();
    container.ready();
    let config = site.path("run/litestream.yml");
    let text = fs::read_to_string(&config).expect("the configuration");
    assert!(text.contains("abs") && text.contains(&endpoint), "{text}");
    let mut litestream = Command::new(line.binary());
    litestream.args(["databases", "-config"]).arg(&config).env_clear().env("PATH", SEARCH_PATH);
    let output = litestream.output().expect("Litestream runs");
    assert!(output.status.success() && said(&output).contains("abs"), "{}", said(&output));
}

/// A database that is not the writer's.
fn make_database(site: &Site) {
    let connection = Connection::open(site.database()).expect("a database");
    connection.execute_batch("CREATE TABLE other (id INTEGER PRIMARY KEY)").expect("a table");
}

/// Code 78, one line with these words, and the app has not run.
#[track_caller]
fn refused_with_one_line(site: &Site, recipe: Recipe, words: &[&str]) {
    let (code, container) = recipe.shell(&format!("echo ran > {}", site.path("ran").display())).run();
    let stderr = container.stderr();
    assert_eq!(code, 78, "{stderr}");
    assert!(!site.path("ran").exists(), "the app never ran");
    assert_eq!(lines(&stderr).len(), 1, "one clear line: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "it names {word}: {stderr}");
    }
}
