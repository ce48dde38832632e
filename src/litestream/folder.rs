//! What a replica in a folder holds, looked at there: as Litestream lists it, without a process of its own. Must never read what is in
//! a file but to compare it with another.

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::backup::{File, Position};
use super::{Format, kind};
use crate::{files, time};

/// A replica in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folder<'a>(&'a Path);

impl<'a> Folder<'a> {
    /// Of a replica as the plan names it (`file:///…`); none of another kind.
    pub fn of(replica: &'a str) -> Option<Self> {
        kind::folder(replica).map(Self)
    }

    /// What [`super::backup::list`] says of it to the depth of the newest.
    ///
    /// # Errors
    /// What the kernel says; a folder that is not there is an empty one.
    pub fn newest(self, format: Format) -> io::Result<Vec<File>> {
        Ok(listed(self.parts(format)?))
    }

    /// The same of where it ends.
    ///
    /// # Errors
    /// As [`Self::newest`].
    pub fn end(self, format: Format) -> io::Result<Vec<File>> {
        let mut all = self.parts(format)?;
        if format == Format::Ltx {
            all.extend(parts(&self.0.join("ltx/9"), |name| ltx(name).map(|(position, _)| (position, true)))?);
        }
        Ok(listed(all))
    }

    /// When its newest file of this line was written, as exactly as the file system knows; none where none can be seen.
    pub fn written(self, format: Format) -> Option<SystemTime> {
        self.parts(format).unwrap_or_default().iter().filter_map(|part| part.about.modified().ok()).max()
    }

    fn parts(self, format: Format) -> io::Result<Vec<Part>> {
        match format {
            Format::Ltx => parts(&self.0.join("ltx/0"), ltx),
            Format::Generations => {
                let mut all = Vec::new();
                for generation in entries(&self.0.join("generations"))? {
                    let name = generation.file_name().to_string_lossy().into_owned();
                    let place = |index, offset| Position::Wal { generation: name.clone(), index, offset };
                    all.extend(parts(&generation.path().join("snapshots"), |name| snapshot(name).map(|index| (place(index, 0), true)))?);
                    all.extend(parts(&generation.path().join("wal"), |name| segment(name).map(|(i, o)| (place(i, o), false)))?);
                }
                Ok(all)
            }
        }
    }

    /// Whether it holds this transaction as this file does (0.5); none where one of them cannot be read.
    pub fn has_the_same(self, own: &Path) -> Option<bool> {
        let theirs = files::read(&self.0.join("ltx/0").join(own.file_name()?)).ok()?;
        Some(theirs == files::read(own).ok()?)
    }
}

fn entries(folder: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A file of a backup.
struct Part {
    position: Position,
    snapshot: bool,
    about: Metadata,
}

fn listed(parts: Vec<Part>) -> Vec<File> {
    let file = |part: Part| {
        let created = part.about.modified().map(time::rfc3339).unwrap_or_default();
        File { position: part.position, snapshot: part.snapshot, bytes: part.about.len(), created }
    };
    parts.into_iter().map(file).collect()
}

/// The files of a folder whose names are understood; one that goes meanwhile was not there.
fn parts(folder: &Path, parse: impl Fn(&str) -> Option<(Position, bool)>) -> io::Result<Vec<Part>> {
    let part = |entry: DirEntry| {
        let (position, snapshot) = entry.file_name().to_str().and_then(&parse)?;
        Some(Part { position, snapshot, about: entry.metadata().ok()? })
    };
    Ok(entries(folder)?.into_iter().filter_map(part).collect())
}

/// `0000000000000001-000000000000002a.ltx`: a file of transactions.
fn ltx(name: &str) -> Option<(Position, bool)> {
    let (_, last) = name.strip_suffix(".ltx")?.split_once('-')?;
    Some((Position::Txid(u64::from_str_radix(last, 16).ok()?), false))
}

/// `0000002a.snapshot.lz4`: the snapshot before the WAL of that index.
fn snapshot(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".snapshot.lz4")?, 16).ok()
}

/// `0000002a_00005098.wal.lz4`: the part of a WAL from that byte on.
fn segment(name: &str) -> Option<(u64, u64)> {
    let (index, offset) = name.strip_suffix(".wal.lz4")?.split_once('_')?;
    Some((u64::from_str_radix(index, 16).ok()?, u64::from_str_radix(offset, 16).ok()?))
}
