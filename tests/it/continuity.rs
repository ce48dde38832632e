//! The backup is the database, row for row, at every stop; and these tests would see it if it were not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::sys::signal::Signal;

use crate::support::container::{Container, Recipe};
use crate::support::contents::Contents;
use crate::support::lives::{self, bare_boot, wait_for_boot};
use crate::support::s3::Server;
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, process, trials, when};

both_lines!(ten_restarts_on_a_kept_volume, random_lives, apps_that_want_the_database_alone_start_each_time);

only_0_5!(
    bare_litestream_leaves_gaps_that_are_found,
    an_earlier_gap_is_healed,
    pins_that_are_killed_leave_no_gap,
    an_app_that_a_pin_has_ended_starts_the_next_time,
    a_first_snapshot_is_whole_beside_an_app_that_begins_the_wal_anew_all_the_time,
    a_snapshot_after_litestreams_death_is_whole_beside_such_an_app,
    an_app_that_stays_in_wal_mode_costs_no_snapshot_at_its_starts,
);

only_0_3!(
    a_generation_that_0_3_began_after_it_was_killed_is_known_to_be_this_databases,
    generations_of_0_3_that_never_reached_the_replica_make_no_database_unknown,
    generations_of_0_3_that_never_came_there_after_a_restore_make_no_database_unknown,
    the_end_of_a_wal_that_0_3_has_lost_is_in_the_backup_after_a_stop,
    laps_of_the_wal_that_0_3_has_left_out_are_made_good_or_said,
);

fn ten_restarts_on_a_kept_volume(line: Line) {
    let site = Site::new(line);
    for boot in 1..=10 {
        let mut container = site.writing(lives::BOOT).start();
        wait_for_boot(&site, boot);
        assert_eq!(container.stop(), 0, "boot {boot}");
        site.assert_saved();
    }
}

fn random_lives(line: Line) {
    let stops = Mutex::new(0);
    trials::run(trials::series(), |_, random| {
        let lives = lives::series(random);
        let site = Site::new(line);
        let clean = lives::live(&site, &lives);
        *stops.lock().expect("no panic in here") += clean;
    });
    let stops = stops.into_inner().expect("no panic in there");
    println!("{} series on {line:?}: no gap at {stops} clean stops", trials::series());
}

/// The other tests prove nothing unless they find what bare Litestream leaves out: the same lives with
/// the same seeds, and the same restarts.
fn bare_litestream_leaves_gaps_that_are_found(line: Line) {
    let found = Mutex::new((0, 0));
    trials::run(trials::series(), |_, random| {
        let lives = lives::series(random);
        let site = Site::new(line);
        let (stops, gaps) = lives::live_bare(&site, &lives);
        let mut found = found.lock().expect("no panic in here");
        *found = (found.0 + stops, found.1 + gaps.len());
    });
    let (stops, gaps) = found.into_inner().expect("no panic in there");
    println!("bare Litestream, the same lives: {gaps} of {stops} clean stops left a gap");
    let site = Site::new(line);
    let boots = 8;
    let wrong = (1..=boots).filter(|boot| bare_boot(&site, *boot).is_some()).count();
    println!("bare Litestream, restarts: {wrong} of {boots} left a gap");
    // A few lives may come by without one; eight restarts never did.
    assert!(gaps + wrong > 0, "no gap found: the comparison is blind");
}

