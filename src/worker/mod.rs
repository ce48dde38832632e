//! Workers: whatever could block or crash, in processes of their own, and the words they say to PID 1.
//! Must never outlive PID 1, nor write anything to the channel but [`Message`]s.

mod check;
pub mod exec;
pub mod flush;
mod full;
mod hang;
pub mod hold;
pub mod last_sync;
pub mod log;
pub mod memory;
mod pass;
mod pins;
pub mod prepare;
pub mod probe;
mod pulse;
mod serve;
mod watch;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::exit::{self, Failure};
use crate::habits::Habit;
use crate::plan::Plan;
use crate::sys::CHANNEL;
use crate::{interrupt, keeper, report, rotation, sys, tenants};
use last_sync::LastSync;

/// What a worker tells PID 1: a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `__prepare`: Litestream may start. `held` says whether WALs are pinned until it has its locks.
    Ready {
        /// The worker lives on and holds pins.
        held: bool,
        /// Some database could be neither pinned nor emptied.
        unproven: bool,
    },
    /// `__prepare`: it holds pins now, of databases that the app has only just begun to write to.
    Held,
    /// `__prepare`: a pin has been let go, so that from here on a dead Litestream needs the other way.
    Released,
    /// `__prepare`: pins were let go for size, and the replica answers now: start Litestream anew.
    Reopen,
    /// `__prepare`: a replica does not answer, so that it is not decided yet whether its database is the one to go on with. The app
    /// may work with it; Litestream may not start.
    Waits,
    /// The start is refused with this code; why has been said.
    Refused(u8),
    /// `__flush`: this database's last writes are not known to be saved, and why.
    Unsaved(String),
    /// `__flush`: this database's last writes are saved.
    Saved(String),
    /// `__flush`: all has been said.
    Flushed,
    /// A worker at the end of a life, from time to time: it is not stopped.
    Beat,
    /// One that cannot say so, since it has got no thread for that.
    Unheard,
    /// `__check`, or an operator by way of [`CONTROL_FILE`]: a backup is different, begin it anew.
    Resnapshot,
    /// `__check`: something to be said.
    Note(String),
    /// `__pulse`: Litestream is there and does nothing, and how that shows.
    Hung(String),
    /// `__pulse`: a backup needs a new snapshot, by a Litestream that is started again, and why.
    Begin(String),
    /// `__flush`: the Litestream that runs cannot make the last sync; a pass of our own can.
    ByPass,
}

/// What `__prepare` is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// A boot with the lock: decide about every database, restore what is missing, then pin or empty the WALs.
    Boot,
    /// Litestream is started again under a live app: empty the WALs, nothing else.
    Repair,
    /// The lock has become ours under a live app: decide as at a boot, but replace nothing, then empty the WALs.
    TakeOver,
    /// The process that has the lock does not say what it has decided: decide for our own app, and write nothing.
    Beside,
    /// The lock has become ours after the app's end: decide before the last sync, and write nothing.
    Ending,
    /// A job: restore what is missing, and use what is here as it is.
    Job,
}

impl Preparation {
    const WORDS: [(Self, &str); 6] = [
        (Self::Boot, "boot"),
        (Self::Repair, "repair"),
        (Self::TakeOver, "take-over"),
        (Self::Beside, "beside"),
        (Self::Ending, "ending"),
        (Self::Job, "job"),
    ];

    /// As an argument.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(each, _)| *each == self).map_or("", |(_, word)| word)
    }

    /// From an argument; none for anything else.
    pub fn parse(word: &OsStr) -> Option<Self> {
        Self::WORDS.iter().find(|(_, each)| word == *each).map(|(preparation, _)| *preparation)
    }
}

/// Behind a worker's other arguments: the app failed soon after its start, beside pins.
pub const FAILED: &str = "failed";

/// A socket in the runtime directory, by which an operator's command asks PID 1 for something.
pub const CONTROL_FILE: &str = "control";

/// How often a worker at the end of a life says that it is not stopped.
const BEAT_EVERY: Duration = Duration::from_millis(250);

/// No message is longer: an alias and a reason.
pub const LONGEST: usize = 2048;

impl Message {
    /// As a line.
    pub fn encode(&self) -> String {
        match self {
            Self::Ready { held, unproven } => format!("ready {} {}\n", u8::from(*held), u8::from(*unproven)),
            Self::Held => "held\n".to_owned(),
            Self::Released => "released\n".to_owned(),
            Self::Reopen => "reopen\n".to_owned(),
            Self::Waits => "waits\n".to_owned(),
            Self::Resnapshot => "resnapshot\n".to_owned(),
            Self::Note(text) => format!("note {}\n", short(text)),
            Self::Refused(code) => format!("refused {code}\n"),
            Self::Unsaved(text) => format!("unsaved {}\n", short(text)),
            Self::Saved(name) => format!("saved {}\n", short(name)),
            Self::Hung(text) => format!("hung {}\n", short(text)),
            Self::Begin(text) => format!("begin {}\n", short(text)),
            Self::ByPass => "by-pass\n".to_owned(),
            Self::Flushed => "flushed\n".to_owned(),
            Self::Beat => "beat\n".to_owned(),
            Self::Unheard => "unheard\n".to_owned(),
        }
    }

