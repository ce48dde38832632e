//! `__prepare`: makes every database fit for Litestream's start: restored, and pinned or emptied. Must
//! never let Litestream start on a WAL that may have a gap without saying so.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Channel, Message, Preparation, in_parallel, memory};
use crate::continuity::{self, Mark, Need, Pin};
use crate::exit::{self, Failure};
use crate::litestream::{Line, socket};
use crate::plan::{Database, Plan};
use crate::report;
use crate::restore::present::make_present;
use crate::restore::{self, Local, rollback};
use crate::settings::RestorePolicy;
use crate::{interrupt, progress, tenants, verify};

/// How long a live database's WAL is tried to be emptied before Litestream starts without proof.
const TRUNCATE_FOR: Duration = Duration::from_secs(5);
/// How often Litestream is asked whether it has its lock.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// At a boot restores, then pins or empties; under a live app only empties.
///
/// # Errors
/// Why the start is refused, a line per database.
pub fn run(plan: &Plan, channel: &Channel, preparation: Preparation) -> Result<(), Failure> {
    let repair = preparation == Preparation::Repair;
    let each = if repair {
        tenants::expand(plan.clone(), &[])
    } else {
        interrupt::watch();
        progress::leave_in(&plan.runtime);
        plan.databases.iter().for_each(|database| verify::sweep(&database.path));
        let restored = bring_back(plan);
        progress::finish();
        restored?
    };
    make_fit(&each, channel, repair);
    tenants::forget(&each);
    Ok(())
}

/// Restores what is missing; the plan with every database that is in its directories then.
fn bring_back(plan: &Plan) -> Result<Plan, Failure> {
    let mut each = tenants::expand(plan.clone(), &[]);
    if !plan.directories.is_empty() && plan.entry.restore != RestorePolicy::Never {
        // The lists first: they say what else is missing. One that never was is no backup that is required.
        let mut lists = each.clone();
        lists.databases.retain(|d| d.path.ends_with(tenants::LIST));
        lists.entry.restore = RestorePolicy::Auto;
        make_all_present(&lists)?;
        each = tenants::expand(plan.clone(), &tenants::lost(plan));
        each.databases.retain(|d| !d.path.ends_with(tenants::LIST));
    }
    make_all_present(&each)?;
    tenants::note(plan);
    let each = tenants::expand(plan.clone(), &[]);
    if plan.entry.migrate.is_some() && plan.entry.migrate_rollback {
        for Database { alias, path, .. } in &each.databases {
            rollback::save(path).map_err(|e| {
                Failure::new(exit::SYSTEM, format!("{alias}: no copy for LITESTREAM_ENTRY_MIGRATE_ROLLBACK: {e}; make room for it"))
            })?;
        }
    }
    Ok(each)
}

/// Pins or empties every WAL, and holds the pins until Litestream has its own.
fn make_fit(plan: &Plan, channel: &Channel, repair: bool) {
    if plan.litestream.line == Line::V03 {
        plan.databases.iter().for_each(continuity::begin);
        channel.say(&Message::Ready { held: false, unproven: false });
        return;
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
}

/// Brings back what is missing, all databases at once.
fn make_all_present(plan: &Plan) -> Result<(), Failure> {
    let outcomes = in_parallel(&plan.databases, plan.entry.restore_parallelism.unwrap_or_else(memory::restores_at_once), |database| {
        make_present(plan, database)
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

/// Pins or empties one WAL, and notes what is then known.
fn make_continuous(database: &Database, shows_lock: bool) -> Result<Option<Pin>, String> {
    let path = &database.path;
    let mut pin = None;
    // Until Litestream has a position of its own, the restored one counts.
    let mut mark = match Mark::read(path) {
        restored @ (Mark::Restored(_) | Mark::Rewound(_)) => restored,
        _ => Mark::Open,
    };
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
