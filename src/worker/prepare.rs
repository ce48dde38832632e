//! `__prepare`: makes every database fit for Litestream's start: restored, and pinned or emptied. Must
//! never let Litestream start on a WAL that may have a gap without saying so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::pins::Looks;
use super::{Channel, flush, memory, pins, probe};
use crate::continuity::{self, Need};
use crate::exit::{self, Failure};
use crate::habits::{Habit, Look};
use crate::litestream::backup::Position;
use crate::litestream::local;
use crate::litestream::{Ability, Format};
use crate::lock::Locks;
use crate::mark::{Mark, mark_path};
use crate::parallel::in_parallel;
use crate::pin::{self, Pin};
use crate::plan::{Database, Plan};
use crate::protocol::{Message, Preparation};
use crate::report;
use crate::restore::present::{self, Known};
use crate::restore::snapshot;
use crate::restore::{self, Local, rollback, standing};
use crate::settings::{RestorePolicy, StalePolicy};
use crate::sqlite::beside_app;
use crate::sqlite::wal;
use crate::watched::Owed;
use crate::{interrupt, pattern, progress, resnapshot, tenants, verify};

/// How long a live database's WAL is tried to be emptied before Litestream starts without proof.
const TRUNCATE_FOR: Duration = Duration::from_secs(5);
/// How often it is looked for what is waited for.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// How often a replica that has not answered is asked again, and how long it then has: one that is large or far away may need more
/// than an app that waits for its start would like.
const ASK_AGAIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

/// Decides about the databases, and makes them fit for Litestream, as far as this preparation does.
///
/// # Errors
/// Why the start is refused, a line per database.
pub fn run(plan: &Plan, channel: &Channel, preparation: Preparation) -> Result<(), Failure> {
    match preparation {
        Preparation::Boot => return boot(plan, channel),
        Preparation::Job => return job(plan, channel),
        _ => {}
    }
    let each = tenants::expand(plan.clone(), &[]);
    let decided = match preparation {
        Preparation::Boot | Preparation::Job | Preparation::Repair => Ok(()),
        Preparation::TakeOver => until_decided(&each, each.databases.clone())
            .and_then(|()| about_copies(&each, |path| rollback::settle(path, &plan.entry, false))),
        // What is not there, or has no content, has nothing to lose.
        Preparation::Ending => until_decided(&each, each.databases.iter().filter(|d| flush::has_content(&d.path)).cloned().collect()),
        // Nothing is uploaded: a replica that does not answer keeps nobody from working.
        Preparation::Beside => all(&each, &each.databases, |plan, database| present::judge(plan, database, standing::ASK_FOR)).map(drop),
    };
    let done = decided.map(|()| match preparation {
        Preparation::Beside | Preparation::Ending => channel.say(&Message::Ready { held: false, unproven: false }),
        Preparation::Boot | Preparation::Job | Preparation::Repair | Preparation::TakeOver => make_fit(&each, channel),
    });
    tenants::forget(&each);
    done
}

fn boot(plan: &Plan, channel: &Channel) -> Result<(), Failure> {
    interrupt::watch();
    progress::leave_in(&plan.runtime);
    plan.databases.iter().for_each(|database| verify::sweep(&database.path));
    let brought = bring_back(plan);
    progress::finish();
    if brought.is_err() && interrupt::check().is_err() {
        say_what_is_not_saved(plan, channel);
    }
    let (each, undecided) = brought?;
    let done = if undecided.is_empty() {
        each.databases.iter().for_each(|database| present::make_good(&each, database));
        pin_and_hold(&each, channel);
        Ok(())
    } else {
        // A configuration that Litestream refuses must not look like a replica that does not answer.
        probe::run(&each).and_then(|()| wait_and_hold(&each, undecided, channel))
    };
    tenants::forget(&each);
    done
}

