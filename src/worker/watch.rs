//! `__watch`: keeps the list of what is in directories of databases while the app runs. Must never take a directory that
//! cannot be read for one that is empty.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::plan::Plan;
use crate::report;
use crate::tenants::{self, List};

/// How often the directories are looked at: as often as Litestream looks at its databases.
const EVERY: Duration = Duration::from_secs(1);

/// Looks until it is killed. What cannot be noted is said, and tried again.
pub(super) fn run(plan: &Plan) -> ! {
    let mut known: Vec<BTreeSet<String>> = plan.directories.iter().map(|d| tenants::names_in(d).unwrap_or_default()).collect();
    let mut said = String::new();
    let mut odd: BTreeSet<String> = plan.directories.iter().flat_map(tenants::odd_names).collect();
    loop {
        std::thread::sleep(EVERY);
        let now: BTreeSet<String> = plan.directories.iter().flat_map(tenants::odd_names).collect();
        now.difference(&odd).for_each(report::line);
        odd = now;
        for (directory, known) in plan.directories.iter().zip(&mut known).filter(|(d, _)| tenants::is_listed(plan, d)) {
            let Ok(now) = tenants::names_in(directory) else { continue };
            if now == *known {
                continue;
            }
            let gone: Vec<&String> = known.difference(&now).collect();
            // All of several at once is a volume that has gone, not an app that has tidied up.
            let gone = if now.is_empty() && gone.len() > 1 { Vec::new() } else { gone };
            match List::open(directory).and_then(|list| list.add(&now).and_then(|()| list.remove(&gone))) {
                Ok(()) => *known = now,
                Err(error) => {
                    let why = format!("{}: the list of its databases cannot be kept: {error}", directory.alias);
                    if why != said {
                        report::line(&why);
                        said = why;
                    }
                }
            }
        }
    }
}
