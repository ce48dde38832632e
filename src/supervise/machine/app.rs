//! The app's life: it starts once, by way of its migration, gets the signals that come, and is asked to end. Must never
//! address it after its end.

use std::time::Duration;

use super::replicator::Replicator;
use super::run_on::with_the_app;
use super::{Action, Actions, AppState, DRAIN_EVERY, DRAIN_GRACE, HUP, INT, KILL, Machine, Migration, Named, Now, Phase, QUIT, TERM};
use crate::exit::{self, Ended};
use crate::protocol::{Job, Preparation};

/// An app that fails so soon after its start may have been refused something by a pin.
const SOON: Duration = Duration::from_secs(30);

/// CHLD, CONT, TSTP, TTIN, TTOU, URG, WINCH: end nobody that does not look for them, so that what is left behind gets TERM.
const IGNORED: [i32; 7] = [17, 18, 20, 21, 22, 23, 28];

/// How often the copies from before a migration are tried to be removed again.
const FORGET_TRIES: u32 = 3;

impl Machine {
    pub(super) fn start_app(&mut self, now: Now) -> Actions {
        self.phase = Phase::Run;
        self.come_up_by = None;
        self.schedule_first_check(now);
        // In standby the other one watches.
        let stands_by = matches!(self.replicator, Replicator::Standby(_));
        let mut actions = if stands_by { Vec::new() } else { self.run_on(with_the_app) };
        if !self.rules.app {
            actions.extend(self.pass());
            return actions;
        }
        self.begin_app(now);
        if let Some(timeout) = self.rules.migrate.take() {
            self.migration = Migration::Runs;
            self.migrate_by = Some(now.saturating_add(timeout));
            actions.push(Action::Migrate);
        } else {
            actions.push(Action::StartApp);
            actions.extend(self.pass());
        }
        for signal in std::mem::take(&mut self.early_signals) {
            actions.extend(self.signal(signal, now));
        }
        actions
    }

    /// Tells those who stand by that their apps may start: once, when a migration that may be rolled back is over, too.
    pub(super) fn pass(&mut self) -> Option<Action> {
        let may = self.gate.check().is_ok() && self.migration == Migration::None && self.rules.replicates;
        let first = may && !self.passed;
        self.passed |= first;
        first.then_some(Action::Pass)
    }

    pub(super) fn signal(&mut self, signal: i32, now: Now) -> Actions {
        let stops = self.is_stop(signal);
        if stops {
            self.stops = self.stops.saturating_add(1);
        }
        match self.app {
            AppState::Waiting if self.phase == Phase::Boot => {
                if stops || signal == HUP {
                    return self.leave(Ended::Signal(signal).code(), now);
                }
                // It belongs to the app; a flood of it need not be kept.
                if self.early_signals.len() < 64 {
                    self.early_signals.push(signal);
                }
                Vec::new()
            }
            AppState::Waiting if matches!(self.migration, Migration::Ends { .. }) && !stops => {
                self.early_signals.push(signal);
                Vec::new()
            }
            AppState::Waiting if stops && self.phase == Phase::Run => {
                let code = if self.rules.app { Ended::Signal(signal).code() } else { 0 };
                self.app_ended(code, now)
            }
            AppState::Waiting if stops && matches!(self.phase, Phase::Leave { .. }) => self.left_boot(),
            AppState::Running => {
                let rewritten = self.rewritten(signal);
                if stops {
                    self.begin_stop(now);
                    self.asked = self.asked.or(Some(rewritten).filter(|signal| *signal != 0 && !IGNORED.contains(signal)));
                }
                let action = if stops { Action::EndApp(rewritten) } else { Action::SignalApp(rewritten) };
                let mut actions = if rewritten == 0 { Vec::new() } else { vec![action] };
                actions.extend(if stops { self.stop_check() } else { None });
                actions
            }
            // What the app left behind is the app still.
            AppState::Gone if stops && matches!(self.phase, Phase::Drain { outside_at, kill_at, .. } if kill_at > outside_at) => {
                let rewritten = self.rewritten(signal);
                if rewritten == 0 || IGNORED.contains(&rewritten) { Vec::new() } else { vec![Action::Drain(rewritten)] }
            }
            AppState::Waiting | AppState::Gone if stops && self.stops >= 2 => {
                self.unsaved.push(format!("{}: the last sync was cut short by a second signal", self.names()));
                self.finish()
            }
            AppState::Waiting | AppState::Gone => Vec::new(),
        }
    }

    /// Whether it asks for the end: by what it is, by what the app gets of it, or because somebody has said so.
    fn is_stop(&self, signal: i32) -> bool {
        let ends = |signal: i32| matches!(signal, TERM | INT | QUIT);
        ends(signal) || ends(self.rewritten(signal)) || self.rules.stop_signals.contains(&signal)
    }

    fn rewritten(&self, signal: i32) -> i32 {
        self.rules.rewrite.iter().find(|(from, _)| *from == signal).map_or(signal, |(_, to)| *to)
    }

