//! The boots that run here, as `/proc` shows them: for `docker exec`, which knows only the environment, and for a boot inside another
//! one. Must never take a boot of another container for one of this, nor a command for a boot.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cli::{self, Invocation, Verb};
use crate::configured::Configured;
use crate::facilities::Facilities;
use crate::lock;
use crate::runtime::left_plan;
use crate::{identity, plan, process, runtime, settings, sys};

/// A boot that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Its options, as the variables that they stand for.
    pub options: Vec<(String, String)>,
}

impl Running {
    /// Of that process, if it is one.
    fn of(pid: u32) -> Option<Self> {
        let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<OsString> = bytes.split(|b| *b == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
        // Each word ends with a 0.
        let (name, words) = words.strip_suffix(&[OsString::new()]).unwrap_or(&words).split_first()?;
        let own = sys::own_path().ok()?;
        let is_ours = Path::new(name).file_name() == own.file_name()
            || std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program == own);
        let boots = is_ours && words.first().is_none_or(|word| !crate::protocol::is_internal(word)) && is_boot(words);
        boots.then(|| Self { pid, options: cli::options(words) })
    }

    /// The runtime directory that it holds, by what is configured here.
    pub fn place(&self, configured: Option<&Configured>) -> Option<PathBuf> {
        held(configured, self.pid)
    }
}

fn is_boot(words: &[OsString]) -> bool {
    match cli::parse(words) {
        Ok(Invocation::Boot { .. }) => true,
        Ok(Invocation::Command { verb, .. }) => verb == Verb::Replicate,
        _ => false,
    }
}

/// Those in this container, the oldest first. Elsewhere than at PID 1 there is one under an init of somebody else's.
pub fn here() -> Vec<Running> {
    if std::process::id() == 1 {
        return Vec::new();
    }
    if let Some(first) = Running::of(1).filter(|_| is_of_this_container(1)) {
        return vec![first];
    }
    let mut pids: Vec<u32> = process::numbers().filter_map(|pid| u32::try_from(pid).ok()).collect();
    pids.sort_unstable();
    pids.into_iter().filter(|pid| *pid != std::process::id()).filter_map(Running::of).filter(|r| is_of_this_container(r.pid)).collect()
}

/// Whether a process is in the same container: in a PID namespace that several share (`--pid=host`), those of others can be seen,
/// too. They have another root, and a control group of their own.
fn is_of_this_container(pid: u32) -> bool {
    let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
    if let (Some(ours), Some(its)) = (of("self"), of(&pid.to_string())) {
        return ours == its;
    }
    let of = |who: &str| std::fs::read(format!("/proc/{who}/cgroup")).ok();
    of("self").zip(of(&pid.to_string())).is_none_or(|(ours, its)| ours == its)
}

/// After an upgrade in place the boot here is another file of this program, and it alone knows what it has left: becomes that. Goes on as
/// what this is where the boot is this, too, or not for us to see.
pub fn become_the_boots(args: &[OsString]) {
    let Some(boot) = here().into_iter().next() else { return };
    // What it runs (proc(5)), whatever its name leads to now.
    let program = PathBuf::from(format!("/proc/{}/exe", boot.pid));
    // Root does not run what another user has put there.
    let trusted = std::fs::metadata(&program).is_ok_and(|it| [0, nix::unistd::geteuid().as_raw()].contains(&it.uid()));
    if trusted && sys::is_another(&program) {
        let c = |text: &OsStr| CString::new(text.as_bytes());
        let words = std::iter::once(OsStr::new("litestream-entry")).chain(args.iter().map(OsString::as_os_str)).map(c);
        if let (Ok(program), Ok(words)) = (c(program.as_os_str()), words.collect::<Result<Vec<_>, _>>()) {
            let _ = nix::unistd::execve(&program, &words, &sys::raw_environment());
        }
    }
}

/// The directory that the boot with this pid holds, by what is configured here.
pub fn held(configured: Option<&Configured>, pid: u32) -> Option<PathBuf> {
    let (place, beside) = match configured {
        Some(configured) => (configured.settings.entry.runtime_dir.clone(), configured.first_database()),
        None => (std::env::var_os(settings::variable("runtime-dir")).map(PathBuf::from), None),
    };
    let places = runtime::places(place.as_deref(), beside.as_deref(), pid);
    // What may not be looked into is not nobody's.
    let opened = |place: &&PathBuf| runtime::is_closed(place) && identity::become_who_may_read(None, place) && runtime::is_held(place);
    places.iter().find(|place| runtime::is_held(place)).or_else(|| places.iter().find(opened)).cloned()
}

/// So many are looked at.
const MOST_ABOVE: usize = 64;

/// The boot that the one with this pid was started by, at whatever remove, where it replicates all that this one is to: waiting for it to leave
/// would be waiting for ourselves.
pub fn above(configured: &Configured, boot: u32) -> Option<Running> {
    let us = i32::try_from(boot).ok()?;
    let above = ancestors(us, |pid| process::of(pid).map(|process| process.parent))
        .into_iter()
        .filter_map(|pid| Running::of(u32::try_from(pid).ok()?));
    let mut databases = None;
    above.into_iter().find(|running| {
        let ours = databases.get_or_insert_with(|| configured.paths().unwrap_or_default());
        let replicated = || {
            let theirs = Configured::read(running.options.clone()).ok();
            let plan = left_plan(&running.place(theirs.as_ref())?)?;
            let paths: Vec<PathBuf> = plan.locked().into_iter().map(|database| database.path).collect();
            Some(ours.iter().all(|path| paths.contains(path)))
        };
        // What another user has left cannot be read, and its locks can be seen all the same.
        !ours.is_empty() && (replicated() == Some(true) || ours.iter().all(|path| lock::is_held(path)))
    })
}

fn ancestors(us: i32, parent: impl Fn(i32) -> Option<i32>) -> Vec<i32> {
    let parents = std::iter::successors(Some(us), |pid| parent(*pid).filter(|parent| *parent > 0));
    // Numbers may be given again while this looks.
    parents.skip(1).take(MOST_ABOVE).collect()
}

impl Configured {
    /// The paths of what is to be replicated.
    fn paths(&self) -> Option<Vec<PathBuf>> {
        let litestream = crate::litestream::find(self.settings.litestream.as_deref()).ok()?;
        let file = self.users_file().ok()?;
        let planned = plan::make(&self.settings, litestream, Path::new(runtime::USUAL), file.as_deref(), &Facilities::ALL).ok()?;
        Some(planned.plan.locked().into_iter().map(|database| database.path).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_told_from_a_command_and_from_a_worker() {
        let is = |words: &[&str]| is_boot(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(is(&["--", "app"]) && is(&["app", "verify"]) && is(&["replicate", "-exec", "app"]) && is(&["--http", ":1", "app"]));
        for none in [&["health"][..], &["verify", "default"], &["wal", "default"], &["config"], &["--http", ":1"], &[]] {
            assert!(!is(none), "{none:?}");
        }
    }

    #[test]
    fn ancestors_end_where_the_namespace_does() {
        let parent = |pid| [(1, 0), (7, 1), (9, 7), (11, 9)].into_iter().find(|(each, _)| *each == pid).map(|(_, parent)| parent);
        assert_eq!((ancestors(11, parent), ancestors(1, parent)), (vec![9, 7, 1], vec![]));
        assert_eq!(ancestors(5, Some).len(), MOST_ABOVE);
    }
}
