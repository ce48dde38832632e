//! `__probe`: whether Litestream refuses its configuration or only cannot reach a replica. Must never
//! touch the network.

use std::time::{Duration, Instant};

use crate::exit::{self, Failure};
use crate::litestream::call;
use crate::plan::Plan;
use crate::report;
use crate::sys::limits;

/// `litestream databases` reads the configuration as `replicate` does, and goes no further.
///
/// # Errors
/// 78 with Litestream's reason where it refuses the configuration; 71 where it cannot be run.
pub fn run(plan: &Plan) -> Result<(), Failure> {
    let mut args = vec!["databases".into()];
    args.extend(plan.config().flags());
    let output = call::run(&plan.litestream, &args, Instant::now() + Duration::from_secs(10))
        .map_err(|e| Failure::new(exit::SYSTEM, format!("{}: cannot be run: {e}", plan.litestream.path.display())))?;
    match output {
        Some(output) if !output.ended.ok() => match limits::why_go_ended(&output.said) {
            Some(why) => {
                report::line(format_args!("litestream cannot start: {why}"));
                Ok(())
            }
            None => Err(Failure::new(
                exit::CONFIG,
                format!("litestream refuses its configuration {}: {}", plan.config.display(), output.reason()),
            )),
        },
        // An answer that does not come says nothing about the configuration.
        Some(_) | None => Ok(()),
    }
}