/// A database that came with a gap is whole in the backup after the first boot.
fn an_earlier_gap_is_healed(line: Line) {
    let site = Site::new(line);
    let boots = lives::leave_a_gap(&site);
    let mut container = site.writing(lives::BOOT).start();
    wait_for_boot(&site, boots + 1);
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

/// The worker that keeps the WAL from being restarted until Litestream does so itself is killed (memory) at each boot.
fn pins_that_are_killed_leave_no_gap(line: Line) {
    let site = Site::new(line);
    for boot in 1..=6 {
        let mut container = site.writing(lives::BOOT).start();
        container.ready();
        let pins = container.processes().into_iter().find(|it| it.arguments.iter().any(|word| word == b"__prepare"));
        assert!(boot == 1 || pins.is_some(), "it holds them until Litestream's first tick");
        if let Some(pins) = pins {
            process::send(pins.pid, Signal::SIGKILL);
        }
        wait_for_boot(&site, boot);
        assert_eq!(container.stop(), 0, "boot {boot}");
        site.assert_saved();
    }
}

/// 0.3 that was killed may begin a generation when it comes back, and takes its pointer to the last away at each start where it finds that
/// one wrong. All may be killed just then; what was written after it came back is of this database all the same.
fn a_generation_that_0_3_began_after_it_was_killed_is_known_to_be_this_databases(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 2000 --checkpoint 20").start();
    container.ready();
    let pointer = site.database().with_file_name(".app.db-litestream").join("generation");
    eventually("rows in the backup", PATIENCE, || when(site.backed_up() > 0));
    // The lists' times are whole seconds: two generations on, what was written last is later than the first one's for certain.
    let mut seen = BTreeSet::from([fs::read_to_string(&pointer).unwrap()]);
    eventually("two generations more", PATIENCE, || {
        process::send(container.running_litestream().pid, Signal::SIGKILL);
        let row = site.acknowledged();
        eventually("newer rows in the backup", PATIENCE, || when(site.backed_up() > row));
        seen.insert(fs::read_to_string(&pointer).unwrap());
        when(seen.len() > 2)
    });
    // It looks at the database a second after its start.
    let last = container.running_litestream().pid;
    process::send(last, Signal::SIGKILL);
    let next = eventually("another Litestream", PATIENCE, || container.litestream().filter(|it| it.pid != last));
    process::send(next.pid, Signal::SIGSTOP);
    assert!(seen.contains(&fs::read_to_string(&pointer).unwrap()));
    container.kill();
    fs::remove_file(&pointer).unwrap();
    let mut container = site.writing("--every 2000").start();
    container.ready();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// The same where the replica refuses what came after: the generations that were begun meanwhile are nowhere but here.
fn generations_of_0_3_that_never_reached_the_replica_make_no_database_unknown(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "never-there");
    let mut container = site.writing("--every 2000 --checkpoint 20").start();
    container.ready();
    eventually("rows in the backup", PATIENCE, || when(site.backed_up() > 0));
    server.freeze();
    let pointer = site.database().with_file_name(".app.db-litestream").join("generation");
    let mut seen = BTreeSet::from([fs::read_to_string(&pointer).unwrap()]);
    eventually("six generations more", PATIENCE, || {
        let litestream = container.litestream()?;
        process::send(litestream.pid, Signal::SIGKILL);
        let row = site.acknowledged();
        eventually("more rows", PATIENCE, || when(site.acknowledged() > row + 20));
        eventually("another generation", PATIENCE, || when(fs::read_to_string(&pointer).is_ok_and(|now| seen.insert(now))));
        when(seen.len() > 6)
    });
    container.kill();
    server.thaw();
    let mut container = site.writing("--every 2000").start();
    container.ready();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// The same after a restore: none of what was begun since is in the replica, and two lives are killed.
fn generations_of_0_3_that_never_came_there_after_a_restore_make_no_database_unknown(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "never-after-a-restore");
    let mut container = site.writing("").start();
    container.ready();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    lose(site.database());
    let mut container = site.writing("").start();
    container.ready();
    server.freeze();
    let position = site.database().with_file_name(".app.db-litestream").join("generation");
    eventually("a generation of its own", PATIENCE, || when(position.exists()));
    container.kill();
    server.thaw();
    let mut container = site.writing("").start();
    let litestream = eventually("Litestream", PATIENCE, || container.litestream());
    process::send(litestream.pid, Signal::SIGSTOP);
    container.ready();
    container.kill();
    let mut container = site.writing("").start();
    container.ready();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// An app that begins with these pragmas and then commits rows until TERM; its acknowledged rows are in `rows`.
fn with_pragmas(site: &Site, pragmas: &str) -> Recipe {
    let script = "
import os, signal, sqlite3, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
c = sqlite3.connect(sys.argv[1], isolation_level=None)
for pragma in sys.argv[3].split(';'):
    c.execute('PRAGMA ' + pragma).fetchall()
c.execute('CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, body TEXT)')
while True:
    last = c.execute('INSERT INTO t(body) VALUES (hex(randomblob(40)))').lastrowid
    with open(sys.argv[2] + '.new', 'w') as rows:
        rows.write(str(last))
    os.rename(sys.argv[2] + '.new', sys.argv[2])
    time.sleep(0.005)
";
    let words = ["/usr/bin/python3".as_ref(), "-c".as_ref(), script.as_ref(), site.database().as_os_str()];
    site.recipe().app(words).arguments([site.path("rows").as_os_str(), pragmas.as_ref()])
}

fn rows_of(site: &Site) -> i64 {
    fs::read_to_string(site.path("rows")).ok().and_then(|rows| rows.parse().ok()).unwrap_or_default()
}

/// A life of so many more rows that ends well, with all of them in the backup; what was said.
#[track_caller]
fn lives_well(site: &Site, pragmas: &str, rows: i64) -> String {
    let before = rows_of(site);
    let mut container = with_pragmas(site, pragmas).start();
    eventually(format!("{rows} rows of {pragmas}:\n{}", container.stderr()), PATIENCE, || {
        assert_eq!(container.ended(), None, "{pragmas}: {}", container.stderr());
        when(rows_of(site) >= before + rows)
    });
    assert_eq!(container.stop(), 0, "{pragmas}: {}", container.stderr());
    let here = Contents::of(site.database());
    assert_eq!(here.difference(&site.backup_of(site.database())), None, "{pragmas}: {}", container.stderr());
    assert!(here.last() >= rows_of(site), "{pragmas}");
    container.stderr()
}

/// What `SQLite` refuses an app while anybody else has the database open, a pin would refuse it at the second start.
fn apps_that_want_the_database_alone_start_each_time(line: Line) {
    std::thread::scope(|scope| {
        for pragmas in ["journal_mode=DELETE", "journal_mode=MEMORY", "locking_mode=EXCLUSIVE;journal_mode=WAL"] {
            scope.spawn(move || {
                let site = Site::new(line);
                let said = (0..3).map(|_| lives_well(&site, pragmas, 200)).collect::<Vec<_>>().join("\n");
                let expected = if pragmas.contains("EXCLUSIVE") { "holds it for itself" } else { "WAL mode" };
                assert!(line == Line::V03 || said.contains(expected), "{pragmas}: {said}");
            });
        }
    });
}

/// Nothing tells beforehand that a new release of an app leaves WAL mode: it fails once, and never again.
fn an_app_that_a_pin_has_ended_starts_the_next_time(line: Line) {
    let site = Site::new(line);
    lives_well(&site, "journal_mode=WAL", 50);
    lives_well(&site, "journal_mode=WAL", 50);
    let (code, ended) = with_pragmas(&site, "journal_mode=DELETE").run();
    assert_eq!(code, 1, "{}", ended.stderr());
    let said = lives_well(&site, "journal_mode=DELETE", 50);
    assert!(said.contains("its app failed soon after its last start"), "{said}");
    let said = lives_well(&site, "journal_mode=DELETE", 50);
    assert!(said.contains("its app leaves WAL mode at each start"), "{said}");
}

/// An app whose WAL is checkpointed as a whole when Litestream comes, and which begins it anew while Litestream reads a snapshot, over a
/// few of the frames that are still to be read. No page is written twice. Its last commit is in `rows`.
fn over_the_snapshot(site: &Site) -> Recipe {
    let script = "
import glob, os, signal, sqlite3, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
c.execute('CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, body TEXT)')
# That it began in another mode is seen.
time.sleep(0.2)
c.execute('PRAGMA journal_mode=WAL'); c.execute('PRAGMA synchronous=OFF'); c.execute('PRAGMA wal_autocheckpoint=0')
def commit():
    n = c.execute('INSERT INTO t(body) VALUES (hex(randomblob(200000)))').lastrowid
    with open(sys.argv[2] + '.new', 'w') as rows:
        rows.write(str(n))
    os.rename(sys.argv[2] + '.new', sys.argv[2])
    return n
def is_read():
    # A snapshot, and not what is fetched of the replica after a restore.
    try:
        return any(os.path.getsize(part) > 1 << 20 for part in glob.glob(sys.argv[3]))
    except FileNotFoundError:
        return False
while commit() < 120:
    pass
while True:
    for _ in range(11):
        commit()
    c.execute('PRAGMA wal_checkpoint')
    by = time.time() + 3
    while not is_read() and time.time() < by:
        time.sleep(0.0005)
    commit()
    while is_read():
        time.sleep(0.0005)
";
    let words = ["/usr/bin/python3".as_ref(), "-c".as_ref(), script.as_ref(), site.database().as_os_str()];
    let reads = site.database().with_file_name(".app.db-litestream").join("ltx/0/*.tmp");
    site.recipe().app(words).arguments([site.path("rows").as_os_str(), reads.as_os_str()])
}

/// Until so many files of Litestream's are in the replica, the first of which is a snapshot.
fn uploaded(site: &Site, files: usize) {
    eventually("uploads", PATIENCE, || when(uploads(site).len() >= files));
}

#[track_caller]
fn stops_with_all(site: &Site, mut container: Container) {
    let commits = rows_of(site);
    eventually("more commits", PATIENCE, || when(rows_of(site) > commits + 2));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    let here = Contents::of(site.database());
    assert_eq!(here.difference(&site.backup_of(site.database())), None, "{}", container.stderr());
}

/// Litestream 0.5 reads a first snapshot with no lock that would keep the WAL from being begun anew, where all of it was checkpointed just
/// then: pages of it are then those of other frames.
fn a_first_snapshot_is_whole_beside_an_app_that_begins_the_wal_anew_all_the_time(line: Line) {
    let site = Site::new(line);
    // A first boot.
    let container = over_the_snapshot(&site).start();
    uploaded(&site, 2);
    stops_with_all(&site, container);
    let volume_lost = || {
        fs::remove_dir_all(site.path("data")).unwrap();
        fs::create_dir(site.path("data")).unwrap();
    };
    // A restore beside what is known of the first life; its kept volume; a restore on an empty one.
    let steps: [&dyn Fn(); 3] = [&|| lose(site.database()), &|| (), &volume_lost];
    for happens in steps {
        happens();
        let before = uploads(&site).len();
        let container = over_the_snapshot(&site).start();
        uploaded(&site, before + 1);
        stops_with_all(&site, container);
    }
}

/// The same after each death of Litestream.
fn a_snapshot_after_litestreams_death_is_whole_beside_such_an_app(line: Line) {
    let site = Site::new(line);
    let container = over_the_snapshot(&site).start();
    let mut before = uploads(&site).len();
    for _ in 0..3 {
        uploaded(&site, before + 1);
        process::send(container.running_litestream().pid, Signal::SIGKILL);
        before = uploads(&site).len();
    }
    uploaded(&site, before + 1);
    stops_with_all(&site, container);
}

/// The newest of Litestream's files in the replica that are new since then, by size.
fn uploads_since(site: &Site, before: &BTreeMap<String, u64>) -> u64 {
    uploads(site).into_iter().filter(|(name, _)| !before.contains_key(name)).map(|(_, size)| size).max().unwrap_or_default()
}

fn uploads(site: &Site) -> BTreeMap<String, u64> {
    let entries = fs::read_dir(site.replica().join("ltx/0")).into_iter().flatten().flatten();
    entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())).collect()
}

