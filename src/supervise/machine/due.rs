//! What is due, and when: deadlines are facts of the state, and a tick does what has come due. Must never wait itself.

use super::replicator::Replicator;
use super::{Action, Actions, DRAIN_EVERY, KILL, Machine, Named, Now, PULSE_AGAIN, Phase, Role, TERM};
use crate::protocol::Job;

impl Machine {
    /// When [`super::Event::Tick`] is due; none while there is nothing to wait for.
    pub fn deadline(&self) -> Option<Now> {
        let standby = if let Replicator::Standby(at) = self.replicator { Some(at) } else { None };
        let replicator = match self.replicator {
            Replicator::Standby(at) | Replicator::Backoff(at) | Replicator::Reopening(at) => Some(at),
            Replicator::Starting => Some(self.report_by()),
            _ => None,
        };
        let phase = match self.phase {
            Phase::Boot | Phase::Run => [
                replicator,
                self.prepare_at,
                self.heal_at,
                self.pulse_at,
                self.next_again(),
                self.check_at,
                self.migrate_by,
                self.come_up_by,
            ]
            .into_iter()
            .flatten()
            .min(),
            Phase::Drain { next, .. } => Some(next),
            Phase::Close => self.close_by,
            Phase::Leave { by, .. } => [Some(by), self.prepare_at].into_iter().flatten().min(),
            Phase::Sync => [standby, self.prepare_at, self.flush_at, self.silent_by].into_iter().flatten().min(),
            Phase::End => None,
        };
        let ends = if self.phase == Phase::End { [None, None] } else { [self.app_by, self.stop_by] };
        [phase, ends[0], ends[1]].into_iter().flatten().min()
    }

    /// Whether it has to be noticed soon that everything has stood still: what is under way has a time limit, which has passed meanwhile.
    pub fn is_in_haste(&self) -> bool {
        self.phase != Phase::Run || self.stop_by.is_some()
    }

    /// Workers that have a time limit are started again with what is left of it; a check, and a look for a hang, are made another time.
    pub(super) fn stood_still(&mut self, now: Now) -> Actions {
        let mut actions = vec![Action::Say("everything here stood still for a while: going on where it was".to_owned())];
        match (self.phase, self.preparation) {
            (Phase::Sync, _) => actions.extend(self.worker_again(now)),
            (_, Some(preparation)) => actions.extend([Action::Kill(Role::Prepare), self.prepare(preparation)]),
            _ => {}
        }
        if self.phase == Phase::Run && self.replicator == Replicator::Up && self.stop_by.is_none() {
            (self.hung, self.pulse_at) = ((0, false), Some(now.saturating_add(PULSE_AGAIN)));
            actions.push(Action::Kill(Role::Work(Job::Pulse)));
        }
        actions.extend(self.checking.then_some(Action::Stop(Role::Work(Job::Check))));
        actions
    }

    /// What is looked at from time to time while the app runs.
    fn tick_looks(&mut self, now: Now) -> Actions {
        let is_due = |at: &mut Option<Now>| at.take_if(|at| *at <= now).is_some();
        let mut actions = Vec::new();
        if self.phase == Phase::Run && is_due(&mut self.pulse_at) {
            actions.push(Action::Work(Job::Pulse));
        }
        actions.extend(self.tick_again(now));
        if self.phase == Phase::Run && is_due(&mut self.migrate_by) {
            actions.push(Action::Say("the migration takes too long: stopping it (LITESTREAM_ENTRY_MIGRATE_TIMEOUT)".to_owned()));
            actions.extend(self.signal(TERM, now));
        }
        actions
    }

    fn tick_drain(&mut self, now: Now) -> Actions {
        let Phase::Drain { outside_at, kill_at, named: before, .. } = self.phase else { return Vec::new() };
        // 0 only counts: a second TERM is not what a daemon expects.
        let (named, action) = if now >= kill_at {
            (Some(Named::Killed), Action::Drain(KILL))
        } else if now >= outside_at {
            (Some(Named::OutsideKilled), Action::KillOutside)
        } else {
            (before, Action::Drain(0))
        };
        self.phase = Phase::Drain { outside_at, kill_at, named, next: now.saturating_add(DRAIN_EVERY) };
        let whom: &[Named] = match (before, named) {
            (before, named) if before == named => &[],
            (Some(Named::OutsideKilled), _) => &[Named::Killed],
            (_, Some(Named::Killed)) => &[Named::Killed, Named::OutsideKilled],
            _ => &[Named::OutsideKilled],
        };
        whom.iter().copied().map(Action::Name).chain([action]).collect()
    }

    pub(super) fn tick(&mut self, now: Now) -> Actions {
        let due = |at: Option<Now>| at.is_some_and(|at| at <= now);
        if due(self.stop_by) {
            return self.out_of_time();
        }
        let mut actions = Vec::new();
        if due(self.app_by) {
            self.app_by = None;
            actions.push(Action::Say("the app has not ended in time: killing it, to save its last writes".to_owned()));
            actions.push(Action::SignalApp(KILL));
        }
        match self.phase {
            Phase::Boot | Phase::Run => {
                actions.extend(self.tick_prepare(now));
                actions.extend(self.tick_looks(now));
                actions.extend(self.tick_check(now));
                actions.extend(self.tick_replicator(now));
            }
            Phase::Drain { next, .. } if next <= now => actions.extend(self.tick_drain(now)),
            Phase::Leave { by, .. } if by <= now => actions.extend(self.left_boot()),
            Phase::Leave { .. } => actions.extend(self.tick_prepare(now)),
            Phase::Sync => {
                actions.extend(self.tick_prepare(now));
                actions.extend(self.tick_flush(now));
                actions.extend(self.tick_silent(now));
                if matches!(self.replicator, Replicator::Standby(at) if at <= now) {
                    actions.extend(self.try_lock(now));
                }
            }
            Phase::Close => actions.extend(self.tick_close(now)),
            _ => {}
        }
        actions
    }
}
