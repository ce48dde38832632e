//! `init`: the configuration as a file. Must never overwrite a file that this program did not write.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::config::planned;
use super::context::configured;
use super::print;
use crate::coded::Coded;
use crate::config::HEADER;
use crate::exit::{self, Failure};
use crate::runtime;
use crate::settings::Source;

/// Where the file is that Litestream itself would read.
const USUAL: &str = "/etc/litestream.yml";

/// Writes the configuration for a Litestream that runs without this program.
///
/// # Errors
/// 78 where a file of somebody else's is in use or in the way; 71 where it cannot be written.
pub(super) fn run(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let configured = configured(flags)?;
    if let Source::File(path) = &configured.settings.source {
        return Err(Failure::new(exit::CONFIG, format!("{} is in use already; move it away, or unset LITESTREAM_CONFIG", path.display())));
    }
    let planned = planned(&configured)?;
    let path = PathBuf::from(matches.get_one::<OsString>("config").cloned().unwrap_or_else(|| USUAL.into()));
    let is_ours = |path: &Path| std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(HEADER));
    if path.exists() && !is_ours(&path) && !matches.get_flag("force") {
        return Err(Failure::new(
            exit::CONFIG,
            format!("{}: not written by litestream-entry; move it away, or overwrite it with --force", path.display()),
        ));
    }
    runtime::write_anywhere(&path, &planned.document.text()).about(path.display()).coded(exit::SYSTEM)?;
    print(&format!("{}: written, {} database(s)", path.display(), planned.plan.databases.len()));
    Ok(0)
}
