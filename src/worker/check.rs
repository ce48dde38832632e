//! `__check`: proves every backup, one after the other, begins one anew that differs, and tells those who are to know. Must never
//! keep the app waiting: it runs when nobody else wants to.

use std::time::{Duration, Instant, SystemTime};

use super::Channel;
use crate::exit::Failure;
use crate::notify::{self, News};
use crate::plan::{Database, Plan};
use crate::protocol::Message;
use crate::resnapshot;
use crate::status::verified::Verified;
use crate::verify::{self, Options, Proof, Unproved};
use crate::watched::Owed;
use crate::{interrupt, report, sys};

/// How long a write may take to reach the replica, where the interval is not shorter: what is behind for longer is for `health`
/// to say.
const LONGEST: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_secs(5);

/// Proves them; says what differs, and what became of it. Whether all are proved, or it was cut short.
pub(super) fn run(plan: &Plan, channel: &Channel) -> bool {
    sys::be_nice();
    let mut all = true;
    for database in &plan.databases {
        let proved = check(plan, database, channel);
        // The app is to end: that says nothing of the backup.
        if interrupt::check().is_err() {
            return true;
        }
        all &= proved;
    }
    // Its silence is the alarm.
    if all && let Err(why) = notify::heartbeat() {
        channel.say(&Message::Note(why));
    }
    all
}

/// Whether it is proved, by way of a new snapshot where it has to be.
fn check(plan: &Plan, database: &Database, channel: &Channel) -> bool {
    match prove(plan, database) {
        Ok(proof) => {
            report::line(format_args!("{}: verified in {:.2} s", database.alias, proof.total().as_secs_f32()));
            true
        }
        Err(_) if interrupt::check().is_err() => false,
        Err(unproved) => {
            let state = if unproved.differs { "different" } else { "failed" };
            tell(channel, database, state, &unproved.failure.message);
            // What is gone there is here.
            if unproved.is_absent() {
                Owed::note(plan, &database.path, &format!("{}: the replica has nothing", database.alias));
            }
            (unproved.differs || unproved.is_absent() || unproved.is_damaged() && verify::is_whole(database))
                && make_whole(plan, database, channel)
        }
    }
}

/// To PID 1, which says it and keeps it; and to who is to be called.
fn tell(channel: &Channel, database: &Database, state: &str, text: &str) {
    channel.say(&Message::Note(text.to_owned()));
    let news = News { text, database: &database.alias, state, time: SystemTime::now() };
    if let Err(why) = notify::alert(&news) {
        channel.say(&Message::Note(why));
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

fn make_whole(plan: &Plan, database: &Database, channel: &Channel) -> bool {
    let ask = || -> Result<(), Failure> {
        channel.say(&Message::Resnapshot);
        Ok(())
    };
    let begun = resnapshot::begin(plan, std::slice::from_ref(database), resnapshot::BACK_WITHIN, ask);
    let (state, said) = match begun.map(|()| prove(plan, database)) {
        _ if interrupt::check().is_err() => return false,
        Ok(Ok(proof)) => {
            Owed::settle(plan, &database.path);
            let took = proof.total().as_secs_f32();
            ("ok", format!("{}: a new snapshot has made the backup whole again, verified in {took:.2} s", database.alias))
        }
        Ok(Err(unproved)) => ("failed", format!("{} (after a new snapshot)", unproved.failure.message)),
        Err(failure) => ("failed", format!("{}: {}", database.alias, failure.message)),
    };
    tell(channel, database, state, &said);
    state == "ok"
}
