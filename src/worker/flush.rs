//! `__flush`: the last sync, confirmed. Must never call Litestream's sync while anything may still
//! write, and never take an exit code of 0.5's `replicate` for proof (it is 0 in a black hole).

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use super::hang::{self, Waiting};
use super::{Channel, full, pass};
use crate::continuity::{self, Need};
use crate::litestream::local;
use crate::litestream::{Ability, Format, call, socket, verdict};
use crate::mark::Mark;
use crate::parallel::in_parallel;
use crate::pin;
use crate::plan::{Database, Plan};
use crate::position;
use crate::protocol::Message;
use crate::protocol::last_sync::{LastSync, Sync};
use crate::report;
use crate::restore::rollback::Undone;
use crate::restore::snapshot;
use crate::restore::{self, Local, Source, present, rollback, standing};
use crate::sqlite::beside_app;
use crate::sqlite::wal;
use crate::state::State;
use crate::watched::Owed;
use crate::{resnapshot, rotation, runtime, watch};

/// Databases that are looked after at once: each may be a Litestream of its own.
const AT_ONCE: usize = 16;
/// How long a replica that is no folder has to answer what it has, after a sync that is confirmed.
const LOOK_FOR: Duration = Duration::from_secs(2);
/// How long a Litestream that starts may take to listen on its socket.
const LISTENS: Duration = Duration::from_millis(300);
/// Pause before asking again.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Makes it as PID 1 has `told`; what is not saved is told to PID 1.
pub(super) fn run(plan: &Plan, channel: &Channel, told: LastSync) {
    let deadline = Instant::now() + told.within;
    let databases: Vec<Database> = plan.databases.iter().filter(|d| has_content(&d.path)).cloned().collect();
    if told.sync == Sync::Rollback {
        rollback(plan, channel);
        return;
    }
    let (shared, by_socket) = (told.sync == Sync::Shared, told.sync == Sync::Socket && plan.socket.is_some());
    if plan.entry.migrate_rollback {
        // Where the boot ended before its migration, there is nothing to go back from.
        forget(plan);
    }
    if !shared {
        say_what_never_came(plan, channel);
    }
    let waiting = Waiting::default();
    if let Some(socket) = plan.socket.as_deref().filter(|_| by_socket) {
        if socket::is_gone(socket, LISTENS) {
            channel.say(&Message::Note(format!("{}: was taken away: making the last sync without litestream", socket.display())));
            channel.say(&Message::ByPass);
            return;
        }
        let litestream = State::read(&plan.runtime).map_or(0, |state| state.litestream);
        hang::watch(litestream, socket, &waiting, deadline, channel);
    }
    let older = rotation::older(plan);
    let older = older.as_ref().map(|older| &older.plan);
    // The older secret, which Litestream has, may be good still. There must be time for the newer one, too.
    let has_older_secret = by_socket && rotation::is_newer_than_litestream();
    let by = if has_older_secret { Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2 } else { deadline };
    // Each for itself, so that one whose replica is gone does not cost the others theirs; and said at once, should there be no time for the rest.
    let outcomes = in_parallel(&databases, AT_ONCE, |database| {
        let outcome = match (by_socket, shared) {
            (true, _) => by_running((plan, older), database, by, (channel, &waiting)),
            // Only Litestream had it open, whose last sync is confirmed.
            (false, true) if !pass::is_shared(&database.path) => Ok(()),
            _ => by_either(plan, older, database, deadline, channel).map_err(|why| full::replica_takes_nothing(database).unwrap_or(why)),
        };
        channel.say(&match &outcome {
            Ok(()) => Message::Saved(database.alias.clone()),
            Err(why) => Message::Unsaved(format!("{}: {why}", database.alias)),
        });
        outcome
    });
    if by_socket && databases.iter().any(|d| Owed::read(plan, &d.path).is_some() || full::keeps_from_syncing(plan, d).is_some()) {
        // What the running Litestream confirms is not so, or it cannot; after its end there is a way.
        channel.say(&Message::ByPass);
        return;
    }
    let is_denied = |outcome: &Result<(), String>| outcome.as_ref().is_err_and(|why| has_older_secret || verdict::is_denied(why));
    if by_socket && older.is_some() && outcomes.iter().any(is_denied) {
        let what = "a secret's file has changed, and litestream cannot make the last sync with the secret that it has: trying both";
        channel.say(&Message::Note(what.to_owned()));
        channel.say(&Message::ByPass);
        return;
    }
    for (database, outcome) in databases.iter().zip(&outcomes) {
        match outcome {
            // A snapshot that is owed still is.
            Ok(()) if matches!(Mark::read(&database.path), Mark::Rewound(_)) => {}
            // With Litestream's own files elsewhere: it has left no position here.
            Ok(()) if full::left_nothing(plan, &database.path) => {}
            // A gap that was not healed is still there; without one of ours there is no mark to set.
            Ok(()) if !matches!(Mark::read(&database.path), Mark::Unproven | Mark::None if plan.litestream.format() == Format::Ltx) => {
                let _ = Mark::clean(&database.path).write(&database.path);
            }
            // Litestream's own files may have the gap that this was to heal.
            Err(_) if shared => drop(Mark::Unproven.write(&database.path)),
            Ok(()) | Err(_) => {}
        }
    }
    if outcomes.len() < databases.len() {
        channel.say(&Message::Unsaved("a part of the last sync crashed".to_owned()));
    }
    channel.say(&Message::Flushed);
}

