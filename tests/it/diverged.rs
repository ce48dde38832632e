//! Two hosts, each with a volume of its own, that wrote to one replica: nothing that the other has confirmed is replaced without a word.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::support::container::{Container, Recipe, said};
use crate::support::s3::Server;
use crate::support::site::Site;
use crate::support::slow::SlowLine;
use crate::support::{Line, PATIENCE, eventually, namespaces, when};

both_lines!(
    a_host_that_is_ahead_of_another_by_number_is_refused_and_every_way_on_keeps_what_it_says,
    a_host_that_is_ahead_of_another_by_number_is_refused_in_a_bucket,
    a_host_that_comes_back_a_moment_after_its_end_asks_what_another_has_written,
    a_database_with_another_ones_replica_is_refused,
    a_database_that_is_its_backup_is_gone_on_with_whatever_lies_beside_it,
    a_host_none_of_whose_rows_arrived_is_refused_beside_anothers_backup,
    a_volume_that_is_killed_before_its_first_upload_after_a_restore_goes_on,
    a_host_is_behind_anothers_snapshot_before_its_transactions_are_there,
    diff_shows_what_a_file_has_that_the_database_lacks,
);

only_0_5!(two_hosts_that_write_to_one_replica_at_the_same_time_are_not_said_to_be_saved,);

/// A host: a database of its own, and the site's replica.
struct Host<'a> {
    site: &'a Site,
    name: &'static str,
    /// Its way to the store, where it has one of its own.
    endpoint: Option<String>,
}

fn hosts(site: &Site) -> [Host<'_>; 2] {
    ["a", "b"].map(|name| Host { site, name, endpoint: None })
}

impl Host<'_> {
    fn database(&self) -> PathBuf {
        self.site.path(self.name).join("app.db")
    }

    fn recipe(&self) -> Recipe {
        fs::create_dir_all(self.site.path(self.name)).unwrap();
        let recipe = self.site.recipe().env("DATABASE_PATH", self.database());
        let recipe = recipe.env("LITESTREAM_ENTRY_RUNTIME_DIR", self.site.path(&format!("run-{}", self.name)));
        let recipe = recipe.env("LITESTREAM_SYNC_INTERVAL", "100ms");
        self.endpoint.iter().fold(recipe, |recipe, endpoint| recipe.env("LITESTREAM_REPLICA_ENDPOINT", endpoint))
    }

    /// With an app that does nothing, and ends well.
    fn start(&self) -> Container {
        let _ = fs::remove_file(self.site.ready_file());
        let app = format!("trap 'exit 0' TERM; touch {}; while :; do sleep 0.05; done", self.site.ready_file().display());
        let mut container = self.recipe().shell(&app).start();
        container.ready();
        container
    }

    /// One row after the other, each a transaction.
    fn write(&self, rows: std::ops::Range<i64>) {
        let app = Connection::open(self.database()).unwrap();
        app.busy_timeout(PATIENCE).unwrap();
        app.execute_batch(
            "PRAGMA journal_mode=wal; CREATE TABLE IF NOT EXISTS t(owner TEXT, n INTEGER, PRIMARY KEY(owner, n)) WITHOUT ROWID",
        )
        .unwrap();
        for n in rows {
            app.execute("INSERT INTO t VALUES(?1, ?2)", (self.name, n)).unwrap();
        }
        // The last to close would empty the WAL.
        app.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    }
}

/// How many rows of this host are in that file.
fn rows_of(name: &str, database: &Path) -> i64 {
    let connection = Connection::open(database).unwrap();
    connection.query_row("SELECT count(*) FROM t WHERE owner = ?1", [name], |row| row.get(0)).unwrap_or(0)
}

/// How many rows of these hosts a bare Litestream restores.
fn backed_up(site: &Site, names: [&str; 2]) -> [i64; 2] {
    let (output, _scratch, copy) = site.try_restore(site.database());
    if output.status.success() && copy.exists() { names.map(|name| rows_of(name, &copy)) } else { [0, 0] }
}

#[track_caller]
fn await_backup(site: &Site, wanted: [i64; 2]) {
    eventually(format!("{wanted:?} in the backup"), PATIENCE, || when(backed_up(site, ["a", "b"]) == wanted));
}

/// Litestream's own files of that host, and their sizes.
fn own_files(host: &Host) -> Vec<(PathBuf, u64)> {
    let (mut found, mut folders) = (Vec::new(), vec![host.site.path(host.name).join(".app.db-litestream")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let entry = entry.unwrap();
            // One that was only begun may have got its name meanwhile.
            match entry.metadata() {
                Ok(about) if about.is_dir() => folders.push(entry.path()),
                Ok(about) => found.push((entry.path(), about.len())),
                Err(_) => {}
            }
        }
    }
    found.sort();
    found
}

