//! `status`: how each database and its backup stand. Must never change anything.

use std::io::Write;
use std::time::Duration;

use clap::ArgMatches;

use super::context::{Context, chosen, context, paths};
use crate::exit::Failure;
use crate::interrupt;
use crate::status::{self, show};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(5);
/// Clears a terminal from its first line on (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows the databases that are named, or all.
///
/// # Errors
/// 78 where nothing is configured; 66 for a name that is no database's.
pub(super) fn run(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let mut context = context(flags, &paths(matches))?;
    if matches.get_many::<String>("db").is_some() {
        context.plan.databases = chosen(&context.plan, matches)?;
    }
    let json = matches.get_flag("json");
    if !matches.get_flag("watch") {
        show_once(&context, json, "")?;
        return Ok(0);
    }
    // Who has closed the other end has seen enough.
    while show_once(&context, json, if json { "" } else { CLEAR })? {
        let until = std::time::Instant::now() + EVERY;
        while std::time::Instant::now() < until {
            interrupt::check()?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(0)
}

/// Whether anybody reads it.
fn show_once(context: &Context, json: bool, before: &str) -> Result<bool, Failure> {
    let overview = status::gather(&context.plan, true);
    interrupt::check()?;
    let text = if json { show::json(&overview) } else { show::text(&overview) };
    Ok(writeln!(std::io::stdout(), "{before}{}", text.trim_end()).is_ok())
}
