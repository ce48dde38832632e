//! The end of a life: drain what the app left behind, make the last sync, let Litestream go. Must never
//! sync before all that could write has ended, nor take longer than the stop timeout.

use std::time::Duration;

use super::replicator::Replicator;
use super::{Action, Actions, AppState, DRAIN_GRACE, KILL, LEAVE_FOR, Machine, Migration, Now, Phase, Role, Sync};
use crate::exit::{self, Ended};

impl Machine {
    pub(super) fn left(&mut self, count: usize, now: Now) -> Actions {
        match self.phase {
            // A check takes away what it has begun.
            Phase::Drain { kill_at, .. } if count == 0 && (!self.checking || now >= kill_at) => self.begin_sync(now),
            // What KILL does not end hangs in the kernel, and writes no more than it.
            Phase::Drain { kill_at, .. } if now >= kill_at.saturating_add(DRAIN_GRACE) => self.begin_sync(now),
            _ => Vec::new(),
        }
    }

    pub(super) fn begin_sync(&mut self, now: Now) -> Actions {
        // It has had its time, and must not write any more.
        let mut actions = if std::mem::take(&mut self.checking) { vec![Action::Kill(Role::Check)] } else { Vec::new() };
        actions.extend(self.sync_by(now));
        actions
    }

    fn sync_by(&mut self, now: Now) -> Actions {
        match self.replicator {
            // Nothing is replicated, or another process does it and sees our last writes.
            _ if !self.rules.replicates => self.finish(),
            _ if self.migration == Migration::Failed && self.rules.rollback => {
                self.replicator = Replicator::Off;
                let mut actions = vec![Action::Kill(Role::Litestream)];
                actions.extend(self.flush(Sync::Rollback, now));
                actions
            }
            Replicator::Standby(_) => {
                self.phase = Phase::Sync;
                vec![Action::TryLock]
            }
            Replicator::Starting | Replicator::Up if self.rules.confirms => self.flush(Sync::Socket, now),
            replicator if replicator.runs() => {
                self.close_by = Some(now.saturating_add(self.stop_by.unwrap_or(now).saturating_sub(now) / 2));
                self.close()
            }
            _ => self.flush(Sync::Pass, now),
        }
    }

    pub(super) fn flush(&mut self, sync: Sync, now: Now) -> Actions {
        self.phase = Phase::Sync;
        let stop_by = self.stop_by.unwrap_or(now);
        let end = (stop_by.saturating_sub(now) / 10).min(Duration::from_millis(300));
        let mut actions = Vec::new();
        if sync != Sync::Socket && self.held {
            // A pin would keep the pass from emptying the WAL.
            self.held = false;
            actions.push(Action::Kill(Role::Prepare));
        }
        actions.push(Action::Flush(sync, stop_by.saturating_sub(end)));
        actions
    }

    /// Lets Litestream end by itself.
    pub(super) fn close(&mut self) -> Actions {
        self.phase = Phase::Close;
        vec![Action::LetGo]
    }

    pub(super) fn flushed(&mut self) -> Actions {
        self.synced = true;
        if self.replicator.runs() { self.close() } else { self.finish() }
    }

    pub(super) fn finish(&mut self) -> Actions {
        self.phase = Phase::End;
        let mut actions = Vec::new();
        if !self.unsaved.is_empty() {
            actions.push(Action::Say(format!("NOT SAVED: {}", self.unsaved.join("; "))));
            if self.code == 0 {
                self.code = exit::UNSAVED;
            }
        }
        actions.push(Action::Exit(self.code));
        actions
    }

    /// Gives a boot up before the app: a restore that is under way leaves nothing behind.
    pub(super) fn leave(&mut self, code: u8, now: Now) -> Actions {
        if self.prepared || matches!(self.replicator, Replicator::Standby(_)) {
            return self.abandon(code);
        }
        self.phase = Phase::Leave { code, by: now.saturating_add(LEAVE_FOR) };
        self.replicator = Replicator::Off;
        vec![Action::Kill(Role::Litestream), Action::Stop(Role::Prepare)]
    }

    /// What was begun is taken away, or there was no more time for it.
    pub(super) fn left_boot(&mut self) -> Actions {
        match self.phase {
            Phase::Leave { code, .. } => self.abandon(code),
            _ => Vec::new(),
        }
    }

    /// Ends a boot before the app: nothing was written that could be saved.
    pub(super) fn abandon(&mut self, code: u8) -> Actions {
        self.phase = Phase::End;
        vec![Action::Kill(Role::Prepare), Action::Kill(Role::Litestream), Action::Exit(code)]
    }

    pub(super) fn out_of_time(&mut self) -> Actions {
        if self.rules.replicates && !self.synced && !matches!(self.replicator, Replicator::Standby(_)) {
            self.unsaved.push(format!(
                "{}: the stop timeout of {} s has passed before the last sync was confirmed",
                self.rules.names,
                self.rules.stop_timeout.as_secs_f32()
            ));
        }
        let mut actions = Vec::new();
        if self.app == AppState::Running {
            actions.push(Action::SignalApp(KILL));
            self.app = AppState::Gone;
            if self.code == 0 {
                self.code = Ended::Signal(KILL).code();
            }
        }
        actions.extend([Action::Drain(KILL), Action::Kill(Role::Flush), Action::Kill(Role::Prepare), Action::Kill(Role::Litestream)]);
        actions.extend(self.finish());
        actions
    }
}
