//! This program's own file, which may be deleted or replaced while it runs (an upgrade in place). Must never give another's for it, as long
//! as there is `/proc`.

use std::ffi::OsString;
use std::fs::{File, metadata};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Found, find_program};

/// The file that this process runs, whatever its name leads to now.
const RUNNING: &str = "/proc/self/exe";

/// This binary's absolute path. Without /proc it is what it was called by, looked up in PATH.
///
/// # Errors
/// `NotFound` where neither tells.
pub fn own_path() -> io::Result<PathBuf> {
    if let Ok(path) = std::env::current_exe() {
        // After an upgrade in place the link reads "… (deleted)": the new file is at the old name.
        let bytes = path.as_os_str().as_bytes();
        let kept = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
        return Ok(PathBuf::from(OsString::from_vec(kept.to_vec())));
    }
    let name = std::env::args_os().next().unwrap_or_default();
    match find_program(&name) {
        Found::Executable(path) => std::path::absolute(path),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "own path unknown: mount /proc or call it by its path")),
    }
}

/// Whether that path leads to another file than this process runs.
pub fn is_another(path: &Path) -> bool {
    let id = |path: &Path| metadata(path).map(|m| (m.dev(), m.ino())).ok();
    id(Path::new(RUNNING)).zip(id(path)).is_some_and(|(running, there)| running != there)
}

/// The same, or to none.
fn is_gone(path: &Path) -> bool {
    is_another(path) || (!path.exists() && Path::new(RUNNING).exists())
}

/// What a child of ours starts to be this program.
pub fn own_program(path: &Path) -> &Path {
    if is_gone(path) { Path::new(RUNNING) } else { path }
}

/// What another program starts to be this one. Where the path does not lead to it any more, this is a file to be kept open for it, at a
/// descriptor that [`by_descriptor`] names.
pub fn own_file(path: &Path) -> Option<OwnedFd> {
    let file = if is_gone(path) { File::open(RUNNING).ok()? } else { return None };
    super::above_the_given(&file).ok()
}

/// The path of what a process has open, for itself.
pub fn by_descriptor(fd: RawFd) -> PathBuf {
    format!("/proc/self/fd/{fd}").into()
}
