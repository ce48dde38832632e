//! Secrets that are rotated in their files: what is started from then on has the new ones, the last sync among it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::support::container::{Container, Recipe, said};
use crate::support::server::{self, Daemon};
use crate::support::site::{Form, Site};
use crate::support::{Line, PATIENCE, eventually, process, root, when};

both_lines!(
    a_litestream_that_is_started_again_has_what_the_file_has_now,
    the_last_sync_is_made_with_what_the_file_has_now,
    the_last_sync_is_made_with_what_was_good_before_while_that_is_good,
    so_it_is_where_litestream_is_another_user_who_cannot_read_the_file,
    a_file_that_cannot_be_read_costs_no_secret,
    a_file_with_another_place_moves_no_backup,
);

const ID: &str = "rotating-id";
const OLD: &str = "canary-old";
const NEW: &str = "canary-new";

/// A server that checks S3's signatures, whose key can be changed.
struct Store {
    directory: TempDir,
    port: u16,
    daemon: Option<Daemon>,
}

impl Store {
    fn start() -> Option<Self> {
        server::program("rclone")?;
        let directory = server::directory("rotated");
        fs::create_dir_all(directory.path().join("data/bucket")).unwrap();
        let mut store = Self { directory, port: server::free_ports(), daemon: None };
        store.takes(OLD);
        Some(store)
    }

    /// From now on it is this secret.
    fn takes(&mut self, secret: &str) {
        let rclone = server::program("rclone").unwrap();
        self.daemon = None;
        let port = self.port;
        let mut daemon = Daemon::start(&rclone, self.directory.path(), |command| {
            command.args(["serve", "s3", "--config", "/dev/null", "--addr", &format!("127.0.0.1:{port}")]);
            command.args(["--auth-key", &format!("{ID},{secret}"), "data"]);
        });
        daemon.ready(|| server::connect(port).is_ok());
        self.daemon = Some(daemon);
    }

    fn site(&self, line: Line) -> Site {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let keys = [
            ("type", "s3"),
            ("bucket", "bucket"),
            ("path", "app"),
            ("endpoint", &endpoint),
            ("region", "us-east-1"),
            ("access-key-id", ID),
            ("secret-access-key", NEW),
        ];
        let keys = keys.map(|(key, value)| (key, value.to_owned())).to_vec();
        let site = Site::new(line).with_replica(keys, &format!("s3://bucket/app?endpoint={endpoint}&region=us-east-1"), Form::Url);
        rotate(&site.path("secret"), OLD);
        site
    }
}

/// As who rotates secrets does it.
fn rotate(file: &Path, secret: &str) {
    let new = file.with_extension("new");
    fs::write(&new, format!("{secret}\n")).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, file).unwrap();
}

/// For all databases, where it is in Litestream's environment, or for this one, where it is in its configuration.
fn writing(site: &Site, suffix: &str) -> Recipe {
    site.writing("--every 2000")
        .env(format!("LITESTREAM_ACCESS_KEY_ID{suffix}"), ID)
        .env(format!("LITESTREAM_SECRET_ACCESS_KEY{suffix}_FILE"), site.path("secret"))
}

fn start_again(container: &Container) {
    let old = container.running_litestream().pid;
    process::send(old, Signal::SIGKILL);
    eventually("another Litestream", PATIENCE, || when(container.litestream().is_some_and(|new| new.pid != old)));
}

/// By a Litestream that has the new secret.
#[track_caller]
fn assert_arrives(site: &Site, how: &str) {
    let row = site.acknowledged();
    eventually(format!("a row that is written now, {how}"), PATIENCE, || {
        let (_output, _scratch, restored) = site.try_restore(site.database());
        let copy = rusqlite::Connection::open(&restored).ok().filter(|_| restored.exists())?;
        when(copy.query_row("SELECT count(*) FROM t", (), |r| r.get::<_, i64>(0)).is_ok_and(|rows| rows > row))
    });
}

#[track_caller]
fn assert_nowhere(container: &Container, site: &Site, files_too: bool) {
    let look = |place: &str, text: &str| assert!(!text.contains(OLD) && !text.contains(NEW), "a secret is in {place}");
    look("the log", &container.stderr());
    for process in process::descendants(container.pid1()).iter().map(|p| p.pid).chain([container.pid1()]) {
        look("an argv", &String::from_utf8_lossy(&fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default()));
    }
    for entry in fs::read_dir(site.path("run")).unwrap().flatten().filter(|_| files_too) {
        look("a file", &String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()));
    }
}

