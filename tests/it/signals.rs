//! What an init does: it reaps, and it passes signals on.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::container::Container;
use crate::support::contents::Contents;
use crate::support::logger::{self, Log};
use crate::support::process;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    orphans_are_reaped,
    each_signal_arrives_once,
    a_flood_of_queued_signals_arrives,
    litestream_has_a_group_of_its_own,
    a_stopped_app_is_not_a_dead_one,
    a_stopped_app_can_be_asked_to_end,
    an_app_that_has_left_its_group_is_signalled,
    second_term_reaches_the_app,
    what_the_app_left_behind_is_ended,
    an_app_that_daemonizes_is_told_to_stay,
    a_signal_is_rewritten_and_the_stop_timeout_holds_all_the_same,
    the_images_own_stop_signal_starts_the_clock,
    a_storm_while_it_starts_and_while_it_ends_loses_nothing,
);

/// Signals that PID 1 cannot get, or that are its own: KILL, STOP, CHLD.
const NOT_FORWARDABLE: [i32; 3] = [9, 19, 17];

/// USR2 ends the app that logs signals.
const END: i32 = 12;

/// The C library keeps these for itself.
const C_LIBRARYS: [i32; 2] = [32, 33];

fn orphans_are_reaped(line: Line) {
    let site = Site::new(line);
    // Each inner shell ends at once, so its child becomes PID 1's; the children end a little later.
    let script =
        format!("i=0; while [ $i -lt 200 ]; do (sleep 0.$i & ); i=$((i+1)); done; echo > {}; exec sleep 1000", site.ready_file().display());
    let mut container = site.recipe().shell(&script).start();
    container.ready();
    let app = container.app().pid;
    eventually("no zombie and no orphan is left", PATIENCE, || {
        let left = container.processes();
        let orphans = left.iter().any(|it| it.is_zombie() || (it.pid != app && it.runs("sleep")));
        when(!orphans)
    });
    assert!(process::Process::read(app).is_some(), "the app still runs");
    assert_eq!(container.stop(), 128 + 15);
}

/// The app that logs signals, and its log.
fn signal_logger(site: &Site) -> (Container, Log) {
    let (recipe, log) = logger::app(site);
    let container = recipe.start();
    log.ready();
    (container, log)
}

/// Real-time signals have no name in `nix`.
fn send(container: &Container, number: i32) {
    let pid = container.pid1().to_string();
    let status = Command::new("/bin/kill").args([format!("-{number}"), pid]).status();
    assert!(status.is_ok_and(|status| status.success()), "signal {number} is sent");
}

fn each_signal_arrives_once(line: Line) {
    let site = Site::new(line);
    let (mut container, log) = signal_logger(&site);
    let litestream = container.running_litestream().pid;
    let not_ours = [&NOT_FORWARDABLE[..], &C_LIBRARYS, &[END]].concat();
    let numbers: Vec<i32> = (1..=64).filter(|number| !not_ours.contains(number)).collect();
    for number in &numbers {
        send(&container, *number);
        log.shows(&number.to_string(), 1);
    }
    assert_eq!(container.running_litestream().pid, litestream, "no signal reached Litestream");
    send(&container, END);
    assert_eq!(container.wait(PATIENCE), logger::CODE);
    let expected: Vec<String> = ["ready".into()].into_iter().chain(numbers.iter().chain([&END]).map(ToString::to_string)).collect();
    assert_eq!(log.lines(), expected, "each one once, and in order");
}

fn a_flood_of_queued_signals_arrives(line: Line) {
    let site = Site::new(line);
    let (mut container, log) = signal_logger(&site);
    let pid = container.pid1();
    let flood = format!("i=0; while [ $i -lt 500 ]; do kill -40 {pid}; i=$((i+1)); done");
    let status = Command::new("/bin/sh").args(["-c", &flood]).status();
    assert!(status.is_ok_and(|status| status.success()));
    log.shows("40", 500);
    send(&container, END);
    assert_eq!(container.wait(PATIENCE), logger::CODE);
    assert_eq!(log.lines().len(), 502);
}

fn litestream_has_a_group_of_its_own(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("").start();
    container.ready();
    let group = |pid| process::Process::read(pid).expect("it runs").group;
    let (litestream, app) = (container.running_litestream(), container.app());
    assert_ne!(litestream.group, group(container.pid1()));
    assert_ne!(litestream.group, app.group);
    assert_eq!(app.parent, container.pid1(), "the app is PID 1's own child");
    assert_eq!(container.stop(), 0);
}

