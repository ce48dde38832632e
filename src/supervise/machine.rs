//! The supervisor's decisions: one event in, a few actions out. Must never read a clock or call the kernel.
//!
//! A life goes through [`Phase`]s in one direction: boot, run, drain, sync, close, end. Litestream has a
//! life of its own beside it ([`Replicator`]), since it may die and come back while the app lives.

mod app;
mod due;
mod ending;
mod gate;
mod preparing;
mod proving;
mod replicator;
mod run_on;
mod standby;
mod view;

use std::time::Duration;

use crate::exit::{self, Ended};
use crate::protocol::last_sync::Sync;
use crate::protocol::{Holder, Job, Message, Preparation, Rules};
use gate::Gate;
use replicator::Replicator;

/// Time since the boot began.
pub type Now = Duration;

/// SIGHUP, SIGINT, SIGQUIT, SIGTERM: ask for an end.
const HUP: i32 = 1;
const INT: i32 = 2;
const QUIT: i32 = 3;
const KILL: i32 = 9;
const TERM: i32 = 15;

/// A child whose end matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The app.
    App,
    /// Litestream.
    Litestream,
    /// The worker that makes databases fit and holds pins.
    Prepare,
    /// A worker that says or does one thing, and ends.
    Work(Job),
    /// The worker that makes or confirms the last sync.
    Flush,
    /// One that waits for that, so that it need not be started when no process may be.
    Reserve,
    /// What `__prepare` has become that has answered and holds nothing: it looks at what the app does with its databases.
    Look,
    /// The keeper of the locks and of the runtime directory.
    Keep,
    /// The process that writes the log file.
    Log,
}

impl Role {
    /// In a line that is said.
    pub fn name(self) -> &'static str {
        match self {
            Self::App => "the app",
            Self::Litestream => "litestream",
            _ => "a worker",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A signal for the app.
    Signal(i32),
    /// A child ended and was reaped.
    Ended(Role, Ended),
    /// A child could not be started; the kernel's reason has been said.
    NotStarted(Role),
    /// A worker said something.
    Said(Message),
    /// Litestream's stand-in for the app reported in.
    Hello,
    /// So many processes are left that are none of ours.
    Left(usize),
    /// What a try for the lock came to.
    Lock(Lock),
    /// A deadline has come.
    Tick,
    /// Everything here has stood still for a while (a frozen cgroup, a paused machine): `Now` leaves that out, the clocks of workers do not.
    StoodStill,
}

/// What a try for the lock came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// It is ours now.
    Ours,
    /// Another process has it.
    Theirs(Holder),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start `__prepare`.
    Prepare(Preparation),
    /// Start a worker of this job.
    Work(Job),
    /// Start `litestream replicate -exec`.
    Replicate,
    /// Make a process for the app, held at a gate before its exec, so that its start need not wait for one.
    ReadyApp,
    /// Start the migration in the app's place.
    Migrate,
    /// Say to those who stand by that the databases are decided about and replicated.
    Pass,
    /// Start the app.
    StartApp,
    /// The app failed soon after its start, beside pins: whatever worker comes next notes that.
    Doubt,
    /// Have `__flush` begin, to be done by then, and say to those who stand by that what they write from now on is theirs to save.
    Flush(Sync, Now),
    /// Send a signal to the app.
    SignalApp(i32),
    /// Ask the app to end by a signal, also where it is stopped.
    EndApp(i32),
    /// Ask a child to end, with its group.
    Stop(Role),
    /// Kill a child, with its group.
    Kill(Role),
    /// Close our end of the socket to Litestream's stand-in: Litestream then ends by itself.
    LetGo,
    /// Send a signal to all that are none of ours and have not had it with the app's group, and count those.
    Drain(i32),
    /// Kill those of them that came from outside, as `docker exec` brings them, and count all.
    KillOutside,
    /// Say who of them was left at the last count, if any was.
    Name(Named),
    /// Try for the lock.
    TryLock,
    /// Say a line.
    Say(String),
    /// End with this code.
    Exit(u8),
}

/// Why those that are left are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// The app has ended by itself, and well; as if it had been said where it has not.
    LeftBehind,
    /// What it left behind is killed.
    Killed,
    /// What came from outside is killed.
    OutsideKilled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Boot,
    /// The boot is given up: `__prepare` takes away what it has begun, but has not for ever; or it `decides` about databases
    /// that are here, so that what is in them can still be saved.
    Leave {
        code: u8,
        by: Now,
        decides: bool,
    },
    Run,
    /// What is left is ended: what came from outside by then, the rest by `kill_at`.
    Drain {
        outside_at: Now,
        kill_at: Now,
        /// What has been said of it.
        named: Option<Named>,
        next: Now,
    },
    Sync,
    Close,
    End,
}