fn a_litestream_that_is_started_again_has_what_the_file_has_now(line: Line) {
    for suffix in ["", "_DEFAULT"] {
        let Some(mut store) = Store::start() else { return };
        let site = store.site(line);
        let mut container = writing(&site, suffix).start();
        container.ready();
        site.write_on(10);
        store.takes(NEW);
        rotate(&site.path("secret"), NEW);
        start_again(&container);
        assert_arrives(&site, "after its rotation");
        let proved = container.exec(["verify", "default"]);
        assert!(proved.status.success(), "{}", said(&proved));
        let name = format!("LITESTREAM_SECRET_ACCESS_KEY{suffix}_FILE: has changed");
        assert_eq!(container.stderr().matches(&name).count(), 1, "{}", container.stderr());
        assert_nowhere(&container, &site, suffix.is_empty());
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        site.assert_saved();
    }
}

fn the_last_sync_is_made_with_what_the_file_has_now(line: Line) {
    for suffix in ["", "_DEFAULT"] {
        let Some(mut store) = Store::start() else { return };
        let site = store.site(line);
        let mut container = writing(&site, suffix).start();
        container.ready();
        site.write_on(10);
        store.takes(NEW);
        rotate(&site.path("secret"), NEW);
        site.write_on(100);
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        site.assert_saved();
    }
}

/// The file has changed, and the server does not know yet.
fn the_last_sync_is_made_with_what_was_good_before_while_that_is_good(line: Line) {
    for (suffix, is_started_again) in [("", false), ("_DEFAULT", false), ("", true), ("_DEFAULT", true)] {
        let Some(mut store) = Store::start() else { return };
        let site = store.site(line);
        let mut container = writing(&site, suffix).start();
        container.ready();
        site.write_on(10);
        rotate(&site.path("secret"), NEW);
        if is_started_again {
            start_again(&container);
        }
        site.write_on(100);
        let began = Instant::now();
        assert_eq!(container.stop(), 0, "{suffix} {is_started_again}: {}", container.stderr());
        assert!(began.elapsed() < Duration::from_secs(5), "the whole budget is used up");
        let log = container.stderr();
        assert!(!log.contains(OLD) && !log.contains(NEW), "{log}");
        store.takes(NEW);
        site.assert_saved();
    }
}

fn so_it_is_where_litestream_is_another_user_who_cannot_read_the_file(line: Line) {
    if !root() {
        return;
    }
    for suffix in ["", "_DEFAULT"] {
        let Some(mut store) = Store::start() else { return };
        let site = store.site(line);
        chown(site.path("data"), Some(65534), Some(65534)).unwrap();
        fs::set_permissions(site.path("."), fs::Permissions::from_mode(0o777)).unwrap();
        let mut container = writing(&site, suffix).env("LITESTREAM_ENTRY_USER", "nobody").start();
        container.ready();
        store.takes(NEW);
        rotate(&site.path("secret"), NEW);
        start_again(&container);
        assert_arrives(&site, "after its rotation");
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        site.assert_saved();
    }
}

/// What becomes of a secret's file.
type Spoil = fn(&Path);

fn a_file_that_cannot_be_read_costs_no_secret(line: Line) {
    let Some(mut store) = Store::start() else { return };
    let site = store.site(line);
    let mut container = writing(&site, "").start();
    container.ready();
    store.takes(NEW);
    rotate(&site.path("secret"), NEW);
    start_again(&container);
    assert_arrives(&site, "after its rotation");
    let spoil: [(&str, Spoil); 4] = [
        ("No such file", |file| fs::remove_file(file).unwrap()),
        ("is empty", |file| fs::write(file, "").unwrap()),
        ("not a file that can be read again", |file| {
            fs::remove_file(file).unwrap();
            nix::unistd::mkfifo(file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("Is a directory", |file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
    ];
    for (why, spoil) in spoil {
        spoil(&site.path("secret"));
        start_again(&container);
        assert_arrives(&site, why);
        let log = container.stderr();
        let said = |line: &&str| line.contains("LITESTREAM_SECRET_ACCESS_KEY_FILE: ") && line.contains(why);
        assert!(why == "Is a directory" || log.lines().filter(said).count() == 1, "{why}: {log}");
    }
    assert_nowhere(&container, &site, true);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// A URL may be a secret, too. Where it leads elsewhere, nobody has decided whether this is the database to go on with there.
fn a_file_with_another_place_moves_no_backup(line: Line) {
    let site = Site::new(line);
    let url = |place: &str| format!("file://{}", site.path(place).display());
    rotate(&site.path("secret"), &url("replica"));
    let recipe = site.writing("--every 2000").without("LITESTREAM_REPLICA_URL").env("LITESTREAM_REPLICA_URL_FILE", site.path("secret"));
    let mut container = recipe.start();
    container.ready();
    rotate(&site.path("secret"), &url("elsewhere"));
    start_again(&container);
    site.write_on(10);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
    assert!(!site.path("elsewhere").exists());
    assert!(container.stderr().contains("names another place"), "{}", container.stderr());
}
