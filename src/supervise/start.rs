//! Starts PID 1's children: Litestream, the workers, the app. Must never wait for one.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use super::machine::{Event, Role};
use super::pipe::Pipe;
use super::{Child, Shell, log};
use crate::exit::Ended;
use crate::identity::Identity;
use crate::litestream::call;
use crate::plan::PLAN_FILE;
use crate::protocol::last_sync::{LastSync, Sync};
use crate::protocol::{Job, OPEN, SAME, When, stand_in};
use crate::report;
use crate::sys::{self, CHANNEL, KEPT, Kind, OWN_FILE, Program, limits};

/// A helper that is to be started.
#[derive(Debug)]
pub(super) enum Start {
    /// The Litestream that replicates.
    Litestream,
    /// A worker, as this, with these words; the plan goes behind the first.
    Worker(Role, Job, Vec<String>),
    /// The last sync, to be done by then.
    LastSync(Sync, Duration),
}

impl Start {
    /// What as.
    pub(super) fn role(&self) -> Role {
        match self {
            Self::Litestream => Role::Litestream,
            Self::Worker(role, ..) => *role,
            Self::LastSync(..) => Role::Flush,
        }
    }
}

/// Why a process cannot be started.
pub(super) fn why_not(errno: Errno) -> String {
    match errno {
        Errno::EAGAIN => limits::no_more_processes(),
        Errno::EPERM | Errno::ENOSYS => format!(
            "{}: a seccomp profile or another sandbox forbids what starts a process (clone, vfork, setsid, setpgid, execve); allow it",
            errno.desc()
        ),
        _ => errno.desc().to_owned(),
    }
}

/// Two ends of a channel to a process that is started.
pub(super) fn channel() -> Result<(UnixStream, UnixStream), Errno> {
    UnixStream::pair().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
}

impl Shell {
    /// There are never two of one role: two that write one replica destroy it.
    fn start(&mut self, role: Role, program: &Program<'_>) -> Option<Event> {
        self.kill(role);
        self.started(role, program.path, program.spawn())
    }

    fn started(&mut self, role: Role, path: &Path, spawned: nix::Result<Pid>) -> Option<Event> {
        match spawned {
            Ok(pid) => {
                self.child(role, pid);
                None
            }
            Err(errno) => {
                // It is tried again.
                report::news(format_args!("{}: cannot be started: {}", path.display(), why_not(errno)));
                Some(Event::NotStarted(role))
            }
        }
    }

    pub(super) fn child(&mut self, role: Role, pid: Pid) {
        self.newest = self.newest.max(pid.as_raw());
        self.started = self.started.saturating_add(1);
        self.children.push(Child { id: self.started, role, pid: Some(pid) });
    }

    /// Starts a process of ours that is who we are, with what we were started with: its words, and what it gets of our descriptors.
    pub(super) fn start_own(
        &mut self,
        role: Role,
        words: impl IntoIterator<Item = OsString>,
        descriptors: &[(RawFd, RawFd)],
    ) -> Result<(), Errno> {
        let own = &self.boot.own_path;
        let args: Vec<OsString> = std::iter::once(own.clone().into_os_string()).chain(words).collect();
        let env = &self.boot.started_with;
        let pid = Program { path: sys::own_program(own), args: &args, env, kind: Kind::Helper, descriptors }.spawn()?;
        self.child(role, pid);
        Ok(())
    }

    /// Whether the process of this role is among these, and is one no more.
    pub(super) fn took_its_end(&mut self, role: Role, ended: &[(Pid, Ended)]) -> bool {
        let Some(its) = self.pid_of(role).filter(|its| ended.iter().any(|(pid, _)| pid == its)) else { return false };
        self.children.retain(|child| child.pid != Some(its));
        true
    }

