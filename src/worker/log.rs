//! `__log`: PID 1's lines, to the end of the log file, whose disk may hang. Must never end before PID 1 has said its last.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::sys::{self, CHANNEL};
use crate::{exit, report};

/// `PATH`: until PID 1 closes the channel, or is gone.
pub fn run(args: &[OsString]) -> u8 {
    // `kill -1` is for others.
    let _ = sys::block_all_signals();
    let [path] = args else { return exit::USAGE };
    let Ok(channel) = sys::take_fd(CHANNEL).map(File::from) else { return exit::USAGE };
    if report::leave_stderr(Some(Path::new(path))).is_err() {
        return exit::SYSTEM;
    }
    let (mut reader, mut line) = (BufReader::new(channel), Vec::new());
    while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        report::pass_on(line.strip_suffix(b"\n").unwrap_or(&line));
        line.clear();
        if reader.buffer().is_empty() {
            report::flush();
        }
    }
    // PID 1 waits for the channel's other end to close.
    report::finish();
    0
}
