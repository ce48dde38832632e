//! What the operator reads: lines on stderr. Must never panic, block, or fail its caller.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// POSIX: a pipe that polls writable has room for this many bytes, and a write of them is not split.
const PIPE_BUF: usize = 4096;

/// Says one line on stderr, or drops it when nobody reads: a full pipe must not stop PID 1, and
/// `O_NONBLOCK` would change the app's stderr too, since it is the same open file.
pub fn line(text: impl fmt::Display) {
    if let Some(clear) = BEFORE.get() {
        clear();
    }
    let mut bytes = one_line(&format!("litestream-entry: {text}"));
    bytes.push('\n');
    write_if_ready(bytes.as_bytes());
}

/// Where the same was said less than this ago, it is no news.
const NEWS_AFTER: Duration = Duration::from_secs(60);

/// Says a line that may come again and again, once a minute.
pub fn news(text: impl fmt::Display) {
    static SAID: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());
    let text = text.to_string();
    let is_news = SAID.lock().is_ok_and(|mut said| {
        said.retain(|_, at| at.elapsed() < NEWS_AFTER);
        let old = said.contains_key(&text);
        said.entry(text.clone()).or_insert_with(Instant::now);
        !old
    });
    if is_news {
        line(text);
    }
}

static BEFORE: OnceLock<fn()> = OnceLock::new();

/// From here on `clear` is called before each line: what is drawn on the terminal makes room.
pub fn before_lines(clear: fn()) {
    let _ = BEFORE.set(clear);
}

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Whether [`debug`] says anything: once, at the start of each process.
pub fn set_debug(on: bool) {
    DEBUG.store(on, Ordering::Relaxed);
}

/// Says a line that matters only when something is looked into.
pub fn debug(text: impl fmt::Display) {
    if DEBUG.load(Ordering::Relaxed) {
        line(format_args!("debug: {text}"));
    }
}

/// Several problems, a line each.
pub fn lines(text: &str) {
    for each in text.lines() {
        line(each);
    }
}

fn write_if_ready(bytes: &[u8]) {
    let stderr = std::io::stderr();
    let ready = poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO);
    if ready.is_ok_and(|n| n > 0) {
        let _ = stderr.lock().write_all(bytes);
    }
}

/// Control characters (an escape sequence in a path, a newline in an error) become spaces, and
/// the line is cut to what a pipe takes at once.
fn one_line(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let limit = PIPE_BUF.saturating_sub(8);
    if out.len() > limit {
        let mut cut = limit;
        while !out.is_char_boundary(cut) {
            cut = cut.saturating_sub(1);
        }
        out.truncate(cut);
        out.push('…');
    }
    out
}

/// Bytes for people: `12 B`, `3.4 MB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn human_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_it_quotes() {
        assert_eq!(one_line("a\nb\u{1b}[2J"), "a b [2J");
        assert!(one_line(&"é".repeat(9000)).len() <= PIPE_BUF);
    }

    #[test]
    fn sizes_have_a_unit_people_know() {
        assert_eq!(human_size(12), "12 B");
        assert_eq!(human_size(3_400_000), "3.4 MB");
    }
}
