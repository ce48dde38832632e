//! A configuration for the Litestreams that this process starts: in the runtime directory, or handed to them where that takes nothing any
//! more, since it is full or has become read-only. Must never leave a file with keys in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::plan::Plan;
use crate::{runtime, sys};

/// Such a configuration, for as long as this lives.
#[derive(Debug)]
pub struct Handed {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Runtime,
    Memory(File),
    Temporary,
}

impl Handed {
    /// Writes it to this file of the runtime directory, or where it can be written.
    ///
    /// # Errors
    /// Why it cannot be written to that file, where it can be nowhere.
    pub fn write(plan: &Plan, file: PathBuf, text: &str) -> Result<Self, String> {
        let Err(error) = runtime::write(&file, text) else { return Ok(Self { path: file, place: Place::Runtime }) };
        let name = file.file_name().unwrap_or_default().display().to_string();
        Self::apart(plan, &name, text).map_err(|_| format!("{}: {error}", file.display()))
    }

    /// Keeps it out of the runtime directory in any case: nothing is left when this ends.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn apart(plan: &Plan, name: &str, text: &str) -> io::Result<Self> {
        in_memory(text).or_else(|_| beside_others(plan, name, text))
    }

    /// Where this process and what it starts find it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same for as long as this process lives; a file of the runtime directory is there until it is removed.
    pub fn for_good(mut self) -> PathBuf {
        if let Place::Memory(memory) = std::mem::replace(&mut self.place, Place::Runtime) {
            let _ = memory.into_raw_fd();
        }
        std::mem::take(&mut self.path)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Place::Temporary = self.place {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn in_memory(text: &str) -> io::Result<Handed> {
    let mut memory = sys::file_in_memory()?;
    memory.write_all(text.as_bytes())?;
    sys::keep_on_exec(&memory)?;
    let path = sys::by_descriptor(memory.as_raw_fd());
    // None without /proc.
    fs::metadata(&path)?;
    Ok(Handed { path, place: Place::Memory(memory) })
}

fn beside_others(plan: &Plan, name: &str, text: &str) -> io::Result<Handed> {
    let path = std::env::temp_dir().join(format!("litestream-entry-{}-{}-{name}", plan.life, std::process::id()));
    let mut opened = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
    // Removed, should it not be whole.
    let handed = Handed { path, place: Place::Temporary };
    opened.write_all(text.as_bytes())?;
    Ok(handed)
}
