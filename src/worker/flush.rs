//! `__flush`: the last sync, confirmed. Must never call Litestream's sync while anything may still
//! write, and never take an exit code of 0.5's `replicate` for proof (it is 0 in a black hole).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Channel, Message, in_parallel, pass};
use crate::config::Document;
use crate::continuity::{self, Mark, Need};
use crate::exit::Failure;
use crate::litestream::{Line, call, socket};
use crate::plan::{Database, Plan};
use crate::restore::{self, Local};
use crate::runtime;

/// Pause before asking again.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// `socket MILLISECONDS`: asks the Litestream that runs. `pass MILLISECONDS`: makes a pass of its own,
/// after Litestream's end.
///
/// # Errors
/// None: what is not saved is told to PID 1.
pub fn run(plan: &Plan, channel: &Channel, args: &[OsString]) -> Result<(), Failure> {
    let word = |at: usize| args.get(at).and_then(|a| a.to_str()).unwrap_or_default();
    let millis = word(1).parse().unwrap_or(1000);
    let deadline = Instant::now() + Duration::from_millis(millis);
    let databases: Vec<Database> = plan.databases.iter().filter(|d| has_content(&d.path)).cloned().collect();
    let unsaved = match (word(0), &plan.socket, plan.litestream.line) {
        _ if databases.is_empty() => Vec::new(),
        ("socket", Some(socket), _) => by_socket(&databases, socket, deadline),
        (_, _, Line::V05) => by_once(plan, &databases, deadline),
        (_, _, Line::V03) => pass::run(plan, &databases, deadline),
    };
    for (alias, why) in &unsaved {
        channel.say(&Message::Unsaved(format!("{alias}: {why}")));
    }
    for database in &databases {
        if plan.litestream.line == Line::V05
            && !unsaved.iter().any(|(alias, _)| *alias == database.alias)
            && Mark::read(&database.path) == Mark::Open
        {
            let _ = Mark::clean(&database.path).write(&database.path);
        }
    }
    channel.say(&Message::Flushed);
    Ok(())
}

/// A database that the app never made, or left without content, has nothing to lose.
fn has_content(path: &Path) -> bool {
    !matches!(restore::look(path), Ok(Local::Missing | Local::Empty))
}

/// Alias and reason of each that is not known to be saved.
pub(super) type Unsaved = Vec<(String, String)>;

fn by_socket(databases: &[Database], socket: &Path, deadline: Instant) -> Unsaved {
    let outcomes = in_parallel(databases, databases.len(), |database| {
        let mut why = "no time was left".to_owned();
        while Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            match socket::sync(socket, &database.path.to_string_lossy(), left) {
                Ok(answer) if answer.confirmed() => return None,
                Ok(answer) if answer.error.is_empty() => why = format!("the replica is at {} of {}", answer.replicated_txid, answer.txid),
                Ok(answer) => why = answer.error,
                // Refused in its first 40 ms: not listening yet.
                Err(error) => why = error,
            }
            std::thread::sleep(PAUSE);
        }
        Some((database.alias.clone(), why))
    });
    outcomes.into_iter().flatten().collect()
}

/// None of them, for one reason.
pub(super) fn all(databases: &[Database], why: &str) -> Unsaved {
    databases.iter().map(|d| (d.alias.clone(), why.to_owned())).collect()
}

/// Writes the configuration of a pass; its path.
pub(super) fn pass_config(plan: &Plan, databases: &[Database]) -> Result<PathBuf, String> {
    let text = fs::read_to_string(&plan.config).map_err(|e| format!("{}: {e}", plan.config.display()))?;
    let document = if plan.users_file { Document::parse_expanded(&text, &|name| std::env::var(name).ok()) } else { Document::parse(&text) };
    let existing: Vec<PathBuf> = databases.iter().map(|d| d.path.clone()).collect();
    let path = plan.runtime.join("last-pass.yml");
    runtime::write(&path, &document?.last_pass(plan.litestream.line, &existing).text()).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

/// 0.5 without a running Litestream: `replicate -once`, whose exit code has a meaning.
fn by_once(plan: &Plan, databases: &[Database], deadline: Instant) -> Unsaved {
    for database in databases {
        let need = continuity::decide(continuity::survey(&database.path, true));
        if need == Need::Truncate
            && let Err(why) = continuity::truncate(&database.path, deadline)
        {
            return all(databases, &why);
        }
    }
    let path = match pass_config(plan, databases) {
        Ok(path) => path,
        Err(why) => return all(databases, &why),
    };
    let config = call::Config { path: &path, expand: false };
    let mut args: Vec<OsString> = vec!["replicate".into()];
    args.extend(config.flags());
    args.push("-once".into());
    let mut why = "no time was left".to_owned();
    while Instant::now() < deadline {
        match call::run(&plan.litestream, &args, deadline) {
            Ok(Some(output)) if output.ended.ok() => return Vec::new(),
            Ok(Some(output)) => why = output.reason(),
            Ok(None) => "the replica does not answer in time".clone_into(&mut why),
            Err(error) => why = error.to_string(),
        }
        std::thread::sleep(PAUSE);
    }
    all(databases, &why)
}