/// A host whose store is away while it writes, so that its Litestream is further than the replica; and whose end is a crash.
fn run_ahead(host: &Host, transactions: i64, away: impl FnOnce(), back: impl FnOnce()) {
    let mut a = host.start();
    host.write(0..50);
    await_backup(host.site, [50, 0]);
    away();
    for n in 50..50 + transactions {
        let before = own_files(host);
        host.write(n..n + 1);
        eventually("Litestream has read it", PATIENCE, || when(own_files(host) != before));
    }
    a.kill();
    back();
}

/// Another host restores, writes three rows, and stops well.
fn fail_over(host: &Host) {
    let mut b = host.start();
    assert_eq!(rows_of("a", &host.database()), 50);
    host.write(0..3);
    assert_eq!(b.stop(), 0, "{}", b.stderr());
    assert_eq!(backed_up(host.site, ["a", "b"]), [50, 3]);
}

fn a_host_that_is_ahead_of_another_by_number_is_refused_and_every_way_on_keeps_what_it_says(line: Line) {
    for way in ["restore", "keep"] {
        let site = Site::new(line);
        let [a, b] = hosts(&site);
        let (replica, elsewhere) = (site.replica(), site.path("elsewhere"));
        run_ahead(
            &a,
            10,
            || {
                fs::rename(&replica, &elsewhere).unwrap();
                fs::write(&replica, "").unwrap();
            },
            || {
                fs::remove_file(&replica).unwrap();
                fs::rename(&elsewhere, &replica).unwrap();
            },
        );
        fail_over(&b);
        let (code, refused) = a.recipe().shell("true").run();
        assert_eq!(code, 65, "{}", refused.stderr());
        for word in ["LITESTREAM_ENTRY_STALE=restore", "LITESTREAM_ENTRY_STALE=keep", "litestream-entry diff"] {
            assert!(refused.stderr().contains(word), "{}", refused.stderr());
        }
        if line == Line::V05 {
            assert!(refused.stderr().contains("has diverged from its replica"), "{}", refused.stderr());
        }
        assert_eq!(backed_up(&site, ["a", "b"]), [50, 3], "nothing was uploaded");
        assert_eq!(rows_of("a", &a.database()), 60, "and nothing was taken from the file");
        let (code, gone_on) = a.recipe().env("LITESTREAM_ENTRY_STALE", way).shell("true").run();
        assert_eq!(code, 0, "{}", gone_on.stderr());
        let wanted = if way == "restore" { [50, 3] } else { [60, 0] };
        assert_eq!(["a", "b"].map(|name| rows_of(name, &a.database())), wanted, "{way}");
        assert_eq!(backed_up(&site, ["a", "b"]), wanted, "{way}");
        // And so does every life after it, without being asked again.
        let mut next = a.start();
        a.write(100..110);
        assert_eq!(next.stop(), 0, "{}", next.stderr());
        assert_eq!(backed_up(&site, ["a", "b"]), [wanted[0] + 10, wanted[1]], "{way}");
    }
}

fn a_host_that_is_ahead_of_another_by_number_is_refused_in_a_bucket(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "diverged");
    let [mut a, b] = hosts(&site);
    let way = SlowLine::to(&server.endpoint(), u64::MAX);
    a.endpoint = Some(way.endpoint());
    // It reads nothing more while it tries again.
    run_ahead(&a, 1, || way.cut(), || {});
    a.endpoint = None;
    fail_over(&b);
    let (code, refused) = a.recipe().shell("true").run();
    assert_eq!(code, 65, "{}", refused.stderr());
    assert_eq!(backed_up(&site, ["a", "b"]), [50, 3], "nothing was uploaded");
}

fn a_host_that_comes_back_a_moment_after_its_end_asks_what_another_has_written(line: Line) {
    let site = Site::new(line);
    let [a, b] = hosts(&site);
    let mut first = a.start();
    a.write(0..50);
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    fail_over(&b);
    let (code, refused) = a.recipe().shell("true").run();
    assert_eq!(code, 65, "{}", refused.stderr());
    assert_eq!(backed_up(&site, ["a", "b"]), [50, 3], "nothing was uploaded");
}

