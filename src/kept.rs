//! What secrets' files had, in memory that PID 1 shares with its helpers. Must never be in a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::sys::{self, KEPT};

/// What is kept from start to start, in memory that PID 1 shares with its helpers: it is in no file.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The boot's options, as the variables that they stand for.
    pub options: Vec<(String, String)>,
    /// The boot's runtime directory.
    pub runtime: PathBuf,
    /// What the boot's Litestream listens on for metrics, where the kernel is not asked.
    pub port: Option<u16>,
    /// The last good value of each variable that has a file.
    pub values: BTreeMap<String, String>,
    /// Litestream's names for all secrets, with what is in them now.
    pub env: Vec<(String, String)>,
    /// What was there before the last change: the servers may not know of it yet.
    pub older: Option<Older>,
    /// How often they have changed, and as of which change Litestream has them.
    pub changes: u32,
    /// See `changes`.
    pub litestream: u32,
    /// What was last said to be wrong with the files.
    pub told: Vec<String>,
}

/// What was there before the last change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Older {
    /// See [`Kept`].
    pub env: Vec<(String, String)>,
    /// The configuration, where it is ours: a secret of one database alone is in it.
    pub config: Option<String>,
}

/// Some kernels give none that could be run (`vm.memfd_noexec`), and older ones do not know the word for it.
const NOEXEC_SEAL: u32 = 8;

/// Memory for what is kept, which a child can be given.
///
/// # Errors
/// What `memfd_create(2)` says.
pub fn memory() -> io::Result<OwnedFd> {
    let create = |more: MFdFlags| memfd_create(c"secrets", MFdFlags::MFD_CLOEXEC | more);
    let memory = create(MFdFlags::from_bits_retain(NOEXEC_SEAL)).or_else(|_| create(MFdFlags::empty()))?;
    sys::above_the_given(&memory)
}

impl Kept {
    /// Writes it down; its length goes before it, so that half of it is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write(&self, memory: &File) -> io::Result<()> {
        let text = serde_yaml::to_string(self).map_err(io::Error::other)?;
        memory.write_all_at(format!("{:016x}{text}", text.len()).as_bytes(), 0)
    }

    /// What is in this memory; none where nothing whole is.
    pub fn read(memory: &File) -> Option<Self> {
        // Another may be writing it.
        (0..10).find_map(|_| {
            Self::read_once(memory).or_else(|| {
                std::thread::sleep(Duration::from_millis(1));
                None
            })
        })
    }

    fn read_once(memory: &File) -> Option<Self> {
        let mut length = [0; 16];
        memory.read_exact_at(&mut length, 0).ok()?;
        let length = usize::from_str_radix(std::str::from_utf8(&length).ok()?, 16).ok().filter(|n| *n < 1 << 24)?;
        let mut text = vec![0; length];
        memory.read_exact_at(&mut text, 16).ok()?;
        serde_yaml::from_slice(&text).ok()
    }
}

/// What PID 1 has given this worker, for as long as it lives.
static OURS: OnceLock<Option<File>> = OnceLock::new();

/// Takes what PID 1 has given this worker, so that what it starts has it not.
pub fn inherit() {
    OURS.get_or_init(|| sys::take_fd(KEPT).ok().map(File::from));
}

/// What is kept now.
pub fn ours() -> Option<Kept> {
    Kept::read(OURS.get()?.as_ref()?)
}

/// What has changed since this worker was started, under the names that Litestream reads.
pub fn since_our_start() -> Vec<(String, String)> {
    ours().filter(|kept| kept.changes > 0).map(|kept| kept.env).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back_whole_or_not_at_all() {
        let memory = tempfile::tempfile().unwrap();
        assert_eq!(Kept::read(&memory), None);
        let mut kept = Kept {
            values: BTreeMap::from([("A".to_owned(), "multi\nline: é \u{1f600} \"'".to_owned())]),
            runtime: "/run/x".into(),
            changes: 3,
            ..Kept::default()
        };
        kept.write(&memory).unwrap();
        assert_eq!(Kept::read(&memory).as_ref(), Some(&kept));
        kept.values.clear();
        kept.write(&memory).unwrap();
        assert_eq!(Kept::read(&memory).as_ref(), Some(&kept), "what is shorter");
        memory.write_all_at(b"zz", 0).unwrap();
        assert_eq!(Kept::read(&memory), None);
    }
}
