//! A directory of databases (0.5): each is replicated, confirmed, verified and continuous as a database of its own.

use std::fs;
use std::path::PathBuf;

use crate::support::container::{Container, Recipe, said};
use crate::support::contents::Contents;
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, namespaces, when};

/// A site whose databases are in a directory that is named as a whole; the replica has them below it by name.
fn tenants(names: &[&str]) -> (Site, Vec<PathBuf>) {
    let site = Site::new(Line::V05).with_databases(names);
    let paths = site.databases().to_vec();
    (site, paths)
}

fn recipe(site: &Site, options: &str) -> Recipe {
    let directory = site.databases()[0].parent().unwrap().to_owned();
    site.writing(options).without("LITESTREAM_DBS").without("DATABASE_PATH").env("LITESTREAM_DB_DIR", directory)
}

fn running(site: &Site, options: &str) -> Container {
    let mut container = recipe(site, options).start();
    container.ready();
    container
}

#[test]
fn what_was_acknowledged_in_each_is_saved_over_restarts() {
    if !namespaces() {
        return;
    }
    let (site, _) = tenants(&["one.db", "two.db"]);
    for _ in 0..5 {
        let mut container = running(&site, "--every 300");
        site.write_on(400);
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        site.assert_saved();
    }
}

#[test]
fn each_is_verified_by_its_name_or_path_and_one_that_comes_later_is_too() {
    if !namespaces() {
        return;
    }
    let (site, paths) = tenants(&["one.db", "two.db"]);
    let mut container = running(&site, "--every 3000");
    for name in ["one", paths[1].to_str().unwrap()] {
        let output = container.exec(["verify", name]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let later = paths[0].with_file_name("later.db");
    fs::copy(&paths[0], &later).unwrap();
    eventually("the new one is verified", PATIENCE, || when(container.exec(["verify", "--timeout", "3s", "later"]).status.success()));
    let all = container.exec(["ltx", "later"]);
    assert!(all.status.success() && String::from_utf8_lossy(&all.stdout).lines().count() > 1, "{}", said(&all));
    // Each command has a configuration of its own, and takes it away with it.
    let four = |name: &'static str| {
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| container.exec(["verify", name]))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
        })
    };
    assert!(four("one").iter().all(|output| output.status.success()));
    let left =
        fs::read_dir(site.path("run")).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().starts_with("litestream-each-"));
    // Only the worker's that holds the pins.
    assert!(left.count() <= 1);
    let unknown = container.exec(["verify", "nobody"]);
    assert_eq!(unknown.status.code(), Some(66), "{}", said(&unknown));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

#[test]
fn one_that_is_lost_is_restored_by_its_path() {
    if !namespaces() {
        return;
    }
    let (site, paths) = tenants(&["one.db", "two.db"]);
    let mut container = running(&site, "--every 3000");
    site.write_on(100);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    let before = Contents::of(&paths[1]);
    lose(&paths[1]);
    let directory = paths[0].parent().unwrap();
    let restore = || {
        site.plain_recipe()
            .env("LITESTREAM_DB_DIR", directory)
            .env("LITESTREAM_REPLICA_URL", format!("file://{}", site.replica().display()))
    };
    let (code, restored) = restore().arguments(["restore".as_ref(), paths[1].as_os_str()]).run();
    assert_eq!(code, 0, "{}", restored.stderr());
    assert_eq!(Contents::of(&paths[1]).difference(&before), None);
}

#[test]
fn a_directory_has_one_replicator_and_may_be_missing_at_first() {
    if !namespaces() {
        return;
    }
    let (site, paths) = tenants(&["one.db", "two.db"]);
    let directory = paths[0].parent().unwrap().to_owned();
    let _ = fs::remove_dir_all(&directory);
    let mut container = running(&site, "--every 3000");
    let second =
        recipe(&site, "--every 3000").env("LITESTREAM_ENTRY_LOCK", "refuse").env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("run2"));
    let (code, refused) = second.run();
    assert_eq!(code, 71, "{}", refused.stderr());
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}
