//! What the tests stand on.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub(crate) mod bare;
pub(crate) mod container;
pub(crate) mod contents;
pub(crate) mod fuse;
pub(crate) mod lives;
pub(crate) mod logger;
pub(crate) mod process;
pub(crate) mod pty;
pub(crate) mod s3;
pub(crate) mod server;
pub(crate) mod site;
pub(crate) mod slow;
pub(crate) mod stores;
pub(crate) mod trials;

/// Long enough for anything that works, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// `PATH` of everything that the tests start; the rest of their environment is theirs alone.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Which Litestream a test runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    V03,
    V05,
}

impl Line {
    pub(crate) fn binary(self) -> PathBuf {
        let directory = match self {
            Self::V03 => "litestream-0.3.13",
            Self::V05 => "litestream-0.5.17",
        };
        tool(&format!("{directory}/litestream"))
    }
}

/// Makes of each function `fn name(line: Line)` two tests, one for each line of Litestream, where there are PID namespaces.
macro_rules! both_lines {
    ($($tests:tt)+) => {
        tests_of_line!(litestream_0_5, V05: $($tests)+);
        tests_of_line!(litestream_0_3, V03: $($tests)+);
    };
}

/// The same of what one line alone has.
macro_rules! only_0_5 {
    ($($tests:tt)+) => {
        tests_of_line!(litestream_0_5_alone, V05: $($tests)+);
    };
}

/// The same of what one line alone has.
macro_rules! only_0_3 {
    ($($tests:tt)+) => {
        tests_of_line!(litestream_0_3_alone, V03: $($tests)+);
    };
}

/// `NAME if NEED` is a test that needs more than namespaces: a function of [`support`](crate::support) that says what is missing.
macro_rules! tests_of_line {
    ($module:ident, $line:ident: $($(#[$attribute:meta])* $name:ident $(if $need:ident)?),+ $(,)?) => {
        mod $module {
            $(
                $(#[$attribute])*
                #[test]
                fn $name() {
                    if $crate::support::namespaces() $(&& $crate::support::$need())? {
                        super::$name($crate::support::Line::$line);
                    }
                }
            )+
        }
    };
}

/// A tool's path; the tools are installed by the project's own script.
pub(crate) fn tool(path: &str) -> PathBuf {
    let root = std::env::var_os("TOOLS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"), PathBuf::from);
    root.join(path)
}

/// The program under test.
pub(crate) fn entry() -> PathBuf {
    std::env::var_os("LITESTREAM_ENTRY").map_or_else(|| env!("CARGO_BIN_EXE_litestream-entry").into(), PathBuf::from)
}

/// The app that the program supervises in most tests.
pub(crate) fn writer() -> PathBuf {
    static WRITER: OnceLock<PathBuf> = OnceLock::new();
    WRITER
        .get_or_init(|| {
            let path = std::env::var_os("WRITER").map_or_else(|| example("writer"), PathBuf::from);
            assert!(path.exists(), "no {}: cargo build --examples", path.display());
            path
        })
        .clone()
}

/// An app of the tests that cargo built.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    test.ancestors().nth(2).expect("it lies in target/PROFILE/deps").join("examples").join(name)
}

/// Asks until there is an answer; fails the test when the time is up.
#[track_caller]
pub(crate) fn eventually<T>(what: impl Display, limit: Duration, mut question: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// `Some` if the condition holds: for [`eventually`].
pub(crate) fn when(condition: bool) -> Option<()> {
    condition.then_some(())
}

/// Says that a test does not run here, which CI does not accept.
pub(crate) fn skip(why: impl Display) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "cannot run here: {why}");
    eprintln!("skipped: {why}");
}

/// Whether PID namespaces can be made here, as root or in a user namespace; says so if not.
pub(crate) fn namespaces() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    let possible = *POSSIBLE.get_or_init(|| {
        let mut command = Command::new("unshare");
        command.args(container::unshare_flags()).arg("true");
        command.output().is_ok_and(|output| output.status.success())
    });
    if !possible {
        skip("unshare cannot make PID namespaces (neither root nor user namespaces)");
    }
    possible
}

/// Whether this is root, in whose containers there are other users and mounts; says so if not.
pub(crate) fn root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skip("this is not root");
    }
    is_root && namespaces()
}

/// Whether a disk that hangs can be made here; says so if not.
pub(crate) fn fuse() -> bool {
    fuse::possible()
}

/// What somebody is to write to takes nothing any more, until it is read from.
pub(crate) fn fill(pipe: &impl std::os::fd::AsFd) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a descriptor");
    while nix::unistd::write(pipe, &[b'x'; 4096]).is_ok() {}
    while nix::unistd::write(pipe, b"x").is_ok() {}
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::empty())).expect("a descriptor");
}

/// The lines of a log that say something.
pub(crate) fn lines(log: &str) -> Vec<&str> {
    log.lines().filter(|line| !line.trim().is_empty()).collect()
}
