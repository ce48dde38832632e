//! PID 1 is root, and the app, which owns the directory of its data, is not: what it leaves in the place of this program's files leads
//! root nowhere, keeps nobody waiting, and takes no lock away.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::container::{Container, Recipe};
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, root, when};

both_lines!(
    a_link_in_the_place_of_the_mark_is_not_followed,
    whatever_is_in_the_place_of_the_mark_is_replaced,
    what_is_not_a_file_keeps_nobody_waiting,
    who_deletes_the_lock_does_not_get_it,
    a_link_in_the_place_of_litestreams_directory_is_not_followed_by_us,
    what_root_makes_is_the_apps,
);

const USER: u32 = 4711;
const MARK: &str = ".app.db-litestream-entry";
/// What an app must not get at.
const SECRET: &str =
    "clean 1, and much that nobody but root may read or write, longer than any mark is, so that something of it is left over";

/// A site whose data belongs to the app; everything else is root's.
fn site(line: Line) -> Option<Site> {
    if !root() {
        return None;
    }
    let site = Site::new(line);
    fs::set_permissions(site.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    chown(site.path("data"), Some(USER), Some(USER)).unwrap();
    fs::write(site.path("secret"), SECRET).unwrap();
    fs::set_permissions(site.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    for name in ["ack", "ready"] {
        fs::write(site.path(name), "").unwrap();
        chown(site.path(name), Some(USER), Some(USER)).unwrap();
    }
    Some(site)
}

/// The writer, which has given up root's rights by itself.
fn writing(site: &Site) -> Recipe {
    let user = [format!("--reuid={USER}"), format!("--regid={USER}")];
    let drop = ["/usr/bin/setpriv".to_owned()].into_iter().chain(user).chain(["--clear-groups".to_owned()]).map(Into::into);
    site.recipe().app(drop.chain(site.writer("--every 2000")))
}

fn start(site: &Site) -> Container {
    // The handshake's file is made by the app, in a directory that is not its own.
    chown(site.path("."), Some(USER), Some(USER)).unwrap();
    let mut container = writing(site).start();
    container.ready();
    chown(site.path("."), Some(0), Some(0)).unwrap();
    container
}

fn mark(site: &Site) -> PathBuf {
    site.path("data").join(MARK)
}

#[track_caller]
fn assert_secret(site: &Site) {
    assert_eq!(fs::read_to_string(site.path("secret")).unwrap(), SECRET);
    let about = fs::metadata(site.path("secret")).unwrap();
    assert_eq!((about.uid(), about.mode() & 0o777), (0, 0o600), "its owner and mode");
}

/// A file of one name, as this program makes it.
#[track_caller]
fn assert_is_a_mark(site: &Site) {
    let about = fs::symlink_metadata(mark(site)).unwrap();
    assert!(about.is_file() && about.nlink() == 1, "{about:?}");
    assert_eq!(about.uid(), USER, "it belongs to whom the directory belongs");
}

fn fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    nix::unistd::mkfifo(path.as_c_str(), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
}

fn a_link_in_the_place_of_the_mark_is_not_followed(line: Line) {
    let Some(site) = site(line) else { return };
    for target in ["secret", "made-by-root"] {
        let mut container = start(&site);
        site.write_on(50);
        fs::remove_file(mark(&site)).unwrap();
        symlink(site.path(target), mark(&site)).unwrap();
        site.write_on(50);
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        assert_secret(&site);
        assert!(!site.path("made-by-root").exists());
        site.assert_saved();
        // The next boot finds it, too.
        let _ = fs::remove_file(mark(&site));
        symlink(site.path(target), mark(&site)).unwrap();
        let mut container = start(&site);
        assert_is_a_mark(&site);
        assert!(container.stderr().contains("symbolic link"), "{}", container.stderr());
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        assert_secret(&site);
        assert!(!site.path("made-by-root").exists());
        site.assert_saved();
    }
}

fn whatever_is_in_the_place_of_the_mark_is_replaced(line: Line) {
    let Some(site) = site(line) else { return };
    let kinds: [(&str, &dyn Fn()); 2] =
        [("FIFO", &|| fifo(&mark(&site))), ("another name", &|| fs::hard_link(site.path("secret"), mark(&site)).unwrap())];
    for (kind, plant) in kinds {
        let _ = fs::remove_file(mark(&site));
        plant();
        let mut container = start(&site);
        assert_is_a_mark(&site);
        assert!(container.stderr().contains(kind), "{}", container.stderr());
        site.write_on(50);
        fs::remove_file(mark(&site)).unwrap();
        plant();
        eventually("it is a file again", PATIENCE, || when(fs::symlink_metadata(mark(&site)).is_ok_and(|m| m.is_file() && m.nlink() == 1)));
        site.write_on(50);
        assert!(container.exec(["status"]).status.success());
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        assert_is_a_mark(&site);
        assert_secret(&site);
        site.assert_saved();
    }
    // What may hold something is not taken away.
    fs::remove_file(mark(&site)).unwrap();
    fs::create_dir(mark(&site)).unwrap();
    let (code, refused) = writing(&site).run();
    assert!(code == 71 && refused.stderr().contains("is a directory"), "{code}: {}", refused.stderr());
}

fn what_is_not_a_file_keeps_nobody_waiting(line: Line) {
    let Some(site) = site(line) else { return };
    assert_eq!(start(&site).stop(), 0);
    let database = site.database().to_owned();
    let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", database.display()));
    // What SQLite itself would wait for.
    for suffix in ["-journal", "-wal", "-shm"] {
        let _ = fs::remove_file(beside(suffix));
        fifo(&beside(suffix));
        let (code, refused) = writing(&site).run();
        assert!(code == 71 && refused.stderr().contains("is a FIFO"), "{suffix}: {code}: {}", refused.stderr());
        fs::remove_file(beside(suffix)).unwrap();
    }
    let _ = fs::remove_file(beside("-wal"));
    lose(&database);
    fifo(&database);
    let (code, refused) = writing(&site).run();
    assert!(code == 65 && refused.stderr().contains("is not a SQLite database"), "{code}: {}", refused.stderr());
    fs::remove_file(&database).unwrap();
    // In Litestream's own directory.
    assert_eq!(start(&site).stop(), 0);
    let newest = match line {
        Line::V05 => fs::read_dir(site.path("data/.app.db-litestream/ltx/0")).unwrap().map(|e| e.unwrap().path()).max().unwrap(),
        Line::V03 => site.path("data/.app.db-litestream/generation"),
    };
    fs::remove_file(&newest).unwrap();
    fifo(&newest);
    // What is waited for is their ends.
    site.recipe().arguments(["status"]).run();
    let mut container = writing(&site).start();
    container.signal_if_any(Signal::SIGTERM);
    container.wait(PATIENCE);
}

/// It is locked by its inode, and a second container would get the lock on a new one.
fn who_deletes_the_lock_does_not_get_it(line: Line) {
    let Some(site) = site(line) else { return };
    let mut first = start(&site);
    site.write_on(50);
    fs::remove_file(mark(&site)).unwrap();
    let app = format!("touch {}; while :; do sleep 1; done", site.path("started").display());
    let second = |lock: &str| {
        let runtime = site.path(&format!("run-{lock}"));
        site.recipe().env("LITESTREAM_ENTRY_RUNTIME_DIR", runtime).env("LITESTREAM_ENTRY_LOCK", lock).shell(&app)
    };
    let (code, refused) = second("refuse").run();
    assert!(code == 71 && refused.stderr().contains("another process replicates it"), "{code}: {}", refused.stderr());
    let _ = fs::remove_file(mark(&site));
    let new = second("standby").start();
    eventually("it stands by", PATIENCE, || when(new.stderr().contains("standing by to take over")));
    eventually("the holder has seen it", PATIENCE, || when(first.stderr().contains("was removed")));
    assert_is_a_mark(&site);
    eventually("the app of the other starts", PATIENCE, || when(site.path("started").exists()));
    assert!(first.litestream().is_some() && new.litestream().is_none(), "one of them replicates");
    site.write_on(50);
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    eventually("the other takes over", PATIENCE, || when(new.litestream().is_some()));
    drop(new);
    site.assert_saved();
}

fn a_link_in_the_place_of_litestreams_directory_is_not_followed_by_us(line: Line) {
    let Some(site) = site(line) else { return };
    assert_eq!(start(&site).stop(), 0);
    let (meta, elsewhere) = (site.path("data/.app.db-litestream"), site.path("elsewhere"));
    for folder in ["ltx/0", "generations"] {
        fs::create_dir_all(elsewhere.join(folder)).unwrap();
    }
    fs::write(elsewhere.join("generation"), "0123456789abcdef\n").unwrap();
    let before = everything(&elsewhere);
    fs::rename(&meta, site.path("data/kept")).unwrap();
    symlink(&elsewhere, &meta).unwrap();
    lose(site.database());
    // A restore leaves there what Litestream is to go on with.
    let (code, restored) = site.recipe().arguments(["restore", "default"]).run();
    assert_eq!(code, 0, "{}", restored.stderr());
    assert_eq!(everything(&elsewhere), before);
}

fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries
        .flat_map(|path| {
            if path.is_dir() {
                [vec![(path.clone(), Vec::new())], everything(&path)].concat()
            } else {
                vec![(path.clone(), fs::read(&path).unwrap())]
            }
        })
        .collect();
    all.sort();
    all
}

/// In a directory that is made on the way, too.
fn what_root_makes_is_the_apps(line: Line) {
    let Some(site) = site(line) else { return };
    let deep = site.path("data/new/deeper/app.db");
    let app = format!(
        "setpriv --reuid={USER} --regid={USER} --clear-groups python3 -c \"import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute('CREATE TABLE t(id INTEGER PRIMARY KEY)'); c.execute('INSERT INTO t VALUES (1)'); c.commit()\" {}",
        deep.display()
    );
    let (code, ended) = site
        .recipe()
        .env("DATABASE_PATH", &deep)
        .env("LITESTREAM_ENTRY_MIGRATE", "true")
        .env("LITESTREAM_ENTRY_MIGRATE_ROLLBACK", "true")
        .shell(&app)
        .run();
    assert_eq!(code, 0, "{}", ended.stderr());
    let of_root = |folder: &str| {
        let paths = everything(&site.path(folder)).into_iter().map(|(path, _)| path);
        // Litestream's own are made by Litestream.
        let ours = paths.filter(|path| !path.components().any(|c| c.as_os_str() == OsStr::new(".app.db-litestream")));
        ours.filter(|path| fs::symlink_metadata(path).unwrap().uid() != USER).collect::<Vec<_>>()
    };
    assert_eq!(of_root("data"), Vec::<PathBuf>::new());
    lose(&deep);
    let (code, ended) = site.recipe().env("DATABASE_PATH", &deep).shell("true").run();
    assert_eq!(code, 0, "{}", ended.stderr());
    assert_eq!(of_root("data"), Vec::<PathBuf>::new());
}
