//! The kernel as this program uses it: starting processes, signals, this binary's own path.
//! The one place with `unsafe`, for calls that nix has no safe form of. Must never decide.

pub mod limits;
mod own;
mod spawn;

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Pid, getppid};

use crate::exit::Ended;
pub use own::{by_descriptor, is_another, own_file, own_path, own_program};
pub use spawn::{Kind, Program};

/// The descriptor under which a helper finds its pipe or socket to PID 1.
pub const CHANNEL: RawFd = 3;
/// The one under which Litestream's stand-in finds this program's own file, where its path does not lead to it any more.
pub const OWN_FILE: RawFd = 4;
/// The one under which a helper finds what PID 1 keeps of secrets that are in files.
pub const KEPT: RawFd = 5;
/// None of the numbers that a child is given something under.
const ABOVE: RawFd = 16;

/// The same under a number that no child is given something under.
///
/// # Errors
/// What `fcntl(2)` says.
pub fn above_the_given(fd: &impl AsFd) -> io::Result<OwnedFd> {
    take_fd(fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(ABOVE))?)
}

/// A variable's name and its value.
pub fn pair(entry: CString) -> Option<(OsString, OsString)> {
    let bytes = entry.into_bytes();
    let at = bytes.iter().position(|b| *b == b'=')?;
    let (name, value) = bytes.split_at(at);
    Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value.get(1..).unwrap_or_default().to_vec())))
}

/// Sends a signal by its number: real-time signals have no name in nix.
///
/// # Errors
/// What `kill(2)` says.
#[expect(unsafe_code, reason = "nix's kill takes only the 31 named signals")]
pub fn kill(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: kill(2) takes two integers and touches no memory of ours.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// Reaps one child that has ended, if there is one. nix cannot say that a real-time signal ended it.
///
/// # Errors
/// What `waitpid(2)` says; `ECHILD` where there are no children.
#[expect(unsafe_code, reason = "nix's waitpid fails with EINVAL, and loses the pid, for real-time signals")]
pub fn reap_one() -> nix::Result<Option<(Pid, Ended)>> {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one integer, which outlives the call.
    let pid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    let ended = if libc::WIFSIGNALED(status) {
        Ended::Signal(libc::WTERMSIG(status))
    } else {
        Ended::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
    };
    Ok((pid != 0).then_some((Pid::from_raw(pid), ended)))
}

/// Sends a signal to a whole process group.
///
/// # Errors
/// What `kill(2)` says.
pub fn kill_group(leader: Pid, signal: i32) -> nix::Result<()> {
    // kill(-1) is everybody and kill(0) our own group: a leader is neither.
    if leader.as_raw() <= 1 {
        return Err(Errno::EINVAL);
    }
    kill(Pid::from_raw(leader.as_raw().saturating_neg()), signal)
}

/// Has the kernel kill a child where the thread that starts it ends before the child does.
#[expect(unsafe_code, reason = "what runs between fork and exec may not do everything")]
pub fn end_with_us(command: &mut std::process::Command) {
    let us = Pid::this();
    let bind = move || {
        // Denied, it only costs a restore that goes on where we are killed.
        let _ = prctl::set_pdeathsig(Signal::SIGKILL);
        // We may have ended before that.
        if getppid() == us { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: two system calls; nothing is allocated or locked.
    unsafe { std::os::unix::process::CommandExt::pre_exec(command, bind) };
}

/// Gives a signal its default disposition.
#[expect(unsafe_code, reason = "signal(2) is unsafe for handlers; the default is none")]
pub fn default_disposition(signal: Signal) {
    // SAFETY: SIG_DFL installs no handler of ours.
    let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
}

/// Signals as the kernel counts them: 1 is the lowest bit.
pub type Signals = u64;

/// What was ignored when we came, as by nohup(1). Without /proc, SIGPIPE alone is known.
pub fn ignored_signals() -> Signals {
    const SIGPIPE: Signals = 1 << (libc::SIGPIPE - 1);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| Signals::from_str_radix(set.trim(), 16).ok()).unwrap_or_default();
    if SIGPIPE_IGNORED.load(Ordering::Relaxed) { ignored | SIGPIPE } else { ignored & !SIGPIPE }
}

/// Undoes what Rust's runtime does to SIGPIPE at start: the next program must see what we came with.
pub fn restore_sigpipe() {
    if !SIGPIPE_IGNORED.load(Ordering::Relaxed) {
        default_disposition(Signal::SIGPIPE);
    }
}

/// Whether SIGPIPE was ignored when we came.
static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);

/// The C library calls it before Rust's runtime begins, which ignores SIGPIPE and does not say what it was before.
#[used]
#[expect(unsafe_code, reason = "the section is that of the functions to call first")]
// SAFETY: what is in this section is the address of a function that takes nothing it reads.
#[unsafe(link_section = ".init_array")]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

#[expect(unsafe_code, reason = "nix cannot ask for a disposition without setting one")]
extern "C" fn note_sigpipe() {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: it only writes what SIGPIPE's disposition is, and all zeros are a value of that.
    let ignored = unsafe {
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), now.as_mut_ptr());
        now.assume_init().sa_sigaction == libc::SIG_IGN
    };
    SIGPIPE_IGNORED.store(ignored, Ordering::Relaxed);
}