    /// Starts one of our helpers, by way of `__exec` where it is to be another user, or secrets are in files, which may have changed.
    fn helper(&mut self, role: Role, path: &Path, args: Vec<OsString>, descriptors: &[(RawFd, RawFd)]) -> Option<Event> {
        let env = self.boot.helper_env.clone();
        let own = self.boot.own_path.clone();
        let kept = self.boot.memory.as_ref().map(|kept| (kept.as_raw_fd(), KEPT));
        let (program, args) = match (&self.boot.identity, kept) {
            (None, None) => (path, args),
            (identity, _) => {
                let how = match (kept, role) {
                    (None, _) => When::Helper,
                    (Some(_), Role::Litestream) => When::RenewedLitestream,
                    (Some(_), _) => When::Renewed,
                };
                let who = identity.as_ref().map_or_else(|| SAME.into(), Identity::word);
                let mut words: Vec<OsString> = vec![own.clone().into(), Job::Exec.word().into(), how.word(), who];
                words.push(path.into());
                words.extend(args.into_iter().skip(1));
                (sys::own_program(&own), words)
            }
        };
        let log = log::of(role);
        // The log first: its number may be the channel's there.
        let output =
            log.iter().flat_map(|(_, theirs)| [libc::STDOUT_FILENO, libc::STDERR_FILENO].map(|number| (theirs.as_raw_fd(), number)));
        // What is kept last: its number may be another's here.
        let descriptors: Vec<_> = output.chain(descriptors.iter().copied()).chain(kept).collect();
        let failed = self.start(role, &Program { path: program, args: &args, env: &env, kind: Kind::Helper, descriptors: &descriptors });
        self.logs.extend(log.filter(|_| failed.is_none()).map(|(ours, _)| (self.started, ours)));
        failed
    }

    /// Starts a worker with these words, once its place has been looked at.
    pub(super) fn worker(&mut self, role: Role, job: Job, words: &[&str]) -> Option<Event> {
        self.start_placed(Start::Worker(role, job, words.iter().map(|word| (*word).to_owned()).collect()))
    }

    /// Starts it now.
    pub(super) fn start_now(&mut self, start: Start) -> Option<Event> {
        match start {
            Start::Litestream => self.start_litestream(),
            Start::Worker(role, job, words) => self.start_worker(role, job, words),
            Start::LastSync(sync, by) => self.begin_last_sync(sync, by),
        }
    }

    fn start_worker(&mut self, role: Role, job: Job, words: Vec<String>) -> Option<Event> {
        let words = words.into_iter().map(OsString::from);
        let plan = self.boot.plan.as_ref()?.runtime.join(PLAN_FILE);
        // Both ways: one that waits for the last sync is told when that is.
        let Ok((ours, theirs)) = UnixStream::pair() else { return Some(Event::NotStarted(role)) };
        let own = self.boot.own_path.clone();
        let args: Vec<OsString> = [own.clone().into_os_string()].into_iter().chain([job.word().into(), plan.into()]).chain(words).collect();
        let failed = self.helper(role, sys::own_program(&own), args, &[(theirs.as_raw_fd(), CHANNEL)]);
        if failed.is_none() {
            self.pipes.extend(Pipe::new(ours.into()).map(|pipe| (self.started, pipe)));
        }
        failed
    }

    /// Keeps a worker in reserve for the last sync, for when no process may be started any more. Where that is so already, it is tried again
    /// at the next pulse.
    pub(super) fn reserve(&mut self) {
        if self.pid_of(Role::Reserve).is_none() {
            self.worker(Role::Reserve, Job::Flush, &[]);
        }
    }

    /// By the worker that has made one, or by the one in reserve, or by a new one. Where secrets are in files, only a new one knows what is in
    /// them now.
    fn begin_last_sync(&mut self, sync: Sync, by: Duration) -> Option<Event> {
        let last = LastSync { sync, within: by.saturating_sub(self.now()), app_failed: self.doubt };
        if self.boot.memory.is_none() && (self.tell(Role::Flush, last) || self.tell(Role::Reserve, last)) {
            return None;
        }
        self.kill(Role::Flush);
        let failed = self.start_worker(Role::Flush, Job::Flush, Vec::new());
        let told = if failed.is_none() { self.tell(Role::Flush, last) } else { self.tell(Role::Reserve, last) };
        if told { None } else { failed.or(Some(Event::NotStarted(Role::Flush))) }
    }