/// An app that only opens WAL mode costs no snapshot at its starts, whether it began in it or not; nor for ever after it has failed once.
fn an_app_that_stays_in_wal_mode_costs_no_snapshot_at_its_starts(line: Line) {
    for pragmas in ["journal_mode=WAL", "foreign_keys=ON"] {
        let site = Site::new(line);
        let failing = |pragma: &str| {
            let script = format!("import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA {pragma}'); sys.exit(3)");
            let words = ["/usr/bin/python3".into(), "-c".into(), script.into(), site.database().as_os_str().to_owned()];
            assert_eq!(site.recipe().app(words).run().0, 3);
        };
        lives_well(&site, pragmas, 20);
        let large = rusqlite::Connection::open(site.database()).unwrap();
        large.execute_batch("CREATE TABLE large(id INTEGER PRIMARY KEY, b); INSERT INTO large VALUES(1, randomblob(1000000))").unwrap();
        drop(large);
        for boot in 1..=4 {
            let before = uploads(&site);
            lives_well(&site, pragmas, 20);
            assert!(boot <= 2 || uploads_since(&site, &before) < 100_000, "boot {boot} of {pragmas}");
        }
        failing(pragmas);
        lives_well(&site, pragmas, 20);
        let before = uploads(&site);
        lives_well(&site, pragmas, 20);
        assert!(uploads_since(&site, &before) < 100_000, "after a failure of {pragmas}");
    }
}