/// What the last line begins with where something is not saved.
pub const UNSAVED: &str = "NOT SAVED: ";

/// How long an app waits for a Litestream that neither reports in nor ends.
const COME_UP: Duration = Duration::from_secs(10);
/// When an unproven backup is tried to be made whole, and how the pause grows.
const HEAL_AFTER: Duration = Duration::from_secs(30);
const HEAL_AT_MOST: Duration = Duration::from_secs(600);
/// How long a restore that is given up has to take away what it has begun.
const LEAVE_FOR: Duration = Duration::from_secs(2);
/// How often it is looked whether Litestream hangs and replicates what is here, and how soon again when it seems to hang.
const PULSE_EVERY: Duration = Duration::from_secs(5);
/// The first look is soon, so that what is replaced later is known from what was there.
const PULSE_FIRST: Duration = Duration::from_secs(1);
const PULSE_AGAIN: Duration = Duration::from_secs(2);
const DRAIN_EVERY: Duration = Duration::from_millis(20);
/// What the left-behind have between TERM and KILL, at most.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// The state.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "facts that hold or not, in any combination")]
pub struct Machine {
    rules: Rules,
    phase: Phase,
    replicator: Replicator,
    /// Whether anything may be uploaded.
    gate: Gate,
    /// Those who stand by have been told that it may.
    passed: bool,
    /// What `__prepare` runs for, until it has answered; how often it has died, and when it is started again.
    preparation: Option<Preparation>,
    prepare_tries: u32,
    prepare_at: Option<Now>,
    /// When another process has been waited for long enough.
    wait_by: Option<Now>,
    /// It has the lock and says nothing of what it has decided, as of the last look.
    silent: bool,
    /// The databases are fit for Litestream.
    prepared: bool,
    /// `__prepare` lives on and holds pins.
    held: bool,
    /// None of its pins has been let go.
    untouched: bool,
    /// Some backup may have a gap.
    unproven: bool,
    /// When it is looked whether Litestream hangs.
    pulse_at: Option<Now>,
    /// It was found to, so often in a row; and by the look that is under way.
    hung: (u32, bool),
    /// So many starts in a row have not reported in.
    silent_starts: u32,
    /// Workers that should run on, and when they are started again.
    again: Vec<(Job, Now)>,
    /// When backups are proved again; and whether they are now.
    check_at: Option<Now>,
    checking: bool,
    heal_at: Option<Now>,
    heal_pause: Duration,
    started_at: Now,
    backoff: Duration,
    /// How often Litestream has been started again.
    restarts: u32,
    come_up_by: Option<Now>,
    app: AppState,
    /// When it was started beside pins.
    pinned_at: Option<Now>,
    migration: Migration,
    /// When it has taken too long.
    migrate_by: Option<Now>,
    /// Signals that came before the app.
    early_signals: Vec<i32>,
    stops: u32,
    /// The first stop signal, as the app gets it.
    asked: Option<i32>,
    stop_by: Option<Now>,
    app_by: Option<Now>,
    /// When a Litestream that does not end is given up, so that a pass of our own still has its time.
    close_by: Option<Now>,
    /// The last sync that is under way; how often its worker has died, and when it is started again.
    flush: Option<(Sync, Now)>,
    flush_tries: u32,
    flush_at: Option<Now>,
    /// When the worker that the end waits for is taken for one that is stopped, unless it says something; and how long that is.
    silent_by: Option<Now>,
    silence: Duration,
    /// The last sync has been tried; what it could not save is in `unsaved`.
    synced: bool,
    unsaved: Vec<String>,
    /// What it has saved already, by name.
    saved: Vec<String>,
    code: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AppState {
    Waiting,
    Running,
    Gone,
}

/// What runs in the app's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Migration {
    /// Nothing.
    None,
    /// The migration, not yet the app.
    Runs,
    /// It has ended well; the app starts when the copies from before it are gone.
    Ends {
        /// How often the worker that removes them has failed.
        tries: u32,
    },
    /// It has failed: there will be no app.
    Failed,
}

type Actions = Vec<Action>;

