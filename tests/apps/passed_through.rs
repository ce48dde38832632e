//! A FUSE file system that passes everything on to a directory: `passed_through DIRECTORY MOUNTPOINT` says `mounted`, and serves until it
//! is unmounted or killed. What it is for is to be stopped: whoever then touches the mount hangs, as on a disk or a server that has gone.
//!
//! Nothing is cached but pages, so that each look at a path asks. Closing a file asks, too (`flush`), as with sshfs or mergerfs. Locks are
//! the kernel's.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, umask, utimensat};
use nix::sys::time::TimeSpec;

/// Nothing is known for longer than this.
const FOR: Duration = Duration::ZERO;
/// Everybody comes by this mount, so that pages stay what they are.
const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

fn main() -> io::Result<()> {
    let mut words = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(directory), Some(at)) = (words.next(), words.next()) else {
        return Err(io::Error::other("passed_through DIRECTORY MOUNTPOINT"));
    };
    // What is asked for has been masked already.
    umask(Mode::empty());
    let mut config = Config::default();
    config.mount_options = vec![MountOption::DefaultPermissions, MountOption::FSName("passed_through".to_owned())];
    config.acl = SessionACL::All;
    config.n_threads = Some(4);
    let session = Session::new(PassedThrough::of(&directory)?, at, &config)?;
    println!("mounted");
    io::stdout().flush()?;
    session.run()
}

/// A file that the kernel knows: open with `O_PATH`, so that it stays itself when it is renamed or removed.
struct Node {
    file: Arc<File>,
    /// How often the kernel was told of it.
    told: u64,
}

struct PassedThrough {
    nodes: Mutex<HashMap<u64, Node>>,
    open: Mutex<HashMap<u64, Arc<File>>>,
    /// What was read of each open directory, at its first entry.
    listed: Mutex<HashMap<u64, Arc<Listing>>>,
    next: AtomicU64,
}

