//! `status` and `health` beside the running app: what they say must be so, also when a replica takes nothing any more.

use std::fs;
use std::process::Output;

use nix::sys::signal::Signal;
use serde_yaml::Value;

use crate::support::container::{Container, said};
use crate::support::process;
use crate::support::s3::Server;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    status_tells_of_each_database,
    status_without_a_running_boot_says_so,
    a_replica_that_takes_nothing_lags_and_is_unhealthy,
    health_is_starting_while_databases_are_restored,
    health_fails_while_litestream_is_down_and_status_counts_its_restarts,
    a_failed_verify_is_unhealthy_until_one_succeeds,
    health_of_nothing_that_is_replicated_is_good,
    a_verify_that_is_interrupted_says_nothing_of_the_backup,
    a_watch_that_nobody_reads_ends,
);

fn running(site: &Site, options: &str) -> Container {
    let mut container = site.writing(options).start();
    container.ready();
    container
}

fn json(container: &Container) -> Value {
    let output = container.exec(["status", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    serde_yaml::from_slice(&output.stdout).expect("JSON is YAML too")
}

/// Its exit code and its one line.
#[track_caller]
fn health(container: &Container, words: &[&str]) -> (i32, String) {
    let output = container.exec([&["health"], words].concat());
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let code = output.status.code().expect("it has exited");
    let line = if code == 0 { &out } else { &err };
    assert_eq!((out.lines().count() + err.lines().count(), code > 1), (1, false), "one line and 0 or 1: {}", said(&output));
    (code, line.trim().to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_fits(output: &Output) -> String {
    let text = text(&output.stdout);
    for line in text.lines() {
        let words = line.split_whitespace().count();
        assert!(line.chars().count() <= 80 || words <= 1, "wider than 80 columns: {line:?}");
    }
    text
}

fn status_tells_of_each_database(line: Line) {
    let site = Site::new(line).with_two_databases();
    let mut container = running(&site, "--every 20000");
    assert!(container.exec(["verify", "app"]).status.success());
    let told = eventually("both are up to date", PATIENCE, || {
        let json = json(&container);
        let ok = json["databases"]
            .as_sequence()?
            .iter()
            .all(|d| d["lag_seconds"].as_f64().is_some_and(|lag| lag < 3.0) && !d["last_sync"].is_null());
        ok.then_some(json)
    });
    assert_eq!(
        (told["running"].as_bool(), told["phase"].as_str(), told["replication"].as_str()),
        (Some(true), Some("running"), Some("up"))
    );
    let databases = told["databases"].as_sequence().expect("a list");
    assert_eq!(databases.iter().map(|d| d["database"].as_str()).collect::<Vec<_>>(), [Some("app"), Some("jobs")]);
    for (database, path) in databases.iter().zip(site.databases()) {
        assert_eq!(database["path"].as_str(), path.to_str());
        assert!(database["size"].as_u64().is_some() && database["wal_size"].as_u64().is_some(), "{database:?}");
        assert!(database["replica"].as_str().is_some_and(|r| r.contains("replica")), "{database:?}");
        assert!(database["position_here"].is_string() && database["position_there"].is_string(), "{database:?}");
        assert_eq!((database["proven"].as_bool(), database["lock"].as_str()), (Some(true), Some("held")), "{database:?}");
    }
    assert_eq!((databases[0]["verified"]["ok"].as_bool(), databases[1]["verified"].is_null()), (Some(true), true));
    let shown = assert_fits(&container.exec(["status"]));
    for word in ["DATABASE", "app", "jobs", "verified", "never", "LAG", "replication up"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let one = assert_fits(&container.exec(["status", "jobs"]));
    assert!(!one.contains("app:") && one.contains("jobs:"), "{one}");
    assert_eq!(container.exec(["status", "nonesuch"]).status.code(), Some(66));
    assert_eq!(container.stop(), 0);
}

fn a_verify_that_is_interrupted_says_nothing_of_the_backup(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 20000");
    eventually("all is well", PATIENCE, || when(health(&container, &[]).0 == 0));
    let interrupted = container.exec_by(&["timeout", "--signal=INT", "0.3"], ["verify", "default"]);
    assert_eq!(interrupted.status.code(), Some(124), "{}", said(&interrupted));
    assert_eq!(health(&container, &[]).0, 0);
    assert_eq!(container.stop(), 0);
}

fn a_watch_that_nobody_reads_ends(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 20000");
    let watch = container.exec_by(&["timeout", "30", "sh", "-c", "\"$@\" | head -n 1", "sh"], ["status", "--watch"]);
    assert!(watch.status.success(), "{}", said(&watch));
    assert_eq!(container.stop(), 0);
}

fn status_without_a_running_boot_says_so(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 20000");
    assert!(container.exec(["verify", "default"]).status.success());
    assert_eq!(container.stop(), 0);
    let (code, alone) = site.recipe().arguments(["status"]).run();
    let shown = text(&alone.stdout());
    assert_eq!(code, 0, "{}", alone.stderr());
    assert!(shown.contains("no litestream-entry runs here") && shown.contains("unknown"), "{shown}");
    let (code, alone) = site.recipe().arguments(["health"]).run();
    assert_eq!(code, 1, "{}", alone.stderr());
    assert!(alone.stderr().contains("no litestream-entry runs here"), "{}", alone.stderr());
}

/// The server takes connections and never answers: Litestream's own status goes on to say that all is well.
fn a_replica_that_takes_nothing_lags_and_is_unhealthy(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "hole");
    let mut container = running(&site, "--every 20000");
    eventually("all is well", PATIENCE, || when(health(&container, &["--max-lag", "3s"]).0 == 0));
    server.freeze();
    let line_of_health = eventually("it lags", PATIENCE, || {
        let (code, line) = health(&container, &["--max-lag", "3s"]);
        when(code == 1).map(|()| line)
    });
    assert!(line_of_health.contains("default: what was written is not in the replica for"), "{line_of_health}");
    let told = json(&container);
    let database = &told["databases"][0];
    assert!(database["lag_seconds"].as_f64().is_some_and(|lag| lag > 3.0), "{database:?}");
    assert!(database["unreachable"].is_string(), "{database:?}");
    assert_eq!(health(&container, &[]).0, 0, "the limit is five minutes unless one is given");
    server.thaw();
    eventually("all is well again", PATIENCE, || when(health(&container, &["--max-lag", "3s"]).0 == 0));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}

fn health_is_starting_while_databases_are_restored(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "slow");
    let mut first = running(&site, "--every 0 --rows 400");
    eventually("its rows", PATIENCE, || when(site.acknowledged() == 400));
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    fs::remove_dir_all(site.path("data")).expect("an empty volume");
    fs::create_dir(site.path("data")).expect("an empty volume");
    let _ = fs::remove_file(site.ready_file());
    // Nothing comes for as long as that is looked at.
    server.freeze();
    let mut container = site.writing("--every 20000").start();
    let said = eventually("it says that it starts", PATIENCE, || {
        let output = container.exec(["health"]);
        let text = text(&output.stderr);
        when(output.status.code() == Some(1) && text.contains("starting: default: restoring, ")).map(|()| text)
    });
    assert!(!site.ready_file().exists(), "before the app runs: {said}");
    server.thaw();
    container.ready();
    eventually("all is well", PATIENCE, || when(health(&container, &[]).0 == 0));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}

fn health_fails_while_litestream_is_down_and_status_counts_its_restarts(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 20000");
    process::send(container.running_litestream().pid, Signal::SIGKILL);
    let told = eventually("it was started again", PATIENCE, || {
        let told = json(&container);
        when(told["restarts"].as_u64() == Some(1) && told["replication"].as_str() == Some("up")).map(|()| told)
    });
    assert!(told["events"][0]["text"].as_str().is_some_and(|text| text.contains("litestream ended with")), "{told:?}");
    eventually("all is well", PATIENCE, || when(health(&container, &[]).0 == 0));
    assert_eq!(container.stop(), 0, "{}", container.stderr());

    let site = Site::new(line).with_variables(&[("LITESTREAM_ENTRY_ON_REPLICATION_FAILURE", "ignore")]);
    let mut container = running(&site, "--every 20000");
    process::send(container.running_litestream().pid, Signal::SIGKILL);
    let said = eventually("it is not well", PATIENCE, || {
        let (code, line) = health(&container, &[]);
        // A moment before PID 1 has seen its end, it only does not answer.
        when(code == 1 && line.contains("replication has ended")).map(|()| line)
    });
    assert_eq!(said.lines().count(), 1);
    container.stop();
}

fn a_failed_verify_is_unhealthy_until_one_succeeds(line: Line) {
    let site = Site::new(line);
    let mut container = running(&site, "--every 20000");
    eventually("all is well", PATIENCE, || when(health(&container, &["--require-verified-within", "1h"]).0 == 0));
    let old = eventually("the start is too long ago for that", PATIENCE, || {
        let (code, line) = health(&container, &["--require-verified-within", "1s"]);
        when(code == 1).map(|()| line)
    });
    assert!(old.contains("default: its backup has not been proved since the start"), "{old}");
    assert!(container.exec(["verify", "default"]).status.success());
    let litestream = container.running_litestream().pid;
    process::send(litestream, Signal::SIGSTOP);
    assert_eq!(container.exec(["verify", "--timeout", "1s", "default"]).status.code(), Some(65));
    process::send(litestream, Signal::SIGCONT);
    let failed = eventually("it says which", PATIENCE, || {
        let (code, line) = health(&container, &[]);
        when(code == 1 && line.contains("default: verify failed ")).map(|()| line)
    });
    assert!(failed.contains("replication is cut or behind") && !failed.contains("NOT PROVED"), "{failed}");
    assert!(assert_fits(&container.exec(["status"])).contains("FAILED"));
    assert!(container.exec(["verify", "default"]).status.success());
    assert_eq!(health(&container, &["--require-verified-within", "1m"]).0, 0);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}

fn health_of_nothing_that_is_replicated_is_good(line: Line) {
    let site = Site::new(line);
    let (code, alone) = site.plain_recipe().arguments(["health"]).run();
    assert_eq!(code, 0, "{}", alone.stderr());
    assert!(text(&alone.stdout()).contains("nothing is replicated"), "{}", text(&alone.stdout()));
}