/// As a host leaves the replica that is killed between its first snapshot and the upload of what that has.
fn a_host_is_behind_anothers_snapshot_before_its_transactions_are_there(line: Line) {
    if !namespaces() || line == Line::V03 {
        return;
    }
    for bucket in [false, true] {
        let server = if bucket { Server::start() } else { None };
        if bucket && server.is_none() {
            return;
        }
        let site = Site::new(line);
        let site = server.iter().fold(site, |site, server| site.in_bucket_of(server, "snapshot"));
        let [a, b] = hosts(&site);
        let mut first = a.start();
        a.write(0..50);
        assert_eq!(first.stop(), 0, "{}", first.stderr());
        let mut other = b.start();
        b.write(0..3);
        await_backup(&site, [50, 3]);
        eventually("another one's snapshot", PATIENCE, || when(other.stderr().contains("snapshot complete")));
        other.kill();
        let names = |host| -> Vec<String> {
            let files = own_files(host).into_iter().filter_map(|(path, _)| Some(path.file_name()?.to_str()?.to_owned()));
            files.filter(|name| name.contains(".ltx")).collect()
        };
        let own = names(&a);
        for name in names(&b).iter().filter(|name| !own.contains(name)) {
            match &server {
                Some(server) => server.empty(&format!("snapshot/ltx/0/{name}")),
                None => drop(fs::remove_file(site.replica().join("ltx/0").join(name))),
            }
        }
        assert_eq!(backed_up(&site, ["a", "b"]), [50, 3]);
        let (code, refused) = a.recipe().shell("true").run();
        assert_eq!(code, 65, "{}", refused.stderr());
        assert_eq!(backed_up(&site, ["a", "b"]), [50, 3], "nothing was uploaded");
    }
}

fn a_database_with_another_ones_replica_is_refused(line: Line) {
    // Of the same length, and longer.
    for rows in [20, 200] {
        let (ours, theirs) = (Site::new(line), Site::new(line));
        let ([a, _], [_, b]) = (hosts(&ours), hosts(&theirs));
        for (host, rows) in [(&a, rows), (&b, 20)] {
            let mut container = host.start();
            for n in 0..rows / 20 {
                host.write(n * 20..(n + 1) * 20);
                await_backup(host.site, if host.name == "a" { [(n + 1) * 20, 0] } else { [0, (n + 1) * 20] });
            }
            assert_eq!(container.stop(), 0, "{}", container.stderr());
        }
        let wrong = format!("file://{}", theirs.replica().display());
        let (code, refused) = a.recipe().env("LITESTREAM_REPLICA_URL", wrong).shell("true").run();
        assert_eq!(code, 65, "{rows}: {}", refused.stderr());
        assert_eq!(backed_up(&theirs, ["a", "b"]), [0, 20], "{rows}: nothing was uploaded");
    }
}

/// A copy of the database alone, as by `cp`.
fn a_database_that_is_its_backup_is_gone_on_with_whatever_lies_beside_it(line: Line) {
    let site = Site::new(line);
    let [a, _] = hosts(&site);
    let mut container = a.start();
    a.write(0..20);
    await_backup(&site, [20, 0]);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    Connection::open(a.database()).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
    fs::remove_dir_all(site.path("a/.app.db-litestream")).unwrap();
    fs::remove_file(site.path("a/.app.db-litestream-entry")).unwrap();
    let (code, same) = a.recipe().shell("true").run();
    assert_eq!(code, 0, "{}", same.stderr());
    assert!(same.stderr().contains("comparing it with its backup"), "{}", same.stderr());
    assert_eq!(backed_up(&site, ["a", "b"]), [20, 0]);
}

fn a_host_none_of_whose_rows_arrived_is_refused_beside_anothers_backup(line: Line) {
    let site = Site::new(line);
    let [a, b] = hosts(&site);
    fs::create_dir(site.replica()).unwrap();
    let app = format!("touch {}; sleep 60", site.ready_file().display());
    let mut cut_off = a.recipe().shell(&app).with_read_only(&site.replica()).start();
    cut_off.ready();
    a.write(0..20);
    eventually("Litestream has read it", PATIENCE, || when(!own_files(&a).is_empty()));
    cut_off.kill();
    let mut other = b.start();
    b.write(0..3);
    assert_eq!(other.stop(), 0, "{}", other.stderr());
    let (code, refused) = a.recipe().shell("true").run();
    assert_eq!(code, 65, "{}", refused.stderr());
    assert_eq!(backed_up(&site, ["a", "b"]), [0, 3], "nothing was uploaded");
}

