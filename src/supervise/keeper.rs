//! PID 1's side of its keeper: what it asks for, and what it does with the answers. Must never wait for one but in the loop.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::Pid;

use super::machine::{Event, Lock, Role};
use super::start::{Start, channel, why_not};
use super::{Shell, log, reap};
use crate::exit;
use crate::keeper::{self, GO_ON};
use crate::protocol::keeper::{Ask, Tell, framed, unframed};
use crate::protocol::{Job, Message};
use crate::report;

/// A worker's start waits for the look at its place for so long.
const LOOKED_WITHIN: Duration = Duration::from_secs(1);
/// A look that is not older than this is one.
const FRESH: Duration = Duration::from_millis(100);
/// After so long without an answer it is said what does not answer; and how often that is said again.
const SILENT_AFTER: Duration = Duration::from_secs(5);
const SAID_AGAIN: Duration = Duration::from_secs(60);
/// So often one that cannot be started for now is tried again at the boot, and the first pause; it doubles.
pub(super) const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(250);
/// One that has lived for so long is followed by another at once.
const STEADY: Duration = Duration::from_secs(60);
/// How long its end is waited for at our own, so that its locks are free when we are gone.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// The channel to it.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    pub(super) channel: Option<UnixStream>,
    /// Part of a frame that is on its way, and of one that comes.
    leaves: Vec<u8>,
    arrived: Vec<u8>,
    /// What is asked for, the oldest first; that one is asked already, since then.
    asks: VecDeque<Ask>,
    since: Option<Duration>,
    /// When it is said that this is not answered.
    say_at: Option<Duration>,
    /// What it is about to touch.
    pub(super) at: String,
    /// When the runtime directory was last found to be there.
    pub(super) looked: Option<Duration>,
    /// The locks are ours, and say that all is decided about.
    pub(super) locked: bool,
    passed: bool,
    /// It cannot be started now; it is tried again then.
    pub(super) again_at: Option<Duration>,
    pub(super) tries: u32,
    started_at: Duration,
    /// Starts that wait for such a look, since then.
    pub(super) starts: VecDeque<(Duration, Start)>,
}

impl Keeper {
    fn ask(&mut self, ask: Ask, now: Duration) {
        match &ask {
            // Only the last one counts.
            Ask::State(_) => {
                let asked = usize::from(self.since.is_some());
                if let Some(waits) = self.asks.iter_mut().skip(asked).find(|ask| matches!(ask, Ask::State(_))) {
                    *waits = ask;
                    return;
                }
            }
            // One answer is for all who wait for it.
            Ask::Take | Ask::Place if self.asks.contains(&ask) => return,
            Ask::Locks if self.asks.iter().skip(usize::from(self.since.is_some())).any(|waits| *waits == ask) => return,
            Ask::Pass => self.passed = true,
            Ask::Withdraw => self.passed = false,
            _ => {}
        }
        self.asks.push_back(ask);
        self.send(now);
    }

    /// One at a time, so that what does not answer is known.
    fn send(&mut self, now: Duration) {
        if self.since.is_none()
            && self.channel.is_some()
            && let Some(frame) = self.asks.front().and_then(|ask| framed(ask).ok())
        {
            self.leaves = frame;
            self.waits(now);
        }
        self.write();
    }

    fn write(&mut self) {
        while let Some(channel) = self.channel.as_mut().filter(|_| !self.leaves.is_empty()) {
            match channel.write(&self.leaves) {
                Ok(written) => drop(self.leaves.drain(..written.min(self.leaves.len()))),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What is gone, its end tells of.
                Err(_) => return,
            }
        }
    }

    /// Something is asked for from now on.
    pub(super) fn waits(&mut self, now: Duration) {
        (self.since, self.say_at) = (Some(now), Some(now.saturating_add(SILENT_AFTER)));
    }

    pub(super) fn waits_no_more(&mut self) {
        (self.since, self.say_at) = (None, None);
    }

    fn answered(&mut self, now: Duration) {
        self.asks.pop_front();
        self.waits_no_more();
        self.send(now);
    }

