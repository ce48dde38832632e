//! Where PID 1's lines and its helpers' go. Must never wait for whoever reads them, nor begin a line before the last one is whole.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};

use crate::sys;

/// POSIX: a pipe that polls writable has room for this many bytes, and a write of them is not split.
pub(super) const PIPE_BUF: usize = 4096;
/// So much is kept for who reads slowly; more is dropped.
const KEPT: usize = 64 * 1024;
/// What takes nothing is not tried again with each line.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// At the end, what is still read is waited for: so long for a sign of it, and so long in all.
const LAST_SIGN: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(1);

/// So often a log file is looked for by its name, which may be another's since (logrotate).
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many lines say why this ends.
const REASON: usize = 5;
/// What our own lines begin with.
pub(super) const OURS: &str = "litestream-entry: ";

/// How a write is kept from waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// An open file of our own, so that `O_NONBLOCK` is nobody else's.
    Own,
    /// A socket, which can be told with each write.
    Socket,
    /// A file on a disk: it takes what it is given, or fails.
    File,
    /// Another's open file, where there is no way to one of our own: no `/proc`, or a pipe that belongs to another user.
    Shared,
}

/// Lines on their way, whole ones, but for the first, which may have begun to go.
#[derive(Debug)]
pub(super) struct Outlet {
    /// None where nothing is to be written.
    to: Option<(Arc<File>, Way)>,
    queue: Vec<u8>,
    dropped: u64,
    /// Since when it takes nothing, for a reason that no waiting helps.
    failed: Option<Instant>,
    /// It is full.
    full: bool,
    /// Where it is a file of its own name.
    name: Option<Name>,
    /// It goes to another process, which has it only when it has closed its end.
    carried: bool,
    /// Our last lines, where stderr is not for them.
    kept: Option<VecDeque<Vec<u8>>>,
}

/// A log file's name, and which file had it.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    file: (u64, u64),
    looked: Instant,
}

impl Outlet {
    fn new(to: Option<(Arc<File>, Way)>) -> Self {
        Self { to, queue: Vec::new(), dropped: 0, failed: None, full: false, name: None, carried: false, kept: None }
    }

    /// To stderr, which the app has, too.
    pub(super) fn stderr() -> Self {
        // A duplicate shares its flags; what is opened anew by its name does not. It has no reader yet: ENXIO.
        let Ok(shared) = io::stderr().as_fd().try_clone_to_owned().map(File::from) else { return Self::new(None) };
        let Ok(kind) = shared.metadata().map(|m| m.file_type()) else { return Self::new(Some((Arc::new(shared), Way::Shared))) };
        let to = if kind.is_socket() {
            (shared, Way::Socket)
        } else if kind.is_file() {
            (shared, Way::File)
        } else {
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
            let own = File::options().write(true).custom_flags(flags).open(format!("/proc/self/fd/{}", shared.as_raw_fd()));
            own.map_or((shared, Way::Shared), |own| (own, Way::Own))
        };
        Self::new(Some((Arc::new(to.0), to.1)))
    }

    /// To nobody.
    pub(super) fn nowhere() -> Self {
        Self { kept: Some(VecDeque::new()), ..Self::new(None) }
    }