/// After a migration that failed: every database as it was before.
fn rollback(plan: &Plan, channel: &Channel) {
    for database in &plan.databases {
        match rollback::undo(&database.path, &plan.life, &plan.entry) {
            Ok(Undone::PutBack) => report::line(format_args!("{}: as it was before the migration", database.alias)),
            Ok(Undone::NoCopy) if has_content(&database.path) => {
                report::line(format_args!("{}: there was none before the migration: what it made stays", database.alias));
            }
            Ok(Undone::NoCopy) => {}
            Err(error) => {
                channel.say(&Message::Unsaved(format!("{}: not put back as it was before the migration: {error}", database.alias)));
            }
        }
    }
    channel.say(&Message::Flushed);
}

/// `__forget`: the migration has ended well. Whether every app may start: none of the copies can be put back any more.
pub(super) fn forget(plan: &Plan) -> bool {
    let forgotten = |database: &Database| {
        rollback::forget(&database.path, &plan.life)
            .map_err(|error| report::line(format_args!("{}: the copy from before the migration stays: {error}", database.alias)))
            .is_ok()
    };
    // Each of them, whatever became of the one before.
    plan.databases.iter().filter(|database| !forgotten(database)).count() == 0
}

/// A database that the app never made, or left without content, has nothing to lose.
pub(super) fn has_content(path: &Path) -> bool {
    !matches!(restore::look(path), Ok(Local::Missing | Local::Empty))
}

/// By the Litestream that runs, which must have the very file open, and a replica that still has what it put there: or else a snapshot
/// is owed.
fn by_running(
    (plan, older): (&Plan, Option<&Plan>),
    database: &Database,
    deadline: Instant,
    (channel, waiting): (&Channel, &Waiting),
) -> Result<(), String> {
    if let Some(why) = owed(plan, database) {
        Owed::note(plan, &database.path, &why);
        return Err(why);
    }
    if let Some(why) = full::keeps_from_syncing(plan, database) {
        return Err(why);
    }
    let socket = plan.socket.as_deref().unwrap_or(Path::new(""));
    waiting.during(|| by_socket(database, socket, deadline, older.is_some()))?;
    match looked_at(plan, older, database, deadline, channel) {
        Some(why) => {
            let why = format!("{}: {why}, though it was uploaded", database.alias);
            channel.say(&Message::Note(format!("{why}: a new snapshot is made")));
            Owed::note(plan, &database.path, &why);
            Err(why)
        }
        None => alone(plan, database, deadline),
    }
}

/// Whether the replica is this host's alone. Two that write to one upload under the same names, and what is there may be of both.
fn alone(plan: &Plan, database: &Database, deadline: Instant) -> Result<(), String> {
    if !is_single(plan, database) {
        return Ok(());
    }
    let left = deadline.saturating_duration_since(Instant::now());
    standing::foreign(plan, database, (left / 2).min(LOOK_FOR)).map_or(Ok(()), |what| {
        Err(format!(
            "another host writes to {} ({what}), and what is there may be of both: stop that one, or give it a replica of its own; \
             the next start says how to go on",
            database.replica
        ))
    })
}

/// Why the last sync has to begin with a snapshot, where it has to.
fn owed(plan: &Plan, database: &Database) -> Option<String> {
    let watched = if is_single(plan, database) {
        watch::is_another_file(plan, database).or_else(|| watch::has_left_out(plan, database))
    } else {
        None
    };
    watched.or_else(|| Owed::read(plan, &database.path).map(|owed| owed.why))
}

/// There may be thousands in a directory.
fn is_single(plan: &Plan, database: &Database) -> bool {
    !plan.directories.iter().any(|directory| database.path.starts_with(&directory.path))
}

