//! How long what an LZ4 frame holds is, without unpacking it (github.com/lz4/lz4, frame format 1.6.2). Must never allocate by what a
//! file says of itself.

/// Every frame begins so.
const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// A block whose length has this bit is stored as it is.
const STORED: u32 = 1 << 31;

/// The length of what is in it; none where it is not a whole frame.
pub fn unpacked(frame: &[u8]) -> Option<u64> {
    let mut rest = frame.strip_prefix(&MAGIC)?;
    let flags = *take(&mut rest, 1)?.first()?;
    // The block size; then the content's size and the dictionary's number, where they are there; then a checksum.
    let has = |bit: u8| flags & bit != 0;
    let header = [Some(1), has(1 << 3).then_some(8), has(1).then_some(4), Some(1)];
    header.into_iter().flatten().try_for_each(|size| take(&mut rest, size).map(drop))?;
    let mut length = 0_u64;
    loop {
        let size = u32::from_le_bytes(take(&mut rest, 4)?.try_into().ok()?);
        if size == 0 {
            return Some(length);
        }
        let block = take(&mut rest, usize::try_from(size & !STORED).ok()?)?;
        let of_block = if size & STORED == 0 { of_block(block)? } else { u64::try_from(block.len()).ok()? };
        length = length.checked_add(of_block)?;
        if has(1 << 4) {
            take(&mut rest, 4)?;
        }
    }
}

/// A block is a row of sequences: a token, literals, and where to copy how much from; the last one has literals alone.
fn of_block(mut block: &[u8]) -> Option<u64> {
    let mut length = 0_u64;
    loop {
        let token = *take(&mut block, 1)?.first()?;
        let literals = extended(token >> 4, &mut block)?;
        take(&mut block, usize::try_from(literals).ok()?)?;
        length = length.checked_add(literals)?;
        if block.is_empty() {
            return Some(length);
        }
        take(&mut block, 2)?;
        length = length.checked_add(extended(token & 15, &mut block)?)?.checked_add(4)?;
    }
}

/// A length of four bits, which goes on in bytes where they are all set.
fn extended(bits: u8, block: &mut &[u8]) -> Option<u64> {
    let mut length = u64::from(bits);
    if bits == 15 {
        loop {
            let more = *take(block, 1)?.first()?;
            length = length.checked_add(u64::from(more))?;
            if more < 255 {
                break;
            }
        }
    }
    Some(length)
}

fn take<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(size)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_that_of_what_was_packed() {
        // `lz4 -c` of 100 times `a`, and of `hello`, which it stores; without content checksums.
        let packed = |flags: u8, block: &[u8], stored: bool| {
            let size = u32::try_from(block.len()).unwrap() | if stored { STORED } else { 0 };
            [&MAGIC[..], &[flags, 0x40, 0], &size.to_le_bytes(), block, &[0; 4]].concat()
        };
        let repeated = [0x1f, b'a', 1, 0, 75, 0x50, b'a', b'a', b'a', b'a', b'a'];
        assert_eq!(unpacked(&packed(0x60, &repeated, false)), Some(1 + 15 + 75 + 4 + 5));
        assert_eq!(unpacked(&packed(0x60, b"hello", true)), Some(5));
        let whole = packed(0x60, &repeated, false);
        for cut in 0..whole.len() {
            assert_eq!(unpacked(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(unpacked(b"something else"), None);
    }
}
