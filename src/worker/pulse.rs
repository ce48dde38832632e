//! `__pulse`: whether Litestream is still alive, not only there, and whether what it replicates is still what it was. Must never take a replica that does not answer for a
//! Litestream that hangs: killing it would help nobody.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::Channel;
use crate::litestream::local;
use crate::litestream::{Format, socket};
use crate::plan::{Database, Plan};
use crate::protocol::Message;
use crate::watch::{self, Finding};
use crate::{layout, status};

/// How long it may take to answer on its own socket.
const ANSWER: Duration = Duration::from_secs(5);
/// How long one that starts may take to listen there.
const LISTENS: Duration = Duration::from_secs(1);
/// 0.3 copies the WAL every second, whatever its replica does.
const COPY: Duration = Duration::from_secs(20);

/// Asks once; says so where it hangs. What is in directories is not watched: there may be thousands.
pub(super) fn run(plan: &Plan, single: &[Database], channel: &Channel) {
    if let Some(socket) = plan.socket.as_ref().filter(|socket| socket::is_gone(socket, LISTENS)) {
        channel.say(&Message::Begin(format!("{}: litestream's socket was taken away", socket.display())));
        return;
    }
    let alive = match (&plan.socket, plan.litestream.format()) {
        (Some(socket), Format::Ltx) => socket::answers(socket, ANSWER),
        (None, Format::Ltx) => Ok(()),
        (_, Format::Generations) => plan.databases.iter().try_for_each(|d| copies(&d.path)),
    };
    let hangs = alive.is_err();
    if let Err(why) = alive {
        channel.say(&Message::Hung(why));
    }
    status::note(plan);
    if hangs {
        return;
    }
    for finding in watch::look(plan, single) {
        channel.say(&match finding {
            Finding::Note(text) => Message::Note(text),
            Finding::Begin(why) => Message::Begin(why),
        });
    }
}

/// Whether 0.3's copy of the WAL is as new as the WAL.
fn copies(database: &Path) -> Result<(), String> {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let Some(copy) = local::shadow_wal(database).and_then(|path| changed(&path)) else { return Ok(()) };
    let Some(wal) = changed(&layout::beside(database, "-wal")) else { return Ok(()) };
    if is_behind(copy, wal, SystemTime::now()) {
        Err(format!("{}: its WAL has been written, and not been read for {} s", database.display(), COPY.as_secs()))
    } else {
        Ok(())
    }
}

/// The WAL is newer than its copy by more than that: it was written at least so long after it was last read.
fn is_behind(copy: SystemTime, wal: SystemTime, now: SystemTime) -> bool {
    wal <= now && wal.duration_since(copy).is_ok_and(|ahead| ahead > COPY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_copy_that_has_been_behind_for_long_is_a_hang() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + seconds);
        assert!(!is_behind(at(5), at(5), at(90)), "an app that is idle");
        assert!(!is_behind(at(5), at(6), at(90)), "its last write was copied in the same second");
        assert!(!is_behind(at(5), at(20), at(21)), "not yet");
        assert!(is_behind(at(5), at(30), at(31)));
        assert!(!is_behind(at(30), at(5), at(90)), "newer than the WAL");
    }
}
