//! Files in a directory that somebody else may write, as an app that has given up root's rights may beside its database. Must never follow
//! a link in a file's place, wait for a FIFO's other end, nor write to what has another name elsewhere.
//!
//! What is done here is done by descriptor: a directory is opened once, and names are looked up in that, whatever becomes of its path.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, geteuid, unlinkat};

use crate::sys;

/// A FIFO's or a device's other end is not waited for, and a link is none of ours.
const CAREFULLY: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);
/// Of these, what std does not set itself.
const FLAGS: i32 = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;

/// Opens a file to be read.
///
/// # Errors
/// What the kernel says; what it is where it is no file.
pub fn open(path: &Path) -> io::Result<File> {
    only_a_file(File::options().read(true).custom_flags(FLAGS).open(path), path)
}

/// The same, also for its locks: these are asked for with a descriptor that may write.
///
/// # Errors
/// As [`open`].
pub fn open_with_locks(path: &Path) -> io::Result<File> {
    only_a_file(File::options().read(true).write(true).custom_flags(FLAGS).open(path), path)
}

fn only_a_file(opened: io::Result<File>, path: &Path) -> io::Result<File> {
    let file = match opened {
        // A link's errno tells nothing to those who read it.
        Err(error) if [nix::libc::ELOOP, nix::libc::ENXIO].into_iter().any(|no| error.raw_os_error() == Some(no)) => {
            return Err(what_is_at(path).map_or(error, is_not_a_file));
        }
        opened => opened?,
    };
    kind_of(&file.metadata()?).map_or(Ok(file), |kind| Err(is_not_a_file(kind)))
}

fn is_not_a_file(kind: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind}, not a file"))
}

/// What is at this path, where something is that is no file.
pub fn what_is_at(path: &Path) -> Option<&'static str> {
    std::fs::symlink_metadata(path).ok().as_ref().and_then(kind_of)
}

/// What it is, where it is no file.
fn kind_of(about: &Metadata) -> Option<&'static str> {
    let kind = about.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_symlink() => Some("a symbolic link"),
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_fifo() => Some("a FIFO"),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}

/// No file of this program's or Litestream's that is read whole is larger.
const LONGEST: u64 = 1 << 20;

/// The text of a small file.
///
/// # Errors
/// As [`open`]; `InvalidData` for what is no text.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// All that is in a file.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map(|_| bytes)
}

/// What is at a name in a directory.
#[derive(Debug)]
pub enum Found {
    /// A file of this name alone, opened for reading and writing.
    File(File),
    /// A file that has another name, too, so that who writes to it writes elsewhere; opened for reading alone.
    Shared(File),
    /// Something else, in words.
    Other(&'static str),
    /// Nothing.
    Nothing,
}

/// A directory, opened.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// Opens the directory that a path is in; what links lead there is the administrator's to say.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(path: &Path) -> io::Result<Self> {
        Self::open(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
    }

    /// Opens a directory, wherever a link in its place leads.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// Opens a directory that is one itself, and no link to another.
    ///
    /// # Errors
    /// What the kernel says; `NotADirectory` for a link.
    pub fn real(path: &Path) -> io::Result<Self> {
        Self::of(path)?.dir(name_of(path))
    }

    /// The same of one that belongs to us.
    ///
    /// # Errors
    /// As [`Self::real`]; `PermissionDenied` where it is somebody else's.
    pub fn own(path: &Path) -> io::Result<Self> {
        let dir = Self::real(path)?;
        let (uid, ..) = dir.about()?;
        if uid == geteuid().as_raw() { Ok(dir) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user")) }
    }

    /// A path by which a program that is started from here on reaches a name in this very directory, for as long as this lives; none
    /// without /proc.
    pub fn path_for_a_child(&self, name: &str) -> Option<PathBuf> {
        let opened = Path::new("/proc/self/fd").join(self.0.as_raw_fd().to_string());
        (opened.exists() && sys::keep_on_exec(&self.0).is_ok()).then(|| opened.join(name))
    }

    /// The same of a name in this one.
    ///
    /// # Errors
    /// As [`Self::real`].
    pub fn dir(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self(openat(&self.0, name, flags, Mode::empty())?))
    }

    /// The same, made where there is nothing; its owner's.
    ///
    /// # Errors
    /// As [`Self::real`].
    pub fn make_dir(&self, name: &OsStr, owner: Owner) -> io::Result<Self> {
        match mkdirat(&self.0, name, Mode::from_bits_truncate(0o777)) {
            Err(Errno::EEXIST) => self.dir(name),
            Err(errno) => Err(errno.into()),
            Ok(()) => {
                let made = self.dir(name)?;
                self.give(&made.opened()?, owner)?;
                Ok(made)
            }
        }
    }

    /// Opens a file in it to be read.
    ///
    /// # Errors
    /// As [`open`].
    pub fn file(&self, name: &OsStr) -> io::Result<File> {
        let file = File::from(openat(&self.0, name, OFlag::O_RDONLY | CAREFULLY, Mode::empty())?);
        kind_of(&file.metadata()?).map_or(Ok(file), |kind| Err(is_not_a_file(kind)))
    }

