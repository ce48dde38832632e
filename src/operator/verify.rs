//! `verify`: proves backups, several at once; `sync` and `resnapshot` end with it. Must never say of a backup what was not looked at.

use std::time::Instant;

use clap::ArgMatches;

use super::context::{chosen, context, paths};
use super::{print, timeout};
use crate::exit::{self, Failure};
use crate::litestream::silence::Silence;
use crate::parallel::in_parallel;
use crate::plan::{Database, Plan};
use crate::status::verified::Verified;
use crate::verify::{self, Options, Proof, Unproved};
use crate::worker::memory;
use crate::{interrupt, report, runtime};

/// Proves those that are named.
///
/// # Errors
/// 66 for a name that is no database's; the plan's.
pub(super) fn run(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let context = context(flags, &paths(matches))?;
    let options = Options { timeout: timeout(matches)?, quick: matches.get_flag("quick"), read_only: matches.get_flag("read-only") };
    let json = matches.get_flag("json");
    Ok(prove_all(&context.plan, &chosen(&context.plan, matches)?, &options, |database, outcome| match outcome {
        Ok(proof) if json => Some(proof.json(database)),
        Ok(proof) => Some(proof.text(database)),
        Err(Unproved { failure, .. }) => json.then(|| verify::failure_json(database, failure)),
    }))
}

/// Proves several at once, as many as the free memory allows; says what there is to print of each, in their order.
pub(super) fn prove_all(
    plan: &Plan,
    databases: &[Database],
    options: &Options,
    text: impl Fn(&Database, &Result<Proof, Unproved>) -> Option<String>,
) -> u8 {
    let silence = Silence::default();
    let outcomes = in_parallel(databases, memory::restores_at_once(), |database| {
        if let Some(why) = silence.of(&database.replica) {
            return Err(Unproved::unasked(database, &why));
        }
        let began = Instant::now();
        let outcome = verify::verify(plan, database, options);
        if outcome.as_ref().is_err_and(Unproved::is_silent) {
            silence.note(&database.replica);
        }
        if !options.quick && interrupt::check().is_ok() && runtime::is_held(&plan.runtime) {
            Verified::note(plan, &database.path, began.elapsed(), &outcome);
        }
        outcome
    });
    let mut code = if outcomes.len() < databases.len() { exit::INTERNAL } else { 0 };
    for (database, outcome) in databases.iter().zip(&outcomes) {
        if let Some(text) = text(database, outcome) {
            print(&text);
        }
        if let Err(Unproved { failure, .. }) = outcome {
            report::lines(&failure.message);
            code = failure.code;
        }
    }
    code
}
