//! `__prepare`: makes every database fit for Litestream's start: restored, and pinned or emptied. Must
//! never let Litestream start on a WAL that may have a gap without saying so.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Channel, Message, in_parallel, memory};
use crate::continuity::{self, Mark, Need, Pin};
use crate::exit::{self, Failure};
use crate::litestream::{Line, call, socket};
use crate::plan::{Database, Plan};
use crate::report;
use crate::restore::{self, Decision, Fetched, Local, Source};
use crate::{runtime, settings};

/// How long each other place is asked.
const ELSEWHERE_FOR: Duration = Duration::from_secs(10);
/// How long a live database's WAL is tried to be emptied before Litestream starts without proof.
const TRUNCATE_FOR: Duration = Duration::from_secs(5);
/// How often Litestream is asked whether it has its lock.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// At a boot (`repair` false) restores, then pins or empties; under a live app only empties.
///
/// # Errors
/// Why the start is refused, a line per database.
pub fn run(plan: &Plan, channel: &Channel, repair: bool) -> Result<(), Failure> {
    if !repair {
        for directory in &plan.directories {
            report::line(format_args!(
                "{}: what is missing in {} is not restored at a start; `litestream-entry restore PATH` does it",
                directory.alias,
                directory.path.display()
            ));
        }
        make_present(plan)?;
    }
    if plan.litestream.line == Line::V03 {
        channel.say(&Message::Ready { held: false, unproven: false });
        return Ok(());
    }
    let shows_lock = plan.socket.is_some() && plan.litestream.version.has_sync_status() && !repair;
    let prepared = in_parallel(&plan.databases, plan.databases.len(), |database| make_continuous(database, shows_lock));
    let mut pins = Vec::new();
    let mut unproven = prepared.len() != plan.databases.len();
    for outcome in prepared {
        match outcome {
            Ok(pin) => pins.extend(pin),
            Err(why) => {
                unproven = true;
                report::line(why);
            }
        }
    }
    channel.say(&Message::Ready { held: !pins.is_empty(), unproven });
    if let Some(socket) = &plan.socket {
        hold_pins(pins, socket, plan, channel);
    }
    Ok(())
}

/// Brings back what is missing, all databases at once.
fn make_present(plan: &Plan) -> Result<(), Failure> {
    let outcomes = in_parallel(&plan.databases, plan.entry.restore_parallelism.unwrap_or_else(memory::restores_at_once), |database| {
        present(plan, database)
    });
    if outcomes.len() != plan.databases.len() {
        return Err(Failure::new(exit::INTERNAL, "a restore crashed; start again, or restore by hand with `litestream-entry restore`"));
    }
    let failures: Vec<Failure> = outcomes.into_iter().filter_map(Result::err).collect();
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(Failure::new(first.code, failures.iter().map(|f| f.message.as_str()).collect::<Vec<_>>().join("\n"))),
    }
}

fn present(plan: &Plan, database: &Database) -> Result<(), Failure> {
    let path = &database.path;
    let system = |error: std::io::Error| {
        Failure::new(
            exit::SYSTEM,
            format!("{}: {}: {error}; check that uid {} may use it", database.alias, path.display(), nix::unistd::geteuid()),
        )
    };
    let folder = restore::folder(path);
    restore::clear(&folder).map_err(system)?;
    let policy = plan.entry.restore;
    let decision = match restore::decide(restore::look(path).map_err(system)?, policy) {
        Decision::Fetch => fetch(plan, database, &folder)?,
        decision => decision,
    };
    match decision {
        Decision::Use | Decision::Fetch => Ok(()),
        Decision::StartEmpty => restore::move_companions_aside(path).map_err(system),
        Decision::Refuse => Err(Failure::new(
            exit::DAMAGED,
            format!(
                "{}: {} is not a SQLite database; move it away to have the backup restored, or correct the path",
                database.alias,
                path.display()
            ),
        )),
    }
}

fn fetch(plan: &Plan, database: &Database, folder: &Path) -> Result<Decision, Failure> {
    let started = Instant::now();
    let source = Source::newest(plan, database);
    let fetched = source.fetch(folder);
    let installed = match &fetched {
        Ok(Fetched::Database(restored)) => {
            let size = fs::metadata(restored).map(|m| m.len()).unwrap_or_default();
            restore::install(restored, &database.path, &plan.entry).map(|()| {
                report::line(format_args!(
                    "{}: restored {} from {} in {:.1} s",
                    database.alias,
                    report::human_size(size),
                    database.replica,
                    started.elapsed().as_secs_f32()
                ));
            })
        }
        _ => Ok(()),
    };
    let cleared = restore::clear(folder);
    let fetched = fetched.map_err(|failure| {
        let advice = match failure.code {
            exit::UNREACHABLE => "; correct the replica's settings, or start empty with LITESTREAM_ENTRY_RESTORE=never",
            _ => "",
        };
        Failure::new(failure.code, format!("{}: {}{advice}", database.alias, failure.message))
    })?;
    installed.and(cleared).map_err(|error| {
        Failure::new(exit::SYSTEM, format!("{}: {}: {error}; make it writable", database.alias, database.path.display()))
    })?;
    match fetched {
        Fetched::Database(_) => Ok(Decision::Use),
        Fetched::NoBackup if restore::without_backup(plan.entry.restore) == Decision::Refuse => Err(Failure::new(
            exit::NO_BACKUP,
            format!(
                "{}: {} has no backup, and LITESTREAM_ENTRY_RESTORE=required; set it to auto for the first boot",
                database.alias, database.replica
            ),
        )),
        Fetched::NoBackup => {
            if let Some(place) = elsewhere(plan, database, folder) {
                return Err(Failure::new(
                    exit::NO_BACKUP,
                    format!(
                        "{}: {} has no backup, but {place} has one: set LITESTREAM_REPLICA_URL{}={place} to go on with it, or start empty with LITESTREAM_ENTRY_RESTORE=never",
                        database.alias,
                        database.replica,
                        if plan.databases.len() > 1 { settings::suffix(&database.alias) } else { String::new() }
                    ),
                ));
            }
            report::line(format_args!("{}: first boot: {} has no backup yet", database.alias, database.replica));
            Ok(Decision::StartEmpty)
        }
    }
}

