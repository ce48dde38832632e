//! What Litestream keeps beside a database: 0.5's own record of transactions, and 0.3's generation with its copies of the WAL. Must never change any
//! of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::backup::Position;
use super::{Format, ltx};
use crate::files::{self, name_of};
use crate::layout::meta_dir;
use crate::sqlite::wal::{Salts, salts_at};

/// The WAL's salts in an LTX file's header: at byte 64, after the magic `LTX1` at 0.
pub fn ltx_salts(file: &Path) -> Option<Salts> {
    let mut magic = [0; 4];
    files::open(file).ok()?.read_exact_at(&mut magic, 0).ok()?;
    if &magic == b"LTX1" { salts_at(file, 64) } else { None }
}

/// One of 0.5's own records beside a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ltx {
    /// The file.
    pub path: PathBuf,
    /// The last transaction in it.
    pub txid: u64,
}

/// Where the newest of 0.5's own records is.
pub fn newest_ltx_path(database: &Path) -> Option<PathBuf> {
    newest_ltx(database).map(|ltx| ltx.path)
}

/// 0.5's own records beside a database: the last transaction in each, and when it was made.
pub fn ltx_files(database: &Path) -> impl Iterator<Item = (u64, SystemTime)> {
    every_ltx(database).filter_map(|ltx| Some((ltx.txid, std::fs::metadata(ltx.path).and_then(|m| m.modified()).ok()?)))
}

impl Ltx {
    /// Its size in bytes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bytes(&self) -> io::Result<u64> {
        std::fs::metadata(&self.path).map(|m| m.len())
    }

    /// Whether it is one that we have left there in the place of the replica's own.
    pub fn stands_in(&self) -> bool {
        ltx_salts(&self.path) == Some(ltx::SALTS)
    }
}

/// The last transaction in the newest of 0.5's own records.
pub fn newest_txid(database: &Path) -> Option<u64> {
    newest_ltx(database).map(|ltx| ltx.txid)
}

/// The newest of 0.5's own records.
pub fn newest_ltx(database: &Path) -> Option<Ltx> {
    every_ltx(database).max_by_key(|ltx| ltx.txid)
}

/// Whether the newest has pages with flags, which releases before 0.5.16 cannot read. After the header of 100 bytes come the first page's
/// number and its flags (github.com/superfly/ltx).
pub fn has_flags(database: &Path) -> bool {
    let mut flags = [0; 2];
    let read = |ltx: Ltx| files::open(&ltx.path).and_then(|file| file.read_exact_at(&mut flags, 104));
    newest_ltx(database).map(read).is_some_and(|read| read.is_ok()) && flags != [0; 2]
}

/// All of 0.5's own records: `0000000000000001-000000000000002a.ltx`: first and last transaction in hexadecimal.
pub fn every_ltx(database: &Path) -> impl Iterator<Item = Ltx> {
    let entries = std::fs::read_dir(meta_dir(database).join("ltx/0")).into_iter().flatten();
    entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let (_, last) = path.file_stem()?.to_str()?.split_once('-')?;
        (path.extension()? == "ltx").then_some(())?;
        Some(Ltx { txid: u64::from_str_radix(last, 16).ok()?, path })
    })
}

/// Litestream's own position beside a database: `None` where it has none.
pub fn own_position(database: &Path, format: Format) -> Option<Position> {
    match format {
        Format::Ltx => newest_ltx(database).map(|ltx| Position::Txid(ltx.txid)),
        Format::Generations => shadow_position(database),
    }
}

/// The file with the name of 0.3's generation.
pub const GENERATION: &str = "generation";

const GENERATIONS: &str = "generations";

const WAL: &str = "wal";

/// 0.3 keeps the name of its generation, and a copy of the WAL: `generations/NAME/wal/0000002a.wal`.
pub fn shadow_position(database: &Path) -> Option<Position> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ltx_file_is_the_one_that_ends_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let folder = meta_dir(&path).join("ltx/0");
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["0000000000000001-0000000000000009.ltx", "000000000000000a-000000000000001f.ltx", "x.tmp", "no-ltx.ltx"] {
            std::fs::write(folder.join(name), [b"LTX1".as_slice(), &[7; 96]].concat()).unwrap();
        }
        assert_eq!(newest_ltx(&path).unwrap().txid, 0x1f);
        assert_eq!(newest_ltx(&path).and_then(|ltx| ltx_salts(&ltx.path)), Some([7; 8]));
        let newer =
            |flags: u8| std::fs::write(folder.join("0000000000000020-0000000000000020.ltx"), [[7; 104].as_slice(), &[0, flags]].concat());
        newer(0).unwrap();
        assert!(!has_flags(&path));
        newer(1).unwrap();
        assert!(has_flags(&path));
    }
}
