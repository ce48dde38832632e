//! Work on several things at once, by threads that end with it. Must never lose one for want of a thread.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `work` on each item, a few at a time, and keeps the order. A panic in one loses what its thread did: fewer
/// results than items tell.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], at_once: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let take_turns = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            match items.get(at) {
                Some(item) => done.push((at, work(item))),
                None => return done,
            }
        }
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, take_turns).ok();
        let threads: Vec<_> = (0..at_once.clamp(1, items.len().max(1))).filter_map(start).collect();
        // Where none may start, this one does it all.
        let done = if threads.is_empty() { take_turns() } else { Vec::new() };
        done.into_iter().chain(threads.into_iter().filter_map(|t| t.join().ok()).flatten()).collect()
    });
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_work_keeps_its_order() {
        assert_eq!(in_parallel(&[1, 2, 3, 4, 5], 2, |n| n * 10), [10, 20, 30, 40, 50]);
        assert_eq!(in_parallel(&[1], 8, |n| n * 10), [10]);
        assert!(in_parallel(&[] as &[i32], 8, |n| n * 10).is_empty());
    }
}
