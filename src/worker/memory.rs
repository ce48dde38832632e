//! How many restores at once fit into the memory that there is. Must never guess high: a container that is killed for its
//! memory restores nothing.

use std::fs;

/// A restore by Litestream 0.5.17: 33 MB at rest, up to 80 MB seen on a database of 821 MB.
const EACH: u64 = 96 << 20;
/// Each also has up to eight connections to its storage.
const MOST: u64 = 16;

/// As many as fit, 1 to 16.
pub fn restores_at_once() -> usize {
    usize::try_from(fitting(available())).unwrap_or(1)
}

fn fitting(bytes: Option<u64>) -> u64 {
    bytes.map_or(MOST / 4, |bytes| (bytes / EACH).clamp(1, MOST))
}

/// What the kernel says is to be had, in the machine and in the container (proc(5), cgroup-v2), whichever is less.
fn available() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| meminfo(&text));
    let container = || {
        Some(
            read("/sys/fs/cgroup/memory.max")?
                .trim()
                .parse::<u64>()
                .ok()?
                .saturating_sub(read("/sys/fs/cgroup/memory.current")?.trim().parse().ok()?),
        )
    };
    [machine, container()].into_iter().flatten().min()
}

fn meminfo(text: &str) -> Option<u64> {
    let kilobytes = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?.trim().trim_end_matches("kB").trim();
    kilobytes.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_fit_as_there_is_memory_for() {
        for (megabytes, at_once) in [(0, 1), (100, 1), (256, 2), (512, 5), (1 << 20, 16)] {
            assert_eq!(fitting(Some(megabytes << 20)), at_once, "{megabytes} MB");
        }
        assert_eq!(fitting(None), 4);
    }

    #[test]
    fn the_kernels_word_is_understood() {
        assert_eq!(meminfo("MemTotal:  9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(meminfo("nonsense"), None);
        assert!(available().is_some());
    }
}
