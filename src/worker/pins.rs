//! The pins of `__prepare`, from before the app's start until Litestream has locks of its own, and its looks at what the app does
//! meanwhile with databases that are not pinned. Must never let go of a pin sooner without saying that the backup is unproven.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Channel, Message};
use crate::continuity::{self, Pin};
use crate::habits::Look;
use crate::litestream::socket;
use crate::mark::Mark;
use crate::plan::Plan;
use crate::report;

/// How often Litestream is asked whether it has its lock; where only habits wait for that, at first and then.
const ASK_EVERY: Duration = Duration::from_millis(50);
const ASK_SOMETIMES: Duration = Duration::from_millis(500);
const AT_FIRST: Duration = Duration::from_secs(3);
/// How often databases are looked at, and the part of the time that this may take where there are many.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const PART: u32 = 20;
/// How long an app's first moments last. One that leaves WAL mode later is refused by Litestream's own lock.
const FIRST_MOMENTS: Duration = Duration::from_secs(30);

/// Whether a WAL has become too large to be held back any longer, which is said.
pub(super) fn outgrown(pin: &Pin, plan: &Plan) -> bool {
    let limit = continuity::wal_limit(&pin.database, plan.entry.max_wal);
    let grown = continuity::wal_size(&pin.database) > limit;
    if grown {
        report::line(format_args!(
            "{}: its WAL has passed {}: no longer held back, its backup is unproven",
            pin.database.display(),
            report::human_size(limit)
        ));
        let _ = Mark::Unproven.write(&pin.database);
    }
    grown
}

/// Looks at each once; those at which something was seen are done with.
pub(super) fn look(looks: &mut Vec<Look>, channel: &Channel) {
    looks.retain_mut(|look| match look.again() {
        None => true,
        Some(said) => {
            if let Some(said) = said {
                channel.say(&Message::Note(said));
            }
            false
        }
    });
}

/// Holds each pin until Litestream shows that it has its own lock, or until its WAL is too large.
pub(super) fn hold(mut pins: Vec<Pin>, mut looks: Vec<Look>, plan: &Plan, channel: &Channel) {
    let Some(socket) = &plan.socket else { return };
    let began = Instant::now();
    let mut asked = began;
    let mut too_large: Vec<PathBuf> = Vec::new();
    loop {
        let round = Instant::now();
        look(&mut looks, channel);
        looks.retain(|_| began.elapsed() < FIRST_MOMENTS);
        let waits = !(pins.is_empty() && too_large.is_empty());
        match (waits, looks.is_empty()) {
            (false, true) => return,
            (true, true) => std::thread::sleep(ASK_EVERY),
            (_, false) => std::thread::sleep((round.elapsed() * PART).max(LOOK_EVERY)),
        }
        if asked.elapsed() < if waits || began.elapsed() < AT_FIRST { ASK_EVERY } else { ASK_SOMETIMES } {
            continue;
        }
        asked = Instant::now();
        let before = pins.len();
        let statuses = socket::sync_status(socket, Duration::from_secs(2)).unwrap_or_default();
        let locked = |path: &Path| statuses.iter().any(|s| Path::new(&s.path) == path && s.holds_lock());
        looks.retain(|look| {
            let over = locked(look.path());
            if over {
                look.is_over();
            }
            !over
        });
        pins.retain(|pin| {
            if locked(&pin.database) {
                return false;
            }
            let grown = outgrown(pin, plan);
            if grown {
                too_large.push(pin.database.clone());
            }
            !grown
        });
        if pins.len() < before {
            channel.say(&Message::Released);
        }
        if pins.is_empty() && !too_large.is_empty() && too_large.iter().all(|path| locked(path)) {
            // The replica answers again: only now is a full snapshot to be had.
            channel.say(&Message::Reopen);
            return;
        }
    }
}