/// Takes over a descriptor that the parent left open for us.
///
/// # Errors
/// `EBADF` where there is none.
#[expect(unsafe_code, reason = "a descriptor's number is all that survives exec")]
pub fn take_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for one fcntl(2), which answers EBADF where it is not open.
    fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, and only its receiver, once, at its start, takes it over.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What we have got besides 0, 1 and 2, as by a socket activation or for a notification. From here on our children do not get it, unless
/// they are told to. Must be called once, before anything of ours may go through an exec.
pub fn inherited() -> Vec<OwnedFd> {
    /// Without /proc, the usual limit of how many there are.
    const USUAL: RawFd = 1024;
    let listed = std::fs::read_dir("/proc/self/fd").map(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect()
    });
    let numbers: Vec<RawFd> = listed.unwrap_or_else(|_| (0..USUAL).collect());
    numbers
        .into_iter()
        .filter(|number| *number > libc::STDERR_FILENO && goes_through_exec(*number))
        .filter_map(|n| take_fd(n).ok())
        .collect()
}

/// What we open ourselves does not; what an exec has let through to us would again.
#[expect(unsafe_code, reason = "nobody has told us of a descriptor but its number")]
fn goes_through_exec(number: RawFd) -> bool {
    // SAFETY: borrowed for one fcntl(2), which answers EBADF where it is not open.
    let flags = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_GETFD);
    flags.is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0)
}

/// Whether one of ours is closed at an exec. One that is not open needs neither.
#[expect(unsafe_code, reason = "what PID 1 has inherited is known by its number")]
fn close_on_exec(fd: RawFd, closes: bool) {
    let flags = if closes { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    // SAFETY: borrowed for one fcntl(2), which answers EBADF where it is not open.
    let _ = fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_SETFD(flags));
}

/// Lets a descriptor through the next exec.
///
/// # Errors
/// What `fcntl(2)` says.
pub fn keep_on_exec(fd: &impl AsFd) -> nix::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)
}

/// A capability's number (capabilities(7)).
pub type Capability = u32;
/// To give files away.
pub const CHOWN: Capability = 0;
/// To read and write where the permissions are another user's.
pub const DAC_OVERRIDE: Capability = 1;
/// To change the permissions of another user's files.
pub const FOWNER: Capability = 3;
/// To signal another user's processes.
pub const KILL: Capability = 5;
/// To become another group.
pub const SETGID: Capability = 6;
/// To become another user.
pub const SETUID: Capability = 7;

/// What PID 1 has use for where everything else is another user's.
const KEPT_CAPABILITIES: u32 = 1 << CHOWN | 1 << DAC_OVERRIDE | 1 << FOWNER | 1 << KILL | 1 << SETGID | 1 << SETUID;

/// Linux's third version has two halves of each set; the header's pid 0 is this process.
const CAPABILITIES: [u32; 2] = [0x2008_0522, 0];

/// Effective, permitted, inheritable; the low half first.
#[expect(unsafe_code, reason = "nix and libc have no capget(2)")]
fn capabilities() -> nix::Result<[u32; 6]> {
    let mut sets = [0; 6];
    // SAFETY: the kernel reads two words of the header and writes six of the sets.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, CAPABILITIES.as_ptr(), sets.as_mut_ptr()) })?;
    Ok(sets)
}

/// Whether this process has that capability; a kernel that does not tell will say when it refuses.
pub fn has(capability: Capability) -> bool {
    capabilities().map_or(true, |[effective, ..]| effective & 1 << capability != 0)
}

/// Gives up every capability but [`KEPT_CAPABILITIES`], for good in this process; what root's children get by exec is not touched.
///
/// # Errors
/// What `capset(2)` says.
#[expect(unsafe_code, reason = "nix and libc have no capset(2)")]
pub fn drop_capabilities() -> nix::Result<()> {
    // What may be inherited is the app's, and stays as it is.
    let [effective, permitted, inheritable, .., inheritable_too] = capabilities()?;
    let kept = [effective & KEPT_CAPABILITIES, permitted & KEPT_CAPABILITIES, inheritable, 0, 0, inheritable_too];
    // SAFETY: the kernel reads both.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, CAPABILITIES.as_ptr(), kept.as_ptr()) }).map(drop)
}

