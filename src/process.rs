//! The processes that can be seen: in /proc, or by their numbers where there is none. Must never signal one.

use nix::errno::Errno;
use nix::unistd::{Pid, getpgid, getsid};

use crate::sys;

/// A process as /proc has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Whether it has ended and only waits to be reaped.
    pub zombie: bool,
    /// Whether it may be stopped, as by Ctrl-Z: then it takes no signal but KILL before it goes on.
    pub stopped: bool,
    /// Its command's name, 15 bytes of it at most.
    pub name: String,
}

/// Whether it is stopped; one of which it is not known may be.
pub fn may_be_stopped(pid: i32) -> bool {
    !sys::has_own_proc() || of(pid).is_some_and(|process| process.stopped)
}

/// One of /proc.
pub fn of(pid: i32) -> Option<Process> {
    parse_stat(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Everything in /proc. Where that is not ours, what answers to its number: `newest` is the highest that we have seen.
pub fn all(newest: i32) -> Vec<Process> {
    if !sys::has_own_proc() {
        return probed(newest);
    }
    numbers().filter_map(of).collect()
}

/// The numbers of what /proc shows.
pub fn numbers() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Numbers are given in turn, so that what was started since we last started something has one that is not much higher.
const AHEAD: i32 = 1 << 16;

/// Without /proc, parents are not known; but our helpers lead sessions of their own, in which their children stay, and who comes from outside
/// of the namespace has none there. Whoever leads a session is taken for our own child.
fn probed(newest: i32) -> Vec<Process> {
    let there = |pid: &i32| !matches!(sys::kill(Pid::from_raw(*pid), 0), Err(Errno::ESRCH));
    let process = |pid| {
        let number = |found: nix::Result<Pid>| found.map_or(0, Pid::as_raw);
        let (session, group) = (number(getsid(Some(Pid::from_raw(pid)))), number(getpgid(Some(Pid::from_raw(pid)))));
        let parent = if session == pid { Pid::this().as_raw() } else { session };
        Process { pid, parent, group, zombie: false, stopped: true, name: "a process".to_owned() }
    };
    (1..=newest.saturating_add(AHEAD)).filter(there).map(process).collect()
}

/// proc(5): pid (comm) state ppid …; a name may hold spaces and brackets.
fn parse_stat(pid: i32, stat: &str) -> Option<Process> {
    let (before, rest) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse().ok();
    let name = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Some(Process { pid, parent: number()?, group: number()?, zombie: matches!(state, "Z" | "X"), stopped: state == "T", name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let parsed = Process { pid: 9, parent: 4, group: 8, zombie: false, stopped: false, name: "a) b) ".into() };
        assert_eq!(parse_stat(9, "9 (a) b) ) S 4 8 9 0"), Some(parsed.clone()));
        assert_eq!(parse_stat(9, "9 (a) b) ) T 4 8 9 0"), Some(Process { stopped: true, ..parsed }));
        assert_eq!(parse_stat(9, "garbage"), None);
    }
}