    /// Whether there is such a worker, and it is told to make the last sync, which it is there for from here on.
    fn tell(&mut self, role: Role, last: LastSync) -> bool {
        let Some(child) = self.children.iter_mut().find(|child| child.role == role && child.pid.is_some()) else { return false };
        let pipe = self.pipes.iter_mut().find(|(id, pipe)| *id == child.id && pipe.open);
        let told = pipe.is_some_and(|(_, pipe)| pipe.fd.write_all(last.encode().as_bytes()).is_ok());
        if told {
            child.role = Role::Flush;
        }
        told
    }

    fn start_litestream(&mut self) -> Option<Event> {
        let plan = self.boot.plan.as_ref()?;
        let Ok((ours, theirs)) = UnixStream::pair() else { return Some(Event::NotStarted(Role::Litestream)) };
        // Its stand-in starts by a path.
        let own = sys::own_file(&self.boot.own_path);
        let path = own.as_ref().map_or_else(|| self.boot.own_path.clone(), |_| sys::by_descriptor(OWN_FILE));
        let Ok(command) = stand_in(&path, CHANNEL) else { return Some(Event::NotStarted(Role::Litestream)) };
        let again = plan.config_again();
        let config = if self.pid_of(Role::App).is_some() { call::Config { path: &again, ..plan.config() } } else { plan.config() };
        let args = call::replicate(&plan.litestream, &config, command);
        let path = plan.litestream.path.clone();
        let _ = ours.set_nonblocking(true);
        let own = own.as_ref().map(|own| (own.as_raw_fd(), OWN_FILE));
        let descriptors: Vec<_> = [(theirs.as_raw_fd(), CHANNEL)].into_iter().chain(own).collect();
        let failed = self.helper(Role::Litestream, &path, args, &descriptors);
        self.hold = failed.is_none().then_some((ours, false));
        failed
    }

    /// The app starts by way of `__exec`, which unblocks signals only when it becomes the app.
    fn exec(&self, app: &[OsString], gate: Option<&UnixStream>) -> nix::Result<Pid> {
        let path = &self.boot.own_path;
        let identity = self.boot.identity.as_ref().map_or_else(|| SAME.into(), Identity::word);
        // Its number is free for the app, since all that is the app's has one here, too.
        let gate = gate.map(AsRawFd::as_raw_fd);
        let mut args: Vec<OsString> = vec![path.into(), Job::Exec.word().into(), gate.map_or(When::AtOnce, When::Gated).word(), identity];
        args.extend(app.iter().cloned());
        let descriptors: Vec<_> = self.boot.inherited.iter().map(AsRawFd::as_raw_fd).chain(gate).map(|fd| (fd, fd)).collect();
        Program {
            path: sys::own_program(path),
            args: &args,
            env: &self.boot.env,
            kind: Kind::App(self.signals.ignored),
            descriptors: &descriptors,
        }
        .spawn()
    }

    /// Where this fails, the app's start makes its own process, and says why it cannot.
    pub(super) fn ready_app(&mut self) {
        if self.ready.is_none()
            && let Ok((ours, theirs)) = UnixStream::pair()
        {
            self.ready = self.exec(&self.boot.app, Some(&theirs)).ok().map(|pid| (pid, ours));
        }
    }

    pub(super) fn start_app(&mut self) -> Option<Event> {
        report::forget();
        let opened = self.ready.take().filter(|(_, gate)| (&mut &*gate).write_all(OPEN).is_ok()).map(|(pid, _)| Ok(pid));
        let spawned = opened.unwrap_or_else(|| self.exec(&self.boot.app, None));
        // It has them, and whoever is at their other ends is to see when it closes them.
        self.boot.inherited.clear();
        self.started(Role::App, &self.boot.own_path.clone(), spawned)
    }

    /// In the app's place: its environment, its terminal, its signals.
    pub(super) fn start_migration(&mut self) -> Option<Event> {
        let command = self.boot.migrate.clone().unwrap_or_default();
        let words: Vec<OsString> = vec!["/bin/sh".into(), "-c".into(), command.into()];
        let spawned = self.exec(&words, None);
        self.started(Role::App, &self.boot.own_path.clone(), spawned)
    }
}
