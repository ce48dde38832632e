//! The end of a life: drain what the app left behind, make the last sync, let Litestream go. Must never
//! sync before all that could write has ended, nor take longer than the stop timeout.

use std::time::Duration;

use super::gate::Closed;
use super::replicator::Replicator;
use super::{Action, Actions, AppState, DRAIN_GRACE, KILL, LEAVE_FOR, Machine, Migration, Named, Now, Phase, Role, Sync, UNSAVED};
use crate::exit::{self, Ended};
use crate::protocol::{Job, Preparation};

/// Before the worker of the last sync is started again; it doubles.
const FLUSH_PAUSE: Duration = Duration::from_millis(50);
/// With less time than this left, it could do nothing.
const FLUSH_LEAST: Duration = Duration::from_millis(300);

/// How long something that is waited for may be silent: half of what is left, so that what is done without it has its time.
const SILENT_AT_MOST: Duration = Duration::from_secs(5);

fn patience(by: Now, now: Now) -> Duration {
    (by.saturating_sub(now) / 2).min(SILENT_AT_MOST)
}

impl Machine {
    pub(super) fn left(&mut self, count: usize, now: Now) -> Actions {
        match &mut self.phase {
            Phase::Drain { named: named @ None, .. } if count > 0 => {
                *named = Some(Named::LeftBehind);
                return vec![Action::Name(Named::LeftBehind)];
            }
            _ => {}
        }
        match self.phase {
            // A check takes away what it has begun.
            Phase::Drain { outside_at, .. } if count == 0 && (!self.checking || now >= outside_at) => self.begin_sync(now),
            // What KILL does not end hangs in the kernel, and writes no more than it.
            Phase::Drain { kill_at, .. } if now >= kill_at.saturating_add(DRAIN_GRACE) => self.begin_sync(now),
            _ => Vec::new(),
        }
    }

    pub(super) fn begin_sync(&mut self, now: Now) -> Actions {
        // It has had its time, and must not write any more.
        let mut actions = if std::mem::take(&mut self.checking) { vec![Action::Kill(Role::Work(Job::Check))] } else { Vec::new() };
        actions.extend(self.sync_by(now));
        actions
    }

    fn sync_by(&mut self, now: Now) -> Actions {
        if !self.rules.replicates {
            return self.finish();
        }
        if matches!(self.replicator, Replicator::Standby(_)) {
            // Another process replicates, and sees our last writes, or has left.
            self.phase = Phase::Sync;
            return self.try_lock(now);
        }
        if self.migration == Migration::Failed && self.rules.rollback {
            self.replicator = Replicator::Off;
            let mut actions = vec![Action::Kill(Role::Litestream)];
            actions.extend(self.flush(Sync::Rollback, now));
            return actions;
        }
        match (self.gate.check(), self.replicator) {
            (Err(Closed::Undecided), _) => {
                self.phase = Phase::Sync;
                self.listen(self.stop_by.unwrap_or(now), now);
                vec![self.prepare(Preparation::Ending)]
            }
            (Err(_), _) => self.finish_unsaved(),
            (Ok(()), Replicator::Starting | Replicator::Up) if self.rules.confirms => self.flush(Sync::Socket, now),
            (Ok(()), replicator) if replicator.runs() => self.close(now),
            (Ok(()), _) => self.flush(Sync::Pass, now),
        }
    }

    pub(super) fn flush(&mut self, sync: Sync, now: Now) -> Actions {
        let may = if sync == Sync::Rollback { self.gate.may_replace() } else { self.gate.check() };
        if may.is_err() {
            return self.finish_unsaved();
        }
        self.phase = Phase::Sync;
        let stop_by = self.stop_by.unwrap_or(now);
        let end = (stop_by.saturating_sub(now) / 10).min(Duration::from_millis(300));
        let by = stop_by.saturating_sub(end);
        (self.flush, self.flush_tries, self.flush_at) = (Some((sync, by)), 0, None);
        self.listen(by, now);
        let mut actions = Vec::new();
        if sync != Sync::Socket && self.held {
            // A pin would keep the pass from emptying the WAL.
            actions.extend(self.stop_preparing());
        }
        actions.push(Action::Flush(sync, by));
        actions
    }

    /// The Litestream that runs has another file open, or its replica has lost what it had: what it would confirm is not so.
    pub(super) fn by_pass(&mut self, now: Now) -> Actions {
        if self.phase != Phase::Sync || !matches!(self.flush, Some((Sync::Socket, _))) {
            return Vec::new();
        }
        self.forget_outcomes();
        self.replicator = Replicator::Off;
        let mut actions = vec![Action::Kill(Role::Flush), Action::Kill(Role::Litestream)];
        actions.extend(self.flush(Sync::Pass, now));
        actions
    }