    /// The migration is the app until it has ended well.
    pub(super) fn migration_ended(&mut self, ended: Ended, now: Now) -> Actions {
        self.migrate_by = None;
        if ended.ok() && self.stop_by.is_none() {
            if self.rules.rollback {
                (self.migration, self.app) = (Migration::Ends { tries: 0 }, AppState::Waiting);
                return vec![Action::Work(Job::Forget)];
            }
            self.migration = Migration::None;
            return self.start_migrated(now);
        }
        self.migration = Migration::Failed;
        let mut actions = vec![Action::Say(format!("the migration ended with {ended}: the app does not start"))];
        // A stop that came in between is no success either.
        actions.extend(self.app_ended(if ended.ok() { Ended::Signal(TERM).code() } else { ended.code() }, now));
        actions
    }

    /// Without an answer of `__prepare` it holds pins all the same: the replica does not answer.
    fn begin_app(&mut self, now: Now) {
        self.app = AppState::Running;
        self.pinned_at = (self.held || self.preparation == Some(Preparation::Boot)).then_some(now);
    }

    fn start_migrated(&mut self, now: Now) -> Actions {
        self.begin_app(now);
        let mut actions = vec![Action::StartApp];
        actions.extend(self.pass());
        for signal in std::mem::take(&mut self.early_signals) {
            actions.extend(self.signal(signal, now));
        }
        actions
    }

    /// Only now may the app start: from here on the copies would take away what it writes.
    pub(super) fn copies_removed(&mut self, ended: Ended, now: Now) -> Actions {
        let Migration::Ends { tries } = self.migration else { return Vec::new() };
        if self.app != AppState::Waiting || self.phase != Phase::Run {
            return Vec::new();
        }
        if ended.ok() {
            self.migration = Migration::None;
            return self.start_migrated(now);
        }
        if tries < FORGET_TRIES {
            self.migration = Migration::Ends { tries: tries.saturating_add(1) };
            return vec![Action::Work(Job::Forget)];
        }
        let said =
            "the copies from before the migration cannot be removed, and the next start might go back to them: the app does not start";
        let mut actions = vec![Action::Say(said.to_owned())];
        actions.extend(self.app_ended(exit::SYSTEM, now));
        actions
    }

    pub(super) fn begin_stop(&mut self, now: Now) {
        if self.stop_by.is_none() {
            let whole = self.rules.stop_timeout;
            // Our own end takes a moment, too, and who stops us counts from his signal.
            let margin = (whole / 20).min(Duration::from_millis(500));
            let stop_by = now.saturating_add(whole.saturating_sub(margin));
            self.stop_by = Some(stop_by);
            // What it would find, the last sync finds.
            self.pulse_at = None;
            if self.app == AppState::Running {
                let reserve = if self.rules.replicates { self.rules.reserve } else { Duration::ZERO };
                self.app_by = Some(stop_by.saturating_sub(reserve));
            }
        }
    }

    pub(super) fn app_ended(&mut self, code: u8, now: Now) -> Actions {
        // KILL is no answer of SQLite's.
        let failed = code != 0 && code != Ended::Signal(KILL).code() && self.stop_by.is_none();
        let doubt = failed && self.pinned_at.is_some_and(|at| now.saturating_sub(at) < SOON);
        let by_itself = self.app == AppState::Running && self.stop_by.is_none();
        self.app = AppState::Gone;
        let app_by = self.app_by.take();
        self.come_up_by = None;
        (self.heal_at, self.pulse_at) = (None, None);
        if self.code == 0 {
            self.code = code;
        }
        self.begin_stop(now);
        let mut actions = self.end_those_with_the_app();
        actions.extend(doubt.then_some(Action::Doubt));
        actions.extend(self.stop_check());
        if matches!(self.replicator, Replicator::Preparing) {
            // Its pass would only be in the way of the last one.
            actions.extend(self.stop_preparing());
            self.replicator = Replicator::Off;
        }
        let named = if by_itself && code == 0 { None } else { Some(Named::LeftBehind) };
        actions.push(self.begin_drain(app_by, named, now));
        actions
    }

    /// Ends what the app left behind. That has what is left of the app's share where a stop was asked for: behind a shell, it is the
    /// app. Where the app ended by itself it has a second, and so has what came from outside.
    fn begin_drain(&mut self, app_by: Option<Now>, named: Option<Named>, now: Now) -> Action {
        let left = self.stop_by.unwrap_or(now).saturating_sub(now);
        let outside_at = now.saturating_add((left / 4).min(DRAIN_GRACE));
        let kill_at = app_by.map_or(outside_at, |by| by.max(outside_at));
        self.phase = Phase::Drain { outside_at, kill_at, named, next: now.saturating_add(DRAIN_EVERY) };
        Action::Drain(self.asked.unwrap_or(TERM))
    }
}
