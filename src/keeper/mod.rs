//! `__keep`: PID 1's hands on the disks. It does a boot's first half, holds the locks, and leaves in the runtime directory what others read,
//! so that a disk that hangs does not hang PID 1. Must never start a process, nor outlive PID 1.
//!
//! A file on a disk that hangs can keep a process from ending (`close(2)` waits for it) and from starting one (the child closes it), so
//! PID 1 itself has none open.

mod boot;
mod place;

pub use boot::plainly;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::getppid;

use crate::configured::Configured;
use crate::exit::{self, Failure};
use crate::lock::{self, Holding, Locks};
use crate::protocol::Holder;
use crate::protocol::keeper::{Ask, Tell, framed, unframed};
use crate::settings::{LockPolicy, LogTo};
use crate::{report, sys};
use place::{Place, is_here};

/// In the place of options: take the place of one that has died.
pub const GO_ON: &str = "go-on";
/// In the place of options: a boot with an app; and one without.
pub const BOOT: &str = "boot";
/// See [`BOOT`].
pub const BOOT_WITHOUT_APP: &str = "boot-without-app";

/// When the code's pages are given back: after so long without a word.
const REST_AFTER: Duration = Duration::from_millis(100);
/// Between two looks at the runtime directory while nobody asks for one.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// PID 1, as this process sees it.
pub(crate) struct Host {
    channel: UnixStream,
    /// Its number, by which what is a boot's own is named.
    boot: u32,
    /// There is an app.
    app: bool,
    /// What is to hold secrets that are in files.
    memory: Option<OwnedFd>,
}

impl Host {
    /// PID 1 that is gone takes us with it.
    fn tell(&self, word: &Tell) {
        let sent = framed(word).and_then(|frame| (&self.channel).write_all(&frame));
        if let Err(error) = sent {
            report::debug(format_args!("PID 1 cannot be told anything: {error}"));
        }
    }

    /// What hangs in a disk cannot say so any more.
    fn at(&self, place: &str) {
        self.tell(&Tell::At(place.to_owned()));
    }
}

/// The words behind `__keep`: the channel's number, that of the memory for secrets, what to do, and a boot's options.
pub fn words_of(channel: RawFd, memory: Option<RawFd>, what: &str, options: &[(String, String)]) -> Vec<OsString> {
    let numbers = [channel.to_string(), memory.map_or_else(|| NONE.to_owned(), |memory| memory.to_string()), what.to_owned()];
    numbers.into_iter().chain(options.iter().map(|(name, value)| format!("{name}={value}"))).map(OsString::from).collect()
}

const NONE: &str = "-";

/// Runs it; the process's exit code.
pub fn run(args: &[OsString]) -> u8 {
    end_with_pid_1();
    // `kill -1` is for others.
    let _ = sys::block_all_signals();
    let words: Vec<&str> = args.iter().filter_map(|word| word.to_str()).collect();
    let Some((host, what, options)) = host(&words) else {
        report::line("__keep: not by PID 1");
        return exit::USAGE;
    };
    let outcome = if what == GO_ON { go_on(&host) } else { boot(&host, options) };
    // Trying out another user has undone it (prctl(2)).
    end_with_pid_1();
    let mut keeper = match outcome {
        Ok(Some(kept)) => Keeper { host, kept, looked: Instant::now(), arrived: Vec::new() },
        Ok(None) => return 0,
        Err(failure) => {
            host.tell(&Tell::Refused(failure.code, failure.message));
            return failure.code;
        }
    };
    while keeper.wait().is_ok_and(|()| keeper.serve().is_ok()) {}
    0
}

/// PID 1's death lets go of the locks. Where that is denied, the channel's end does.
fn end_with_pid_1() {
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
}

fn host<'a>(words: &'a [&'a str]) -> Option<(Host, &'a str, &'a [&'a str])> {
    let [channel, memory, what, options @ ..] = words else { return None };
    let taken = |number: &str| sys::take_fd(number.parse().ok()?).ok();
    let (channel, memory) = (taken(channel)?, taken(memory));
    let boot = u32::try_from(getppid().as_raw()).ok()?;
    Some((Host { channel: channel.into(), boot, app: *what == BOOT, memory }, what, options))
}

/// What it keeps.
struct Kept {
    place: Place,
    locks: Option<Locks>,
}

