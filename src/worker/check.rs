//! `__check`: proves every backup, one after the other, and begins one anew that differs. Must never keep the app waiting: it
//! runs when nobody else wants to.

use std::time::{Duration, Instant};

use super::{Channel, Message};
use crate::exit::Failure;
use crate::plan::{Database, Plan};
use crate::resnapshot;
use crate::status::verified::Verified;
use crate::verify::{self, Options, Proof, Unproved};
use crate::{interrupt, report, sys};

/// How long a write may take to reach the replica, where the interval is not shorter: what is behind for longer is for `health`
/// to say.
const LONGEST: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_secs(5);

/// Proves them; says what differs, and what became of it.
pub(super) fn run(plan: &Plan, channel: &Channel) {
    sys::be_nice();
    for database in &plan.databases {
        if interrupt::check().is_err() {
            return;
        }
        match prove(plan, database) {
            Ok(proof) => report::line(format_args!("{}: verified in {:.2} s", database.alias, proof.total().as_secs_f32())),
            // The app is to end: that says nothing of the backup.
            Err(_) if interrupt::check().is_err() => return,
            Err(unproved) => {
                channel.say(&Message::Note(unproved.failure.message.clone()));
                if unproved.differs {
                    make_whole(plan, database, channel);
                }
            }
        }
    }
}

fn prove(plan: &Plan, database: &Database) -> Result<Proof, Unproved> {
    let timeout = plan.entry.verify_interval.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
    let options = Options { timeout, quick: false, read_only: false };
    let began = Instant::now();
    let outcome = verify::verify(plan, database, &options);
    if interrupt::check().is_ok() {
        Verified::note(plan, &database.path, began.elapsed(), &outcome);
    }
    outcome
}

fn make_whole(plan: &Plan, database: &Database, channel: &Channel) {
    let ask = || -> Result<(), Failure> {
        channel.say(&Message::Resnapshot);
        Ok(())
    };
    let begun = resnapshot::begin(plan, std::slice::from_ref(database), ask);
    let said = match begun.map(|()| prove(plan, database)) {
        Ok(Ok(proof)) => {
            format!("{}: a new snapshot has made the backup whole again, verified in {:.2} s", database.alias, proof.total().as_secs_f32())
        }
        Ok(Err(unproved)) => format!("{} (after a new snapshot)", unproved.failure.message),
        Err(failure) => format!("{}: {}", database.alias, failure.message),
    };
    channel.say(&Message::Note(said));
}
