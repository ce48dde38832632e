//! What an operator runs beside PID 1, or without one, a file a command. Must never replace a database that anybody has open.

mod config;
mod context;
mod diff;
mod health;
mod init;
pub mod native;
mod replicate;
mod resnapshot;
mod restore;
mod status;
mod sync;
mod verify;
mod version;

use std::io::Write;
use std::time::Duration;

use clap::ArgMatches;

use crate::cli::Verb;
use crate::exit::{self, Failure};
use crate::plan::Database;
use crate::sqlite::locks;
use crate::{interrupt, lock, pages, settings};

/// Whether a command reads what the boot here has left, as the user that may.
pub fn asks_the_boot(verb: Verb) -> bool {
    match verb {
        // The last is a boot itself, but for `-once`, where there is none.
        Verb::Version | Verb::Config | Verb::Init | Verb::Replicate => false,
        Verb::Restore | Verb::Verify | Verb::Status | Verb::Health | Verb::Diff | Verb::Resnapshot | Verb::Sync => true,
    }
}

/// Runs one command; its exit code.
///
/// # Errors
/// What is wrong in one line, with its code.
pub fn run(verb: Verb, matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    // Litestream has the signals itself where it works in our place.
    if verb != Verb::Replicate {
        interrupt::watch();
    }
    match verb {
        Verb::Replicate => replicate::once(matches, flags),
        Verb::Restore => restore::run(matches, flags),
        Verb::Verify => verify::run(matches, flags),
        Verb::Status => status::run(matches, flags),
        Verb::Health => health::run(matches, flags),
        Verb::Diff => diff::run(matches, flags),
        Verb::Resnapshot => resnapshot::run(matches, flags),
        Verb::Sync => sync::run(matches, flags),
        Verb::Config => config::run(matches, flags),
        Verb::Init => init::run(matches, flags),
        Verb::Version => Ok(version::run(flags)),
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

fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

/// Nobody replicates the database and nobody has it open, and none can begin.
fn not_live(database: &Database, instead: &str) -> Result<lock::Locks, Failure> {
    let refused = |who: &str| Err(Failure::new(exit::SYSTEM, format!("{}: {who}: {instead}", database.alias)));
    let Ok(locks) = lock::Locks::take(std::slice::from_ref(database))? else {
        return refused("a running litestream-entry replicates it");
    };
    if locks::is_open_elsewhere(&database.path) { refused("another process has it open") } else { Ok(locks) }
}
