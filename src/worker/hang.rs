//! Whether the Litestream that is asked for the last sync still works on it. Must never take one whose replica is slow for one that
//! hangs: what it has begun would have to begin anew.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Channel;
use crate::litestream::socket;
use crate::protocol::Message;
use crate::status::written_by;

/// How often it is looked at, and how long it has to answer on its own socket.
const EVERY: Duration = Duration::from_millis(200);
const ANSWER: Duration = Duration::from_millis(500);
/// It may be silent for half of the time that is left, and for so long at most.
const AT_MOST: Duration = Duration::from_secs(5);
/// What it writes in [`EVERY`] without any upload: lines of its log, answers on its socket.
const NOTHING: u64 = 8 * 1024;

/// Who waits for an answer to a sync.
#[derive(Debug, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// One more, while `work` runs.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Ordering::Relaxed);
        let done = work();
        self.0.fetch_sub(1, Ordering::Relaxed);
        done
    }
}

/// Watches it from now on, for as long as those who wait are asked about; where it hangs, says so, and that a pass is to be made without it.
pub(super) fn watch(litestream: i32, socket: &Path, waiting: &Waiting, deadline: Instant, channel: &Channel) {
    let Ok(channel) = channel.another() else { return };
    let (socket, waiting) = (socket.to_owned(), Arc::downgrade(&waiting.0));
    let limit = (deadline.saturating_duration_since(Instant::now()) / 2).min(AT_MOST);
    // Without a thread, it is not seen.
    let _ = std::thread::Builder::new().spawn(move || {
        let Some(why) = until_it_hangs(litestream, &socket, &waiting, limit) else { return };
        channel.say(&Message::Note(format!("litestream does not {why}: killing it, and making the last sync without it")));
        channel.say(&Message::ByPass);
    });
}

/// In what it has not done for so long; none where nobody waits for it any more.
fn until_it_hangs(litestream: i32, socket: &Path, waiting: &Weak<AtomicUsize>, limit: Duration) -> Option<&'static str> {
    let (mut answered, mut moved) = (Instant::now(), Instant::now());
    let look = || Some((waiting.upgrade()?.load(Ordering::Relaxed), written_by(litestream)));
    let mut before = look()?;
    loop {
        std::thread::sleep(EVERY);
        if socket::is_alive(socket, ANSWER) {
            answered = Instant::now();
        }
        let now = look()?;
        if moves(before, now) {
            moved = Instant::now();
        }
        before = now;
        if answered.elapsed() >= limit {
            return Some("answer");
        }
        if moved.elapsed() >= limit {
            return Some("get on with the last sync");
        }
    }
}

/// Whether something is done between two looks: a sync was answered, or is not waited for, or bytes went out. Where that is not
/// told, it may be.
fn moves(before: (usize, Option<u64>), now: (usize, Option<u64>)) -> bool {
    let wrote = before.1.zip(now.1).is_none_or(|(before, now)| now.saturating_sub(before) > NOTHING);
    now.0 == 0 || now.0 != before.0 || wrote
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_uploads_or_answers_does_not_hang() {
        let hangs = (2, Some(70_000));
        assert!(!moves((2, Some(65_000)), hangs), "what it says on its socket is no upload");
        assert!(moves((2, Some(50_000)), hangs) && moves((3, Some(70_000)), hangs));
        assert!(moves((0, Some(5)), (0, Some(5))), "nothing is asked of it");
        assert!(moves((2, None), (2, None)), "unknown");
    }

    #[test]
    fn who_waits_is_counted_while_it_does() {
        let waiting = Waiting::default();
        let count = || waiting.0.load(Ordering::Relaxed);
        assert_eq!(waiting.during(|| waiting.during(count)), 2);
        assert_eq!(count(), 0);
    }
}