    /// Its worker has died, of whatever: what it has said of a part counts for nothing.
    pub(super) fn flush_died(&mut self, ended: Ended, now: Now) -> Actions {
        self.forget_outcomes();
        let again = now.saturating_add(FLUSH_PAUSE * (1 << self.flush_tries.min(6)));
        if self.flush.is_some_and(|(_, by)| again.saturating_add(FLUSH_LEAST) <= by) {
            self.flush_tries = self.flush_tries.saturating_add(1);
            (self.flush_at, self.silent_by) = (Some(again), None);
            return vec![Action::Say(format!("the worker of the last sync ended with {ended}: starting it again"))];
        }
        self.unsaved.push(format!("{}: the last sync ended with {ended}", self.names()));
        self.flushed(now)
    }

    pub(super) fn tick_flush(&mut self, now: Now) -> Option<Action> {
        self.flush_at.take_if(|at| *at <= now)?;
        let (sync, by) = self.flush?;
        self.listen(by, now);
        Some(Action::Flush(sync, by))
    }

    /// A worker begins what has to be done by then: it says from time to time that it lives.
    pub(super) fn listen(&mut self, by: Now, now: Now) {
        self.silence = patience(by, now);
        self.silent_by = (self.silence >= FLUSH_LEAST).then(|| now.saturating_add(self.silence));
    }

    /// Somebody has said something.
    pub(super) fn heard(&mut self, now: Now) {
        self.silent_by = self.silent_by.map(|_| now.saturating_add(self.silence));
    }

    /// The worker that the end waits for is stopped, or hangs in the kernel: another one.
    pub(super) fn tick_silent(&mut self, now: Now) -> Actions {
        if self.silent_by.take_if(|by| *by <= now).is_none() {
            return Vec::new();
        }
        let again = self.worker_again(now);
        let said = "a worker of the last sync has said nothing for long: killing it, and starting it again";
        (!again.is_empty()).then(|| Action::Say(said.to_owned())).into_iter().chain(again).collect()
    }

    /// Another worker of the last sync in the place of the one that there is, with the time that is left.
    pub(super) fn worker_again(&mut self, now: Now) -> Actions {
        let (role, again) = match (self.preparation, self.flush) {
            (Some(preparation), _) => (Role::Prepare, Action::Prepare(preparation)),
            (None, Some((sync, by))) => (Role::Flush, Action::Flush(sync, by)),
            (None, None) => return Vec::new(),
        };
        self.forget_outcomes();
        (self.prepare_at, self.flush_at) = (None, None);
        self.listen(self.flush.map_or_else(|| self.stop_by.unwrap_or(now), |(_, by)| by), now);
        vec![Action::Kill(role), again]
    }

    /// Ends without a last sync, and says why there is none.
    pub(super) fn finish_unsaved(&mut self) -> Actions {
        if let Err(closed) = self.gate.check() {
            self.unsaved.push(format!("{}: {closed}", self.names()));
        }
        self.finish()
    }

    /// Lets Litestream end by itself, while it does.
    pub(super) fn close(&mut self, now: Now) -> Actions {
        self.phase = Phase::Close;
        self.close_by = Some(now.saturating_add(patience(self.stop_by.unwrap_or(now), now)));
        vec![Action::LetGo]
    }

    /// It does not end: 0.3 hangs at its end when the replica takes no writes.
    pub(super) fn tick_close(&mut self, now: Now) -> Actions {
        if self.close_by.take_if(|by| *by <= now).is_none() {
            return Vec::new();
        }
        self.replicator = Replicator::Off;
        let mut actions = vec![Action::Say("litestream does not end: killing it".to_owned()), Action::Kill(Role::Litestream)];
        actions.extend(if self.synced { self.closed(now) } else { self.flush(Sync::Pass, now) });
        actions
    }

    /// It has ended after a last sync that it has confirmed.
    pub(super) fn closed(&mut self, now: Now) -> Actions {
        match self.flush {
            Some((Sync::Socket, _)) if self.unsaved.is_empty() => self.flush(Sync::Shared, now),
            _ => self.finish(),
        }
    }

    /// Its worker has come to its end. What an earlier life wrote and was killed with is in a database that has been put back, too.
    pub(super) fn flush_done(&mut self, now: Now) -> Actions {
        match self.flush {
            Some((Sync::Rollback, _)) if self.unsaved.is_empty() => self.flush(Sync::Pass, now),
            _ => self.flushed(now),
        }
    }

