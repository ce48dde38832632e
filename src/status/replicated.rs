//! What the running Litestream says of its replicas: by its socket (0.5) or its metrics (0.3). Must never start one, nor wait long. The first
//! releases of 0.5 say nothing: a replica that is a folder is looked into, another is listed by who may start a Litestream.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::Unknown;
use crate::identity;
use crate::litestream::backup::{self, Depth, File, Position};
use crate::litestream::folder::Folder;
use crate::litestream::local;
use crate::litestream::{Ability, Format, socket};
use crate::plan::{Database, Plan};
use crate::restore::Source;
use crate::runtime;
use crate::state::State;

/// How long it may take to answer.
const ANSWER: Duration = Duration::from_millis(500);
/// An answer is not longer.
const LONGEST: u64 = 4 << 20;

/// By database.
#[derive(Debug)]
pub(super) enum Replicated {
    /// 0.5: when all that had been read until then was in the replica; databases of which it did not say have no entry.
    Synced(HashMap<PathBuf, SystemTime>),
    /// 0.3: the number of the WAL and the bytes of it that are in the replica.
    Placed(HashMap<PathBuf, (u64, u64)>),
    /// Why nothing is known.
    Unknown(Unknown),
}

/// How far the replica of one database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// 0.5: when all that had been read until then was there.
    Synced(SystemTime),
    /// 0.3: the number of the WAL and the bytes of it that are there.
    Placed(u64, u64),
}

/// How far the replicas are, of those of which it is known.
pub fn uploaded(plan: &Plan, state: Option<&State>) -> HashMap<PathBuf, Uploaded> {
    match ask(plan, state) {
        // What the replica itself says is no measure of what it lost.
        _ if tells_nothing(plan) => HashMap::new(),
        Replicated::Synced(synced) => synced.into_iter().map(|(path, at)| (path, Uploaded::Synced(at))).collect(),
        Replicated::Placed(places) => places.into_iter().map(|(path, (index, offset))| (path, Uploaded::Placed(index, offset))).collect(),
        Replicated::Unknown(_) => HashMap::new(),
    }
}

pub(super) fn ask(plan: &Plan, state: Option<&State>) -> Replicated {
    let Some(state) = state else { return Replicated::Unknown("no litestream-entry runs here".into()) };
    if state.litestream == 0 {
        return Replicated::Unknown("no litestream runs here".into());
    }
    let answer = match (plan.litestream.format(), &plan.socket) {
        (Format::Ltx, Some(path)) => {
            // It has no answer while any database waits for its replica: then what it said last holds.
            let listed = socket::list(path, ANSWER).unwrap_or_default();
            let synced = listed.into_iter().filter_map(|d| Some((d.path.into(), crate::time::parse(&d.last_sync_at?)?)));
            Ok(Replicated::Synced(synced.collect()))
        }
        (Format::Ltx, None) if tells_nothing(plan) => Ok(Replicated::Synced(of_folders(plan))),
        (Format::Ltx, None) => Err(Unknown::by_configuration("its configuration has no socket")),
        (Format::Generations, _) => metrics(plan, state.litestream).map(|text| Replicated::Placed(places(&text))),
    };
    answer.unwrap_or_else(Replicated::Unknown)
}

/// The running Litestream says nothing of its replicas: the first releases of 0.5.
pub(super) fn tells_nothing(plan: &Plan) -> bool {
    plan.litestream.format() == Format::Ltx && !plan.litestream.can(Ability::Socket)
}

/// What the replicas that are folders have, as a moment.
fn of_folders(plan: &Plan) -> HashMap<PathBuf, SystemTime> {
    let look = |database: &Database| {
        let folder = Folder::of(&database.replica)?;
        let own = Own::now(&database.path);
        Some((database.path.clone(), own.synced_in(&folder.newest(Format::Ltx).ok()?)?))
    };
    plan.databases.iter().filter_map(look).collect()
}

/// The same of another replica, by a Litestream that lists it.
pub(super) fn list(plan: &Plan, database: &Database, within: Duration) -> Option<SystemTime> {
    let own = Own::now(&database.path);
    own.synced_in(&Source::newest(plan, database).list(Depth::Newest, within).ok()?)
}

/// 0.5's own files beside a database, looked at before its replica is.
#[derive(Debug)]
pub(super) struct Own {
    files: Vec<(u64, SystemTime)>,
    at: SystemTime,
}

impl Own {
    pub(super) fn now(database: &Path) -> Self {
        Self { files: local::ltx_files(database).collect(), at: SystemTime::now() }
    }

    /// The moment of which a replica that then lists these has everything that Litestream had read: that of this look, where it has all
    /// files, else that of the newest that it has.
    pub(super) fn synced_in(&self, there: &[File]) -> Option<SystemTime> {
        let Some(Position::Txid(there)) = backup::newest(there) else { return None };
        if self.files.iter().all(|(txid, _)| *txid <= there) {
            return Some(self.at);
        }
        self.files.iter().filter(|(txid, _)| *txid <= there).map(|(_, made)| *made).max()
    }
}

