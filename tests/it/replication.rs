//! Litestream dies, the app does not notice, and replication comes back.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::container::Container;
use crate::support::contents::Contents;
use crate::support::process::{self, Process};
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    comes_back_after_kill,
    comes_back_after_kill_of_a_hot_writers,
    comes_back_again_and_again,
    comes_back_after_a_hang,
    comes_back_after_a_hang_in_its_start,
    a_litestream_that_hangs_at_the_stop_is_replaced_by_a_pass,
    a_worker_in_reserve_that_is_killed_or_stopped_costs_nothing,
    a_worker_of_the_last_sync_that_hangs_is_replaced,
    comes_back_when_its_binary_does,
    comes_back_when_it_has_memory_again,
    a_database_that_it_cannot_open_is_saved_at_the_end,
    its_end_stops_the_app_or_is_ignored_where_that_is_asked_for
);

only_0_5!(a_long_read_transaction_makes_it_unproven_and_it_is_made_whole_at_the_next_chance,);

/// More than the two seconds that it takes, since other tests run too.
const GENEROUS: Duration = Duration::from_secs(10);

fn comes_back_after_kill(line: Line) {
    kill_litestream(line, "--every 4000", 1);
}

fn comes_back_after_kill_of_a_hot_writers(line: Line) {
    kill_litestream(line, "--every 100", 1);
}

fn comes_back_again_and_again(line: Line) {
    kill_litestream(line, "--burst 50:20", 3);
}

