//! The app that writes down each signal that it gets (`tests/apps/signals.py`).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::container::Recipe;
use super::site::Site;
use super::{PATIENCE, eventually, when};

/// USR2 ends the app with this code.
pub(crate) const CODE: i32 = 7;

/// What the app has written down.
pub(crate) struct Log(PathBuf);

/// The app, with time enough to get a TERM and go on, and its log.
pub(crate) fn app(site: &Site) -> (Recipe, Log) {
    let log = site.path("signals");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/apps/signals.py");
    let app: [OsString; 3] = ["/usr/bin/python3".into(), script.into(), log.clone().into()];
    let recipe = site.recipe().env("LITESTREAM_ENTRY_STOP_TIMEOUT", "60s");
    (recipe.app(app), Log(log))
}

impl Log {
    /// Waits until the app gets signals.
    #[track_caller]
    pub(crate) fn ready(&self) {
        self.shows("ready", 1);
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.0).unwrap_or_default().lines().map(ToOwned::to_owned).collect()
    }

    /// Waits until a line has been written so many times.
    #[track_caller]
    pub(crate) fn shows(&self, line: &str, count: usize) {
        eventually(format!("{count} × {line:?} in the app's log"), PATIENCE, || {
            when(self.lines().iter().filter(|it| *it == line).count() >= count)
        });
    }
}
