//! What is here, what the replica has, and what comes of it: `docs` and README have the same table.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;

use crate::support::container::Recipe;
use crate::support::contents::{Contents, beside};
use crate::support::s3::Server;
use crate::support::server::closed_port;
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, lines, when};

both_lines!(
    database_here_is_used,
    missing_is_restored,
    zero_bytes_are_restored,
    restored_belongs_to_its_directorys_owner_or_to_who_is_named if root,
    never_starts_empty_although_there_is_a_backup,
    no_backup_is_a_first_boot,
    a_backup_under_an_earlier_path_is_not_passed_over,
    no_backup_and_required_is_refused,
    a_missing_database_is_refused_without_its_replica,
    denied_is_refused_at_once_with_what_helps,
    with_never_a_missing_database_starts_empty_without_its_replica,
    broken_backup_is_refused,
    not_a_database_is_refused,
    stale_files_are_moved_aside,
    stale_files_beside_zero_bytes_are_moved_aside,
    sftp_down_and_database_here_starts,
    a_database_that_is_here_starts_without_its_replica,
    killed_restore_leaves_nothing_to_mistake,
);

const POLICIES: [&str; 3] = ["auto", "required", "never"];

/// A site with a backup of some rows, and what they are.
fn backed_up(line: Line) -> (Site, Contents) {
    let site = Site::new(line);
    let mut container = site.writing("--every 0 --rows 2000").start();
    container.ready();
    eventually("2000 rows", PATIENCE, || when(site.acknowledged() == 2000));
    assert_eq!(container.stop(), 0);
    let contents = Contents::of(site.database());
    (site, contents)
}

/// An app that notes that it ran and does nothing else.
fn note(site: &Site, recipe: Recipe) -> Recipe {
    recipe.shell(&format!("echo ran > {}", site.path("ran").display()))
}

/// Boots with this policy an app that only notes that it ran; what the database is then.
#[track_caller]
fn boot(site: &Site, policy: &str) -> (Contents, String) {
    let recipe = site.recipe().env("LITESTREAM_ENTRY_RESTORE", policy);
    let (code, container) = note(site, recipe).run();
    assert_eq!(code, 0, "{policy}");
    assert!(site.path("ran").exists(), "{policy}: the app ran");
    (Contents::of(site.database()), container.stderr())
}

/// Boots, is refused, and the app has not run: the log.
#[track_caller]
fn refused(site: &Site, recipe: Recipe, code: i32) -> String {
    let (ended_with, container) = note(site, recipe).run();
    let stderr = container.stderr();
    assert_eq!(ended_with, code, "{stderr}");
    assert!(!site.path("ran").exists(), "the app never ran");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let last = lines(&stderr).last().copied().unwrap_or_default();
    assert!(last.contains("app.db") || last.contains("default"), "the last line says which database: {last}");
    stderr
}

/// S3 where nobody listens.
fn unreachable_s3(site: &Site) -> Recipe {
    site.recipe()
        .without("LITESTREAM_REPLICA_URL")
        .env("LITESTREAM_REPLICA_BUCKET", "bucket")
        .env("LITESTREAM_REPLICA_ENDPOINT", format!("http://127.0.0.1:{}", closed_port()))
        .env("LITESTREAM_REPLICA_REGION", "us-east-1")
        .env("LITESTREAM_ACCESS_KEY_ID", "key")
        .env("LITESTREAM_SECRET_ACCESS_KEY", "secret")
        .env("LITESTREAM_ENTRY_RESTORE_TIMEOUT", "3s")
}

fn make_database(path: &Path) {
    let connection = Connection::open(path).expect("a database");
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT); INSERT INTO t VALUES (1, 'mine')";
    connection.execute_batch(schema).expect("a table");
}

fn database_here_is_used(line: Line) {
    for policy in POLICIES {
        let site = Site::new(line);
        make_database(site.database());
        let before = Contents::of(site.database());
        let (after, _) = boot(&site, policy);
        assert_eq!(before.difference(&after), None, "{policy}, no backup");
    }
    let (site, before) = backed_up(line);
    for policy in POLICIES {
        let (after, _) = boot(&site, policy);
        assert_eq!(before.difference(&after), None, "{policy}, with a backup");
    }
}

