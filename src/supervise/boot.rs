//! The boot, as PID 1 sees it: it waits for its keeper, which does it, and for signals. Must never wait for a disk, nor longer than the stop
//! timeout once it is to end.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::keeper::TRIES;
use super::machine::{Role, UNSAVED};
use super::start::why_not;
use super::{LONGEST_NAP, Shell, reap};
use crate::configured::Configured;
use crate::exit::{self, Ended, Failure};
use crate::facilities::Facilities;
use crate::identity::Identity;
use crate::keeper::{self, BOOT, BOOT_WITHOUT_APP};
use crate::protocol::Rules;
use crate::protocol::keeper::{Booted, Bytes, Tell};
use crate::settings::{self, Entry, LogTo, Source};
use crate::{plan, report};

/// Docker's own, for a stop before the boot's is known.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// So many signals are kept for the app while there is none.
const EARLY: usize = 64;

impl Shell {
    /// Boots, as far as that is the keeper's. Signals that come meanwhile are for the machine.
    pub(super) fn boot(&mut self) -> Result<(Rules, Vec<i32>), Failure> {
        if let Some(rules) = self.boot_plainly()? {
            return Ok((rules, Vec::new()));
        }
        let (mut early, mut stop_by, mut entry) = (Vec::new(), None, None::<Box<Entry>>);
        loop {
            self.boot_by_keeper()?;
            let ended = reap::ended();
            for tell in self.keeper.told() {
                if let Some(booted) = self.told_of_boot(tell, &mut entry, &ended)? {
                    self.note_logs_end(&ended);
                    self.note_keepers_end(&ended);
                    return Ok((self.take_over_from(*booted)?, early));
                }
            }
            self.read_logs(&ended);
            self.note_logs_end(&ended);
            if self.note_keepers_end(&ended) {
                if self.keeper.tries >= TRIES {
                    return Err(Failure::new(exit::INTERNAL, "the process that boots dies each time; see above"));
                }
                report::line("the process that boots was killed: starting it again");
                self.try_again();
            }
            for signal in self.signals.pending() {
                if is_stop(signal, entry.as_deref()) || early.len() < EARLY {
                    early.push(signal);
                }
            }
            let stops = early.iter().filter(|signal| is_stop(**signal, entry.as_deref())).count();
            let timeout = entry.as_ref().map_or(STOP_TIMEOUT, |entry| entry.stop_timeout);
            let now = self.now();
            if stops > 0 {
                stop_by.get_or_insert(now.saturating_add(timeout));
            }
            if stops > 1 || stop_by.is_some_and(|by| by <= now) {
                return Err(self.not_booted());
            }
            self.say_what_is_silent();
            self.wait_for_boot(stop_by.into_iter().chain(self.keeper.deadline()).min());
        }
    }

    /// Without a keeper, where the environment alone says that nothing is replicated: an init need not start another process for that.
    fn boot_plainly(&mut self) -> Result<Option<Rules>, Failure> {
        let names_a_file = |name: &[u8]| name.ends_with(b"_FILE") || name == b"LITESTREAM_CONFIG";
        let mut names = self.boot.started_with.iter().map(plan::name_of);
        let mut options = self.boot.options.iter().map(|(name, _)| name.as_bytes());
        if names.any(names_a_file) || options.any(names_a_file) {
            return Ok(None);
        }
        let configured = Configured::read(self.boot.options.clone())?;
        let entry = &configured.settings.entry;
        if entry.user.is_some() || matches!(entry.log, LogTo::File(_)) || !matches!(configured.settings.source, Source::Nothing(_)) {
            return Ok(None);
        }
        self.leave_stderr(&entry.log)?;
        let booted = keeper::plainly(&configured, !self.boot.app.is_empty())?;
        self.take_over_from(booted).map(Some)
    }

    /// Starts it where there is none, and it is time.
    fn boot_by_keeper(&mut self) -> Result<(), Failure> {
        let now = self.now();
        if self.pid_of(Role::Keep).is_some() || self.keeper.again_at.is_some_and(|at| at > now) {
            return Ok(());
        }
        let what = if self.boot.app.is_empty() { BOOT_WITHOUT_APP } else { BOOT };
        match self.start_keeper(what) {
            Ok(()) => {
                self.keeper.again_at = None;
                self.keeper.waits(now);
                Ok(())
            }
            Err(errno) if self.keeper.tries >= TRIES || errno != Errno::EAGAIN => {
                if errno == Errno::EMFILE {
                    // The keeper would have said so.
                    Facilities::enough_descriptors()?;
                }
                let why = why_not(errno);
                Err(Failure::new(exit::SYSTEM, format!("{}: cannot be started: {why}", self.boot.own_path.display())))
            }
            Err(_) => {
                self.try_again();
                Ok(())
            }
        }
    }

