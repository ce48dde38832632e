//! `status`: how each database and its backup stand, measured now. Must never change anything, nor believe that what
//! Litestream has read has reached the replica.

pub mod health;
mod lag;
pub mod metrics;
mod replicated;
pub mod show;
pub mod silent;
mod upload;
pub mod verified;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use crate::litestream::backup::{self, Depth, Position};
use crate::litestream::silence::Silence;
use crate::litestream::{Format, Line};
use crate::lock;
use crate::mark::Mark;
use crate::parallel::in_parallel;
use crate::plan::{Database, Plan};
use crate::restore::Source;
use crate::settings::LockPolicy;
use crate::sqlite::wal;
use crate::state::State;
use crate::watched::Owed;
use crate::{files, interrupt, position, runtime, tenants};
pub use lag::{Lag, Unknown, note};
use replicated::{Own, Replicated};
pub use replicated::{Uploaded, uploaded};
pub use upload::written_by;
use verified::Verified;

/// Everything that is told.
#[derive(Debug)]
pub struct Overview {
    /// What PID 1 has left; none where none runs here.
    pub state: Option<State>,
    /// How far a restore is.
    pub restoring: Option<String>,
    /// Litestream's version.
    pub litestream: String,
    /// Which line that is.
    pub line: Line,
    /// Each database.
    pub databases: Vec<Status>,
    /// When all of this was looked at.
    pub at: SystemTime,
}

/// One database.
#[derive(Debug)]
pub struct Status {
    /// Its short name.
    pub alias: String,
    /// Its file.
    pub path: PathBuf,
    /// Type and place of its replica, without secrets.
    pub replica: String,
    /// Bytes of the file; none where there is none.
    pub size: Option<u64>,
    /// Bytes of its WAL.
    pub wal: u64,
    /// How far Litestream has read it.
    pub here: Option<Position>,
    /// How far the replica has it.
    pub there: Option<Position>,
    /// How many transactions (0.5) or bytes of the WAL (0.3) are here and not there.
    pub behind: Option<u64>,
    /// For how long something has been here that is not there.
    pub lag: Lag,
    /// When the replica last had everything that had been read.
    pub synced: Option<SystemTime>,
    /// Why the replica did not answer, where it was asked.
    pub unreachable: Option<String>,
    /// What the last check of its backup came to.
    pub verified: Option<Verified>,
    /// No gap is possible in its backup.
    pub proven: bool,
    /// Why its backup needs a new snapshot, which is not there yet.
    pub owed: Option<String>,
    /// How far the whole database is uploaded with which 0.5 goes on after a restore, in percent: nothing new is in the replica before.
    pub first_snapshot: Option<u8>,
    /// The replica was asked, and has nothing.
    pub is_empty: bool,
    /// Who replicates it.
    pub lock: &'static str,
}

/// Why there is no database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// The app has not made it yet.
    NotYet,
    /// It was there, and was deleted.
    Deleted,
}

impl Status {
    /// A line about it, where its name is said already.
    pub fn without_alias<'a>(&self, text: &'a str) -> &'a str {
        text.strip_prefix(self.alias.as_str()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text)
    }

    /// Whether there is none, and why.
    pub fn absent(&self) -> Option<Absent> {
        let missing = self.size.is_none_or(|bytes| bytes == 0);
        // What Litestream has read was there.
        missing.then_some(if self.here.is_some() { Absent::Deleted } else { Absent::NotYet })
    }
}

/// How long a replica may take to say what it has, and all databases' in one place together where it says nothing.
const LIST_FOR: Duration = Duration::from_secs(5);
/// So many replicas are asked at once.
const AT_ONCE: usize = 8;