    /// What is at this name, to be written where it is a file.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn look(&self, name: &OsStr) -> io::Result<Found> {
        let opened = openat(&self.0, name, OFlag::O_RDWR | CAREFULLY, Mode::empty());
        let file = match opened {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT) => return Ok(Found::Nothing),
            Err(Errno::ELOOP) => return Ok(Found::Other("a symbolic link")),
            Err(Errno::EISDIR) => return Ok(Found::Other("a directory")),
            // A socket, or a device that is not there.
            Err(Errno::ENXIO) => return Ok(Found::Other("a socket")),
            Err(errno) => return Err(errno.into()),
        };
        let about = file.metadata()?;
        Ok(match kind_of(&about) {
            Some(kind) => Found::Other(kind),
            None if about.nlink() > 1 => Found::Shared(self.file(name)?),
            None => Found::File(file),
        })
    }

    /// Makes a file for reading and writing, which was not there before.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create(&self, name: &OsStr, mode: u32, owner: Owner) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | CAREFULLY;
        let file = File::from(openat(&self.0, name, flags, Mode::from_bits_truncate(mode))?);
        self.give(&file, owner)?;
        Ok(file)
    }

    /// Whether this name leads to that very file.
    pub fn names(&self, name: &OsStr, file: &File) -> bool {
        let here = nix::sys::stat::fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let there = file.metadata();
        matches!((here, there), (Ok(here), Ok(there)) if (here.st_dev, here.st_ino) == (there.dev(), there.ino()))
    }

    /// Gives a name to what has another, here or in another directory of the same file system.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn rename(&self, from: &OsStr, to: &Self, name: &OsStr) -> io::Result<()> {
        Ok(nix::fcntl::renameat(&self.0, from, &to.0, name)?)
    }

    /// Takes away a name, and nothing that it leads to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Takes away a directory with all that is in it, and nothing that links in it lead to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_all(&self, name: &OsStr) -> io::Result<()> {
        let inner = self.dir(name)?;
        for name in inner.names_in_it()? {
            match inner.remove(&name) {
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => inner.remove_all(&name)?,
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(unlinkat(&self.0, name, UnlinkatFlags::RemoveDir)?)
    }

    /// The names in it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn names_in_it(&self) -> io::Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStrExt;
        let mut listing = dir::Dir::openat(&self.0, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        let names = listing.iter().map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned()));
        names.filter(|name| !matches!(name, Ok(name) if name == "." || name == "..")).collect()
    }

    /// Writes to the disk what names are in it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sync(&self) -> io::Result<()> {
        self.opened()?.sync_all()
    }

    /// A descriptor that is not of the path alone, which can be neither written to the disk nor given away.
    fn opened(&self) -> io::Result<File> {
        Ok(File::from(openat(&self.0, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// Lets a group in, which may take nothing away that others have put there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn let_in(&self, group: u32) -> io::Result<()> {
        let opened = self.opened()?;
        std::os::unix::fs::fchown(&opened, None, Some(group))?;
        opened.set_permissions(Permissions::from_mode(0o1770))
    }

    /// Its owner's user and group, and its mode.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn about(&self) -> io::Result<(u32, u32, u32)> {
        let about = nix::sys::stat::fstat(&self.0)?;
        Ok((about.st_uid, about.st_gid, about.st_mode))
    }

    /// Where this process is root: gives away what it has made.
    fn give(&self, made: &impl AsFd, owner: Owner) -> io::Result<()> {
        let (uid, gid) = match owner {
            _ if !geteuid().is_root() => return Ok(()),
            Owner::Ours => return Ok(()),
            Owner::Directorys => self.about().map(|(uid, gid, _)| (uid, gid))?,
            Owner::Is(uid, gid) => (uid, gid),
        };
        match fchown(made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
            // Root without CAP_CHOWN: it stays root's.
            Err(Errno::EPERM) if owner == Owner::Directorys => Ok(()),
            done => Ok(done?),
        }
    }
}

/// To whom belongs what root makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// To root.
    Ours,
    /// To whom the directory belongs that it is in.
    Directorys,
    /// To this user and group.
    Is(u32, u32),
}

/// A path's last name.
pub fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

/// Makes a directory, and those above it, where they are missing.
///
/// # Errors
/// What the kernel says.
pub fn make_directories(path: &Path, owner: Owner) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), |parent| make_directories(parent, owner))?;
    Dir::of(path)?.make_dir(name_of(path), owner).map(drop)
}

/// Gives a file or socket of root's own to somebody, unless it has another name elsewhere.
///
/// # Errors
/// What the kernel says; what it is where that is not done.
pub fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let opened = openat(&Dir::of(path)?.0, name_of(path), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    let file = File::from(opened);
    let about = file.metadata()?;
    if (about.uid(), about.gid()) == (uid, gid) {
        return Ok(());
    }
    match kind_of(&about) {
        Some(kind @ ("a symbolic link" | "a directory" | "a device")) => return Err(is_not_a_file(kind)),
        _ if about.nlink() > 1 => return Err(is_not_a_file("a file with another name elsewhere")),
        _ => {}
    }
    Ok(fchownat(&file, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_EMPTY_PATH)?)
}

