//! Whether the newest generation of 0.3's in a replica lacks whole laps of the WAL: an app has begun it anew more than once while 0.3 had let go of its
//! lock for a checkpoint. A bare one leaves such a backup for good; the program looks for it every five seconds, and makes a new snapshot.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

/// A WAL's first segment: its generation, its number in that, and the first of its salts.
type First = (String, u32, u32);

/// In a bucket, by what was written there: lines of the proxy's, the newest last.
pub(crate) fn in_bucket(writes: &str) -> bool {
    let first = |line: &str| {
        let path = line.split_whitespace().find(|word| word.contains("/generations/"))?;
        let (generation, index) = place(path)?;
        let (_, salt) = line.rsplit_once(" salt ")?;
        Some((generation, index, u32::from_str_radix(salt.trim(), 16).ok()?))
    };
    left_out(writes.lines().filter_map(first).collect())
}

/// In a folder.
pub(crate) fn in_folder(replica: &Path) -> bool {
    let mut firsts: Vec<(SystemTime, First)> = Vec::new();
    let files = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    for file in files(&replica.join("generations")).iter().flat_map(|generation| files(&generation.join("wal"))) {
        let written = file.metadata().and_then(|meta| meta.modified());
        let first = place(&file.to_string_lossy()).zip(fs::read(&file).ok().and_then(|frame| salt(&frame)));
        if let (Ok(written), Some(((generation, index), salt))) = (written, first) {
            firsts.push((written, (generation, index, salt)));
        }
    }
    firsts.sort();
    left_out(firsts.into_iter().map(|(_, first)| first).collect())
}

/// Each beginning adds one to the salt, unless it is a new one altogether, which says nothing.
fn left_out(firsts: Vec<First>) -> bool {
    let Some((newest, ..)) = firsts.last().cloned() else { return false };
    let mut laps: Vec<(u32, u32)> =
        firsts.into_iter().filter(|(generation, ..)| *generation == newest).map(|(_, index, salt)| (index, salt)).collect();
    laps.sort_unstable();
    laps.dedup();
    laps.windows(2).any(|pair| match pair {
        [(i, one), (j, other)] => (1..10_000).contains(&other.wrapping_sub(*one).wrapping_sub(j - i)),
        _ => false,
    })
}

/// Of a WAL's first segment: `…/generations/NAME/wal/0000002a_00000000.wal.lz4`.
fn place(path: &str) -> Option<(String, u32)> {
    let (folder, name) = path.rsplit_once('/')?;
    let index = name.strip_suffix("_00000000.wal.lz4")?;
    let generation = folder.strip_suffix("/wal")?.rsplit_once('/')?.1;
    Some((generation.to_owned(), u32::from_str_radix(index, 16).ok()?))
}

/// The first of the salts in the WAL that begins in this LZ4 frame (github.com/lz4/lz4, frame format 1.6.2).
pub(crate) fn salt(frame: &[u8]) -> Option<u32> {
    let flags = *frame.get(4)?;
    let header = 7 + if flags & 8 != 0 { 8 } else { 0 } + if flags & 1 != 0 { 4 } else { 0 };
    let size = u32::from_le_bytes(frame.get(header..header + 4)?.try_into().ok()?);
    let block = frame.get(header + 4..)?;
    let wal = if size >> 31 == 1 { block.get(..20)?.to_vec() } else { beginning(block, 20)? };
    Some(u32::from_be_bytes(wal.get(16..20)?.try_into().ok()?))
}

/// So many bytes of what is in a block.
fn beginning(block: &[u8], wanted: usize) -> Option<Vec<u8>> {
    let mut bytes = block.iter().copied();
    let mut out = Vec::new();
    while out.len() < wanted {
        let token = bytes.next()?;
        for _ in 0..extended(token >> 4, &mut bytes)? {
            out.push(bytes.next()?);
        }
        if out.len() >= wanted {
            break;
        }
        let back = usize::from(u16::from_le_bytes([bytes.next()?, bytes.next()?]));
        for _ in 0..extended(token & 15, &mut bytes)? + 4 {
            out.push(*out.get(out.len().checked_sub(back)?)?);
        }
    }
    Some(out)
}

fn extended(bits: u8, bytes: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut length = usize::from(bits);
    let mut more = if bits == 15 { 255 } else { 0 };
    while more == 255 {
        more = bytes.next()?;
        length += usize::from(more);
    }
    Some(length)
}
