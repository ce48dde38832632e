//! What an operator runs beside PID 1, or without one: `verify`, `restore`, `config`, Litestream's own. Must never
//! replace a database that anybody has open.

mod diff;
mod files;
mod health;
mod restore;
mod status;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ArgMatches;

use crate::configured::Configured;
use crate::exit::{self, Ended, Failure};
use crate::facilities::Facilities;
use crate::litestream::commands::{self, Native};
use crate::litestream::silence::Silence;
use crate::litestream::{Ability, Format};
use crate::lock;
use crate::mark::Mark;
use crate::parallel::in_parallel;
use crate::plan::{self, Database, PLAN_FILE, Plan};
use crate::restore::present::{self, Known};
use crate::running::{self, Running};
use crate::runtime::left_plan;
use crate::runtime::{self, Runtime};
use crate::sqlite::beside_app;
use crate::sqlite::locks;
use crate::status::verified::Verified;
use crate::verify::{self, Options, Proof, Unproved};
use crate::watched::Owed;
use crate::worker::memory;
use crate::{continuity, identity, interrupt, litestream, pages, report, resnapshot, settings, sys, tenants};

/// A plan to work with, and our own runtime directory where no PID 1 has left one.
struct Context {
    plan: Plan,
    /// Made for a replica's URL alone.
    of_url: bool,
    _own: Option<Own>,
}

impl Drop for Context {
    fn drop(&mut self) {
        tenants::forget(&self.plan);
    }
}

/// Our own runtime directory: what is in it goes with us.
struct Own(Runtime);

impl Drop for Own {
    fn drop(&mut self) {
        self.0.empty();
    }
}

/// Whether a command reads what the boot here has left.
pub fn asks_the_boot(name: &str) -> bool {
    !matches!(name, "version" | "config" | "init")
}

/// Runs one command; its exit code.
///
/// # Errors
/// What is wrong in one line, with its code.
pub fn run(name: &str, matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    interrupt::watch();
    match name {
        "verify" => {
            let context = context(flags, &paths(matches))?;
            let options =
                Options { timeout: timeout(matches)?, quick: matches.get_flag("quick"), read_only: matches.get_flag("read-only") };
            Ok(verify_all(&context.plan, &chosen(&context.plan, matches)?, &options, matches.get_flag("json")))
        }
        "resnapshot" => {
            let context = context(flags, &paths(matches))?;
            resnapshot_all(&context.plan, &chosen(&context.plan, matches)?, timeout(matches)?)
        }
        "status" => status::status(matches, flags),
        "health" => health::health(matches, flags),
        "sync" => {
            let context = context(flags, &paths(matches))?;
            let databases = chosen(&context.plan, matches)?;
            let options = Options { timeout: timeout(matches)?, quick: true, read_only: false };
            Ok(sync_all(&context.plan, &databases, &options))
        }
        "diff" => diff::run(matches, flags),
        "config" => files::config(&Configured::read(with_options_of_the_boot(flags, &running::here()))?, matches),
        "init" => files::init(&Configured::read(with_options_of_the_boot(flags, &running::here()))?, matches),
        "restore" => {
            let context = match restore::url(matches)? {
                Some(url) => context_of_url(flags, restore::variables(&url, matches)?)?,
                None if matches.get_flag("all") => context_with(flags, &tenants::lost)?,
                None => context(flags, &paths(matches))?,
            };
            let databases = if context.of_url { context.plan.databases.clone() } else { chosen(&context.plan, matches)? };
            restore::run(&context, &databases, matches)
        }
        _ => {
            print(&versions(flags));
            Ok(0)
        }
    }
}

/// It is for the whole command, the wait for the app's locks included.
fn timeout(matches: &ArgMatches) -> Result<Duration, Failure> {
    let timeout = duration(matches, "timeout")?.unwrap_or(Duration::from_secs(30));
    pages::be_patient_for(timeout);
    Ok(timeout)
}

fn duration(matches: &ArgMatches, name: &str) -> Result<Option<Duration>, Failure> {
    let Some(text) = matches.get_one::<String>(name) else { return Ok(None) };
    let wrong = || Failure::new(exit::USAGE, format!("--{name}: not understood; write a duration as 30s or 2m"));
    settings::duration(text).map(Some).ok_or_else(wrong)
}

