//! `__exec`: what a child needs between fork and exec, then becomes the app. Must never return once it has.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{execve, getpgrp, tcsetpgrp};

use crate::exit;
use crate::identity::Identity;
use crate::report;
use crate::sys::{self, CHANNEL, Found};

/// The word before the app's argv: become the app at once.
pub const AT_ONCE: &str = "now";
/// Or only when PID 1 opens the gate, a socket at [`CHANNEL`].
pub const GATED: &str = "gated";
/// Or at once, and it is one of our own helpers: the terminal is not for it.
pub const HELPER: &str = "helper";
/// In the place of an identity: stay who we are.
pub const SAME: &str = "-";
/// What opens the gate.
pub const OPEN: &[u8] = b"o";

/// `WHEN IDENTITY APP…`: waits where it is told to, then becomes the app. PID 1 that is gone or does not want the app ends it.
pub fn run(args: &[OsString]) -> u8 {
    // Before the gate, where there is time.
    let env = sys::raw_environment();
    let [when, identity, app @ ..] = args else { return exit::USAGE };
    if when == GATED && !opened() {
        return exit::SYSTEM;
    }
    if when != HELPER {
        take_terminal();
    }
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
fn opened() -> bool {
    let mut word = [0; OPEN.len()];
    sys::take_fd(CHANNEL).is_ok_and(|gate| File::from(gate).read_exact(&mut word).is_ok() && word == OPEN)
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
            (code, format!("{}{hint}", errno.desc()))
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
