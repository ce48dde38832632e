//! Litestream without the program: `litestream replicate -exec "APP…"`, started again when it dies.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::process::{self, Process};
use super::site::Site;
use super::{PATIENCE, SEARCH_PATH, eventually, when};

/// Litestream and the writer that it started; both end with this value.
pub(crate) struct Bare<'a> {
    site: &'a Site,
    litestream: Child,
    writer: i32,
    /// The writer is Litestream's child, as long as the first Litestream lives.
    first: bool,
}

impl<'a> Bare<'a> {
    /// Starts both and waits for the writer's handshake.
    pub(crate) fn start(site: &'a Site, options: &str) -> Self {
        let _ = fs::remove_file(site.ready_file());
        let words = site.writer(options);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let litestream = replicate(site, Some(&words.join(" ")));
        let parent = i32::try_from(litestream.id()).expect("a pid");
        let writer = eventually("the writer runs", PATIENCE, || process::children(parent).into_iter().find(|child| child.runs("writer")));
        let bare = Self { site, litestream, writer: writer.pid, first: true };
        eventually("the writer is ready", PATIENCE, || when(site.ready_file().exists()));
        bare
    }

    /// Litestream dies; the writer goes on.
    pub(crate) fn kill_litestream(&mut self) {
        let _ = self.litestream.kill();
        let _ = self.litestream.wait();
    }

    /// Litestream is simply started again.
    pub(crate) fn restart_litestream(&mut self) {
        self.litestream = replicate(self.site, None);
        self.first = false;
    }

    /// A clean stop: the writer ends first, Litestream after it.
    pub(crate) fn stop(mut self) {
        if !self.first {
            process::send(self.writer, Signal::SIGTERM);
            self.wait_for_the_writer();
        }
        process::send(i32::try_from(self.litestream.id()).expect("a pid"), Signal::SIGTERM);
        eventually("Litestream ends", PATIENCE, || self.litestream.try_wait().expect("our child"));
        self.wait_for_the_writer();
    }

    fn wait_for_the_writer(&self) {
        eventually("the writer ends", PATIENCE, || when(Process::read(self.writer).is_none_or(|writer| writer.is_zombie())));
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        self.kill_litestream();
        // By now the number may be another process's.
        if Process::read(self.writer).is_some_and(|process| process.runs("writer")) {
            process::send(self.writer, Signal::SIGKILL);
        }
    }
}

fn replicate(site: &Site, app: Option<&str>) -> Child {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(site.line.binary()).arg("replicate");
    if let Some(app) = app {
        command.args(["-exec", app]);
    }
    command.arg(site.database()).arg(format!("file://{}", site.replica().display()));
    command.env_clear().env("PATH", SEARCH_PATH).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("Litestream starts")
}