/// Waits until a row that is written now has come back from the replica: then all before it is there. Litestream's own
/// `sync` is never called: beside an app that writes it makes gaps in the backup.
fn sync_all(plan: &Plan, databases: &[Database], options: &Options) -> u8 {
    prove_all(plan, databases, options, |database, outcome| {
        let proof = outcome.as_ref().ok()?;
        Some(format!("{}: everything is in {} ({:.2} s)", database.alias, database.replica, proof.total().as_secs_f32()))
    })
}

/// Begins backups anew, and proves them.
fn resnapshot_all(plan: &Plan, databases: &[Database], timeout: Duration) -> Result<u8, Failure> {
    let began = Instant::now();
    resnapshot::begin(plan, databases, timeout, || resnapshot::ask_pid_1(&plan.runtime))?;
    let options = Options { timeout: timeout.saturating_sub(began.elapsed()), quick: false, read_only: false };
    Ok(prove_all(plan, databases, &options, |database, outcome| {
        let proof = outcome.as_ref().ok()?;
        Owed::settle(plan, &database.path);
        Some(format!("{}: a new snapshot is in {}, and verified ({:.2} s)", database.alias, database.replica, proof.total().as_secs_f32()))
    }))
}

/// Proves several at once, as many as the free memory allows; says what there is to print of each, in their order.
fn prove_all(
    plan: &Plan,
    databases: &[Database],
    options: &Options,
    text: impl Fn(&Database, &Result<Proof, Unproved>) -> Option<String>,
) -> u8 {
    let silence = Silence::default();
    let outcomes = in_parallel(databases, memory::restores_at_once(), |database| {
        if let Some(why) = silence.of(&database.replica) {
            return Err(Unproved::unasked(database, &why));
        }
        let began = Instant::now();
        let outcome = verify::verify(plan, database, options);
        if outcome.as_ref().is_err_and(Unproved::is_silent) {
            silence.note(&database.replica);
        }
        if !options.quick && interrupt::check().is_ok() && runtime::is_held(&plan.runtime) {
            Verified::note(plan, &database.path, began.elapsed(), &outcome);
        }
        outcome
    });
    let mut code = if outcomes.len() < databases.len() { exit::INTERNAL } else { 0 };
    for (database, outcome) in databases.iter().zip(&outcomes) {
        if let Some(text) = text(database, outcome) {
            print(&text);
        }
        if let Err(Unproved { failure, .. }) = outcome {
            report::lines(&failure.message);
            code = failure.code;
        }
    }
    code
}

/// Runs one of Litestream's own commands; its exit code.
///
/// # Errors
/// 64 where the running line does not have it; 66 for a name that is no database's.
pub fn run_native(native: &Native, args: &[OsString], flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let words = args.iter().filter_map(|w| w.to_str()).filter(|w| w.starts_with('/')).map(PathBuf::from);
    let context = context(flags, &words.collect::<Vec<_>>())?;
    let plan = &context.plan;
    let resolve = |name: &str| match plan.find(name) {
        Ok(database) => Ok(database.path.clone().into_os_string()),
        // A URL, or a file that only Litestream knows.
        Err(_) if name.contains(['/', '.']) => Ok(name.into()),
        Err(failure) => Err(failure),
    };
    let socket = plan.socket.clone().map(PathBuf::into_os_string);
    let words = commands::argv(native, plan.litestream.version, args, &plan.config().flags(), socket, &resolve)?;
    if matches!(native.name, "start" | "register") {
        plan.databases.iter().filter(|d| words.iter().any(|w| *w == d.path)).try_for_each(heal)?;
    }
    if native.name == "reset" {
        return reset(plan, &words);
    }
    hand_over(plan, &words)
}

/// `reset` takes away Litestream's own position: where the database stood is noted, so that the next start knows it.
fn reset(plan: &Plan, words: &[OsString]) -> Result<u8, Failure> {
    let named: Vec<&Database> = plan.databases.iter().filter(|d| words.iter().any(|w| *w == d.path)).collect();
    let stood: Vec<_> = named.iter().map(|d| continuity::position(&d.path, plan.litestream.format())).collect();
    let code = hand_over(plan, words)?;
    for (database, position) in named.iter().zip(stood) {
        let gone = continuity::position(&database.path, plan.litestream.format()).is_none();
        if let Some(position) = position.filter(|_| gone && !lock::is_held(&database.path)) {
            let written = Mark::Restored(position).write(&database.path);
            written.map_err(|e| Failure::new(exit::SYSTEM, format!("{}: {e}", database.alias)))?;
        }
    }
    Ok(code)
}