fn a_stopped_app_is_not_a_dead_one(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 1000").start();
    container.ready();
    let app = container.app().pid;
    process::send(app, Signal::SIGSTOP);
    eventually("it is stopped", PATIENCE, || when(container.app().state == 'T'));
    let acknowledged = site.acknowledged();
    process::send(app, Signal::SIGCONT);
    eventually("it goes on", PATIENCE, || when(site.acknowledged() > acknowledged));
    assert!(container.ended().is_none());
    assert_eq!(container.stop(), 0);
}

/// A stopped process takes no TERM before it goes on.
fn a_stopped_app_can_be_asked_to_end(line: Line) {
    for whole in ["false", "true"] {
        let site = Site::new(line);
        // Behind a shell, too, as one that a terminal's Ctrl-Z has stopped with the whole group.
        let behind_a_shell = site.recipe().app(["/bin/sh", "-c", "\"$@\"; exit 6", "sh"]).arguments(site.writer("--every 1000"));
        for (recipe, code) in [(site.writing("--every 1000"), 0), (behind_a_shell, 143)] {
            let recipe = recipe.env("LITESTREAM_ENTRY_STOP_TIMEOUT", "60s").env("LITESTREAM_ENTRY_SIGNAL_GROUP", whole);
            let mut container = recipe.start();
            container.ready();
            site.write_on(100);
            let app = container.app().pid;
            nix::sys::signal::killpg(nix::unistd::Pid::from_raw(app), Signal::SIGSTOP).unwrap();
            eventually("it is stopped", PATIENCE, || when(container.app().state == 'T'));
            assert_eq!(container.stop(), code, "{}", container.stderr());
            assert!(!container.stderr().contains("killing"), "{}", container.stderr());
            site.assert_saved();
        }
    }
}

/// It has joined its child's.
fn an_app_that_has_left_its_group_is_signalled(line: Line) {
    let site = Site::new(line);
    let script = "import os, signal, subprocess, sys, time
child = subprocess.Popen(['sleep', '1000'], process_group=0)
os.setpgid(0, child.pid)
def told(*_):
    open(sys.argv[2], 'a').write('told ')
    if sys.argv[3] == 'obedient': os._exit(5)
signal.signal(signal.SIGTERM, told)
open(sys.argv[1], 'w')
while True: time.sleep(1)";
    let (told, ready) = (site.path("told"), site.ready_file());
    for (manner, code) in [("obedient", 5), ("deaf", 137)] {
        let words = ["/usr/bin/python3", "-c", script, ready.to_str().unwrap(), told.to_str().unwrap(), manner];
        let recipe = site.recipe().app(words).env("LITESTREAM_ENTRY_SIGNAL_GROUP", "true").env("LITESTREAM_ENTRY_STOP_TIMEOUT", "6s");
        let mut container = recipe.start();
        container.ready();
        assert_eq!(container.stop(), code, "{}", container.stderr());
        assert!(!container.stderr().contains("NOT SAVED"), "{}", container.stderr());
    }
    assert_eq!(fs::read_to_string(told).unwrap(), "told told ", "once each");
}

fn second_term_reaches_the_app(line: Line) {
    let site = Site::new(line);
    let (mut container, log) = signal_logger(&site);
    for count in 1..=2 {
        container.signal(Signal::SIGTERM);
        log.shows("15", count);
    }
    send(&container, END);
    assert_eq!(container.wait(PATIENCE), logger::CODE);
}

fn what_the_app_left_behind_is_ended(line: Line) {
    let site = Site::new(line);
    let log = site.path("left");
    // A daemon in a session of its own that says so when it is told to end.
    let daemon = format!("trap 'echo term >> {0}; exit' TERM; echo up >> {0}; while :; do sleep 0.05; done", log.display());
    let script = format!("setsid sh -c \"$0\" & while ! [ -e {} ]; do sleep 0.01; done; exit 4", log.display());
    let (code, container) = site.recipe().shell(&script).arguments([&daemon]).run();
    assert_eq!(code, 4, "{}", container.stderr());
    assert_eq!(fs::read_to_string(&log).unwrap_or_default(), "up\nterm\n");
    assert!(!container.stderr().contains("left behind"), "it failed: {}", container.stderr());
}

