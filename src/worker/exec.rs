//! `__exec`: what a child needs between fork and exec, then becomes the app. Must never return once it has.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Pid, execve, getpgrp, getppid, tcsetpgrp};

use crate::exit;
use crate::identity::Identity;
use crate::protocol::{OPEN, SAME, When};
use crate::report;
use crate::rotation;
use crate::sys::{self, Found};

/// `WHEN IDENTITY APP…`: waits where it is told to, then becomes the app. PID 1 that is gone or does not want the app ends it.
pub fn run(args: &[OsString]) -> u8 {
    // Before the gate, where there is time.
    let env = sys::raw_environment();
    let [when, identity, app @ ..] = args else { return exit::USAGE };
    let env = match When::parse(when) {
        None => return exit::USAGE,
        Some(When::Gated(gate)) if !opened(gate) => return exit::SYSTEM,
        Some(When::Helper) => env,
        // As who we are: another user need not be let in to the files.
        Some(renewed @ (When::Renewed | When::RenewedLitestream)) => rotation::renewed(env, renewed == When::RenewedLitestream),
        Some(When::AtOnce | When::Gated(_)) => {
            take_terminal();
            named_by_pid(env, getppid(), Pid::this())
        }
    };
    match Identity::from_word(identity) {
        None if identity == SAME => become_app(app, &env),
        // Never as root what was to be somebody else's.
        None => exit::INTERNAL,
        Some(identity) => match identity.assume() {
            Ok(()) => become_app(app, &identity.at_home(&env)),
            Err(errno) => {
                report::line(format_args!("LITESTREAM_ENTRY_USER: cannot become that user: {}", errno.desc()));
                exit::SYSTEM
            }
        },
    }
}

/// Whether the gate has been opened. All signals are blocked, but for KILL and STOP.
fn opened(gate: RawFd) -> bool {
    let mut word = [0; OPEN.len()];
    sys::take_fd(gate).is_ok_and(|gate| File::from(gate).read_exact(&mut word).is_ok() && word == OPEN)
}

/// What was meant for PID 1, by its number, is meant for the app: the sockets that were opened for it (`sd_listen_fds(3)`), and the watchdog
/// that it is to feed (`sd_watchdog_enabled(3)`). Without a number of the process itself (pidfs), the plain one counts.
fn named_by_pid(env: Vec<CString>, meant: Pid, app: Pid) -> Vec<CString> {
    let names = ["LISTEN_PID", "WATCHDOG_PID"];
    let is = |entry: &CString, name: &str, pid: Pid| entry.to_bytes() == format!("{name}={pid}").as_bytes();
    let listens = env.iter().any(|entry| is(entry, "LISTEN_PID", meant));
    let env = env.into_iter().filter(|entry| !(listens && entry.to_bytes().starts_with(b"LISTEN_PIDFDID=")));
    env.map(|entry| match names.iter().find(|name| is(&entry, name, meant)) {
        Some(name) => CString::new(format!("{name}={app}")).unwrap_or(entry),
        None => entry,
    })
    .collect()
}

/// Becomes the app. PID 1 has put us into a group of our own and has all signals blocked, so none can end us half-way.
fn become_app(args: &[OsString], env: &[CString]) -> u8 {
    let Some(name) = args.first() else {
        report::line("no app to run; name one as in `litestream-entry -- gunicorn app.wsgi`");
        return exit::USAGE;
    };
    let (code, why) = match sys::find_program(name) {
        Found::Executable(path) => {
            let errno = become_program(&path, args, env);
            let code = if errno == Errno::ENOENT { exit::NOT_FOUND } else { exit::NOT_EXECUTABLE };
            let hint = match errno {
                Errno::ENOENT => " (its interpreter does not exist)",
                Errno::ENOEXEC => " (wrong architecture, or a script without #! line)",
                _ => "",
            };
            // Who becomes another user is counted as that one only now.
            (code, if errno == Errno::EAGAIN { sys::limits::no_more_processes() } else { format!("{}{hint}", errno.desc()) })
        }
        Found::NotExecutable(_, errno) => (exit::NOT_EXECUTABLE, errno.desc().to_owned()),
        Found::Nowhere if name.as_bytes().contains(&b'/') => (exit::NOT_FOUND, "no such file".to_owned()),
        Found::Nowhere => (exit::NOT_FOUND, "not found in PATH".to_owned()),
    };
    report::line(format_args!("{}: cannot be run: {why}", Path::new(name).display()));
    code
}

/// Makes our group the terminal's foreground where there is one, so that Ctrl-C and reads are the app's. TTOU is blocked.
fn take_terminal() {
    let give = |fd: BorrowedFd<'_>| tcsetpgrp(fd, getpgrp()).is_ok();
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    // A terminal that is only output still sends Ctrl-C.
    let _ =
        [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().any(give) || File::open("/dev/tty").is_ok_and(|tty| give(tty.as_fd()));
}

fn become_program(path: &Path, args: &[OsString], env: &[CString]) -> Errno {
    let c = |text: &OsStr| CString::new(text.as_bytes());
    let (Ok(path), Ok(args)) = (c(path.as_os_str()), args.iter().map(|a| c(a)).collect::<Result<Vec<_>, _>>()) else {
        return Errno::EINVAL;
    };
    sys::restore_sigpipe();
    if let Err(errno) = sys::unblock_all_signals() {
        return errno;
    }
    match execve(&path, &args, env) {
        Ok(never) => match never {},
        Err(errno) => errno,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_for_pid_1_is_meant_for_the_app() {
        let read = |text: &str| text.split(' ').map(|entry| CString::new(entry).unwrap()).collect::<Vec<_>>();
        let named = |text: &str| named_by_pid(read(text), Pid::from_raw(1), Pid::from_raw(77));
        assert_eq!(
            named("A=1 LISTEN_PID=1 LISTEN_FDS=2 LISTEN_PIDFDID=9 WATCHDOG_PID=1 B=1"),
            read("A=1 LISTEN_PID=77 LISTEN_FDS=2 WATCHDOG_PID=77 B=1")
        );
        // Somebody else's, as an app's that is not the first of its line.
        let others = "LISTEN_PID=11 LISTEN_FDS=2 LISTEN_PIDFDID=9 WATCHDOG_PID=12 LISTEN_PID= XLISTEN_PID=1";
        assert_eq!(named(others), read(others));
    }
}