/// Restores copies of what is missing, and leaves alone what is here. The lock is held meanwhile, so that no boot restores the same beside
/// it; where another process has it, that one sees to the databases, and they are waited for.
fn job(plan: &Plan, channel: &Channel) -> Result<(), Failure> {
    interrupt::watch();
    progress::leave_in(&plan.runtime);
    let deadline = Instant::now() + plan.entry.restore_timeout;
    let is_here = |database: &Database| matches!(restore::look(&database.path), Ok(Local::Sqlite));
    let locks = loop {
        match Locks::take(&plan.locked())? {
            Ok(locks) => break Some(locks),
            Err(_) if plan.databases.iter().all(is_here) || Instant::now() >= deadline => break None,
            Err(_) => std::thread::sleep(ASK_EVERY),
        }
        interrupt::check()?;
    };
    if locks.is_some() {
        let mut missing = tenants::expand(plan.clone(), &[]);
        // What the job writes comes after what the last clean end was.
        missing.databases.iter().for_each(continuity::begin);
        missing.databases.retain(|database| !is_here(database));
        (missing.entry.migrate, missing.entry.migrate_rollback) = (None, false);
        let restored = bring_back(&missing);
        progress::finish();
        tenants::forget(&missing);
        tenants::forget(&restored?.0);
    }
    channel.say(&Message::Ready { held: false, unproven: false });
    Ok(())
}

/// The boot ends before it is known whether these are the databases to go on with: what an earlier life wrote last stays here alone.
fn say_what_is_not_saved(plan: &Plan, channel: &Channel) {
    let untouched = |path: &Path| local::own_position(path, plan.litestream.format()).is_none() && wal::wal_size(path) == 0;
    let is_saved = |path: &Path| match Mark::read(path) {
        Mark::Clean(_) => true,
        // Of a life under 0.3 that has not ended well.
        Mark::Restored(Position::Wal { index: u64::MAX, .. }) => false,
        // It stays until the next clean end, whatever is written meanwhile.
        Mark::Restored(_) => untouched(path),
        _ => false,
    };
    for database in plan.databases.iter().filter(|d| flush::has_content(&d.path) && !is_saved(&d.path)) {
        let why = "the boot was stopped before it was backed up, and its last writes may be here alone";
        channel.say(&Message::Unsaved(format!("{}: {why}", database.alias)));
    }
}

/// Restores what is missing; the plan with every database that is in its directories then, and those whose replica did not answer.
fn bring_back(plan: &Plan) -> Result<(Plan, Vec<(Database, String)>), Failure> {
    let mut undecided = Vec::new();
    let mut each = tenants::expand(plan.clone(), &[]);
    about_copies(&each, |path| rollback::resume(path, &plan.entry))?;
    if !plan.directories.is_empty() && plan.entry.restore != RestorePolicy::Never {
        // The lists first: they say what else is missing. One that never was is no backup that is required.
        let mut lists = each.clone();
        lists.databases.retain(|d| d.path.ends_with(pattern::LIST));
        lists.entry.restore = RestorePolicy::Auto;
        undecided = make_all_present(&lists)?;
        each = tenants::expand(plan.clone(), &tenants::lost(plan));
        each.databases.retain(|d| !d.path.ends_with(pattern::LIST));
    }
    undecided.extend(make_all_present(&each)?);
    tenants::note(plan);
    let each = tenants::expand(plan.clone(), &[]);
    let rolls_back = plan.entry.migrate.is_some() && plan.entry.migrate_rollback;
    about_copies(&each, |path| rollback::settle(path, &plan.entry, rolls_back))?;
    if rolls_back {
        for Database { alias, path, .. } in &each.databases {
            rollback::save(path, &plan.life).map_err(|f| Failure::new(f.code, format!("{alias}: {}", f.message)))?;
        }
    }
    Ok((each, undecided))
}

/// Never restores in the place of what an older release had begun to put back, unless that is asked for.
fn refuse_stranded(plan: &Plan) -> Result<(), Failure> {
    let takes_replicas = plan.entry.stale == StalePolicy::Restore;
    for Database { alias, path, .. } in plan.databases.iter().filter(|_| !takes_replicas) {
        if let Some(copy) = rollback::stranded(path) {
            let (path, copy) = (path.display(), copy.display());
            let what = format!(
                "{alias}: {path} is missing, and an older release died while it was putting back {copy}, which may have what the replica lacks; go \
                 on with it by `mv {copy} {path}`, or restore from the replica with LITESTREAM_ENTRY_STALE=restore (the copy is kept aside)"
            );
            return Err(Failure::new(exit::DAMAGED, what));
        }
    }
    Ok(())
}

