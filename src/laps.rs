//! Whether 0.3 has left out whole laps of a WAL: what was written between two of its copies, and was begun anew over before it came to read it.
//! Must never call left out what may only be another WAL.
//!
//! 0.3 lets go of its lock for each of its own checkpoints. An app whose own checkpoints come every few commits, or that writes as much in
//! that moment, begins the WAL anew more than once meanwhile; 0.3 sees that it was begun anew, and goes on with the next number
//! (`db.go`, `verify` and `checkpoint`). Each beginning adds one to the first salt (SQLite's `wal.c`, `walRestartHdr`), unless a connection
//! begins it that has emptied none before: then the salts are random, and say nothing.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::litestream::local;
use crate::sqlite::wal::salts_at;

/// One of 0.3's copies of a WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lap {
    generation: String,
    /// Its number in that.
    index: u32,
    /// The first of the WAL's salts.
    salt: u32,
}

/// More than so many are no laps, but random salts.
const MOST: u32 = 10_000;
/// How often a generation is looked for that is about to begin.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl Lap {
    /// The newest beside a database; none where there is none.
    pub fn newest(database: &Path) -> Option<Self> {
        let copy = local::shadow_wal(database)?;
        let (generation, index) = local::place_of(&copy)?;
        let [a, b, c, d, ..] = salts_at(&copy, 16)?;
        Some(Self { generation, index: u32::try_from(index).ok()?, salt: u32::from_be_bytes([a, b, c, d]) })
    }

    /// The same, waited for where there is none yet: what is left out is known by what was there at the beginning.
    pub fn awaited(database: &Path, by: Instant) -> Option<Self> {
        loop {
            let newest = Self::newest(database);
            if newest.is_some() || Instant::now() >= by {
                return newest;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether there was another one before it in its generation.
    pub fn follows_another(&self) -> bool {
        self.index > 0
    }

    /// Whether both are of one generation.
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        self.generation == other.generation
    }

    /// How many were left out between this one and a later one of the same generation; none where that is not known.
    pub fn left_out_until(&self, later: &Self) -> Option<u32> {
        let copied = later.index.checked_sub(self.index).filter(|_| self.is_of_the_same(later))?;
        let begun = later.salt.wrapping_sub(self.salt);
        begun.checked_sub(copied).filter(|left_out| (1..=MOST).contains(left_out))
    }
}

impl fmt::Display for Lap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:08x}/{:08x}", self.generation, self.index, self.salt)
    }
}

impl FromStr for Lap {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |digits: &str| u32::from_str_radix(digits, 16).map_err(drop);
        match text.split('/').collect::<Vec<_>>().as_slice() {
            [generation, index, salt] => Ok(Self { generation: (*generation).to_owned(), index: number(index)?, salt: number(salt)? }),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lap(generation: &str, index: u32, salt: u32) -> Lap {
        Lap { generation: generation.into(), index, salt }
    }

    #[test]
    fn a_lap_that_was_not_copied_is_seen_by_the_salts_alone() {
        let first = lap("a", 2, 0xffff_fffe);
        for (index, salt, left_out) in [(2, 0xffff_fffe, None), (3, 0xffff_ffff, None), (4, 0, None), (3, 0, Some(1)), (4, 5, Some(5))] {
            assert_eq!(first.left_out_until(&lap("a", index, salt)), left_out, "{index} {salt:x}");
        }
        assert_eq!(first.left_out_until(&lap("a", 3, 0x1234_5678)), None, "random");
        assert_eq!(first.left_out_until(&lap("b", 3, 0)), None, "another generation");
        assert_eq!(lap("a", 4, 9).left_out_until(&lap("a", 3, 20)), None);
        assert_eq!(first.to_string().parse(), Ok(first));
    }
}
