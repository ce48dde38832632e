//! While it runs: a replica that loses what it had, and a database's file that is replaced, are seen, said, and made good, without a
//! restart of the container.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::container::Container;
use crate::support::contents::{Contents, beside};
use crate::support::s3::Server;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    a_replica_that_is_emptied_under_load_is_made_whole_by_a_snapshot,
    a_replica_that_is_emptied_while_the_app_is_idle_is_made_whole,
    a_replica_that_loses_its_newest_files_is_made_whole,
    a_bucket_that_is_emptied_is_made_whole,
    a_replica_that_is_emptied_before_the_stop_is_whole_after_it_or_the_stop_says_that_it_is_not,
    a_database_that_is_replaced_by_a_rename_is_backed_up_as_what_it_is_now,
    a_database_that_comes_back_with_another_page_size_is_backed_up_as_what_it_is_now,
    a_database_that_is_replaced_right_before_the_stop_is_saved_by_a_pass,
    a_database_that_is_deleted_is_said_to_be_and_its_backup_stays,
    a_database_that_the_app_never_makes_is_well_and_said_to_be_missing,
    a_check_that_finds_nothing_there_begins_the_backup_anew,
);

/// An app that does what a file tells it, between its rows: `swap PAGE_SIZE`, `delete`, `pause`.
const APP: &str = r#"
import os, sqlite3, sys, time
db, ready, todo, done = sys.argv[1:5]
def connect():
    c = sqlite3.connect(db, isolation_level=None, timeout=20)
    c.execute('PRAGMA journal_mode=WAL')
    c.execute('CREATE TABLE IF NOT EXISTS r(id INTEGER PRIMARY KEY, v TEXT)')
    return c
def remove():
    for suffix in ('-wal', '-shm'):
        if os.path.exists(db + suffix): os.remove(db + suffix)
c, words = connect(), ['go']
open(ready, 'w').close()
while True:
    if words[0] == 'go': c.execute('INSERT INTO r(v) VALUES(hex(randomblob(100)))')
    time.sleep(0.01)
    if not os.path.exists(todo): continue
    words = open(todo).read().split()
    os.remove(todo)
    if words[0] == 'swap':
        c.execute('PRAGMA page_size=' + words[1])
        c.execute("VACUUM INTO '%s.new'" % db)
        c.close(); remove(); os.rename(db + '.new', db)
        c = connect()
        c.execute("UPDATE r SET v='of the new file' WHERE id % 3 = 0")
        words = ['go']
    if words[0] == 'delete':
        c.close(); remove(); os.remove(db)
    open(done, 'w').close()
"#;

struct App<'a> {
    site: &'a Site,
    container: Container,
}

impl<'a> App<'a> {
    fn start(site: &'a Site, variables: &[(&str, &str)]) -> Self {
        let recipe = variables.iter().fold(site.recipe(), |recipe, (name, value)| recipe.env(name, value));
        let paths = [site.database().to_owned(), site.ready_file(), site.path("todo"), site.path("done")];
        let words = ["python3", "-c", APP].map(PathBuf::from).into_iter().chain(paths);
        let mut container = recipe.app(words).start();
        container.ready();
        let app = Self { site, container };
        eventually("a first backup", PATIENCE, || when(app.restorable() > 10));
        app
    }

    fn does(&self, what: &str) {
        let (todo, done) = (self.site.path("todo"), self.site.path("done"));
        let _ = fs::remove_file(&done);
        fs::write(self.site.path("todo.new"), what).unwrap();
        fs::rename(self.site.path("todo.new"), todo).unwrap();
        eventually(format!("the app does {what}"), PATIENCE, || when(done.exists()));
    }

    /// Rows that a bare Litestream restores, 0 where it restores nothing that is sound.
    fn restorable(&self) -> i64 {
        let (output, _scratch, copy) = self.site.try_restore(self.site.database());
        if output.status.success() && copy.exists() && Contents::read(&copy).is_ok() { rows(&copy) } else { 0 }
    }

