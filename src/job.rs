//! A job: a release command or a one-off task that runs from the image with the app's variables. What it says, and why. Must never
//! decide what is uploaded: a job uploads nothing.

use crate::settings::Job;

/// What a job finds where its databases are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Some are missing: they are restored, as copies that end with the container.
    Own,
    /// They are here, and another container replicates them.
    Shared,
    /// They are here, and nobody replicates them now.
    Kept,
}

/// What there is, from what was seen: every database is here; another process has the lock on one.
pub fn place(here: bool, held: bool) -> Place {
    match (here, held) {
        (_, true) => Place::Shared,
        (true, false) => Place::Kept,
        (false, false) => Place::Own,
    }
}

/// The first line, and the last where what was written is lost.
pub fn words(job: &Job, place: Place, migrates: bool) -> (String, Option<String>) {
    let from = &job.from;
    let migration = if migrates { "; LITESTREAM_ENTRY_MIGRATE does not run in a job" } else { "" };
    match place {
        Place::Own => (
            format!(
                "{from}: this is a job: it works on a copy of the backup, replicates nothing, and WHAT IT WRITES IS NOT KEPT; a migration belongs \
                 into LITESTREAM_ENTRY_MIGRATE of the app{migration}"
            ),
            Some(format!("{from}: the job has ended: WHAT IT WROTE IS NOT KEPT, since it worked on a copy of the backup")),
        ),
        Place::Shared => {
            (format!("{from}: this is a job: it works on the databases here, which another container replicates{migration}"), None)
        }
        Place::Kept => (
            format!(
                "{from}: this is a job: it works on the databases here and replicates nothing; what it writes is backed up when the app runs here \
                 next{migration}"
            ),
            None,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_to_a_copy_is_said_to_be_lost_at_both_ends() {
        let job = Job { from: "RELEASE_COMMAND=1".into() };
        for (here, held, expected) in
            [(false, false, Place::Own), (true, false, Place::Kept), (true, true, Place::Shared), (false, true, Place::Shared)]
        {
            let place = place(here, held);
            assert_eq!(place, expected);
            let (first, last) = words(&job, place, true);
            assert!(first.starts_with("RELEASE_COMMAND=1: ") && first.ends_with("MIGRATE does not run in a job"));
            assert_eq!(first.contains("NOT KEPT"), place == Place::Own);
            assert_eq!(last.is_some_and(|last| last.contains("NOT KEPT")), place == Place::Own);
        }
    }
}
