//! Litestream's life beside the app's: it may die and come back. Must never start on databases that
//! are not fit for it.

use std::time::Duration;

use super::{Action, Actions, AppState, COME_UP, KILL, Machine, Now, PULSE_FIRST, Phase, Role, Sync, TERM};
use crate::exit::{self, Ended};
use crate::protocol::{Job, Preparation};
use crate::settings::OnFailure;

/// Litestream's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replicator {
    /// There is none, and none is due.
    Off,
    /// Another process replicates; the lock is tried again then.
    Standby(Now),
    /// It has ended; it is started again then.
    Backoff(Now),
    /// The databases are made fit for it.
    Preparing,
    /// It ended without reporting in; whether it refuses its configuration is asked.
    Probing,
    /// It runs and has not reported in.
    Starting,
    /// It runs.
    Up,
    /// It ends because we let go of it, to start it again; then it is killed.
    Reopening(Now),
}

impl Replicator {
    pub(super) fn runs(self) -> bool {
        matches!(self, Self::Starting | Self::Up | Self::Reopening(_))
    }
}

/// Litestream opens databases at its first tick, a second after its start; one that was started beside
/// the preparation must not see a database before that is done.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_secs(1);
pub(super) const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// How long one that is let go of may take to end, its last sync included (30 s, unless its configuration says otherwise).
const CLOSE_FOR: Duration = Duration::from_secs(45);
/// How long one may take to report in before it counts as hung: the opening of some thousand databases, or of a replica that answers slowly.
/// It doubles each time, so that one that is only slow comes up in the end.
const REPORT_FOR: Duration = Duration::from_secs(30);
const REPORT_DOUBLINGS: u32 = 5;
/// A Litestream that has run for so long starts with a fresh backoff.
pub(super) const STEADY: Duration = Duration::from_secs(60);

impl Machine {
    pub(super) fn replicate(&mut self, now: Now) -> Actions {
        if let Err(closed) = self.gate.check() {
            self.replicator = Replicator::Off;
            return vec![Action::Say(format!("{}: litestream is not started: {closed}", self.names()))];
        }
        self.replicator = Replicator::Starting;
        self.started_at = now;
        self.restarts = self.restarts.saturating_add(u32::from(!self.backoff.is_zero()));
        let mut actions = vec![Action::Replicate];
        if self.phase == Phase::Boot {
            self.come_up_by = Some(now.saturating_add(COME_UP));
            if self.rules.app {
                actions.push(Action::ReadyApp);
            }
        }
        actions
    }

    pub(super) fn hello(&mut self, now: Now) -> Actions {
        if self.replicator != Replicator::Starting {
            return Vec::new();
        }
        self.up(now)
    }

    /// When it counts as hung if it has not reported in.
    pub(super) fn report_by(&self) -> Now {
        self.started_at.saturating_add(REPORT_FOR * (1 << self.silent_starts.min(REPORT_DOUBLINGS)))
    }

    /// It has not even reported in.
    fn never_reported(&mut self, now: Now) -> Actions {
        let waited = now.saturating_sub(self.started_at).as_secs();
        self.silent_starts = self.silent_starts.saturating_add(1);
        self.replicator = Replicator::Off;
        let said = format!("litestream hangs (it has not come up for {waited} s): killing it");
        let mut actions = vec![Action::Say(said), Action::Kill(Role::Litestream)];
        actions.extend(self.litestream_failed(Ended::Signal(KILL), now));
        actions
    }

    /// It is there and does nothing: twice in a row counts as its end.
    pub(super) fn hung(&mut self, why: &str, now: Now) -> Actions {
        if self.replicator != Replicator::Up || self.phase != Phase::Run {
            return Vec::new();
        }
        self.hung = (self.hung.0.saturating_add(1), true);
        if self.hung.0 < 2 {
            return Vec::new();
        }
        self.pulse_at = None;
        self.replicator = Replicator::Off;
        let mut actions = vec![Action::Say(format!("litestream hangs ({why}): killing it")), Action::Kill(Role::Litestream)];
        actions.extend(self.litestream_failed(Ended::Signal(KILL), now));
        actions
    }

    /// A backup is not whole, or Litestream has a file open that is not the database any more. What it has read of that counts for
    /// nothing, so that it is not let go of but killed; the databases are made fit, with the snapshot that is owed.
    pub(super) fn begin_anew(&mut self, why: &str) -> Actions {
        if self.phase != Phase::Run || !matches!(self.replicator, Replicator::Up | Replicator::Preparing) {
            return Vec::new();
        }
        let mut actions = vec![Action::Say(format!("{why}: litestream is started again, for a new snapshot"))];
        if self.replicator == Replicator::Up {
            self.pulse_at = None;
            actions.push(Action::Kill(Role::Litestream));
            actions.extend(self.prepare_again());
        }
        actions
    }

    pub(super) fn up(&mut self, now: Now) -> Actions {
        (self.replicator, self.silent_starts) = (Replicator::Up, 0);
        (self.hung, self.pulse_at) = ((0, false), Some(now.saturating_add(PULSE_FIRST)));
        match (self.phase, self.backoff.is_zero()) {
            (Phase::Boot, _) => self.start_app(now),
            (_, false) => vec![Action::Say("replication is back".to_owned())],
            (_, true) => Vec::new(),
        }
    }

