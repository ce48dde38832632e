//! What the writer writes: every change is a function of the row's id alone, so whoever knows the
//! highest id knows every row that must be there.

/// What the commit of a row does besides inserting it: now and then it changes an older one.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// Row whose body becomes `body(mix(id, row))`.
    pub(crate) update: Option<i64>,
    pub(crate) delete: Option<i64>,
}

/// The commit that inserts row `id`.
pub(crate) fn step(id: i64) -> Step {
    let older = |salt: u64| older_row(id, salt);
    Step { update: (id % 2 == 1).then(|| older(1)).flatten(), delete: (id % 41 == 0).then(|| older(2)).flatten() }
}

/// The seed of the body that an update at `id` gives to `row`.
pub(crate) fn mix(id: i64, row: i64) -> u64 {
    scramble(id.cast_unsigned() ^ row.cast_unsigned().rotate_left(32))
}

/// 20 to 300 letters that look random.
pub(crate) fn body(seed: u64) -> String {
    let mut state = scramble(seed);
    let length = 20 + state % 281;
    (0..length)
        .map(|_| {
            state = scramble(state);
            char::from(b'a' + u8::try_from(state % 26).unwrap_or(0))
        })
        .collect()
}

/// A row before `id`: mostly far away, so that pages all over the file change.
fn older_row(id: i64, salt: u64) -> Option<i64> {
    let before = u64::try_from(id).ok()?.checked_sub(1)?;
    let pick = scramble(id.cast_unsigned().wrapping_add(salt << 48)).checked_rem(before)?;
    i64::try_from(pick).ok()?.checked_add(1)
}

/// One round of splitmix64.
fn scramble(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
