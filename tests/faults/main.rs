//! The fault harness, `make faults SEED= TRIALS= LINE=`: random lives with random faults, and what a bare Litestream restores of them.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `SEED`, `TRIALS` | the first seed (1), how many (20) |
//! | `LINE` | `0.5` or `0.3`; else both |
//! | `JOBS` | how many trials run at a time (2) |
//! | `AGAIN=1` | seeds are tried again that were tried before |
//! | `KEEP=1` | the place of a trial that passed is kept, too |
//! | `BACKEND`, `SCENARIO` | only trials with this word there (`file`, `rclone`, `weed`; `one`, `standby-old-new`, `failover`, …) |
//! | `LITESTREAM_ENTRY`, `TOOLS` | as for the end-to-end tests |
//!
//! Words: `run` runs them, `show` prints their schedules. Without one nothing is done, so that `cargo test` passes by.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that goes wrong has to fail at the spot"
)]

#[path = "../it/support/mod.rs"]
#[macro_use]
#[allow(dead_code, unused_macros, unused_imports, reason = "the end-to-end tests' helpers, of which a part is used here")]
mod support;

#[path = "../apps/owned_row.rs"]
mod owned_row;
#[path = "../apps/rows.rs"]
mod rows;

mod laps;
mod ledger;
mod life;
mod net;
mod output;
mod place;
mod proxy;
mod results;
mod schedule;
mod store;
mod trial;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use results::Results;
use schedule::{Backend, Scenario, Schedule};
use store::Store;
use support::Line;
use trial::Verdict;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("run") => run(),
        Some("show" | "--show") => {
            for schedule in schedules() {
                print!("{schedule}");
            }
            ExitCode::SUCCESS
        }
        _ => {
            println!("the fault harness: make faults SEED=1 TRIALS=20 LINE=0.5");
            ExitCode::SUCCESS
        }
    }
}

/// A variable, where an empty one is none.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(name: &str, default: u64) -> u64 {
    variable(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// `target/faults`.
fn results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/faults")
}

fn schedules() -> Vec<Schedule> {
    let lines = match variable("LINE").as_deref() {
        None => vec![Line::V05, Line::V03],
        Some("0.5") => vec![Line::V05],
        Some("0.3") => vec![Line::V03],
        Some(other) => panic!("LINE={other}: 0.5 or 0.3"),
    };
    let (first, count) = (number("SEED", 1), number("TRIALS", 20));
    let wanted = |name: &str, text: String| variable(name).is_none_or(|it| it == text);
    let all = (first..first + count).flat_map(|seed| lines.iter().map(move |line| Schedule::new(seed, *line)));
    all.filter(|it| wanted("BACKEND", it.backend.to_string()) && wanted("SCENARIO", it.scenario.to_string())).collect()
}

/// What a run has in common.
struct Run {
    schedules: Vec<Schedule>,
    results: [Results; 2],
    rclone: Option<Store>,
    weed: Option<Store>,
    old: Option<PathBuf>,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    passed: usize,
    known: usize,
    failed: Vec<String>,
    odd: Vec<String>,
    skipped: usize,
}

fn run() -> ExitCode {
    if !support::namespaces() {
        return ExitCode::SUCCESS;
    }
    place::sweep();
    net::sweep();
    let schedules = schedules();
    let uses = |backend| schedules.iter().any(|it| it.backend == backend);
    // From this thread, with which they end.
    let (rclone, weed) = (
        uses(Backend::Rclone).then(|| Store::start(Backend::Rclone)).flatten(),
        uses(Backend::Seaweed).then(|| Store::start(Backend::Seaweed)).flatten(),
    );
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/old/litestream-entry");
    let old = old.exists().then_some(old);
    if old.is_none() && schedules.iter().any(needs_old) {
        println!("skipped: pairs with the old release (no target/old/litestream-entry: scripts/old-release)");
    }
    if let (true, Err(why)) = (schedules.iter().any(Schedule::drops_packets), net::Net::new()) {
        println!("skipped: dropping packets, which is a hole instead ({why})");
    }
    let results = ["0.5", "0.3"].map(|line| Results::open(&results(), line, &support::entry()).expect("target/faults can be written"));
    let run = Run { schedules, results, rclone, weed, old, tally: Mutex::default() };
    let next = AtomicUsize::new(0);
    let jobs = usize::try_from(number("JOBS", 2)).unwrap_or(2).max(1);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(schedule) = run.schedules.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run.one(schedule);
                }
            });
        }
    });
    run.tally.into_inner().unwrap().conclude()
}

fn needs_old(schedule: &Schedule) -> bool {
    matches!(schedule.scenario, Scenario::Pair(first, second) if first != second)
}

impl Run {
    fn one(&self, schedule: &Schedule) {
        let results = &self.results[usize::from(schedule.line == Line::V03)];
        if let Some((passed, line)) = results.known(schedule).filter(|_| variable("AGAIN").is_none()) {
            let mut tally = self.tally.lock().unwrap();
            tally.known += 1;
            if !passed {
                println!("{line} (before; AGAIN=1 tries again)");
                tally.failed.push(repeat(schedule));
            }
            return;
        }
        let store = match schedule.backend {
            Backend::File => None,
            Backend::Rclone => self.rclone.as_ref(),
            Backend::Seaweed => self.weed.as_ref(),
        };
        if (schedule.backend != Backend::File && store.is_none()) || (needs_old(schedule) && self.old.is_none()) {
            self.tally.lock().unwrap().skipped += 1;
            return;
        }
        let trial = || trial::run(schedule, store, self.old.as_deref());
        let verdict = match catch_unwind(AssertUnwindSafe(trial)) {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => broken(&error.to_string()),
            Err(panic) => broken(panic.downcast_ref::<String>().map_or("a panic", String::as_str)),
        };
        println!("{}", results::line(schedule, &verdict));
        results.add(schedule, &verdict).expect("target/faults can be written");
        let mut tally = self.tally.lock().unwrap();
        let name = format!("seed {} line {}", schedule.seed, schedule::line_name(schedule.line));
        tally.odd.extend(verdict.odd.iter().map(|text| format!("{name}: {text}")));
        if verdict.failures.is_empty() {
            tally.passed += 1;
        } else {
            let class = verdict.class.map(|class| format!("   # {class}")).unwrap_or_default();
            tally.failed.push(repeat(schedule) + &class);
        }
    }
}

fn broken(why: &str) -> Verdict {
    Verdict { failures: vec![format!("HARNESS: {why}")], ..Verdict::default() }
}

/// The command that tries this one again, alone.
fn repeat(schedule: &Schedule) -> String {
    format!("make faults SEED={} TRIALS=1 LINE={} AGAIN=1", schedule.seed, schedule::line_name(schedule.line))
}

impl Tally {
    fn conclude(&self) -> ExitCode {
        println!("\n{} passed, {} failed, {} known from before, {} skipped", self.passed, self.failed.len(), self.known, self.skipped);
        for (title, list) in [("odd", &self.odd), ("failed", &self.failed)] {
            if !list.is_empty() {
                println!("{title}:");
                for text in list {
                    println!("  {text}");
                }
            }
        }
        if self.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
