//! What Litestream and the workers say, carried line by line: a stderr that nobody reads would stop them, one whose reader has gone
//! would kill them (SIGPIPE). Must never take more at once than PID 1 can do beside its other work.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};

use super::Shell;
use super::machine::Role;
use crate::exit::Ended;
use crate::report;

/// A longer line is cut.
const LONGEST: usize = 64 * 1024;
/// So much is read before other things are looked at; as much as a pipe holds.
const AT_ONCE: usize = 64 * 1024;

/// A flood is looked at so often, and not at each line: a look costs more than a line.
const PAUSE: Duration = Duration::from_millis(5);

/// One helper's pipe, which may outlive it: what it has started has it, too.
#[derive(Debug)]
pub(super) struct Log {
    fd: File,
    /// A line that has no end yet.
    line: Vec<u8>,
    /// The rest of it is left out.
    cut: bool,
    /// Somebody may still write.
    pub(super) open: bool,
}

impl Log {
    /// A pipe: our end, and the one for the helper's stdout and stderr.
    pub(super) fn new() -> nix::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self { fd: ours.into(), line: Vec::new(), cut: false, open: true }, theirs))
    }

    /// Reads what has come, and says each whole line. Whether anything has.
    pub(super) fn read(&mut self, say: &mut impl FnMut(&[u8])) -> bool {
        let mut chunk = [0; 4096];
        let mut taken: usize = 0;
        while taken < AT_ONCE {
            match self.fd.read(&mut chunk) {
                Ok(0) => {
                    self.open = false;
                    self.end(say);
                    break;
                }
                Ok(n) => {
                    taken = taken.saturating_add(n);
                    self.split(chunk.get(..n).unwrap_or_default(), say);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.open = error.kind() == ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        taken > 0
    }

    /// Ends the line that has begun: by its end, or with its writer.
    pub(super) fn end(&mut self, say: &mut impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            say(&std::mem::take(&mut self.line));
        }
        self.cut = false;
    }

    fn split(&mut self, bytes: &[u8], say: &mut impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(whole) if self.line.is_empty() => say(whole),
                Some(rest) => {
                    self.add(rest);
                    self.end(say);
                }
                None => self.add(part),
            }
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = LONGEST.saturating_sub(self.line.len());
        if !self.cut {
            self.line.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            self.cut = bytes.len() > room;
            if self.cut {
                self.line.extend_from_slice("…".as_bytes());
            }
        }
    }
}

impl AsFd for Log {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// For a helper that starts. A restore's bars are drawn on the terminal itself; without a pipe, too, it says what it says there.
pub(super) fn of(role: Role) -> Option<(Log, OwnedFd)> {
    let draws = role == Role::Prepare && report::is_on_stderr() && std::io::stderr().is_terminal();
    if draws { None } else { Log::new().ok() }
}

impl Shell {
    /// Passes on what has come. Of those that have ended nothing more will, whoever has their pipes.
    pub(super) fn read_logs(&mut self, ended: &[(Pid, Ended)]) {
        let mut any = false;
        for (id, log) in &mut self.logs {
            any |= log.read(&mut report::pass_on);
            let pid = self.children.iter().find(|c| c.id == *id).and_then(|c| c.pid);
            if ended.iter().any(|(ended, _)| Some(*ended) == pid) {
                log.end(&mut report::pass_on);
            }
        }
        self.logs.retain(|(_, log)| log.open);
        report::flush();
        // One that says that it can be written to and then is not must not keep PID 1 busy.
        if any || report::waits_for().is_some() {
            self.logs_at = self.now().saturating_add(PAUSE);
            self.rest_at = Some(self.now().saturating_add(Duration::from_millis(100)));
        }
    }

    /// Whether the logs wake PID 1 now, and what is to be writable for them; if not now, the deadline is when.
    pub(super) fn logs_to_wait_for(&self, deadline: Option<Duration>) -> (bool, Option<Arc<File>>, Option<Duration>) {
        let outlet = report::waits_for();
        if self.logs_at <= self.now() || (self.logs.is_empty() && outlet.is_none()) {
            (true, outlet, deadline)
        } else {
            (false, None, Some(deadline.map_or(self.logs_at, |at| at.min(self.logs_at))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn said(log: &mut Log) -> Vec<String> {
        let mut lines = Vec::new();
        while log.read(&mut |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned())) {}
        lines
    }

    #[test]
    fn lines_are_whole_however_they_come_and_an_endless_one_is_cut() {
        let (mut log, theirs) = Log::new().unwrap();
        let mut theirs = File::from(theirs);
        theirs.write_all(b"one\n\ntw").unwrap();
        assert_eq!(said(&mut log), ["one", ""]);
        theirs.write_all(b"o\nthree").unwrap();
        assert_eq!(said(&mut log), ["two"]);
        for _ in 0..40 {
            theirs.write_all(&[b'x'; 4000]).unwrap();
            assert!(said(&mut log).is_empty());
        }
        theirs.write_all(b"\nfour\nfive").unwrap();
        let lines = said(&mut log);
        assert!(lines.len() == 2 && lines[0].starts_with("threexxx") && lines[0].ends_with("x…") && lines[1] == "four");
        assert_eq!(lines[0].len(), LONGEST + "…".len());
        drop(theirs);
        assert!(log.open);
        assert_eq!(said(&mut log), ["five"]);
        assert!(!log.open);
    }

    #[test]
    fn a_line_without_an_end_is_said_when_its_writer_has_ended() {
        let (mut log, theirs) = Log::new().unwrap();
        File::from(theirs).write_all(b"panic: no").unwrap();
        let mut lines: Vec<Vec<u8>> = Vec::new();
        while log.open {
            log.read(&mut |line: &[u8]| lines.push(line.to_vec()));
        }
        assert_eq!(lines, [b"panic: no".to_vec()]);
    }
}
