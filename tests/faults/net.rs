//! A network of a trial's own, in which packets can be dropped: a connection that is closed is no partition, and nothing of it lands
//! late. It never touches the machine's own network.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::place::is_of_nobody;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with nothing but loopback; gone with this value.
pub(crate) struct Net {
    name: String,
}

impl Net {
    /// What is in the way where there can be none.
    pub(crate) fn new() -> Result<Self, String> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("lf-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        run(&["ip", "netns", "add", &name])?;
        let net = Self { name };
        run(&["ip", "-n", &net.name, "link", "set", "lo", "up"])?;
        net.rules(&["-L"])?;
        Ok(net)
    }

    /// Whoever is started by these words is in it.
    pub(crate) fn words(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net={}", self.path().display())]
    }

    /// A port on its loopback.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        let network = File::open(self.path())?;
        let inside = std::thread::spawn(move || {
            // Of this thread alone.
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(LinkNameSpaceType::Network))?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        });
        inside.join().unwrap_or_else(|_| Err(io::Error::other("a panic")))
    }

    /// What goes to this port is dropped, or no longer.
    pub(crate) fn drop_packets(&self, port: u16, drops: bool) {
        let action = if drops { "-A" } else { "-D" };
        let _ = self.rules(&[action, "INPUT", "-i", "lo", "-p", "tcp", "--dport", &port.to_string(), "-j", "DROP"]);
    }

    fn rules(&self, words: &[&str]) -> Result<(), String> {
        let mut all = vec!["ip", "netns", "exec", &self.name, "iptables", "-w"];
        all.extend(words);
        run(&all)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = run(&["ip", "netns", "del", &self.name]);
    }
}

/// Takes away the networks of runs that were killed.
pub(crate) fn sweep() {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_of_nobody(name)) {
        drop(Net { name });
    }
}

fn run(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{}: {error}", words[0]))?;
    if output.status.success() { Ok(()) } else { Err(format!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim())) }
}