/// What the replica was seen to lack; a line where it could not be looked at, which says nothing of what it has.
fn looked_at(plan: &Plan, older: Option<&Plan>, database: &Database, deadline: Instant, channel: &Channel) -> Option<String> {
    if !is_single(plan, database) || !watch::can_look(plan, database) {
        return None;
    }
    let look = |plan: &Plan| {
        let left = deadline.saturating_duration_since(Instant::now());
        watch::lacks_after_the_last_sync(plan, database, Instant::now() + (left / 2).min(LOOK_FOR))
    };
    match look(plan).or_else(|why| older.map_or(Err(why), look)) {
        Ok(lacks) => lacks,
        Err(why) => {
            let what = "the last sync is confirmed; whether the replica still has all before it could not be looked at";
            channel.say(&Message::Note(format!("{}: {what}: {why}", database.alias)));
            None
        }
    }
}

/// What a secret's file has now may not be good yet, and what it had before not any more: the one and the other, until one is not refused.
fn by_either(plan: &Plan, older: Option<&Plan>, database: &Database, deadline: Instant, channel: &Channel) -> Result<(), String> {
    let Some(older) = older else { return by_pass(plan, database, deadline, false, channel) };
    let mut why = None;
    while why.is_none() || Instant::now() < deadline {
        match by_pass(plan, database, deadline, true, channel) {
            Ok(()) => return Ok(()),
            Err(now) => drop(why.get_or_insert(now)),
        }
        if by_pass(older, database, deadline, true, channel).is_ok() {
            let what = "the last sync was made with what a secret's file had before it changed: what it has now is not taken";
            channel.say(&Message::Note(format!("{}: {what}: {}", database.alias, why.unwrap_or_default())));
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    Err(why.unwrap_or_default())
}

/// Without a Litestream that runs. What the replica is seen to lack afterwards gets one more, which begins with a snapshot.
fn by_pass(plan: &Plan, database: &Database, deadline: Instant, gives_up: bool, channel: &Channel) -> Result<(), String> {
    made_good(plan, database)?;
    let mut owed = owed(plan, database).is_some();
    for _ in 0..2 {
        let full = full::keeps_from_syncing(plan, database);
        if owed && full.is_none() {
            resnapshot::clear_the_way(plan, database)?;
        }
        match plan.litestream.format() {
            Format::Ltx if let Some(why) = &full => channel.say(&Message::Note(full::by_once(plan, database, deadline, why, owed)?)),
            Format::Ltx if !plan.litestream.can(Ability::Once) => by_replicate(plan, database, deadline)?,
            Format::Ltx if owed => snapshot::force(plan, database, deadline)?,
            Format::Ltx => by_once(plan, database, deadline, gives_up)?,
            Format::Generations if let Some(why) = &full => match full::by_pass(plan, database, (deadline, gives_up), why, owed) {
                Ok(made) => channel.say(&Message::Note(made)),
                // There may be room enough for the little that is new.
                Err(why) => pass::run(plan, database, None, deadline, gives_up).map_err(|_| why)?,
            },
            Format::Generations => {
                pass::run(plan, database, None, deadline, gives_up)?;
                pass::begin_anew_after_laps(plan, database, deadline);
            }
        }
        let Some(why) = looked_at(plan, None, database, deadline, channel) else {
            Owed::settle(plan, &database.path);
            // Of a full volume Litestream's position is not beside it.
            return if full.is_some() { Ok(()) } else { alone(plan, database, deadline) };
        };
        if owed {
            return Err(why);
        }
        owed = true;
    }
    Ok(())
}

/// The snapshot that is owed after a rollback, without which nothing that is uploaded could be restored.
fn made_good(plan: &Plan, database: &Database) -> Result<(), String> {
    if matches!(Mark::read(&database.path), Mark::Rewound(_)) {
        present::make_good(plan, database);
    }
    match Mark::read(&database.path) {
        Mark::Rewound(_) => Err("no new snapshot could be made; it is tried again at the next start".to_owned()),
        _ => Ok(()),
    }
}

/// At the end of an app that never made it, so that nobody takes it for backed up.
fn say_what_never_came(plan: &Plan, channel: &Channel) {
    let never = |d: &&Database| !has_content(&d.path) && local::own_position(&d.path, plan.litestream.format()).is_none();
    for database in plan.databases.iter().filter(never) {
        channel.say(&Message::Note(watch::no_database(database)));
    }
}

/// Asks the Litestream that runs, until both positions are the same, or where it `gives_up`, until it is refused.
fn by_socket(database: &Database, socket: &Path, deadline: Instant, gives_up: bool) -> Result<(), String> {
    let mut why = "no time was left".to_owned();
    while Instant::now() < deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        match socket::sync(socket, &database.path.to_string_lossy(), left) {
            Ok(answer) if answer.confirmed() => return Ok(()),
            Ok(answer) if answer.error.is_empty() => why = format!("the replica is at {} of {}", answer.replicated_txid, answer.txid),
            Ok(answer) if gives_up && verdict::is_denied(&answer.error) => return Err(answer.error),
            Ok(answer) => why = answer.error,
            // Refused in its first 40 ms: not listening yet.
            Err(error) => why = error,
        }
        std::thread::sleep(PAUSE);
    }
    Err(why)
}

/// 0.5 without a running Litestream: `replicate -once`, whose exit code has a meaning.
fn by_once(plan: &Plan, database: &Database, deadline: Instant, gives_up: bool) -> Result<(), String> {
    make_continuous(database, deadline)?;
    let _held = pin::for_a_pass(&database.path, deadline);
    let config = runtime::pass_config(plan, database, None)?;
    let mut args: Vec<OsString> = vec!["replicate".into()];
    args.extend(call::Config { path: config.path(), expand: false }.flags());
    args.push("-once".into());
    let (mut why, mut tried) = ("no time was left".to_owned(), false);
    while Instant::now() < deadline {
        match call::run(&plan.litestream, &args, deadline) {
            // Before `/sync` there was no other way to ask, and a release that may stop silently is not believed for its exit code.
            Ok(Some(output)) if output.ended.ok() && !plan.litestream.can(Ability::Sync) && !is_listed(plan, database, deadline) => {
                why = format!("{} does not list what litestream has read", database.replica);
            }
            Ok(Some(output)) if output.ended.ok() => return Ok(()),
            Ok(Some(output)) if gives_up && verdict::is_denied(&output.said) => return Err(output.reason()),
            Ok(Some(output)) => why = output.reason(),
            // What it said before is worth more.
            Ok(None) if !tried => "the replica does not answer in time".clone_into(&mut why),
            Ok(None) => {}
            Err(error) => why = error.to_string(),
        }
        tried = true;
        std::thread::sleep(PAUSE);
    }
    Err(why)
}

/// What the app wrote while Litestream looked away is in no file of its own: with an emptied WAL it begins with a snapshot.
fn make_continuous(database: &Database, deadline: Instant) -> Result<(), String> {
    match continuity::decide(continuity::survey(&database.path, true)) {
        Need::Truncate => beside_app::truncate(&database.path, deadline),
        Need::Nothing | Need::Pin => Ok(()),
    }
}

/// 0.5 before it had `-once`: it runs until its own files say that it has read everything, and the replica lists the last of them.
fn by_replicate(plan: &Plan, database: &Database, deadline: Instant) -> Result<(), String> {
    make_continuous(database, deadline)?;
    let config = runtime::pass_config(plan, database, None)?;
    let (mut running, stand_in) = pass::start(plan, database, config.path())?;
    while !is_there(plan, database, deadline) {
        if running.ended().is_some() || Instant::now() >= deadline {
            return Err(format!(
                "the replica does not have everything in time; litestream's last words: {}",
                call::reason(&running.said())
            ));
        }
        std::thread::sleep(PAUSE);
    }
    drop(stand_in);
    while running.ended().is_none() && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Whether Litestream has read the WAL as it is, and the replica lists that. Nobody but Litestream writes to it any more; its newest file
/// may also be one that it has fetched from the replica, which is of another WAL.
fn is_there(plan: &Plan, database: &Database, by: Instant) -> bool {
    let has_read = |read: &position::Read| match (wal::wal_end(&database.path), read.place) {
        (Some(wal), Some(place)) => wal.salts == place.salts && place.end >= wal.end,
        _ => false,
    };
    position::read(&database.path, Format::Ltx).is_some_and(|read| has_read(&read)) && is_listed(plan, database, by)
}

/// Whether the replica lists what Litestream has read. A position that is elsewhere is not ours to read.
pub(super) fn is_listed(plan: &Plan, database: &Database, by: Instant) -> bool {
    if database.has_own_meta {
        return true;
    }
    let Some(now) = position::read_patiently(&database.path, Format::Ltx) else { return false };
    let left = by.saturating_duration_since(Instant::now());
    Source::newest(plan, database).look(left).is_ok_and(|files| position::is_there(&now.position, None, &files))
}
