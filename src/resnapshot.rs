//! A backup that begins anew with a full snapshot, while the app runs. Must never stop replication without starting it again:
//! on 0.5 PID 1 does both, and on 0.3 Litestream itself.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::exit::{self, Failure};
use crate::litestream::local;
use crate::litestream::{Format, chain};
use crate::plan::{Database, Plan};
use crate::protocol::Message;
use crate::restore::install::go_on_from_here;
use crate::runtime::CONTROL_FILE;
use crate::sqlite::beside_app;
use crate::state::{Replication, State};
use crate::watched::Owed;
use crate::{continuity, files, interrupt};

/// How long Litestream may take to come back, its last sync and the emptying of WALs included, where nobody waits.
pub const BACK_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(100);

/// Begins the backups of these databases anew, on 0.5 those of all; `ask` says so to PID 1. Returns when Litestream replicates
/// again, or `within` is over.
///
/// # Errors
/// 71 where nothing replicates here, or it has not come back in time; 128+n after a signal.
pub fn begin(plan: &Plan, databases: &[Database], within: Duration, ask: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let by = Instant::now() + within;
    let failed = |why: &str| Failure::new(exit::SYSTEM, format!("a new snapshot: {why}"));
    match State::read(&plan.runtime).map(|state| state.view.replication) {
        Some(Replication::Up) => {}
        Some(Replication::Standby) => return Err(failed("another process replicates; ask there")),
        Some(Replication::Job) => return Err(failed("this is a job, which replicates nothing")),
        Some(_) => return Err(failed("litestream is not up; it takes one by itself when it comes back")),
        None => return Err(failed("no litestream-entry runs here as a container's entrypoint")),
    }
    match plan.litestream.format() {
        Format::Generations => databases.iter().try_for_each(|database| begin_generation(database, by).map_err(|why| failed(&why))),
        Format::Ltx => {
            // A snapshot of the lowest level alone would leave a restore to begin with a damaged one of the highest.
            for Database { path, alias, .. } in databases {
                Owed::note(plan, path, &format!("{alias}: a new snapshot was asked for"));
            }
            let before = State::read(&plan.runtime).map(|state| state.litestream);
            ask()?;
            until(by, || State::read(&plan.runtime).is_some_and(|state| is_back(&state, before)))?.then_some(()).ok_or_else(|| {
                failed(&format!("litestream is not back within {} s, and takes it when it is; see `status`", within.as_secs_f32()))
            })?;
            match State::read(&plan.runtime) {
                Some(state) if state.view.unproven => {
                    Err(failed("a transaction of the app's keeps the WAL from being emptied; it is tried again by itself"))
                }
                _ => Ok(()),
            }
        }
    }
}

/// Whether another Litestream than that one replicates, whatever the clock has said meanwhile.
fn is_back(state: &State, before: Option<i32>) -> bool {
    state.view.replication == Replication::Up && Some(state.litestream) != before
}

/// 0.3 reads the name of its generation at each sync, and begins another where there is none.
fn begin_generation(database: &Database, by: Instant) -> Result<(), String> {
    let path = local::generation_path(&database.path);
    let before = files::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    continuity::begin_anew(&database.path).map_err(|e| format!("{}: {e}", path.display()))?;
    let begun = until(by, || files::read_to_string(&path).is_ok_and(|now| now != before)).map_err(|f| f.message)?;
    if begun { Ok(()) } else { Err(format!("{}: litestream has not begun another generation in time", database.alias)) }
}

fn until(by: Instant, is_so: impl Fn() -> bool) -> Result<bool, Failure> {
    while !is_so() {
        interrupt::check()?;
        if Instant::now() >= by {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
    Ok(true)
}

/// While no Litestream runs: sees to it that the next one has to begin with a snapshot of what is here now.
///
/// # Errors
/// What was in the way.
pub fn clear_the_way(plan: &Plan, database: &Database) -> Result<(), String> {
    let path = &database.path;
    if plan.litestream.format() == Format::Generations {
        return continuity::begin_anew(path).map_err(|error| error.to_string());
    }
    // Its own files are elsewhere; on an empty WAL it takes one by itself.
    if database.has_own_meta {
        return beside_app::truncate(path, Instant::now() + LIST_FOR);
    }
    let list = chain::list(&plan.litestream, &plan.config(), path, &database.replica, Instant::now() + LIST_FOR);
    if list.is_ok_and(|parts| parts.is_empty()) {
        // It would look there for the transactions before its own, for ever.
        continuity::forget_own(path).map_err(|error| error.to_string())
    } else {
        go_on_from_here(path).map_err(|error| error.to_string())
    }
}

/// How long the replica has to answer what it has.
const LIST_FOR: Duration = Duration::from_secs(5);

/// Asks the PID 1 that has this runtime directory.
///
/// # Errors
/// 71 where none is there to be asked, or this user may not.
pub fn ask_pid_1(runtime: &Path) -> Result<(), Failure> {
    let path = runtime.join(CONTROL_FILE);
    let sent = UnixDatagram::unbound().and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.send_to(Message::Resnapshot.encode().as_bytes(), &path)
    });
    let refused = |e| format!("{}: {e}; the litestream-entry of this container cannot be asked", path.display());
    sent.map(drop).map_err(|e| Failure::new(exit::SYSTEM, refused(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::View;
    use std::time::SystemTime;

    #[test]
    fn it_is_back_when_it_is_another_whatever_the_clock_says() {
        let now = SystemTime::now();
        let state =
            |litestream, replication, since| State { view: View { replication, ..View::default() }, since, litestream, ..State::default() };
        // A clock that was set back, that stands still, that was set forward.
        for since in [now - Duration::from_secs(86_400), now, now + Duration::from_secs(86_400)] {
            assert!(is_back(&state(8, Replication::Up, since), Some(7)));
            assert!(!is_back(&state(7, Replication::Up, since), Some(7)), "it has not ended yet");
            for replication in [Replication::Down, Replication::Starting, Replication::Off] {
                assert!(!is_back(&state(8, replication, since), Some(7)), "{replication:?}");
            }
        }
    }
}