    /// To the end of a file, which is made where there is none.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        let (file, way, id) = open(path)?;
        let name = Name { path: path.to_owned(), file: id, looked: Instant::now() };
        Ok(Self { to: Some((Arc::new(file), way)), name: Some(name), ..Self::nowhere() })
    }

    /// What was for a file or for nobody goes to another process, by this socket.
    pub(super) fn by(self, socket: OwnedFd) -> Self {
        Self { to: Some((Arc::new(socket.into()), Way::Socket)), carried: true, failed: None, full: false, ..self }
    }

    pub(super) fn is_stderr(&self) -> bool {
        self.kept.is_none()
    }

    pub(super) fn forget(&mut self) {
        self.kept.iter_mut().for_each(VecDeque::clear);
    }

    /// Our last lines for stderr, where they were not for it.
    pub(super) fn told(&mut self) -> Option<Self> {
        let kept = self.kept.as_mut().map(std::mem::take)?;
        let mut stderr = Self::stderr();
        kept.iter().rev().for_each(|line| stderr.push(line));
        Some(stderr)
    }

    /// Takes a line without its end, or drops and counts it. [`Self::flush`] sends it.
    pub(super) fn push(&mut self, line: &[u8]) {
        if let Some(kept) = self.kept.as_mut().filter(|_| line.starts_with(OURS.as_bytes())) {
            kept.truncate(REASON.saturating_sub(1));
            kept.push_front(line.to_vec());
        }
        if self.to.is_none() {
            return;
        }
        let fits = |queue: &[u8]| queue.is_empty() || queue.len().saturating_add(line.len()) < KEPT;
        if !fits(&self.queue) && !self.full && self.failed.is_none() {
            self.flush();
        }
        if self.dropped > 0 || !fits(&self.queue) {
            self.dropped = self.dropped.saturating_add(1);
        } else {
            self.queue.extend_from_slice(line);
            self.queue.push(b'\n');
        }
    }

    /// Writes what is taken now.
    pub(super) fn flush(&mut self) {
        self.full = false;
        if self.failed.is_some_and(|at| at.elapsed() < TRY_AGAIN) {
            return;
        }
        self.failed = None;
        if !self.queue.is_empty() {
            self.look();
        }
        while let (Some((file, way)), false) = (&self.to, self.queue.is_empty()) {
            match write(file, *way, part(&self.queue)) {
                Ok(written) => drop(self.queue.drain(..written.min(self.queue.len()))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.full = true;
                    return;
                }
                Err(_) => {
                    self.failed = Some(Instant::now());
                    return;
                }
            }
            if self.dropped > 0 && self.queue.len() <= KEPT / 2 {
                self.say_dropped();
            }
        }
        // A burst's memory is given back.
        if self.queue.is_empty() {
            self.queue = Vec::new();
        }
    }

    /// Begins the file anew where it was moved away, once a line of it is not half there. What cannot be opened any more leaves the old one.
    fn look(&mut self) {
        let Some(name) = self.name.as_mut().filter(|name| name.looked.elapsed() >= LOOK_EVERY) else { return };
        name.looked = Instant::now();
        let is_it = |m: std::fs::Metadata| (m.dev(), m.ino()) == name.file;
        if !std::fs::symlink_metadata(&name.path).is_ok_and(is_it)
            && let Ok((file, way, id)) = open(&name.path)
        {
            (self.to, name.file) = (Some((Arc::new(file), way)), id);
        }
    }

    /// What is not taken is left out.
    pub(super) fn draw(&mut self, text: &[u8]) {
        self.flush();
        if let Some((file, way)) = self.to.as_ref().filter(|_| self.queue.is_empty()) {
            let _ = write(file, *way, text);
        }
    }

    fn say_dropped(&mut self) {
        let lines = if self.dropped == 1 { "1 line was".to_owned() } else { format!("{} lines were", self.dropped) };
        self.queue.extend_from_slice(format!("{OURS}{lines} dropped here, since nobody took them\n").as_bytes());
        self.dropped = 0;
    }

    /// What to wait for until more can be written. What has failed would poll ready at once, for ever.
    pub(super) fn waits_for(&self) -> Option<Arc<File>> {
        self.to.as_ref().filter(|_| self.full).map(|(file, _)| Arc::clone(file))
    }

    /// The last chance: waits a moment for who reads, and not for who does not.
    pub(super) fn finish(&mut self) {
        let end = Instant::now() + LAST;
        self.finish_by(end);
        if let Some((file, _)) = self.to.as_ref().filter(|_| self.carried)
            && shutdown(file.as_raw_fd(), Shutdown::Write).is_ok()
        {
            let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now())).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], left);
        }
    }

    fn finish_by(&mut self, end: Instant) {
        self.failed = None;
        self.flush();
        while let Some(file) = self.waits_for().filter(|_| Instant::now() < end) {
            let sign = PollTimeout::try_from(LAST_SIGN).unwrap_or(PollTimeout::ZERO);
            if poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], sign).is_ok_and(|n| n == 0) {
                return;
            }
            self.flush();
        }
    }
}

