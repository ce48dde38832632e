//! The stores of a run: one server of each kind, a folder of its own in its bucket for each trial. They end with this value.

use std::fs;

use tempfile::TempDir;

use crate::schedule::Backend;
use crate::support::s3;
use crate::support::server::{Daemon, connect, directory, free_ports, program};

/// A server that speaks S3.
pub(crate) struct Store {
    pub(crate) bucket: &'static str,
    pub(crate) key: &'static str,
    pub(crate) secret: &'static str,
    endpoint: String,
    _server: Server,
}

enum Server {
    Weed { _server: s3::Server },
    Rclone { _daemon: Daemon, _directory: TempDir },
}

impl Store {
    /// None where it cannot be had, or where there is nothing to start.
    pub(crate) fn start(backend: Backend) -> Option<Self> {
        let (endpoint, server) = match backend {
            Backend::File => return None,
            Backend::Seaweed => {
                let server = s3::Server::start()?;
                (server.endpoint(), Server::Weed { _server: server })
            }
            Backend::Rclone => rclone()?,
        };
        Some(Self { bucket: s3::BUCKET, key: s3::KEY, secret: s3::SECRET, endpoint, _server: server })
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

fn rclone() -> Option<(String, Server)> {
    let rclone = program("rclone")?;
    let directory = directory("rclone");
    let data = directory.path().join("data");
    fs::create_dir_all(data.join(s3::BUCKET)).expect("a directory");
    let port = free_ports();
    let mut daemon = Daemon::start(&rclone, directory.path(), |command| {
        command.args(["serve", "s3", "--config", "/dev/null", "--addr", &format!("127.0.0.1:{port}")]);
        command.args(["--auth-key", &format!("{},{}", s3::KEY, s3::SECRET)]).arg(&data);
    });
    daemon.ready(|| connect(port).is_ok());
    Some((format!("http://127.0.0.1:{port}"), Server::Rclone { _daemon: daemon, _directory: directory }))
}