    /// What it has told, in its order.
    pub(super) fn told(&mut self) -> Vec<Tell> {
        let mut chunk = [0; 4096];
        while let Some(channel) = &mut self.channel {
            match channel.read(&mut chunk) {
                Ok(0) => self.channel = None,
                Ok(n) => self.arrived.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.channel = None,
            }
        }
        let mut told = Vec::new();
        while let Ok(Some(tell)) = unframed(&mut self.arrived) {
            told.push(tell);
        }
        told
    }

    /// What it waits on, and what for, in `poll(2)`.
    pub(super) fn to_wait_for(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let flags = if self.leaves.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT };
        self.channel.as_ref().map(|channel| (channel.as_fd(), flags))
    }

    /// What it is at, where that is known.
    pub(super) fn place(&self) -> Option<&str> {
        Some(self.at.as_str()).filter(|at| !at.is_empty())
    }

    /// Whether one of this role waited for its start, which it does no more.
    pub(super) fn forget_start(&mut self, role: Role) -> bool {
        let waited = self.starts.len();
        self.starts.retain(|(_, start)| start.role() != role);
        self.starts.len() < waited
    }

    /// The first that has waited for its look long enough: what hangs may be none of its concern.
    fn overdue(&mut self, now: Duration) -> Option<Start> {
        let (since, _) = self.starts.front()?;
        if now.saturating_sub(*since) < LOOKED_WITHIN {
            return None;
        }
        self.starts.pop_front().map(|(_, start)| start)
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let start = self.starts.front().map(|(since, _)| since.saturating_add(LOOKED_WITHIN));
        start.into_iter().chain(self.say_at).chain(self.again_at).min()
    }
}

impl Shell {
    pub(super) fn ask(&mut self, ask: Ask) {
        if self.boot.plan.is_some() {
            let now = self.now();
            self.keeper.ask(ask, now);
        }
    }

    pub(super) fn start_keeper(&mut self, what: &str) -> Result<(), Errno> {
        let (ours, theirs) = channel()?;
        ours.set_nonblocking(true).map_err(|_| Errno::EINVAL)?;
        // All under their own numbers: what was given to us may be a secret's file.
        let memory = self.boot.memory.as_ref().map(AsRawFd::as_raw_fd);
        let words = keeper::words_of(theirs.as_raw_fd(), memory, what, &self.boot.options);
        let log = log::of(Role::Keep);
        let output = log.iter().flat_map(|(_, theirs)| [1, 2].map(|number| (theirs.as_raw_fd(), number)));
        let given = self.boot.inherited.iter().map(AsRawFd::as_raw_fd).filter(|_| what != GO_ON);
        let same = given.chain([theirs.as_raw_fd()]).chain(memory).map(|fd| (fd, fd));
        let descriptors: Vec<_> = output.chain(same).collect();
        self.start_own(Role::Keep, std::iter::once(Job::Keep.word().into()).chain(words), &descriptors)?;
        self.logs.extend(log.map(|(ours, _)| (self.started, ours)));
        (self.keeper.channel, self.keeper.started_at) = (Some(ours), self.now());
        self.keeper.waits_no_more();
        self.keeper.leaves.clear();
        self.keeper.arrived.clear();
        Ok(())
    }

    pub(super) fn try_again(&mut self) {
        let pause = PAUSE.saturating_mul(1 << self.keeper.tries.min(6));
        self.keeper.tries = self.keeper.tries.saturating_add(1);
        self.keeper.again_at = Some(self.now().saturating_add(pause));
        self.keeper.waits_no_more();
    }