/// Looks. `asks` is whether each replica is asked what it has, by a Litestream of its own.
pub fn gather(plan: &Plan, asks: bool) -> Overview {
    let state = State::read(&plan.runtime).filter(|_| crate::runtime::is_held(&plan.runtime));
    let restoring = files::read_to_string(&plan.runtime.join(runtime::PROGRESS_FILE)).ok();
    let mut replicated = replicated::ask(plan, state.as_ref());
    let silence = Silence::default();
    let asked = if asks { in_parallel(&plan.databases, AT_ONCE, |database| ask(plan, database, &silence)) } else { Vec::new() };
    if let Replicated::Synced(synced) = &mut replicated {
        let told = plan.databases.iter().zip(&asked).filter_map(|(d, asked)| Some((d.path.clone(), asked.as_ref().ok()?.synced?)));
        synced.extend(told);
    }
    let mut asked = asked.into_iter();
    let databases = plan.databases.iter().map(|database| {
        let mut status = look(plan, database, state.as_ref(), &replicated);
        match asked.next() {
            // 0.3 lists where its files begin; its metrics tell where the last one ends.
            Some(Ok(Listed { newest: None, is_empty, .. })) => {
                status.is_empty = is_empty;
                status.proven &= !is_empty;
                status.there = status.there.take().filter(|_| !is_empty && plan.litestream.format() == Format::Generations);
            }
            Some(Ok(Listed { newest, .. })) if plan.litestream.format() == Format::Ltx || status.there.is_none() => status.there = newest,
            Some(Err(why)) => status.unreachable = Some(why),
            Some(Ok(_)) | None => {}
        }
        status
    });
    let databases = databases.collect();
    Overview {
        restoring: restoring.map(|text| text.trim().to_owned()).filter(|_| state.is_some()),
        state,
        litestream: plan.litestream.version.to_string(),
        line: plan.litestream.line,
        databases,
        at: SystemTime::now(),
    }
}

/// Looks without asking any replica, at what is in directories now, too.
pub fn current(plan: &Plan) -> Overview {
    let starting = State::read(&plan.runtime).is_none_or(|state| state.view.phase == crate::state::Phase::Starting);
    // While lost ones are restored, what is there already is not all.
    if plan.directories.is_empty() || starting { gather(plan, false) } else { gather(&tenants::members(plan.clone()), false) }
}

struct Listed {
    newest: Option<Position>,
    is_empty: bool,
    /// The moment of which it has everything, where nothing else tells.
    synced: Option<SystemTime>,
}

/// Asks a replica, but not where another database's has just not answered: with many, that would keep us for minutes.
fn ask(plan: &Plan, database: &Database, silence: &Silence) -> Result<Listed, String> {
    silence.of(&database.replica).map_or(Ok(()), Err)?;
    let by = Instant::now() + LIST_FOR;
    newest_there(plan, database, by).inspect_err(|_| {
        if Instant::now() >= by {
            silence.note(&database.replica);
        }
    })
}

fn newest_there(plan: &Plan, database: &Database, by: Instant) -> Result<Listed, String> {
    let left = || by.saturating_duration_since(Instant::now());
    // Not one more once we are asked to end: with many, a replica that hangs would keep us for minutes.
    interrupt::check().map_err(|interrupted| interrupted.message)?;
    let source = Source::newest(plan, database);
    let own = replicated::tells_nothing(plan).then(|| Own::now(&database.path));
    let files = source.list(Depth::Newest, left())?;
    let (newest, synced) = (backup::newest(&files), own.and_then(|own| own.synced_in(&files)));
    // 0.5's snapshots are on another level.
    let is_empty = newest.is_none() && (plan.litestream.format() == Format::Generations || source.list(Depth::All, left())?.is_empty());
    Ok(Listed { newest, is_empty, synced })
}

fn look(plan: &Plan, database: &Database, state: Option<&State>, replicated: &Replicated) -> Status {
    let path = &database.path;
    let since = state.map_or(SystemTime::UNIX_EPOCH, |state| state.since);
    let read = position::read(path, plan.litestream.format());
    let found = lag::look(plan, path, read.as_ref(), since, replicated);
    let owed = Owed::read(plan, path).map(|owed| owed.why);
    let size = fs::metadata(path).ok().map(|m| m.len());
    let uploads = state.filter(|_| plan.litestream.format() == Format::Ltx && matches!(replicated, Replicated::Synced(_)));
    Status {
        alias: database.alias.clone(),
        path: path.clone(),
        replica: database.replica.clone(),
        size,
        wal: wal::wal_size(path),
        here: read.map(|read| read.position),
        there: found.there,
        behind: found.behind,
        lag: found.lag,
        synced: found.synced,
        unreachable: None,
        verified: Verified::read(plan, path),
        proven: Mark::read(path) != Mark::Unproven && owed.is_none() && size.is_some_and(|bytes| bytes > 0),
        owed,
        first_snapshot: uploads.and_then(|state| upload::first_snapshot(path, state.litestream, found.synced)),
        is_empty: false,
        lock: match (plan.entry.lock, state.map(|s| s.view.replication)) {
            (LockPolicy::Off, _) => "off",
            (_, Some(crate::state::Replication::Standby)) => "standby",
            (_, Some(crate::state::Replication::Job)) => "job",
            (_, Some(_)) => "held",
            (_, None) if lock::is_held(path) => "elsewhere",
            (_, None) => "free",
        },
    }
}
