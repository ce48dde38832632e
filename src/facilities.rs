//! What the kernel gives in this place, found out once, by trying. Must never change anything, nor wait.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use crate::exit::{self, Failure};
use crate::sys;

/// What is there, and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facilities {
    /// `/proc` is mounted, and of our own PID namespace.
    pub proc: bool,
    /// A free port on loopback, for who cannot be asked which one the kernel gave it.
    pub port: Option<u16>,
    /// Why no socket can be made in the runtime directory, where none can.
    pub no_sockets: Option<String>,
}

impl Facilities {
    /// A place that lacks nothing.
    pub const ALL: Self = Self { proc: true, port: None, no_sockets: None };

    /// Looks, for a boot whose Litestream listens at this path, if it has a socket.
    pub fn look(socket: Option<&Path>) -> Self {
        let proc = sys::has_own_proc();
        let port = || Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()?.port());
        let no_sockets = socket.and_then(|path| try_socket(path).err()).map(|error| error.to_string());
        Self { proc, port: if proc { None } else { port() }, no_sockets }
    }

    /// Descriptors: 24 are enough for a database or two. With 16, neither a worker nor Litestream can start.
    ///
    /// # Errors
    /// 71 where none of it can start.
    pub fn enough_descriptors() -> Result<Option<String>, Failure> {
        descriptors(getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft))
    }

    /// What cannot be had without them: a line each.
    pub fn lines(&self, is_pid_1: bool) -> Vec<String> {
        let unseen = "/proc is not mounted here, and this is not PID 1: what the app leaves behind is not seen, and may write after the last \
                      sync; mount /proc, or run as PID 1";
        if self.proc || is_pid_1 { Vec::new() } else { vec![unseen.to_owned()] }
    }
}

fn descriptors(limit: u64) -> Result<Option<String>, Failure> {
    let what = || {
        format!(
            "only {limit} files may be open at a time here (RLIMIT_NOFILE), and 24 are needed: raise it (`ulimit -n`, `--ulimit nofile=1024`)"
        )
    };
    match limit {
        0..=16 => Err(Failure::new(exit::SYSTEM, what())),
        17..24 => Ok(Some(what())),
        _ => Ok(None),
    }
}

/// As Litestream makes its own: some file systems have none, and a policy may forbid them.
fn try_socket(path: &Path) -> io::Result<()> {
    let _ = std::fs::remove_file(path);
    let made = UnixListener::bind(path).and_then(|_| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)));
    let _ = std::fs::remove_file(path);
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_without_sockets_is_told_from_one_that_has_them() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Facilities::look(Some(&dir.path().join("socket"))).no_sockets, None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
        assert!(Facilities::look(Some(&dir.path().join("missing/socket"))).no_sockets.is_some());
        assert_eq!(Facilities::look(None).no_sockets, None, "nobody asks for one");
    }

    #[test]
    fn a_limit_of_descriptors_is_refused_or_said() {
        assert!(descriptors(16).unwrap_err().message.contains("only 16") && descriptors(17).unwrap().is_some());
        assert_eq!(descriptors(24).unwrap(), None);
    }

    #[test]
    fn only_what_is_lost_is_said() {
        let without = Facilities { proc: false, ..Facilities::ALL };
        assert!(without.lines(true).is_empty() && Facilities::ALL.lines(false).is_empty());
        assert_eq!(without.lines(false).len(), 1);
    }
}