    /// From a line without its end; none for anything that is not a message.
    pub fn decode(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let flag = |text| match text {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        };
        match (word, rest) {
            ("ready", flags) => {
                let (held, unproven) = flags.split_once(' ')?;
                Some(Self::Ready { held: flag(held)?, unproven: flag(unproven)? })
            }
            ("held", "") => Some(Self::Held),
            ("released", "") => Some(Self::Released),
            ("reopen", "") => Some(Self::Reopen),
            ("waits", "") => Some(Self::Waits),
            ("resnapshot", "") => Some(Self::Resnapshot),
            ("note", text) if !text.is_empty() => Some(Self::Note(text.to_owned())),
            ("refused", code) => code.parse().ok().map(Self::Refused),
            ("unsaved", text) if !text.is_empty() => Some(Self::Unsaved(text.to_owned())),
            ("saved", name) if !name.is_empty() => Some(Self::Saved(name.to_owned())),
            ("flushed", "") => Some(Self::Flushed),
            ("beat", "") => Some(Self::Beat),
            ("unheard", "") => Some(Self::Unheard),
            ("hung", text) if !text.is_empty() => Some(Self::Hung(text.to_owned())),
            ("begin", text) if !text.is_empty() => Some(Self::Begin(text.to_owned())),
            ("by-pass", "") => Some(Self::ByPass),
            _ => None,
        }
    }
}

fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
}

/// The worker's end of the channel to PID 1.
#[derive(Debug)]
pub struct Channel(File);

impl Channel {
    /// Takes over the descriptor that PID 1 put at [`CHANNEL`].
    ///
    /// # Errors
    /// What the kernel says, where there is none.
    pub fn inherited() -> std::io::Result<Self> {
        crate::sys::take_fd(CHANNEL).map(|fd| Self(File::from(fd)))
    }

    /// The same for another thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn another(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Says from time to time that this process is not stopped, while what is returned lives.
    fn beat(&self) -> Option<Sender<()>> {
        let (ends, ended) = mpsc::channel();
        let beating = self.another().and_then(|channel| {
            std::thread::Builder::new().spawn(move || {
                while ended.recv_timeout(BEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
                    channel.say(&Message::Beat);
                }
            })
        });
        if let Err(error) = beating {
            report::debug(format_args!("a worker cannot say that it lives: {error}"));
            self.say(&Message::Unheard);
            return None;
        }
        Some(ends)
    }

    /// Waits until it is told what to do; none where PID 1 wants nothing more, or says what is not known here.
    fn told(&self) -> Option<LastSync> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < last_sync::LONGEST && matches!((&self.0).read(&mut byte), Ok(1)) {
            if byte == *b"\n" {
                return LastSync::decode(&String::from_utf8_lossy(&line));
            }
            line.extend(byte);
        }
        None
    }

    /// Says a message. PID 1 that is gone takes us with it.
    pub fn say(&self, message: &Message) {
        let _ = (&self.0).write_all(message.encode().as_bytes());
    }
}

/// The sub-commands that only this program itself calls.
pub fn is_internal(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"__")
}

/// Runs one; its exit code.
pub fn run(word: &OsStr, args: &[OsString]) -> u8 {
    match word.to_str() {
        Some("__exec") => exec::run(args),
        Some("__hold") => hold::run(args),
        Some("__keep") => keeper::run(args),
        Some("__log") => log::run(args),
        Some("__prepare") => with_plan(args, |plan, channel, rest| {
            note_failure(plan, rest.last().is_some_and(|word| word == FAILED));
            let preparation = rest.first().and_then(|word| Preparation::parse(word));
            let _beats = (preparation == Some(Preparation::Ending)).then(|| channel.beat());
            let unknown = || Failure::new(exit::INTERNAL, "__prepare: no such preparation");
            prepare::run(plan, channel, preparation.ok_or_else(unknown)?).map(|()| 0)
        }),
        Some("__pulse") => with_plan(args, |plan, channel, _| {
            each(plan, |each| pulse::run(each, &plan.databases, channel));
            Ok(0)
        }),
        Some("__check") => with_plan(args, |plan, channel, _| {
            interrupt::watch();
            let proved = each(plan, |plan| check::run(plan, channel));
            Ok(if proved { 0 } else { exit::DAMAGED })
        }),
        Some("__forget") => with_plan(args, |plan, _, _| Ok(if each(plan, flush::forget) { 0 } else { exit::SYSTEM })),
        Some("__serve") => with_plan(args, |plan, _, _| {
            serve::run(plan);
            Ok(0)
        }),
        Some("__watch") => with_plan(args, |plan, _, _| watch::run(plan)),
        Some("__flush") => with_plan(args, |plan, channel, _| {
            // It may be long until then.
            sys::drop_code_pages();
            while let Some(told) = channel.told() {
                let _beats = channel.beat();
                note_failure(plan, told.app_failed);
                each(plan, |plan| flush::run(plan, channel, told));
            }
            Ok(0)
        }),
        Some("__probe") => with_plan(args, |plan, _, _| each(plan, probe::run).map(|()| 0)),
        _ => {
            report::line(format_args!("{}: no such command", word.to_string_lossy()));
            exit::USAGE
        }
    }
}

