//! Who is left: the processes that the app has left behind. Must never signal ours, Litestream's, or,
//! where we are not PID 1, anybody else's.

use std::collections::{BTreeMap, BTreeSet};

use crate::process::{self, Process};

/// One that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The process.
    pub process: Process,
    /// It came into the namespace from outside, as `docker exec` does: the app has not started it.
    pub outside: bool,
}

/// Those that are none of ours: in a namespace of our own (`us` is 1) all but our helpers and their
/// descendants, elsewhere only our own descendants but those.
pub fn left_behind(all: &[Process], us: i32, helpers: &[i32]) -> Vec<Left> {
    let spared = with_descendants(all, helpers);
    let ours = with_descendants(all, &[us]);
    let is_left = |p: &&Process| p.pid != us && !p.zombie && !spared.contains(&p.pid) && (us == 1 || ours.contains(&p.pid));
    all.iter().filter(is_left).map(|p| Left { process: p.clone(), outside: !ours.contains(&p.pid) }).collect()
}

/// So many are named.
const NAMED: usize = 5;

/// As `php-fpm (12), sh (14) and 3 more`; none where there are none of these.
pub fn names(left: &[Left], outside: bool) -> Option<String> {
    let all: Vec<String> =
        left.iter().filter(|l| l.outside == outside).map(|l| format!("{} ({})", l.process.name, l.process.pid)).collect();
    let (named, more) = all.split_at(all.len().min(NAMED));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    (!named.is_empty()).then(|| format!("{}{more}", named.join(", ")))
}

fn with_descendants(all: &[Process], roots: &[i32]) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found: BTreeSet<i32> = BTreeSet::new();
    let mut waiting: Vec<i32> = roots.to_vec();
    while let Some(pid) = waiting.pop() {
        if found.insert(pid) {
            waiting.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// All that are left; `newest` is the highest number of a process that we have seen.
pub fn left(us: i32, newest: i32, helpers: &[i32]) -> Vec<Left> {
    left_behind(&process::all(newest), us, helpers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(rows: &[(i32, i32)]) -> Vec<Process> {
        let process = |(pid, parent): &(i32, i32)| Process {
            pid: *pid,
            parent: *parent,
            group: *pid,
            zombie: *pid >= 90,
            stopped: false,
            name: "sh".into(),
        };
        rows.iter().map(process).collect()
    }

    fn pids(left: &[Left]) -> Vec<i32> {
        left.iter().map(|left| left.process.pid).collect()
    }

    #[test]
    fn as_pid_1_all_are_left_but_litestream_its_stand_in_and_the_workers() {
        // 2 Litestream, 3 its stand-in, 4 a worker, 7 a daemon, 8 its child, 50 from `docker exec`, 90 a zombie
        let all = tree(&[(1, 0), (2, 1), (3, 2), (4, 1), (7, 1), (8, 7), (50, 0), (90, 1)]);
        let left = left_behind(&all, 1, &[2, 4]);
        assert_eq!(pids(&left), [7, 8, 50]);
        assert_eq!((names(&left, false), names(&left, true)), (Some("sh (7), sh (8)".into()), Some("sh (50)".into())));
    }

    #[test]
    fn elsewhere_only_our_own_descendants_are_left() {
        let all = tree(&[(1, 0), (20, 1), (30, 20), (31, 30), (32, 20), (33, 32), (40, 1)]);
        let left = left_behind(&all, 20, &[30]);
        assert_eq!((pids(&left), names(&left, true)), (vec![32, 33], None));
    }

    #[test]
    fn of_a_crowd_only_a_few_are_named() {
        let crowd: Vec<_> = (2..10).map(|pid| (pid, 1)).collect();
        let names = names(&left_behind(&tree(&crowd), 1, &[]), false).unwrap();
        assert!(names.starts_with("sh (2), ") && names.ends_with("sh (6) and 3 more"), "{names}");
    }
}