fn a_volume_that_is_killed_before_its_first_upload_after_a_restore_goes_on(line: Line) {
    let site = Site::new(line);
    let [a, _] = hosts(&site);
    let mut first = a.start();
    a.write(0..50);
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    fs::remove_dir_all(site.path("a")).unwrap();
    let _ = fs::remove_file(site.ready_file());
    // Nothing can be uploaded.
    let app = format!("touch {}; sleep 60", site.ready_file().display());
    let mut restored = a.recipe().shell(&app).with_read_only(&site.replica()).start();
    restored.ready();
    a.write(50..60);
    eventually("Litestream has read it", PATIENCE, || {
        when(
            own_files(&a)
                .iter()
                .any(|(file, _)| file.display().to_string().contains("ltx/0") || file.extension().is_some_and(|e| e == "wal")),
        )
    });
    restored.kill();
    let mut next = a.start();
    a.write(60..70);
    assert_eq!(next.stop(), 0, "{}", next.stderr());
    assert_eq!(backed_up(&site, ["a", "b"]), [70, 0]);
}

fn diff_shows_what_a_file_has_that_the_database_lacks(line: Line) {
    let site = Site::new(line);
    let [a, _] = hosts(&site);
    let mut container = a.start();
    a.write(0..50);
    let kept = site.path("kept.db");
    fs::copy(a.database(), &kept).unwrap();
    fs::copy(site.path("a/app.db-wal"), site.path("kept.db-wal")).unwrap();
    let change = |database: &Path, statements: &str| {
        let connection = Connection::open(database).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection.execute_batch(statements).unwrap();
    };
    change(
        &a.database(),
        "DELETE FROM t WHERE n IN (3, 7); INSERT INTO t VALUES('a', 99); CREATE TABLE v(id INTEGER PRIMARY KEY, x); INSERT INTO v VALUES(1, 'here')",
    );
    change(
        &kept,
        "CREATE TABLE v(id INTEGER PRIMARY KEY, x); INSERT INTO v VALUES(1, 'there'), (2, 'only there'); CREATE TABLE w(x); INSERT INTO w VALUES(1), (2)",
    );
    let before = fs::read(&kept).unwrap();
    let output = container.exec(["diff", "default", &kept.display().to_string()]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for row in ["t 2 0 1 a/3, a/7", "v 1 1 0 2, 1", "w 2 0 0 1, 2"] {
        assert!(text.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(row)), "{row}\n{text}");
    }
    let json = container.exec(["diff", "--json", "default", &kept.display().to_string()]);
    assert!(said(&json).contains(r#""only_there":2"#), "{}", said(&json));
    // The same has nothing more.
    let same = container.exec(["diff", "default", &a.database().display().to_string()]);
    assert!(same.status.success() && said(&same).contains("nothing that"), "{}", said(&same));
    let wrong = container.exec(["diff", "default", "/nowhere.db"]);
    assert_eq!(wrong.status.code(), Some(66), "{}", said(&wrong));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert_eq!(fs::read(&kept).unwrap(), before, "the file is as it was");
}

/// A row of so many bytes that do not compress, and an upload of the host's.
#[track_caller]
fn uploads(host: &Host, bytes: u32) {
    let newest = || own_files(host).into_iter().rfind(|(path, _)| path.parent().is_some_and(|level| level.ends_with("ltx/0")));
    let before = newest();
    let app = Connection::open(host.database()).unwrap();
    app.busy_timeout(PATIENCE).unwrap();
    app.execute_batch(&format!("CREATE TABLE IF NOT EXISTS large(x); INSERT INTO large VALUES(randomblob({bytes}))")).unwrap();
    eventually("another upload", PATIENCE, || {
        let (path, bytes) = newest().filter(|newest| before.as_ref() != Some(newest))?;
        let there = host.site.replica().join("ltx/0").join(path.file_name()?);
        when(bytes > 3_000 && fs::metadata(there).is_ok_and(|there| there.len() == bytes))
    });
    app.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
}

/// Both upload under the same names, and neither sees the other while it runs.
fn two_hosts_that_write_to_one_replica_at_the_same_time_are_not_said_to_be_saved(line: Line) {
    let site = Site::new(line);
    let [a, b] = hosts(&site);
    let mut first = a.start();
    a.write(0..50);
    await_backup(&site, [50, 0]);
    let mut second = b.start();
    for _ in 0..3 {
        // What differs in nothing but its bytes is seen only where it is the last one.
        uploads(&a, 9_000);
        uploads(&b, 3_000);
    }
    let codes = [first.stop(), second.stop()];
    let said = format!("{}\n{}", first.stderr(), second.stderr());
    assert_eq!(codes, [74, 74], "{said}");
    assert_eq!(said.matches("NOT SAVED: default: another host writes to file://").count(), 2, "{said}");
}
