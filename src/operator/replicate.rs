//! `replicate -once`. Must never run beside a Litestream that replicates: two that write one replica destroy it.

use std::ffi::OsString;
use std::time::Duration;

use clap::ArgMatches;

use super::context::context;
use super::native::{hand_over, heal};
use super::not_live;
use crate::continuity;
use crate::exit::{self, Failure};
use crate::litestream::{Ability, Format};
use crate::restore::present::{self, Known};

/// 0.5's single pass over every database.
///
/// # Errors
/// 71 where another process replicates a database; 64 on 0.3.
pub(super) fn once(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
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
