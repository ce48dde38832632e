//! A boot, up to where PID 1 goes on: settings, plan, configuration, locks. Must never start anything.

use std::ffi::CString;
use std::time::{Duration, SystemTime};

use crate::configured::Configured;
use crate::exit::{self, Failure};
use crate::facilities::Facilities;
use crate::files::{self, Owner};
use crate::identity::Identity;
use crate::litestream::{self, Format};
use crate::lock::{self, Locks};
use crate::plan::{Plan, Planned};
use crate::protocol::{Check, Rules};
use crate::settings::{Entry, LockPolicy, Source};
use crate::{job, report, rotation, running, sys, tenants};

use super::Host;
use super::place::{Place, is_here};
use crate::protocol::keeper::{Booted, Bytes};

/// How long a migration that is to be rolled back where it fails waits for another container to leave. One that is started before
/// the other is stopped would wait for ever.
const ALONE_WITHIN: Duration = Duration::from_secs(120);

/// What a boot has come to.
pub(super) struct Ready {
    pub(super) booted: Booted,
    /// The runtime directory, where there is something to replicate.
    pub(super) place: Option<Place>,
    /// The locks on its databases, where they are ours.
    pub(super) locks: Option<Locks>,
}

impl Ready {
    /// Nothing to replicate, or nothing of ours.
    fn plainly(booted: Booted) -> Self {
        Self { booted, place: None, locks: None }
    }
}

/// What PID 1 does where nothing is replicated, which is said; why it does not, in one line.
///
/// # Errors
/// 78 where there is no app either.
pub fn plainly(configured: &Configured, app: bool) -> Result<Booted, Failure> {
    let entry = &configured.settings.entry;
    if let Source::Nothing(why) = &configured.settings.source {
        if !app {
            return Err(Failure::new(exit::CONFIG, why.clone()));
        }
        report::line(format_args!("{why}: NOTHING IS REPLICATED"));
        if entry.http.is_some() {
            report::line("LITESTREAM_ENTRY_HTTP: nothing is served, since nothing is replicated");
        }
    }
    Ok(Booted {
        rules: plain_rules(entry, app),
        plan: None,
        helper_env: Some(Vec::new()),
        exported: Vec::new(),
        hides: entry.hide_secrets,
        identity: None,
        migrate: entry.migrate.clone(),
        signal_group: entry.signal_group,
    })
}

/// Does all that may fail before the first child of PID 1's; why not, in one line a problem.
pub(super) fn boot(configured: &Configured, host: &Host) -> Result<Ready, Failure> {
    let entry = &configured.settings.entry;
    let identity = entry.user.as_deref().map(Identity::resolve).transpose()?.flatten();
    if let Some(above) = running::above(configured, host.boot) {
        report::line(format_args!(
            "the litestream-entry above (pid {}) replicates already: this one only runs the app; name litestream-entry once, in ENTRYPOINT or in the command",
            above.pid
        ));
        let booted = plainly(configured, host.app)?;
        let rules = Rules { migrate: None, rollback: false, rewrite: Vec::new(), serves: false, check: None, ..booted.rules };
        return Ok(Ready::plainly(Booted { rules, hides: false, identity: None, migrate: None, ..booted }));
    }
    let word = identity.as_ref().map(|identity| Bytes::from(identity.word().as_os_str()));
    let booted = Booted { identity: word, ..plainly(configured, host.app)? };
    if matches!(configured.settings.source, Source::Nothing(_)) {
        return Ok(Ready::plainly(booted));
    }
    Facilities::enough_descriptors()?.iter().for_each(report::line);
    if let Err(error) = sys::ensure_dev_null() {
        report::line(format_args!("/dev/null is missing and cannot be made ({error}): litestream will not start without it"));
    }
    let (Planned { plan, document, notes, findings }, runtime) =
        configured.plan(entry.runtime_dir.as_deref(), host.boot, &|at| host.at(at))?;
    let kept = rotation::keep(configured, &runtime.path, &document, host.memory.as_ref());
    for note in notes.iter().chain(&findings) {
        report::line(note);
    }
    host.at(&plan.directories_of_databases());
    make_directories(&plan, identity.as_ref())?;
    let (rules, locks) = decide(booted.rules, &plan, host.app)?;
    let booted = Booted {
        rules,
        // Where secrets are in files, each helper makes its own of ours.
        helper_env: (!kept).then(|| words(&configured.helper_environment(&runtime.path))),
        exported: if entry.export_paths { words(&plan.exported_paths()) } else { Vec::new() },
        plan: Some(plan.clone()),
        ..booted
    };
    let mut place = Place::new(plan, document, configured.settings.secrets.google.clone(), identity, runtime);
    host.at(&place.path());
    place.leave_plan()?;
    place.let_in()?;
    Ok(Ready { booted, place: Some(place), locks })
}

