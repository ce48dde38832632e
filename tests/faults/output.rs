//! Where a container's standard error goes: a file, a pipe that somebody reads or not, a terminal. It never changes what was written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr};

use crate::schedule::Stderr;
use crate::support::container::{Container, Recipe};

const READS: u8 = 0;
const WAITS: u8 = 1;
const GONE: u8 = 2;

/// How long the last words may take after the container's end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Who reads it, into the container's log.
pub(crate) struct Reader {
    state: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a container with this for its standard error.
pub(crate) fn start(recipe: Recipe, stderr: Stderr) -> io::Result<(Container, Option<Reader>)> {
    match stderr {
        Stderr::File => Ok((recipe.start(), None)),
        Stderr::Pipe => {
            let (ours, theirs) = io::pipe()?;
            let container = recipe.start_with_stderr(theirs.into());
            let reader = Reader::of(ours.into(), &container.error_log());
            Ok((container, Some(reader?)))
        }
        Stderr::Terminal => {
            let terminal = openpty(None, None)?;
            let mut settings = tcgetattr(&terminal.slave)?;
            cfmakeraw(&mut settings);
            // Whoever writes from the background is stopped.
            settings.local_flags.insert(LocalFlags::TOSTOP);
            tcsetattr(&terminal.slave, SetArg::TCSANOW, &settings)?;
            let container = recipe.start_on(&terminal.slave);
            let reader = Reader::of(terminal.master, &container.error_log());
            Ok((container, Some(reader?)))
        }
    }
}

impl Reader {
    fn of(source: OwnedFd, log: &Path) -> io::Result<Self> {
        let state = Arc::new(AtomicU8::new(READS));
        let (log, seen) = (File::create(log)?, Arc::clone(&state));
        let thread = std::thread::spawn(move || read(source, log, &seen));
        Ok(Self { state, thread: Some(thread) })
    }

    /// It reads nothing for a while: what is written fills the pipe.
    pub(crate) fn pause(&self, pause: impl FnOnce()) {
        let _ = self.state.compare_exchange(READS, WAITS, Ordering::Relaxed, Ordering::Relaxed);
        pause();
        let _ = self.state.compare_exchange(WAITS, READS, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// It has gone: what is written is a SIGPIPE.
    pub(crate) fn go(&self) {
        self.state.store(GONE, Ordering::Relaxed);
    }

    /// Waits until everything is in the log.
    pub(crate) fn finish(mut self) {
        let begin = Instant::now();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) && begin.elapsed() < LAST_WORDS {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.go();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(source: OwnedFd, mut log: File, state: &AtomicU8) {
    let mut source = File::from(source);
    let mut bytes = [0; 16384];
    loop {
        match state.load(Ordering::Relaxed) {
            GONE => return,
            WAITS => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&source), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(20_u8)) != Ok(1) {
                    continue;
                }
                // A terminal whose last user has gone gives an error.
                match source.read(&mut bytes) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => drop(log.write_all(&bytes[..count])),
                }
            }
        }
    }
}
