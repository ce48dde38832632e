//! Backups that are proved on a schedule, and begun anew where they are different. Must never have two checks at once, nor one
//! beside the last sync.

use std::time::Duration;

use super::replicator::Replicator;
use super::{Action, Actions, AppState, Machine, Migration, Now, Phase, Role};
use crate::exit::Ended;
use crate::protocol::Job;

/// When a check that is due finds Litestream not up, it is due again.
const LATER: Duration = Duration::from_secs(5);
/// One that did not prove everything is made again so soon, where the interval is longer.
const AGAIN: Duration = Duration::from_secs(300);

impl Machine {
    /// The first is due somewhere in the interval, so that a fleet that starts together does not ask one store together.
    pub(super) fn schedule_first_check(&mut self, now: Now) {
        self.check_at = self.rules.check.map(|check| now.saturating_add(check.first));
    }

    pub(super) fn tick_check(&mut self, now: Now) -> Actions {
        if self.check_at.take_if(|at| *at <= now).is_none() {
            return Vec::new();
        }
        if self.phase == Phase::Run && self.replicator == Replicator::Up && self.migration == Migration::None && !self.checking {
            self.checking = true;
            return vec![Action::Work(Job::Check)];
        }
        self.check_at = Some(now.saturating_add(LATER));
        Vec::new()
    }

    pub(super) fn check_ended(&mut self, ended: Ended, now: Now) -> Actions {
        self.checking = false;
        if self.app != AppState::Gone && self.stops == 0 {
            // What was not proved may have been out of reach for a moment, and is unhealthy until it is proved.
            let pause = |every: Duration| if ended.ok() { every } else { every.min(AGAIN) };
            self.check_at = self.rules.check.map(|check| now.saturating_add(pause(check.every)));
        }
        Vec::new()
    }

    /// The app is to end, or has: what a check has begun, it takes away.
    pub(super) fn stop_check(&mut self) -> Option<Action> {
        self.check_at = None;
        self.checking.then_some(Action::Stop(Role::Work(Job::Check)))
    }

    /// Somebody asks for a new snapshot.
    pub(super) fn resnapshot(&mut self, now: Now) -> Actions {
        let actions = self.reopen(now);
        if actions.is_empty() {
            return actions;
        }
        let said = format!("{}: a new snapshot was asked for: starting litestream again on an empty WAL", self.names());
        std::iter::once(Action::Say(said)).chain(actions).collect()
    }
}
