//! What processes of this program say to each other, typed in both directions, and how they are called. Must never fall back to anything where a
//! word is not known.

mod job;
pub mod keeper;
pub mod last_sync;
mod message;
mod preparation;
mod rules;
mod when;

pub use job::{Job, Rhythm, is_internal, stand_in};
pub use message::{LONGEST, Message};
pub use preparation::{Preparation, Prepare};
pub use rules::{Check, Holder, Rules};
pub use when::{OPEN, SAME, When};
