//! `docker run -it`: the app has the terminal.

use nix::sys::signal::Signal;

use crate::support::container::Container;
use crate::support::logger::{self, Log};
use crate::support::process;
use crate::support::pty::Terminal;
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    control_c_arrives_once,
    a_new_window_size_arrives_once,
    a_shell_has_job_control,
    a_terminal_that_stops_the_background_stops_no_helper,
);

fn control_c_arrives_once(line: Line) {
    let site = Site::new(line);
    let mut terminal = Terminal::new();
    let (mut container, log) = signal_logger(&site, &terminal);
    for count in 1..=3 {
        terminal.typed("\u{3}");
        log.shows("2", count);
    }
    terminal.typed("\u{1c}");
    log.shows("3", 1);
    assert!(container.litestream().is_some(), "Litestream does not see the keyboard");
    end(&mut container);
    assert_eq!(log.lines(), ["ready", "2", "2", "2", "3", "12"]);
}

fn a_new_window_size_arrives_once(line: Line) {
    let site = Site::new(line);
    let terminal = Terminal::new();
    let (mut container, log) = signal_logger(&site, &terminal);
    for (rows, columns) in [(50, 132), (10, 40)] {
        terminal.resize(rows, columns);
        log.shows(&format!("winch {rows} {columns}"), 1);
    }
    end(&mut container);
    assert_eq!(log.lines(), ["ready", "winch 50 132", "winch 10 40", "12"]);
}

fn a_shell_has_job_control(line: Line) {
    let site = Site::new(line);
    let mut terminal = Terminal::new();
    let mut container = site.recipe().env("PS1", "ready> ").app(["/bin/sh", "-i"]).start_on(&terminal.line);
    terminal.shows("ready> ");
    terminal.typed("sleep 1000\n");
    eventually("the shell's job runs", PATIENCE, || when(container.processes().iter().any(|it| it.runs("sleep"))));
    terminal.typed("\u{1a}");
    terminal.shows("Stopped");
    terminal.typed("echo $((6*7))-back\n");
    terminal.shows("42-back");
    terminal.typed("fg\n");
    eventually("the job goes on", PATIENCE, || when(container.processes().iter().any(|it| it.runs("sleep") && it.state == 'S')));
    terminal.typed("\u{3}");
    eventually("the job is gone", PATIENCE, || when(!container.processes().iter().any(|it| it.runs("sleep"))));
    terminal.typed("exit 7\n");
    assert_eq!(container.wait(PATIENCE), 7);
    assert!(!terminal.screen().contains("job control turned off"), "{}", terminal.screen());
}

/// The app that logs signals, on a terminal, and its log.
fn signal_logger(site: &Site, terminal: &Terminal) -> (Container, Log) {
    let (recipe, log) = logger::app(site);
    let container = recipe.start_on(&terminal.line);
    log.ready();
    (container, log)
}

fn end(container: &mut Container) {
    container.signal(Signal::SIGUSR2);
    assert_eq!(container.wait(PATIENCE), logger::CODE);
}

/// `stty tostop`, by the app while it runs or on a terminal that is used again. Litestream says much, and the workers, too.
fn a_terminal_that_stops_the_background_stops_no_helper(line: Line) {
    let site = Site::new(line);
    for before in [false, true] {
        // The second time there is something to restore, which is said by a worker.
        lose(site.database());
        let terminal = Terminal::new();
        if before {
            terminal.stops_the_background();
        }
        let recipe = site.writing("--every 1000").env("LITESTREAM_LOG_LEVEL", "debug").env("LITESTREAM_ENTRY_DEBUG", "true");
        let mut container = recipe.start_on(&terminal.line);
        container.ready();
        terminal.stops_the_background();
        let said = terminal.screen().len();
        let target = site.acknowledged() + 500;
        eventually("Litestream goes on talking", PATIENCE, || {
            let stopped: Vec<_> = container.processes().into_iter().filter(|it| it.state == 'T').collect();
            assert!(stopped.is_empty(), "stopped by the terminal: {stopped:?}");
            when(site.acknowledged() >= target && terminal.screen().len() > said + 500)
        });
        // PID 1 has something to say from the background, too.
        process::send(container.running_litestream().pid, Signal::SIGKILL);
        terminal.shows("replication is back");
        assert_eq!(container.stop(), 0);
        site.assert_saved();
    }
}
