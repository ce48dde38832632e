//! `resnapshot`: begins backups anew with a full snapshot, and proves them. Must never begin one where PID 1 does not answer.

use std::time::Instant;

use clap::ArgMatches;

use super::context::{chosen, context, paths};
use super::timeout;
use super::verify::prove_all;
use crate::exit::Failure;
use crate::resnapshot;
use crate::verify::Options;
use crate::watched::Owed;

/// Those that are named; on 0.5 Litestream starts again for all.
///
/// # Errors
/// 66 for a name that is no database's; 71 where PID 1 cannot be asked; the plan's.
pub(super) fn run(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let context = context(flags, &paths(matches))?;
    let (plan, databases, timeout) = (&context.plan, chosen(&context.plan, matches)?, timeout(matches)?);
    let began = Instant::now();
    resnapshot::begin(plan, &databases, timeout, || resnapshot::ask_pid_1(&plan.runtime))?;
    let options = Options { timeout: timeout.saturating_sub(began.elapsed()), quick: false, read_only: false };
    Ok(prove_all(plan, &databases, &options, |database, outcome| {
        let proof = outcome.as_ref().ok()?;
        Owed::settle(plan, &database.path);
        Some(format!("{}: a new snapshot is in {}, and verified ({:.2} s)", database.alias, database.replica, proof.total().as_secs_f32()))
    }))
}
