//! Paths that cannot be a database's file: a mistake in the configuration, not in the data. Must never open or change what is there.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::exit::{self, Failure};
use crate::plan::Plan;
use crate::tenants;

/// Refuses a plan with such a path.
///
/// # Errors
/// 78, in one line a database.
pub fn check(plan: &Plan) -> Result<(), Failure> {
    let mounts = mounted_at(plan, &std::fs::read("/proc/self/mountinfo").unwrap_or_default());
    let named = plan.databases.iter().filter_map(|d| Some(format!("{}: {}", d.alias, wrong_with(&d.path, is_one_of(&mounts, &d.path))?)));
    let mut wrong: Vec<String> = named.collect();
    // Few have any, and a directory need not be searched for nothing.
    if !mounts.is_empty() && !plan.directories.is_empty() {
        let all = tenants::members(plan.clone()).databases;
        let members = all.iter().skip(plan.databases.len()).filter(|d| is_one_of(&mounts, &d.path));
        wrong.extend(members.map(|d| format!("{}: {}", d.alias, mounted(&d.path))));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(exit::CONFIG, wrong.join("\n"))) }
}

fn wrong_with(path: &Path, is_mount: bool) -> Option<String> {
    let shown = path.display();
    if path.is_dir() {
        // An engine makes one where the host has no such file.
        let mount = if is_mount { ", and a mount of its own: mount its directory, not the file" } else { "" };
        return Some(format!("{shown} is a directory; name the database's file in it{mount}"));
    }
    if is_mount {
        return Some(mounted(path));
    }
    // SQLite keeps the WAL beside what a link leads to, and Litestream looks for it beside the link.
    let target = std::fs::read_link(path).ok()?;
    let target = path.parent().map_or_else(|| target.clone(), |folder| folder.join(&target));
    Some(format!("{shown} is a symbolic link, behind which Litestream replicates nothing; name {} instead", target.display()))
}

/// It cannot be replaced by a restored one either.
fn mounted(path: &Path) -> String {
    format!(
        "{} alone is mounted, and the files beside it (its -wal, Litestream's own) would be lost with the container: mount its directory, \
         not the file",
        path.display()
    )
}

/// The mounts that lie where a database may be: by their names alone, since looking at one may wait for a server.
fn mounted_at(plan: &Plan, mountinfo: &[u8]) -> Vec<PathBuf> {
    let folders: Vec<PathBuf> = plan.databases.iter().filter_map(|d| d.path.parent()?.canonicalize().ok()).collect();
    let roots: Vec<PathBuf> = plan.directories.iter().filter_map(|d| d.path.canonicalize().ok()).collect();
    let is_near = |mount: &PathBuf| {
        folders.iter().any(|folder| mount.parent() == Some(folder)) || roots.iter().any(|root| mount.starts_with(root) && mount != root)
    };
    mount_points(mountinfo).filter(is_near).collect()
}

fn is_one_of(mounts: &[PathBuf], path: &Path) -> bool {
    let Some(name) = path.file_name().filter(|_| !mounts.is_empty()) else { return false };
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    folder.is_some_and(|folder| mounts.contains(&folder.join(name)))
}

/// The fifth word of each line (`proc_pid_mountinfo(5)`), in which white space is an octal escape. The device's number tells nothing: a bind mount
/// of the same file system has the same, and on an overlay a file has another than its directory without being a mount.
fn mount_points(mountinfo: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    lines.filter_map(|line| Some(PathBuf::from(OsString::from_vec(unescaped(line.split(|byte| *byte == b' ').nth(4)?)))))
}

fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut parts = word.split(|byte| *byte == b'\\');
    let mut text = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let byte = part.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        text.extend(byte);
        text.extend(byte.map_or(part, |_| part.get(3..).unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_read_as_the_kernel_writes_it() {
        let info = b"36 35 98:0 /mnt1 /mnt2 rw - ext3 /dev/root rw\n37 36 0:5 / /with\\040space\\134x rw - tmpfs none rw\n\n";
        let points: Vec<PathBuf> = mount_points(info).collect();
        assert_eq!(points, [PathBuf::from("/mnt2"), PathBuf::from("/with space\\x")]);
    }
}
