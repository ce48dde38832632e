//! Litestream's command lines, one place for both lines. Must never run inside PID 1's loop: it waits.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

use super::{Format, Litestream};
use crate::exit::Ended;
use crate::sys::{self, limits};
use crate::{interrupt, kept};

/// How often a running child is looked at.
const POLL: Duration = Duration::from_millis(10);

/// The configuration that a call reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config<'a> {
    /// The file.
    pub path: &'a Path,
    /// Whether Litestream expands `$VAR` in it: only in a file of the user's own.
    pub expand: bool,
}

impl Config<'_> {
    /// The flags for it.
    pub fn flags(&self) -> Vec<OsString> {
        let mut flags = vec!["-config".into(), self.path.into()];
        if !self.expand {
            flags.push("-no-expand-env".into());
        }
        flags
    }
}

/// argv of `litestream replicate -exec COMMAND`.
pub fn replicate(litestream: &Litestream, config: &Config<'_>, exec: OsString) -> Vec<OsString> {
    let mut args = vec![litestream.path.clone().into(), "replicate".into()];
    args.extend(config.flags());
    args.extend(["-exec".into(), exec]);
    args
}

/// Single quotes round every word: go-shellwords keeps what is in them byte for byte, and cuts a
/// command silently at an unquoted `;` or `&`.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Splits an `-exec` command into words as Litestream does (go-shellwords): quotes and backslashes
/// group, nothing is expanded. Where Litestream would silently cut the command, it is refused.
///
/// # Errors
/// What cannot be split.
pub fn split(command: &str) -> Result<Vec<OsString>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t' | '\n' | '\r') => words.extend(word.take().map(OsString::from)),
            (None, ';' | '&' | '|' | '<' | '>' | '(' | ')' | '`') => {
                return Err(format!("{c:?} means nothing without a shell; write -exec \"sh -c '…'\", or quote it"));
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word.map(OsString::from));
    if words.is_empty() { Err("names no command".to_owned()) } else { Ok(words) }
}

/// A Litestream that runs beside us with its output in a file, killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    output: File,
}

/// What a call came to.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub ended: Ended,
    /// What it said on stdout.
    pub stdout: String,
    /// What it said, stdout and stderr together where they were not kept apart.
    pub said: String,
}

impl Output {
    /// Litestream's own reason in one short line: its last error, without time stamp and key names.
    pub fn reason(&self) -> String {
        match self.ended {
            Ended::Signal(libc::SIGKILL) => killed(),
            _ => reason(&self.said),
        }
    }
}

/// Why it may have been killed, by nobody of ours.
pub fn killed() -> String {
    limits::too_little_memory().map_or_else(|| "litestream was killed".to_owned(), |why| format!("litestream was killed; {why}"))
}

/// Litestream's last complaint in one short line.
pub fn reason(said: &str) -> String {
    if let Some(why) = limits::why_go_ended(said) {
        return why;
    }
    let complaint = said.lines().rev().find(|l| l.contains("rror")).or_else(|| said.lines().rev().find(|l| !l.trim().is_empty()));
    let line = complaint.unwrap_or("no reason given").trim();
    let line = line.split_once("error=").map_or_else(|| line.to_owned(), |(_, value)| unquoted(value));
    let line = line.strip_prefix("Error: ").unwrap_or(&line);
    // AWS's client puts the request before the reason.
    let line = ["api error ", "HostID: , "].iter().find_map(|before| line.split_once(before)).map_or(line, |(_, reason)| reason);
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= 240 { line } else { line.chars().take(240).chain(['…']).collect() }
}

/// A value of Go's log: quoted, with what follows it, or as it stands.
fn unquoted(value: &str) -> String {
    let Some(quoted) = value.strip_prefix('"') else { return value.to_owned() };
    let mut chars = quoted.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next().filter(|c| *c != '"') {
        plain.push(match c {
            '\\' => match chars.next() {
                // One line stays one line.
                Some('n' | 't' | 'r') | None => ' ',
                Some(escaped) => escaped,
            },
            c => c,
        });
    }
    plain
}

fn command(litestream: &Litestream) -> Command {
    let mut command = Command::new(&litestream.path);
    match &litestream.env {
        Some(env) => command.env_clear().envs(env.iter().cloned()),
        None => command.envs(kept::since_our_start()),
    };
    // Killed, we can end nobody: a restore would go on into a folder that is nobody's.
    sys::end_with_us(&mut command);
    command
}

/// Starts `litestream ARGS…`; both outputs go to `log`, a file that the caller made.
///
/// # Errors
/// What the kernel says to fork and exec.
pub fn start(litestream: &Litestream, args: &[OsString], log: File) -> std::io::Result<Running> {
    let mut command = command(litestream);
    command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    Ok(Running { child: command.spawn().map_err(limits::named)?, output: log })
}