fn missing_is_restored(line: Line) {
    let (site, before) = backed_up(line);
    for policy in ["auto", "required"] {
        lose(site.database());
        let (after, _) = boot(&site, policy);
        assert_eq!(before.difference(&after), None, "{policy}");
    }
}

fn restored_belongs_to_its_directorys_owner_or_to_who_is_named(line: Line) {
    // Only root may give files away.
    let (site, _) = backed_up(line);
    let directory = site.database().parent().unwrap();
    std::os::unix::fs::chown(directory, Some(4321), Some(1234)).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o750)).unwrap();
    let restored = |variables: &[(&str, &str)]| {
        lose(site.database());
        let recipe = variables.iter().fold(site.recipe(), |recipe, (name, value)| recipe.env(name, value));
        // The app looks: Litestream's own writes to it change nothing of this.
        let (code, container) = recipe.shell("stat -c '%u:%g %a' data/app.db").run();
        assert_eq!(code, 0, "{}", container.stderr());
        String::from_utf8_lossy(&container.stdout()).trim().to_owned()
    };
    assert_eq!(restored(&[]), "4321:1234 640");
    assert_eq!(restored(&[("LITESTREAM_ENTRY_DB_OWNER", "777:888"), ("LITESTREAM_ENTRY_DB_MODE", "0600")]), "777:888 600");
    assert_eq!(restored(&[("LITESTREAM_ENTRY_DB_OWNER", "root")]), "0:0 640");
    lose(site.database());
    let (code, refused) = note(&site, site.recipe().env("LITESTREAM_ENTRY_DB_OWNER", "nobody-of-that-name")).run();
    assert_eq!(code, 71, "{}", refused.stderr());
    assert!(refused.stderr().contains("LITESTREAM_ENTRY_DB_OWNER: no such user"), "{}", refused.stderr());
    assert!(!site.database().exists() && !site.path("ran").exists());
}

fn zero_bytes_are_restored(line: Line) {
    let (site, before) = backed_up(line);
    for policy in ["auto", "required"] {
        lose(site.database());
        fs::write(site.database(), "").expect("an empty file");
        let (after, _) = boot(&site, policy);
        assert_eq!(before.difference(&after), None, "{policy}");
    }
}

fn never_starts_empty_although_there_is_a_backup(line: Line) {
    let (site, _) = backed_up(line);
    lose(site.database());
    let recipe = site.recipe().env("LITESTREAM_ENTRY_RESTORE", "never");
    let script = format!("[ -s {0} ] && exit 9; echo ran > {1}", site.database().display(), site.path("ran").display());
    let (code, container) = recipe.shell(&script).run();
    // Nothing was written, so whether Litestream could save that is another test's question.
    assert_ne!(code, 9, "the database is there: {}", container.stderr());
    assert!(site.path("ran").exists(), "{}", container.stderr());
    let warns = container.stderr().contains("although") && container.stderr().contains("has a backup, written at");
    assert!(warns, "{}", container.stderr());
}

/// Who comes from a `litestream.yml` had another path in it: the app must not begin anew beside its backup.
fn a_backup_under_an_earlier_path_is_not_passed_over(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "app");
    let prefixed = || site.recipe();
    let named = |path: &str| site.recipe().without("LITESTREAM_REPLICA_PATH").env("LITESTREAM_REPLICA_URL", format!("s3://test/{path}"));
    // An empty bucket is a first boot all the same.
    let (code, first) = note(&site, prefixed()).run();
    assert_eq!(code, 0, "{}", first.stderr());
    for earlier in ["app", "data/app.db"] {
        lose(site.database());
        // The writer begins anew, too.
        let _ = fs::remove_file(site.path("ack"));
        let mut container = named(earlier).app(site.writer("--every 0 --rows 50")).start();
        container.ready();
        eventually("50 rows", PATIENCE, || when(site.acknowledged() == 50));
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        let before = Contents::of(site.database());
        lose(site.database());
        let _ = fs::remove_file(site.path("ran"));
        let other = site.recipe().env("LITESTREAM_REPLICA_PATH", if earlier == "app" { "app" } else { "nowhere" });
        let (code, refused) = note(&site, other).run();
        let place = format!("LITESTREAM_REPLICA_URL=s3://test/{earlier}");
        assert!(code == 66 && refused.stderr().contains(&place), "{code}: {}", refused.stderr());
        assert!(!site.database().exists() && !site.path("ran").exists());
        let (code, told) = note(&site, named(earlier)).run();
        assert_eq!(code, 0, "{}", told.stderr());
        assert_eq!(Contents::of(site.database()).difference(&before), None);
    }
}

