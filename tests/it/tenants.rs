//! A directory of databases (0.5): each is replicated, confirmed, verified and continuous as a database of its own.

use std::fs;
use std::path::PathBuf;

use crate::support::container::{Container, Recipe, said};
use crate::support::contents::{Contents, beside};
use crate::support::s3::Server;
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, when};

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

/// A lost directory, whatever the replica is: a folder can be looked into, of a bucket only the list tells.
#[test]
fn what_is_lost_comes_back_at_a_boot_but_not_what_the_app_has_removed() {
    let Some(server) = Server::start() else { return };
    for bucket in [false, true] {
        let (mut site, paths) = tenants(&["one.db", "two.db"]);
        if bucket {
            site = site.in_bucket_of(&server, "tenants");
        }
        let mut container = running(&site, "--every 3000");
        site.write_on(100);
        // Two that come while the app runs, and one that goes.
        let (later, removed) = (paths[0].with_file_name("later.db"), paths[0].with_file_name("removed.db"));
        for copy in [&later, &removed] {
            fs::copy(&paths[0], copy).unwrap();
            fs::copy(beside(&paths[0], "-wal"), beside(copy, "-wal")).unwrap();
        }
        for name in ["later", "removed"] {
            eventually("it is replicated", PATIENCE, || when(container.exec(["verify", "--timeout", "3s", name]).status.success()));
        }
        let listed = || {
            let list = paths[0].with_file_name(".litestream-entry-tenants");
            let names = rusqlite::Connection::open(list).unwrap();
            let mut names = names.prepare("SELECT name FROM tenants WHERE NOT removed ORDER BY name").unwrap();
            names.query_map((), |row| row.get::<_, String>(0)).unwrap().flatten().collect::<Vec<_>>()
        };
        eventually("it is listed", PATIENCE, || when(listed() == ["later.db", "one.db", "removed.db", "two.db"]));
        lose(&removed);
        eventually("it is listed as removed", PATIENCE, || when(listed() == ["later.db", "one.db", "two.db"]));
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        let before: Vec<Contents> = [&paths[0], &paths[1], &later].map(|path| Contents::of(path)).into();
        let directory = paths[0].parent().unwrap();
        fs::remove_dir_all(directory).unwrap();
        let mut container = running(&site, "--every 100000");
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        assert!(!removed.exists(), "{}", container.stderr());
        assert_eq!(Contents::of(&later).difference(&before[2]), None);
        for (path, before) in paths.iter().zip(&before) {
            assert!(Contents::of(path).last() >= before.last(), "{}", container.stderr());
        }
        // One that is lost while nobody looks comes back, too; `--all` restores it by hand.
        lose(&later);
        let (code, restored) = recipe(&site, "").arguments_instead(["restore", "--all", "--if-db-not-exists"]).run();
        assert_eq!(code, 0, "{}", restored.stderr());
        assert_eq!(Contents::of(&later).difference(&before[2]), None);
    }
}

#[test]
fn a_directory_has_one_replicator_and_may_be_missing_at_first() {
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

#[test]
fn one_by_whose_name_litestream_opens_another_file_is_left_out() {
    let (site, _) = tenants(&["one.db", "jobs.db"]);
    let mut container = running(&site, "--every 2000");
    site.write_on(100);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    fs::copy(site.database(), site.path("data/two?.db")).unwrap();
    let mut container = running(&site, "--every 2000");
    site.write_on(100);
    assert!(container.stderr().contains("two?.db: its name"), "{}", container.stderr());
    let all = container.exec(["verify", "--all"]);
    assert!(all.status.success() && !said(&all).contains("two"), "{}", said(&all));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
    // Litestream has opened another file in its stead, and what it saved of it is no backup.
    lose(&site.path("data/two?.db"));
    let mut container = running(&site, "--every 2000");
    assert!(!site.path("data/two?.db").exists());
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    // Nor can a directory be named so.
    let odd = site.path("da?ta");
    fs::create_dir(&odd).unwrap();
    let (code, container) = recipe(&site, "").env("LITESTREAM_DB_DIR", &odd).run();
    let said = container.stderr();
    assert!(code == 78 && said.contains("LITESTREAM_DB_DIR") && said.contains("da?ta"), "{code}: {said}");
}