/// Where else in the bucket there is a backup of it, before an empty database takes its place: who comes from a
/// `litestream.yml` may have had another path in it. Only at a first boot, and only where we chose the path.
fn elsewhere(plan: &Plan, database: &Database, folder: &Path) -> Option<String> {
    let document = runtime::document(plan).ok().filter(|_| !plan.users_file)?;
    let number = plan.databases.iter().position(|d| d.path == database.path)?;
    let file = plan.runtime.join(format!("elsewhere-{number}.yml"));
    let found = database.elsewhere.iter().find(|place| {
        let written = runtime::write(&file, &document.with_replica_path(&database.path, place).text());
        let config = call::Config { path: &file, expand: false };
        let source = Source { config, timeout: ELSEWHERE_FOR.min(plan.entry.restore_timeout), ..Source::newest(plan, database) };
        written.is_ok() && matches!(source.fetch(folder), Ok(Fetched::Database(_)))
    });
    let _ = (fs::remove_file(&file), restore::clear(folder));
    let (bucket, _) = database.replica.split_once("://").and_then(|(_, rest)| rest.split_once('/'))?;
    let scheme = database.replica.split("://").next().unwrap_or_default();
    found.map(|place| format!("{scheme}://{bucket}/{place}"))
}

/// Pins or empties one WAL, and notes what is then known.
fn make_continuous(database: &Database, shows_lock: bool) -> Result<Option<Pin>, String> {
    let path = &database.path;
    let mut pin = None;
    let mut mark = Mark::Open;
    let mut failed = None;
    // Only a database is looked at: what does not exist yet has no past.
    if matches!(restore::look(path), Ok(Local::Sqlite)) {
        let facts = continuity::survey(path, shows_lock);
        match continuity::decide(facts) {
            Need::Nothing => {}
            Need::Pin => match continuity::pin(path) {
                Ok(held) => pin = Some(held),
                Err(error) => failed = Some(error.to_string()),
            },
            Need::Truncate => failed = continuity::truncate(path, Instant::now() + TRUNCATE_FOR).err(),
        }
        report::debug(format_args!("{}: {facts:?}: {:?}", database.alias, continuity::decide(facts)));
    }
    if failed.is_some() {
        mark = Mark::Unproven;
    }
    if let Err(error) = mark.write(path) {
        failed = Some(format!("{}: {error}", continuity::mark_path(path).display()));
    }
    match failed {
        None => Ok(pin),
        Some(why) => Err(format!("{}: its backup is unproven: {why}; it will be made whole at the next chance", database.alias)),
    }
}

/// Holds each pin until Litestream shows that it has its own lock, or until its WAL is too large.
fn hold_pins(mut pins: Vec<Pin>, socket: &Path, plan: &Plan, channel: &Channel) {
    let mut too_large: Vec<std::path::PathBuf> = Vec::new();
    while !(pins.is_empty() && too_large.is_empty()) {
        std::thread::sleep(ASK_EVERY);
        let before = pins.len();
        let statuses = socket::sync_status(socket, Duration::from_secs(2)).unwrap_or_default();
        let locked = |path: &Path| statuses.iter().any(|s| Path::new(&s.path) == path && s.holds_lock());
        pins.retain(|pin| {
            if locked(&pin.database) {
                return false;
            }
            let limit = continuity::wal_limit(&pin.database, plan.entry.max_wal);
            let grown = continuity::wal_size(&pin.database) > limit;
            if grown {
                report::line(format_args!(
                    "{}: its WAL has passed {}: no longer held back, its backup is unproven",
                    pin.database.display(),
                    report::human_size(limit)
                ));
                let _ = Mark::Unproven.write(&pin.database);
                too_large.push(pin.database.clone());
            }
            !grown
        });
        if pins.len() < before {
            channel.say(&Message::Released);
        }
        if pins.is_empty() && !too_large.is_empty() && too_large.iter().all(|path| locked(path)) {
            // The replica answers again: only now is a full snapshot to be had.
            channel.say(&Message::Reopen);
            return;
        }
    }
}