    pub(super) fn litestream_ended(&mut self, ended: Ended, now: Now) -> Actions {
        let was = std::mem::replace(&mut self.replicator, Replicator::Off);
        self.pulse_at = None;
        match self.phase {
            Phase::Boot | Phase::Run => {}
            Phase::Drain { .. } | Phase::Leave { .. } | Phase::End => return Vec::new(),
            // It died under the last sync: a pass of our own takes over.
            Phase::Sync => {
                let mut actions = vec![Action::Kill(Role::Flush)];
                self.forget_outcomes();
                actions.extend(self.flush(Sync::Pass, now));
                return actions;
            }
            Phase::Close if self.synced => return self.closed(now),
            Phase::Close => return self.flush(Sync::Pass, now),
        }
        match was {
            Replicator::Reopening(_) => self.prepare_again(),
            // Never reported in: a configuration that is refused ends the boot, a replica out of reach does not.
            Replicator::Starting if self.phase == Phase::Boot => {
                self.come_up_by = None;
                self.replicator = Replicator::Probing;
                vec![Action::Work(Job::Probe)]
            }
            _ => self.litestream_failed(ended, now),
        }
    }

    pub(super) fn probe_ended(&mut self, ended: Ended, now: Now) -> Actions {
        // After a stop no app starts any more, and the last sync says what is wrong.
        if self.replicator != Replicator::Probing || self.phase != Phase::Boot {
            return Vec::new();
        }
        if ended == Ended::Code(exit::CONFIG) {
            return self.abandon(exit::CONFIG);
        }
        let mut actions =
            vec![Action::Say("litestream ended before it could reach the replica; see above. The app starts without it".to_owned())];
        actions.extend(self.back_off(now));
        actions.extend(self.start_app(now));
        actions
    }

    pub(super) fn litestream_failed(&mut self, ended: Ended, now: Now) -> Actions {
        match self.rules.on_failure {
            OnFailure::Restart => {
                if now.saturating_sub(self.started_at) >= STEADY {
                    self.backoff = Duration::ZERO;
                }
                // The first time at once: every moment without it may cost a snapshot.
                let first = self.backoff.is_zero();
                let mut actions = vec![Action::Say(format!("litestream ended with {ended} while the app lives: starting it again"))];
                let when = if first { now } else { now.saturating_add(self.backoff) };
                self.backoff = next_backoff(self.backoff);
                self.replicator = Replicator::Backoff(when);
                if first {
                    actions.extend(self.end_backoff(now));
                }
                actions
            }
            OnFailure::Exit => {
                self.code = exit::INTERNAL;
                self.begin_stop(now);
                let mut actions = vec![Action::Say(format!(
                    "litestream ended with {ended}: stopping the app (LITESTREAM_ENTRY_ON_REPLICATION_FAILURE=exit)"
                ))];
                actions.extend(match self.app {
                    AppState::Running => vec![Action::EndApp(TERM)],
                    _ => self.app_ended(exit::INTERNAL, now),
                });
                actions
            }
            OnFailure::Ignore => vec![Action::Say(format!(
                "litestream ended with {ended}: NOTHING IS REPLICATED any more (LITESTREAM_ENTRY_ON_REPLICATION_FAILURE=ignore)"
            ))],
        }
    }

    pub(super) fn back_off(&mut self, now: Now) -> Actions {
        self.backoff = next_backoff(self.backoff);
        self.replicator = Replicator::Backoff(now.saturating_add(self.backoff));
        Vec::new()
    }

    pub(super) fn end_backoff(&mut self, now: Now) -> Actions {
        // Pins that have been there since before the app's start still prove everything. 0.3 has none: what it goes on in is noted.
        if self.held && self.untouched {
            return self.replicate(now);
        }
        self.prepare_again()
    }

    pub(super) fn prepare_again(&mut self) -> Actions {
        let mut actions: Actions = self.stop_preparing().into_iter().collect();
        self.prepared = false;
        self.replicator = Replicator::Preparing;
        actions.push(self.prepare(Preparation::Repair));
        actions
    }

    /// Ends a Litestream that runs well, to start it on a WAL that was made fit.
    pub(super) fn reopen(&mut self, now: Now) -> Actions {
        if self.phase == Phase::Run && self.replicator == Replicator::Up && self.rules.repairs {
            self.replicator = Replicator::Reopening(now.saturating_add(CLOSE_FOR));
            vec![Action::LetGo]
        } else {
            Vec::new()
        }
    }

    pub(super) fn tick_replicator(&mut self, now: Now) -> Actions {
        let due = |at: Option<Now>| at.is_some_and(|at| at <= now);
        match self.replicator {
            Replicator::Standby(at) if at <= now => return self.tick_wait(now).unwrap_or_else(|| self.try_lock(now)),
            Replicator::Backoff(at) if at <= now => return self.end_backoff(now),
            Replicator::Starting if self.phase == Phase::Run && self.report_by() <= now => return self.never_reported(now),
            Replicator::Reopening(at) if at <= now => {
                let mut actions = vec![Action::Say("litestream does not end: killing it".to_owned()), Action::Kill(Role::Litestream)];
                actions.extend(self.prepare_again());
                return actions;
            }
            _ => {}
        }
        if due(self.come_up_by) {
            let mut actions = vec![Action::Say("litestream is not up yet: the app starts without waiting for it".to_owned())];
            actions.extend(self.start_app(now));
            return actions;
        }
        if due(self.heal_at) {
            // Again later, should Litestream not be up now or the WAL still be busy then.
            self.heal_at = Some(now.saturating_add(self.heal_pause));
            return self.reopen(now);
        }
        Vec::new()
    }
}

fn next_backoff(backoff: Duration) -> Duration {
    (backoff * 2).clamp(FIRST_BACKOFF, LAST_BACKOFF)
}
