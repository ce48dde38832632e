//! The Litestream binary: where it is, which line, how it is called. Must never interpret databases.

pub mod backup;
pub mod buildinfo;
pub mod call;
pub mod chain;
pub mod commands;
pub mod duration;
pub mod expand;
pub mod folder;
pub mod kind;
pub mod line;
pub mod local;
pub mod ltx;
pub mod lz4;
pub mod schema;
pub mod silence;
pub mod socket;
pub mod verdict;

pub use kind::ReplicaKind;
pub use line::{Ability, Format, Line};

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::exit::{self, Failure};
use crate::sys::{self, Found};

/// A released version, `0.5.17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    major: u16,
    minor: u16,
    patch: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim().trim_start_matches('v');
        let text = text.split(['-', '+', ' ']).next().unwrap_or_default();
        let mut parts = text.splitn(3, '.').map(|p| p.parse::<u16>().map_err(drop));
        let mut next = || parts.next().unwrap_or(Err(()));
        Ok(Self { major: next()?, minor: next()?, patch: next()? })
    }
}

/// A Litestream binary that was found and recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Litestream {
    /// Absolute path.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    /// Its line.
    pub line: Line,
    /// The environment it is called with, where that is not ours.
    #[serde(skip)]
    pub env: Option<Vec<(OsString, OsString)>>,
}

/// Finds and recognises the binary: `LITESTREAM_BIN`, else `litestream` in PATH.
///
/// # Errors
/// 78 where it is missing, not executable, or not a Litestream that this program knows.
pub fn find(configured: Option<&Path>) -> Result<Litestream, Failure> {
    let name = configured.map_or(OsStr::new("litestream"), Path::as_os_str);
    let from = if configured.is_some() { "LITESTREAM_BIN" } else { "PATH" };
    let shown = name.to_string_lossy();
    let wrong = |what: String| Failure::new(exit::CONFIG, what);
    let path = match sys::find_program(name) {
        Found::Executable(path) => std::path::absolute(&path).unwrap_or(path),
        Found::NotExecutable(path, errno) => {
            return Err(wrong(format!("{from}: {} cannot be executed ({}); name the litestream binary", path.display(), errno.desc())));
        }
        Found::Nowhere => {
            return Err(wrong(format!("{from}: {shown} not found; install Litestream or set LITESTREAM_BIN to its path")));
        }
    };
    let text = match buildinfo::read(&path) {
        Some(info) if !info.litestream => {
            return Err(wrong(format!("{from}: {} is not Litestream; name the litestream binary", path.display())));
        }
        Some(buildinfo::BuildInfo { version: Some(version), .. }) => version,
        // A wrapper script or a packed binary says it only when it is run.
        _ => ask(&path),
    };
    let version = Version::from_str(&text)
        .map_err(|()| wrong(format!("{from}: {} is not Litestream ({}); name the litestream binary", path.display(), said(&text))))?;
    let line = version
        .line()
        .ok_or_else(|| wrong(format!("{from}: Litestream {version} is not supported; use 0.5.x (0.5.15 or later) or 0.3.13")))?;
    Ok(Litestream { path, version, line, env: None })
}

/// What `version` says, if it ends within a few seconds.
fn ask(path: &Path) -> String {
    // Neither version nor line matter for the call.
    let unknown = Litestream { path: path.to_owned(), version: Version { major: 0, minor: 0, patch: 0 }, line: Line::V05, env: None };
    let output = call::run(&unknown, &["version".into()], Instant::now() + Duration::from_secs(5));
    output.ok().flatten().map(|o| o.stdout.trim().to_owned()).unwrap_or_default()
}

fn said(text: &str) -> String {
    match text.lines().next() {
        Some(first) if !first.is_empty() => format!("`version` says {:?}", first.chars().take(40).collect::<String>()),
        _ => "`version` says nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_spell_their_version_differently() {
        let v5: Version = "0.5.17".parse().unwrap();
        let v3: Version = "v0.3.13".parse().unwrap();
        assert_eq!((v5.line(), v3.line()), (Some(Line::V05), Some(Line::V03)));
        for bad in ["", "litestream", "0.5", "0.5.x", "(devel)"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_binary_that_is_none_names_the_variable_and_what_to_do() {
        for (path, says) in
            [("/nowhere/litestream", "not found"), ("/etc/passwd", "cannot be executed"), ("/bin/true", "is not Litestream")]
        {
            let failure = find(Some(Path::new(path))).unwrap_err();
            assert_eq!(failure.code, exit::CONFIG);
            assert!(failure.message.contains("LITESTREAM_BIN") && failure.message.contains(says), "{failure}");
        }
    }
}
