//! Places of replicas that have just not answered. Must never keep a question from a place that has.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// What one command has found out: with many databases in one place, each time-out after the first would only be one more.
#[derive(Debug, Default)]
pub struct Silence(Mutex<BTreeSet<String>>);

impl Silence {
    /// Why a replica need not be asked, where another in its place has not answered.
    pub fn of(&self, replica: &str) -> Option<String> {
        let place = place(replica);
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&place);
        known.then(|| format!("not asked, since {place} has just not answered for another database"))
    }

    /// It has not answered.
    pub fn note(&self, replica: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(place(replica));
    }
}

/// Scheme and host or bucket.
fn place(replica: &str) -> String {
    replica.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_in_the_same_place_is_not_asked_for() {
        let silence = Silence::default();
        silence.note("s3://bucket/a.db");
        assert!(silence.of("s3://bucket/b.db").is_some_and(|why| why.contains("s3://bucket ")));
        assert_eq!(silence.of("s3://bucket-2/a.db"), None);
        assert_eq!(silence.of("gs://bucket/a.db"), None);
    }
}
