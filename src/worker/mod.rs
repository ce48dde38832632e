//! Workers: whatever could block or crash, in processes of their own, and the words they say to PID 1.
//! Must never outlive PID 1, nor write anything to the channel but [`Message`]s.

mod check;
pub mod exec;
pub mod flush;
mod full;
mod hang;
pub mod hold;
pub mod log;
pub mod memory;
mod pass;
mod pins;
pub mod prepare;
pub mod probe;
mod pulse;
mod serve;
mod watch;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::coded::Coded;
use crate::exit::{self, Failure};
use crate::habits::Habit;
use crate::plan::Plan;
use crate::protocol::last_sync::{self, LastSync};
use crate::protocol::{Job, Message, Preparation, Prepare};
use crate::sys::CHANNEL;
use crate::{interrupt, kept, report, sys, tenants};

/// How often a worker at the end of a life says that it is not stopped.
const BEAT_EVERY: Duration = Duration::from_millis(250);

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

/// Runs one; its exit code.
pub fn run(job: Job, args: &[OsString]) -> u8 {
    match job {
        Job::Exec => exec::run(args),
        Job::Hold => hold::run(args),
        Job::Log => log::run(args),
        // Above the workers.
        Job::Keep => exit::USAGE,
        Job::Prepare => with_plan(args, |plan, channel, rest| {
            let unknown = || Failure::new(exit::INTERNAL, "__prepare: no such preparation");
            let Prepare { preparation, app_failed } = Prepare::parse(rest).ok_or_else(unknown)?;
            note_failure(plan, app_failed);
            let _beats = (preparation == Preparation::Ending).then(|| channel.beat());
            prepare::run(plan, channel, preparation).map(|()| 0)
        }),
        Job::Pulse => with_plan(args, |plan, channel, _| {
            each(plan, |each| pulse::run(each, &plan.databases, channel));
            Ok(0)
        }),
        Job::Check => with_plan(args, |plan, channel, _| {
            interrupt::watch();
            let proved = each(plan, |plan| check::run(plan, channel));
            Ok(if proved { 0 } else { exit::DAMAGED })
        }),
        Job::Forget => with_plan(args, |plan, _, _| Ok(if each(plan, flush::forget) { 0 } else { exit::SYSTEM })),
        Job::Serve => with_plan(args, |plan, _, _| {
            serve::run(plan);
            Ok(0)
        }),
        Job::Watch => with_plan(args, |plan, _, _| watch::run(plan)),
        Job::Flush => with_plan(args, |plan, channel, _| {
            // It may be long until then.
            sys::drop_code_pages();
            while let Some(told) = channel.told() {
                let _beats = channel.beat();
                note_failure(plan, told.app_failed);
                each(plan, |plan| flush::run(plan, channel, told));
            }
            Ok(0)
        }),
        Job::Probe => with_plan(args, |plan, _, _| each(plan, probe::run).map(|()| 0)),
    }
}

fn plan_at(path: &Path) -> anyhow::Result<Plan> {
    let text = std::fs::read_to_string(path).about(path.display())?;
    serde_yaml::from_str(&text).about(path.display())
}

fn with_plan(args: &[OsString], work: impl FnOnce(&Plan, &Channel, &[OsString]) -> Result<u8, Failure>) -> u8 {
    let outcome = (|| {
        // PID 1's death must not leave a pin or a restore behind.
        let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
        kept::inherit();
        let internal = |what: String| Failure::new(exit::INTERNAL, what);
        let channel = Channel::inherited().about("a worker without a channel").coded(exit::INTERNAL)?;
        // It may have died before that: then its end of the pipe is closed, since the kernel closes it before it tells the children.
        if until_closed(&channel.0, Duration::ZERO) {
            return Err(Failure::new(exit::SYSTEM, "a worker whose parent is gone"));
        }
        let (path, rest) = args.split_first().ok_or_else(|| internal("a worker without a plan".into()))?;
        let plan = plan_at(Path::new(path)).coded(exit::INTERNAL)?;
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

/// Waits for the other end of the channel to close.
fn until_closed(fd: &impl AsFd, at_most: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::empty())], timeout).is_ok_and(|n| n > 0)
}
