//! Container entrypoint for apps on SQLite.
//!
//! A boot is a line of stages, each a value that the next one takes:
//!
//! ```text
//! environment → settings::Settings → plan::Plan → config::Document → worker::prepare → supervise
//! ```
//!
//! `docs/architecture.md` has the layers, which `tests/layers.rs` holds the imports to, and who talks to whom.
//!
//! * [`cli`] takes the command line apart; [`settings`] says what the variables mean; [`plan`] and [`config`] what follows, and [`configured`] leaves it.
//! * [`supervise`] is PID 1: a loop around the pure [`supervise::machine`]; [`keeper`] is the process that touches the disks for it, from the boot on.
//! * [`worker`] is everything that could block or crash, in processes of their own; [`protocol`] is what all these say to each other.
//! * [`lint`] reads a configuration file of the user's own and says what to write instead.
//! * [`restore`], [`continuity`] and [`verify`] decide about databases and backups; [`litestream`] calls the binary, [`sqlite`] opens databases.
//! * [`lock`] is one replicator per database; [`paths`] refuses what is no place for a database.
//! * [`habits`] sees and notes an app that a pinned WAL would end.
//! * [`state`] is what PID 1 leaves for those who ask; [`status`] is what is made of it, by [`position`].
//! * [`watch`] sees a database's file that is replaced, and a replica that loses what it had, or never gets it ([`laps`]); [`watched`] is what it
//!   keeps.
//! * [`rotation`] reads secrets in files again, [`kept`] is where PID 1's helpers find them.
//! * [`running`] finds the boot that runs here. [`operator`] is what `docker exec` runs; [`notify`] calls what is to know how a check went.

pub mod cli;
pub mod coded;
pub mod config;
pub mod configured;
pub mod continuity;
pub mod exit;
pub mod facilities;
pub mod files;
pub mod habits;
pub mod identity;
pub mod interrupt;
pub mod job;
pub mod json;
pub mod keeper;
pub mod kept;
pub mod laps;
pub mod layout;
pub mod lint;
pub mod litestream;
pub mod lock;
pub mod mark;
pub mod model;
pub mod notify;
pub mod operator;
pub mod pages;
pub mod parallel;
pub mod paths;
pub mod pattern;
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

use std::ffi::OsString;
use std::io::Write;

use cli::{Invocation, Verb};
use exit::Failure;
use nix::errno::Errno;
use protocol::Job;
use supervise::Boot;
use supervise::signals::Signals;

/// Runs the program; the process's exit code.
pub fn run(args: &[OsString]) -> u8 {
    let code = match args.split_first() {
        Some((word, rest)) if protocol::is_internal(word) => match Job::parse(word) {
            Some(Job::Keep) => keeper::run(rest),
            Some(job) => worker::run(job, rest),
            None => {
                report::line(format_args!("{}: no such command", word.to_string_lossy()));
                exit::USAGE
            }
        },
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
            operator::native::run(native, &words, flags)
        }
        Invocation::Command { verb: Verb::Replicate, matches, flags } => replicate(&matches, flags),
        Invocation::Command { verb, matches, flags } => {
            if operator::asks_the_boot(verb) {
                running::become_the_boots(args);
            }
            operator::run(verb, &matches, flags)
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
    if matches.get_flag("once") { operator::run(Verb::Replicate, matches, flags) } else { boot(app, flags) }
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
