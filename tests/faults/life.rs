//! One container from its start to its end, with the faults that the schedule has for it. It judges nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::ledger::Owned;
use crate::output::{self, Reader};
use crate::place::{Place, USER, copy, provide};
use crate::proxy::Proxy;
use crate::schedule::{End, Fault, Mode, Part, Poor, User, Victim};
use crate::support::container::{Container, Recipe, said};
use crate::support::process::{self, Process};

/// How long an app may need to be ready before the life goes on without.
const READY: Duration = Duration::from_secs(25);
/// How long the end may take beyond the time that was given for it.
const GRACE: Duration = Duration::from_secs(15);
const GLANCE: Duration = Duration::from_millis(5);

/// What runs where.
pub(crate) struct Start<'a> {
    pub(crate) place: &'a Place<'a>,
    /// The container's name, which is its app's as an owner, too.
    pub(crate) name: String,
    pub(crate) volume: &'a Path,
    pub(crate) program: &'a Path,
    /// The store's endpoint, for the container's own way to it.
    pub(crate) endpoint: Option<&'a str>,
    /// `LITESTREAM_ENTRY_STOP_TIMEOUT`, in seconds.
    pub(crate) stop_timeout: u64,
    /// A command for `LITESTREAM_ENTRY_MIGRATE`, and whether it is rolled back.
    pub(crate) migration: Option<(String, bool)>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) log: String,
    pub(crate) killed: bool,
    /// It did not end when it had to, and was killed for it.
    pub(crate) hung: bool,
    /// What `sync` and `verify` said is in the replica.
    pub(crate) proven: Owned,
}

impl Ended {
    /// It leaves its rows to the container that replicates.
    pub(crate) fn stood_by_to_its_end(&self) -> bool {
        self.log.contains("standing by") && !self.log.contains("taking over")
    }
}

/// What the faults of a life have to know of it.
struct Around<'a> {
    start: &'a Start<'a>,
    /// The file that the container was started from.
    program: PathBuf,
    pid1: i32,
    born: Instant,
    ready: OnceLock<Instant>,
    over: AtomicBool,
    proxy: Option<&'a Proxy<'a>>,
    log: Option<&'a Reader>,
    proven: Mutex<Owned>,
}

pub(crate) fn live(start: &Start<'_>, part: &Part) -> std::io::Result<Ended> {
    let place = start.place;
    let proxy = start.endpoint.map(|endpoint| Proxy::to(endpoint, &start.name, &place.path("writes"), place.net.as_ref())).transpose()?;
    provide(start.volume)?;
    let loses_program = part.faults.iter().any(|(_, fault)| matches!(fault, Fault::Program { .. }));
    let program = if loses_program { place.own_program(&start.name, start.program)? } else { start.program.to_owned() };
    let mut recipe = place.recipe(&start.name, start.volume, proxy.as_ref().map(Proxy::endpoint).as_deref()).of_program(&program);
    recipe = recipe.env("LITESTREAM_ENTRY_STOP_TIMEOUT", format!("{}s", start.stop_timeout));
    if let Some((command, rollback)) = &start.migration {
        recipe = recipe.env("LITESTREAM_ENTRY_MIGRATE", command).env("LITESTREAM_ENTRY_MIGRATE_ROLLBACK", rollback.to_string());
    }
    let ready = place.ready_file(&start.name);
    let app = place.app(&start.name, &start.volume.join("app.db"), &app_options(part, &ready));
    place.tell(&format!("{}: starts: {part}", start.name));
    let mut recipe = in_poverty(recipe.app(app), part.poor, place.schedule.user);
    if let Some(net) = &place.net {
        let words = net.words();
        recipe = recipe.behind(&words.each_ref().map(String::as_str));
    }
    let (mut container, reader) = output::start(recipe, part.stderr)?;
    let born = Instant::now();
    let Some(pid1) = first_process(&mut container) else {
        reader.into_iter().for_each(Reader::finish);
        return Ok(conclude(start, &mut container, false, false, Owned::new()));
    };
    let commands = part.faults.iter().map(|(_, fault)| match fault {
        Fault::Command(word) => Some(container.command_beside(pid1, start.program, words(word))),
        _ => None,
    });
    let commands: Vec<_> = commands.collect();
    let proven = Mutex::default();
    let (over, proxy) = (AtomicBool::new(false), proxy.as_ref());
    let around = Around { start, program, pid1, born, ready: OnceLock::new(), over, proxy, log: reader.as_ref(), proven };
    let (killed, hung) = std::thread::scope(|scope| {
        for ((time, fault), command) in part.faults.iter().zip(commands) {
            let around = &around;
            scope.spawn(move || around.inflict(Duration::from_millis(*time), *fault, command));
        }
        let ended = around.see_through(part, &mut container);
        around.over.store(true, Ordering::Relaxed);
        ended
    });
    let proven = around.proven.into_inner().unwrap();
    reader.into_iter().for_each(Reader::finish);
    Ok(conclude(start, &mut container, killed, hung, proven))
}