fn boot(host: &Host, options: &[&str]) -> Result<Option<Kept>, Failure> {
    let inherited = sys::inherited();
    let options = options.iter().filter_map(|option| option.split_once('='));
    let configured = Configured::read(options.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
    // A secret may have been in one of them. Whoever is at their other ends is to see when the app closes them.
    drop(inherited);
    let configured = configured?;
    try_log(&configured.settings.entry.log, host)?;
    host.tell(&Tell::Settings(Box::new(configured.settings.entry.clone())));
    let ready = boot::boot(&configured, host)?;
    if ready.booted.identity.is_some() {
        let _ = sys::drop_capabilities();
    }
    host.tell(&Tell::Booted(Box::new(ready.booted)));
    Ok(ready.place.map(|place| Kept { place, locks: ready.locks }))
}

/// Whether the log file can be one, before what is said goes there.
fn try_log(log: &LogTo, host: &Host) -> Result<(), Failure> {
    let LogTo::File(path) = log else { return Ok(()) };
    host.at(&path.display().to_string());
    report::try_log(path).map_err(|error| {
        let why = match error.raw_os_error() {
            Some(nix::libc::ELOOP) => "it is a symbolic link; name what it leads to".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(exit::CONFIG, format!("LITESTREAM_ENTRY_LOG: {}: {why}", path.display()))
    })
}

/// In the place of one that was killed. What it held, another process may have by now.
fn go_on(host: &Host) -> Result<Option<Kept>, Failure> {
    let internal = |why: String| Failure::new(exit::INTERNAL, why);
    let Some(Ask::GoOn { plan, locked, passed }) = next(&host.channel, &mut Vec::new()).map_err(|e| internal(e.to_string()))? else {
        return Err(internal("__keep: nothing to go on with".to_owned()));
    };
    host.at(&plan.directories_of_databases());
    let mut locks = None;
    if locked {
        let databases = if plan.entry.lock == LockPolicy::Off { Vec::new() } else { plan.locked() };
        match Locks::take(&databases)? {
            Ok(taken) => locks = Some(taken),
            Err(alias) => host.tell(&Tell::Lost(alias)),
        }
    }
    if passed {
        locks.iter_mut().for_each(Locks::pass);
    }
    host.at(&plan.runtime.display().to_string());
    let place = Place::found(*plan)?;
    if place.plan.entry.user.is_some() {
        let _ = sys::drop_capabilities();
    }
    host.tell(&Tell::Done);
    Ok(Some(Kept { place, locks }))
}

/// Waits for the next frame; none where PID 1 has gone.
fn next(mut channel: &UnixStream, arrived: &mut Vec<u8>) -> io::Result<Option<Ask>> {
    loop {
        if let Some(ask) = unframed(arrived)? {
            return Ok(Some(ask));
        }
        let mut chunk = [0; 4096];
        match channel.read(&mut chunk)? {
            0 => return Ok(None),
            n => arrived.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
    }
}

struct Keeper {
    host: Host,
    kept: Kept,
    looked: Instant,
    arrived: Vec<u8>,
}

impl Keeper {
    /// Until something is asked for; then what an operator asks for is passed on.
    fn wait(&mut self) -> io::Result<()> {
        while self.arrived.is_empty() {
            let channel = self.host.channel.as_fd();
            let mut fds = vec![PollFd::new(channel, PollFlags::POLLIN)];
            fds.extend(self.kept.place.control().map(|control| PollFd::new(control, PollFlags::POLLIN)));
            if poll(&mut fds, PollTimeout::try_from(REST_AFTER).unwrap_or(PollTimeout::ZERO))? == 0 {
                sys::drop_code_pages();
                poll(&mut fds, PollTimeout::NONE)?;
            }
            let asked = fds.first().and_then(PollFd::any).unwrap_or(true);
            if self.kept.place.asked() {
                self.host.tell(&Tell::Resnapshot);
            }
            if asked {
                break;
            }
        }
        Ok(())
    }

    /// Does what is asked for.
    fn serve(&mut self) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let ask = next(&self.host.channel, &mut self.arrived)?.ok_or_else(gone)?;
        self.host.at(&match ask {
            Ask::Place | Ask::State(_) | Ask::GoOn { .. } => self.kept.place.path(),
            Ask::Locks | Ask::Pass | Ask::Withdraw | Ask::Take => self.kept.place.plan.directories_of_databases(),
        });
        let answer = self.answer(ask);
        if self.looked.elapsed() >= LOOK_EVERY {
            self.host.at(&self.kept.place.path());
            self.is_there();
        }
        self.host.tell(&answer);
        Ok(())
    }

    fn answer(&mut self, ask: Ask) -> Tell {
        let Kept { place, locks } = &mut self.kept;
        match ask {
            Ask::Place => return Tell::Place(self.is_there()),
            Ask::Locks => {
                for text in locks.iter_mut().flat_map(Locks::keep) {
                    self.host.tell(&Tell::Note(text));
                }
            }
            Ask::Pass => locks.iter_mut().for_each(Locks::pass),
            Ask::Withdraw => locks.iter_mut().for_each(Locks::withdraw),
            Ask::Take => return self.take(),
            Ask::State(text) => place.leave_state(text),
            Ask::GoOn { .. } => {}
        }
        Tell::Done
    }

    fn is_there(&mut self) -> bool {
        self.looked = Instant::now();
        self.kept.place.is_there()
    }

    fn take(&mut self) -> Tell {
        let place = &self.kept.place;
        let databases = place.plan.locked();
        match Locks::take(&databases) {
            Ok(Ok(locks)) => {
                self.kept.locks = Some(locks);
                place.share();
                return Tell::Ours;
            }
            Ok(Err(_)) => {}
            Err(failure) => report::line(failure.message),
        }
        // Of several databases the least that was said of one counts.
        let holdings: Vec<Holding> = databases.iter().map(|d| lock::holding(&d.path)).collect();
        let holder = if holdings.contains(&Holding::Undecided) {
            Holder::Undecided
        } else if holdings.iter().all(|holding| *holding == Holding::Passed) {
            Holder::Passed
        } else {
            Holder::Silent { present: is_here(&place.plan) }
        };
        Tell::Theirs { holder }
    }
}
