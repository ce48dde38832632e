//! Processes, read from `/proc`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    /// When it started, in ticks since the machine did.
    pub(crate) started: u64,
    /// `Z` is a zombie, `T` is stopped.
    pub(crate) state: char,
    /// None for a zombie, and for a process that is gone already.
    pub(crate) executable: Option<PathBuf>,
    pub(crate) arguments: Vec<Vec<u8>>,
}

impl Process {
    pub(crate) fn read(pid: i32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        // The name may hold spaces and brackets, so the fields are counted from its end.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Some(Self {
            pid,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
            executable: fs::read_link(format!("/proc/{pid}/exe")).ok(),
            arguments: arguments.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect(),
        })
    }

    pub(crate) fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }

    /// Whether the file that runs has this name.
    pub(crate) fn runs(&self, name: &str) -> bool {
        self.executable.as_ref().is_some_and(|path| path.file_name().is_some_and(|it| it == name))
    }
}

pub(crate) fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| Process::read(name.parse().ok()?)).collect()
}

pub(crate) fn children(pid: i32) -> Vec<Process> {
    all().into_iter().filter(|process| process.parent == pid).collect()
}

/// Everything below a process, at any depth.
pub(crate) fn descendants(pid: i32) -> Vec<Process> {
    let all = all();
    let mut family = BTreeSet::from([pid]);
    loop {
        let before = family.len();
        family.extend(all.iter().filter(|it| family.contains(&it.parent)).map(|it| it.pid).collect::<Vec<_>>());
        if family.len() == before {
            break;
        }
    }
    all.into_iter().filter(|it| it.pid != pid && family.contains(&it.pid)).collect()
}

/// Sends a signal; that the process is gone already is no mistake.
pub(crate) fn send(pid: i32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Whether the program has begun as this process, and would see a TERM: the kernel drops a signal that the first process of a namespace neither
/// blocks nor catches.
#[allow(dead_code, reason = "of the fault harness alone")]
pub(crate) fn has_begun(pid: i32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let blocked = of("SigBlk:").and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or_default();
    // The kernel keeps 15 bytes of a name (proc(5), `comm`).
    of("Name:") == Some("litestream-entr") && blocked & (1 << (Signal::SIGTERM as u64 - 1)) != 0
}
