//! Random lives of one database: writers of every speed, Litestream killed now and then, sometimes
//! everything killed at once. The same seed gives the same lives, under the program and without it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::bare::Bare;
use super::contents::Contents;
use super::process;
use super::site::Site;
use super::trials::Random;
use super::{PATIENCE, eventually, when};

/// How long a bare Litestream stays dead before someone starts it again.
const RESTART: Duration = Duration::from_secs(2);

/// How long it runs at least before a stop: sooner, it has not looked at the database yet, and what is
/// missing is only the end.
const SETTLED: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(crate) struct Life {
    /// The writer's options.
    writer: String,
    length: Duration,
    /// When Litestream is killed, after the life's start.
    kills: Vec<Duration>,
    /// It ends with SIGKILL for everything instead of TERM.
    sudden: bool,
}

/// Six lives; the last one ends cleanly.
pub(crate) fn series(random: &mut Random) -> Vec<Life> {
    let mut lives: Vec<Life> = (0..6).map(|_| life(random)).collect();
    lives[5].sudden = false;
    lives
}

fn life(random: &mut Random) -> Life {
    let length = random.millis(100, 7_000);
    let bound = u64::try_from(length.as_millis()).expect("seconds");
    let kills = random.between(0, 2);
    let mut kills: Vec<_> = (0..kills).map(|_| random.millis(0, bound)).collect();
    kills.sort();
    Life { writer: speed(random), length, kills, sudden: random.one_in(4) }
}

/// Hot, fast, slow, bursting; with and without checkpoints of its own.
fn speed(random: &mut Random) -> String {
    let pace = match random.between(0, 4) {
        0 => format!("--burst {}:{}", random.between(20, 1_500), random.between(50, 1_000)),
        1 => format!("--every {}", random.between(0, 1_000)),
        2 | 3 => format!("--every {}", random.between(1_000, 8_000)),
        _ => format!("--every {}", random.between(8_000, 100_000)),
    };
    match random.between(0, 3) {
        0 => format!("{pace} --checkpoint {}", random.between(10, 500)),
        1 => format!("{pace} --close"),
        _ => pace,
    }
}

/// Lives them under the program. At each clean stop the backup has to be the database.
#[track_caller]
pub(crate) fn live(site: &Site, lives: &[Life]) -> usize {
    let mut stops = 0;
    for (number, life) in lives.iter().enumerate() {
        let recipe = site.writing(&life.writer).env("LITESTREAM_ENTRY_STOP_TIMEOUT", "30s");
        let mut container = recipe.start();
        container.ready();
        let born = Instant::now();
        for kill in &life.kills {
            pass(born, *kill);
            if let Some(litestream) = container.litestream() {
                process::send(litestream.pid, Signal::SIGKILL);
            }
        }
        pass(born, life.length);
        if life.sudden {
            container.kill();
            continue;
        }
        let code = container.stop();
        assert_eq!(code, 0, "life {number}, {life:?}");
        if let Some(difference) = gap(site) {
            panic!("life {number}, {life:?}: the backup is not the database: {difference}");
        }
        stops += 1;
    }
    Contents::of(site.database()).assert_complete_up_to(site.acknowledged());
    stops
}

/// Lives them under bare Litestream: how many clean stops there were, and what was wrong after which.
pub(crate) fn live_bare(site: &Site, lives: &[Life]) -> (usize, Vec<String>) {
    let mut stops = 0;
    let mut gaps = Vec::new();
    for life in lives {
        let mut bare = Bare::start(site, &life.writer);
        let born = Instant::now();
        let mut started = born;
        for kill in &life.kills {
            pass(born, *kill);
            bare.kill_litestream();
            pass(Instant::now(), RESTART);
            bare.restart_litestream();
            started = Instant::now();
        }
        pass(born, life.length);
        if life.sudden {
            drop(bare);
            continue;
        }
        pass(started, SETTLED);
        bare.stop();
        stops += 1;
        gaps.extend(gap(site));
    }
    (stops, gaps)
}

/// What the backup of a database, that nobody writes to any more, does not have.
pub(crate) fn gap(site: &Site) -> Option<String> {
    let (output, _scratch, copy) = site.try_restore(site.database());
    if !output.status.success() || !copy.exists() {
        return Some(super::container::said(&output));
    }
    match Contents::read(&copy) {
        Ok(backup) => Contents::of(site.database()).difference(&backup),
        Err(why) => Some(why),
    }
}

/// Lets a life go on until so long after its start: the life's own time, not a wait for something.
pub(crate) fn pass(born: Instant, time: Duration) {
    std::thread::sleep((born + time).saturating_duration_since(Instant::now()));
}

/// One boot's writing: slow enough that the WAL is started anew before a bare Litestream looks, and
/// that its old end is still there when it does.
pub(crate) const BOOT: &str = "--every 2000 --rows 1200";

/// One boot under bare Litestream, and what is missing after its stop.
pub(crate) fn bare_boot(site: &Site, boot: i64) -> Option<String> {
    let bare = Bare::start(site, BOOT);
    wait_for_boot(site, boot);
    bare.stop();
    Contents::of(site.database()).assert_complete_up_to(site.acknowledged());
    gap(site)
}

/// Boots under bare Litestream until the backup has a gap: how many it took.
pub(crate) fn leave_a_gap(site: &Site) -> i64 {
    let boots = (1..=12).find(|boot| bare_boot(site, *boot).is_some());
    boots.expect("bare Litestream leaves a gap sooner or later")
}

/// Until the writer has written all its rows, in this boot and those before it.
#[track_caller]
pub(crate) fn wait_for_boot(site: &Site, boot: i64) {
    let rows = boot * 1_200;
    eventually(format!("row {rows}"), PATIENCE, || when(site.acknowledged() >= rows));
}
