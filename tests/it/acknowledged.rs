//! No acknowledged row is lost, however the app ends; and the container's code is the app's.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::contents::Contents;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, trials};

both_lines!(
    rows_of_an_app_that_exits_0_on_term_are_saved,
    rows_of_an_app_that_exits_1_on_term_are_saved,
    rows_of_an_app_that_exits_143_on_term_are_saved,
    rows_of_an_app_that_dies_of_term_are_saved,
    rows_of_an_app_that_ignores_term_are_saved,
    rows_of_an_app_that_exits_late_on_term_are_saved,
    rows_of_an_app_that_ends_after_50_ms_are_saved,
    rows_of_an_app_that_ends_after_500_ms_are_saved,
    rows_of_an_app_that_ends_after_2_s_are_saved,
    rows_of_an_app_that_fails_after_50_ms_are_saved,
    rows_of_an_app_that_fails_after_500_ms_are_saved,
    rows_of_an_app_that_fails_after_2_s_are_saved,
    rows_of_an_app_that_is_stopped_within_its_first_second_are_saved,
    rows_of_a_child_that_writes_on_are_saved,
    rows_of_a_child_that_ignores_term_are_saved,
    rows_of_a_child_that_needs_seconds_after_term_are_saved,
    rows_of_a_busy_app_that_is_killed_are_saved,
    rows_of_a_writer_of_docker_execs_are_saved,
    rows_of_an_app_that_is_stopped_while_it_starts_are_saved,
);

/// An app of a site's own, for each trial, that is told to stop and ends with `code`.
fn stopped(line: Line, options: &str, (least, most): (u64, u64), code: i32) {
    trials::run(trials::per_case(), |_, random| {
        let site = Site::new(line);
        let every = random.pick(&[0, 500, 2_000, 20_000]);
        let mut container = site.writing(&format!("--every {every} {options}")).start();
        container.ready();
        std::thread::sleep(random.millis(least, most));
        assert_eq!(container.stop(), code, "the app's code is the container's");
        site.assert_saved();
    });
}

fn rows_of_an_app_that_exits_0_on_term_are_saved(line: Line) {
    stopped(line, "--on-term exit=0", (300, 2_500), 0);
}

fn rows_of_an_app_that_exits_1_on_term_are_saved(line: Line) {
    stopped(line, "--on-term exit=1", (300, 2_500), 1);
}

fn rows_of_an_app_that_exits_143_on_term_are_saved(line: Line) {
    stopped(line, "--on-term exit=143", (300, 2_500), 143);
}

fn rows_of_an_app_that_dies_of_term_are_saved(line: Line) {
    stopped(line, "--on-term die", (300, 2_500), 128 + 15);
}

fn rows_of_an_app_that_exits_late_on_term_are_saved(line: Line) {
    stopped(line, "--on-term drain=1000", (300, 2_500), 0);
}

fn rows_of_an_app_that_is_stopped_within_its_first_second_are_saved(line: Line) {
    stopped(line, "--on-term exit=0", (0, 1_000), 0);
}

fn rows_of_a_child_that_writes_on_are_saved(line: Line) {
    stopped(line, "--fork-writer --on-term drain=500", (300, 2_500), 128 + 15);
}

fn rows_of_a_child_that_ignores_term_are_saved(line: Line) {
    trials::run(trials::per_case(), |_, random| {
        let site = Site::new(line);
        let recipe = site.writing("--every 1000 --fork-writer --on-term ignore");
        let mut container = recipe.env("LITESTREAM_ENTRY_STOP_TIMEOUT", "4s").start();
        container.ready();
        std::thread::sleep(random.millis(300, 2_500));
        assert_eq!(container.stop(), 128 + 15);
        site.assert_saved();
        assert!(container.stderr().contains("what the app left behind has not ended in time: killing writer ("), "{}", container.stderr());
    });
}

/// Behind a shell, which ends at once, the app is what was left behind: it has the time of an app, and one TERM.
fn rows_of_a_child_that_needs_seconds_after_term_are_saved(line: Line) {
    let app = "
import os, signal, sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute('PRAGMA journal_mode=WAL')
c.execute('CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)')
def last_words(*_):
    signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
    time.sleep(3)
    c.execute(\"INSERT INTO t(body) VALUES ('last words')\")
    os._exit(0)
signal.signal(signal.SIGTERM, last_words)
open(sys.argv[2], 'w')
while True:
    time.sleep(1)
";
    let one_line = |variable: &'static str, value: &'static str, script: &'static str| {
        let site = Site::new(line);
        let words = [site.database().to_owned(), site.ready_file()];
        let mut container = site.recipe().env(variable, value).app(["sh", "-c", script, app]).arguments(words).start();
        container.ready();
        let began = Instant::now();
        assert_eq!(container.stop(), 128 + 15, "{}", container.stderr());
        assert!(began.elapsed() > Duration::from_secs(3), "{script}: {:?}: {}", began.elapsed(), container.stderr());
        let here = Contents::of(site.database());
        assert_eq!((here.last(), here.difference(&site.backup_of(site.database()))), (1, None), "{script}: {}", container.stderr());
        assert!(!container.stderr().contains("killing"), "{}", container.stderr());
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one_line("LITESTREAM_ENTRY_STOP_TIMEOUT", "60s", "python3 -c \"$0\" \"$@\"; true"));
        scope.spawn(|| one_line("LITESTREAM_ENTRY_SIGNAL_GROUP", "true", "python3 -c \"$0\" \"$@\"; true"));
        scope.spawn(|| one_line("LITESTREAM_ENTRY_SIGNAL_GROUP", "false", "python3 -c \"$0\" \"$@\" & wait"));
    });
}