    /// Whether all is well, and the line that says so or not.
    fn health(&self) -> (bool, String) {
        let output = self.container.exec(["health"]);
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).trim().to_owned())
    }

    #[track_caller]
    fn is_unwell(&self, says: &str) {
        eventually(format!("unhealthy: {says}"), PATIENCE, || {
            let (well, line) = self.health();
            when(!well && line.contains(says))
        });
    }

    #[track_caller]
    fn is_well_again(&self) {
        eventually("healthy again", PATIENCE, || when(self.health().0));
    }

    #[track_caller]
    fn says(&self, what: &str) {
        eventually(format!("the log says {what:?}"), PATIENCE, || when(self.container.stderr().contains(what)));
    }

    /// The app pauses: what it has written is in the backup, row for row, while all of this still runs.
    #[track_caller]
    fn is_backed_up(&self) {
        self.does("pause");
        let here = Contents::of(self.site.database());
        let mut last = String::new();
        let start = std::time::Instant::now();
        while start.elapsed() < PATIENCE {
            let (output, _scratch, copy) = self.site.try_restore(self.site.database());
            last = if output.status.success() {
                match Contents::read(&copy) {
                    Ok(there) => match here.difference(&there) {
                        None => return,
                        Some(difference) => difference,
                    },
                    Err(why) => why,
                }
            } else {
                String::from_utf8_lossy(&output.stderr).into_owned()
            };
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("not backed up: {last}\n{}", self.container.stderr());
    }

    #[track_caller]
    fn stops_well(mut self) {
        let code = self.container.stop();
        assert!(code == 143 || code == 0, "{code}: {}", self.container.stderr());
        assert!(!self.container.stderr().contains("NOT SAVED"), "{}", self.container.stderr());
        let here = Contents::of(self.site.database());
        assert_eq!(here.difference(&self.site.backup_of(self.site.database())), None);
    }
}

/// What the watch keeps of the database.
fn watched(site: &Site) -> Option<String> {
    let entries = fs::read_dir(site.path("run")).ok()?;
    let path = entries.filter_map(|entry| Some(entry.ok()?.path())).find(|path| path.display().to_string().contains("/watched-"))?;
    fs::read_to_string(path).ok()
}

fn rows(database: &Path) -> i64 {
    let connection = rusqlite::Connection::open(database).unwrap();
    connection.query_row("SELECT count(*) FROM r", (), |row| row.get(0)).unwrap_or_default()
}

/// After the first snapshot, which would make it whole by itself, and the first look.
#[track_caller]
fn is_looked_at(site: &Site) {
    eventually("it is looked at", PATIENCE, || when(watched(site).is_some_and(|text| text.contains("looked"))));
}

fn empty(site: &Site) {
    is_looked_at(site);
    // Litestream may be writing there.
    eventually("the replica is emptied", PATIENCE, || when(fs::remove_dir_all(site.replica()).is_ok() || !site.replica().exists()));
}

fn a_replica_that_is_emptied_under_load_is_made_whole_by_a_snapshot(line: Line) {
    let site = Site::new(line);
    let app = App::start(&site, &[]);
    empty(&site);
    app.is_unwell("");
    app.says("litestream is started again, for a new snapshot");
    app.says("the backup is whole again");
    app.is_well_again();
    app.is_backed_up();
    app.stops_well();
}

fn a_replica_that_is_emptied_while_the_app_is_idle_is_made_whole(line: Line) {
    let site = Site::new(line);
    let app = App::start(&site, &[]);
    app.is_backed_up();
    empty(&site);
    eventually("it is seen", PATIENCE * 2, || when(app.container.stderr().contains("for a new snapshot")));
    app.says("the backup is whole again");
    app.is_well_again();
    assert!(app.restorable() > 10);
    app.stops_well();
}

fn a_replica_that_loses_its_newest_files_is_made_whole(line: Line) {
    let site = Site::new(line);
    let app = App::start(&site, &[]);
    let newest = || -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![site.replica()]);
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        let place = if line == Line::V05 { "/ltx/0/" } else { "/wal/" };
        // Without one that is being written: where that goes, 0.3 looks where its replica ends, and uploads what is missing by itself.
        files.retain(|file| file.display().to_string().contains(place) && file.extension().is_some_and(|end| end != "tmp"));
        files.sort();
        files
    };
    eventually("there are some", PATIENCE, || when(newest().len() > 8));
    // No look may have seen any of these.
    let lost: Vec<PathBuf> = newest().into_iter().rev().take(3).collect();
    let mut lost_any = false;
    for file in lost {
        lost_any |= fs::remove_file(file).is_ok();
    }
    assert!(lost_any);
    app.says("for a new snapshot");
    app.says("the backup is whole again");
    app.is_well_again();
    app.is_backed_up();
    app.stops_well();
}