/// Runs Litestream in our place; its exit code.
fn hand_over(plan: &Plan, words: &[OsString]) -> Result<u8, Failure> {
    let mut command = std::process::Command::new(&plan.litestream.path);
    command.args(words).env_clear().envs(plan.litestream.env.iter().flatten().cloned());
    let status = command.status().map_err(|e| Failure::new(exit::SYSTEM, format!("{}: {e}", plan.litestream.path.display())))?;
    Ok(match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()).code(),
    })
}

/// `replicate -once`: 0.5's single pass over every database. Never beside a Litestream that runs: two that write one
/// replica destroy it.
///
/// # Errors
/// 71 where another process replicates a database; 64 on 0.3.
pub fn replicate_once(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let context = context(flags, &[])?;
    let plan = &context.plan;
    if plan.litestream.format() == Format::Generations {
        return Err(Failure::new(exit::USAGE, "replicate -once: Litestream 0.3 has no such thing; `sync DB` waits for the replica"));
    }
    if !plan.litestream.can(Ability::Once) {
        return Err(Failure::new(exit::USAGE, plan.litestream.lacks("replicate -once", Ability::Once)));
    }
    let _locks = plan.databases.iter().map(|d| not_live(d, "stop it first")).collect::<Result<Vec<_>, _>>()?;
    // What a boot asks before it uploads anything.
    for database in plan.databases.iter().filter(|d| d.path.exists()) {
        if let Known::NotYet(why) = present::judge(plan, database, Duration::from_secs(60))? {
            return Err(Failure::new(exit::UNREACHABLE, format!("{why}; try again")));
        }
    }
    for database in &plan.databases {
        if continuity::decide(continuity::survey(&database.path, true)) == continuity::Need::Truncate {
            heal(database)?;
        }
    }
    let mut words: Vec<OsString> = vec!["replicate".into()];
    words.extend(plan.config().flags());
    for flag in ["once", "force-snapshot", "enforce-retention"] {
        if matches.get_flag(flag) {
            words.push(format!("-{flag}").into());
        }
    }
    hand_over(plan, &words)
}

/// What the app wrote while Litestream looked away is in no file of its own: with an emptied WAL it begins with a snapshot.
fn heal(database: &Database) -> Result<(), Failure> {
    beside_app::truncate(&database.path, Instant::now() + Duration::from_secs(5))
        .map_err(|why| Failure::new(exit::SYSTEM, format!("{}: {why}: replication would go on with a gap; try again", database.alias)))
}

fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// The plan of the PID 1 that runs here, or one made from this environment; in directories with what is there, and what is
/// named.
fn context(flags: Vec<(String, String)>, named: &[PathBuf]) -> Result<Context, Failure> {
    context_with(flags, &|_| named.to_vec())
}

fn context_with(flags: Vec<(String, String)>, named: &dyn Fn(&Plan) -> Vec<PathBuf>) -> Result<Context, Failure> {
    let expanded = |plan: Plan| {
        let named = named(&plan);
        tenants::expand(plan, &named)
    };
    let (configured, live) = live(flags);
    if let Some(place) = &live
        && !may_be_forged(place)
        && let Some(mut plan) = left_plan(place)
    {
        // It has what was configured; the secrets are in the environment that `docker exec` gives, or in their files.
        let env = configured.map_or_else(|_| sys::raw_environment(), |c| c.helper_environment(place));
        plan.litestream.env = Some(env.into_iter().filter_map(sys::pair).collect());
        return Ok(Context { plan: expanded(plan), of_url: false, _own: None });
    }
    let configured = configured?;
    let (plan, own) = match &live {
        Some(place) => (made_again(&configured, place)?, None),
        None => own_plan(&configured).map(|(plan, own)| (plan, Some(own)))?,
    };
    Ok(Context { plan: expanded(plan), of_url: false, _own: own })
}

/// Whether root would run what another user's plan says, whose container this is.
fn may_be_forged(place: &Path) -> bool {
    identity::is_roots() && std::fs::symlink_metadata(place.join(PLAN_FILE)).is_ok_and(|about| about.uid() != 0)
}

/// The same plan by what is configured here.
fn made_again(configured: &Configured, place: &Path) -> Result<Plan, Failure> {
    let litestream = litestream::find(configured.settings.litestream.as_deref())?;
    let mut plan = plan::make(&configured.settings, litestream, place, configured.users_file()?.as_deref(), &Facilities::ALL)?.plan;
    plan.litestream.env = Some(configured.helper_environment(place).into_iter().filter_map(sys::pair).collect());
    Ok(plan)
}

