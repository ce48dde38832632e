//! Jobs: release commands and one-off tasks with production's variables. Nothing of theirs is ever in production's backup.

use nix::sys::signal::Signal;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::support::container::{Container, Recipe, said};
use crate::support::contents::Contents;
use crate::support::s3::Server;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    a_release_command_works_on_a_copy_and_leaves_nothing_in_productions_backup,
    a_job_uploads_nothing_however_it_ends,
    a_job_is_refused_as_a_boot_is_and_says_so,
    a_job_on_a_shared_volume_is_backed_up_by_the_app_beside_it,
    a_job_on_a_kept_volume_is_backed_up_by_the_apps_next_start,
    a_role_that_is_none_is_refused_and_app_counts_more_than_the_platform,
);

/// Adds so many rows to a table of its own, then this.
fn rows(number: u32, then: &str) -> String {
    format!(
        "import sqlite3,sys,time,os
c=sqlite3.connect(sys.argv[1],timeout=20,isolation_level=None)
c.execute('CREATE TABLE IF NOT EXISTS of_job(id INTEGER PRIMARY KEY, body TEXT)')
for i in range({number}):
    c.execute('INSERT INTO of_job(body) VALUES (hex(randomblob(500)))')
    if i % 7 == 0: c.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()
open(sys.argv[2],'w').write('x')
{then}"
    )
}

/// The site's variables on a disk of its own.
struct Job {
    disk: TempDir,
    recipe: Recipe,
    script: String,
    wrote: std::path::PathBuf,
}

impl Job {
    fn on_its_own_disk(site: &Site, then: &str) -> Self {
        let disk = TempDir::with_prefix_in("job-", site.path("")).unwrap();
        let recipe =
            site.recipe().env("DATABASE_PATH", disk.path().join("app.db")).env("LITESTREAM_ENTRY_RUNTIME_DIR", disk.path().join("run"));
        Self { wrote: disk.path().join("wrote"), disk, recipe, script: rows(20, then) }
    }

    fn database(&self) -> std::path::PathBuf {
        self.disk.path().join("app.db")
    }

    fn recipe(&self) -> Recipe {
        let words = [
            "/usr/bin/python3".as_ref(),
            "-c".as_ref(),
            self.script.as_ref(),
            self.disk.path().join("app.db").into_os_string().as_os_str(),
            self.wrote.as_os_str(),
        ]
        .map(std::ffi::OsStr::to_owned);
        self.recipe.clone().app(words)
    }
}

/// Rows of the job's that a bare Litestream restores.
fn of_job(site: &Site) -> i64 {
    let (output, _scratch, copy) = site.try_restore(site.database());
    assert!(output.status.success() && copy.exists());
    Connection::open(&copy).unwrap().query_row("SELECT count(*) FROM of_job", (), |row| row.get(0)).unwrap_or(-1)
}

#[track_caller]
fn says_that_nothing_is_kept(container: &Container, from: &str) {
    let stderr = container.stderr();
    let ours: Vec<&str> = stderr.lines().filter(|line| line.contains("NOT KEPT")).collect();
    assert_eq!(ours.len(), 2, "{stderr}");
    assert!(ours.iter().all(|line| line.contains(from)), "{stderr}");
    assert_eq!(stderr.lines().last(), ours.last().copied(), "{stderr}");
}

