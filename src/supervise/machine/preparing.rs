//! The databases before Litestream: decided about, and fit for it. A worker that dies is started again while there is time.
//! Must never take one's silence for an answer.

use std::time::Duration;

use super::replicator::Replicator;
use super::{Action, Actions, AppState, HEAL_AFTER, HEAL_AT_MOST, Machine, Now, Phase, TERM};
use crate::exit::{self, Ended};
use crate::protocol::Preparation;

/// How often one that dies is started again before something else is done about it, and the first pause; it doubles.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(250);
/// When a Litestream that starts is started again because the pins were lost before the app's start.
const PINS_LOST: Duration = Duration::from_secs(1);
/// A decision that must be had, but need not be had now, is tried again so often.
const PATIENT_PAUSE: Duration = Duration::from_secs(30);

impl Machine {
    /// Starts the worker.
    pub(super) fn prepare(&mut self, preparation: Preparation) -> Action {
        (self.preparation, self.prepare_tries, self.prepare_at) = (Some(preparation), 0, None);
        Action::Prepare(preparation)
    }

    /// Ends it, with the pins that it may hold.
    pub(super) fn stop_preparing(&mut self) -> Option<Action> {
        let runs = self.preparation.take().is_some() | std::mem::take(&mut self.held);
        self.prepare_at = None;
        runs.then_some(Action::Kill(super::Role::Prepare))
    }

    pub(super) fn tick_prepare(&mut self, now: Now) -> Option<Action> {
        self.prepare_at.take_if(|at| *at <= now)?;
        if self.phase == Phase::Sync {
            self.listen(self.stop_by.unwrap_or(now), now);
        }
        self.preparation.map(Action::Prepare)
    }

    /// The worker's end. It is expected of one that has answered, and has let go of its pins.
    pub(super) fn prepare_ended(&mut self, ended: Ended, now: Now) -> Actions {
        if std::mem::take(&mut self.held) && ended != Ended::Code(0) {
            return self.pins_lost(now);
        }
        if let Phase::Leave { decides: false, .. } = self.phase {
            return self.left_boot();
        }
        let Some(preparation) = self.preparation else { return Vec::new() };
        self.silent_by = None;
        if self.prepare_tries < TRIES {
            self.prepare_at = Some(now.saturating_add(PAUSE * (1 << self.prepare_tries)));
            self.prepare_tries = self.prepare_tries.saturating_add(1);
            // Why it could not even be started has been said.
            let died = ended != Ended::Code(exit::SYSTEM);
            return died
                .then(|| Action::Say("the worker that looks at the databases died: starting it again".to_owned()))
                .into_iter()
                .collect();
        }
        match (self.phase, preparation) {
            (Phase::Boot, _) => {
                let (why, code) = match ended {
                    Ended::Code(exit::SYSTEM) => ("no worker can be started", exit::SYSTEM),
                    _ => ("the worker dies each time", exit::INTERNAL),
                };
                let mut actions = vec![Action::Say(format!("the databases could not be looked at: {why}; see above"))];
                actions.extend(self.abandon(code));
                actions
            }
            (Phase::Run, Preparation::Repair) => self.ready(false, true, now),
            (Phase::Run, _) => {
                self.prepare_at = Some(now.saturating_add(PATIENT_PAUSE));
                Vec::new()
            }
            (Phase::Leave { .. }, _) => self.left_boot(),
            (Phase::Sync, _) => self.finish_unsaved(),
            _ => Vec::new(),
        }
    }

    /// The pins are gone before Litestream had its own lock: the WAL may have been restarted since, and what this Litestream uploads from
    /// then on has a gap that nothing shows.
    fn pins_lost(&mut self, now: Now) -> Actions {
        match self.phase {
            Phase::Run | Phase::Drain { .. } if self.replicator.runs() => {}
            // Nobody writes yet: at the first chance.
            Phase::Boot => {
                self.heal_at = Some(now.saturating_add(PINS_LOST));
                return Vec::new();
            }
            _ => return Vec::new(),
        }
        (self.replicator, self.pulse_at) = (Replicator::Off, None);
        let why = "the worker that holds the WAL back until litestream does was killed: starting litestream again, with a snapshot";
        let mut actions = vec![Action::Say(why.to_owned()), Action::Kill(super::Role::Litestream)];
        // At the end, the last sync is a pass on a WAL that was emptied.
        actions.extend(if self.phase == Phase::Run { self.prepare_again() } else { Vec::new() });
        actions
    }