type Listing = Vec<(u64, FileType, std::ffi::OsString)>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file behind a descriptor, whatever it is called now (proc(5)).
fn behind(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn located(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

fn kind(of: fs::FileType) -> FileType {
    FileType::from_std(of).unwrap_or(FileType::RegularFile)
}

fn moment(seconds: i64, nanoseconds: i64) -> SystemTime {
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or_default();
    UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or_default(), nanoseconds)
}

fn attributes(number: u64, of: &Metadata) -> FileAttr {
    let ctime = moment(of.ctime(), of.ctime_nsec());
    FileAttr {
        ino: INodeNo(number),
        size: of.size(),
        blocks: of.blocks(),
        atime: moment(of.atime(), of.atime_nsec()),
        mtime: moment(of.mtime(), of.mtime_nsec()),
        ctime,
        crtime: ctime,
        kind: kind(of.file_type()),
        perm: u16::try_from(of.mode() & 0o7777).unwrap_or_default(),
        nlink: u32::try_from(of.nlink()).unwrap_or(u32::MAX),
        uid: of.uid(),
        gid: of.gid(),
        rdev: u32::try_from(of.rdev()).unwrap_or_default(),
        blksize: 4096,
        flags: 0,
    }
}

impl PassedThrough {
    fn of(directory: &Path) -> io::Result<Self> {
        let root = Node { file: Arc::new(located(directory)?), told: 1 };
        Ok(Self {
            nodes: Mutex::new(HashMap::from([(INodeNo::ROOT.0, root)])),
            open: Mutex::default(),
            listed: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    fn node(&self, number: INodeNo) -> io::Result<Arc<File>> {
        let nodes = locked(&self.nodes);
        nodes.get(&number.0).map(|node| Arc::clone(&node.file)).ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn path(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        Ok(behind(&*self.node(parent)?).join(name))
    }

    fn handle(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        locked(&self.open).get(&handle.0).cloned().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn keep(&self, file: File) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.open).insert(number, Arc::new(file));
        FileHandle(number)
    }

    /// Finds a file, of which the kernel then knows.
    fn find(&self, path: &Path) -> io::Result<FileAttr> {
        let file = located(path)?;
        let of = file.metadata()?;
        let root = self.node(INodeNo::ROOT)?.metadata()?;
        let number = if (of.dev(), of.ino()) == (root.dev(), root.ino()) { INodeNo::ROOT.0 } else { of.ino() };
        let mut nodes = locked(&self.nodes);
        let node = nodes.entry(number).or_insert_with(|| Node { file: Arc::new(file), told: 0 });
        node.told = node.told.saturating_add(1);
        Ok(attributes(number, &of))
    }

    /// Makes a file, which belongs to who asked for it.
    fn make(&self, request: &Request, path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<FileAttr> {
        make(path)?;
        std::os::unix::fs::lchown(path, Some(request.uid()), Some(request.gid()))?;
        self.find(path)
    }

    fn list(&self, number: INodeNo) -> io::Result<Listing> {
        let mut listing: Listing = [".", ".."].map(|name| (number.0, FileType::Directory, name.into())).into();
        for entry in fs::read_dir(behind(&*self.node(number)?))? {
            let entry = entry?;
            listing.push((entry.ino(), kind(entry.file_type()?), entry.file_name()));
        }
        Ok(listing)
    }
}

/// A number of the kernel's as a flag of ours.
fn mode(of: u32) -> Mode {
    Mode::from_bits_truncate(of)
}

fn time(of: Option<TimeOrNow>) -> TimeSpec {
    match of {
        None => TimeSpec::UTIME_OMIT,
        Some(TimeOrNow::Now) => TimeSpec::UTIME_NOW,
        Some(TimeOrNow::SpecificTime(at)) => TimeSpec::from_duration(at.duration_since(UNIX_EPOCH).unwrap_or_default()),
    }
}

/// What an open file is to be opened with again: where it is appended to is the kernel's to say.
fn flags(of: i32) -> (bool, bool) {
    let access = of & libc::O_ACCMODE;
    (access != libc::O_WRONLY, access != libc::O_RDONLY)
}

fn entry(reply: ReplyEntry, found: io::Result<FileAttr>) {
    match found {
        Ok(attributes) => reply.entry(&FOR, &attributes, Generation(0)),
        Err(error) => reply.error(Errno::from(error)),
    }
}

fn empty(reply: ReplyEmpty, done: io::Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(Errno::from(error)),
    }
}

impl Filesystem for PassedThrough {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.path(parent, name).and_then(|path| self.find(&path)));
    }

    fn forget(&self, _: &Request, number: INodeNo, times: u64) {
        let mut nodes = locked(&self.nodes);
        if let Some(node) = nodes.get_mut(&number.0).filter(|_| number != INodeNo::ROOT) {
            node.told = node.told.saturating_sub(times);
            if node.told == 0 {
                nodes.remove(&number.0);
            }
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(number).and_then(|file| file.metadata()) {
            Ok(of) => reply.attr(&FOR, &attributes(number.0, &of)),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = || {
            let file = self.node(number)?;
            let path = behind(&file);
            if let Some(mode) = mode {
                fs::set_permissions(&path, Permissions::from_mode(mode & 0o7777))?;
            }
            if uid.is_some() || gid.is_some() {
                chown(&path, uid, gid)?;
            }
            if let Some(size) = size {
                let open = handle.and_then(|handle| self.handle(handle).ok());
                open.map_or_else(|| OpenOptions::new().write(true).open(&path)?.set_len(size), |file| file.set_len(size))?;
            }
            if atime.is_some() || mtime.is_some() {
                utimensat(AT_FDCWD, &path, &time(atime), &time(mtime), UtimensatFlags::FollowSymlink)?;
            }
            file.metadata()
        };
        match set() {
            Ok(of) => reply.attr(&FOR, &attributes(number.0, &of)),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.node(number).and_then(|file| Ok(nix::fcntl::readlinkat(&*file, "")?)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, bits: u32, _: u32, device: u32, reply: ReplyEntry) {
        let kind = SFlag::from_bits_truncate(bits & libc::S_IFMT);
        let make = |path: &Path| Ok(mknod(path, kind, mode(bits), device.into())?);
        entry(reply, self.path(parent, name).and_then(|path| self.make(request, &path, make)));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let make = |path: &Path| DirBuilder::new().mode(mode).create(path);
        entry(reply, self.path(parent, name).and_then(|path| self.make(request, &path, make)));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let make = |path: &Path| symlink(target, path);
        entry(reply, self.path(parent, name).and_then(|path| self.make(request, &path, make)));
    }

    fn link(&self, _: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let link = || {
            let (file, path) = (self.node(number)?, self.path(parent, name)?);
            nix::unistd::linkat(AT_FDCWD, &behind(&file), AT_FDCWD, &path, AtFlags::AT_SYMLINK_FOLLOW)?;
            self.find(&path)
        };
        entry(reply, link());
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.path(parent, name).and_then(fs::remove_file));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.path(parent, name).and_then(fs::remove_dir));
    }

    fn rename(&self, _: &Request, from: INodeNo, name: &OsStr, to: INodeNo, new: &OsStr, flags: RenameFlags, reply: ReplyEmpty) {
        let rename = || {
            let flags = nix::fcntl::RenameFlags::from_bits_truncate(flags.bits());
            Ok(nix::fcntl::renameat2(AT_FDCWD, &self.path(from, name)?, AT_FDCWD, &self.path(to, new)?, flags)?)
        };
        empty(reply, rename());
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, how: i32, reply: ReplyCreate) {
        let create = || {
            let path = self.path(parent, name)?;
            let mut options = OpenOptions::new();
            options.read(flags(how).0).write(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
            // With O_EXCL or without: the kernel has looked, and found nothing.
            let file = options.create_new(true).open(&path)?;
            Ok::<_, io::Error>((self.make(request, &path, |_| Ok(()))?, self.keep(file)))
        };
        match create() {
            Ok((attributes, handle)) => reply.created(&FOR, &attributes, Generation(0), handle, OPENED),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, how: OpenFlags, reply: ReplyOpen) {
        let (read, write) = flags(how.0);
        match self.node(number).and_then(|file| OpenOptions::new().read(read).write(write).open(behind(&file))) {
            Ok(file) => reply.opened(self.keep(file), OPENED),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || {
            let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
            let count = self.handle(handle)?.read_at(&mut bytes, offset)?;
            bytes.truncate(count);
            Ok::<_, io::Error>(bytes)
        };
        match read() {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.handle(handle).and_then(|file| file.write_at(bytes, offset)) {
            Ok(count) => reply.written(u32::try_from(count).unwrap_or_default()),
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, _: Option<LockOwner>, _: bool, reply: ReplyEmpty) {
        locked(&self.open).remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let sync = |file: Arc<File>| if data_only { file.sync_data() } else { file.sync_all() };
        empty(reply, self.handle(handle).and_then(sync));
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.node(number).and_then(|file| File::open(behind(&file))?.sync_all()));
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.next.fetch_add(1, Ordering::Relaxed)), FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, number: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let known = locked(&self.listed).get(&handle.0).filter(|_| offset > 0).cloned();
        let listing = match known.map_or_else(|| self.list(number).map(Arc::new), Ok) {
            Ok(listing) => listing,
            Err(error) => return reply.error(Errno::from(error)),
        };
        locked(&self.listed).insert(handle.0, Arc::clone(&listing));
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for ((ino, kind, name), next) in listing.iter().zip(1..).skip(from) {
            if reply.add(INodeNo(*ino), next, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        locked(&self.listed).remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, number: INodeNo, reply: ReplyStatfs) {
        match self.node(number).and_then(|file| Ok(nix::sys::statfs::fstatfs(&*file)?)) {
            Ok(of) => {
                let size = u32::try_from(of.block_size()).unwrap_or(4096);
                reply.statfs(of.blocks(), of.blocks_free(), of.blocks_available(), of.files(), of.files_free(), size, 255, size);
            }
            Err(error) => reply.error(Errno::from(error)),
        }
    }

    fn fallocate(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, length: u64, how: i32, reply: ReplyEmpty) {
        let allocate = || {
            let how = nix::fcntl::FallocateFlags::from_bits_truncate(how);
            let number = |of: u64| i64::try_from(of).map_err(io::Error::other);
            Ok(nix::fcntl::fallocate(&*self.handle(handle)?, how, number(offset)?, number(length)?)?)
        };
        empty(reply, allocate());
    }
}
