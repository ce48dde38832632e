//! `health`: whether all is well, in one line and an exit code. Must never start a process, ask a replica, or wait long.

use std::time::{Duration, SystemTime};

use super::show::ago;
use super::verified::Verified;
use super::{Absent, Lag, Overview, Status};
use crate::state::{Phase, Replication, State};
use crate::time::period;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long something may be here that is not in the replica.
    pub lag: Duration,
    /// How old the last proof of a backup may be.
    pub verified_within: Option<Duration>,
}

/// All is well, or what is not.
///
/// # Errors
/// What is not well, in one line; `starting: …` while there is no app yet.
pub fn judge(overview: &Overview, limits: &Limits) -> Result<String, String> {
    let Some(state) = &overview.state else { return Err("no litestream-entry runs here as a container's entrypoint".to_owned()) };
    running(overview, state)?;
    let mut wrong: Vec<String> = replicating(state, overview.at).err().into_iter().collect();
    let standby = matches!(state.view.replication, Replication::Standby | Replication::Job);
    for status in &overview.databases {
        let lag = if standby || !wrong.is_empty() { Ok(()) } else { replicated(status, limits) };
        let checks = [lag, last_verify(status, overview.at), proved(status, state, limits, overview.at)];
        wrong.extend(checks.into_iter().filter_map(Result::err).map(|why| format!("{}: {why}", status.alias)));
    }
    if wrong.is_empty() { Ok(well(overview, state)) } else { Err(wrong.join("; ")) }
}

fn running(overview: &Overview, state: &State) -> Result<(), String> {
    match state.view.phase {
        Phase::Running => Ok(()),
        Phase::Starting => {
            let restoring = overview.restoring.as_deref().and_then(|text| text.lines().next());
            Err(format!("starting: {}", restoring.unwrap_or("the databases are looked at")))
        }
        Phase::Migrating => Err("starting: the migration runs".to_owned()),
        Phase::Stopping => Err("stopping".to_owned()),
    }
}

fn replicating(state: &State, now: SystemTime) -> Result<(), String> {
    let down = |what: &str| Err(format!("replication {what} for {}", ago(state.since, now)));
    match state.view.replication {
        Replication::Up | Replication::Standby | Replication::Job => Ok(()),
        Replication::Starting => down("has not started"),
        Replication::Down => down("has been down"),
        Replication::Off => down("has ended, and been off"),
    }
}

fn replicated(status: &Status, limits: &Limits) -> Result<(), String> {
    if let Some(why) = &status.owed {
        return Err(format!("a new snapshot is not there yet: {}", status.without_alias(why)));
    }
    match status.absent() {
        // What is not there lacks nothing.
        Some(Absent::NotYet) => Ok(()),
        Some(Absent::Deleted) => Err(format!("{} was deleted while it was replicated", status.path.display())),
        None => in_time(status, limits),
    }
}

fn in_time(status: &Status, limits: &Limits) -> Result<(), String> {
    match &status.lag {
        Lag::For(lag) if *lag > limits.lag => {
            let first = status.first_snapshot.map(|percent| format!(" (first snapshot: {percent} %)")).unwrap_or_default();
            Err(format!("what was written is not in the replica for {}{first}", period(*lag)))
        }
        Lag::For(_) => Ok(()),
        // A configuration of the user's own need not say; a Litestream that does not answer has no such excuse.
        Lag::Unknown(unknown) if unknown.by_configuration => Ok(()),
        Lag::Unknown(unknown) => Err(format!("how far the replica is behind is not known: {}", unknown.why)),
    }
}

fn last_verify(status: &Status, now: SystemTime) -> Result<(), String> {
    match &status.verified {
        Some(Verified { failed: Some(why), at, .. }) => {
            let why = why.strip_prefix(&format!("{}: NOT PROVED: ", status.alias)).unwrap_or(why);
            Err(format!("verify failed {} ago: {why}", ago(*at, now)))
        }
        _ => Ok(()),
    }
}

/// A boot that is younger than the limit has had no time for it.
fn proved(status: &Status, state: &State, limits: &Limits, now: SystemTime) -> Result<(), String> {
    let Some(limit) = limits.verified_within else { return Ok(()) };
    let last = status.verified.as_ref().and_then(|v| v.proved);
    let age = now.duration_since(last.unwrap_or(state.began)).unwrap_or_default();
    match last {
        _ if age <= limit => Ok(()),
        Some(at) => Err(format!("its backup was last proved {} ago", ago(at, now))),
        None => Err(format!("its backup has not been proved since the start {} ago", ago(state.began, now))),
    }
}

fn well(overview: &Overview, state: &State) -> String {
    let count = overview.databases.len();
    let databases = if count == 1 { "1 database".to_owned() } else { format!("{count} databases") };
    if state.view.replication == Replication::Job {
        return format!("ok: a job, which replicates nothing, {databases}");
    }
    if state.view.replication == Replication::Standby {
        return format!("ok: standing by for another replicator, {databases}");
    }
    let absent = |status: &&Status| status.absent() == Some(Absent::NotYet);
    let present = overview.databases.iter().filter(|s| !absent(s));
    let known = present.clone().filter_map(|s| if let Lag::For(lag) = &s.lag { Some(*lag) } else { None }).max();
    let lag = known.map_or_else(|| "unknown".to_owned(), period);
    let unproven = present.clone().filter(|s| !s.proven).count();
    let mut note = if unproven > 0 { format!(", {unproven} unproven") } else { String::new() };
    if present.count() > 0 {
        note = format!(", lag {lag}{note}");
    }
    if let Some(percent) = overview.databases.iter().filter_map(|s| s.first_snapshot).min() {
        note = format!("{note}, first snapshot: {percent} %");
    }
    let mut missing = overview.databases.iter().filter(absent);
    match (missing.next(), missing.count()) {
        (Some(first), 0) => note = format!("{note}, no database at {} yet", first.path.display()),
        (Some(first), more) => note = format!("{note}, no database at {} and {more} more yet", first.path.display()),
        (None, _) => {}
    }
    format!("ok: {databases}{note}")
}
