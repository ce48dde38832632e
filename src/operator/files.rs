//! `config` and `init`: what became of the variables, for people, programs, and as a file. Must never show a secret,
//! nor overwrite a file that this program did not write.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use crate::config::{HEADER, Style};
use crate::configured::Configured;
use crate::exit::{self, Failure};
use crate::facilities::Facilities;
use crate::plan::{self, Planned};
use crate::settings::Source;
use crate::{litestream, report, runtime};

/// Where the file is that Litestream itself would read.
const USUAL: &str = "/etc/litestream.yml";

fn planned(configured: &Configured) -> Result<Planned, Failure> {
    let settings = &configured.settings;
    let litestream = litestream::find(settings.litestream.as_deref())?;
    let place = settings.entry.runtime_dir.clone().unwrap_or_else(|| PathBuf::from(runtime::USUAL));
    plan::make(settings, litestream, &place, configured.users_file()?.as_deref(), &Facilities::ALL)
}

/// Prints the configuration, or checks it.
pub(super) fn config(configured: &Configured, matches: &ArgMatches) -> Result<u8, Failure> {
    if let (Source::Nothing(why), true) = (&configured.settings.source, matches.get_flag("check")) {
        super::print(&format!("{why}: the app would run plainly"));
        return Ok(0);
    }
    let planned = planned(configured)?;
    for line in planned.notes.iter().chain(&planned.findings) {
        report::line(line);
    }
    if matches.get_flag("check") {
        let found = planned.findings.len();
        super::print(&match found {
            0 => format!("{}: ok", planned.plan.config.display()),
            _ => format!("{}: {found} to be corrected", planned.plan.config.display()),
        });
        return Ok(if found == 0 { 0 } else { exit::CONFIG });
    }
    let text = if matches.get_flag("json") {
        json(&planned.document.redacted())
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

/// Writes the configuration for a Litestream that runs without this program.
pub(super) fn init(configured: &Configured, matches: &ArgMatches) -> Result<u8, Failure> {
    if let Source::File(path) = &configured.settings.source {
        return Err(Failure::new(exit::CONFIG, format!("{} is in use already; move it away, or unset LITESTREAM_CONFIG", path.display())));
    }
    let planned = planned(configured)?;
    let path = PathBuf::from(matches.get_one::<std::ffi::OsString>("config").cloned().unwrap_or_else(|| USUAL.into()));
    let is_ours = |path: &Path| std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(HEADER));
    if path.exists() && !is_ours(&path) && !matches.get_flag("force") {
        return Err(Failure::new(
            exit::CONFIG,
            format!("{}: not written by litestream-entry; move it away, or overwrite it with --force", path.display()),
        ));
    }
    runtime::write_anywhere(&path, &planned.document.text()).map_err(|e| Failure::new(exit::SYSTEM, format!("{}: {e}", path.display())))?;
    super::print(&format!("{}: written, {} database(s)", path.display(), planned.plan.databases.len()));
    Ok(0)
}

/// A tree as JSON: YAML's flow style with every key and text quoted.
fn json(value: &serde_yaml::Value) -> String {
    use crate::litestream::socket::json_string;
    use serde_yaml::Value;
    fn write(value: &Value) -> String {
        match value {
            Value::Mapping(inner) => {
                let pairs: Vec<String> =
                    inner.iter().map(|(k, v)| format!("{}:{}", json_string(k.as_str().unwrap_or_default()), write(v))).collect();
                format!("{{{}}}", pairs.join(","))
            }
            Value::Sequence(items) => format!("[{}]", items.iter().map(write).collect::<Vec<_>>().join(",")),
            Value::String(text) => json_string(text),
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) => number.to_string(),
            _ => "null".to_owned(),
        }
    }
    write(value) + "\n"
}
