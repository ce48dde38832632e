//! Real servers of the replica types beside S3 and files.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::server::{Daemon, connect, directory, first_bytes, free_ports, http, program};
use super::{Line, PATIENCE, eventually};

/// What listens, and how it lets somebody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// fake-gcs-server, for which the Google client needs no credentials.
    Gs,
    /// `rclone serve s3` without credentials: it answers Alibaba's client too, but cannot check its signatures.
    Oss,
    /// `rclone serve sftp` with a password.
    SftpPassword,
    /// The same with a key; the line that can checks the server's.
    SftpKey,
    /// nats-server with `JetStream`, user and password.
    Nats,
    /// `rclone serve webdav` with user and password.
    Webdav,
}

pub(crate) const BUCKET: &str = "test";
pub(crate) const USER: &str = "litestream";
pub(crate) const PASSWORD: &str = "l8stream";

/// A server, which may be down; it ends with this value.
pub(crate) struct Store {
    kind: Kind,
    program: PathBuf,
    port: u16,
    daemon: Option<Daemon>,
    directory: TempDir,
}

impl Store {
    /// A server that is ready; None, with a word, where there is none to start.
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        let mut store = Self::down(kind)?;
        store.up();
        Some(store)
    }

    /// The place of a server that is not there yet.
    pub(crate) fn down(kind: Kind) -> Option<Self> {
        let program = program(match kind {
            Kind::Gs => "fake-gcs-server",
            Kind::Nats => "nats-server",
            Kind::Oss | Kind::SftpPassword | Kind::SftpKey | Kind::Webdav => "rclone",
        })?;
        let directory = directory("store");
        fs::create_dir_all(directory.path().join("data").join(BUCKET)).expect("a directory");
        let store = Self { kind, program, port: free_ports(), daemon: None, directory };
        if kind == Kind::SftpKey {
            store.make_keys();
        }
        Some(store)
    }

    /// The server comes, with what it had before, and is ready.
    pub(crate) fn up(&mut self) {
        let mut daemon = self.start_with(|command| self.options(command));
        daemon.ready(|| self.is_ready());
        self.daemon = Some(daemon);
    }

    /// Litestream's own keys for a replica here.
    pub(crate) fn keys(&self, line: Line) -> Vec<(&'static str, String)> {
        let address = format!("127.0.0.1:{}", self.port);
        let keys = |pairs: &[(&'static str, &str)]| pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        match self.kind {
            Kind::Gs => keys(&[("type", if line == Line::V03 { "gcs" } else { "gs" }), ("bucket", BUCKET), ("path", "a")]),
            Kind::Oss => keys(&[
                ("type", "oss"),
                ("bucket", BUCKET),
                ("path", "a"),
                ("endpoint", &format!("http://{address}")),
                ("region", "cn-hangzhou"),
                ("access-key-id", "id"),
                ("secret-access-key", "secret"),
            ]),
            Kind::SftpPassword => keys(&[("type", "sftp"), ("host", &address), ("user", USER), ("password", PASSWORD), ("path", "/a")]),
            Kind::SftpKey => {
                let key_path = self.key().display().to_string();
                let host_key = fs::read_to_string(self.public_key()).expect("rclone has made it");
                let all = [("type", "sftp"), ("host", &address), ("user", USER), ("key-path", &key_path), ("path", "/a")];
                let mut keys: Vec<_> = keys(&all);
                if line == Line::V05 {
                    keys.push(("host-key", host_key.trim().to_owned()));
                }
                keys
            }
            // There is no path: a bucket is for one database.
            Kind::Nats => {
                keys(&[("type", "nats"), ("url", &format!("nats://{address}/{BUCKET}")), ("username", USER), ("password", PASSWORD)])
            }
            Kind::Webdav => keys(&[
                ("type", "webdav"),
                ("webdav-url", &format!("http://{address}")),
                ("webdav-username", USER),
                ("webdav-password", PASSWORD),
                ("path", "/a"),
            ]),
        }
    }

    /// The same place as a URL.
    pub(crate) fn url(&self) -> String {
        let port = self.port;
        match self.kind {
            Kind::Gs => format!("gs://{BUCKET}/a"),
            Kind::Oss => format!("oss://{BUCKET}/a"),
            Kind::SftpPassword => format!("sftp://{USER}:{PASSWORD}@127.0.0.1:{port}/a"),
            Kind::SftpKey => format!("sftp://{USER}@127.0.0.1:{port}/a"),
            Kind::Nats => format!("nats://127.0.0.1:{port}/{BUCKET}"),
            Kind::Webdav => format!("webdav://{USER}:{PASSWORD}@127.0.0.1:{port}/a"),
        }
    }

    /// What the client needs in its environment.
    pub(crate) fn environment(&self) -> Option<(&'static str, String)> {
        (self.kind == Kind::Gs).then(|| ("STORAGE_EMULATOR_HOST", format!("127.0.0.1:{}", self.port)))
    }

    fn start_with(&self, options: impl FnOnce(&mut Command)) -> Daemon {
        Daemon::start(&self.program, self.directory.path(), options)
    }

    fn options(&self, command: &mut Command) {
        let address = format!("127.0.0.1:{}", self.port);
        match self.kind {
            Kind::Gs => {
                command.args(["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1"]).arg("-port").arg(self.port.to_string());
                command.args(["-public-host", &address, "-external-url", &format!("http://{address}")]);
            }
            Kind::Nats => {
                command.args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "--user", USER, "--pass", PASSWORD]);
                command.arg("-js").arg("-sd").arg(self.data());
            }
            Kind::Oss => self.rclone(command, "s3", &[]),
            Kind::Webdav | Kind::SftpPassword => {
                let protocol = if self.kind == Kind::Webdav { "webdav" } else { "sftp" };
                self.rclone(command, protocol, &["--user", USER, "--pass", PASSWORD]);
            }
            Kind::SftpKey => {
                let allowed = self.public_key().display().to_string();
                // Only this key, lest another be agreed on than the one that Litestream is told to expect.
                self.rclone(command, "sftp", &["--authorized-keys", &allowed, "--key", &self.key().display().to_string()]);
            }
        }
    }

    fn rclone(&self, command: &mut Command, protocol: &str, options: &[&str]) {
        command.args(["serve", protocol, "--config", "/dev/null", "--addr", &format!("127.0.0.1:{}", self.port)]);
        command.arg("--cache-dir").arg(self.cache()).args(options).arg(self.data());
    }

    fn is_ready(&self) -> bool {
        let code = |method, path, body| http(self.port, method, path, body);
        match self.kind {
            // It says 409 to a bucket that is there already.
            Kind::Gs => code("POST", "/storage/v1/b?project=test", &format!("{{\"name\": \"{BUCKET}\"}}")) == Some(200),
            Kind::Oss => code("GET", "/", "") == Some(200),
            Kind::Webdav => code("GET", "/", "") == Some(401),
            Kind::SftpPassword | Kind::SftpKey => first_bytes(self.port, "", 4).is_ok_and(|head| head == b"SSH-"),
            Kind::Nats => make_object_store(self.port).is_ok_and(|made| made),
        }
    }

    /// The server makes itself keys at its first start. One of them does for both sides: it is the server's, and
    /// it opens the server.
    fn make_keys(&self) {
        let mut once = self.start_with(|command| self.rclone(command, "sftp", &["--user", USER, "--pass", PASSWORD]));
        once.ready(|| self.is_ready());
        eventually("a key", PATIENCE, || fs::read_to_string(self.public_key()).ok());
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    fn key(&self) -> PathBuf {
        self.cache().join("serve-sftp/id_ed25519")
    }

    fn public_key(&self) -> PathBuf {
        self.key().with_extension("pub")
    }
}

