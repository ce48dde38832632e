//! PID 1: one loop over signals, children, timers and the workers' pipes around a pure state machine.
//! Must never block, open a database, resolve a name, or die by accident.

mod boot;
pub mod drain;
mod keeper;
mod log;
mod log_file;
pub mod machine;
mod outside;
mod pipe;
pub mod reap;
mod send;
pub mod signals;
mod start;

use std::ffi::{CString, OsString};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::exit::{self, Failure};
use crate::identity::Identity;
use crate::plan::Plan;
use crate::protocol::keeper::Ask;
use crate::protocol::last_sync::Sync;
use crate::protocol::{Job, Message, Preparation, Prepare};
use crate::state::State;
use crate::{kept, report, sys};
use drain::Left;
use log::Log;
use machine::{Action, Event, Machine, Role, UNSAVED};
use pipe::Pipe;
use signals::Signals;
use start::Start;

/// What PID 1 has for a boot: what it was started with, and what its keeper has made of that.
#[derive(Debug)]
pub struct Boot {
    /// The app's argv; empty where only Litestream is looked after.
    app: Vec<OsString>,
    /// Options, as the variables that they stand for.
    options: Vec<(String, String)>,
    /// The environment, byte for byte.
    started_with: Vec<CString>,
    /// The app's.
    env: Vec<CString>,
    /// Litestream's and the workers'.
    helper_env: Vec<CString>,
    /// What is kept of secrets that are in files, for the helpers; then the environment above is what we were started with.
    memory: Option<OwnedFd>,
    /// This binary.
    own_path: PathBuf,
    /// What is replicated, if anything.
    plan: Option<Plan>,
    /// A command of the shell's that is to end well before the app starts.
    migrate: Option<String>,
    /// Signals go to the app's group.
    signal_group: bool,
    /// The app's descriptors besides 0, 1 and 2, until it has them.
    inherited: Vec<OwnedFd>,
    /// Who Litestream, the workers and the app are, where they are not who we are.
    identity: Option<Identity>,
}

impl Boot {
    /// One that has not begun.
    pub fn new(app: Vec<OsString>, options: Vec<(String, String)>, own_path: PathBuf, inherited: Vec<OwnedFd>) -> Self {
        Self {
            app,
            options,
            started_with: sys::raw_environment(),
            env: Vec::new(),
            helper_env: Vec::new(),
            memory: kept::memory().ok(),
            own_path,
            plan: None,
            migrate: None,
            signal_group: false,
            inherited,
            identity: None,
        }
    }
}

/// Runs the boot to its end; the container's exit code.
///
/// # Errors
/// Why it does not begin.
pub fn run(boot: Boot, signals: Signals) -> Result<u8, Failure> {
    let mut shell = Shell::new(boot, signals);
    let booted = shell.boot();
    if booted.is_err() {
        shell.end_keeper();
    }
    let (rules, early) = booted?;
    if Pid::this().as_raw() != 1 {
        // Orphans of the app must still come to us, or the drain would not see them.
        match nix::sys::prctl::set_child_subreaper(true) {
            Ok(()) => report::debug("not PID 1: running as a subreaper"),
            Err(errno) => report::line(format_args!("not PID 1, and orphans cannot be reaped: {}", errno.desc())),
        }
    }
    if shell.boot.identity.is_some()
        && let Err(errno) = sys::drop_capabilities()
    {
        report::line(format_args!("LITESTREAM_ENTRY_USER: root's capabilities are kept: {}", errno.desc()));
    }
    let mut machine = Machine::new(rules);
    let first = machine.start(shell.now());
    shell.perform(&mut machine, first);
    for signal in early {
        let actions = machine.step(Event::Signal(signal), shell.now());
        shell.perform(&mut machine, actions);
    }
    loop {
        shell.leave_state(machine.view());
        if let Some(code) = shell.exit {
            return Ok(shell.leave(code));
        }
        if shell.wait(machine.deadline(), machine.is_in_haste()) {
            let actions = machine.step(Event::StoodStill, shell.now());
            shell.perform(&mut machine, actions);
        }
        let ends = machine.ends();
        for (source, event) in shell.events(&machine) {
            if shell.is_news(source, &event) {
                let actions = machine.step(event, shell.now());
                shell.perform(&mut machine, actions);
            }
        }
        if machine.ends() && !ends {
            shell.wake();
        }
    }
}