fn metrics(plan: &Plan, pid: i32) -> Result<String, Unknown> {
    // Root that may neither read it nor become who may cannot know; what PID 1 says of the replication it can.
    let unseen = |why| if identity::may_read_all() { Unknown::from(why) } else { Unknown::by_configuration(why) };
    let document = runtime::document(plan).map_err(unseen)?;
    let configured = document.address().ok_or_else(|| Unknown::by_configuration("its configuration has no `addr` for metrics"))?;
    let mut address = reachable(configured)
        .ok_or_else(|| Unknown::by_configuration(format!("its configuration's `addr` {configured} is no address with a port")))?;
    if address.port() == 0 {
        address.set_port(listening(pid).ok_or("litestream does not listen for metrics yet")?);
    }
    get(address).map_err(|error| socket::no_answer(&error, ANSWER).into())
}

/// Where one that listens at `configured` is reached from here.
fn reachable(configured: &str) -> Option<SocketAddr> {
    let (host, port) = configured.rsplit_once(':')?;
    let local = IpAddr::from([127, 0, 0, 1]);
    let ip = match host {
        "" | "localhost" => local,
        host => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    Some(SocketAddr::new(if ip.is_unspecified() { local } else { ip }, port.parse().ok()?))
}

fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The port that a process listens on where it let the kernel choose (proc(5): `net/tcp`, state 0A, the inode in the tenth
/// column). Go takes an address for all of IPv6's when it is for all.
fn listening(pid: i32) -> Option<u16> {
    // Root without CAP_SYS_PTRACE, as in a container, may not look into another user's process, and that user may.
    let process = format!("/proc/{pid}");
    let sockets = identity::as_owner_of(Path::new(&process), || sockets(pid)).unwrap_or_else(|_| sockets(pid))?;
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    tables.concat().lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ours = *words.get(3)? == "0A" && sockets.iter().any(|inode| Some(&inode.as_str()) == words.get(9));
        if ours { u16::from_str_radix(words.get(1)?.rsplit_once(':')?.1, 16).ok() } else { None }
    })
}

/// The inodes of a process's sockets.
fn sockets(pid: i32) -> Option<Vec<String>> {
    let inode = |entry: std::io::Result<fs::DirEntry>| {
        let target = fs::read_link(entry.ok()?.path()).ok()?;
        Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(inode).collect())
}

/// `litestream_replica_wal_index{db="/data/app.db",name="file"} 3`, and the same of `_offset`. With several replicas, the one
/// that is least far.
fn places(text: &str) -> HashMap<PathBuf, (u64, u64)> {
    let series = |name: &str| -> HashMap<(String, String), u64> { text.lines().filter_map(|line| sample(line, name)).collect() };
    let offsets = series("litestream_replica_wal_offset");
    let mut places = HashMap::new();
    for (key, index) in series("litestream_replica_wal_index") {
        let place = (index, offsets.get(&key).copied().unwrap_or_default());
        let least = places.entry(PathBuf::from(key.0)).or_insert(place);
        *least = place.min(*least);
    }
    places
}

fn sample(line: &str, name: &str) -> Option<((String, String), u64)> {
    let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
    let label = |name: &str| {
        let (_, rest) = labels.split_once(&format!("{name}=\""))?;
        let mut value = String::new();
        let mut chars = rest.chars();
        while let Some(c) = chars.next().filter(|c| *c != '"') {
            value.push(if c == '\\' { chars.next()? } else { c });
        }
        Some(value)
    };
    // Go writes large numbers as 1.2345e+06.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bytes")]
    let value = value.trim().parse::<f64>().ok()? as u64;
    Some(((label("db")?, label("name").unwrap_or_default()), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn litestream_is_asked_where_it_listens() {
        for (configured, at) in [
            (":9090", "127.0.0.1:9090"),
            ("localhost:9090", "127.0.0.1:9090"),
            ("0.0.0.0:0", "127.0.0.1:0"),
            ("[::]:9090", "127.0.0.1:9090"),
            ("[::1]:9090", "[::1]:9090"),
            ("10.1.2.3:9090", "10.1.2.3:9090"),
        ] {
            assert_eq!(reachable(configured), at.parse().ok(), "{configured}");
        }
        for odd in ["", "9090", ":http", "metrics.internal:9090", "x:y:z"] {
            assert_eq!(reachable(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_replica_that_lists_all_of_our_files_has_everything_and_another_what_its_newest_has() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let own = Own { files: vec![(5, at(10)), (6, at(20))], at: at(99) };
        let there = |txid| [File { position: Position::Txid(txid), snapshot: false, bytes: 1, created: String::new() }];
        assert_eq!(own.synced_in(&there(6)), Some(at(99)));
        assert_eq!(own.synced_in(&there(5)), Some(at(10)));
        assert_eq!(own.synced_in(&there(4)), None);
        assert_eq!(own.synced_in(&[]), None, "nothing is there");
    }

    #[test]
    fn a_replica_is_where_the_metrics_say() {
        let text = "# HELP x\nlitestream_replica_wal_index{db=\"/d/a\\\"b.db\",name=\"file\"} 2\n\
                    litestream_replica_wal_offset{db=\"/d/a\\\"b.db\",name=\"file\"} 1.81312e+05\n\
                    litestream_replica_wal_index{db=\"/d/a\\\"b.db\",name=\"s3\"} 1\n\
                    litestream_replica_wal_offset{db=\"/d/a\\\"b.db\",name=\"s3\"} 32\n";
        assert_eq!(places(text), HashMap::from([(PathBuf::from("/d/a\"b.db"), (1, 32))]));
        assert!(places("litestream_replica_wal_index{db=\"/d\nnonsense").is_empty());
    }
}