fn no_backup_is_a_first_boot(line: Line) {
    for policy in ["auto", "never"] {
        let site = Site::new(line);
        let recipe = site.writing("--live 100").env("LITESTREAM_ENTRY_RESTORE", policy);
        let (code, container) = recipe.run();
        let stderr = container.stderr();
        assert_eq!(code, 0, "{policy}: {stderr}");
        assert!(policy == "never" || stderr.contains("first boot"), "{policy}: {stderr}");
        site.assert_saved();
    }
}

fn no_backup_and_required_is_refused(line: Line) {
    let site = Site::new(line);
    refused(&site, site.recipe().env("LITESTREAM_ENTRY_RESTORE", "required"), 66);
    assert!(!site.database().exists());
}

fn denied_is_refused_at_once_with_what_helps(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "denied");
    for (name, value, helps) in [
        ("LITESTREAM_SECRET_ACCESS_KEY", "wrong-secret", "the secret does not belong to this key id"),
        ("LITESTREAM_ACCESS_KEY_ID", "wrong-id", "does not know this key id"),
        ("LITESTREAM_REPLICA_BUCKET", "no-such-bucket", "no such bucket"),
    ] {
        let (code, container) = note(&site, site.recipe().env(name, value)).run();
        let stderr = container.stderr();
        assert_eq!(code, 69, "{name}: {stderr}");
        assert!(stderr.contains(helps) && !stderr.contains("trying again") && !stderr.contains("wrong-secret"), "{name}: {stderr}");
        assert!(!stderr.contains("RESTORE=never"), "who follows that replaces the backup: {stderr}");
        assert!(!site.path("ran").exists(), "{name}");
    }
}

fn a_missing_database_is_refused_without_its_replica(line: Line) {
    for policy in ["auto", "required"] {
        for zero_bytes in [false, true] {
            let site = Site::new(line);
            if zero_bytes {
                fs::write(site.database(), "").expect("an empty file");
            }
            refused(&site, unreachable_s3(&site).env("LITESTREAM_ENTRY_RESTORE", policy), 69);
            assert_eq!(site.database().exists(), zero_bytes, "nothing was made, nothing deleted");
        }
    }
}

fn with_never_a_missing_database_starts_empty_without_its_replica(line: Line) {
    let site = Site::new(line);
    let recipe = unreachable_s3(&site).env("LITESTREAM_ENTRY_RESTORE", "never");
    let recipe = recipe.env("LITESTREAM_ENTRY_STOP_TIMEOUT", "3s");
    let (_, container) = recipe.app(site.writer("--live 100 --exit 3")).run();
    assert!(site.acknowledged() > 0, "the app ran: {}", container.stderr());
}

/// Every file of the backup is cut off in the middle.
fn broken_backup_is_refused(line: Line) {
    let (site, _) = backed_up(line);
    lose(site.database());
    let mut directories = vec![site.replica()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let bytes = fs::read(&path).expect("a file");
                fs::write(&path, &bytes[..bytes.len() / 2]).expect("the same file");
            }
        }
    }
    let recipe = site.recipe().env("LITESTREAM_ENTRY_RESTORE_TIMEOUT", "3s");
    let (code, container) = note(&site, recipe).run();
    let stderr = container.stderr();
    assert!([65, 69].contains(&code), "{code}: {stderr}");
    assert!(!site.path("ran").exists(), "the app never ran");
    assert!(!site.database().exists(), "nothing that could be mistaken for the database");
}

fn not_a_database_is_refused(line: Line) {
    let (site, _) = backed_up(line);
    lose(site.database());
    for policy in POLICIES {
        fs::write(site.database(), "hello, I am a text file").expect("a file");
        refused(&site, site.recipe().env("LITESTREAM_ENTRY_RESTORE", policy), 65);
        assert_eq!(fs::read(site.database()).expect("it is here"), b"hello, I am a text file");
    }
}

