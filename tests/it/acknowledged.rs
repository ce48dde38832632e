//! No acknowledged row is lost, however the app ends; and the container's code is the app's.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::site::Site;
use crate::support::{Line, PATIENCE, namespaces, trials};

both_lines!(
    exit_0_on_term,
    exit_1_on_term,
    exit_143_on_term,
    death_of_term,
    term_ignored,
    late_exit_on_term,
    end_after_50_ms,
    end_after_500_ms,
    end_after_2_s,
    failure_after_50_ms,
    failure_after_500_ms,
    failure_after_2_s,
    term_within_the_first_second,
    child_that_goes_on_writing,
    child_that_ignores_term,
    hot_writer_killed,
);

/// An app of a site's own, for each trial, that is told to stop and ends with `code`.
fn stopped(line: Line, options: &str, (least, most): (u64, u64), code: i32) {
    if !namespaces() {
        return;
    }
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

fn exit_0_on_term(line: Line) {
    stopped(line, "--on-term exit=0", (300, 2_500), 0);
}

fn exit_1_on_term(line: Line) {
    stopped(line, "--on-term exit=1", (300, 2_500), 1);
}

fn exit_143_on_term(line: Line) {
    stopped(line, "--on-term exit=143", (300, 2_500), 143);
}

fn death_of_term(line: Line) {
    stopped(line, "--on-term die", (300, 2_500), 128 + 15);
}

fn late_exit_on_term(line: Line) {
    stopped(line, "--on-term drain=1000", (300, 2_500), 0);
}

fn term_within_the_first_second(line: Line) {
    stopped(line, "--on-term exit=0", (0, 1_000), 0);
}

fn child_that_goes_on_writing(line: Line) {
    stopped(line, "--fork-writer --on-term drain=500", (300, 2_500), 128 + 15);
}

fn child_that_ignores_term(line: Line) {
    if !namespaces() {
        return;
    }
    trials::run(trials::per_case(), |_, random| {
        let site = Site::new(line);
        let recipe = site.writing("--every 1000 --fork-writer --on-term ignore");
        let mut container = recipe.env("LITESTREAM_ENTRY_STOP_TIMEOUT", "4s").start();
        container.ready();
        std::thread::sleep(random.millis(300, 2_500));
        assert_eq!(container.stop(), 128 + 15);
        site.assert_saved();
    });
}

fn term_ignored(line: Line) {
    if !namespaces() {
        return;
    }
    trials::run(trials::per_case(), |_, random| {
        let site = Site::new(line);
        let every = random.pick(&[500, 2_000, 20_000]);
        let recipe = site.writing(&format!("--every {every} --on-term ignore"));
        let mut container = recipe.env("LITESTREAM_ENTRY_STOP_TIMEOUT", "4s").start();
        container.ready();
        std::thread::sleep(random.millis(300, 2_500));
        assert_eq!(container.stop(), 128 + 9, "what does not end is killed");
        site.assert_saved();
    });
}

/// Something else than the program kills the app in the middle of its writing.
fn hot_writer_killed(line: Line) {
    if !namespaces() {
        return;
    }
    trials::run(trials::per_case(), |_, random| {
        let site = Site::new(line);
        let mut container = site.writing("--every 0").start();
        container.ready();
        std::thread::sleep(random.millis(0, 2_500));
        crate::support::process::send(container.app().pid, Signal::SIGKILL);
        assert_eq!(container.wait(PATIENCE), 128 + 9);
        site.assert_saved();
    });
}

/// An app that ends by itself so long after its start.
fn ended(line: Line, after: Duration, code: i32) {
    if !namespaces() {
        return;
    }
    let options = format!("--every 1000 --live {} --exit {code}", after.as_millis());
    trials::run(trials::per_case(), |_, _| {
        let site = Site::new(line);
        let (ended_with, _container) = site.writing(&options).run();
        assert_eq!(ended_with, code, "the app's code is the container's");
        assert!(site.acknowledged() > 0, "the app wrote something");
        site.assert_saved();
    });
}

fn end_after_50_ms(line: Line) {
    ended(line, Duration::from_millis(50), 0);
}

fn end_after_500_ms(line: Line) {
    ended(line, Duration::from_millis(500), 0);
}

fn end_after_2_s(line: Line) {
    ended(line, Duration::from_secs(2), 0);
}

fn failure_after_50_ms(line: Line) {
    ended(line, Duration::from_millis(50), 3);
}

fn failure_after_500_ms(line: Line) {
    ended(line, Duration::from_millis(500), 3);
}

fn failure_after_2_s(line: Line) {
    ended(line, Duration::from_secs(2), 3);
}
