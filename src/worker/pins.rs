//! The pins of `__prepare`, from before the app's start until Litestream has locks of its own, and its looks at what the app does
//! meanwhile with databases that are not pinned. Must never let go of a pin sooner without saying that the backup is unproven.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::Channel;
use crate::continuity;
use crate::habits::Look;
use crate::litestream::socket;
use crate::mark::Mark;
use crate::pin::{self, Pin};
use crate::plan::Plan;
use crate::protocol::Message;
use crate::report;
use crate::sqlite::wal;
use crate::sqlite::wal::Salts;

/// How often Litestream is asked whether it has its lock; where only habits wait for that, at first and then.
const ASK_EVERY: Duration = Duration::from_millis(50);
const ASK_SOMETIMES: Duration = Duration::from_millis(500);
const AT_FIRST: Duration = Duration::from_secs(3);
/// How often databases are looked at, and the part of a processor's time that this may take where there are many.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const PART: u32 = 20;
/// How long an app's first moments last. One that leaves WAL mode later is refused by Litestream's own lock.
const FIRST_MOMENTS: Duration = Duration::from_secs(30);

/// Databases that were not pinned before the app.
#[derive(Default)]
pub(super) struct Looks {
    /// Whose app may ask for what a pin forbids.
    pub alone: Vec<Look>,
    /// Those that are pinned when something is in their WAL: before that their app, too, may ask for it.
    pub written: Vec<Look>,
    /// Those that are pinned now. Must not be looked at: their locks would go with the file that is closed.
    pub pinned: Vec<Look>,
}

impl Looks {
    /// Litestream reads these.
    fn end_where(&mut self, locked: impl Fn(&Path) -> bool) {
        for looks in [&mut self.alone, &mut self.written, &mut self.pinned] {
            looks.retain(|look| {
                let over = locked(look.path());
                if over {
                    look.is_over();
                }
                !over
            });
        }
    }
}

/// So many are pinned at the most while the app runs: each takes three descriptors.
const MOST: usize = 100;

/// Whether a WAL has become too large to be held back any longer, which is said.
pub(super) fn outgrown(pin: &Pin, plan: &Plan) -> bool {
    let limit = continuity::wal_limit(&pin.database, plan.entry.max_wal);
    let grown = wal::wal_size(&pin.database) > limit;
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

/// The WALs of those that are still to be pinned, as they were at the last look.
type Laps = BTreeMap<PathBuf, Option<Salts>>;

/// Pins those that the app has begun to write to in WAL mode: a first one, one that was restored, one whose WAL was emptied. They are not
/// looked at any more.
fn pin_what_is_written(looks: &mut Looks, laps: &mut Laps, pins: &mut Vec<Pin>, channel: &Channel) {
    let before = pins.len();
    for look in std::mem::take(&mut looks.written) {
        let may_be = !look.is_held_alone() && pins.len() < MOST;
        if let Some(pin) = may_be.then(|| pin::when_written_to(look.path())).flatten() {
            pins.push(pin);
            laps.remove(look.path());
            looks.pinned.push(look);
        } else {
            laps.insert(look.path().to_owned(), wal::salts(look.path()));
            looks.written.push(look);
        }
    }
    if pins.len() > before {
        channel.say(&Message::Held);
    }
}

/// Has a new snapshot made of those that Litestream has begun to read before they could be pinned, while the app began their WAL anew: the first
/// one may not be whole.
fn doubt_what_was_not_pinned(looks: &Looks, laps: &Laps, locked: impl Fn(&Path) -> bool, channel: &Channel) {
    for path in looks.written.iter().map(Look::path).filter(|path| locked(path)) {
        let before = laps.get(path).copied().flatten();
        if pin::is_begun_anew(path) || before.is_some_and(|before| wal::salts(path) != Some(before)) {
            let _ = Mark::Unproven.write(path);
            channel.say(&Message::Begin(format!("{}: its WAL was begun anew under the first snapshot", path.display())));
        }
    }
}

/// The processor's time that this thread has had: under load, what a round takes is others' time.
fn worked() -> Duration {
    let time = |used: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(used.tv_sec().saturating_mul(1_000_000).saturating_add(used.tv_usec())).unwrap_or_default())
    };
    getrusage(UsageWho::RUSAGE_THREAD).map_or(Duration::ZERO, |used| time(used.user_time()).saturating_add(time(used.system_time())))
}

/// Lets go of those that the app waits for. They are pinned again when they are written to: Litestream has not read what was in their WAL,
/// and begins with a snapshot.
fn let_go_of_what_is_waited_for(looks: &mut Looks, pins: &mut Vec<Pin>) {
    let (waited, pinned): (Vec<Look>, Vec<Look>) = std::mem::take(&mut looks.pinned)
        .into_iter()
        .partition(|look| pins.iter().any(|pin| pin.database == look.path() && pin.is_waited_for()));
    pins.retain(|pin| !waited.iter().any(|look| look.path() == pin.database));
    looks.pinned = pinned;
    looks.written.extend(waited);
}

/// Holds each pin until Litestream shows that it has its own lock, or until its WAL is too large.
pub(super) fn hold(mut pins: Vec<Pin>, mut looks: Looks, plan: &Plan, channel: &Channel) {
    let Some(socket) = &plan.socket else { return };
    let began = Instant::now();
    let mut asked = began;
    let (mut too_large, mut laps): (Vec<PathBuf>, Laps) = Default::default();
    loop {
        let round = worked();
        look(&mut looks.alone, channel);
        look(&mut looks.written, channel);
        let_go_of_what_is_waited_for(&mut looks, &mut pins);
        pin_what_is_written(&mut looks, &mut laps, &mut pins, channel);
        if began.elapsed() >= FIRST_MOMENTS {
            (looks.alone, looks.written) = (Vec::new(), Vec::new());
        }
        let waits = !(pins.is_empty() && too_large.is_empty());
        match (waits, looks.alone.is_empty() && looks.written.is_empty()) {
            (false, true) => return,
            (true, true) => std::thread::sleep(ASK_EVERY),
            (_, false) => std::thread::sleep((worked().saturating_sub(round) * PART).max(LOOK_EVERY)),
        }
        if asked.elapsed() < if waits || began.elapsed() < AT_FIRST { ASK_EVERY } else { ASK_SOMETIMES } {
            continue;
        }
        asked = Instant::now();
        let statuses = socket::sync_status(socket, Duration::from_secs(2)).unwrap_or_default();
        let locked = |path: &Path| statuses.iter().any(|s| Path::new(&s.path) == path && s.holds_lock());
        doubt_what_was_not_pinned(&looks, &laps, locked, channel);
        looks.end_where(locked);
        let before = pins.len();
        pins.retain(|pin| !locked(&pin.database));
        let (grown, held) = pins.into_iter().partition::<Vec<_>, _>(|pin| outgrown(pin, plan));
        too_large.extend(grown.into_iter().map(|pin| pin.database));
        pins = held;
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
