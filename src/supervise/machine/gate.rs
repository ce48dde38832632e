//! The one gate for every upload: no Litestream that could write to a replica is started unless it is open. Must never open
//! by itself: the lock is taken by the shell, and the decision about the databases is a worker's.

use std::fmt;

/// Whether something may be uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gate {
    lock: bool,
    decision: Decision,
}

/// What this life has decided about its databases: whether one is behind its replica, diverged from it, or not to be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Open,
    Passed,
    Refused,
}

/// Why nothing may be uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// Another process has the lock.
    NoLock,
    /// It is not known yet whether the databases here are the ones to go on with.
    Undecided,
    /// They are not.
    Refused,
}

impl Gate {
    /// That of a life that begins.
    pub(super) fn new(lock: bool) -> Self {
        Self { lock, decision: Decision::Open }
    }

    /// Whether something may be uploaded.
    pub(super) fn check(self) -> Result<(), Closed> {
        match (self.lock, self.decision) {
            (false, _) => Err(Closed::NoLock),
            (true, Decision::Open) => Err(Closed::Undecided),
            (true, Decision::Refused) => Err(Closed::Refused),
            (true, Decision::Passed) => Ok(()),
        }
    }

    /// Whether a database may be put back as it was before a migration: nothing is uploaded by it.
    pub(super) fn may_replace(self) -> Result<(), Closed> {
        if self.lock { Ok(()) } else { Err(Closed::NoLock) }
    }

    /// The lock is ours now. What was decided without it does not count: the one that had it went on writing.
    pub(super) fn lock(&mut self) {
        *self = Self { lock: true, decision: Decision::Open };
    }

    /// The databases here are the ones to go on with.
    pub(super) fn pass(&mut self) {
        if self.decision == Decision::Open {
            self.decision = Decision::Passed;
        }
    }

    /// They are not, for the rest of this life.
    pub(super) fn refuse(&mut self) {
        self.decision = Decision::Refused;
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLock => "another process has the lock, and has not said that it replicates this database",
            Self::Undecided => "it was not decided in time whether this database is the one to go on with, so that nothing was uploaded",
            Self::Refused => "this database is not the one to go on with, see above, so that nothing was uploaded",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_open_only_with_the_lock_and_a_decision_that_passed() {
        let mut gate = Gate::new(false);
        gate.pass();
        assert_eq!(gate.check(), Err(Closed::NoLock), "whatever was decided");
        gate.lock();
        assert_eq!(gate.check(), Err(Closed::Undecided), "a decision without the lock does not count");
        gate.pass();
        assert_eq!(gate.check(), Ok(()));
        gate.refuse();
        gate.pass();
        assert_eq!(gate.check(), Err(Closed::Refused), "for the rest of this life");
        assert!(gate.may_replace().is_ok() && Gate::new(false).may_replace().is_err());
        assert_eq!(Gate::new(true).check(), Err(Closed::Undecided));
    }
}