    /// What it has answered. Where it is silent, what waits for it goes on without it.
    pub(super) fn keeper_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for tell in self.keeper.told() {
            let now = self.now();
            match tell {
                Tell::At(at) => self.keeper.at = at,
                Tell::Place(there) => {
                    self.keeper.looked = there.then_some(now);
                    self.keeper.answered(now);
                    for (_, start) in std::mem::take(&mut self.keeper.starts) {
                        events.extend(self.start_if(there, start));
                    }
                }
                Tell::Ours => {
                    self.keeper.locked = true;
                    self.keeper.answered(now);
                    events.push(Event::Lock(Lock::Ours));
                }
                Tell::Theirs { holder } => {
                    self.keeper.answered(now);
                    events.push(Event::Lock(Lock::Theirs(holder)));
                }
                Tell::Done => self.keeper.answered(now),
                Tell::Note(text) => {
                    report::line(&text);
                    self.note(text);
                }
                Tell::Resnapshot => events.push(Event::Said(Message::Resnapshot)),
                Tell::Lost(alias) => {
                    report::line(format_args!(
                        "{alias}: the process that held its lock was killed, and another container has taken it: this one ends, and the other sees all that was written"
                    ));
                    self.kill(Role::App);
                    self.exit = Some(exit::SYSTEM);
                }
                Tell::Refused(_, why) => report::lines(&why),
                Tell::Settings(_) | Tell::Booted(_) => {}
            }
        }
        let now = self.now();
        while let Some(start) = self.keeper.overdue(now) {
            events.extend(self.start_now(start));
        }
        self.say_what_is_silent();
        if self.keeper.again_at.take_if(|at| *at <= now).is_some() {
            self.go_on_with_another();
        }
        events
    }

    fn start_if(&mut self, there: bool, start: Start) -> Option<Event> {
        if there { self.start_now(start) } else { Some(Event::NotStarted(start.role())) }
    }

    /// Starts a helper once its place has been looked at.
    pub(super) fn start_placed(&mut self, start: Start) -> Option<Event> {
        self.boot.plan.as_ref()?;
        match start {
            // Whoever has made one makes the next.
            Start::LastSync(..) => drop(self.keeper.forget_start(Role::Flush)),
            Start::Litestream | Start::Worker(..) => self.kill(start.role()),
        }
        let now = self.now();
        let is_fresh = self.keeper.looked.is_some_and(|looked| now.saturating_sub(looked) <= FRESH);
        if is_fresh && self.keeper.asks.is_empty() {
            return self.start_now(start);
        }
        self.keeper.starts.push_back((now, start));
        self.ask(Ask::Place);
        None
    }

    pub(super) fn say_what_is_silent(&mut self) {
        let now = self.now();
        if self.keeper.say_at.take_if(|at| *at <= now).is_some() {
            self.keeper.say_at = Some(now.saturating_add(SAID_AGAIN));
            self.keeper.place().iter().for_each(|at| report::line(format_args!("{at} does not answer: waiting for it")));
        }
    }

    /// Why something may not be saved, where it is known.
    pub(super) fn say_what_hangs(&self) {
        let waits = self.keeper.since.is_some_and(|since| self.now().saturating_sub(since) >= LOOKED_WITHIN);
        if let Some(at) = self.keeper.place().filter(|_| waits) {
            report::line(format_args!("{at} does not answer"));
        }
    }

    /// It has ended, which is nobody's wish but where it has nothing to keep.
    pub(super) fn keeper_ended(&mut self) {
        self.keeper.channel = None;
        if self.boot.plan.is_none() {
            return;
        }
        if self.now().saturating_sub(self.keeper.started_at) >= STEADY {
            self.keeper.tries = 0;
        }
        report::news("the process that keeps the locks and the runtime directory was killed: another one goes on");
        if self.keeper.tries == 0 { self.go_on_with_another() } else { self.try_again() }
    }

    fn go_on_with_another(&mut self) {
        let Some(plan) = self.boot.plan.clone() else { return };
        if let Err(errno) = self.start_keeper(GO_ON) {
            report::news(format_args!("{}: cannot be started: {}", self.boot.own_path.display(), why_not(errno)));
            self.try_again();
            return;
        }
        self.keeper.tries = self.keeper.tries.saturating_add(1);
        self.keeper.asks.retain(|ask| !matches!(ask, Ask::GoOn { .. }));
        let (locked, passed) = (self.keeper.locked, self.keeper.passed);
        self.keeper.asks.push_front(Ask::GoOn { plan: Box::new(plan), locked, passed });
        let now = self.now();
        self.keeper.send(now);
        self.stale = true;
    }

    /// At our own end: its locks are free when it has ended, too. One that hangs is left to the kernel.
    pub(super) fn end_keeper(&mut self) {
        let Some(keeper) = self.pid_of(Role::Keep) else { return };
        self.kill(Role::Keep);
        if Pid::this().as_raw() == 1 {
            return;
        }
        let by = self.now().saturating_add(ENDS_WITHIN);
        while self.now() < by && !reap::ended().iter().any(|(pid, _)| *pid == keeper) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