fn a_release_command_works_on_a_copy_and_leaves_nothing_in_productions_backup(line: Line) {
    let site = Site::new(line);
    let mut production = site.writing("--every 2000").start();
    production.ready();
    site.write_on(200);
    eventually("there is a backup", PATIENCE, || when(site.backed_up() > 100));
    let job = Job::on_its_own_disk(&site, "sys.exit(3)");
    let (code, ended) = job.recipe().env("RELEASE_COMMAND", "1").env("LITESTREAM_ENTRY_MIGRATE", "exit 9").run();
    assert_eq!(code, 3, "{}", ended.stderr());
    says_that_nothing_is_kept(&ended, "RELEASE_COMMAND=1");
    assert!(ended.stderr().contains("restored") && ended.stderr().contains("LITESTREAM_ENTRY_MIGRATE"), "{}", ended.stderr());
    let copy = Connection::open(job.database()).unwrap();
    assert_eq!(copy.query_row("SELECT count(*) FROM of_job", (), |row| row.get::<_, i64>(0)), Ok(20));
    assert!(copy.query_row("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0)).unwrap() > 100, "it is a copy of production's");
    assert_eq!(of_job(&site), -1);
    site.write_on(100);
    assert_eq!(production.stop(), 0, "{}", production.stderr());
    assert_eq!(of_job(&site), -1);
    site.assert_saved();
}

fn a_job_uploads_nothing_however_it_ends(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "job");
    let mut production = site.writing("--every 1000").start();
    production.ready();
    site.write_on(200);
    assert_eq!(production.stop(), 0, "{}", production.stderr());
    let whole = site.backup_of(site.database());
    for end in ["pass", "raise SystemExit(7)", "os.kill(os.getpid(), 9)", "time.sleep(1000)"] {
        let job = Job::on_its_own_disk(&site, end);
        let mut running = job.recipe().env("LITESTREAM_ENTRY_ROLE", "job").start();
        eventually("it has written", PATIENCE, || when(job.wrote.exists()));
        if end.contains("sleep") {
            assert!(running.litestream().is_none(), "no Litestream runs beside it");
            let health = running.exec(["health"]);
            assert!(String::from_utf8_lossy(&health.stdout).contains("a job"), "{}", said(&health));
            running.signal(Signal::SIGTERM);
        }
        let code = running.wait(PATIENCE);
        assert!([0, 7, 137, 143].contains(&code), "{code}");
        says_that_nothing_is_kept(&running, "LITESTREAM_ENTRY_ROLE=job");
        assert_eq!(site.backup_of(site.database()).difference(&whole), None, "{end}");
        assert_eq!(of_job(&site), -1, "{end}");
    }
    // Killed while it works, and while it restores.
    let job = Job::on_its_own_disk(&site, "time.sleep(1000)");
    let mut running = job.recipe().env("LITESTREAM_ENTRY_ROLE", "job").start();
    eventually("it has written", PATIENCE, || when(job.wrote.exists()));
    running.kill();
    let job = Job::on_its_own_disk(&site, "pass");
    server.freeze();
    let mut restoring = job.recipe().env("LITESTREAM_ENTRY_ROLE", "job").start();
    eventually("it restores", PATIENCE, || restoring.litestream().map(drop));
    assert_eq!(restoring.stop(), 143, "{}", restoring.stderr());
    server.thaw();
    assert!(!job.wrote.exists());
    assert_eq!(site.backup_of(site.database()).difference(&whole), None);
}

fn a_job_is_refused_as_a_boot_is_and_says_so(line: Line) {
    let site = Site::new(line);
    let job = Job::on_its_own_disk(&site, "pass");
    let asked = || job.recipe().env("LITESTREAM_ENTRY_ROLE", "job");
    let (code, refused) = asked().env("LITESTREAM_ENTRY_RESTORE", "required").run();
    assert!(code == 66 && !job.wrote.exists(), "{code}: {}", refused.stderr());
    let nowhere = asked()
        .env("LITESTREAM_REPLICA_URL", "s3://b/p?endpoint=http://127.0.0.1:1&region=us-east-1")
        .env("LITESTREAM_ENTRY_RESTORE_TIMEOUT", "1s");
    let (code, refused) = nowhere.env("LITESTREAM_ACCESS_KEY_ID", "a").env("LITESTREAM_SECRET_ACCESS_KEY", "b").run();
    assert!(code == 69 && !job.wrote.exists(), "{code}: {}", refused.stderr());
    // No backup yet: an empty one.
    let (code, ran) = asked().run();
    assert!(code == 0 && job.wrote.exists(), "{code}: {}", ran.stderr());
    assert!(!site.replica().exists(), "nothing was uploaded");
}

fn a_job_on_a_shared_volume_is_backed_up_by_the_app_beside_it(line: Line) {
    let site = Site::new(line);
    let mut app = site.writing("--every 1000").start();
    app.ready();
    site.write_on(100);
    let script = rows(50, "pass");
    let words = ["/usr/bin/python3".as_ref(), "-c".as_ref(), script.as_ref(), site.database().as_os_str(), site.path("wrote").as_os_str()]
        .map(std::ffi::OsStr::to_owned);
    let recipe = site.recipe().env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("run2")).env("LITESTREAM_ENTRY_ROLE", "job");
    let (code, job) = recipe.app(words).run();
    assert!(code == 0 && job.stderr().contains("another container replicates"), "{code}: {}", job.stderr());
    assert!(!job.stderr().contains("NOT KEPT"));
    site.write_on(100);
    assert_eq!(app.stop(), 0, "{}", app.stderr());
    assert_eq!(of_job(&site), 50);
    assert_eq!(Contents::of(site.database()).difference(&site.backup_of(site.database())), None);
}

fn a_job_on_a_kept_volume_is_backed_up_by_the_apps_next_start(line: Line) {
    for delay in [0, 1] {
        let site = Site::new(line);
        let run_app = || {
            let mut app = site.writing("--every 1000").start();
            app.ready();
            site.write_on(100);
            assert_eq!(app.stop(), 0, "{}", app.stderr());
        };
        run_app();
        let before = site.backup_of(site.database());
        let script = rows(50, &format!("time.sleep({delay}); os.kill(os.getpid(), 9)"));
        let words =
            ["/usr/bin/python3".as_ref(), "-c".as_ref(), script.as_ref(), site.database().as_os_str(), site.path("wrote").as_os_str()]
                .map(std::ffi::OsStr::to_owned);
        let (code, job) = site.recipe().env("LITESTREAM_ENTRY_ROLE", "job").app(words).run();
        assert!(code == 137 && job.stderr().contains("backed up when the app runs here next"), "{code}: {}", job.stderr());
        assert_eq!(site.backup_of(site.database()).difference(&before), None, "nothing was uploaded");
        run_app();
        assert_eq!(of_job(&site), 50);
        assert_eq!(Contents::of(site.database()).difference(&site.backup_of(site.database())), None);
    }
}

fn a_role_that_is_none_is_refused_and_app_counts_more_than_the_platform(line: Line) {
    let site = Site::new(line);
    let (code, refused) = site.recipe().env("LITESTREAM_ENTRY_ROLE", "jbo").shell("true").run();
    assert!(code == 78 && refused.stderr().contains("LITESTREAM_ENTRY_ROLE"), "{code}: {}", refused.stderr());
    let mut app = site.writing("--every 1000").env("RELEASE_COMMAND", "1").env("LITESTREAM_ENTRY_ROLE", "app").start();
    app.ready();
    site.write_on(50);
    assert_eq!(app.stop(), 0, "{}", app.stderr());
    site.assert_saved();
    let (code, plain) = site.plain_recipe().env("LITESTREAM_ENTRY_ROLE", "job").shell("exit 4").run();
    assert_eq!(code, 4, "{}", plain.stderr());
}
