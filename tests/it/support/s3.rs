//! A real S3 server: `SeaweedFS`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{PATIENCE, SEARCH_PATH, eventually, skip, tool, when};

pub(crate) const BUCKET: &str = "test";
pub(crate) const KEY: &str = "testkey";
pub(crate) const SECRET: &str = "testsecret123";

/// A running server; it ends with this value.
pub(crate) struct Server {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Server {
    /// Starts one with an empty bucket; None, with a word, where there is none to start.
    pub(crate) fn start() -> Option<Self> {
        let weed = tool("servers/bin/weed");
        if !weed.exists() {
            skip(format!("no S3 server at {}", weed.display()));
            return None;
        }
        let directory = TempDir::with_prefix("weed-").expect("a directory");
        let base = free_ports();
        let child = command(&weed, directory.path(), base).spawn().expect("weed starts");
        let server = Self { child, port: base, _directory: directory };
        eventually("the bucket is there", PATIENCE, || when(get(base, "/healthz") && get(base + 1, &format!("/buckets/{BUCKET}/"))));
        Some(server)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// It is gone, and nobody says goodbye.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Its defaults bind every address, send telemetry and create buckets.
fn command(weed: &Path, directory: &Path, base: u16) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(weed);
    command.args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]);
    command.args(["-webdav=false", "-admin.ui=false", "-s3.autoCreateBucket=false"]);
    command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
    command.arg(format!("-bucket={BUCKET}")).arg(format!("-dir={}", directory.display()));
    for (offset, name) in (0..).zip(SERVICES) {
        command.arg(format!("-{name}.port={}", base + offset));
        command.arg(format!("-{name}.port.grpc={}", base + 10 + offset));
    }
    command.env_clear().env("PATH", SEARCH_PATH).env("HOME", directory).current_dir(directory);
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command
}

/// Each has a port, and ten above it one for its internal protocol.
const SERVICES: [&str; 5] = ["s3", "filer", "master", "volume", "admin"];

/// The first of twenty ports that are free now, each test process looking elsewhere first.
fn free_ports() -> u16 {
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

/// Whether the server answers this with 200.
fn get(port: u16, path: &str) -> bool {
    let answer = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")?;
        let mut head = vec![0; 12];
        stream.read_exact(&mut head)?;
        Ok(head)
    };
    answer().is_ok_and(|head| head.ends_with(b" 200"))
}
