//! `__watch`: keeps the list of what is in directories of databases while the app runs. Must never take a directory that
//! cannot be read for one that is empty.

use std::time::Duration;

use crate::plan::Plan;
use crate::report;
use crate::tenants::{self, List, Scan};

/// How often the directories are looked at: as often as Litestream looks at its databases.
const EVERY: Duration = Duration::from_secs(1);

/// Looks until it is killed. What cannot be noted is said, and tried again.
pub(super) fn run(plan: &Plan) -> ! {
    let mut known: Vec<Scan> = plan.directories.iter().map(|d| tenants::scan(d).unwrap_or_default()).collect();
    let mut said = String::new();
    loop {
        std::thread::sleep(EVERY);
        for (directory, known) in plan.directories.iter().zip(&mut known) {
            let Ok(now) = tenants::scan(directory) else { continue };
            now.odd.difference(&known.odd).for_each(report::line);
            known.odd = now.odd;
            if now.names == known.names || !tenants::is_listed(plan, directory) {
                continue;
            }
            let gone: Vec<&String> = known.names.difference(&now.names).collect();
            // All of several at once is a volume that has gone, not an app that has tidied up.
            let gone = if now.names.is_empty() && gone.len() > 1 { Vec::new() } else { gone };
            match List::open(directory).and_then(|list| list.add(&now.names).and_then(|()| list.remove(&gone))) {
                Ok(()) => known.names = now.names,
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