fn conclude(start: &Start<'_>, container: &mut Container, killed: bool, hung: bool, proven: Owned) -> Ended {
    let code = container.ended().unwrap_or(128 + 9);
    let log = container.stderr();
    let how = if killed { "was killed" } else { "ended" };
    start.place.tell(&format!("{}: {how}: {code}\n{log}", start.name));
    Ended { code, log, killed, hung, proven }
}

fn in_poverty(recipe: Recipe, poor: Poor, user: User) -> Recipe {
    let shell = |recipe: Recipe, words: &str| recipe.behind(&["sh", "-c", &format!("{words} exec \"$@\""), "sh"]);
    let recipe = match poor {
        Poor::Nothing => recipe,
        Poor::MoreDescriptors => shell(recipe, "exec 3</dev/null 7</dev/null;"),
        Poor::NoStdin => shell(recipe, "exec 0<&-;"),
        Poor::Files(count) => recipe.behind(&["prlimit", &format!("--nofile={count}:{count}")]),
        Poor::FewCapabilities => {
            let kept = if user == User::Apps { "-all,+chown,+dac_override,+fowner,+kill,+setgid,+setuid" } else { "-all" };
            recipe.behind(&["setpriv", "--bounding-set", kept])
        }
    };
    if user == User::All { recipe.of_user(USER) } else { recipe }
}

/// The app's options for this part.
fn app_options(part: &Part, ready: &Path) -> Vec<String> {
    let mut words = vec!["--style".to_owned(), part.style.to_owned(), "--every".to_owned(), part.every.to_string()];
    words.extend(["--ready".to_owned(), ready.display().to_string()]);
    match part.end {
        End::Exit(code) => {
            words.extend(["--live".to_owned(), part.length.to_string(), "--exit".to_owned(), code.to_string()]);
        }
        End::IgnoredTerm => words.push("--ignore-term".to_owned()),
        End::Term | End::Kill => {}
    }
    words
}