impl Running {
    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<Ended> {
        match self.child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(ended(status)),
            Err(_) => Some(Ended::Code(255)),
        }
    }

    /// Bytes that it has read from anywhere so far (proc(5), `io`); 0 where that is not told.
    pub fn read(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap_or_default();
        io.lines().find_map(|l| l.strip_prefix("rchar: ")).and_then(|n| n.trim().parse().ok()).unwrap_or_default()
    }

    /// What it has said so far, the last 64 kB of it.
    pub fn said(&self) -> String {
        let length = self.output.metadata().map(|m| m.len()).unwrap_or_default();
        read_from(&self.output, length.saturating_sub(64 * 1024))
    }

    /// Everything that it has said so far.
    pub fn said_in_all(&self) -> String {
        read_from(&self.output, 0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// It may go on writing by the same open file, whose place is not to move.
fn read_from(file: &File, mut at: u64) -> String {
    let (mut bytes, mut part) = (Vec::new(), [0; 8192]);
    while let Ok(read @ 1..) = file.read_at(&mut part, at) {
        bytes.extend(part.iter().take(read));
        at = at.saturating_add(u64::try_from(read).unwrap_or_default());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs `litestream ARGS…` to its end, or kills it at the deadline or when this process is asked to end (then `None`).
///
/// # Errors
/// What the kernel says to fork and exec.
pub fn run(litestream: &Litestream, args: &[OsString], deadline: Instant) -> std::io::Result<Option<Output>> {
    let mut command = command(litestream);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(limits::named)?;
    // Without threads, which may be refused.
    let (mut stdout, mut stderr) = (Stream::of(child.stdout.take())?, Stream::of(child.stderr.take())?);
    let status = loop {
        let (more, status) = (stdout.read() | stderr.read(), child.try_wait()?);
        match status {
            Some(status) => break status,
            None if Instant::now() >= deadline || interrupt::check().is_err() => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            None if more => {}
            None => std::thread::sleep(POLL),
        }
    };
    while stdout.read() | stderr.read() {}
    let stdout = stdout.text();
    let said = format!("{stdout}{}", stderr.text());
    Ok(Some(Output { ended: ended(status), stdout, said }))
}

/// What comes on a pipe, as far as it is there.
struct Stream {
    pipe: Option<File>,
    bytes: Vec<u8>,
}

impl Stream {
    fn of(pipe: Option<impl Into<OwnedFd>>) -> std::io::Result<Self> {
        let pipe = pipe.map(|pipe| File::from(pipe.into()));
        if let Some(pipe) = &pipe {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self { pipe, bytes: Vec::new() })
    }

    /// Whether anything was there.
    fn read(&mut self) -> bool {
        const MOST: usize = 16 << 20;
        let mut part = [0; 16 * 1024];
        let Some(Ok(read @ 1..)) = self.pipe.as_mut().map(|pipe| pipe.read(&mut part)) else { return false };
        if self.bytes.len() < MOST {
            self.bytes.extend(part.iter().take(read));
        }
        true
    }

    fn text(self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

fn ended(status: std::process::ExitStatus) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(u8::try_from(code & 0xff).unwrap_or(255)),
        (None, Some(signal)) => Ended::Signal(signal),
        (None, None) => Ended::Code(255),
    }
}

/// What lists a replica's content: it changes whenever anything arrives there.
pub fn listing(format: Format, config: &Config<'_>, database: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = match format {
        Format::Ltx => vec!["ltx".into()],
        Format::Generations => vec!["wal".into()],
    };
    args.extend(config.flags());
    args.push(database.into());
    args
}

/// `restore` of one database of the configuration into `output`. Ends well with nothing there when
/// the replica has no backup.
pub fn restore(config: &Config<'_>, database: &Path, output: &Path, more: &[OsString]) -> Vec<OsString> {
    let mut args = vec!["restore".into()];
    args.extend(config.flags());
    args.extend(["-if-replica-exists".into(), "-o".into(), output.into()]);
    args.extend(more.iter().cloned());
    args.push(database.into());
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_survives_go_shellwords() {
        assert_eq!(quote("/a b/it's;x&y"), r"'/a b/it'\''s;x&y'");
    }

    #[test]
    fn a_command_is_split_as_litestream_does_it_but_never_cut() {
        let split = |text: &str| split(text).map(|w| w.into_iter().map(|w| w.into_string().unwrap()).collect::<Vec<_>>());
        assert_eq!(split(r#"app a "b c" 'd $FOO e' plain\ esc """#).unwrap(), ["app", "a", "b c", "d $FOO e", "plain esc", ""]);
        for bad in ["a;b", "a & b", "a|b", "a > b", "a 'b", "  ", "$(x)"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_reason_is_litestreams_last_complaint_on_one_line() {
        let v3 = "time=2026 level=ERROR msg=\"failed to run\" error=\"cannot fetch generations: dial tcp: refused\"\n";
        assert_eq!(reason(v3), "cannot fetch generations: dial tcp: refused");
        let quoting = "level=ERROR msg=\"failed to run\" error=\"unknown replica type in config: \\\"nats\\\"\" db=/d/a.db\n";
        assert_eq!(reason(quoting), "unknown replica type in config: \"nats\"");
        assert_eq!(reason("level=ERROR error=EOF\n"), "EOF");
        assert_eq!(reason("Error: no such bucket\n"), "no such bucket");
        assert_eq!(reason(""), "no reason given");
    }
}
