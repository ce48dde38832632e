//! What a boot leaves in the runtime directory, which a start script or a cleaner may wipe (`rm -rf /tmp/*`): the keeper has all that was
//! in it, and leaves it anew. Must never write where another boot or another user has come instead.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use nix::sys::socket::UnixAddr;
use nix::sys::stat::{Mode, fchmod};

use crate::config::Document;
use crate::exit::Failure;
use crate::identity::Identity;
use crate::mark::mark_path;
use crate::plan::{CONFIG_FILE, GOOGLE_FILE, PLAN_FILE, Plan};
use crate::protocol::Message;
use crate::report;
use crate::restore::{self, Local};
use crate::runtime::CONTROL_FILE;
use crate::runtime::{self, Runtime};
use crate::state::STATE_FILE;

/// So many datagrams are read before other things are looked at.
const ROUND: usize = 16;

/// The runtime directory, with what is in it.
pub(super) struct Place {
    pub(super) plan: Plan,
    /// The configuration as a tree; none where it could not be read again.
    document: Option<Document>,
    /// Google's service account, for a file there.
    google: Option<String>,
    identity: Option<Identity>,
    runtime: Runtime,
    /// Where an operator's command asks for something.
    control: Option<UnixDatagram>,
    /// What was last left for those who ask how things stand.
    state: Option<String>,
}

/// Whether every database is here, and nothing is left of a restore that was killed. Reads a few bytes of each.
pub(super) fn is_here(plan: &Plan) -> bool {
    let here = |path: &Path| matches!(restore::look(path), Ok(Local::Sqlite)) && !restore::folder(path).exists();
    plan.databases.iter().all(|d| here(&d.path))
}

/// A socket at this path that is nobody else's from its first moment: it has the mode that it had before it had a name (`unix(7)`).
fn bind(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    fchmod(&socket, Mode::from_bits_truncate(0o600))?;
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

impl Place {
    /// With the configuration in it.
    pub(super) fn new(plan: Plan, document: Document, google: Option<String>, identity: Option<Identity>, runtime: Runtime) -> Self {
        Self { plan, document: Some(document), google, identity, runtime, control: None, state: None }
    }

    /// The one of a keeper that has died, with what is in it.
    pub(super) fn found(plan: Plan) -> Result<Self, Failure> {
        let identity = plan.entry.user.as_deref().map(Identity::resolve).transpose()?.flatten();
        let runtime = runtime::go_on(&plan.runtime, plan.entry.runtime_dir.is_some())?;
        let document = runtime::document(&plan).inspect_err(|why| report::line(why)).ok();
        let google = std::fs::read_to_string(plan.runtime.join(GOOGLE_FILE)).ok();
        let mut place = Self { plan, document, google, identity, runtime, control: None, state: None };
        place.listen();
        Ok(place)
    }

    pub(super) fn path(&self) -> String {
        self.plan.runtime.display().to_string()
    }

    pub(super) fn leave_plan(&mut self) -> Result<(), Failure> {
        if let Some(document) = &self.document {
            crate::configured::leave_plan(&self.plan, document)?;
        }
        self.listen();
        Ok(())
    }

    /// Shares with another user what it goes on with, and looks whether it can.
    pub(super) fn let_in(&self) -> Result<(), Failure> {
        self.share();
        self.identity.iter().try_for_each(|identity| identity.try_to_enter(&self.plan.runtime))
    }

    /// Lets the other user have what is written as root: the runtime directory, the locks, which are also marks.
    pub(super) fn share(&self) {
        let Some(identity) = &self.identity else { return };
        let mut marks = self.plan.locked().into_iter().map(|d| mark_path(&d.path)).filter(|path| path.exists());
        let shared = marks.try_for_each(|path| identity.own(&path)).and_then(|()| runtime::share(&self.plan.runtime, identity));
        if let Err(error) = shared {
            report::line(format_args!("LITESTREAM_ENTRY_USER: {}: {error}", self.plan.runtime.display()));
        }
    }

    /// Whether what is read from the runtime directory is there, if need be anew.
    pub(super) fn is_there(&mut self) -> bool {
        if self.has_all() {
            return self.keep_state();
        }
        let path = self.plan.runtime.clone();
        if let Err(error) = self.make() {
            report::news(format_args!("{}: was wiped, and cannot be made again: {error}", path.display()));
            return false;
        }
        report::news(format_args!(
            "{}: was wiped while this runs: what was in it is there again; keep it out of what is tidied up",
            path.display()
        ));
        true
    }

    fn has_all(&self) -> bool {
        let plan = &self.plan;
        let own = [
            (CONFIG_FILE, !plan.users_file),
            (GOOGLE_FILE, self.google.is_some()),
            (PLAN_FILE, true),
            (CONTROL_FILE, self.control.is_some()),
        ];
        let mut names = own.into_iter().filter(|(_, left)| *left).map(|(name, _)| plan.runtime.join(name));
        self.runtime.is_there() && names.all(|path| path.exists()) && (plan.users_file || plan.config_again().exists())
    }

    fn make(&mut self) -> io::Result<()> {
        self.runtime.take_again()?;
        let failed = |failure: Failure| io::Error::other(failure.message);
        let document = self.document.as_ref().ok_or_else(|| io::Error::other("what was in it is not known"))?;
        crate::configured::leave_configuration(&self.plan, document, self.google.as_deref()).map_err(failed)?;
        self.leave_plan().map_err(failed)?;
        self.share();
        self.keep_state();
        Ok(())
    }

    /// Leaves how things stand. One that cannot be written is an old one: nothing depends on it.
    pub(super) fn leave_state(&mut self, text: String) {
        let path = self.plan.runtime.join(STATE_FILE);
        if let Err(error) = runtime::write_for(&path, &text, self.identity.as_ref()) {
            report::debug(format_args!("{}: {error}", path.display()));
        }
        self.state = Some(text);
    }

    fn keep_state(&mut self) -> bool {
        if !self.plan.runtime.join(STATE_FILE).exists()
            && let Some(text) = self.state.take()
        {
            self.leave_state(text);
        }
        true
    }

    /// Opens a socket for datagrams (a FIFO would keep everybody waiting who just reads all files there). Without it, only
    /// `resnapshot` is not to be had.
    fn listen(&mut self) {
        let path = self.plan.runtime.join(CONTROL_FILE);
        let _ = std::fs::remove_file(&path);
        let bound = bind(&path).and_then(|socket| self.identity.as_ref().map_or(Ok(()), |who| who.own(&path)).map(|()| socket));
        self.control = bound.inspect_err(|error| report::debug(format_args!("{}: {error}", path.display()))).ok();
    }

    pub(super) fn control(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// Whether a new snapshot is asked for there: who may write to it may ask, but not speak for a worker. A flood waits for the next round.
    pub(super) fn asked(&self) -> bool {
        let mut datagram = [0; 64];
        let received = std::iter::from_fn(|| {
            let length = self.control.as_ref()?.recv(&mut datagram).ok()?;
            Some(Message::decode(String::from_utf8_lossy(datagram.get(..length)?).trim_end()))
        });
        received.take(ROUND).flatten().filter(|message| *message == Message::Resnapshot).count() > 0
    }
}
