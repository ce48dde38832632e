//! Litestream's own commands, by alias, path or URL. Must never let one go on with a gap that it cannot know of.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::context::context;
use crate::coded::Coded;
use crate::continuity;
use crate::exit::{self, Ended, Failure};
use crate::litestream::commands::{self, Native};
use crate::lock;
use crate::mark::Mark;
use crate::plan::{Database, Plan};
use crate::sqlite::beside_app;

/// Runs one of Litestream's own commands; its exit code.
///
/// # Errors
/// 64 where the running line does not have it; 66 for a name that is no database's.
pub fn run(native: &Native, args: &[OsString], flags: Vec<(String, String)>) -> Result<u8, Failure> {
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
            written.about(&database.alias).coded(exit::SYSTEM)?;
        }
    }
    Ok(code)
}

/// Runs Litestream in our place; its exit code.
pub(super) fn hand_over(plan: &Plan, words: &[OsString]) -> Result<u8, Failure> {
    let mut command = std::process::Command::new(&plan.litestream.path);
    command.args(words).env_clear().envs(plan.litestream.env.iter().flatten().cloned());
    let status = command.status().about(plan.litestream.path.display()).coded(exit::SYSTEM)?;
    Ok(match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()).code(),
    })
}

/// What the app wrote while Litestream looked away is in no file of its own: with an emptied WAL it begins with a snapshot.
pub(super) fn heal(database: &Database) -> Result<(), Failure> {
    beside_app::truncate(&database.path, Instant::now() + Duration::from_secs(5))
        .map_err(|why| Failure::new(exit::SYSTEM, format!("{}: {why}: replication would go on with a gap; try again", database.alias)))
}