/// Sees to what an earlier boot has left of its migration.
fn about_copies(plan: &Plan, put_back: impl Fn(&Path) -> std::io::Result<bool>) -> Result<(), Failure> {
    for Database { alias, path, .. } in &plan.databases {
        match put_back(path) {
            Ok(true) => report::line(format_args!("{alias}: an earlier start died in its migration: as it was before that")),
            Ok(false) => {}
            Err(error) => {
                let what = format!("{alias}: the copy from before an earlier migration: {}: {error}", path.display());
                return Err(Failure::new(exit::SYSTEM, what));
            }
        }
    }
    Ok(())
}

/// Decides about each, and asks again where a replica does not answer, for as long as this process lives.
fn until_decided(plan: &Plan, mut open: Vec<Database>) -> Result<(), Failure> {
    let mut said = BTreeSet::new();
    loop {
        let undecided = all(plan, &open, |plan, database| present::judge(plan, database, PATIENCE))?;
        if undecided.is_empty() {
            return Ok(());
        }
        open = say_once(undecided, &mut said);
        interrupt::check()?;
        std::thread::sleep(ASK_AGAIN);
    }
}

/// Says why each is not decided about, where that is news.
fn say_once(undecided: Vec<(Database, String)>, said: &mut BTreeSet<String>) -> Vec<Database> {
    let news = |(database, why): (Database, String)| {
        if said.insert(why.clone()) {
            report::line(why);
        }
        database
    };
    undecided.into_iter().map(news).collect()
}

/// Empties every WAL under a live app, after the snapshots that are owed, and holds them back until Litestream does.
fn make_fit(plan: &Plan, channel: &Channel) {
    let owed = all_owed(plan);
    // Before they are pinned: a look closes a file, and with it all locks of this process on it.
    let mut looks: Vec<Look> = if shows_lock(plan) { plan.databases.iter().map(Look::new).collect() } else { Vec::new() };
    let Fit { pins, unproven, .. } = fit(plan, &plan.databases, Beside::App);
    looks.retain(|look| pins.iter().any(|pin| pin.database == look.path()));
    channel.say(&Message::Ready { held: !pins.is_empty(), unproven: unproven || owed });
    pins::hold(pins, Looks { pinned: looks, ..Looks::default() }, plan, channel);
}

/// Sees to the snapshots that are owed; whether one of them is so still. 0.3, and the first releases of 0.5, take their own when they
/// start, and the watch sees it come.
fn all_owed(plan: &Plan) -> bool {
    let forces = plan.litestream.can(Ability::Once);
    let mut open = false;
    for database in plan.databases.iter().filter(|d| flush::has_content(&d.path) && Owed::read(plan, &d.path).is_some()) {
        let by = Instant::now() + plan.entry.restore_timeout;
        let cleared = resnapshot::clear_the_way(plan, database);
        let made = cleared.and_then(|()| if forces { snapshot::force(plan, database, by) } else { Ok(()) });
        if let Err(why) = made {
            open = true;
            report::line(format_args!("{}: no new snapshot yet: {why}; it is tried again", database.alias));
        }
    }
    open
}

/// Pins or empties every WAL before the app, and holds the pins until Litestream has its own.
fn pin_and_hold(plan: &Plan, channel: &Channel) {
    let fit = fit(plan, &plan.databases, Beside::Nobody);
    let looks = looks(plan, &fit);
    channel.say(&Message::Ready { held: !fit.pins.is_empty(), unproven: fit.unproven });
    pins::hold(fit.pins, looks, plan, channel);
}

/// At those that are not pinned.
fn looks(plan: &Plan, fit: &Fit) -> Looks {
    let free = |database: &&Database| shows_lock(plan) && !fit.pins.iter().any(|pin| pin.database == database.path);
    let (alone, written) =
        plan.databases.iter().filter(free).map(Look::new).partition(|look| fit.alone.iter().any(|path| path == look.path()));
    Looks { alone, written, ..Looks::default() }
}

