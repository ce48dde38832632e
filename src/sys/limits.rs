//! What limits processes and memory here, in words: the number that is there, and what would be enough. Must never be asked before something
//! was refused: it reads files.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::geteuid;

/// A group of processes that is as full as this has reached its limit; who was refused may have ended since.
const NEARLY: u64 = 16;
/// As much memory is enough for Litestream.
const ENOUGH: u64 = 256 << 20;

/// How a reason begins.
const NO_MORE: &str = "no more processes or threads may run ";
const LIMITED: &str = "memory is limited: ";
const NOT_ENOUGH: &str = "there is not memory enough";

/// Why no further process or thread may start: fork(2) says "Try again" and names none of its limits.
pub fn no_more_processes() -> String {
    let groups = groups("pids", [("pids.max", "pids.current")]);
    let user = geteuid();
    // Root may have as many as it likes.
    let of_user = getrlimit(Resource::RLIMIT_NPROC).ok().map(|(soft, _)| soft).filter(|soft| *soft != RLIM_INFINITY && !user.is_root());
    let full = groups.iter().find(|group| group.used.saturating_add(NEARLY) >= group.most);
    let group = full.or_else(|| groups.iter().min_by_key(|group| group.most).filter(|_| of_user.is_none()));
    let enough = "what the app takes and 64 more are enough";
    match (group, of_user) {
        (Some(Group { path, most, .. }), _) => {
            format!("{NO_MORE}here: {} is {most}; {enough} (`--pids-limit`)", path.display())
        }
        (None, Some(limit)) => format!(
            "{NO_MORE}here: RLIMIT_NPROC is {limit}, for all of uid {user} on this machine; {enough} \
             (`ulimit -u`, `--ulimit nproc=`)"
        ),
        (None, None) => format!("{NO_MORE}on this machine (kernel.threads-max, kernel.pid_max); {enough}"),
    }
}

/// Why there may not be memory enough, where a limit is so low that there is not.
pub fn too_little_memory() -> Option<String> {
    let address_space = getrlimit(Resource::RLIMIT_AS).ok().map(|(soft, _)| soft).filter(|soft| *soft < 1 << 30);
    if let Some(bytes) = address_space {
        return Some(format!("{LIMITED}RLIMIT_AS is {} MB, and 1 GiB is enough (`ulimit -v`)", bytes >> 20));
    }
    let groups = groups("memory", [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")]);
    let Group { path, most, .. } = groups.into_iter().min_by_key(|group| group.most).filter(|group| group.most < ENOUGH)?;
    Some(format!("{LIMITED}{} is {} MB, and what the app takes and 256 MB are enough (`--memory`)", path.display(), most >> 20))
}

/// Whether a reason is one of these.
pub fn is_one(why: &str) -> bool {
    [NO_MORE, LIMITED, NOT_ENOUGH].iter().any(|text| why.contains(text))
}

/// The same error, with its limit's name where it is one.
pub fn named(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(Errno::EAGAIN as i32) { io::Error::new(error.kind(), no_more_processes()) } else { error }
}

/// Why a program that is written in Go could not start or go on, by the first that it said of it: what follows are its stacks.
pub fn why_go_ended(said: &str) -> Option<String> {
    const THREADS: [&str; 3] =
        ["pthread_create failed: Resource temporarily unavailable", "errno=11)", ": resource temporarily unavailable"];
    const MEMORY: [&str; 5] =
        ["failed to reserve page summary memory", "out of memory", "cannot allocate memory", "Cannot allocate memory", "errno=12)"];
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if any(&THREADS) {
        return Some(no_more_processes());
    }
    any(&MEMORY).then(|| too_little_memory().unwrap_or_else(|| NOT_ENOUGH.to_owned()))
}

/// A group of processes with a limit (cgroups(7)), by the file that says it.
struct Group {
    path: PathBuf,
    most: u64,
    used: u64,
}

/// Those that this process is in, itself and above, as far as they can be seen.
fn groups<const N: usize>(controller: &str, names: [(&str, &str); N]) -> Vec<Group> {
    let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let folders = folders(controller, &std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    let limits = folders.iter().flat_map(|folder| names.map(|(most, used)| (folder.join(most), folder.join(used))));
    let groups = limits.filter_map(|(path, used)| Some(Group { most: number(&path)?, used: number(&used).unwrap_or_default(), path }));
    // Version 1 has the greatest number of whole pages for none.
    groups.filter(|group| group.most < 1 << 60).collect()
}

/// Where a controller's files are, by `/proc/self/cgroup`: of both versions, the nearest first.
fn folders(controller: &str, memberships: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let of = |line: &str| {
        let (list, path) = line.split_once(':')?.1.split_once(':')?;
        let base = match list {
            "" => root.to_owned(),
            list if list.split(',').any(|name| name == controller) => root.join(controller),
            _ => return None,
        };
        let own = base.join(path.trim_start_matches('/'));
        Some(own.ancestors().take_while(|folder| folder.starts_with(&base)).map(Path::to_owned).collect::<Vec<_>>())
    };
    memberships.lines().filter_map(of).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controllers_files_are_found_in_both_versions() {
        let folders = |text: &str| folders("pids", text).iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        assert_eq!(folders("0::/a/b\n"), ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]);
        assert_eq!(folders("0::/\n"), ["/sys/fs/cgroup/"]);
        assert_eq!(folders("8:cpu,pids:/x\n7:memory:/y\n"), ["/sys/fs/cgroup/pids/x", "/sys/fs/cgroup/pids"]);
        assert!(folders("nonsense").is_empty());
    }

    #[test]
    fn what_go_says_of_a_limit_is_told_from_what_it_says_otherwise() {
        for said in [
            "runtime/cgo: pthread_create failed: Resource temporarily unavailable\nSIGABRT: abort\nPC=0x1042fdc\ngs 0x0\n",
            "runtime: failed to create new OS thread (have 5 already; errno=11)\nfatal error: newosproc\n",
            "Error: cannot start exec command: fork/exec /entry: resource temporarily unavailable\n",
        ] {
            assert!(why_go_ended(said).is_some_and(|why| why.contains("no more processes")), "{said}");
        }
        for said in ["fatal error: failed to reserve page summary memory\n", "runtime: out of memory: cannot allocate 4194304-byte block\n"]
        {
            assert!(why_go_ended(said).is_some_and(|why| why.contains("memory")), "{said}");
        }
        assert_eq!(why_go_ended("time=2026 level=ERROR msg=x error=\"dial tcp: refused\""), None);
    }

    #[test]
    fn only_a_refused_start_is_another_error() {
        assert!(named(Errno::EAGAIN.into()).to_string().contains("no more processes"));
        assert_eq!(named(Errno::ENOENT.into()).raw_os_error(), Some(Errno::ENOENT as i32));
    }
}
