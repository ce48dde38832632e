//! How far a database's log reaches, how far Litestream has read it, and whether a replica has that. Must never open a database.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::files;
use crate::litestream::Format;
use crate::litestream::backup::{self, Position};
use crate::litestream::local;
use crate::sqlite::wal::{Place, Salts};

/// How far Litestream has read a database, by its own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Its position.
    pub position: Position,
    /// The place in the WAL that this is.
    pub place: Option<Place>,
    /// When it came there.
    pub at: SystemTime,
}

/// How far Litestream has read a database; none where it never has.
pub fn read(database: &Path, format: Format) -> Option<Read> {
    let position = local::own_position(database, format)?;
    let file = newest_file(database, format)?;
    let at = std::fs::metadata(&file).and_then(|m| m.modified()).ok()?;
    let place = match format {
        Format::Ltx => ltx_place(&file),
        Format::Generations => shadow_place(&file),
    };
    Some(Read { position, place, at })
}

/// The same where it matters that there is none: a file that is looked for may just be replaced by the next.
pub fn read_patiently(database: &Path, format: Format) -> Option<Read> {
    (0..TRIES).find_map(|tried| {
        if tried > 0 {
            std::thread::sleep(PAUSE);
        }
        read(database, format)
    })
}

/// How often that is tried, and the pause between.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(10);

fn newest_file(database: &Path, format: Format) -> Option<PathBuf> {
    match format {
        Format::Ltx => local::newest_ltx_path(database),
        Format::Generations => local::shadow_wal(database),
    }
}

/// An LTX file's header: the part of the WAL that it is made of begins at 48 and is that long at 56; the salts are at 64.
fn ltx_place(file: &Path) -> Option<Place> {
    let mut header = [0; 100];
    files::open(file).ok()?.read_exact_at(&mut header, 0).ok()?;
    let number = |at: usize| Some(u64::from_be_bytes(header.get(at..at.checked_add(8)?)?.try_into().ok()?));
    Some(Place { salts: Salts::try_from(header.get(64..72)?).ok()?, end: number(48)?.saturating_add(number(56)?) })
}

/// 0.3 copies the WAL as it is.
fn shadow_place(file: &Path) -> Option<Place> {
    let copy = files::open(file).ok()?;
    let mut salts = Salts::default();
    copy.read_exact_at(&mut salts, 16).ok()?;
    Some(Place { salts, end: copy.metadata().ok()?.len() })
}

/// Whether Litestream has read a WAL up to `wanted`, where it stood at `then` when that was its end, and stands at `now`.
pub fn has_read(wanted: Option<Place>, then: Option<&Read>, now: &Read) -> bool {
    match (wanted, now.place) {
        (None, _) => true,
        (Some(wanted), Some(place)) if wanted.salts == place.salts => place.end >= wanted.end,
        // That WAL has been emptied meanwhile, which Litestream lets nobody do before it has read it; or it has not yet begun it.
        // Where it had read nothing at all, it has begun with everything.
        (Some(_), _) => then.is_none_or(|then| then.position != now.position),
    }
}

/// Whether a replica that lists these files has everything up to `wanted`, by a Litestream that stands at `now`.
pub fn is_there(wanted: &Position, now: Option<&Position>, files: &[backup::File]) -> bool {
    files.iter().any(|file| match (wanted, &file.position) {
        (Position::Txid(wanted), Position::Txid(txid)) => txid >= wanted,
        // What begins at or after it was written when all before was there. So was a generation that began later.
        (Position::Wal { generation, index, offset }, Position::Wal { generation: g, index: i, offset: o }) => {
            let later = matches!(now, Some(Position::Wal { generation: now, .. }) if now == g && now != generation);
            later || (g == generation && (i, o) >= (index, offset))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stands(txid: u64, salt: u8, end: u64) -> Read {
        Read { position: Position::Txid(txid), place: Some(Place { salts: [salt; 8], end }), at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn a_wal_has_been_read_when_its_place_was_passed() {
        let wanted = Some(Place { salts: [1; 8], end: 500 });
        let then = stands(7, 1, 400);
        assert!(!has_read(wanted, Some(&then), &then));
        assert!(has_read(wanted, Some(&then), &stands(8, 1, 500)));
        assert!(has_read(wanted, Some(&then), &stands(9, 2, 100)), "it goes on in the next one");
        let before = stands(7, 0, 900);
        assert!(!has_read(wanted, Some(&before), &before), "it has not begun this one");
        assert!(has_read(None, None, &before));
        assert!(has_read(wanted, None, &stands(1, 2, 100)), "it had not begun at all");
        assert!(!has_read(wanted, None, &stands(1, 1, 400)));
    }

    #[test]
    fn a_replica_has_what_it_lists() {
        let file = |position| backup::File { position, snapshot: false, bytes: 1, created: String::new() };
        let wal = |generation: &str, index, offset| Position::Wal { generation: generation.to_owned(), index, offset };
        assert!(is_there(&Position::Txid(5), None, &[file(Position::Txid(5))]));
        assert!(!is_there(&Position::Txid(5), None, &[file(Position::Txid(4))]));
        assert!(!is_there(&wal("a", 1, 500), None, &[file(wal("a", 1, 400))]));
        assert!(is_there(&wal("a", 1, 500), None, &[file(wal("a", 1, 500))]));
        assert!(is_there(&wal("a", 1, 500), None, &[file(wal("a", 2, 0))]));
        assert!(!is_there(&wal("a", 1, 500), Some(&wal("a", 3, 0)), &[file(wal("b", 9, 0))]), "another one's");
        assert!(is_there(&wal("a", 1, 500), Some(&wal("b", 0, 0)), &[file(wal("b", 0, 0))]), "a later generation");
    }
}