fn an_app_that_daemonizes_is_told_to_stay(line: Line) {
    let site = Site::new(line);
    // As php-fpm does: its name is its own from the beginning.
    let daemon = "import os, sys, time; os.fork() and os._exit(0); os.setsid(); time.sleep(1000)";
    let (code, container) = site.recipe().app(["python3", "-c", daemon]).run();
    assert_eq!(code, 0, "{}", container.stderr());
    let said = container.stderr();
    assert!(said.contains("the app ended with 0 and left behind python3 (") && said.contains("run it in the foreground"), "{said}");
    let (_, container) = site.recipe().shell("exit 0").run();
    assert!(!container.stderr().contains("left behind"), "{}", container.stderr());
}

fn a_signal_is_rewritten_and_the_stop_timeout_holds_all_the_same(line: Line) {
    let site = Site::new(line);
    // An app that ends on QUIT alone, as some servers do to finish what they are at.
    let script = format!(
        "trap 'exit 33' QUIT; trap 'exit 1' USR1; trap '' TERM; echo > {}; while :; do sleep 0.05; done",
        site.ready_file().display()
    );
    let rewriting = |to: &str| site.recipe().env("LITESTREAM_ENTRY_SIGNAL_REWRITE", to).env("LITESTREAM_ENTRY_STOP_TIMEOUT", "4s");
    let mut container = rewriting("TERM:QUIT,10:0").shell(&script).start();
    container.ready();
    container.signal(Signal::SIGUSR1);
    assert_eq!(container.stop(), 33, "{}", container.stderr());
    let mut container = rewriting("15:0").shell(&script).start();
    container.ready();
    assert_eq!(container.stop(), 137, "TERM is a stop though the app does not see it: {}", container.stderr());
}

/// `STOPSIGNAL WINCH` (httpd, php:apache), `USR1` (haproxy), `RTMIN+3` (systemd). An app that is too slow is killed while there is
/// time for the last sync.
fn the_images_own_stop_signal_starts_the_clock(line: Line) {
    let ways = [
        ("LITESTREAM_ENTRY_SIGNAL_REWRITE", "WINCH:TERM", 28),
        ("LITESTREAM_ENTRY_STOP_SIGNAL", "WINCH", 28),
        ("LITESTREAM_ENTRY_STOP_SIGNAL", "WINCH,SIGUSR1", 10),
        ("LITESTREAM_ENTRY_STOP_SIGNAL", "RTMIN+3", 37),
    ];
    std::thread::scope(|scope| {
        for (variable, value, number) in ways {
            scope.spawn(move || {
                let site = Site::new(line);
                let script = "
import os, signal, sqlite3, sys, time
for number in [10, 15, 28, 37]:
    signal.signal(number, lambda *_: None)
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute('PRAGMA journal_mode=WAL')
c.execute('CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)')
while True:
    c.execute('INSERT INTO t(body) VALUES (hex(randomblob(40)))')
    open(sys.argv[2], 'w')
    time.sleep(0.005)
";
                let words = ["/usr/bin/python3".into(), "-c".into(), script.into(), site.database().as_os_str().to_owned()];
                let recipe = site.recipe().env(variable, value).env("LITESTREAM_ENTRY_STOP_TIMEOUT", "5s");
                let mut container = recipe.app(words).arguments([site.ready_file()]).start();
                container.ready();
                send(&container, number);
                assert_eq!(container.wait(PATIENCE), 137, "{variable}={value}: {}", container.stderr());
                let here = Contents::of(site.database());
                assert_eq!(here.difference(&site.backup_of(site.database())), None, "{variable}={value}: {}", container.stderr());
            });
        }
    });
}

fn a_storm_while_it_starts_and_while_it_ends_loses_nothing(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 500").start();
    container.running();
    let harmless = [Signal::SIGWINCH, Signal::SIGCONT, Signal::SIGURG];
    for _ in 0..1500 {
        for signal in &harmless {
            container.signal(*signal);
        }
    }
    container.ready();
    site.write_on(300);
    container.signal(Signal::SIGTERM);
    while container.ended().is_none() {
        for signal in &harmless {
            container.signal_if_any(*signal);
        }
    }
    assert_eq!(container.wait(PATIENCE), 0, "{}", container.stderr());
    site.assert_saved();
}