fn rows_of_an_app_that_ignores_term_are_saved(line: Line) {
    trials::run(trials::per_case(), |_, random| {
        let site = Site::new(line);
        let every = random.pick(&[500, 2_000, 20_000]);
        let recipe = site.writing(&format!("--every {every} --on-term ignore"));
        // Docker's patience is ten seconds.
        let docker = Duration::from_secs(10);
        let mut container = recipe.env("LITESTREAM_ENTRY_STOP_TIMEOUT", "4s").start();
        container.ready();
        std::thread::sleep(random.millis(300, 2_500));
        container.signal(Signal::SIGTERM);
        assert_eq!(container.wait(docker), 128 + 9, "what does not end is killed");
        site.assert_saved();
    });
}

/// Something else than the program kills the app in the middle of its writing.
///
/// A commit that was cut off between the WAL and its index is in the file, which Litestream reads, and
/// not in the index, which `SQLite` goes by. It was never acknowledged, so the backup may have it or
/// not; but from the next start on, backup and database have to be the same again.
fn rows_of_a_busy_app_that_is_killed_are_saved(line: Line) {
    trials::run(trials::per_case(), |_, random| {
        let site = Site::new(line);
        let mut container = site.writing("--every 0").start();
        container.ready();
        std::thread::sleep(random.millis(0, 2_500));
        crate::support::process::send(container.app().pid, Signal::SIGKILL);
        assert_eq!(container.wait(PATIENCE), 128 + 9);
        site.backup_of(site.database()).assert_complete_up_to(site.acknowledged());
        let mut next = site.writing("--every 20000").start();
        next.ready();
        std::thread::sleep(random.millis(0, 2_500));
        assert_eq!(next.stop(), 0);
        site.assert_saved();
    });
}

/// What `docker exec` started is none of PID 1's descendants, and has to end before the last sync.
fn rows_of_a_writer_of_docker_execs_are_saved(line: Line) {
    trials::run(trials::per_case(), |_, random| {
        let site = Site::new(line);
        let mut container = site.recipe().app(["/bin/sleep", "1000"]).start();
        container.app();
        let mut writer = container.exec_program(site.writer("--every 1000 --on-term drain=500"));
        container.ready();
        std::thread::sleep(random.millis(0, 2_500));
        assert_eq!(container.stop(), 128 + 15);
        let status = writer.wait().expect("our own child");
        assert!(status.success(), "it ended of its own accord: {status}");
        site.assert_saved();
    });
}

/// TERM while the program still prepares, or has just started the app.
fn rows_of_an_app_that_is_stopped_while_it_starts_are_saved(line: Line) {
    trials::run(2 * trials::per_case(), |_, random| {
        let site = Site::new(line);
        let mut container = site.writing("--every 1000").start();
        container.running();
        std::thread::sleep(random.millis(2, 300));
        let code = container.stop();
        // The writer's handler may not be there yet, and the writer neither.
        assert!([0, 128 + 15].contains(&code), "code {code}");
        if site.database().exists() {
            site.assert_saved();
        }
    });
}

/// An app that ends by itself so long after its start.
fn ended(line: Line, after: Duration, code: i32) {
    let options = format!("--every 1000 --live {} --exit {code}", after.as_millis());
    trials::run(trials::per_case(), |_, _| {
        let site = Site::new(line);
        let (ended_with, _container) = site.writing(&options).run();
        assert_eq!(ended_with, code, "the app's code is the container's");
        assert!(site.acknowledged() > 0, "the app wrote something");
        site.assert_saved();
    });
}

fn rows_of_an_app_that_ends_after_50_ms_are_saved(line: Line) {
    ended(line, Duration::from_millis(50), 0);
}

fn rows_of_an_app_that_ends_after_500_ms_are_saved(line: Line) {
    ended(line, Duration::from_millis(500), 0);
}

fn rows_of_an_app_that_ends_after_2_s_are_saved(line: Line) {
    ended(line, Duration::from_secs(2), 0);
}

fn rows_of_an_app_that_fails_after_50_ms_are_saved(line: Line) {
    ended(line, Duration::from_millis(50), 3);
}

fn rows_of_an_app_that_fails_after_500_ms_are_saved(line: Line) {
    ended(line, Duration::from_millis(500), 3);
}

fn rows_of_an_app_that_fails_after_2_s_are_saved(line: Line) {
    ended(line, Duration::from_secs(2), 3);
}
