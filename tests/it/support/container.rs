//! A container as far as a process can tell: its own PID namespace, mounts and session.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::process::{self, Process};
use super::{PATIENCE, entry, eventually, when};

/// Flags for a fresh PID namespace that ends with `unshare` itself.
pub(crate) fn unshare_flags() -> Vec<&'static str> {
    let mut flags = vec!["--pid", "--fork", "--kill-child", "--mount-proc"];
    if !nix::unistd::geteuid().is_root() {
        flags.extend(["--user", "--map-root-user"]);
    }
    flags
}

/// What runs in a container, before it runs.
#[derive(Clone)]
pub(crate) struct Recipe {
    /// Command and arguments of PID 1.
    words: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: PathBuf,
    stdin: Option<Vec<u8>>,
    ready: PathBuf,
}

impl Recipe {
    /// The program under test as PID 1, with nothing set; `directory` is for logs and is the app's
    /// working directory.
    pub(crate) fn new(directory: &Path, ready: PathBuf) -> Self {
        Self { words: vec![entry().into()], environment: Vec::new(), directory: directory.into(), stdin: None, ready }
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self = self.without(&name);
        self.environment.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    pub(crate) fn without(mut self, name: impl AsRef<OsStr>) -> Self {
        self.environment.retain(|(it, _)| it != name.as_ref());
        self
    }

    /// The words after the program's name, as they are.
    pub(crate) fn arguments<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Another build of the program.
    #[allow(dead_code, reason = "the fault harness, which shares this file, has use for it")]
    pub(crate) fn of_program(mut self, program: &Path) -> Self {
        self.words[0] = program.into();
        self
    }

    /// These words in the place of all.
    pub(crate) fn arguments_instead<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words.truncate(1);
        self.arguments(words)
    }

    /// `-- APP…`
    pub(crate) fn app<W: AsRef<OsStr>>(self, words: impl IntoIterator<Item = W>) -> Self {
        self.arguments(["--"]).arguments(words)
    }

    /// Everything in it runs as this user and group, with nothing of root's.
    pub(crate) fn of_user(self, id: u32) -> Self {
        self.behind(&["setpriv", &format!("--reuid={id}"), &format!("--regid={id}"), "--clear-groups"])
    }

    /// Started by these words.
    pub(crate) fn behind(mut self, words: &[&str]) -> Self {
        self.words.splice(0..0, words.iter().map(OsString::from));
        self
    }

    /// With a fresh `/run` of its own, as `docker run --tmpfs /run` gives it, and this directory read-only.
    pub(crate) fn with_read_only(self, place: &Path) -> Self {
        let place = place.display();
        let bind = format!("mount --bind '{place}' '{place}' && mount -o remount,bind,ro '{place}'");
        // The root is a mount already.
        let bind = if place.to_string() == "/" { "mount -o remount,bind,ro /".to_owned() } else { bind };
        self.behind(&["sh", "-c", &format!("mount -t tmpfs none /run && {bind} && exec \"$@\""), "sh"])
    }

    /// A shell script as the app.
    pub(crate) fn shell(self, script: &str) -> Self {
        self.app(["/bin/sh", "-c", script])
    }

