//! What the operator reads: lines on stderr. Must never panic, block, or fail its caller.

mod outlet;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use outlet::{OURS, Outlet, PIPE_BUF};

/// Says one line on stderr. Where nobody reads it PID 1 keeps it for a while, and any other process drops it: a full pipe must stop
/// nobody, and `O_NONBLOCK` would change the app's stderr too, since it is the same open file.
pub fn line(text: impl fmt::Display) {
    if let Some(clear) = BEFORE.get() {
        clear();
    }
    let mut bytes = one_line(&format!("{OURS}{text}"));
    if let Some(outlet) = outlet().as_mut() {
        outlet.push(bytes.as_bytes());
        outlet.flush();
        return;
    }
    bytes.push('\n');
    let stderr = std::io::stderr();
    if outlet::is_ready(stderr.as_fd()) {
        let _ = stderr.lock().write_all(bytes.as_bytes());
    }
}

/// What PID 1 has for its lines; other processes have none.
fn outlet() -> MutexGuard<'static, Option<Outlet>> {
    static OUTLET: Mutex<Option<Outlet>> = Mutex::new(None);
    OUTLET.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on nothing that this process says waits for its reader.
pub fn carry() {
    let _ = outlet().get_or_insert_with(Outlet::stderr);
}

/// From here on what this process says and passes on goes to the end of a file, or nowhere: stderr is the app's alone.
///
/// # Errors
/// What keeps the file from being opened.
pub fn leave_stderr(file: Option<&Path>) -> io::Result<()> {
    *outlet() = Some(file.map_or_else(|| Ok(Outlet::nowhere()), Outlet::file)?);
    Ok(())
}

/// The same by way of another process, which a disk that hangs does not hang us with: to this socket. What has not gone to an earlier one
/// goes there, too.
pub fn leave_stderr_by(socket: OwnedFd) {
    let mut outlet = outlet();
    let earlier = outlet.take().filter(|outlet| !outlet.is_stderr());
    *outlet = Some(earlier.unwrap_or_else(Outlet::nowhere).by(socket));
}

/// Whether that could be a log file.
///
/// # Errors
/// What keeps it from being opened.
pub fn try_log(file: &Path) -> io::Result<()> {
    Outlet::file(file).map(drop)
}

/// Whether lines go to stderr.
pub fn is_on_stderr() -> bool {
    outlet().as_ref().is_none_or(Outlet::is_stderr)
}

/// The app starts: why it might not have is nobody's concern any more.
pub fn forget() {
    outlet().iter_mut().for_each(Outlet::forget);
}

/// Why this ends, for those who see nothing but stderr and the exit code. The app has no more use for it.
pub fn tell() {
    let told = outlet().as_mut().and_then(Outlet::told);
    if let Some(mut stderr) = told {
        stderr.finish();
    }
}

/// Takes another process's line, without its end. [`flush`] sends it.
pub fn pass_on(line: &[u8]) {
    if let Some(outlet) = outlet().as_mut() {
        outlet.push(line);
    }
}

/// Sends what is taken now.
pub fn flush() {
    outlet().iter_mut().for_each(Outlet::flush);
}

/// Draws on the terminal what it takes now: it is drawn again soon.
pub fn draw(text: &str) {
    if let Some(outlet) = outlet().as_mut() {
        outlet.draw(text.as_bytes());
    }
}

/// What has to be writable before more is taken.
pub fn waits_for() -> Option<Arc<File>> {
    outlet().as_ref().and_then(Outlet::waits_for)
}

/// The last lines go out, as far as somebody reads them.
pub fn finish() {
    outlet().iter_mut().for_each(Outlet::finish);
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
