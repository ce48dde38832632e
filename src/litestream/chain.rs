//! Whether what a replica holds can be restored, and up to where: by the names of its files. Must never call missing what a restore
//! has no need of, nor look into a file.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use super::backup::{self, Position};
use super::call::Config;
use super::{Format, Litestream, kind, lz4};
use crate::files;

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// 0.5: these transactions.
    Ltx {
        /// 9 holds snapshots.
        level: u8,
        /// The first of them.
        min: u64,
        /// The last.
        max: u64,
    },
    /// 0.3: the whole database as it was before this WAL.
    Snapshot {
        /// Its generation.
        generation: String,
        /// The WAL's number.
        index: u64,
    },
    /// 0.3: a part of a WAL.
    Segment {
        /// Its generation.
        generation: String,
        /// The WAL's number.
        index: u64,
        /// Where in it this part begins.
        offset: u64,
    },
}

/// 0.5's level that holds snapshots.
const SNAPSHOTS: u8 = 9;

/// What of a backup is missing for a restore of everything up to `wanted`, in words; none where nothing is. Without a position,
/// whether anything can be restored at all.
pub fn lacks(parts: &[Part], format: Format, wanted: Option<&Position>) -> Option<String> {
    if parts.is_empty() {
        return Some("the replica has nothing".to_owned());
    }
    match (format, wanted) {
        (Format::Ltx, wanted) => {
            let wanted = if let Some(Position::Txid(txid)) = wanted { *txid } else { 1 };
            match reach(parts) {
                0 => Some("the replica has no snapshot to begin with".to_owned()),
                end if end < wanted => Some(format!("a restore would end at transaction {end:x} of {wanted:x}")),
                _ => None,
            }
        }
        (Format::Generations, Some(Position::Wal { generation, index, offset })) => generation_lacks(parts, generation, (*index, *offset)),
        (Format::Generations, _) => {
            let any = parts.iter().any(|part| matches!(part, Part::Snapshot { .. }));
            (!any).then(|| "the replica has no snapshot to begin with".to_owned())
        }
    }
}

/// Where a restore of 0.5's would end: from the newest snapshot, or the beginning, by files that join.
fn reach(parts: &[Part]) -> u64 {
    let ltx = |part: &Part| if let Part::Ltx { level, min, max } = part { Some((*level, *min, *max)) } else { None };
    let mut end = parts.iter().filter_map(ltx).filter(|(level, ..)| *level == SNAPSHOTS).map(|(.., max)| max).max().unwrap_or(0);
    let mut files: Vec<(u64, u64)> =
        parts.iter().filter_map(ltx).filter(|(level, ..)| *level != SNAPSHOTS).map(|(_, min, max)| (min, max)).collect();
    files.sort_unstable();
    for (min, max) in files {
        if min > end.saturating_add(1) {
            break;
        }
        end = end.max(max);
    }
    end
}

/// 0.3 restores the newest snapshot and each WAL from there on, each from its beginning.
fn generation_lacks(parts: &[Part], generation: &str, wanted: (u64, u64)) -> Option<String> {
    let snapshots = parts.iter().filter_map(|part| match part {
        Part::Snapshot { generation: g, index } if g == generation => Some(*index),
        _ => None,
    });
    let Some(from) = snapshots.max() else { return Some(format!("the replica has no snapshot of generation {generation}")) };
    let begins = |wanted: u64| {
        parts.iter().any(|p| matches!(p, Part::Segment { generation: g, index, offset: 0 } if g == generation && *index == wanted))
    };
    // Of the last WAL nothing may be there yet.
    let last = if wanted.1 > 0 { Some(wanted.0) } else { wanted.0.checked_sub(1) }?;
    let missing = (from..=last).find(|index| !begins(*index))?;
    Some(format!("the replica has no beginning of WAL {missing:x} of generation {generation}"))
}

/// Where the parts of a WAL from `from` on do not join any more, up to `wanted`, by the length of what is in each (0.3, in a folder); none
/// where they all do, or one cannot be read.
pub fn hole(folder: &Path, parts: &[Part], generation: &str, from: (u64, u64), wanted: (u64, u64)) -> Option<String> {
    let place = |part: &Part| match part {
        Part::Segment { generation: g, index, offset } if g == generation => Some((*index, *offset)),
        _ => None,
    };
    let mut places: Vec<(u64, u64)> = parts.iter().filter_map(place).filter(|place| *place >= from).collect();
    places.sort_unstable();
    let wal = folder.join("generations").join(generation).join("wal");
    let mut next = places.iter().skip(1);
    for (index, offset) in &places {
        let next = next.next().copied();
        let bytes = files::read(&wal.join(format!("{index:08x}_{offset:08x}.wal.lz4"))).ok()?;
        let end = offset.checked_add(lz4::unpacked(&bytes)?)?;
        let joins = match next {
            Some((i, o)) if i == *index => o == end,
            // How long that WAL was in the end is not known.
            Some((i, _)) => i > *index,
            None => (*index, end) >= wanted || wanted.1 == 0,
        };
        if !joins {
            return Some(format!("what follows {index:x}/{end:x} of the WAL is gone from the replica"));
        }
    }
    None
}