fn a_bucket_that_is_emptied_is_made_whole(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "p");
    let app = App::start(&site, &[]);
    is_looked_at(&site);
    eventually("the bucket is emptied", PATIENCE, || {
        server.empty("p");
        when(app.restorable() == 0)
    });
    eventually("it is seen", PATIENCE * 3, || when(app.container.stderr().contains("for a new snapshot")));
    app.says("the backup is whole again");
    app.is_well_again();
    app.is_backed_up();
    app.stops_well();
}

fn a_replica_that_is_emptied_before_the_stop_is_whole_after_it_or_the_stop_says_that_it_is_not(line: Line) {
    let site = Site::new(line);
    let app = App::start(&site, &[]);
    empty(&site);
    app.stops_well();
}

fn a_database_that_is_replaced_by_a_rename_is_backed_up_as_what_it_is_now(line: Line) {
    replaced(line, 4096);
}

fn a_database_that_comes_back_with_another_page_size_is_backed_up_as_what_it_is_now(line: Line) {
    replaced(line, 8192);
}

fn replaced(line: Line, page_size: u32) {
    let site = Site::new(line);
    let app = App::start(&site, &[]);
    app.does(&format!("swap {page_size}"));
    app.is_unwell("");
    app.says("was replaced by another file");
    app.says("the backup is whole again");
    app.is_well_again();
    app.is_backed_up();
    app.stops_well();
}

fn a_database_that_is_replaced_right_before_the_stop_is_saved_by_a_pass(line: Line) {
    for page_size in [4096, 8192] {
        let site = Site::new(line);
        let app = App::start(&site, &[]);
        eventually("it is watched", PATIENCE, || when(watched(&site).is_some()));
        app.does(&format!("swap {page_size}"));
        app.stops_well();
    }
}

fn a_database_that_is_deleted_is_said_to_be_and_its_backup_stays(line: Line) {
    let site = Site::new(line);
    let mut app = App::start(&site, &[]);
    app.is_backed_up();
    app.does("delete");
    app.says("app.db was deleted while it was replicated");
    app.is_unwell("was deleted");
    let status = app.container.exec(["status", "--json"]).stdout;
    assert!(String::from_utf8_lossy(&status).contains("\"proven\":false"), "{}", String::from_utf8_lossy(&status));
    app.container.stop();
    assert!(app.restorable() > 10 && !site.database().exists());
}

fn a_database_that_the_app_never_makes_is_well_and_said_to_be_missing(line: Line) {
    let site = Site::new(line);
    let mut container = site
        .recipe()
        .env("LITESTREAM_ENTRY_MAX_LAG", "1s")
        .shell(&format!("touch {}; exec sleep 600", site.ready_file().display()))
        .start();
    container.ready();
    let missing = format!("no database at {} yet", site.database().display());
    let health = |container: &Container| {
        let output = container.exec(["health"]);
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let first = eventually("Litestream is up", PATIENCE, || Some(health(&container)).filter(|(well, _)| *well));
    assert!(first.1.contains(&missing), "{}", first.1);
    let status = container.exec(["status"]).stdout;
    let status = String::from_utf8_lossy(&status);
    assert!(status.contains(" none") && !status.contains("proven"), "{status}");
    eventually("the log says so after a minute", PATIENCE * 2, || {
        assert!(health(&container).0, "{}", container.stderr());
        when(container.stderr().contains(&missing))
    });
    let said = container.stderr().matches(&missing).count();
    assert_eq!(said, 1, "{}", container.stderr());
    container.stop();
    assert_eq!(container.stderr().matches(&missing).count(), 2, "{}", container.stderr());
    assert!(!beside(site.database(), "-wal").exists());
}

fn a_check_that_finds_nothing_there_begins_the_backup_anew(line: Line) {
    let site = Site::new(line);
    let app = App::start(&site, &[("LITESTREAM_ENTRY_VERIFY_INTERVAL", "2s")]);
    empty(&site);
    app.is_unwell("");
    eventually("proved again", PATIENCE, || when(app.restorable() > 10 && app.health().0));
    app.is_backed_up();
}