/// Stopped is not dead: it is found out, killed, and replaced, and what it missed is in the backup.
fn comes_back_after_a_hang(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 4000").start();
    container.ready();
    let app = container.app().pid;
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    let litestream = container.running_litestream().pid;
    process::send(litestream, Signal::SIGSTOP);
    let start = Instant::now();
    let stopped_at = site.acknowledged();
    eventually("it is killed", Duration::from_secs(90), || when(process::Process::read(litestream).is_none()));
    println!("{line:?}: a Litestream that hangs was killed after {:?}", start.elapsed());
    assert!(container.stderr().contains("litestream hangs ("), "{}", container.stderr());
    eventually("newer rows in the backup", PATIENCE, || when(site.backed_up() > stopped_at));
    assert_eq!(container.app().pid, app, "the app is the same process");
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// One that is started again and hangs in its start, as in a call without a time limit, is not there for ever.
fn comes_back_after_a_hang_in_its_start(line: Line) {
    let site = Site::new(line);
    let (wrapper, hang) = (site.path("litestream"), site.path("hang"));
    let text = format!(
        "#!/bin/sh\n[ \"$1\" != replicate ] || [ ! -e {hang} ] || {{ rm {hang}; exec sleep 1000; }}\nexec {} \"$@\"\n",
        line.binary().display(),
        hang = hang.display()
    );
    fs::write(&wrapper, text).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut container = site.writing("--every 4000").env("LITESTREAM_BIN", &wrapper).start();
    container.ready();
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    fs::write(&hang, "").unwrap();
    process::send(container.running_litestream().pid, Signal::SIGKILL);
    eventually("one that hangs", PATIENCE, || when(!hang.exists()));
    let stopped_at = site.acknowledged();
    let said = || container.stderr().contains("litestream hangs (it has not come up for");
    eventually("it is killed", Duration::from_secs(90), || when(said()));
    eventually("newer rows in the backup", PATIENCE, || when(site.backed_up() > stopped_at));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

fn kill_litestream(line: Line, options: &str, times: usize) {
    let site = Site::new(line);
    let mut container = site.writing(options).start();
    container.ready();
    let app = container.app().pid;
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    for _ in 0..times {
        let time = replication_gap(&site, &container);
        println!("{line:?}, {options}: replication was back after {time:?}");
        assert!(time < GENEROUS, "replication was back only after {time:?}");
        assert_eq!(container.app().pid, app, "the app is the same process");
    }
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

/// Kills Litestream: how long until a row that was acknowledged after that is in the backup.
fn replication_gap(site: &Site, container: &Container) -> Duration {
    let litestream = container.running_litestream().pid;
    process::send(litestream, Signal::SIGKILL);
    let start = Instant::now();
    eventually("Litestream is gone", PATIENCE, || when(process::Process::read(litestream).is_none()));
    let killed_at = site.acknowledged();
    eventually("the app goes on", PATIENCE, || when(site.acknowledged() > killed_at));
    eventually("newer rows in the backup", PATIENCE, || when(site.backed_up() > killed_at));
    start.elapsed()
}

/// A transaction of the app's keeps the WAL from being emptied after Litestream's death (0.5): that is said, and made whole
/// when the transaction has ended.
fn a_long_read_transaction_makes_it_unproven_and_it_is_made_whole_at_the_next_chance(line: Line) {
    let site = Site::new(line);
    let script = "import os, sqlite3, sys, time
database, ready, release = sys.argv[1:]
writer = sqlite3.connect(database, timeout=10, isolation_level=None)
writer.execute('PRAGMA journal_mode=wal'); writer.execute('PRAGMA wal_autocheckpoint=50')
writer.execute('CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, body TEXT)')
reader = sqlite3.connect(database, isolation_level=None)
writer.execute(\"INSERT INTO t(body) VALUES ('first')\")
reader.execute('BEGIN'); reader.execute('SELECT count(*) FROM t').fetchall()
open(ready, 'w')
while True:
    writer.execute('INSERT INTO t(body) VALUES (hex(randomblob(200)))')
    if os.path.exists(release) and reader:
        reader.close(); reader = None
    time.sleep(0.005)";
    let release = site.path("release");
    let words = [
        "/usr/bin/python3".as_ref(),
        "-c".as_ref(),
        script.as_ref(),
        site.database().as_os_str(),
        site.ready_file().as_os_str(),
        release.as_os_str(),
    ]
    .map(std::ffi::OsStr::to_owned);
    let mut container = site.recipe().app(words).start();
    container.ready();
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    process::send(container.running_litestream().pid, Signal::SIGKILL);
    eventually("it is said", PATIENCE, || when(container.stderr().contains("its backup is unproven")));
    let said = container.stderr().lines().position(|l| l.contains("its backup is unproven")).unwrap();
    std::fs::write(&release, "").unwrap();
    // After half a minute Litestream is ended and started on an emptied WAL.
    eventually("it is made whole", PATIENCE * 2, || {
        let starts = container.stderr().lines().skip(said).filter(|l| l.contains("msg=litestream version")).count();
        when(starts >= 2)
    });
    assert_eq!(container.stop(), 143, "{}", container.stderr());
    let here = Contents::of(site.database());
    assert_eq!(site.backup_of(site.database()).difference(&here), None);
}

fn its_end_stops_the_app_or_is_ignored_where_that_is_asked_for(line: Line) {
    let killed = |policy: &str| {
        let site = Site::new(line);
        let mut container = site.writing("--every 4000").env("LITESTREAM_ENTRY_ON_REPLICATION_FAILURE", policy).start();
        container.ready();
        eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
        process::send(container.running_litestream().pid, Signal::SIGKILL);
        (site, container)
    };
    // The app is stopped as by TERM, and what it wrote is saved by a pass.
    let (site, mut container) = killed("exit");
    assert_eq!(container.wait(PATIENCE), 70, "{}", container.stderr());
    site.assert_saved();
    let (site, mut container) = killed("ignore");
    eventually("it is said", PATIENCE, || when(container.stderr().contains("NOTHING IS REPLICATED any more")));
    site.write_on(300);
    assert!(container.litestream().is_none());
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// The site with a Litestream of its own at this path, that a test may take away.
fn with_own_litestream(site: &Site, script: Option<&str>) -> std::path::PathBuf {
    let own = site.path("litestream");
    match script {
        Some(script) => {
            std::fs::write(&own, format!("#!/bin/sh\n{script}\nexec {} \"$@\"\n", site.line.binary().display())).unwrap();
            std::fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        None => drop(std::fs::copy(site.line.binary(), &own).unwrap()),
    }
    own
}

/// An upgrade in place takes the binary away for a moment: it is tried again until there is one.
fn comes_back_when_its_binary_does(line: Line) {
    let site = Site::new(line);
    let own = with_own_litestream(&site, None);
    let mut container = site.writing("--every 4000").env("LITESTREAM_BIN", &own).start();
    container.ready();
    let app = container.app().pid;
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    let away = site.path("away");
    let litestream = container.running_litestream().pid;
    std::fs::rename(&own, &away).unwrap();
    process::send(litestream, Signal::SIGKILL);
    eventually("it is said", PATIENCE, || when(container.stderr().contains("cannot be started: No such file or directory")));
    let killed_at = site.acknowledged();
    std::fs::rename(&away, &own).unwrap();
    eventually("newer rows in the backup", PATIENCE, || when(site.backed_up() > killed_at));
    assert_eq!(container.app().pid, app, "the app is the same process");
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// A Litestream that gets no memory from the kernel ends by itself, with a page of text on stderr.
fn comes_back_when_it_has_memory_again(line: Line) {
    let site = Site::new(line);
    let scarce = site.path("scarce");
    let own = with_own_litestream(&site, Some(&format!("[ -e {} ] && [ \"$1\" = replicate ] && ulimit -v 40000", scarce.display())));
    let mut container = site.writing("--every 4000").env("LITESTREAM_BIN", &own).start();
    container.ready();
    let app = container.app().pid;
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    std::fs::write(&scarce, "").unwrap();
    process::send(container.running_litestream().pid, Signal::SIGKILL);
    eventually("it is out of memory", PATIENCE, || when(container.stderr().contains("fatal error: failed to reserve page summary memory")));
    let at = site.acknowledged();
    std::fs::remove_file(&scarce).unwrap();
    eventually("newer rows in the backup", PATIENCE, || when(site.backed_up() > at));
    assert_eq!(container.app().pid, app, "the app is the same process");
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// An app that keeps its database to itself (`locking_mode=EXCLUSIVE`) shuts Litestream out for as long as it lives.
fn a_database_that_it_cannot_open_is_saved_at_the_end(line: Line) {
    let site = Site::new(line);
    let script = "import signal, sqlite3, sys, time
database, ready = sys.argv[1:]
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
app = sqlite3.connect(database, isolation_level=None)
app.execute('PRAGMA locking_mode=EXCLUSIVE'); app.execute('PRAGMA journal_mode=wal')
app.execute('CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)')
while not stop:
    app.execute('INSERT INTO t(body) VALUES (hex(randomblob(200)))')
    if app.execute('SELECT count(*) FROM t').fetchone()[0] == 300: open(ready, 'w')
    time.sleep(0.005)";
    let words = ["/usr/bin/python3", "-c", script, &site.database().display().to_string(), &site.ready_file().display().to_string()];
    let mut container = site.recipe().app(words).start();
    container.ready();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    let here = Contents::of(site.database());
    assert_eq!(site.backup_of(site.database()).difference(&here), None);
}

/// Stopped, and stopped again whenever somebody lets it go on, until it is gone.
fn keep_stopped(pid: i32, name: &str) {
    while Process::read(pid).is_some_and(|process| process.runs(name) && !process.is_zombie()) {
        process::send(pid, Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// It was sound until then, so that nobody has found it out yet.
fn a_litestream_that_hangs_at_the_stop_is_replaced_by_a_pass(line: Line) {
    for for_good in [false, true] {
        let site = Site::new(line);
        let mut container = site.writing("--every 2000").env("LITESTREAM_ENTRY_STOP_TIMEOUT", "8s").start();
        container.ready();
        let litestream = container.running_litestream().pid;
        eventually("it replicates", PATIENCE, || when(site.backed_up() > 0));
        process::send(litestream, Signal::SIGSTOP);
        site.write_on(200);
        let began = Instant::now();
        let code = std::thread::scope(|scope| {
            if for_good {
                scope.spawn(|| keep_stopped(litestream, "litestream"));
            }
            container.stop()
        });
        assert_eq!(code, 0, "{:?}: {}", began.elapsed(), container.stderr());
        site.assert_saved();
        assert!(!for_good || container.stderr().contains("litestream does not"), "{}", container.stderr());
        println!("{line:?}, for good {for_good}: {:?}", began.elapsed());
    }
}

/// In the moment before the stop, and long before it: there is another soon.
fn a_worker_in_reserve_that_is_killed_or_stopped_costs_nothing(line: Line) {
    let site = Site::new(line);
    let is_it = |process: &Process| process.arguments.iter().any(|word| word == b"__flush");
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let mut container = site.writing("--every 2000").start();
        container.ready();
        let reserve = || container.processes().into_iter().find(is_it);
        let first = eventually("one in reserve", PATIENCE, reserve).pid;
        process::send(first, Signal::SIGKILL);
        let second = eventually("another in reserve", PATIENCE, || reserve().filter(|it| it.pid != first)).pid;
        site.write_on(100);
        process::send(second, signal);
        assert_eq!(container.stop(), 0, "{signal}: {}", container.stderr());
        site.assert_saved();
    }
}

/// Litestream hangs, too, so that there is time to stop the worker.
fn a_worker_of_the_last_sync_that_hangs_is_replaced(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 2000").env("LITESTREAM_ENTRY_STOP_TIMEOUT", "10s").start();
    container.ready();
    let litestream = container.running_litestream().pid;
    site.write_on(200);
    let is_it = |process: &Process| process.arguments.iter().any(|word| word == b"__flush");
    let code = std::thread::scope(|scope| {
        scope.spawn(|| keep_stopped(litestream, "litestream"));
        container.without_reserve();
        container.signal(Signal::SIGTERM);
        let worker = eventually("the worker", PATIENCE, || container.processes().into_iter().find(is_it));
        process::send(worker.pid, Signal::SIGSTOP);
        container.wait(PATIENCE)
    });
    assert_eq!(code, 0, "{}", container.stderr());
    site.assert_saved();
    assert!(container.stderr().contains("a worker of the last sync has said nothing for long"), "{}", container.stderr());
}