/// How long PID 1 sleeps while something with a time limit is under way; by how much it has overslept where everything stood still.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// A child whose end is news. One that was killed on purpose is forgotten at once, with all that it has said.
#[derive(Debug)]
struct Child {
    id: ChildId,
    role: Role,
    /// None once it is reaped: its number may be another process's then.
    pid: Option<Pid>,
}

/// One start of one child: what it says, and its end, count for no other, whatever has happened in the same moment.
type ChildId = u64;

/// The effects around the machine.
struct Shell {
    boot: Boot,
    signals: Signals,
    children: Vec<Child>,
    /// How many children there have been.
    started: ChildId,
    /// The highest number of a process that we have seen.
    newest: i32,
    pipes: Vec<(ChildId, Pipe)>,
    /// What they say for people.
    logs: Vec<(ChildId, Log)>,
    /// When that is looked at again.
    logs_at: Duration,
    /// The log file, and since when a process writes it.
    log_file: Option<(PathBuf, Duration)>,
    /// What touches the disks for us.
    keeper: keeper::Keeper,
    /// The process that becomes the app when its gate opens.
    ready: Option<(Pid, UnixStream)>,
    /// Our end of the socket to Litestream's stand-in, and whether it has reported in.
    hold: Option<(UnixStream, bool)>,
    exit: Option<u8>,
    /// How the app ended; and whether it was said that something is not saved.
    app_code: Option<u8>,
    unsaved: bool,
    began: Instant,
    stood_still: Duration,
    /// What has been left for those who ask.
    state: State,
    /// It is to be left again.
    stale: bool,
    /// The app failed soon after its start, beside pins.
    doubt: bool,
    /// The app's group, and the signal that the whole of it had last.
    told: Option<(i32, i32)>,
    /// Who was left at the last count.
    left: Vec<Left>,
    /// When the code's pages are given back; none when nothing has happened since.
    rest_at: Option<Duration>,
}

impl Shell {
    fn new(boot: Boot, signals: Signals) -> Self {
        Self {
            boot,
            signals,
            children: Vec::new(),
            started: 0,
            newest: 0,
            pipes: Vec::new(),
            logs: Vec::new(),
            logs_at: Duration::ZERO,
            log_file: None,
            keeper: keeper::Keeper::default(),
            ready: None,
            hold: None,
            exit: None,
            app_code: None,
            unsaved: false,
            began: Instant::now(),
            stood_still: Duration::ZERO,
            state: State::default(),
            stale: true,
            doubt: false,
            told: None,
            left: Vec::new(),
            rest_at: Some(Duration::ZERO),
        }
    }

    /// Without the time for which everything stood still.
    fn now(&self) -> Duration {
        self.began.elapsed().saturating_sub(self.stood_still)
    }

    // ---- events

