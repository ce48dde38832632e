//! `version`. Must never fail.

use super::print;
use crate::configured::Configured;
use crate::{litestream, sys};

/// Prints the versions of this program, Litestream and SQLite.
pub(super) fn run(flags: Vec<(String, String)>) -> u8 {
    let configured = Configured::read(flags).ok().and_then(|c| c.settings.litestream);
    let litestream = match litestream::find(configured.as_deref()) {
        Ok(found) => format!("{} ({})", found.version, found.path.display()),
        Err(failure) => failure.message,
    };
    let own = sys::own_path().map(|p| p.display().to_string()).unwrap_or_default();
    print(&format!("litestream-entry {} ({own})\nlitestream {litestream}\nsqlite {}", env!("CARGO_PKG_VERSION"), rusqlite::version()));
    0
}