/// The newest part of 0.3's that this generation has, and begins with its index and offset.
pub fn newest_segment(parts: &[Part], of: &str) -> Option<(u64, u64)> {
    let place = |part: &Part| match part {
        Part::Segment { generation, index, offset } if generation == of => Some((*index, *offset)),
        _ => None,
    };
    parts.iter().filter_map(place).max()
}

/// Lists a replica: a folder by itself, without a process, and any other by one call of Litestream's (two on 0.3).
///
/// # Errors
/// What kept it from being listed: that says nothing of what it holds.
pub fn list(litestream: &Litestream, config: &Config<'_>, database: &Path, replica: &str, by: Instant) -> Result<Vec<Part>, String> {
    if let Some(folder) = kind::folder(replica) {
        return in_folder(folder, litestream.format()).map_err(|error| format!("{}: {error}", folder.display()));
    }
    match litestream.format() {
        Format::Ltx => {
            let mut args: Vec<OsString> = vec!["ltx".into()];
            args.extend(config.flags());
            args.extend(["-level".into(), "all".into(), database.into()]);
            Ok(ltx(&backup::answer(litestream, &args, by)?))
        }
        Format::Generations => {
            let files = backup::list(litestream, config, database, backup::Depth::All, by)?;
            Ok(files.into_iter().filter_map(part).collect())
        }
    }
}

fn part(file: backup::File) -> Option<Part> {
    match file.position {
        Position::Wal { generation, index, .. } if file.snapshot => Some(Part::Snapshot { generation, index }),
        Position::Wal { generation, index, offset } => Some(Part::Segment { generation, index, offset }),
        Position::Txid(_) => None,
    }
}

/// `ltx`: lines of level, first and last transaction, and more. A heading has no numbers.
fn ltx(table: &str) -> Vec<Part> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let level = words.next()?.parse().ok()?;
        let mut txid = || u64::from_str_radix(words.next()?, 16).ok();
        Some(Part::Ltx { level, min: txid()?, max: txid()? })
    };
    table.lines().filter_map(row).collect()
}

/// The lower levels first: what is compacted meanwhile is on a higher one before it goes.
fn in_folder(folder: &Path, format: Format) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    match format {
        Format::Ltx => {
            for level in 0..=SNAPSHOTS {
                let of_level = |name: &str| {
                    let (min, max) = transactions(name)?;
                    Some(Part::Ltx { level, min, max })
                };
                parts.extend(names(&folder.join("ltx").join(level.to_string()))?.iter().filter_map(|name| of_level(name)));
            }
        }
        Format::Generations => {
            let generations = folder.join("generations");
            for generation in names(&generations)? {
                let folder = generations.join(&generation);
                let snapshot = |name: &String| Some(Part::Snapshot { generation: generation.clone(), index: snapshot(name)? });
                parts.extend(names(&folder.join("snapshots"))?.iter().filter_map(snapshot));
                let segment = |name: &String| {
                    let (index, offset) = segment(name)?;
                    Some(Part::Segment { generation: generation.clone(), index, offset })
                };
                parts.extend(names(&folder.join("wal"))?.iter().filter_map(segment));
            }
        }
    }
    Ok(parts)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `0000000000000001-000000000000002a.ltx`.
fn transactions(name: &str) -> Option<(u64, u64)> {
    let (first, last) = name.strip_suffix(".ltx")?.split_once('-')?;
    Some((u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(last, 16).ok()?))
}

/// `0000002a.snapshot.lz4`.
fn snapshot(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".snapshot.lz4")?, 16).ok()
}