/// Makes the object store that Litestream expects to be there, as `nats object add` does: a stream of that
/// name. Once more is no mistake.
fn make_object_store(port: u16) -> std::io::Result<bool> {
    let config = format!(
        r#"{{"name": "OBJ_{BUCKET}", "subjects": ["$O.{BUCKET}.C.>", "$O.{BUCKET}.M.>"], "retention": "limits", "storage": "file",
            "discard": "new", "allow_rollup_hdrs": true, "allow_direct": true, "num_replicas": 1, "max_consumers": -1,
            "max_msgs": -1, "max_bytes": -1, "max_age": 0, "max_msgs_per_subject": -1, "max_msg_size": -1}}"#
    );
    let mut stream = connect(port)?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    write!(stream, "CONNECT {{\"verbose\": false, \"pedantic\": false, \"user\": \"{USER}\", \"pass\": \"{PASSWORD}\"}}\r\n")?;
    write!(stream, "SUB answer 1\r\nPUB $JS.API.STREAM.CREATE.OBJ_{BUCKET} answer {}\r\n{config}\r\n", config.len())?;
    let answer = answers.find_map(|line| match line {
        Ok(line) => (line.starts_with('{') || line.starts_with("-ERR")).then_some(Ok(line)),
        Err(error) => Some(Err(error)),
    });
    Ok(answer.transpose()?.is_some_and(|answer| answer.contains("\"config\"")))
}
