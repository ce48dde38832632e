//! The time limit of a check: how long a replica is waited for, in all. Must never count the time in which a backup comes down, or in which we
//! work ourselves: a large database would never be proved.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// One for all that a check waits for, one after the other.
#[derive(Debug)]
pub(super) struct Limit {
    whole: Duration,
    by: Cell<Instant>,
}

impl Limit {
    /// It begins now.
    pub(super) fn new(whole: Duration) -> Self {
        Self { whole, by: Cell::new(Instant::now() + whole) }
    }

    /// Its length in seconds.
    pub(super) fn text(&self) -> String {
        format!("{:.1}", self.whole.as_secs_f32()).trim_end_matches(".0").to_owned()
    }

    /// When it is over, as far as that is known now.
    pub(super) fn by(&self) -> Instant {
        self.by.get()
    }

    pub(super) fn left(&self) -> Duration {
        self.by.get().saturating_duration_since(Instant::now())
    }

    pub(super) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// What does not count, where it ends well.
    pub(super) fn beside<T, E>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let began = Instant::now();
        let done = work();
        if done.is_ok() {
            let by = self.by.get();
            self.by.set(by.checked_add(began.elapsed()).unwrap_or(by));
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_seconds() {
        assert_eq!([30_000, 1600, 150].map(|ms| Limit::new(Duration::from_millis(ms)).text()), ["30", "1.6", "0.2"]);
    }

    #[test]
    fn what_ends_well_does_not_count() {
        let limit = Limit::new(Duration::from_secs(60));
        let (before, pause) = (limit.by(), Duration::from_millis(20));
        let takes = |outcome: Result<(), ()>| {
            std::thread::sleep(pause);
            outcome
        };
        let _ = limit.beside(|| takes(Err(())));
        assert_eq!(limit.by(), before);
        let _ = limit.beside(|| takes(Ok(())));
        assert!(limit.by() >= before + pause && !limit.is_over());
    }
}