/// `0000002a_00005098.wal.lz4`.
fn segment(name: &str) -> Option<(u64, u64)> {
    let (index, offset) = name.strip_suffix(".wal.lz4")?.split_once('_')?;
    Some((u64::from_str_radix(index, 16).ok()?, u64::from_str_radix(offset, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(of: &[(u8, u64, u64)]) -> Vec<Part> {
        of.iter().map(|(level, min, max)| Part::Ltx { level: *level, min: *min, max: *max }).collect()
    }

    #[test]
    fn a_restore_ends_where_the_files_from_a_snapshot_on_do_not_join_any_more() {
        let lacks = |of: &[(u8, u64, u64)], wanted| lacks(&files(of), Format::Ltx, Some(&Position::Txid(wanted)));
        assert_eq!(lacks(&[(0, 1, 1), (0, 2, 2), (0, 3, 3)], 3), None, "the first file is a snapshot");
        assert_eq!(lacks(&[(0, 9, 9), (1, 3, 8), (9, 1, 2)], 9), None);
        assert_eq!(lacks(&[(0, 8, 8), (0, 9, 9), (1, 3, 9), (9, 1, 5)], 9), None, "levels overlap");
        assert!(lacks(&[(0, 1, 1), (0, 3, 3)], 3).unwrap().contains("transaction 1 of 3"), "a hole");
        assert!(lacks(&[(0, 1, 1), (0, 2, 2)], 3).unwrap().contains("transaction 2 of 3"), "the newest is gone");
        assert!(lacks(&[(0, 5, 5), (1, 4, 5)], 5).unwrap().contains("no snapshot"));
        assert!(lacks(&[], 1).unwrap().contains("nothing"));
        assert_eq!(super::lacks(&files(&[(9, 1, 7)]), Format::Ltx, None), None);
        assert!(super::lacks(&files(&[(0, 2, 7)]), Format::Ltx, None).is_some());
    }

    #[test]
    fn a_generation_needs_a_snapshot_and_each_wal_from_its_beginning() {
        let snapshot = |index| Part::Snapshot { generation: "a".into(), index };
        let segment = |index, offset| Part::Segment { generation: "a".into(), index, offset };
        let wanted = |index, offset| Some(Position::Wal { generation: "a".into(), index, offset });
        let lacks = |parts: &[Part], wanted: Option<Position>| lacks(parts, Format::Generations, wanted.as_ref());
        let whole = [snapshot(0), segment(0, 0), segment(0, 4152), segment(1, 0)];
        assert_eq!((lacks(&whole, wanted(1, 999)), lacks(&whole, wanted(2, 0))), (None, None));
        assert!(lacks(&whole, wanted(2, 32)).unwrap().contains("WAL 2"));
        assert!(lacks(&whole[1..], wanted(1, 999)).unwrap().contains("no snapshot"));
        assert!(lacks(&[snapshot(0), segment(0, 4152)], wanted(0, 9999)).unwrap().contains("WAL 0"));
        assert_eq!(lacks(&[snapshot(3), segment(3, 0)], wanted(3, 99)), None, "what is before the snapshot is not needed");
        let other = Some(Position::Wal { generation: "b".into(), index: 0, offset: 0 });
        assert!(lacks(&whole, other).unwrap().contains("generation b"));
        assert_eq!(newest_segment(&whole, "a"), Some((1, 0)));
        assert!(lacks(&[], None).is_some());
    }

    #[test]
    fn parts_of_a_wal_that_do_not_join_are_a_hole() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("generations/a/wal");
        fs::create_dir_all(&wal).unwrap();
        // Each holds five bytes.
        let part = [&[0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0, 5, 0, 0, 0x80], b"hello".as_slice(), &[0; 4]].concat();
        let hole = |places: &[(u64, u64)], wanted| {
            let segment = |(index, offset): &(u64, u64)| Part::Segment { generation: "a".into(), index: *index, offset: *offset };
            for (i, o) in places {
                fs::write(wal.join(format!("{i:08x}_{o:08x}.wal.lz4")), &part).unwrap();
            }
            super::hole(dir.path(), &places.iter().map(segment).collect::<Vec<_>>(), "a", (0, 0), wanted)
        };
        assert_eq!(hole(&[(0, 0), (0, 5), (1, 0)], (1, 5)), None);
        assert!(hole(&[(0, 0), (0, 10)], (0, 15)).unwrap().contains("0/5"));
        assert!(hole(&[(0, 0), (0, 5)], (0, 15)).unwrap().contains("0/a"), "the newest");
        assert_eq!(hole(&[(0, 0)], (1, 0)), None);
    }

    #[test]
    fn a_folder_and_a_list_are_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(in_folder(&dir.path().join("none"), Format::Ltx).unwrap(), []);
        for name in ["ltx/0/0000000000000002-0000000000000002.ltx", "ltx/9/0000000000000001-000000000000001f.ltx", "ltx/0/x.ltx.tmp"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let table = "level  min_txid          max_txid          size  created\n\
                     0      0000000000000002  0000000000000002  7     2026-11-28T08:04:17Z\n\
                     9      0000000000000001  000000000000001f  7     2026-11-28T08:04:17Z\n";
        assert_eq!(in_folder(dir.path(), Format::Ltx).unwrap(), ltx(table));
        for name in ["generations/ab/snapshots/00000002.snapshot.lz4", "generations/ab/wal/0000002a_00005098.wal.lz4"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let generation = || "ab".to_owned();
        let parts = [
            Part::Snapshot { generation: generation(), index: 2 },
            Part::Segment { generation: generation(), index: 0x2a, offset: 0x5098 },
        ];
        assert_eq!(in_folder(dir.path(), Format::Generations).unwrap(), parts);
    }
}
