//! `sync`: waits until the replica has everything. Must never call Litestream's own `sync`, which makes gaps in the backup beside an app that
//! writes.

use clap::ArgMatches;

use super::context::{chosen, context, paths};
use super::timeout;
use super::verify::prove_all;
use crate::exit::Failure;
use crate::verify::Options;

/// Waits until a row that is written now has come back from the replica: then all before it is there.
///
/// # Errors
/// 66 for a name that is no database's; the plan's.
pub(super) fn run(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let context = context(flags, &paths(matches))?;
    let options = Options { timeout: timeout(matches)?, quick: true, read_only: false };
    Ok(prove_all(&context.plan, &chosen(&context.plan, matches)?, &options, |database, outcome| {
        let proof = outcome.as_ref().ok()?;
        Some(format!("{}: everything is in {} ({:.2} s)", database.alias, database.replica, proof.total().as_secs_f32()))
    }))
}