/// Runs when nobody else wants to, on the processor and the disk; what is started from here on, too.
#[expect(unsafe_code, reason = "nix has no setpriority(2) and ioprio_set(2)")]
pub fn be_nice() {
    const NICE: i32 = 10;
    /// `IOPRIO_WHO_PROCESS`; the class `IOPRIO_CLASS_IDLE` is in the upper bits (`ioprio_set(2)`).
    const PROCESS: i32 = 1;
    const IDLE: i32 = 3 << 13;
    // SAFETY: both take numbers alone; 0 is this process. What cannot be had costs nothing.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
        libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, IDLE);
    }
}

/// Gives back the pages of our own program that are only read, code and constants: most of it is for the boot, and what is still
/// needed comes back from the page cache when it is touched.
#[expect(unsafe_code, reason = "the linker's symbol is extern, the program's headers are in memory, and madvise(2) takes an address")]
pub fn drop_code_pages() {
    // The linker gives it (ld(1)): where our file begins in memory.
    unsafe extern "C" {
        safe static __executable_start: u8;
    }
    const PAGE: usize = 4096;
    let whole = |address: usize| address & !PAGE.saturating_sub(1);
    // SAFETY: the kernel tells where it has put the program's headers, which stay there (getauxval(3)).
    let headers: &[ElfHeader] = unsafe {
        let at = usize::try_from(libc::getauxval(libc::AT_PHDR)).unwrap_or_default();
        let count = usize::try_from(libc::getauxval(libc::AT_PHNUM)).unwrap_or_default();
        if at == 0 { &[] } else { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(at), count) }
    };
    let number = |n| usize::try_from(n).unwrap_or_default();
    let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let Some(first) = loaded().next() else { return };
    let base = (&raw const __executable_start).addr().wrapping_sub(number(first.p_vaddr));
    for header in loaded().filter(|header| header.p_flags & libc::PF_W == 0) {
        let from = whole(base.wrapping_add(number(header.p_vaddr)));
        let to = whole(base.wrapping_add(number(header.p_vaddr)).wrapping_add(number(header.p_memsz)));
        // SAFETY: nothing is ever written between the two, and the kernel keeps the file from being written while it runs
        // (ETXTBSY), so every page reads the same after it has been taken from memory.
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(from), to.saturating_sub(from), libc::MADV_DONTNEED) };
    }
}

#[cfg(target_pointer_width = "64")]
type ElfHeader = libc::Elf64_Phdr;
#[cfg(target_pointer_width = "32")]
type ElfHeader = libc::Elf32_Phdr;

/// Writes what is taken without waiting, whatever flags the open file has, which may be another's, too.
///
/// # Errors
/// `EAGAIN` where nothing is taken now; `EOPNOTSUPP` where the kernel cannot do so for this kind of file.
#[expect(unsafe_code, reason = "nix has no pwritev2(2) with flags")]
pub fn write_now(file: &impl AsFd, bytes: &[u8]) -> nix::Result<usize> {
    /// Where the open file's own position is (`pwritev2(2)`), in two halves.
    const HERE: libc::c_long = -1;
    let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file.as_fd());
    // SAFETY: the kernel only reads the bytes, which outlive the call.
    let written = unsafe { libc::syscall(libc::SYS_pwritev2, fd, &raw const part, 1, HERE, HERE, libc::RWF_NOWAIT) };
    Errno::result(written).map(|n| usize::try_from(n).unwrap_or_default())
}

/// Makes `/dev/null` where it is missing, as in an empty chroot: Go opens it for each child's stdin.
///
/// # Errors
/// What the kernel says; only root may make devices.
pub fn ensure_dev_null() -> io::Result<()> {
    let path = Path::new("/dev/null");
    if path.exists() {
        return Ok(());
    }
    std::fs::create_dir_all("/dev")?;
    let mode = Mode::from_bits_truncate(0o666);
    mknod(path, SFlag::S_IFCHR, mode, makedev(1, 3))?;
    // The umask has taken some of it away.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))
}

/// Every signal, the ones included that the C library keeps for its threads: musl's `sigfillset`
/// leaves out 34, which is the first real-time signal to everybody else.
pub fn every_signal() -> SigSet {
    set_of(Signals::MAX)
}