fn words(command: &'static str) -> Vec<&'static str> {
    match command {
        "health" => vec!["health"],
        "sync" | "verify" => vec![command, "--timeout", "10s", "default"],
        _ => vec![command, "default"],
    }
}

fn first_process(container: &mut Container) -> Option<i32> {
    loop {
        match container.first_process() {
            Some(pid) => return Some(pid),
            None if container.ended().is_some() => return None,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

impl Around<'_> {
    fn tell(&self, text: &str) {
        self.start.place.tell(&format!("{}: {text}", self.start.name));
    }

    /// To the container's end: whether it was killed, and whether it hung.
    fn see_through(&self, part: &Part, container: &mut Container) -> (bool, bool) {
        let ready = self.start.place.ready_file(&self.start.name);
        let mut base = self.born;
        if !part.from_start {
            let seen = until(READY, || ready.exists() || container.ended().is_some());
            self.tell(if ready.exists() {
                "ready"
            } else if seen {
                "ended before it was ready"
            } else {
                "not ready"
            });
            base = Instant::now();
        }
        let _ = self.ready.set(base);
        let length = Duration::from_millis(part.length);
        let stop = Duration::from_secs(self.start.stop_timeout);
        if matches!(part.end, End::Exit(_)) {
            // From the app's own start on, which may be a while after the container's.
            let limit = length + READY;
            if until(limit, || container.ended().is_some()) {
                return (false, false);
            }
            self.tell("the app does not end by itself");
        } else {
            until((base + length).saturating_duration_since(Instant::now()), || container.ended().is_some());
        }
        if container.ended().is_some() {
            return (false, false);
        }
        if part.end == End::Kill {
            self.tell("SIGKILL of everything");
            container.kill();
            return (true, false);
        }
        until(READY, || process::has_begun(self.pid1) || container.ended().is_some());
        self.tell("TERM");
        container.signal_if_any(Signal::SIGTERM);
        if until(stop + GRACE, || container.ended().is_some()) {
            return (false, false);
        }
        container.kill();
        (true, true)
    }

    fn inflict(&self, time: Duration, fault: Fault, command: Option<std::process::Command>) {
        // The first worker of a life is gone when the app is ready.
        let early = matches!(fault, Fault::Kill(Victim::Worker("__prepare")) | Fault::Stop(Victim::Worker("__prepare"), _));
        let time = if early { Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(0) % 400) } else { time };
        let due = || {
            let base = if early { Some(&self.born) } else { self.ready.get() };
            base.is_some_and(|base| base.elapsed() >= time)
        };
        while !due() {
            if self.is_over() {
                return;
            }
            std::thread::sleep(GLANCE);
        }
        match fault {
            Fault::Kill(victim) => {
                if let Some(pid) = self.victim(victim) {
                    self.tell(&format!("SIGKILL of {victim:?}"));
                    process::send(pid, Signal::SIGKILL);
                }
            }
            Fault::Stop(victim, pause) => {
                if let Some(pid) = self.victim(victim) {
                    self.tell(&format!("SIGSTOP of {victim:?}"));
                    process::send(pid, Signal::SIGSTOP);
                    until(Duration::from_millis(pause), || self.is_over());
                    process::send(pid, Signal::SIGCONT);
                }
            }
            Fault::Network(mode, pause) => {
                if let Some(proxy) = self.proxy {
                    self.tell(&format!("network: {mode:?}"));
                    proxy.set(mode);
                    until(Duration::from_millis(pause), || self.is_over() && !proxy.outlives(mode));
                    proxy.set(Mode::Pass);
                    self.tell("network: as it should be");
                }
            }
            Fault::WipeRuntime => {
                self.tell("the runtime directory is wiped");
                let _ = fs::remove_dir_all(self.start.place.runtime(&self.start.name));
            }
            Fault::Program { replaced } => {
                // What cannot be started is no fault of its own.
                until(READY, || process::has_begun(self.pid1) || self.is_over());
                self.tell(if replaced { "the program is replaced" } else { "the program is removed" });
                let _ = fs::remove_file(&self.program);
                if replaced {
                    let _ = copy(self.start.program, &self.program);
                }
            }
            Fault::LogStands(pause) => {
                if let Some(log) = self.log {
                    self.tell("nobody reads the log");
                    log.pause(|| {
                        until(Duration::from_millis(pause), || self.is_over());
                    });
                }
            }
            Fault::LogReaderGone => {
                if let Some(log) = self.log {
                    self.tell("who read the log has gone");
                    log.go();
                }
            }
            Fault::Command(word) => {
                if let Some(mut command) = command.filter(|_| !self.is_over()) {
                    let name = self.start.name.clone();
                    let acknowledged = self.start.place.acknowledged(&[name]);
                    let output = command.output().expect("timeout and nsenter are there");
                    self.tell(&format!("{word}: {}", said(&output)));
                    if output.status.success() && matches!(word, "sync" | "verify") {
                        self.proven.lock().unwrap().extend(acknowledged);
                    }
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The first that is seen before the life is over.
    fn victim(&self, victim: Victim) -> Option<i32> {
        let is_it = |process: &Process| match victim {
            Victim::Litestream => process.runs("litestream"),
            Victim::Worker(word) => process.arguments.iter().any(|it| it == word.as_bytes()) && !process.is_zombie(),
        };
        loop {
            if let Some(process) = children(self.pid1).into_iter().find(is_it) {
                return Some(process.pid);
            }
            if self.is_over() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Of PID 1, which has no threads.
fn children(pid: i32) -> Vec<Process> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| Process::read(pid.parse().ok()?)).collect()
}

/// Whether the condition came to hold within this time.
fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begin.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(GLANCE);
    }
}