impl Machine {
    /// A boot that has not begun.
    pub fn new(rules: Rules) -> Self {
        Self {
            gate: Gate::new(!rules.standby),
            passed: false,
            preparation: None,
            prepare_tries: 0,
            prepare_at: None,
            wait_by: None,
            silent: false,
            flush: None,
            flush_tries: 0,
            flush_at: None,
            silent_by: None,
            silence: Duration::ZERO,
            rules,
            phase: Phase::Boot,
            replicator: Replicator::Off,
            prepared: false,
            held: false,
            untouched: true,
            unproven: false,
            pulse_at: None,
            hung: (0, false),
            silent_starts: 0,
            again: Vec::new(),
            check_at: None,
            checking: false,
            heal_at: None,
            heal_pause: HEAL_AFTER,
            started_at: Now::ZERO,
            backoff: Duration::ZERO,
            restarts: 0,
            come_up_by: None,
            app: AppState::Waiting,
            pinned_at: None,
            migration: Migration::None,
            migrate_by: None,
            early_signals: Vec::new(),
            stops: 0,
            asked: None,
            stop_by: None,
            app_by: None,
            close_by: None,
            synced: false,
            unsaved: Vec::new(),
            saved: Vec::new(),
            code: 0,
        }
    }

    fn names(&self) -> String {
        self.rules.names.join(", ")
    }

    /// The first actions.
    pub fn start(&mut self, now: Now) -> Actions {
        let mut actions = self.begin(now);
        if self.rules.replicates {
            actions.extend(self.run_on(run_on::from_the_boot));
        }
        actions
    }

    fn begin(&mut self, now: Now) -> Actions {
        if self.rules.job {
            return vec![self.prepare(Preparation::Job)];
        }
        if !self.rules.replicates {
            return self.start_app(now);
        }
        if self.rules.standby {
            return self.begin_standby(now);
        }
        self.replicator = Replicator::Preparing;
        vec![self.prepare(Preparation::Boot)]
    }

    /// What an event asks for.
    pub fn step(&mut self, event: Event, now: Now) -> Actions {
        if self.phase == Phase::End {
            return Vec::new();
        }
        match event {
            Event::Signal(signal) => self.signal(signal, now),
            Event::Ended(role, ended) => self.ended(role, ended, now),
            Event::NotStarted(role) => self.ended(role, Ended::Code(exit::SYSTEM), now),
            Event::Said(message) => self.said(message, now),
            Event::Hello => self.hello(now),
            Event::Left(count) => self.left(count, now),
            Event::Lock(lock) => self.lock(lock, now),
            Event::Tick => self.tick(now),
            Event::StoodStill => self.stood_still(now),
        }
    }

    // ---- children

    fn ended(&mut self, role: Role, ended: Ended, now: Now) -> Actions {
        match role {
            Role::App if self.app == AppState::Running && self.migration == Migration::Runs => self.migration_ended(ended, now),
            Role::App if self.app == AppState::Running => self.app_ended(ended.code(), now),
            Role::Prepare => self.prepare_ended(ended, now),
            Role::Work(Job::Probe) => self.probe_ended(ended, now),
            Role::Litestream => self.litestream_ended(ended, now),
            Role::Flush if self.phase == Phase::Sync => self.flush_died(ended, now),
            Role::Work(Job::Pulse) if self.replicator == Replicator::Up && self.stop_by.is_none() => {
                let hangs = std::mem::take(&mut self.hung.1);
                self.hung.0 = if hangs { self.hung.0 } else { 0 };
                self.pulse_at = Some(now.saturating_add(if hangs { PULSE_AGAIN } else { PULSE_EVERY }));
                Vec::new()
            }
            Role::Work(Job::Check) => self.check_ended(ended, now),
            Role::Work(Job::Forget) => self.copies_removed(ended, now),
            Role::Work(job) => {
                self.again.extend(self.runs_again(job, now));
                Vec::new()
            }
            Role::App | Role::Flush | Role::Reserve | Role::Look | Role::Keep | Role::Log => Vec::new(),
        }
    }

    fn said(&mut self, message: Message, now: Now) -> Actions {
        self.heard(now);
        match message {
            Message::Ready { held, unproven } => self.ready(held, unproven, now),
            Message::Held => {
                self.pins_held(now);
                Vec::new()
            }
            Message::Released => {
                self.untouched = false;
                Vec::new()
            }
            Message::Reopen => self.reopen(now),
            Message::Resnapshot => self.resnapshot(now),
            Message::Note(text) => vec![Action::Say(text)],
            Message::Waits => self.waits(now),
            Message::Refused(code) => self.refused(code, now),
            Message::Unsaved(text) => {
                self.unsaved.push(text);
                Vec::new()
            }
            Message::Saved(name) => {
                self.saved.push(name);
                Vec::new()
            }
            Message::Hung(why) => self.hung(&why, now),
            Message::Begin(why) => self.begin_anew(&why),
            Message::ByPass => self.by_pass(now),
            Message::Flushed if self.phase == Phase::Sync => self.flush_done(now),
            Message::Unheard => {
                self.silent_by = None;
                Vec::new()
            }
            Message::Flushed | Message::Beat => Vec::new(),
        }
    }
}

#[cfg(test)]
mod liveness;
#[cfg(test)]
mod tests;
