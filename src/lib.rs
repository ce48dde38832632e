//! Container entrypoint for apps on SQLite.
//!
//! A boot is a line of stages, each a value that the next one takes:
//!
//! ```text
//! environment → settings::Settings → plan::Plan → config::Document → worker::prepare → supervise
//! ```
//!
//! * [`cli`] takes the command line apart; [`settings`] says what the variables mean; [`plan`] and [`config`] what follows.
//! * [`supervise`] is PID 1: a loop around the pure [`supervise::machine`].
//! * [`worker`] is everything that could block or crash, in processes of their own.
//! * [`lint`] reads a configuration file of the user's own and says what to write instead.
//! * [`restore`], [`continuity`] and [`verify`] decide about databases and backups; [`litestream`] calls the binary.
//! * [`paths`] refuses what is no place for a database.
//! * [`habits`] sees and notes an app that a pinned WAL would end.
//! * [`state`] is what PID 1 leaves for those who ask; [`status`] is what is made of it, by [`position`].
//! * [`watch`] sees a database's file that is replaced, and a replica that loses what it had, or never gets it ([`laps`]); [`watched`] is what it
//!   keeps.
//! * [`running`] finds the boot that runs here. [`operator`] is what `docker exec` runs; [`notify`] calls what is to know how a check went.

pub mod cli;
pub mod config;
pub mod continuity;
pub mod exit;
pub mod facilities;
pub mod files;
pub mod habits;
pub mod identity;
pub mod interrupt;
pub mod job;
pub mod laps;
pub mod lint;
pub mod litestream;
pub mod mark;
pub mod notify;
pub mod operator;
pub mod pages;
pub mod paths;
pub mod pin;
pub mod plan;
pub mod position;
pub mod process;
pub mod progress;
pub mod report;
pub mod resnapshot;
pub mod restore;
pub mod rotation;
pub mod running;
pub mod runtime;
pub mod settings;
pub mod sqlite;
pub mod state;
pub mod status;
pub mod supervise;
pub mod sys;
pub mod tenants;
pub mod text;
pub mod time;
pub mod verify;
pub mod watch;
pub mod watched;
pub mod worker;