/// Opens a log file, and no other that somebody has put in its place.
fn open(path: &Path) -> io::Result<(File, Way, (u64, u64))> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = File::options().append(true).create(true).mode(0o640).custom_flags(flags).open(path)?;
    let it = file.metadata()?;
    if it.is_file() && it.nlink() > 1 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it has another name, too"));
    }
    let way = if it.is_file() { Way::File } else { Way::Own };
    Ok((file, way, (it.dev(), it.ino())))
}

/// What is written at once: lines that a pipe does not split, or a part of a longer one.
fn part(queue: &[u8]) -> &[u8] {
    let most = queue.get(..PIPE_BUF).unwrap_or(queue);
    let whole = most.iter().rposition(|b| *b == b'\n').map_or(most.len(), |at| at.saturating_add(1));
    most.get(..whole).unwrap_or(most)
}

fn write(file: &File, way: Way, bytes: &[u8]) -> io::Result<usize> {
    match way {
        Way::Own | Way::File => (&*file).write(bytes),
        Way::Socket => Ok(send(file.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?),
        Way::Shared => match sys::write_now(file, bytes) {
            // Before Linux 6.4, and of a terminal. Between the look and the write another might fill it: there is nothing better.
            Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) if is_ready(file.as_fd()) => (&*file).write(bytes),
            Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => Err(Errno::EAGAIN.into()),
            written => Ok(written?),
        },
    }
}

/// Whether a write is taken now, or fails.
pub(super) fn is_ready(fd: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn pipe(way: Way) -> (Outlet, File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let writer = File::from(writer);
        let writer = match way {
            Way::Own => {
                let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
                File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
            }
            _ => writer,
        };
        (Outlet::new(Some((Arc::new(writer), way))), reader.into())
    }

    fn read(reader: &mut File) -> String {
        let mut bytes = Vec::new();
        let _ = reader.read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_not_read_is_kept_then_dropped_and_counted_where_it_is_missing() {
        for way in [Way::Own, Way::Shared] {
            let (mut outlet, mut reader) = pipe(way);
            for n in 0..10_000 {
                outlet.push(format!("line {n} {}", "x".repeat(90)).as_bytes());
                outlet.flush();
            }
            assert!(outlet.waits_for().is_some());
            let mut said = String::new();
            for _ in 0..50 {
                said.push_str(&read(&mut reader));
                outlet.flush();
            }
            outlet.push(b"the last");
            outlet.finish();
            said.push_str(&read(&mut reader));
            let lines: Vec<&str> = said.lines().collect();
            let gap = lines.iter().position(|l| l.contains("lines were dropped here")).unwrap();
            let dropped: usize = lines[gap].split(' ').nth(1).unwrap().parse().unwrap();
            assert_eq!(lines[gap + 1..], ["the last"]);
            assert_eq!(gap + dropped, 10_000, "{way:?}");
            assert!(lines[..gap].iter().enumerate().all(|(n, l)| l.starts_with(&format!("line {n} x")) && l.ends_with('x')));
            assert!(gap > 1000, "a pipe's worth and as much again is kept: {gap}");
        }
    }

    #[test]
    fn a_line_longer_than_a_pipe_arrives_whole() {
        let (mut outlet, mut reader) = pipe(Way::Own);
        outlet.push(b"before");
        outlet.push("z".repeat(60_000).as_bytes());
        outlet.push(b"after");
        let mut said = String::new();
        for _ in 0..20 {
            outlet.flush();
            said.push_str(&read(&mut reader));
        }
        assert_eq!(said, format!("before\n{}\nafter\n", "z".repeat(60_000)));
    }

    #[test]
    fn nobody_is_waited_for_where_nobody_reads_any_more() {
        for way in [Way::Own, Way::Shared] {
            let (mut outlet, reader) = pipe(way);
            drop(reader);
            for _ in 0..3000 {
                outlet.push(&[b'x'; 100]);
                outlet.flush();
            }
            assert!(outlet.waits_for().is_none() && outlet.failed.is_some() && outlet.dropped > 0);
            let began = Instant::now();
            outlet.finish();
            assert!(began.elapsed() < LAST_SIGN);
        }
    }
}
