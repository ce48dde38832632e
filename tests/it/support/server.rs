//! Other projects' servers: processes on 127.0.0.1 that end with the test.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::process;
use super::{PATIENCE, SEARCH_PATH, eventually, skip, tool, when};

/// A server's program; None, with a word, where there is none.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let program = tool(&format!("servers/bin/{name}"));
    if !program.exists() {
        skip(format!("no server at {}", program.display()));
        return None;
    }
    Some(program)
}

/// A directory for what a server keeps.
pub(crate) fn directory(name: &str) -> TempDir {
    TempDir::with_prefix(format!("{name}-")).expect("a directory")
}

/// A running server; it ends with this value.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts the program in a directory, where also its log is.
    pub(crate) fn start(program: &Path, directory: &Path, options: impl FnOnce(&mut Command)) -> Self {
        let log = directory.join("server.log");
        let output = || Stdio::from(File::options().create(true).append(true).open(&log).expect("a log file"));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program);
        command.env_clear().env("PATH", SEARCH_PATH).env("HOME", directory).current_dir(directory);
        command.stdin(Stdio::null()).stdout(output()).stderr(output()).process_group(0);
        options(&mut command);
        let child = command.spawn().expect("setpriv is there");
        Self { child, log }
    }

    /// Waits until the question is answered with yes; fails at once if the server ends before that.
    #[track_caller]
    pub(crate) fn ready(&mut self, mut question: impl FnMut() -> bool) {
        eventually("the server is ready", PATIENCE, || {
            let ended = self.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "the server has ended: {ended:?}");
            when(question())
        });
    }

    /// It is there and does not answer, or does again.
    pub(crate) fn signal(&self, signal: Signal) {
        process::send(i32::try_from(self.child.id()).expect("a pid"), signal);
    }

    /// It is gone, and nobody says goodbye.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- the end of {}", self.log.display());
            last.iter().rev().for_each(|line| eprintln!("{line}"));
            eprintln!("---");
        }
    }
}

/// The first of twenty ports that are free now, each test process looking elsewhere first.
pub(crate) fn free_ports() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 400).expect("small");
    loop {
        let round = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = 20_000 + (start + round) % 400 * 20;
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (base..base + 20).all(bind) {
            return base;
        }
    }
}

/// A port of this machine that nobody listens on.
pub(crate) fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its number").port()
}

/// A connection on which nothing waits for ever.
pub(crate) fn connect(port: u16) -> std::io::Result<TcpStream> {
    let patience = Duration::from_secs(5);
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// The first bytes that a server says, after these of ours.
pub(crate) fn first_bytes(port: u16, ours: &str, length: usize) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(port)?;
    stream.write_all(ours.as_bytes())?;
    let mut head = vec![0; length];
    stream.read_exact(&mut head)?;
    Ok(head)
}

/// The code of an HTTP server's answer.
pub(crate) fn http(port: u16, method: &str, path: &str, body: &str) -> Option<u16> {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let head = first_bytes(port, &request, "HTTP/1.0 200".len()).ok()?;
    std::str::from_utf8(&head).ok()?.get("HTTP/1.0 ".len()..)?.parse().ok()
}

/// Whether an HTTP server answers this with 200.
pub(crate) fn get(port: u16, path: &str) -> bool {
    http(port, "GET", path, "") == Some(200)
}
