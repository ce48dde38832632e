//! A second container on the same volume: it runs its app when the one that has the lock has decided about the databases, and
//! takes over when that one leaves. Must never upload without the lock, nor start an app on what nobody has decided about.

use std::time::Duration;

use super::replicator::Replicator;
use super::run_on::with_the_app;
use super::{Action, Actions, Holder, Lock, Machine, Now, Phase};
use crate::exit;
use crate::protocol::Preparation;

/// How often the lock is tried while the app runs; and while something waits for it.
const EVERY: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_millis(200);

impl Machine {
    pub(super) fn begin_standby(&mut self, now: Now) -> Actions {
        self.wait_by = self.rules.wait_for.map(|most| now.saturating_add(most));
        self.try_lock(now)
    }

    /// Tries for the lock now, and again in a while.
    pub(super) fn try_lock(&mut self, now: Now) -> Actions {
        let pause = if self.phase == Phase::Run { EVERY } else { SOON };
        self.replicator = Replicator::Standby(now.saturating_add(pause));
        vec![Action::TryLock]
    }

    pub(super) fn lock(&mut self, lock: Lock, now: Now) -> Actions {
        if !matches!(self.replicator, Replicator::Standby(_)) {
            return Vec::new();
        }
        match (self.phase, lock) {
            (Phase::Boot | Phase::Run | Phase::Sync, Lock::Ours) => self.take_over(now),
            (Phase::Boot, Lock::Theirs(holder)) if !self.rules.wait => self.beside(holder, now),
            // It sees our last writes.
            (Phase::Sync, Lock::Theirs(Holder::Passed)) => self.finish(),
            // So does this one, unless it makes its last sync, which it would not say: then it leaves, and what it has not seen is for us.
            (Phase::Sync, Lock::Theirs(Holder::Silent { .. })) if self.has_waited_half(now) => self.finish(),
            _ => Vec::new(),
        }
    }

    fn take_over(&mut self, now: Now) -> Actions {
        self.gate.lock();
        if self.phase == Phase::Sync {
            self.listen(self.stop_by.unwrap_or(now), now);
        }
        self.wait_by = None;
        let mut actions: Actions = self.stop_preparing().into_iter().collect();
        let preparation = match self.phase {
            Phase::Boot => Preparation::Boot,
            Phase::Sync => Preparation::Ending,
            _ => Preparation::TakeOver,
        };
        self.replicator = if self.phase == Phase::Sync { Replicator::Off } else { Replicator::Preparing };
        if self.phase == Phase::Run {
            actions.push(Action::Say("the other replicator has left: taking over".to_owned()));
        }
        actions.push(self.prepare(preparation));
        if self.phase == Phase::Run {
            actions.extend(self.run_on(with_the_app));
        }
        actions
    }

    /// Whether half of the stop timeout has passed.
    fn has_waited_half(&self, now: Now) -> bool {
        self.stop_by.is_none_or(|by| by.saturating_sub(now) <= self.rules.stop_timeout / 2)
    }

    /// Whether the app may start beside the one that has the lock.
    fn beside(&mut self, holder: Holder, now: Now) -> Actions {
        // One that has just taken the lock says nothing yet, either.
        let was_silent = std::mem::replace(&mut self.silent, matches!(holder, Holder::Silent { .. }));
        match holder {
            Holder::Passed => {
                let mut actions: Actions = self.stop_preparing().into_iter().collect();
                actions.extend(self.start_app(now));
                actions
            }
            // Never on an empty database: what is missing, the other one may be about to restore.
            Holder::Silent { present: true } if was_silent && self.preparation.is_none() => vec![self.prepare(Preparation::Beside)],
            Holder::Silent { .. } | Holder::Undecided => Vec::new(),
        }
    }

    /// It has waited long enough for the other one to leave.
    pub(super) fn tick_wait(&mut self, now: Now) -> Option<Actions> {
        self.wait_by.take_if(|by| *by <= now)?;
        let mut actions = vec![Action::Say(format!(
            "{}: another process has replicated it for {} s, and a migration that is to be rolled back where it fails needs the database \
             alone: end that one first (deploy stop-first), or unset LITESTREAM_ENTRY_MIGRATE_ROLLBACK",
            self.names(),
            self.rules.wait_for.unwrap_or_default().as_secs()
        ))];
        actions.extend(self.abandon(exit::SYSTEM));
        Some(actions)
    }
}