/// What is configured for the boot that runs here, and the runtime directory that it holds.
fn live(flags: Vec<(String, String)>) -> (Result<Configured, Failure>, Option<PathBuf>) {
    let found = find_live(flags);
    if let Some(plan) = found.1.as_deref().and_then(left_plan) {
        identity::become_who_may_read(plan.entry.user.as_deref(), &plan.runtime);
    }
    found
}

fn find_live(flags: Vec<(String, String)>) -> (Result<Configured, Failure>, Option<PathBuf>) {
    let boots = running::here();
    for boot in &boots {
        let configured = Configured::read(boot.options.iter().chain(&flags).cloned().collect());
        if let Some(place) = boot.place(configured.as_ref().ok()) {
            return (configured, Some(place));
        }
    }
    let configured = Configured::read(with_options_of_the_boot(flags, &boots));
    // One that cannot be seen (hidepid) is likely PID 1.
    let place = running::held(configured.as_ref().ok(), 1);
    (configured, place)
}

/// A plan for what `variables` say, whatever is configured here; the keys are those of the environment.
fn context_of_url(mut flags: Vec<(String, String)>, variables: Vec<(String, String)>) -> Result<Context, Failure> {
    flags = with_options_of_the_boot(flags, &running::here());
    flags.extend(variables);
    let (plan, own) = own_plan(&Configured::read_without_file(flags)?)?;
    Ok(Context { plan, of_url: true, _own: Some(own) })
}

/// A plan of our own, where there is none to work with, in a runtime directory of our own.
fn own_plan(configured: &Configured) -> Result<(Plan, Own), Failure> {
    let (planned, runtime) = configured.plan(None, std::process::id(), &|_| {})?;
    let mut plan = planned.plan;
    plan.litestream.env = Some(configured.helper_environment(&runtime.path).into_iter().filter_map(sys::pair).collect());
    Ok((plan, Own(runtime)))
}

/// Options before the app hold for `docker exec`, too, which knows only the environment.
fn with_options_of_the_boot(flags: Vec<(String, String)>, boots: &[Running]) -> Vec<(String, String)> {
    boots.first().into_iter().flat_map(|boot| boot.options.clone()).chain(flags).collect()
}

/// Databases that are named by path: one in a directory may be missing here.
fn paths(matches: &ArgMatches) -> Vec<PathBuf> {
    let names = matches.get_many::<String>("db").into_iter().flatten();
    names.filter(|name| name.contains('/')).filter_map(|name| std::path::absolute(name).ok()).collect()
}

fn chosen(plan: &Plan, matches: &ArgMatches) -> Result<Vec<Database>, Failure> {
    if matches.get_flag("all") {
        return Ok(plan.databases.clone());
    }
    let names: Vec<&String> = matches.get_many("db").into_iter().flatten().collect();
    if names.is_empty() {
        return Err(Failure::new(exit::USAGE, "no database named; name one (`default`, a path) or --all"));
    }
    names.into_iter().map(|name| plan.find(name).cloned()).collect()
}

fn verify_all(plan: &Plan, databases: &[Database], options: &Options, json: bool) -> u8 {
    prove_all(plan, databases, options, |database, outcome| match outcome {
        Ok(proof) if json => Some(proof.json(database)),
        Ok(proof) => Some(proof.text(database)),
        Err(Unproved { failure, .. }) => json.then(|| verify::failure_json(database, failure)),
    })
}

/// Nobody replicates the database and nobody has it open, and none can begin.
fn not_live(database: &Database, instead: &str) -> Result<lock::Locks, Failure> {
    let refused = |who: &str| Err(Failure::new(exit::SYSTEM, format!("{}: {who}: {instead}", database.alias)));
    let Ok(locks) = lock::Locks::take(std::slice::from_ref(database))? else {
        return refused("a running litestream-entry replicates it");
    };
    if locks::is_open_elsewhere(&database.path) { refused("another process has it open") } else { Ok(locks) }
}

fn versions(flags: Vec<(String, String)>) -> String {
    let configured = Configured::read(flags).ok().and_then(|c| c.settings.litestream);
    let litestream = match litestream::find(configured.as_deref()) {
        Ok(found) => format!("{} ({})", found.version, found.path.display()),
        Err(failure) => failure.message,
    };
    let own = sys::own_path().map(|p| p.display().to_string()).unwrap_or_default();
    format!("litestream-entry {} ({own})\nlitestream {litestream}\nsqlite {}", env!("CARGO_PKG_VERSION"), rusqlite::version())
}
