//! What workers say, read without blocking. Must never take more at once than PID 1 can do beside its other work.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;

use crate::protocol::{LONGEST, Message};

/// So much of a pipe is read before other things are looked at.
const AT_ONCE_CHUNKS: usize = 16;

/// A worker's pipe, read without blocking.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) fd: File,
    buffer: Vec<u8>,
    pub(super) open: bool,
}

impl Pipe {
    pub(super) fn new(fd: OwnedFd) -> Option<Self> {
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
        Some(Self { fd: fd.into(), buffer: Vec::new(), open: true })
    }

    /// Whole messages that have arrived. A line that is none is dropped.
    pub(super) fn messages(&mut self) -> Vec<Message> {
        let mut chunk = [0; 4096];
        // A flood waits for the next round, so that nothing else does.
        for _ in 0..AT_ONCE_CHUNKS {
            match self.fd.read(&mut chunk) {
                Ok(0) => {
                    self.open = false;
                    break;
                }
                Ok(n) => self.buffer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.open = error.kind() == std::io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        let mut messages = Vec::new();
        while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
            let rest = self.buffer.split_off(end);
            let line = std::mem::replace(&mut self.buffer, rest.get(1..).unwrap_or_default().to_vec());
            messages.extend(Message::decode(&String::from_utf8_lossy(&line)));
        }
        if self.buffer.len() > LONGEST {
            self.buffer.clear();
        }
        messages
    }
}
