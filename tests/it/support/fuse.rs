//! A directory on a file system that can be made to hang: FUSE, served by a process that is stopped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::{PATIENCE, eventually, example, process, skip, when};

/// Whether such a file system can be mounted here; says so if not.
pub(crate) fn possible() -> bool {
    let possible = nix::unistd::geteuid().is_root() && fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !possible {
        skip("no FUSE here (neither root nor /dev/fuse)");
    }
    possible
}

/// What is in a directory, by way of a server; unmounted, and nobody hangs in it any more, with this value.
pub(crate) struct PassedThrough {
    server: Child,
    at: PathBuf,
}

impl PassedThrough {
    /// Mounted over this directory, which is made where there is none. What is in it lies beside it from now on.
    pub(crate) fn over(at: &Path) -> Self {
        let beneath = Self::beneath(at);
        if at.is_dir() {
            fs::rename(at, &beneath).expect("a directory on a file system that is there");
        } else {
            fs::create_dir(&beneath).expect("a directory");
        }
        fs::create_dir(at).expect("a directory");
        // It ends with the thread that started it, too.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(example("passed_through")).args([&beneath, at]);
        let mut server = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("setpriv is there");
        let mut said = String::new();
        let stdout = server.stdout.take().expect("a pipe");
        let mounted = Self { server, at: at.into() };
        BufReader::new(stdout).read_line(&mut said).expect("a line");
        assert_eq!(said, "mounted\n", "{} is not mounted", at.display());
        mounted
    }

    /// Where everything lies that this shows.
    pub(crate) fn beneath(at: &Path) -> PathBuf {
        let mut name = at.as_os_str().to_owned();
        name.push(".beneath");
        name.into()
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.server.id()).expect("a pid")
    }

    /// From now on whoever touches it hangs.
    #[track_caller]
    pub(crate) fn hang(&self) {
        process::send(self.pid(), Signal::SIGSTOP);
        eventually("the server is stopped", PATIENCE, || when(self.is_stopped()));
    }

    fn is_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the server lives");
        let states = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        states.into_iter().all(|stat| stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T')))
    }

    /// It answers again.
    pub(crate) fn go_on(&self) {
        process::send(self.pid(), Signal::SIGCONT);
    }
}

impl Drop for PassedThrough {
    fn drop(&mut self) {
        // With its server it gives an error to whoever hangs in it, in whatever namespace.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = Command::new("umount").args(["--lazy", "--no-canonicalize"]).arg(&self.at).status();
    }
}
