//! `status` and `health`: what `docker exec` asks of the boot that runs here. Must never change anything.

use std::io::Write;
use std::time::Duration;

use clap::ArgMatches;

use super::{Context, chosen, context, duration, left_plan, live, paths, print};
use crate::exit::{self, Failure};
use crate::interrupt;
use crate::settings::Source;
use crate::status::health::{Limits, judge};
use crate::status::{self, show};

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(5);
/// Clears a terminal from its first line on (ECMA-48: CUP, ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows the databases that are named, or all.
///
/// # Errors
/// 78 where nothing is configured; 66 for a name that is no database's.
pub(super) fn status(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
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

/// Whether all is well: 0 with a line on stdout, or 1 with one on stderr.
///
/// # Errors
/// 1 where it is not.
pub(super) fn health(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let (configured, place) = live(flags);
    let unwell = |why: &str| Err(Failure::new(exit::UNWELL, why.to_owned()));
    let Some(place) = place else {
        return match configured.as_ref().map(|c| &c.settings.source) {
            Ok(Source::Nothing(why)) => {
                print(&format!("ok: {why}: nothing is replicated"));
                Ok(0)
            }
            _ => unwell("no litestream-entry runs here as a container's entrypoint; ask in its container, as the same user"),
        };
    };
    let Some(plan) = left_plan(&place) else { return unwell("starting: the configuration is read") };
    let limits = Limits {
        lag: duration(matches, "max-lag")?.unwrap_or(plan.entry.max_lag),
        verified_within: duration(matches, "require-verified-within")?,
    };
    match judge(&status::current(&plan), &limits) {
        Ok(line) => {
            print(&line);
            Ok(0)
        }
        Err(why) => unwell(&why),
    }
}
