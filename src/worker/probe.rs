//! `__probe`: whether Litestream refuses its configuration or only cannot reach a replica. Must never
//! touch the network.

use std::time::{Duration, Instant};

use crate::exit::{self, Failure};
use crate::litestream::call;
use crate::plan::Plan;

/// `litestream databases` reads the configuration as `replicate` does, and goes no further.
///
/// # Errors
/// 78 with Litestream's reason where it refuses the configuration.
pub fn run(plan: &Plan) -> Result<(), Failure> {
    let mut args = vec!["databases".into()];
    args.extend(plan.config().flags());
    let output = call::run(&plan.litestream, &args, Instant::now() + Duration::from_secs(10))
        .map_err(|e| Failure::new(exit::CONFIG, format!("{}: cannot be run: {e}", plan.litestream.path.display())))?;
    match output {
        Some(output) if !output.ended.ok() => {
            Err(Failure::new(exit::CONFIG, format!("litestream refuses its configuration {}: {}", plan.config.display(), output.reason())))
        }
        // An answer that does not come says nothing about the configuration.
        Some(_) | None => Ok(()),
    }
}