/// As 0.3 itself loses it, where the app writes beside its checkpoint: nothing in the replica shows it.
fn the_end_of_a_wal_that_0_3_has_lost_is_in_the_backup_after_a_stop(line: Line) {
    let script = "
import os, signal, sqlite3, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
c.execute('PRAGMA journal_mode=WAL')
c.execute('CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, body TEXT)')
n = 0
while True:
    n += 1
    c.execute('INSERT INTO t(body) VALUES (hex(randomblob(400)))')
    time.sleep(0.001 if n < 4000 else 1)
";
    let site = Site::new(line);
    let words = ["/usr/bin/python3".as_ref(), "-c".as_ref(), script.as_ref(), site.database().as_os_str()];
    let mut container = site.recipe().app(words).start();
    let segments = || -> Vec<PathBuf> {
        let generations = fs::read_dir(site.replica().join("generations")).into_iter().flatten().flatten();
        let all = generations.flat_map(|generation| fs::read_dir(generation.path().join("wal")).into_iter().flatten().flatten());
        let mut paths: Vec<_> = all.map(|segment| segment.path()).filter(|path| path.extension().is_some_and(|e| e == "lz4")).collect();
        paths.sort();
        paths
    };
    let index = |path: &Path| path.file_name().map(|name| name.to_string_lossy().chars().take(8).collect::<String>());
    let last_of_the_first = || {
        let all = segments();
        let first = index(all.first()?)?;
        let another = all.iter().any(|path| index(path).is_some_and(|index| index != first));
        all.into_iter().rfind(|path| index(path).as_ref() == Some(&first)).filter(|_| another)
    };
    let last = eventually("a second WAL", PATIENCE, last_of_the_first);
    fs::remove_file(&last).unwrap();
    let (code, said) = (container.stop(), container.stderr());
    assert_eq!(code, 0, "{said}");
    let here = Contents::of(site.database());
    assert_eq!(here.difference(&site.backup_of(site.database())), None, "{said}");
}