    /// Sleeps until something happens or the deadline comes; in haste, a second at most. Whether it has overslept by more than that: then
    /// nobody here has had that time, and it does not count.
    fn wait(&mut self, deadline: Option<Duration>, in_haste: bool) -> bool {
        let before = self.now();
        let haste = in_haste.then(|| before.saturating_add(LONGEST_NAP));
        let deadline = deadline.into_iter().chain(haste).chain(self.keeper.deadline()).min();
        let (logs, outlet, deadline) = self.logs_to_wait_for(deadline);
        let (deadline, rests) = self.rest(deadline);
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.pipes.iter().map(|(_, p)| PollFd::new(p.fd.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.keeper.to_wait_for().map(|(channel, flags)| PollFd::new(channel, flags)));
        if let Some((socket, false)) = &self.hold {
            fds.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        fds.extend(self.logs.iter().filter(|_| logs).map(|(_, log)| PollFd::new(log.as_fd(), PollFlags::POLLIN)));
        fds.extend(outlet.iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLOUT)));
        let timeout = match deadline {
            // Rounded up: a wait that ends before its deadline would spin.
            Some(at) => {
                PollTimeout::try_from(at.saturating_sub(self.now()).saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        if rests {
            // The last thing before the sleep: whatever is touched after it is there again.
            sys::drop_code_pages();
        }
        // EINTR and ENOMEM alike: the events are looked for one by one anyway.
        if poll(&mut fds, timeout).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let wanted = deadline.map(|at| at.saturating_sub(before));
        let overslept = wanted.map_or(Duration::ZERO, |wanted| self.now().saturating_sub(before).saturating_sub(wanted));
        let stood_still = overslept > LONGEST_NAP;
        if stood_still {
            self.stood_still = self.stood_still.saturating_add(overslept);
        }
        stood_still
    }

    /// Whether the code's pages are given back before this sleep: when the app runs and nothing is due soon, a tenth of a second
    /// after the last event, so that many events do not cost as many page faults. The deadline, or when that is to be.
    fn rest(&mut self, deadline: Option<Duration>) -> (Option<Duration>, bool) {
        let now = self.now();
        let idle = deadline.is_none_or(|at| at.saturating_sub(now) > Duration::from_secs(1));
        if !idle || self.pid_of(Role::App).is_none() {
            return (deadline, false);
        }
        let rests = self.rest_at.take_if(|at| *at <= now).is_some();
        (deadline.into_iter().chain(self.rest_at).min(), rests)
    }

    /// What has happened, and of which child. A worker's last words come before its end, signals before everything.
    fn events(&mut self, machine: &Machine) -> Vec<(Option<ChildId>, Event)> {
        let mut events: Vec<_> = self.signals.pending().into_iter().map(|signal| (None, Event::Signal(signal))).collect();
        let ended = reap::ended();
        self.read_logs(&ended);
        self.note_logs_end(&ended);
        for (id, pipe) in &mut self.pipes {
            events.extend(pipe.messages().into_iter().map(|message| (Some(*id), Event::Said(message))));
        }
        self.pipes.retain(|(_, pipe)| pipe.open);
        events.extend(self.keeper_events().into_iter().map(|event| (None, event)));
        if let Some((socket, said @ false)) = &mut self.hold {
            let mut byte = [0];
            match socket.read(&mut byte) {
                Ok(1) => {
                    *said = true;
                    events.push((self.children.iter().find(|c| c.role == Role::Litestream).map(|c| c.id), Event::Hello));
                }
                // Its other end is gone; polled again it would spin.
                Ok(_) => self.hold = None,
                Err(_) => {}
            }
        }
        if self.took_its_end(Role::Keep, &ended) {
            self.keeper_ended();
        }
        for (pid, how) in ended {
            self.newest = self.newest.max(pid.as_raw());
            // Killed before it was needed: the app's start makes another.
            let _ = self.ready.take_if(|(ready, _)| *ready == pid);
            if let Some(child) = self.children.iter_mut().find(|c| c.pid == Some(pid)) {
                child.pid = None;
                if child.role == Role::App {
                    self.app_code = Some(how.code());
                }
                events.push((Some(child.id), Event::Ended(child.role, how)));
            }
        }
        if machine.deadline().is_some_and(|at| at <= self.now()) {
            events.push((None, Event::Tick));
        }
        if !events.is_empty() {
            self.rest_at = Some(self.now().saturating_add(Duration::from_millis(100)));
        }
        events
    }

    /// Whether an event is still one: not of a child that an earlier event of the same moment has had killed. A child's end is
    /// the last of it.
    fn is_news(&mut self, source: Option<ChildId>, event: &Event) -> bool {
        let Some(id) = source else { return true };
        let Some(at) = self.children.iter().position(|c| c.id == id) else { return false };
        match (event, self.children.get_mut(at)) {
            // Its end is nothing to the preparation any more.
            (Event::Said(Message::Ready { held: false, .. }), Some(child)) => child.role = Role::Look,
            // Of another that cannot even begin, the end is what counts.
            (Event::Said(Message::Refused(_)), Some(child)) if !matches!(child.role, Role::Prepare | Role::Work(Job::Probe)) => {
                return false;
            }
            _ => {}
        }
        if matches!(event, Event::Ended(..)) {
            self.children.remove(at);
        }
        true
    }

    // ---- actions

    /// Performs actions and, where one is answered at once, what that answer asks for.
    fn perform(&mut self, machine: &mut Machine, actions: Vec<Action>) {
        let mut waiting: std::collections::VecDeque<Action> = actions.into();
        while let Some(action) = waiting.pop_front() {
            if let Some(event) = self.act(action) {
                waiting.extend(machine.step(event, self.now()));
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Prepare(preparation) => {
                let app_failed = self.doubt && preparation == Preparation::Ending;
                self.worker(Role::Prepare, Job::Prepare, &Prepare { preparation, app_failed }.words())
            }
            Action::Work(Job::Pulse) => {
                self.ask(Ask::Locks);
                self.reserve();
                self.keep_log();
                self.worker(Role::Work(Job::Pulse), Job::Pulse, &[])
            }
            Action::Work(job) => self.worker(Role::Work(job), job, &[]),
            Action::Flush(sync, by) => self.flush(sync, by),
            Action::Doubt => {
                self.doubt = true;
                None
            }
            Action::Replicate => self.start_placed(Start::Litestream),
            Action::ReadyApp => {
                self.ready_app();
                None
            }
            Action::Migrate => self.start_migration(),
            Action::StartApp => {
                let failed = self.start_app();
                self.reserve();
                failed
            }
            Action::SignalApp(signal) => {
                self.signal_app(signal);
                None
            }
            Action::EndApp(signal) => {
                self.signal_app(signal);
                self.wake_app();
                None
            }
            Action::Stop(role) => self.stop(role),
            Action::Kill(role) => {
                self.kill(role);
                None
            }
            Action::LetGo => {
                self.hold = None;
                self.wake();
                // One that has not started yet has nothing to end.
                self.keeper.forget_start(Role::Litestream).then_some(Event::NotStarted(Role::Litestream))
            }
            Action::Drain(signal) => {
                let told = self.told.filter(|(_, told)| *told == signal).map(|(group, _)| group);
                Some(self.drain(signal, |left| Some(left.process.group) != told))
            }
            Action::KillOutside => Some(self.drain(nix::libc::SIGKILL, |left| left.outside)),
            Action::Name(why) => {
                self.name_left(why);
                None
            }
            Action::TryLock => {
                self.ask(Ask::Take);
                None
            }
            Action::Pass => {
                self.ask(Ask::Pass);
                None
            }
            Action::Say(text) => {
                // What it is about may have been said by another a moment ago.
                self.read_logs(&[]);
                if text.starts_with(UNSAVED) {
                    self.unsaved = true;
                    self.say_what_hangs();
                }
                report::line(&text);
                self.note(text);
                None
            }
            Action::Exit(code) => {
                self.exit = Some(code);
                None
            }
        }
    }

    fn pid_of(&self, role: Role) -> Option<Pid> {
        self.children.iter().find(|c| c.role == role).and_then(|c| c.pid)
    }

    fn flush(&mut self, sync: Sync, by: Duration) -> Option<Event> {
        // Whoever may write beside a database may delete its lock.
        self.ask(Ask::Locks);
        self.ask(Ask::Withdraw);
        self.wake();
        // It writes to the same marks.
        self.kill(Role::Look);
        self.start_placed(Start::LastSync(sync, by))
    }

    /// Leaves nothing of ours running where we are not PID 1; as PID 1 the kernel ends the rest.
    fn leave(&mut self, code: u8) -> u8 {
        // Every role there is now but these: the app has ended, and the others end by themselves.
        let roles: Vec<Role> = self.children.iter().map(|child| child.role).collect();
        for role in roles.into_iter().filter(|role| !matches!(role, Role::App | Role::Keep | Role::Log)) {
            self.kill(role);
        }
        self.end_keeper();
        self.read_logs(&[]);
        if self.unsaved || (exit::is_ours(code) && self.app_code != Some(code)) {
            report::tell();
        }
        code
    }
}
