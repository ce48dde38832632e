//! `config`: what became of the variables, for people and programs. Must never show a secret.

use std::io::Write;
use std::path::PathBuf;

use clap::ArgMatches;

use super::context::configured;
use super::print;
use crate::config::Style;
use crate::configured::Configured;
use crate::exit::{self, Failure};
use crate::facilities::Facilities;
use crate::json::Json;
use crate::plan::{self, Planned};
use crate::settings::Source;
use crate::{litestream, report, runtime};

/// What a boot would be by the variables.
pub(super) fn planned(configured: &Configured) -> Result<Planned, Failure> {
    let settings = &configured.settings;
    let litestream = litestream::find(settings.litestream.as_deref())?;
    let place = settings.entry.runtime_dir.clone().unwrap_or_else(|| PathBuf::from(runtime::USUAL));
    plan::make(settings, litestream, &place, configured.users_file()?.as_deref(), &Facilities::ALL)
}

/// Prints the configuration, or checks it.
///
/// # Errors
/// 78 with what is wrong in it.
pub(super) fn run(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let configured = &configured(flags)?;
    if let (Source::Nothing(why), true) = (&configured.settings.source, matches.get_flag("check")) {
        print(&format!("{why}: the app would run plainly"));
        return Ok(0);
    }
    let planned = planned(configured)?;
    for line in planned.notes.iter().chain(&planned.findings) {
        report::line(line);
    }
    if matches.get_flag("check") {
        let found = planned.findings.len();
        print(&match found {
            0 => format!("{}: ok", planned.plan.config.display()),
            _ => format!("{}: {found} to be corrected", planned.plan.config.display()),
        });
        return Ok(if found == 0 { 0 } else { exit::CONFIG });
    }
    let text = if matches.get_flag("json") {
        format!("{}\n", Json::from(&planned.document.redacted()))
    } else if matches.get_flag("explain") {
        // The keys that Litestream gets in its environment are named here alone.
        let lines: Vec<String> = planned.plan.lines().iter().map(|line| format!("# {line}")).collect();
        format!("{}\n{}", lines.join("\n"), planned.document.written(Style::Explained))
    } else {
        planned.document.written(Style::Redacted)
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(0)
}