/// The same where it is not known yet whether these are the databases to go on with: the app starts, and Litestream when it is.
fn wait_and_hold(plan: &Plan, undecided: Vec<(Database, String)>, channel: &Channel) -> Result<(), Failure> {
    let mut said = BTreeSet::new();
    let mut open = say_once(undecided, &mut said);
    let mut first = fit(plan, &plan.databases, Beside::Nobody);
    let mut looks = looks(plan, &first);
    channel.say(&Message::Waits);
    let mut next = Instant::now() + ASK_AGAIN;
    while !open.is_empty() {
        interrupt::check()?;
        std::thread::sleep(ASK_EVERY);
        first.pins.retain(|pin| !pins::outgrown(pin, plan));
        pins::look(&mut looks.alone, channel);
        pins::look(&mut looks.written, channel);
        if Instant::now() >= next {
            open = say_once(all(plan, &open, |plan, database| present::judge(plan, database, PATIENCE))?, &mut said);
            next = Instant::now() + ASK_AGAIN;
        }
    }
    plan.databases.iter().for_each(|database| present::make_good(plan, database));
    // The app has worked with these since, and Litestream has seen nothing of it.
    let mut pins = first.pins;
    let unpinned: Vec<Database> = plan.databases.iter().filter(|d| !pins.iter().any(|pin| pin.database == d.path)).cloned().collect();
    let then = fit(plan, &unpinned, Beside::App);
    looks.written.retain(|look| !then.pins.iter().any(|pin| pin.database == look.path()));
    pins.extend(then.pins);
    channel.say(&Message::Ready { held: !pins.is_empty(), unproven: then.unproven });
    pins::hold(pins, looks, plan, channel);
    Ok(())
}

fn shows_lock(plan: &Plan) -> bool {
    plan.socket.is_some() && plan.litestream.can(Ability::Status)
}

/// Who has the databases open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// Nobody: the app has not started.
    Nobody,
    /// The app, which has written while no Litestream has read.
    App,
}

/// What was done with the WALs.
#[derive(Default)]
struct Fit {
    pins: Vec<Pin>,
    /// Those whose app may ask for what a pin forbids.
    alone: Vec<PathBuf>,
    /// Some backup may have a gap all the same.
    unproven: bool,
}

/// Pins or empties the WALs of these.
fn fit(plan: &Plan, databases: &[Database], beside: Beside) -> Fit {
    if plan.litestream.format() == Format::Generations {
        databases.iter().for_each(continuity::begin);
        return Fit::default();
    }
    for database in databases.iter().filter(|d| !plan.litestream.can(Ability::Flags) && local::has_flags(&d.path)) {
        report::line(format_args!(
            "{}: Litestream {} or later has replicated it, whose files {} cannot read: NOTHING IS REPLICATED until such a release runs again",
            database.alias,
            Ability::Flags.since(),
            plan.litestream.version
        ));
    }
    let prepared = in_parallel(databases, databases.len(), |database| make_continuous(database, shows_lock(plan), beside));
    let mut fit = Fit { unproven: prepared.len() != databases.len(), ..Fit::default() };
    for (database, outcome) in databases.iter().zip(prepared) {
        match outcome {
            Ok(Outcome::Pinned(pin)) => fit.pins.push(pin),
            Ok(Outcome::Alone) => fit.alone.push(database.path.clone()),
            Ok(Outcome::Free) => {}
            Err(why) => {
                fit.unproven = true;
                report::line(why);
            }
        }
    }
    fit
}

/// Brings back what is missing, all databases at once; those whose replica did not answer.
fn make_all_present(plan: &Plan) -> Result<Vec<(Database, String)>, Failure> {
    refuse_stranded(plan)?;
    all(plan, &plan.databases, present::make_present)
}

