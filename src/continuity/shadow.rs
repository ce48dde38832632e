//! What 0.3 keeps beside a database: the name of its generation, and copies of the WAL. Must never take that name away without having noted
//! where the database stood.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::note_past;
use crate::files::{self, Dir, name_of};
use crate::layout::meta_dir;
use crate::litestream::backup::Position;
use crate::mark::{Mark, note_generation};

const GENERATION: &str = "generation";
const GENERATIONS: &str = "generations";
const WAL: &str = "wal";

/// 0.3 keeps the name of its generation, and a copy of the WAL: `generations/NAME/wal/0000002a.wal`.
pub(super) fn shadow_position(database: &Path) -> Option<Position> {
    position_in(&meta_dir(database))
}

/// The same of a folder of its files.
pub fn position_in(meta: &Path) -> Option<Position> {
    let newest = copies(meta)?.pop()?;
    let (generation, index) = place_of(&newest)?;
    Some(Position::Wal { generation, index, offset: std::fs::metadata(newest).ok()?.len() })
}

/// Which generation such a copy is of, and its number in that.
pub fn place_of(copy: &Path) -> Option<(String, u64)> {
    let index = u64::from_str_radix(copy.file_stem()?.to_str()?, 16).ok()?;
    Some((copy.parent()?.parent()?.file_name()?.to_str()?.to_owned(), index))
}

/// The newest copy of the WAL that 0.3 keeps.
pub fn shadow_wal(database: &Path) -> Option<PathBuf> {
    copies(&meta_dir(database))?.pop()
}

/// All of the generation that it goes on in, the newest last.
fn copies(meta: &Path) -> Option<Vec<PathBuf>> {
    let generation = files::read_to_string(&meta.join(GENERATION)).ok()?;
    let entries = std::fs::read_dir(meta.join(GENERATIONS).join(generation.trim()).join(WAL)).ok()?;
    let copies = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.extension().is_some_and(|e| e == WAL));
    let mut copies: Vec<PathBuf> = copies.collect();
    // Numbers of eight digits: their order is that of their names.
    copies.sort();
    Some(copies)
}

/// Copies what it needs to go on in its generation to another folder.
///
/// # Errors
/// What the kernel says; `NotFound` where it has none.
pub fn copy_shadow(database: &Path, to: &Path) -> io::Result<()> {
    let meta = meta_dir(database);
    let name = generation(database).ok_or(io::ErrorKind::NotFound)?;
    let wal = to.join(GENERATIONS).join(&name).join(WAL);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&wal)?;
    for path in copies(&meta).ok_or(io::ErrorKind::NotFound)? {
        io::copy(&mut files::open(&path)?, &mut File::create_new(wal.join(name_of(&path)))?)?;
    }
    std::fs::write(to.join(GENERATION), name)
}

/// Makes 0.3 begin a generation with a snapshot, by taking away its pointer to the last, as it does itself where it finds that
/// one wrong. The old one stays in the replica. Where the database stands is noted first: whoever is killed before 0.3 has begun
/// leaves no pointer that would tell.
///
/// # Errors
/// What the kernel says.
pub fn begin_anew(database: &Path) -> io::Result<()> {
    if let Some(position) = shadow_position(database) {
        stood_at(database, position)?;
    }
    forget_generation(database)
}

/// Notes where it stands, in a generation of its own, and what is known of where it comes from.
pub(super) fn stood_at(database: &Path, position: Position) -> io::Result<()> {
    note_past(database, &Mark::read(database))?;
    if let Position::Wal { generation, .. } = &position {
        note_generation(database, generation)?;
    }
    Mark::Restored(position).write(database)
}

/// Takes away 0.3's pointer to its generation.
///
/// # Errors
/// What the kernel says.
pub fn forget_generation(database: &Path) -> io::Result<()> {
    match Dir::real(&meta_dir(database)).and_then(|dir| dir.remove(GENERATION.as_ref())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The name of 0.3's generation.
pub fn generation(database: &Path) -> Option<String> {
    let name = files::read_to_string(&generation_path(database)).ok()?.trim().to_owned();
    (!name.is_empty()).then_some(name)
}

/// When 0.3 began its generation.
pub fn begun_at(database: &Path) -> Option<SystemTime> {
    std::fs::metadata(generation_path(database)).and_then(|m| m.modified()).ok()
}

/// Where 0.3 keeps the name of its generation.
pub fn generation_path(database: &Path) -> PathBuf {
    meta_dir(database).join(GENERATION)
}