    pub(crate) fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = Some(bytes.to_vec());
        self
    }

    /// The same app as PID 1 itself, as Docker runs it when nothing wraps it.
    pub(crate) fn unwrapped(mut self) -> Self {
        let program = entry();
        let at = self.words.iter().position(|word| *word == program).expect("the program");
        let end = if self.words.get(at + 1).is_some_and(|word| word == "--") { at + 2 } else { at + 1 };
        self.words.drain(at..end);
        self
    }

    /// Starts it, with its output in files.
    pub(crate) fn start(self) -> Container {
        let log = self.log();
        let create = |kind: &str| File::create(log.with_extension(kind)).expect("a log file");
        let (out, err) = (create("out"), create("err"));
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut command = self.command(&[]);
        command.stdin(stdin).stdout(out).stderr(err);
        let mut child = command.spawn().expect("setpriv, unshare and setsid are there");
        if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), &self.stdin) {
            pipe.write_all(bytes).expect("stdin takes it");
        }
        Container { child, recipe: self, log }
    }

    /// Starts it with this for stderr.
    pub(crate) fn start_with_stderr(self, stderr: OwnedFd) -> Container {
        let log = self.log();
        let mut command = self.command(&[]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().expect("setpriv, unshare and setsid are there");
        Container { child, recipe: self, log }
    }

    /// Starts it on a terminal, which becomes its controlling one.
    pub(crate) fn start_on(self, terminal: &OwnedFd) -> Container {
        let log = self.log();
        let mut command = self.command(&["--ctty"]);
        let end = || Stdio::from(terminal.try_clone().expect("another descriptor"));
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("setpriv, unshare and setsid are there");
        Container { child, recipe: self, log }
    }

    /// Runs it to its end: its code.
    pub(crate) fn run(self) -> (i32, Container) {
        let mut container = self.start();
        let code = container.wait(PATIENCE);
        (code, container)
    }

    /// A fresh file name, without extension, and nothing left of an earlier life's handshake.
    fn log(&self) -> PathBuf {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let _ = fs::remove_file(&self.ready);
        let logs = self.directory.join("logs");
        fs::create_dir_all(&logs).expect("a directory for logs");
        logs.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Every signal's disposition is the default (`env`), everything ends with the thread that started
    /// it (`setpriv`), and PID 1 leads a session of its own (`setsid`), as in a real container.
    fn command(&self, setsid_flags: &[&str]) -> Command {
        let mut command = Command::new("env");
        command.args(["--default-signal", "setpriv", "--pdeathsig", "KILL", "unshare"]).args(unshare_flags());
        command.arg("setsid").args(setsid_flags).args(&self.words);
        self.surroundings(&mut command);
        command
    }

    fn surroundings(&self, command: &mut Command) {
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        command.env_clear().envs(environment).current_dir(&self.directory);
    }
}

/// A running container; it ends with this value.
pub(crate) struct Container {
    child: Child,
    recipe: Recipe,
    log: PathBuf,
}

impl Container {
    /// PID 1, as the host sees it.
    pub(crate) fn pid1(&self) -> i32 {
        eventually("unshare's child", PATIENCE, || self.first_process())
    }

    /// PID 1, if there is one now.
    pub(crate) fn first_process(&self) -> Option<i32> {
        let unshare = i32::try_from(self.child.id()).expect("a pid");
        Some(process::children(unshare).first()?.pid)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        process::send(self.pid1(), signal);
    }

    /// To PID 1, if there still is one.
    pub(crate) fn signal_if_any(&self, signal: Signal) {
        if let Some(pid) = self.first_process() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    pub(crate) fn stdout(&self) -> Vec<u8> {
        fs::read(self.log.with_extension("out")).unwrap_or_default()
    }

    /// The file that [`Self::stderr`] reads.
    pub(crate) fn error_log(&self) -> PathBuf {
        self.log.with_extension("err")
    }

    pub(crate) fn stderr(&self) -> String {
        let bytes = fs::read(self.error_log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The code that the container ends with, 128+n if PID 1 died of a signal.
    #[track_caller]
    pub(crate) fn wait(&mut self, limit: Duration) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(code) = self.ended() {
                return code;
            }
            assert!(start.elapsed() < limit, "the container still runs after {limit:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The code, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("our own child")?;
        status.code().or_else(|| Some(128 + status.signal()?))
    }

    /// Waits for the app's handshake; fails at once if the container ends before it.
    #[track_caller]
    pub(crate) fn ready(&mut self) {
        let ready = self.recipe.ready.clone();
        let start = Instant::now();
        while !ready.exists() {
            let code = self.ended();
            assert!(code.is_none() || ready.exists(), "ended with {code:?} before the app was ready");
            assert!(start.elapsed() < PATIENCE, "the app is not ready after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// TERM, as `docker stop` sends it, and the code that comes of it.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.wait(PATIENCE)
    }

    /// The worker in reserve is gone, so that the one of the last sync can be told from it: it is there only once that has begun.
    pub(crate) fn without_reserve(&self) {
        let waits = |process: &Process| process.arguments.iter().any(|word| word == b"__flush");
        if let Some(waiting) = self.processes().into_iter().find(waits) {
            process::send(waiting.pid, Signal::SIGKILL);
            eventually("the end of what is in reserve", PATIENCE, || when(!self.processes().iter().any(waits)));
        }
    }

    /// The whole container is gone at once, as after a power cut of everything but the page cache.
    ///
    /// PID 1 is killed, not `unshare`: its end is reported only when nothing of its namespace is left.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_some() {
            return;
        }
        match self.first_process() {
            Some(pid) => process::send(pid, Signal::SIGKILL),
            None => drop(self.child.kill()),
        }
        let _ = self.child.wait();
    }

    /// Waits until PID 1 is the program, no longer `unshare` or `setsid`.
    #[track_caller]
    pub(crate) fn running(&self) {
        let program = fs::canonicalize(entry()).expect("the program");
        eventually("PID 1 is the program", PATIENCE, || {
            let process = Process::read(self.pid1())?;
            // For a moment of execve(2) it is, and has no arguments yet.
            (process.executable? == program && !process.arguments.is_empty()).then_some(())
        });
    }

    /// The program's command in this container, as `docker exec` runs it.
    pub(crate) fn exec<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Output {
        self.exec_by(&[], words)
    }

    /// The same as a command that is not run yet, for whoever has no container at hand then; its PID 1 may have gone by then.
    #[allow(dead_code, reason = "the fault harness, which shares this file, has use for it")]
    pub(crate) fn command_beside<W: AsRef<OsStr>>(&self, pid1: i32, program: &Path, words: impl IntoIterator<Item = W>) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "40"]);
        self.enter_by(pid1, &mut command);
        command.arg(program).args(words);
        command
    }

    /// The same by way of another program, such as `setpriv`.
    pub(crate) fn exec_by<W: AsRef<OsStr>>(&self, program: &[&str], words: impl IntoIterator<Item = W>) -> Output {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "120"]);
        self.enter(&mut command);
        command.args(program).arg(entry()).args(words).output().expect("timeout and nsenter are there")
    }

    /// Another program in this container, started as `docker exec` starts it. It ends with the container.
    pub(crate) fn exec_program<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Child {
        let mut command = Command::new("env");
        self.enter(&mut command);
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nsenter is there")
    }

    /// `nsenter … --`, with the container's environment.
    fn enter(&self, command: &mut Command) {
        self.enter_by(self.pid1(), command);
    }

    fn enter_by(&self, pid1: i32, command: &mut Command) {
        command.args(["nsenter", "--target", &pid1.to_string(), "--pid", "--mount"]);
        if nix::unistd::geteuid().is_root() {
            command.arg("--net");
        } else {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").stdin(Stdio::null());
        self.recipe.surroundings(command);
    }

    /// Everything in the container but PID 1.
    pub(crate) fn processes(&self) -> Vec<Process> {
        process::descendants(self.pid1())
    }

    /// Litestream, if it runs.
    pub(crate) fn litestream(&self) -> Option<Process> {
        self.processes().into_iter().find(|process| process.runs("litestream"))
    }

    /// Litestream, once it runs.
    #[track_caller]
    pub(crate) fn running_litestream(&self) -> Process {
        eventually("Litestream runs", PATIENCE, || self.litestream())
    }

    /// The app, once it is itself: PID 1's child that is neither Litestream nor of this program.
    #[track_caller]
    pub(crate) fn app(&self) -> Process {
        let program = fs::canonicalize(entry()).expect("the program");
        eventually("the app runs", PATIENCE, || {
            // The first of them: its orphans become PID 1's children, too, and numbers begin anew at some point.
            let candidates = process::children(self.pid1()).into_iter().filter(|process| {
                let ours = process.executable.as_ref().is_none_or(|path| *path == program);
                !ours && !process.runs("litestream")
            });
            candidates.min_by_key(|process| process.started)
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let (words, stderr) = (&self.recipe.words, self.stderr());
            eprintln!("--- stderr of {words:?}\n{stderr}---");
        }
    }
}

/// What a command said, for messages.
pub(crate) fn said(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