/// A WAL, its index and a journal of an earlier life of the database.
fn leave_stale_files(site: &Site) -> [Vec<u8>; 3] {
    let other = site.path("data/other.db");
    let writer = crate::support::writer();
    let status = std::process::Command::new(writer).args(["--every", "0", "--live", "300", "--db"]).arg(&other).status();
    assert!(status.is_ok_and(|status| status.success()));
    let wal = fs::read(beside(&other, "-wal")).expect("the writer leaves a WAL");
    assert!(wal.len() > 4096);
    let index = fs::read(beside(&other, "-shm")).expect("and its index");
    let journal = b"a journal that nobody may roll back".to_vec();
    lose(&other);
    for (suffix, bytes) in [("-wal", &wal), ("-shm", &index), ("-journal", &journal)] {
        fs::write(beside(site.database(), suffix), bytes).expect("a stale file");
    }
    [wal, index, journal]
}

fn stale_files_are_moved_aside(line: Line) {
    let (site, before) = backed_up(line);
    lose(site.database());
    restore_beside_stale_files(&site, &before);
}

fn stale_files_beside_zero_bytes_are_moved_aside(line: Line) {
    let (site, before) = backed_up(line);
    lose(site.database());
    fs::write(site.database(), "").expect("an empty file");
    restore_beside_stale_files(&site, &before);
}

fn restore_beside_stale_files(site: &Site, before: &Contents) {
    let stale = leave_stale_files(site);
    let (after, _) = boot(site, "auto");
    assert_eq!(before.difference(&after), None, "nothing stale was replayed");
    let files = fs::read_dir(site.path("data")).expect("the volume");
    let kept: Vec<_> = files.filter_map(|entry| fs::read(entry.ok()?.path()).ok()).collect();
    for (name, bytes) in ["-wal", "-shm", "-journal"].iter().zip(stale) {
        assert!(kept.contains(&bytes), "the stale {name} is still somewhere on the volume");
    }
}

fn sftp_down_and_database_here_starts(line: Line) {
    let site = Site::new(line);
    make_database(site.database());
    let recipe = site.recipe().env("LITESTREAM_REPLICA_URL", "sftp://u@127.0.0.1:1/x");
    starts_without_its_replica(&site, recipe);
}

fn a_database_that_is_here_starts_without_its_replica(line: Line) {
    let site = Site::new(line);
    make_database(site.database());
    let recipe = unreachable_s3(&site);
    starts_without_its_replica(&site, recipe);
}

fn starts_without_its_replica(site: &Site, recipe: Recipe) {
    let mut container = recipe.app(site.writer("--every 1000")).start();
    container.ready();
    let target = site.acknowledged() + 500;
    eventually("the app works", PATIENCE, || when(site.acknowledged() >= target));
    assert_eq!(container.stop(), 74, "nothing of it is saved: {}", container.stderr());
}

/// The container is killed at random moments of a restore; the next boot restores all the same, and no litter grows.
/// `KILLS=200` makes as many of them.
fn killed_restore_leaves_nothing_to_mistake(line: Line) {
    let kills: u64 = std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let (site, before) = backed_up(line);
    let names = || fs::read_dir(site.path("data")).unwrap().map(|e| e.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>();
    let (mut first, mut restoring) = (None, 0);
    for kill in 0..kills {
        lose(site.database());
        let mut container = site.recipe().app(["/bin/sleep", "1000"]).start();
        // Killed before that, `unshare` may leave a PID 1 behind that is none yet.
        container.running();
        // Odd multipliers spread the moments over the 120 ms that it takes.
        let moment = std::time::Duration::from_micros(kill * 7919 % 120_000);
        std::thread::sleep(moment);
        container.kill();
        restoring += u64::from(site.path("data/.app.db-restoring").exists());
        let (after, _) = boot(&site, "auto");
        assert_eq!(before.difference(&after), None, "killed after {moment:?}");
        let left = names().into_iter().filter(|n| !n.to_string_lossy().contains(".aside-")).collect::<Vec<_>>();
        assert_eq!(*first.get_or_insert_with(|| left.clone()), left, "no litter");
        // Of what goes aside five are kept, each of five kinds.
        assert!(names().len() <= left.len() + 25, "{:?}", names());
    }
    println!("{line:?}: {restoring} of {kills} kills in the middle of a restore");
    assert!(kills < 10 || restoring > 0, "no kill was in time");
}