/// Does that to each, several at once; those that are not decided about.
fn all(
    plan: &Plan,
    databases: &[Database],
    what: impl Fn(&Plan, &Database) -> Result<Known, Failure> + Sync,
) -> Result<Vec<(Database, String)>, Failure> {
    let at_once = plan.entry.restore_parallelism.unwrap_or_else(memory::restores_at_once);
    let outcomes = in_parallel(databases, at_once, |database| what(plan, database));
    if outcomes.len() != databases.len() {
        return Err(Failure::new(exit::INTERNAL, "a restore crashed; start again, or restore by hand with `litestream-entry restore`"));
    }
    let why = |outcome: &Result<Known, Failure>| if let Ok(Known::NotYet(why)) = outcome { Some(why.clone()) } else { None };
    let open = databases.iter().zip(&outcomes).filter_map(|(database, outcome)| Some((database.clone(), why(outcome)?))).collect();
    let failures: Vec<Failure> = outcomes.into_iter().filter_map(Result::err).collect();
    match failures.first() {
        None => Ok(open),
        Some(first) => Err(Failure::new(first.code, failures.iter().map(|f| f.message.as_str()).collect::<Vec<_>>().join("\n"))),
    }
}

/// What became of one WAL.
enum Outcome {
    Pinned(Pin),
    /// Not pinned, since the app may ask for what a pin forbids.
    Alone,
    /// Not pinned.
    Free,
}

/// Pins or empties one WAL, and notes what is then known.
fn make_continuous(database: &Database, shows_lock: bool, beside: Beside) -> Result<Outcome, String> {
    let path = &database.path;
    // Until Litestream has a position of its own, the restored one counts.
    let mark = match Mark::read(path) {
        restored @ (Mark::Restored(_) | Mark::Rewound(_)) => restored,
        _ => Mark::Open,
    };
    let made = match restore::look(path) {
        Ok(Local::Sqlite) => pin_or_empty(database, shows_lock, beside),
        // Only a database is looked at: what does not exist yet has no past.
        _ => Ok(Outcome::Free),
    };
    let noted = if made.is_ok() { mark } else { Mark::Unproven }.write(path);
    let made = made.and_then(|made| noted.map(|()| made).map_err(|error| format!("{}: {error}", mark_path(path).display())));
    made.map_err(|why| format!("{}: its backup is unproven: {why}; it will be made whole at the next chance", database.alias))
}

fn pin_or_empty(database: &Database, shows_lock: bool, beside: Beside) -> Result<Outcome, String> {
    let path = &database.path;
    let by = Instant::now() + TRUNCATE_FOR;
    // Beside an app that has written unseen, a pin proves nothing of what was written before.
    let facts = continuity::survey(path, shows_lock && beside == Beside::Nobody);
    let habit = if facts.shows_lock { may_ask_alone(database, continuity::decide(facts)) } else { None };
    let facts = continuity::Facts { asks_alone: habit.is_some(), ..facts };
    let need = continuity::decide(facts);
    report::debug(format_args!("{}: {facts:?}: {need:?}", database.alias));
    match need {
        Need::Pin => return pin::pin(path).map(Outcome::Pinned).map_err(|error| error.to_string()),
        Need::Truncate => beside_app::truncate(path, by)?,
        Need::Nothing => {}
    }
    // One that only began so has asked before its first write in WAL mode, if it asks again, and is pinned from that on.
    if habit.is_some_and(|habit| habit != Habit::Began) {
        return Ok(Outcome::Alone);
    }
    if beside == Beside::App && shows_lock {
        return pin::beside_others(path, by).map(|pin| pin.map_or(Outcome::Free, Outcome::Pinned));
    }
    Ok(Outcome::Free)
}

/// By which habit the app may ask for what a pin forbids, which is said where there would be one. What only may be is tried once.
fn may_ask_alone(database: &Database, need: Need) -> Option<Habit> {
    let habit = Habit::read(&database.path)?;
    if let Some(why) = habit.at_the_boot().filter(|_| need == Need::Pin) {
        report::line(format_args!("{}: {why}", database.alias));
    }
    if matches!(habit, Habit::Began | Habit::Failed) {
        Habit::note(None, &database.path);
    }
    Some(habit)
}