fn with_plan(args: &[OsString], work: impl FnOnce(&Plan, &Channel, &[OsString]) -> Result<u8, Failure>) -> u8 {
    let outcome = (|| {
        // PID 1's death must not leave a pin or a restore behind.
        let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
        rotation::inherit();
        let internal = |what: String| Failure::new(exit::INTERNAL, what);
        let channel = Channel::inherited().map_err(|e| internal(format!("a worker without a channel: {e}")))?;
        // It may have died before that: then its end of the pipe is closed, since the kernel closes it before it tells the children.
        if until_closed(&channel.0, Duration::ZERO) {
            return Err(Failure::new(exit::SYSTEM, "a worker whose parent is gone"));
        }
        let (path, rest) = args.split_first().ok_or_else(|| internal("a worker without a plan".into()))?;
        let text = std::fs::read_to_string(Path::new(path)).map_err(|e| internal(format!("{}: {e}", path.to_string_lossy())))?;
        let plan: Plan = serde_yaml::from_str(&text).map_err(|e| internal(format!("{}: {e}", path.to_string_lossy())))?;
        report::set_debug(plan.entry.debug);
        match work(&plan, &channel, rest) {
            Err(failure) => {
                report::lines(&failure.message);
                channel.say(&Message::Refused(failure.code));
                Err(failure)
            }
            Ok(code) => Ok(code),
        }
    })();
    outcome.unwrap_or_else(|failure: Failure| failure.code)
}

/// Notes that the app failed as one does that a pin has refused something, where nothing more is known of it.
fn note_failure(plan: &Plan, failed: bool) {
    if failed {
        each(plan, |plan| plan.databases.iter().for_each(|database| Habit::failed(&database.path)));
    }
}

/// Runs `work` with an entry for each database that is in a directory now.
fn each<T>(plan: &Plan, work: impl FnOnce(&Plan) -> T) -> T {
    let plan = tenants::expand(plan.clone(), &[]);
    let outcome = work(&plan);
    tenants::forget(&plan);
    outcome
}

/// Runs `work` on each item, a few at a time, and keeps the order. A panic in one loses what its thread did: fewer
/// results than items tell.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], at_once: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let take_turns = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            match items.get(at) {
                Some(item) => done.push((at, work(item))),
                None => return done,
            }
        }
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, take_turns).ok();
        let threads: Vec<_> = (0..at_once.clamp(1, items.len().max(1))).filter_map(start).collect();
        // Where none may start, this one does it all.
        let done = if threads.is_empty() { take_turns() } else { Vec::new() };
        done.into_iter().chain(threads.into_iter().filter_map(|t| t.join().ok()).flatten()).collect()
    });
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Waits for the other end of the channel to close.
fn until_closed(fd: &impl AsFd, at_most: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::empty())], timeout).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let mut all = vec![
            Message::Held,
            Message::Released,
            Message::Reopen,
            Message::Waits,
            Message::Refused(69),
            Message::Flushed,
            Message::Beat,
            Message::Unheard,
            Message::Unsaved("default: refused".into()),
            Message::Saved("default".into()),
            Message::Hung("no answer".into()),
            Message::Begin("default: was replaced".into()),
            Message::ByPass,
            Message::Resnapshot,
            Message::Note("default: verified".into()),
        ];
        for bits in 0..4 {
            all.push(Message::Ready { held: bits & 1 != 0, unproven: bits & 2 != 0 });
        }
        for message in all {
            assert_eq!(Message::decode(message.encode().trim_end_matches('\n')), Some(message));
        }
    }

    #[test]
    fn a_message_is_one_line_and_short_enough_for_one_write() {
        let text = Message::Unsaved("é\n".repeat(5000)).encode();
        assert!(text.len() <= LONGEST && text.matches('\n').count() == 1);
    }

    proptest! {
        #[test]
        fn nothing_else_is_taken_for_a_message(line in "\\PC*") {
            if let Some(message) = Message::decode(&line) {
                prop_assert_eq!(Message::decode(message.encode().trim_end_matches('\n')), Some(message));
            }
        }
    }

    #[test]
    fn parallel_work_keeps_its_order() {
        assert_eq!(in_parallel(&[1, 2, 3, 4, 5], 2, |n| n * 10), [10, 20, 30, 40, 50]);
        assert_eq!(in_parallel(&[1], 8, |n| n * 10), [10]);
        assert!(in_parallel(&[] as &[i32], 8, |n| n * 10).is_empty());
    }
}