#[expect(unsafe_code, reason = "sigaddset(3) refuses the library's own signals")]
fn set_of(signals: Signals) -> SigSet {
    let mut bytes = [0; size_of::<libc::sigset_t>()];
    bytes.iter_mut().zip(signals.to_ne_bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: a sigset_t is a field of bits, of which the kernel reads 64, so any bytes are a value of it.
    let set: libc::sigset_t = unsafe { std::mem::transmute(bytes) };
    // SAFETY: as above; nix's own functions only hand it to the kernel.
    unsafe { SigSet::from_sigset_t_unchecked(set) }
}

/// Blocks every signal that can be blocked, for signalfd(2).
///
/// # Errors
/// What `sigprocmask(2)` says.
pub fn block_all_signals() -> nix::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&every_signal()), None)
}

/// Blocks none.
///
/// # Errors
/// What `sigprocmask(2)` says.
pub fn unblock_all_signals() -> nix::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// The environment exactly as the kernel gave it, odd entries included (`std::env` drops those
/// without `=`); without /proc, what `std::env` has.
pub fn raw_environment() -> Vec<CString> {
    let entries = match std::fs::read("/proc/self/environ") {
        Ok(bytes) => bytes.split(|b| *b == 0).map(<[u8]>::to_vec).collect::<Vec<_>>(),
        Err(_) => std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect(),
    };
    entries.into_iter().filter(|e| !e.is_empty()).filter_map(|e| CString::new(e).ok()).collect()
}

/// Whether `/proc` is there, and of our own PID namespace: another's numbers are other processes'.
pub fn has_own_proc() -> bool {
    let own = std::fs::read_link("/proc/self").ok();
    own.and_then(|pid| pid.to_str()?.parse::<i32>().ok()).is_some_and(|pid| pid == Pid::this().as_raw())
}

/// A file without a name or a place on any disk, for what is read again by us alone; it does not survive an exec.
///
/// # Errors
/// What the kernel says.
pub fn file_in_memory() -> io::Result<std::fs::File> {
    Ok(memfd_create("log", MFdFlags::MFD_CLOEXEC)?.into())
}

/// What an ordinary user may still write to the file system of this path, in bytes; none where it does not tell.
pub fn free_bytes(path: &Path) -> Option<u64> {
    nix::sys::statvfs::statvfs(path).ok().map(|s| s.blocks_available().saturating_mul(s.fragment_size()))
}

/// What looking a program up gives.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Here it is.
    Executable(PathBuf),
    /// There is such a file, but it cannot be executed.
    NotExecutable(PathBuf, Errno),
    /// No such file.
    Nowhere,
}

/// Looks a program up as execvp(3) does: as it is where it has a slash, else in PATH.
pub fn find_program(name: &OsStr) -> Found {
    if name.is_empty() {
        return Found::Nowhere;
    }
    if name.as_bytes().contains(&b'/') {
        return probe(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    let mut best = Found::Nowhere;
    for dir in std::env::split_paths(&path) {
        match probe(dir.join(name)) {
            Found::Nowhere => {}
            found @ Found::Executable(_) => return found,
            found @ Found::NotExecutable(..) => {
                if best == Found::Nowhere {
                    best = found;
                }
            }
        }
    }
    best
}

fn probe(path: PathBuf) -> Found {
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => Found::NotExecutable(path, Errno::EISDIR),
        Ok(_) => match nix::unistd::access(&path, nix::unistd::AccessFlags::X_OK) {
            Ok(()) => Found::Executable(path),
            Err(errno) => Found::NotExecutable(path, errno),
        },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Found::NotExecutable(path, Errno::EACCES),
        Err(_) => Found::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_as_execvp_finds_it() {
        assert!(matches!(find_program(OsStr::new("sh")), Found::Executable(_)));
        assert_eq!(find_program(OsStr::new("no-such-program-here")), Found::Nowhere);
        assert_eq!(find_program(OsStr::new("")), Found::Nowhere);
        assert!(matches!(find_program(OsStr::new("/etc/passwd")), Found::NotExecutable(_, Errno::EACCES)));
        assert!(matches!(find_program(OsStr::new("/etc")), Found::NotExecutable(_, Errno::EISDIR)));
    }

    #[test]
    fn a_set_has_the_signals_that_it_is_made_of() {
        let set = set_of(1 << (libc::SIGHUP - 1) | 1 << (libc::SIGCHLD - 1));
        assert!(set.contains(Signal::SIGHUP) && set.contains(Signal::SIGCHLD) && set.iter().count() == 2);
        assert_eq!(every_signal().iter().count(), Signal::iterator().count());
    }

    #[test]
    fn nobody_but_a_group_leader_is_signalled_as_a_group() {
        for pid in [-5, 0, 1] {
            assert_eq!(kill_group(Pid::from_raw(pid), 0), Err(Errno::EINVAL));
        }
    }
}