/// What to do about a place that cannot be written.
pub fn what_to_do(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "mount it so that it can be written".to_owned(),
        _ => format!("make it writable for uid {}", nix::unistd::geteuid()),
    }
}

/// Whether a lock was not taken because there are none here: a file system without, NFS without its lock service, a policy.
pub fn are_no_locks(errno: Errno) -> bool {
    matches!(errno, Errno::ENOLCK | Errno::ENOSYS | Errno::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn fifo(path: &Path) {
        nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o600)).unwrap();
    }

    #[test]
    fn only_a_file_is_opened_and_nothing_else_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "text").unwrap();
        assert_eq!(read_to_string(&at("file")).unwrap(), "text");
        symlink(at("file"), at("link")).unwrap();
        fifo(&at("fifo"));
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let here = Dir::open(dir.path()).unwrap();
        for (name, what) in [("link", "a symbolic link"), ("fifo", "a FIFO"), ("socket", "a socket"), (".", "a directory")] {
            let refused = open(&at(name)).unwrap_err().to_string();
            assert!(refused.contains(what), "{name}: {refused}");
            assert!(open_with_locks(&at(name)).is_err(), "{name}");
            assert!(matches!(here.look(name.as_ref()).unwrap(), Found::Other(kind) if kind == what), "{name}");
            assert!(here.file(name.as_ref()).is_err() && here.create(name.as_ref(), 0o600, Owner::Ours).is_err(), "{name}");
        }
        assert!(matches!(here.look("nothing".as_ref()).unwrap(), Found::Nothing));
        fs::hard_link(at("file"), at("another")).unwrap();
        assert!(matches!(here.look("another".as_ref()).unwrap(), Found::Shared(_)));
    }

    #[test]
    fn a_directory_that_was_opened_is_the_same_whatever_becomes_of_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["place", "elsewhere"] {
            fs::create_dir(at(name)).unwrap();
        }
        let place = Dir::own(&at("place")).unwrap();
        let file = place.create("file".as_ref(), 0o600, Owner::Ours).unwrap();
        fs::rename(at("place"), at("was")).unwrap();
        symlink(at("elsewhere"), at("place")).unwrap();
        assert!(Dir::real(&at("place")).is_err() && Dir::own(&at("place")).is_err());
        place.rename("file".as_ref(), &place, "renamed".as_ref()).unwrap();
        assert!(place.names("renamed".as_ref(), &file) && !place.names("file".as_ref(), &file));
        // By way of another process, too.
        let path = place.path_for_a_child("made").unwrap();
        assert!(std::process::Command::new("touch").arg(path).status().unwrap().success());
        assert!(at("was/made").exists() && fs::read_dir(at("elsewhere")).unwrap().next().is_none());
    }

    #[test]
    fn what_is_removed_is_what_is_there_and_not_what_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["all/below", "kept"] {
            fs::create_dir_all(at(name)).unwrap();
            fs::write(at(name).join("file"), "").unwrap();
        }
        symlink(at("kept"), at("all/link")).unwrap();
        symlink(at("all"), at("link")).unwrap();
        let here = Dir::open(dir.path()).unwrap();
        assert!(here.remove_all("link".as_ref()).is_err());
        here.remove_all("all".as_ref()).unwrap();
        assert!(!at("all").exists() && at("kept/file").exists());
    }

    #[test]
    fn what_root_makes_belongs_to_whom_it_should_and_nothing_else_is_given_away() {
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let uid = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        std::os::unix::fs::chown(dir.path(), Some(4711), Some(4712)).unwrap();
        make_directories(&at("a/b"), Owner::Directorys).unwrap();
        make_directories(&at("c/d"), Owner::Is(1, 1)).unwrap();
        assert_eq!([at("a"), at("a/b"), at("c"), at("c/d")].map(|path| uid(&path)), [4711, 4711, 1, 1]);
        let here = Dir::open(dir.path()).unwrap();
        for (name, owner) in [("ours", Owner::Ours), ("secret", Owner::Ours), ("theirs", Owner::Directorys)] {
            here.create(name.as_ref(), 0o600, owner).unwrap();
        }
        assert_eq!(uid(&at("theirs")), 4711);
        symlink(at("secret"), at("link")).unwrap();
        fs::hard_link(at("secret"), at("another")).unwrap();
        for name in ["link", "another", "secret", "c"] {
            assert!(give(&at(name), 4711, 4712).is_err(), "{name}");
        }
        assert_eq!((uid(&at("secret")), uid(&at("link"))), (0, 0));
        give(&at("ours"), 4711, 4712).unwrap();
        assert_eq!(uid(&at("ours")), 4711);
    }
}