use std::ffi::{CString, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cli::Invocation;
use config::Document;
use exit::Failure;
use facilities::Facilities;
use files::Owner;
use identity::Identity;
use litestream::Line;
use nix::errno::Errno;
use plan::{Plan, Planned};
use runtime::Runtime;
use settings::{Entry, Environment, LockPolicy, LogTo, Settings, Source, Values};
use supervise::Boot;
use supervise::lock::Locks;
use supervise::machine::{Check, Rules};
use supervise::signals::Signals;

/// Runs the program; the process's exit code.
pub fn run(args: &[OsString]) -> u8 {
    let code = match args.split_first() {
        Some((word, rest)) if worker::is_internal(word) => worker::run(word, rest),
        _ => dispatch(args).unwrap_or_else(|failure| {
            report::lines(&failure.message);
            report::tell();
            failure.code
        }),
    };
    report::finish();
    code
}

fn dispatch(args: &[OsString]) -> Result<u8, Failure> {
    match cli::parse(args)? {
        Invocation::Text(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(0)
        }
        Invocation::Boot { app, flags } => boot(app, flags),
        Invocation::Native { native, args: words, flags } => {
            running::become_the_boots(args);
            operator::run_native(native, &words, flags)
        }
        Invocation::Command { name, matches, flags } if name == "replicate" => replicate(&matches, flags),
        Invocation::Command { name, matches, flags } => {
            if operator::asks_the_boot(&name) {
                running::become_the_boots(args);
            }
            operator::run(&name, &matches, flags)
        }
    }
}

/// A boot with Litestream's spelling: `replicate [-config PATH] [-exec CMD] [DB REPLICA_URL]`.
fn replicate(matches: &clap::ArgMatches, mut flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let app = match matches.get_one::<String>("exec") {
        Some(command) => litestream::call::split(command).map_err(|why| Failure::new(exit::USAGE, format!("-exec: {why}")))?,
        None => Vec::new(),
    };
    let mut stands_for = |variable: &str, value: Option<&String>| flags.extend(value.map(|v| (variable.to_owned(), v.clone())));
    stands_for("LITESTREAM_LOG_LEVEL", matches.get_one("log-level"));
    stands_for("LITESTREAM_DB_PATH", matches.get_one("db"));
    stands_for("LITESTREAM_REPLICA_URL", matches.get_one("url"));
    if matches.get_flag("once") { operator::replicate_once(matches, flags) } else { boot(app, flags) }
}

/// What the environment says, before anything is looked at.
#[derive(Debug)]
pub struct Configured {
    /// The settings.
    pub settings: Settings,
    /// The environment, byte for byte.
    pub env: Vec<CString>,
    /// Options, as the variables that they stand for.
    pub options: Vec<(String, String)>,
    /// The secrets that were in files.
    pub from_files: Values,
}

impl Configured {
    /// Reads the environment.
    ///
    /// # Errors
    /// 78 with a line per problem.
    pub fn read(flags: Vec<(String, String)>) -> Result<Self, Failure> {
        Self::read_with(flags, &|path| path.is_file())
    }

    /// The same as if there were no configuration file.
    ///
    /// # Errors
    /// 78 with a line per problem.
    pub fn read_without_file(flags: Vec<(String, String)>) -> Result<Self, Failure> {
        Self::read_with(flags, &|_| false)
    }

    fn read_with(options: Vec<(String, String)>, exists: &dyn Fn(&Path) -> bool) -> Result<Self, Failure> {
        let env = Environment::load(std::env::vars_os(), options.clone());
        Self::of(&env, sys::raw_environment(), options, exists)
    }

    /// What this environment says, whatever secrets are in their files: these are.
    ///
    /// # Errors
    /// 78 with a line per problem.
    pub fn with_values(env: Vec<CString>, options: Vec<(String, String)>, values: &Values) -> Result<Self, Failure> {
        let read = Environment::load_with(env.iter().cloned().filter_map(sys::pair), options.clone(), values);
        Self::of(&read, env, options, &|path| path.is_file())
    }

    fn of(read: &Environment, env: Vec<CString>, options: Vec<(String, String)>, exists: &dyn Fn(&Path) -> bool) -> Result<Self, Failure> {
        let settings = settings::read(read, exists)?;
        report::set_debug(settings.entry.debug);
        let from_files = read.files().iter().filter_map(|(name, _)| Some((name.clone(), read.get(name)?.to_owned()))).collect();
        Ok(Self { settings, env, options, from_files })
    }

    /// Litestream's and the workers' environment, in the boot that has this runtime directory.
    pub fn helper_environment(&self, runtime: &Path) -> Vec<CString> {
        let google = self.settings.secrets.google.as_ref().map(|_| runtime.join(plan::GOOGLE_FILE));
        plan::litestream_environment(&self.env, &self.settings.secrets, google.as_deref())
    }

    /// Where a runtime directory may be as a last resort.
    pub fn first_database(&self) -> Option<PathBuf> {
        match &self.settings.source {
            Source::Variables(databases) => databases.first().map(|d| d.path.clone()),
            _ => None,
        }
    }

    /// The text of the user's own configuration, where there is one.
    ///
    /// # Errors
    /// 78 where it cannot be read.
    pub fn users_file(&self) -> Result<Option<String>, Failure> {
        let Source::File(path) = &self.settings.source else { return Ok(None) };
        std::fs::read_to_string(path).map(Some).map_err(|e| Failure::new(exit::CONFIG, format!("{}: {e}", path.display())))
    }

    /// Finds Litestream, takes a runtime directory, and leaves the configuration there.
    ///
    /// # Errors
    /// 78 or 71, in one line a problem.
    pub fn plan(&self, runtime_dir: Option<&Path>) -> Result<(Planned, Runtime), Failure> {
        let litestream = litestream::find(self.settings.litestream.as_deref())?;
        let file = self.users_file()?;
        let runtime = runtime::take(runtime_dir, self.first_database().as_deref())?;
        let socket = litestream.can(litestream::Ability::Socket).then(|| runtime.path.join(plan::SOCKET_FILE));
        let facilities = Facilities::look(socket.as_deref());
        let mut planned = plan::make(&self.settings, litestream, &runtime.path, file.as_deref(), &facilities)?;
        planned.notes.extend(facilities.lines(std::process::id() == 1));
        paths::check(&planned.plan)?;
        leave_configuration(&planned.plan, &planned.document, self.settings.secrets.google.as_deref())?;
        Ok((planned, runtime))
    }
}

fn unwritten(plan: &Plan, error: &std::io::Error) -> Failure {
    Failure::new(exit::SYSTEM, format!("{}: {error}", plan.runtime.display()))
}

/// Leaves in the runtime directory what Litestream reads.
///
/// # Errors
/// 71 where it cannot be written.
pub fn leave_configuration(plan: &Plan, document: &Document, google: Option<&str>) -> Result<(), Failure> {
    let written = google.map_or(Ok(()), |google| runtime::write(&plan.runtime.join(plan::GOOGLE_FILE), google));
    let written = written.and_then(|()| if plan.users_file { Ok(()) } else { runtime::write(&plan.config, &document.text()) });
    written.map_err(|e| unwritten(plan, &e))
}

/// Leaves in the runtime directory what the workers and `docker exec` read.
///
/// # Errors
/// 71 where it cannot be written.
pub fn leave_plan(plan: &Plan, document: &Document) -> Result<(), Failure> {
    let text = serde_yaml::to_string(plan).map_err(|e| Failure::new(exit::INTERNAL, format!("the plan cannot be written: {e}")))?;
    let mut written = runtime::write(&plan.runtime.join(plan::PLAN_FILE), &text);
    if !plan.users_file {
        written = written.and_then(|()| runtime::write(&plan.config_again(), &document.again(plan.litestream.line).text()));
    }
    written.map_err(|e| unwritten(plan, &e))
}

/// Where stderr is the app's alone.
fn leave_stderr(log: &LogTo) -> Result<(), Failure> {
    let file = match log {
        LogTo::Stderr => return Ok(()),
        LogTo::Nowhere => None,
        LogTo::File(path) => Some(path),
    };
    report::leave_stderr(file.map(PathBuf::as_path)).map_err(|error| {
        let path = file.map(|path| path.display().to_string()).unwrap_or_default();
        let why = match error.raw_os_error() {
            Some(nix::libc::ELOOP) => "it is a symbolic link; name what it leads to".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(exit::CONFIG, format!("LITESTREAM_ENTRY_LOG: {path}: {why}"))
    })
}

/// Shares with another user what it goes on with, and looks whether it can.
fn let_in(boot: &Boot) -> Result<(), Failure> {
    boot.share();
    boot.identity.iter().zip(&boot.runtime).try_for_each(|(identity, runtime)| identity.try_to_enter(&runtime.path))
}

/// How long a migration that is to be rolled back where it fails waits for another container to leave. One that is started before
/// the other is stopped would wait for ever.
const ALONE_WITHIN: Duration = Duration::from_secs(120);

/// The rules of a plan that is replicated, by us where we have the lock.
fn replicate_by(rules: &mut Rules, plan: &Plan, locked: bool) {
    let entry = &plan.entry;
    let alone = entry.migrate.is_some() && entry.migrate_rollback;
    rules.replicates = !rules.job;
    rules.standby = !locked && !rules.job;
    rules.wait = entry.lock == LockPolicy::Wait || alone;
    rules.wait_for = (alone && entry.lock != LockPolicy::Wait).then_some(ALONE_WITHIN);
    rules.confirms = plan.socket.is_some() && plan.litestream.can(litestream::Ability::Sync);
    rules.repairs = plan.litestream.line == Line::V05;
    rules.watches = plan.directories.iter().any(|d| tenants::is_listed(plan, d));
    rules.reserve = plan.reserve();
    let replicated = plan.locked();
    rules.replica = if let [only] = replicated.as_slice() { Some(only.replica.clone()) } else { None };
    rules.names = replicated.into_iter().map(|d| d.alias).collect();
}

fn no_signals(errno: Errno) -> Failure {
    let what = "signals cannot be waited for (sigprocmask, signalfd)";
    Failure::new(exit::SYSTEM, format!("{what}: {}: a seccomp profile or another sandbox forbids it; allow it", errno.desc()))
}

/// Boots: everything that may fail before the first child fails here, in one line a problem.
fn boot(app: Vec<OsString>, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    // Before anything else, so that no signal is lost.
    let signals = Signals::new().map_err(no_signals)?;
    let inherited = sys::inherited();
    report::carry();
    let configured = Configured::read(flags)?;
    leave_stderr(&configured.settings.entry.log)?;
    let own_path = sys::own_path().map_err(|e| Failure::new(exit::SYSTEM, e.to_string()))?;
    let entry = configured.settings.entry.clone();
    let mut boot = Boot {
        env: configured.env.clone(),
        helper_env: Vec::new(),
        kept: None,
        own_path,
        plan: None,
        document: None,
        runtime: None,
        google: configured.settings.secrets.google.clone(),
        locks: None,
        migrate: entry.migrate.clone(),
        signal_group: entry.signal_group,
        inherited,
        identity: entry.user.as_deref().map(Identity::resolve).transpose()?.flatten(),
        app,
    };
    if let Some(above) = running::above(&configured) {
        report::line(format_args!(
            "the litestream-entry above (pid {}) replicates already: this one only runs the app; name litestream-entry once, in ENTRYPOINT or in the command",
            above.pid
        ));
        let rules = plain_rules(&entry, !boot.app.is_empty());
        let rules = Rules { migrate: None, rollback: false, rewrite: Vec::new(), serves: false, check: None, ..rules };
        return Ok(supervise::run(Boot { identity: None, migrate: None, ..boot }, rules, signals));
    }
    boot.identity.iter().for_each(Identity::own_stdio);
    let mut rules = plain_rules(&entry, !boot.app.is_empty());
    if entry.hide_secrets {
        boot.env.retain(|entry| !settings::holds_secret(plan::name_of(entry)));
    }
    if let Source::Nothing(why) = &configured.settings.source {
        if !rules.app {
            return Err(Failure::new(exit::CONFIG, why.clone()));
        }
        report::line(format_args!("{why}: NOTHING IS REPLICATED"));
        if entry.http.is_some() {
            report::line("LITESTREAM_ENTRY_HTTP: nothing is served, since nothing is replicated");
        }
        return Ok(supervise::run(boot, rules, signals));
    }
    Facilities::enough_descriptors()?.iter().for_each(report::line);
    if let Err(error) = sys::ensure_dev_null() {
        report::line(format_args!("/dev/null is missing and cannot be made ({error}): litestream will not start without it"));
    }
    let (planned, runtime) = configured.plan(entry.runtime_dir.as_deref())?;
    boot.kept = rotation::keep(&configured, &runtime.path, &planned.document);
    // Where secrets are in files, each helper makes its own of ours.
    boot.helper_env = if boot.kept.is_some() { configured.env.clone() } else { configured.helper_environment(&runtime.path) };
    for note in planned.notes.iter().chain(&planned.findings) {
        report::line(note);
    }
    let plan = planned.plan;
    make_directories(&plan, boot.identity.as_ref())?;
    if let Some(job) = &entry.job {
        if !rules.app {
            return Err(Failure::new(exit::USAGE, format!("{}: a job needs a command to run; name one behind `--`", job.from)));
        }
        (rules.job, rules.migrate, rules.rollback) = (true, None, false);
    }
    let locks = if rules.job { None } else { take_locks(&plan)? };
    replicate_by(&mut rules, &plan, locks.is_some());
    for line in plan.lines() {
        report::line(line);
    }
    if entry.export_paths {
        let paths = plan.exported_paths();
        boot.env.retain(|entry| !paths.iter().any(|path| plan::name_of(path) == plan::name_of(entry)));
        boot.env.extend(paths);
    }
    boot.locks = locks;
    boot.plan = Some(plan);
    boot.document = Some(planned.document);
    boot.runtime = Some(runtime);
    let_in(&boot)?;
    if let (Some(job), Some(plan)) = (&entry.job, &boot.plan) {
        let held = plan.locked().iter().any(|d| supervise::lock::is_held(&d.path));
        let (first, last) = job::words(job, job::place(boot.is_here(), held), entry.migrate.is_some());
        report::line(first);
        rules.last_words = last;
        return Ok(supervise::run(boot, rules, signals));
    }
    rules.here = boot.is_here();
    Ok(supervise::run(boot, rules, signals))
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
