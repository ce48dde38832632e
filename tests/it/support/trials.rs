//! Trials: the same story several times, with other random numbers each time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn count(name: &str, default: u64) -> usize {
    setting(name, default).try_into().expect("a small number")
}

/// How often each case is tried.
pub(crate) fn per_case() -> usize {
    count("TRIALS", 3)
}

/// How many random series of lives are lived.
pub(crate) fn series() -> usize {
    count("SERIES", 4)
}

/// How many backups are proved beside writers of all kinds.
pub(crate) fn proofs() -> usize {
    count("PROOFS", 10)
}

/// Random numbers that are the same for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Scrambled, lest the next seed's numbers be these numbers without the first.
        Self(scramble(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.0)
    }

    /// `low..=high`
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    pub(crate) fn pick<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[usize::try_from(self.next()).unwrap_or(0) % things.len()]
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// The mixing step of splitmix64.
fn scramble(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Runs `trial` so many times, `JOBS` at a time, and fails with every failure's number and seed.
///
/// A trial gets its number and its own random numbers.
pub(crate) fn run(count: usize, trial: impl Fn(usize, &mut Random) + Sync) {
    let first_seed = setting("SEED", 1);
    let jobs = self::count("JOBS", 4).clamp(1, count.max(1));
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let seed = first_seed + number as u64;
            let outcome = catch_unwind(AssertUnwindSafe(|| trial(number, &mut Random::new(seed))));
            if let Err(panic) = outcome {
                let failure = format!("SEED={seed}: {}", message(&*panic));
                failures.lock().expect("no panic in here").push(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().expect("no panic in there");
    let list = failures.join("\n\n");
    assert!(failures.is_empty(), "{} of {count} trials failed:\n\n{list}", failures.len());
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}
