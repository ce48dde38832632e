//! How 0.3 is made to begin another generation, with a snapshot. Must never take the name of the last one away without having noted where the
//! database stood.

use std::io;
use std::path::Path;

use super::note_past;
use crate::files::Dir;
use crate::layout::meta_dir;
use crate::litestream::backup::Position;
use crate::litestream::local::{GENERATION, shadow_position};
use crate::mark::{Mark, note_generation};

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
