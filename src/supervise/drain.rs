//! Who is left: the processes that the app has left behind. Must never signal ours, Litestream's, or,
//! where we are not PID 1, anybody else's.

use std::collections::{BTreeMap, BTreeSet};

use nix::unistd::Pid;

/// A process as /proc has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Whether it has ended and only waits to be reaped.
    pub zombie: bool,
}

/// Those that are none of ours: in a namespace of our own (`us` is 1) all but our helpers and their
/// descendants, elsewhere only our own descendants but those.
pub fn left_behind(all: &[Process], us: i32, helpers: &[i32]) -> Vec<i32> {
    let spared = with_descendants(all, helpers);
    let candidates: BTreeSet<i32> = if us == 1 { all.iter().map(|p| p.pid).collect() } else { with_descendants(all, &[us]) };
    let alive = |pid: &i32| all.iter().any(|p| p.pid == *pid && !p.zombie);
    candidates.into_iter().filter(|pid| *pid != us && !spared.contains(pid) && alive(pid)).collect()
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

/// Everything in /proc; nothing where it is not mounted.
pub fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            parse_stat(pid, &std::fs::read_to_string(entry.path().join("stat")).ok()?)
        })
        .collect()
}

/// proc(5): pid (comm) state ppid …; a name may hold spaces and brackets.
fn parse_stat(pid: i32, stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    Some(Process { pid, parent: fields.next()?.parse().ok()?, zombie: matches!(state, "Z" | "X") })
}

/// All that are left.
pub fn left(us: i32, helpers: &[i32]) -> Vec<Pid> {
    left_behind(&processes(), us, helpers).into_iter().map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(rows: &[(i32, i32)]) -> Vec<Process> {
        rows.iter().map(|(pid, parent)| Process { pid: *pid, parent: *parent, zombie: *pid >= 90 }).collect()
    }

    #[test]
    fn as_pid_1_all_are_left_but_litestream_its_stand_in_and_the_workers() {
        // 2 Litestream, 3 its stand-in, 4 a worker, 7 a daemon, 8 its child, 50 from `docker exec`, 90 a zombie
        let all = tree(&[(1, 0), (2, 1), (3, 2), (4, 1), (7, 1), (8, 7), (50, 0), (90, 1)]);
        assert_eq!(left_behind(&all, 1, &[2, 4]), [7, 8, 50]);
    }

    #[test]
    fn elsewhere_only_our_own_descendants_are_left() {
        let all = tree(&[(1, 0), (20, 1), (30, 20), (31, 30), (32, 20), (33, 32), (40, 1)]);
        assert_eq!(left_behind(&all, 20, &[30]), [32, 33]);
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        assert_eq!(parse_stat(9, "9 (a) b) ) S 4 9 9 0"), Some(Process { pid: 9, parent: 4, zombie: false }));
        assert_eq!(parse_stat(9, "garbage"), None);
    }
}
