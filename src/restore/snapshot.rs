//! A snapshot that stands before all that is in a replica, so that a restore begins with it. Must never be made beside another Litestream.

use std::ffi::OsString;
use std::time::Instant;

use crate::litestream::{Ability, call};
use crate::plan::{Database, Plan};
use crate::{pin, runtime};

/// Puts a full snapshot into the replica, by a Litestream of its own (0.5): a restore begins with it, whatever is there besides.
///
/// # Errors
/// Litestream's reason, or that it was not there by then.
pub fn force(plan: &Plan, database: &Database, by: Instant) -> Result<(), String> {
    if !plan.litestream.can(Ability::Once) {
        return Err(plan.litestream.lacks("single pass", Ability::Once));
    }
    let config = runtime::pass_config(plan, database, None)?;
    let mut args: Vec<OsString> = vec!["replicate".into()];
    args.extend(call::Config { path: config.path(), expand: false }.flags());
    args.extend(["-once".into(), "-force-snapshot".into()]);
    let _held = pin::for_a_pass(&database.path, by);
    match call::run(&plan.litestream, &args, by) {
        Ok(Some(output)) if output.ended.ok() => Ok(()),
        Ok(Some(output)) => Err(output.reason()),
        Ok(None) => Err("the replica does not answer in time".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
