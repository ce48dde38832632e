//! Litestream 0.5's control socket: HTTP over a UNIX socket. Must never be used by PID 1 (it blocks),
//! nor for `/sync` while an app may write (it drops Litestream's read lock).

use crate::json::Object;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// An answer to `POST /sync`.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Synced {
    /// `synced`, `no_change`, or `synced_local`, which proves nothing.
    pub status: String,
    /// The local position.
    pub txid: u64,
    /// The replica's position.
    pub replicated_txid: u64,
    /// Why not, where it failed.
    pub error: String,
}

impl Synced {
    /// Only this proves that the replica has everything.
    pub fn confirmed(&self) -> bool {
        (self.status == "synced" || self.status == "no_change") && self.txid == self.replicated_txid
    }
}

/// One database in `/debug/sync-status`.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct SyncStatus {
    /// The database.
    pub path: String,
    /// Whether a sync is under way.
    pub active: bool,
    /// Where the sync is, or was when it ended.
    pub phase: String,
    /// Why the last one failed.
    pub error: String,
}

impl SyncStatus {
    /// Whether Litestream holds its own read lock: a sync has come to its end (`db.go` of 0.5.12 and later).
    pub fn holds_lock(&self) -> bool {
        self.phase == "update_metrics" && !self.active && self.error.is_empty()
    }
}

#[derive(Deserialize)]
struct Statuses {
    databases: Vec<SyncStatus>,
}

/// Has everything of one database reached its replica? Blocks for `timeout` at most.
///
/// # Errors
/// A line that says why there is no answer.
pub fn sync(socket: &Path, database: &str, timeout: Duration) -> Result<Synced, String> {
    let seconds = timeout.as_secs().max(1);
    let body = Object::default().with("path", database).with("wait", true).with("timeout", seconds).to_string();
    let text = request(socket, "POST", "/sync", &body, timeout)?;
    parse(&text)
}

/// What every database's last sync came to.
///
/// # Errors
/// A line that says why there is no answer.
pub fn sync_status(socket: &Path, timeout: Duration) -> Result<Vec<SyncStatus>, String> {
    parse::<Statuses>(&request(socket, "GET", "/debug/sync-status", "", timeout)?).map(|s| s.databases)
}

/// Whether Litestream answers at all. What is asked for needs no lock of its, and a release that does not know it answers, too.
///
/// # Errors
/// A line that says why there is no answer.
pub fn answers(socket: &Path, timeout: Duration) -> Result<(), String> {
    request(socket, "GET", "/debug/sync-status", "", timeout).map(drop)
}

/// The same for who does not care what it says: `true` for any answer at all.
pub fn is_alive(socket: &Path, timeout: Duration) -> bool {
    request(socket, "GET", "/", "", timeout).is_ok()
}

/// Whether somebody has removed it, so that nobody can ask it any more. One that starts may not listen yet.
pub fn is_gone(socket: &Path, within: Duration) -> bool {
    let by = Instant::now() + within;
    while !socket.exists() {
        if Instant::now() >= by {
            return true;
        }
        std::thread::sleep(within / 20);
    }
    false
}

/// One database in `/list`.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Listed {
    /// The database.
    pub path: String,
    /// When all that Litestream had read was in the replica (`replica.go`: `RecordSuccessfulSync`, at the end of each `syncOnce`).
    pub last_sync_at: Option<String>,
}

#[derive(Deserialize)]
struct List {
    databases: Vec<Listed>,
}

/// Every database, and when its replica last had everything.
///
/// # Errors
/// A line that says why there is no answer: it has none while a database is opened.
pub fn list(socket: &Path, timeout: Duration) -> Result<Vec<Listed>, String> {
    parse::<List>(&request(socket, "GET", "/list", "", timeout)?).map(|l| l.databases)
}

/// JSON is YAML, so the parser that is here anyway serves.
fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    serde_yaml::from_str(text).map_err(|error| format!("litestream's answer is not understood: {error}"))
}

/// Why there is none to a question that had so long.
pub fn no_answer(error: &std::io::Error, within: Duration) -> String {
    match error.kind() {
        // That is how the kernel says that the time is over.
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("litestream has not answered within {} s", within.as_secs_f32()),
        _ => format!("litestream does not answer: {error}"),
    }
}

/// HTTP/1.0, so that Go's server neither chunks nor keeps the connection.
fn request(socket: &Path, method: &str, target: &str, body: &str, timeout: Duration) -> Result<String, String> {
    let deadline = Instant::now() + timeout;
    let left = || Some(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    let attempt = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(left())?;
        write!(stream, "{method} {target} HTTP/1.0\r\nHost: litestream\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        let (mut answer, mut part) = (Vec::new(), [0; 4096]);
        // An answer is a few hundred bytes a database. The kernel's time limit is for each part of it.
        while answer.len() < 1 << 20 {
            stream.set_read_timeout(left())?;
            match stream.read(&mut part)? {
                0 => break,
                n => answer.extend_from_slice(part.get(..n).unwrap_or_default()),
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = attempt().map_err(|error| no_answer(&error, timeout))?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or_else(|| "litestream closed the connection".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_positions_confirm_a_sync() {
        let answer = |text: &str| parse::<Synced>(text).unwrap();
        assert!(answer(r#"{"status":"no_change","path":"/d","txid":1,"replicated_txid":1}"#).confirmed());
        assert!(answer(r#"{"status":"synced","path":"/d","txid":7,"replicated_txid":7}"#).confirmed());
        assert!(!answer(r#"{"status":"synced","path":"/d","txid":7,"replicated_txid":6}"#).confirmed());
        assert!(!answer(r#"{"status":"synced_local","path":"/d","txid":7,"replicated_txid":7}"#).confirmed());
        assert!(!answer(r#"{"error":"database not found: /d"}"#).confirmed());
    }

    #[test]
    fn litestream_holds_its_lock_only_after_a_sync_that_ended_well() {
        let status = |text: &str| parse::<Statuses>(text).unwrap().databases.remove(0);
        assert!(status(r#"{"databases":[{"path":"/d","active":false,"phase":"update_metrics","txid":1}]}"#).holds_lock());
        assert!(!status(r#"{"databases":[{"path":"/d","active":false}]}"#).holds_lock());
        assert!(!status(r#"{"databases":[{"path":"/d","active":true,"phase":"update_metrics"}]}"#).holds_lock());
        assert!(!status(r#"{"databases":[{"path":"/d","active":false,"phase":"update_metrics","error":"busy"}]}"#).holds_lock());
    }
}
