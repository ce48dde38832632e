//! Container entrypoint for apps on SQLite.
//!
//! A boot is a line of stages, each a value that the next one takes:
//!
//! ```text
//! environment → settings::Settings → plan::Plan → config::Document → worker::prepare → supervise
//! ```
//!
//! * [`cli`] takes the command line apart; [`settings`] says what the variables mean; [`plan`] and [`config`] what follows.
//! * [`supervise`] is PID 1: a loop around the pure [`supervise::machine`]; [`keeper`] is the process that touches the disks for it, from the boot on.
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
pub mod keeper;
pub mod laps;
pub mod layout;
pub mod lint;
pub mod litestream;
pub mod lock;
pub mod mark;
pub mod notify;
pub mod operator;
pub mod pages;
pub mod parallel;
pub mod paths;
pub mod pin;
pub mod plan;
pub mod position;
pub mod process;
pub mod progress;
pub mod protocol;
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

use cli::Invocation;
use config::Document;
use exit::Failure;
use facilities::Facilities;
use nix::errno::Errno;
use plan::{Plan, Planned};
use runtime::Runtime;
use settings::{Environment, Settings, Source, Values};
use supervise::Boot;
use supervise::signals::Signals;

/// Runs the program; the process's exit code.
pub fn run(args: &[OsString]) -> u8 {
    let code = match args.split_first() {
        // PID 1's hands on the disks, below it and above the workers.
        Some((word, rest)) if word == "__keep" => keeper::run(rest),
        Some((word, rest)) if protocol::is_internal(word) => worker::run(word, rest),
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

    /// Finds Litestream, takes a runtime directory for the boot or the command with this pid, and leaves the configuration there. `at` is told
    /// what is about to be touched.
    ///
    /// # Errors
    /// 78 or 71, in one line a problem.
    pub fn plan(&self, runtime_dir: Option<&Path>, pid: u32, at: &dyn Fn(&str)) -> Result<(Planned, Runtime), Failure> {
        let litestream = litestream::find(self.settings.litestream.as_deref())?;
        if let Source::File(path) = &self.settings.source {
            at(&path.display().to_string());
        }
        let file = self.users_file()?;
        at(&runtime_dir.unwrap_or(Path::new(runtime::USUAL)).display().to_string());
        let runtime = runtime::take(runtime_dir, self.first_database().as_deref(), pid)?;
        let socket = litestream.can(litestream::Ability::Socket).then(|| runtime.path.join(plan::SOCKET_FILE));
        let facilities = Facilities::look(socket.as_deref());
        let mut planned = plan::make(&self.settings, litestream, &runtime.path, file.as_deref(), &facilities)?;
        planned.notes.extend(facilities.lines(pid == 1));
        at(&planned.plan.directories_of_databases());
        paths::check(&planned.plan)?;
        at(&runtime.path.display().to_string());
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

fn no_signals(errno: Errno) -> Failure {
    let what = "signals cannot be waited for (sigprocmask, signalfd)";
    Failure::new(exit::SYSTEM, format!("{what}: {}: a seccomp profile or another sandbox forbids it; allow it", errno.desc()))
}

/// Boots. What may touch a disk before the first child is done by a keeper.
fn boot(app: Vec<OsString>, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    // Before anything else, so that no signal is lost.
    let signals = Signals::new().map_err(no_signals)?;
    let inherited = sys::inherited();
    report::carry();
    let own_path = sys::own_path().map_err(|e| Failure::new(exit::SYSTEM, e.to_string()))?;
    supervise::run(Boot::new(app, flags, own_path, inherited), signals)
}
