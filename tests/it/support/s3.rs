//! A real S3 server: `SeaweedFS`.

use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::server::{Daemon, directory, free_ports, get, program};

pub(crate) const BUCKET: &str = "test";
pub(crate) const KEY: &str = "testkey";
pub(crate) const SECRET: &str = "testsecret123";

/// A running server; it ends with this value.
pub(crate) struct Server {
    daemon: Daemon,
    port: u16,
    _directory: TempDir,
}

impl Server {
    /// Starts one with an empty bucket; None, with a word, where there is none to start.
    pub(crate) fn start() -> Option<Self> {
        let weed = program("weed")?;
        let directory = directory("weed");
        let base = free_ports();
        // Its defaults bind every address, send telemetry and create buckets.
        let mut daemon = Daemon::start(&weed, directory.path(), |command| {
            command.args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]);
            command.args(["-webdav=false", "-admin.ui=false", "-s3.autoCreateBucket=false"]);
            command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
            command.arg(format!("-bucket={BUCKET}")).arg(format!("-dir={}", directory.path().display()));
            for (offset, name) in (0..).zip(SERVICES) {
                command.arg(format!("-{name}.port={}", base + offset));
                command.arg(format!("-{name}.port.grpc={}", base + 10 + offset));
            }
            command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        });
        daemon.ready(|| get(base, "/healthz") && get(base + 1, &format!("/buckets/{BUCKET}/")));
        Some(Self { daemon, port: base, _directory: directory })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Deletes everything of this prefix in the bucket, by the server's own file interface.
    pub(crate) fn empty(&self, prefix: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port + 1)).expect("its files are served");
        let path = format!("/buckets/{BUCKET}/{prefix}?recursive=true&ignoreRecursiveError=true");
        write!(stream, "DELETE {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("it takes a request");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.contains(" 20"), "{answer}");
    }

    /// A black hole: connections are taken and never answered.
    pub(crate) fn freeze(&self) {
        self.daemon.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.daemon.signal(Signal::SIGCONT);
    }

    /// It is gone, and nobody says goodbye.
    pub(crate) fn kill(&mut self) {
        self.daemon.kill();
    }
}

/// Each has a port, and ten above it one for its internal protocol.
const SERVICES: [&str; 5] = ["s3", "filer", "master", "volume", "admin"];