/// What PID 1 does with a plan, of what it would do without one; and the locks, where they are ours. Says both what is replicated and where.
fn decide(bare: Rules, plan: &Plan, has_app: bool) -> Result<(Rules, Option<Locks>), Failure> {
    let say = || plan.lines().iter().for_each(report::line);
    let Some(job) = &plan.entry.job else {
        let locks = take_locks(plan)?;
        say();
        let rules = Rules { standby: locks.is_none(), here: is_here(plan), ..replicating(bare, plan) };
        return Ok((rules, locks));
    };
    if !has_app {
        return Err(Failure::new(exit::USAGE, format!("{}: a job needs a command to run; name one behind `--`", job.from)));
    }
    say();
    let held = plan.locked().iter().any(|d| lock::is_held(&d.path));
    let (first, last_words) = job::words(job, job::place(is_here(plan), held), plan.entry.migrate.is_some());
    report::line(first);
    let rules = Rules { replicates: false, job: true, migrate: None, rollback: false, last_words, ..replicating(bare, plan) };
    Ok((rules, None))
}

fn words(entries: &[CString]) -> Vec<Bytes> {
    entries.iter().map(|entry| Bytes::of(entry.as_bytes())).collect()
}

/// The rules of a plan that is replicated.
fn replicating(bare: Rules, plan: &Plan) -> Rules {
    let entry = &plan.entry;
    let alone = entry.migrate.is_some() && entry.migrate_rollback;
    let replicated = plan.locked();
    Rules {
        replicates: true,
        wait: entry.lock == LockPolicy::Wait || alone,
        wait_for: (alone && entry.lock != LockPolicy::Wait).then_some(ALONE_WITHIN),
        confirms: plan.socket.is_some() && plan.litestream.can(litestream::Ability::Sync),
        repairs: plan.litestream.format() == Format::Ltx,
        watches: plan.directories.iter().any(|d| tenants::is_listed(plan, d)),
        reserve: plan.reserve(),
        replica: if let [only] = replicated.as_slice() { Some(only.replica.clone()) } else { None },
        names: replicated.into_iter().map(|d| d.alias).collect(),
        ..bare
    }
}

/// What a boot is to do where nothing is replicated.
fn plain_rules(entry: &Entry, app: bool) -> Rules {
    Rules {
        replicates: false,
        job: false,
        last_words: None,
        app,
        here: false,
        standby: false,
        wait: false,
        wait_for: None,
        names: Vec::new(),
        replica: None,
        confirms: false,
        repairs: false,
        watches: false,
        migrate: entry.migrate.as_ref().map(|_| entry.migrate_timeout),
        rollback: entry.migrate_rollback,
        rewrite: entry.signal_rewrite.clone(),
        stop_signals: entry.stop_signal.clone(),
        serves: entry.http.is_some(),
        check: entry.verify_interval.map(schedule),
        on_failure: entry.on_replication_failure,
        stop_timeout: entry.stop_timeout,
        reserve: entry.stop_timeout / 2,
    }
}

/// Makes the directories that the databases are to be in, as whom they are to belong to.
fn make_directories(plan: &Plan, identity: Option<&Identity>) -> Result<(), Failure> {
    // What is made by root would be root's.
    let owner = identity.map_or(Owner::Directorys, Identity::owner);
    let of_databases =
        plan.locked().into_iter().filter(|_| identity.is_some()).filter_map(|d| Some((d.alias, d.path.parent()?.to_owned())));
    // Litestream refuses one that is not there.
    let themselves = plan.directories.iter().map(|d| (d.alias.clone(), d.path.clone()));
    for (alias, directory) in of_databases.chain(themselves) {
        let made = files::make_directories(&directory, owner);
        made.map_err(|e| Failure::new(exit::SYSTEM, format!("{alias}: {}: {e}", directory.display())))?;
    }
    Ok(())
}

/// The first check somewhere in the second half of an interval, the others after it.
fn schedule(every: Duration) -> Check {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let part = now.subsec_nanos() % 1000;
    Check { first: every / 2 + (every / 2).saturating_mul(part) / 1000, every }
}

/// The locks, or none where another process has one and the policy is to stand by or wait.
fn take_locks(plan: &Plan) -> Result<Option<Locks>, Failure> {
    if plan.entry.lock == LockPolicy::Off {
        return Ok(Some(Locks::default()));
    }
    match (Locks::take(&plan.locked())?, plan.entry.lock) {
        (Ok(locks), _) => Ok(Some(locks)),
        (Err(alias), LockPolicy::Refuse) => Err(Failure::new(
            exit::SYSTEM,
            format!("{alias}: another process replicates it (LITESTREAM_ENTRY_LOCK=refuse); stop that one first"),
        )),
        (Err(alias), policy) => {
            let alone = plan.entry.migrate.is_some() && plan.entry.migrate_rollback;
            let then = match policy {
                LockPolicy::Wait => "waiting for it to leave".to_owned(),
                _ if alone => format!(
                    "waiting up to {} s for it to leave, since LITESTREAM_ENTRY_MIGRATE_ROLLBACK needs the database alone; deploy stop-first",
                    ALONE_WITHIN.as_secs()
                ),
                _ => "standing by to take over".to_owned(),
            };
            report::line(format_args!("{alias}: another process replicates it: {then}"));
            Ok(None)
        }
    }
}