    pub(super) fn flushed(&mut self, now: Now) -> Actions {
        self.synced = true;
        if self.replicator.runs() { self.close(now) } else { self.finish() }
    }

    pub(super) fn finish(&mut self) -> Actions {
        self.phase = Phase::End;
        let mut actions = Vec::new();
        if !self.unsaved.is_empty() {
            actions.push(Action::Say(format!("{UNSAVED}{}", self.unsaved.join("; "))));
            if self.code == 0 {
                self.code = exit::UNSAVED;
            }
        }
        if self.app == AppState::Gone {
            actions.extend(self.rules.last_words.take().map(Action::Say));
        }
        actions.push(Action::Exit(self.code));
        actions
    }

    /// Gives a boot up before the app. What an earlier life has left unsaved is saved, if these are the databases to go on with; a
    /// restore that is under way leaves nothing behind.
    pub(super) fn leave(&mut self, code: u8, now: Now) -> Actions {
        if matches!(self.replicator, Replicator::Standby(_)) {
            return self.abandon(code);
        }
        if self.prepared {
            return self.end_boot(code, now);
        }
        self.replicator = Replicator::Off;
        let mut actions = vec![Action::Kill(Role::Litestream)];
        if self.rules.here {
            self.begin_stop(now);
            let by = self.stop_by.unwrap_or(now).saturating_sub(self.rules.reserve);
            self.phase = Phase::Leave { code, by, decides: true };
        } else {
            self.phase = Phase::Leave { code, by: now.saturating_add(LEAVE_FOR), decides: false };
            actions.push(Action::Stop(Role::Prepare));
        }
        actions
    }

    /// A boot that ends before its app, on databases that are decided about: as if the app had ended.
    pub(super) fn end_boot(&mut self, code: u8, now: Now) -> Actions {
        self.app_ended(code, now)
    }

    /// What was begun is taken away, or there was no more time for it.
    pub(super) fn left_boot(&mut self) -> Actions {
        let Phase::Leave { code, decides, .. } = self.phase else { return Vec::new() };
        if decides && let Err(closed) = self.gate.check() {
            self.unsaved.push(format!("{}: {closed}", self.names()));
        }
        self.abandon(code)
    }

    /// Ends a boot before the app.
    pub(super) fn abandon(&mut self, code: u8) -> Actions {
        self.code = code;
        let mut actions = vec![Action::Kill(Role::Prepare), Action::Kill(Role::Litestream)];
        actions.extend(self.finish());
        actions
    }

    /// What the last sync has said counts for nothing: it is made again.
    pub(super) fn forget_outcomes(&mut self) {
        self.unsaved.clear();
        self.saved.clear();
    }

    /// Those of which the last sync has said nothing yet.
    fn without_outcome(&self) -> String {
        let unsaved = |name: &str| self.unsaved.iter().any(|why| why.strip_prefix(name).is_some_and(|rest| rest.starts_with(": ")));
        let left = self.rules.names.iter().filter(|name| !self.saved.contains(name) && !unsaved(name));
        left.map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn out_of_time(&mut self) -> Actions {
        let names = self.without_outcome();
        if self.rules.replicates && !self.synced && !names.is_empty() {
            self.unsaved.push(match (self.gate.check(), self.replicator) {
                // It lives and sees our last writes, unless it is still to decide about the databases.
                (_, Replicator::Standby(_)) if self.phase != Phase::Sync => String::new(),
                (_, Replicator::Standby(_)) => format!("{}: {}", names, Closed::NoLock),
                (Err(closed), _) => format!("{names}: {closed}"),
                (Ok(()), _) => {
                    let (seconds, place) = (self.rules.stop_timeout.as_secs_f32(), self.rules.replica.as_deref());
                    let place = place.map_or_else(String::new, |place| format!(" to {place}"));
                    format!("{names}: the stop timeout of {seconds} s has passed before the last sync{place} was confirmed")
                }
            });
            self.unsaved.retain(|why| !why.is_empty());
        }
        let mut actions = Vec::new();
        if self.app == AppState::Running {
            actions.push(Action::SignalApp(KILL));
            self.app = AppState::Gone;
            if self.code == 0 {
                self.code = Ended::Signal(KILL).code();
            }
        }
        let drains = matches!(self.phase, Phase::Drain { named, .. } if named != Some(Named::Killed));
        actions.extend(drains.then_some(Action::Name(Named::Killed)));
        actions.extend([Action::Drain(KILL), Action::Kill(Role::Flush), Action::Kill(Role::Prepare), Action::Kill(Role::Litestream)]);
        actions.extend(self.finish());
        actions
    }
}