/// 0.3 lets go of the WAL for each of its own checkpoints, and an app that is fast enough begins it anew more than once meanwhile.
fn laps_of_the_wal_that_0_3_has_left_out_are_made_good_or_said(line: Line) {
    let script = "
import os, signal, sqlite3, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
c.execute('PRAGMA journal_mode=WAL'); c.execute('PRAGMA synchronous=OFF'); c.execute('PRAGMA wal_autocheckpoint=3')
c.execute('CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, body TEXT)')
while True:
    n = c.execute('INSERT INTO t(body) VALUES (hex(randomblob(400)))').lastrowid
    if n % 50 == 0:
        with open(sys.argv[2] + '.new', 'w') as rows:
            rows.write(str(n))
        os.rename(sys.argv[2] + '.new', sys.argv[2])
";
    let seen: Vec<bool> = (0..4)
        .map(|_| {
            let site = Site::new(line);
            let words = ["/usr/bin/python3".as_ref(), "-c".as_ref(), script.as_ref(), site.database().as_os_str()];
            let mut container = site.recipe().app(words).arguments([site.path("rows").as_os_str()]).start();
            eventually("rows", PATIENCE * 3, || when(rows_of(&site) > 200_000));
            let code = container.stop();
            let said = container.stderr();
            assert!(code == 0 || (code == 74 && said.contains("NOT SAVED")), "{code}: {said}");
            if code == 0 {
                let here = Contents::of(site.database());
                assert_eq!(here.difference(&site.backup_of(site.database())), None, "{said}");
            }
            said.contains("of its WAL is in no backup")
        })
        .collect();
    println!("seen in {} of {} lives", seen.iter().filter(|seen| **seen).count(), seen.len());
}