    /// It has pinned what the app has begun to write to. What was written before, a Litestream that is started again has not read.
    pub(super) fn pins_held(&mut self, now: Now) {
        if matches!(self.phase, Phase::Boot | Phase::Run | Phase::Drain { .. }) {
            (self.held, self.untouched) = (true, false);
            self.pinned_at = self.pinned_at.or((self.app == AppState::Running).then_some(now));
        }
    }

    /// All databases may be used, and Litestream may start.
    pub(super) fn ready(&mut self, held: bool, unproven: bool, now: Now) -> Actions {
        if let Phase::Leave { decides: false, .. } = self.phase {
            // Whatever it came to, nothing is left of it.
            return self.left_boot();
        }
        let Some(preparation) = self.preparation.take() else { return Vec::new() };
        match (self.phase, preparation) {
            // Without the lock: only the app.
            (Phase::Boot, Preparation::Beside | Preparation::Job) => return self.start_app(now),
            (_, Preparation::Beside | Preparation::Job) => return Vec::new(),
            (Phase::Boot | Phase::Run | Phase::Leave { .. } | Phase::Sync, _) => self.gate.pass(),
            _ => return Vec::new(),
        }
        match self.phase {
            Phase::Sync => return self.flush(super::Sync::Pass, now),
            Phase::Leave { code, .. } => {
                (self.prepared, self.held) = (true, held);
                return self.end_boot(code, now);
            }
            _ => {}
        }
        (self.prepared, self.held, self.untouched) = (true, held, true);
        self.note_unproven(unproven, now);
        let mut actions: Actions = if preparation == Preparation::TakeOver { self.pass().into_iter().collect() } else { Vec::new() };
        actions.extend(match self.replicator {
            Replicator::Preparing => self.replicate(now),
            _ => Vec::new(),
        });
        actions
    }

    /// The replica does not answer. The databases are here, and the app may work with them; nothing is uploaded before it is known
    /// that they are the ones to go on with.
    pub(super) fn waits(&mut self, now: Now) -> Actions {
        if self.phase == Phase::Boot && self.preparation == Some(Preparation::Boot) && self.replicator == Replicator::Preparing {
            self.start_app(now)
        } else {
            Vec::new()
        }
    }

    pub(super) fn refused(&mut self, code: u8, now: Now) -> Actions {
        match (self.phase, self.preparation) {
            (Phase::Boot, _) => self.abandon(code),
            // A worker that cannot even begin says so in the same word: its end is what counts.
            (Phase::Run, Some(Preparation::Boot | Preparation::TakeOver)) => {
                self.preparation = None;
                self.refused_under_the_app(code, now)
            }
            (Phase::Leave { .. }, _) if code < exit::SIGNAL_BASE => {
                self.gate.refuse();
                self.abandon(code)
            }
            (Phase::Leave { .. }, _) => self.left_boot(),
            (Phase::Sync, Some(Preparation::Ending)) => {
                self.preparation = None;
                if code == exit::DAMAGED {
                    self.gate.refuse();
                }
                self.finish_unsaved()
            }
            _ => Vec::new(),
        }
    }

    /// The backup has what this database lacks, and the app works with it: going on would put the one in the other's place.
    fn refused_under_the_app(&mut self, code: u8, now: Now) -> Actions {
        self.gate.refuse();
        self.replicator = Replicator::Off;
        self.code = code;
        self.begin_stop(now);
        let mut actions = vec![Action::Say(format!("{}: stopping the app, and leaving the backup as it is; see above", self.names()))];
        actions.extend(match self.app {
            AppState::Running => vec![Action::EndApp(TERM)],
            _ => self.app_ended(code, now),
        });
        actions
    }

    fn note_unproven(&mut self, unproven: bool, now: Now) {
        self.unproven = unproven;
        if unproven {
            self.heal_at = Some(now.saturating_add(self.heal_pause));
            self.heal_pause = (self.heal_pause * 2).min(HEAL_AT_MOST);
        } else {
            self.heal_at = None;
            self.heal_pause = HEAL_AFTER;
        }
    }
}