    /// Whether it was among these.
    fn note_keepers_end(&mut self, ended: &[(Pid, Ended)]) -> bool {
        let ended = self.took_its_end(Role::Keep, ended);
        let _ = self.keeper.channel.take_if(|_| ended);
        ended
    }

    /// It cannot even be looked whether an earlier life has left something that is not in the replica.
    fn not_booted(&self) -> Failure {
        let at = self.keeper.place().unwrap_or("what the boot reads first");
        Failure::new(
            exit::UNSAVED,
            format!("{UNSAVED}{at} does not answer: nothing was started, and what an earlier container left there was not looked at"),
        )
    }

    fn told_of_boot(&mut self, tell: Tell, entry: &mut Option<Box<Entry>>, ended: &[(Pid, Ended)]) -> Result<Option<Box<Booted>>, Failure> {
        match tell {
            Tell::Settings(settings) => {
                report::set_debug(settings.debug);
                self.leave_stderr(&settings.log)?;
                *entry = Some(settings);
            }
            Tell::At(at) => {
                self.keeper.at = at;
                let now = self.now();
                self.keeper.waits(now);
            }
            Tell::Booted(booted) => {
                self.read_logs(ended);
                self.keeper.waits_no_more();
                self.keeper.looked = Some(self.now());
                return Ok(Some(booted));
            }
            Tell::Refused(code, message) => {
                self.read_logs(ended);
                return Err(Failure::new(code, message));
            }
            _ => {}
        }
        Ok(None)
    }

    /// Until something happens. Where everything stood still meanwhile, that time does not count.
    fn wait_for_boot(&mut self, deadline: Option<Duration>) {
        let before = self.now();
        let left = deadline.map_or(LONGEST_NAP, |at| at.saturating_sub(before).saturating_add(Duration::from_millis(1))).min(LONGEST_NAP);
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.keeper.to_wait_for().map(|(fd, flags)| PollFd::new(fd, flags)));
        fds.extend(self.logs.iter().map(|(_, log)| PollFd::new(log.as_fd(), PollFlags::POLLIN)));
        if poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let overslept = self.now().saturating_sub(before).saturating_sub(left);
        if overslept > LONGEST_NAP {
            self.stood_still = self.stood_still.saturating_add(overslept);
        }
    }

    /// Takes over what the keeper has made of the environment.
    fn take_over_from(&mut self, booted: Booted) -> Result<Rules, Failure> {
        let boot = &mut self.boot;
        if let Some(word) = booted.identity {
            // Never as root what was to be somebody else's.
            let unknown = || Failure::new(exit::INTERNAL, "LITESTREAM_ENTRY_USER: what the keeper says of that user is not understood");
            boot.identity = Some(Identity::from_word(&word.word()).ok_or_else(unknown)?);
        }
        boot.identity.iter().for_each(Identity::own_stdio);
        let helper_env = booted.helper_env.map(|entries| entries.iter().filter_map(Bytes::entry).collect());
        if helper_env.is_some() {
            boot.memory = None;
        }
        boot.helper_env = helper_env.unwrap_or_else(|| boot.started_with.clone());
        boot.env = boot.started_with.clone();
        if booted.hides {
            boot.env.retain(|entry| !settings::holds_secret(plan::name_of(entry)));
        }
        let exported: Vec<_> = booted.exported.iter().filter_map(Bytes::entry).collect();
        boot.env.retain(|entry| !exported.iter().any(|path| plan::name_of(path) == plan::name_of(entry)));
        boot.env.extend(exported);
        (boot.plan, boot.migrate) = (booted.plan, booted.migrate);
        boot.signal_group = booted.signal_group;
        self.keeper.locked = booted.rules.replicates && !booted.rules.standby;
        Ok(booted.rules)
    }
}

/// Whether a signal asks for the end of a boot.
fn is_stop(signal: i32, entry: Option<&Entry>) -> bool {
    use nix::libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    [SIGHUP, SIGINT, SIGQUIT, SIGTERM].contains(&signal) || entry.is_some_and(|entry| entry.stop_signal.contains(&signal))
}
