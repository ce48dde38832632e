//! The row of the fault harness: the writer makes it, the judge knows from its key alone what must be in it.

/// What the row of this owner and number holds in its version: so many bytes that look random.
pub(crate) fn payload(owner: &str, number: u64, version: u64, length: usize) -> Vec<u8> {
    let seed = owner.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut state = scramble(seed ^ number.rotate_left(32) ^ version);
    let mut block = [0; 512];
    for place in block.chunks_exact_mut(8) {
        state = scramble(state);
        place.copy_from_slice(&state.to_le_bytes());
    }
    // Few steps a kilobyte, so that many megabytes are looked through in no time; no two pages of a large one are alike.
    let mut bytes = Vec::with_capacity(length.next_multiple_of(block.len()));
    while bytes.len() < length {
        state = scramble(state);
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(&block);
    }
    bytes.truncate(length);
    bytes
}

/// One round of splitmix64.
fn scramble(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
