//! What a boot is to do, as its keeper tells PID 1. Must never say how.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::OnFailure;

/// What a boot is to do, without how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own, named where it is set")]
pub struct Rules {
    /// Something is replicated.
    pub replicates: bool,
    /// Copies of what is missing are restored, and nothing is replicated.
    pub job: bool,
    /// What is said at the end of an app that has run.
    pub last_words: Option<String>,
    /// There is an app; without one, Litestream alone is looked after.
    pub app: bool,
    /// Every database is here: what an earlier life wrote may be in them and nowhere else.
    pub here: bool,
    /// Another process has the lock: run the app beside it, and take over when it leaves.
    pub standby: bool,
    /// Wait for that process to leave before anything starts; so long at most.
    pub wait: bool,
    /// See [`Rules::wait`]; without end where there is none.
    pub wait_for: Option<Duration>,
    /// What is replicated, for messages.
    pub names: Vec<String>,
    /// The only one's replica.
    pub replica: Option<String>,
    /// The running Litestream can confirm a last sync (0.5 with a control socket).
    pub confirms: bool,
    /// Whether Litestream needs the databases made fit before each start (0.5).
    pub repairs: bool,
    /// Directories of databases are watched for what comes and goes in them.
    pub watches: bool,
    /// A migration runs in the app's place before it, for so long at most.
    pub migrate: Option<Duration>,
    /// Where it fails, the databases go back to what they were.
    pub rollback: bool,
    /// Signals that reach the app as others; 0 is none.
    pub rewrite: Vec<(i32, i32)>,
    /// Signals that ask for the end besides TERM, INT and QUIT.
    pub stop_signals: Vec<i32>,
    /// Status is served over HTTP.
    pub serves: bool,
    /// When backups are proved, if they are.
    pub check: Option<Check>,
    /// What to do when Litestream ends and the app lives.
    pub on_failure: OnFailure,
    /// From the stop to our own end.
    pub stop_timeout: Duration,
    /// What is kept of that for the last sync.
    pub reserve: Duration,
}

/// When backups are proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// For the first time after the app's start.
    pub first: Duration,
    /// From the end of one to the next.
    pub every: Duration,
}

/// What the process that has the lock has said of the databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holder {
    /// They are decided about, and replicated.
    Passed,
    /// Not yet that.
    Undecided,
    /// It is of a release that does not say.
    Silent {
        /// Every database is here.
        present: bool,
    },
}
