//! What processes of this program say to each other, typed in both directions, and how they are called. Must never fall back to anything where a
//! word is not known.

pub mod keeper;
pub mod last_sync;
mod message;
mod preparation;
mod rules;

use std::ffi::OsStr;

pub use message::{LONGEST, Message};
pub use preparation::Preparation;
pub use rules::{Check, Holder, Rules};

/// Behind a worker's other arguments: the app failed soon after its start, beside pins.
pub const FAILED: &str = "failed";

/// The sub-commands that only this program itself calls.
pub fn is_internal(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"__")
}
