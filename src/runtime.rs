//! The runtime directory: where a boot leaves its configuration, control socket and plan. Must never
//! hold a secret that another user can read.

mod handed;
mod names;

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::config::Document;
use crate::exit::{self, Failure};
use crate::files::{self, Dir, Found, Owner};
use crate::identity::{self, Identity};
use crate::plan::{CONFIG_AGAIN_FILE, CONFIG_FILE, Database, GOOGLE_FILE, PLAN_FILE, Plan};
use crate::state::STATE_FILE;
pub use handed::Handed;
pub use names::{CONTROL_FILE, OWED, PROGRESS_FILE, SYNCED, VERIFIED, WATCHED, each_file, elsewhere_file, file_of, pass_file};

/// The usual place.
pub const USUAL: &str = "/run/litestream-entry";

/// What says that a boot has the directory, for as long as it lives.
const LOCK: &str = "lock";

/// A directory that is ours for as long as this lives.
#[derive(Debug)]
pub struct Runtime {
    /// Its path.
    pub path: PathBuf,
    dir: Dir,
    lock: Lock,
    place: Place,
}

/// What says that a boot has a directory.
#[derive(Debug)]
enum Lock {
    Held(Flock<File>),
    /// There are no locks here: who comes later takes what is there for held.
    None(File),
}

impl Lock {
    fn metadata(&self) -> io::Result<Metadata> {
        match self {
            Self::Held(file) => file.metadata(),
            Self::None(file) => file.metadata(),
        }
    }
}

/// How a directory is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where the administrator has it.
    Configured,
    /// Where somebody else may have made it first, or put a link there.
    Usual,
}

impl Runtime {
    /// Whether that path still leads to it.
    pub fn is_there(&self) -> bool {
        let id = |m: Metadata| (m.dev(), m.ino());
        let taken = self.lock.metadata().map(id).ok();
        taken.is_some() && taken == std::fs::symlink_metadata(self.path.join(LOCK)).map(id).ok()
    }

    /// Takes it once more, empty, where somebody has taken it away.
    ///
    /// # Errors
    /// What the kernel says; and where it is another's by now.
    pub fn take_again(&mut self) -> io::Result<()> {
        if self.is_there() {
            return Ok(());
        }
        let (dir, lock) = hold(&self.path, self.place)?;
        let owners = [nix::unistd::geteuid().as_raw(), self.dir.about()?.0];
        if !owners.contains(&dir.about()?.0) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
        }
        (self.dir, self.lock) = (dir, lock);
        Ok(())
    }

    /// Removes what a command of an operator's left here, itself included.
    pub fn empty(&self) {
        for name in self.dir.names_in_it().unwrap_or_default() {
            let _ = self.dir.remove(&name);
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Takes the configured directory for the process with this pid, or the first usual one that can be written and that no other
/// boot holds (several may share a machine outside containers).
///
/// # Errors
/// 71, with each place and why not.
pub fn take(configured: Option<&Path>, beside: Option<&Path>, pid: u32) -> Result<Runtime, Failure> {
    if let Some(path) = configured {
        return claim_patiently(path).map_err(|error| {
            Failure::new(
                exit::SYSTEM,
                format!("LITESTREAM_ENTRY_RUNTIME_DIR: {}: {error}; name a directory that can be written", path.display()),
            )
        });
    }
    let mut tried = Vec::new();
    for place in places(None, beside, pid) {
        match claim(&place, Place::Usual) {
            Ok(runtime) => return Ok(runtime),
            Err(error) => tried.push(format!("{} ({error})", place.display())),
        }
    }
    Err(Failure::new(
        exit::SYSTEM,
        format!("no directory for the configuration: {}; set LITESTREAM_ENTRY_RUNTIME_DIR or mount a tmpfs at /run", tried.join(", ")),
    ))
}

/// Takes over the directory of a boot that goes on, with what is in it.
///
/// # Errors
/// 71 where it is another's by now.
pub fn go_on(path: &Path, configured: bool) -> Result<Runtime, Failure> {
    let place = if configured { Place::Configured } else { Place::Usual };
    match hold(path, place) {
        Ok((dir, lock)) => Ok(Runtime { path: path.to_owned(), dir, lock, place }),
        Err(error) => Err(Failure::new(exit::SYSTEM, format!("{}: {error}", path.display()))),
    }
}

/// Where the directory of the boot with this pid may be, the likeliest first.
pub fn places(configured: Option<&Path>, beside: Option<&Path>, pid: u32) -> Vec<PathBuf> {
    if let Some(path) = configured {
        return vec![path.to_owned()];
    }
    let own = format!("litestream-entry-{pid}");
    let mut places = vec![PathBuf::from(USUAL), std::env::temp_dir().join(&own), Path::new("/dev/shm").join(&own)];
    // A read-only root without tmpfs still has the volume.
    places.extend(beside.and_then(Path::parent).map(|p| p.join(".litestream-entry")));
    places
}

/// A boot that was killed a moment ago may still be on its way out.
fn claim_patiently(path: &Path) -> io::Result<Runtime> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match claim(path, Place::Configured) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            outcome => return outcome,
        }
    }
}

/// Root's plan says what root runs: nobody else may put another directory in its place.
fn only_ours(place: &Path) -> io::Result<()> {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let is_roots = |above: &Path| match std::fs::metadata(above) {
        Ok(about) if about.mode() & OTHERS_WRITE == 0 || about.mode() & STICKY != 0 => about.uid() == 0 || !is_somebody(about.uid()),
        Ok(_) => false,
        // It is made with the directory, below one that is there.
        Err(_) => true,
    };
    if nix::unistd::geteuid().is_root() && !place.ancestors().skip(1).all(is_roots) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "somebody else may replace it"));
    }
    Ok(())
}

/// Whether a user's number is one in this user namespace (`user_namespaces(7)`): those outside all look like one that need not be.
fn is_somebody(uid: u32) -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else { return true };
    let holds = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().unwrap_or_default());
        let (first, _, count) = (numbers.next().unwrap_or_default(), numbers.next(), numbers.next().unwrap_or_default());
        uid.checked_sub(first).is_some_and(|beyond| beyond < count)
    };
    map.lines().any(holds)
}

fn claim(path: &Path, place: Place) -> io::Result<Runtime> {
    let (dir, lock) = hold(path, place)?;
    // What an earlier boot left is out of date, and a rename over a file makes ext4 write the new one out at once
    // (ext4(5), auto_da_alloc): half a millisecond each.
    for name in dir.names_in_it()?.into_iter().filter(|name| names::is_ours(name)) {
        let _ = dir.remove(&name).or_else(|_| dir.remove_all(&name));
    }
    Ok(Runtime { path: path.to_owned(), dir, lock, place })
}

/// Makes the directory where there is none, and takes its lock.
fn hold(path: &Path, place: Place) -> io::Result<(Dir, Lock)> {
    if place == Place::Usual {
        only_ours(path)?;
    }
    path.parent().map_or(Ok(()), make_above)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let dir = if place == Place::Usual { Dir::own(path) } else { Dir::open(path) }?;
    let file = match dir.look(LOCK.as_ref())? {
        Found::File(file) => file,
        Found::Nothing => dir.create(LOCK.as_ref(), 0o600, Owner::Ours)?,
        Found::Shared(_) | Found::Other(_) => return Err(io::Error::other("what is at `lock` in it is none of ours")),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok((dir, Lock::Held(lock))),
        Err((file, errno)) if files::are_no_locks(errno) => Ok((dir, Lock::None(file))),
        Err((_, Errno::EWOULDBLOCK)) => Err(io::Error::new(io::ErrorKind::ResourceBusy, "another litestream-entry uses it")),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Makes what is missing above it, for everybody to enter, whatever the umask: `/run` in an image that has none.
fn make_above(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.exists() {
        return Ok(());
    }
    folder.parent().map_or(Ok(()), make_above)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| std::fs::set_permissions(folder, Permissions::from_mode(0o755))),
    }
}

/// Whether the directory is there, and this user may not look into it.
pub fn is_closed(path: &Path) -> bool {
    std::fs::symlink_metadata(path.join(LOCK)).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Lets another user have what PID 1 has left here: its own is what it goes on with, and the plan, by which root may be run again,
/// is there to be read. A directory with the sticky bit keeps what is root's.
///
/// # Errors
/// What the kernel says.
pub fn share(path: &Path, with: &Identity) -> io::Result<()> {
    let dir = Dir::open(path)?;
    dir.let_in(with.group())?;
    for name in [CONFIG_FILE, CONFIG_AGAIN_FILE, GOOGLE_FILE, CONTROL_FILE] {
        match with.own(&path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for name in [PLAN_FILE, STATE_FILE, LOCK] {
        if let Found::File(file) = dir.look(name.as_ref())? {
            read_by(&file, with.group())?;
        }
    }
    Ok(())
}

fn read_by(file: &File, group: u32) -> io::Result<()> {
    std::os::unix::fs::fchown(file, None, Some(group))?;
    file.set_permissions(Permissions::from_mode(0o640))
}

/// Whether a boot holds the directory now.
pub fn is_held(path: &Path) -> bool {
    let Ok(file) = files::open(&path.join(LOCK)) else { return false };
    let locked = Flock::lock(file, FlockArg::LockSharedNonblock);
    locked.is_err_and(|(_, errno)| errno == Errno::EWOULDBLOCK || files::are_no_locks(errno))
}

/// The configuration that a plan's Litestream reads, as it reads it.
///
/// # Errors
/// A line that says why it cannot be read.
pub fn document(plan: &Plan) -> Result<Document, String> {
    let text = std::fs::read_to_string(&plan.config).map_err(|e| format!("{}: {e}", plan.config.display()))?;
    let variable = |name: &str| match &plan.litestream.env {
        Some(env) => env.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.to_str().map(str::to_owned)),
        None => std::env::var(name).ok(),
    };
    if plan.users_file { Document::parse_expanded(&text, &variable) } else { Document::parse(&text) }
}

/// Writes a file of the runtime directory that only we can read, whole or not at all, in the place of an older one.
///
/// # Errors
/// What the kernel says.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    write_with(path, text, |_| Ok(()))
}

/// The same of a file that an operator names.
///
/// # Errors
/// What the kernel says.
pub fn write_anywhere(path: &Path, text: &str) -> io::Result<()> {
    replace(path, text, |_| Ok(()))
}

/// The same for what others of this boot go on with: root leaves it to whose the plan is.
///
/// # Errors
/// What the kernel says.
pub fn leave(plan: &Plan, path: &Path, text: &str) -> io::Result<()> {
    let named = plan.entry.user.as_deref().filter(|_| nix::unistd::geteuid().is_root());
    let theirs = named.and_then(|user| identity::look_up(user).ok()?.owner());
    write_with(path, text, |file| theirs.map_or(Ok(()), |(uid, gid)| std::os::unix::fs::fchown(file, Some(uid), Some(gid))))
}

/// The same of root's for another user to read.
///
/// # Errors
/// What the kernel says.
pub fn write_for(path: &Path, text: &str, reader: Option<&Identity>) -> io::Result<()> {
    write_with(path, text, |file| reader.map_or(Ok(()), |reader| read_by(file, reader.group())))
}

fn write_with(path: &Path, text: &str, share: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    debug_assert!(path.file_name().is_some_and(names::is_ours), "{}: no boot would remove it", path.display());
    replace(path, text, share)
}

fn replace(path: &Path, text: &str, share: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    // Several commands may write at once.
    temporary.push(format!(".{}.new", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| share(&file)).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // Half of it, on a volume that is full.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Writes the configuration of one database's pass, in which Litestream's own files may be in another place.
///
/// # Errors
/// Why it cannot be written.
pub fn pass_config(plan: &Plan, database: &Database, meta: Option<&Path>) -> Result<Handed, String> {
    let text = document(plan)?.last_pass(plan.litestream.format(), &database.path, meta).text();
    Handed::write(plan, pass_file(plan, database, "yml"), &text)
}

/// The plan that a boot has left.
pub fn left_plan(place: &Path) -> Option<Plan> {
    serde_yaml::from_slice(&files::read(&place.join(PLAN_FILE)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_serves_one_boot_at_a_time_and_is_free_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("r");
        let first = take(Some(&place), None, 1).unwrap();
        assert!(is_held(&place) && take(Some(&place), None, 1).is_err());
        drop(first);
        assert!(!is_held(&place) && take(Some(&place), None, 1).is_ok());
    }

    #[test]
    fn root_takes_no_place_that_somebody_else_may_replace_nor_touches_what_a_link_leads_to() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["theirs", "open", "sticky", "kept"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::os::unix::fs::chown(at("theirs"), Some(4711), None).unwrap();
        for (name, mode) in [("open", 0o777), ("sticky", 0o1777)] {
            std::fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
        }
        for (name, is_ours) in [("theirs/r", false), ("open/r", false), ("sticky/r", true), ("kept/r", true), ("theirs/deep/r", false)] {
            assert_eq!(only_ours(&at(name)).is_ok(), is_ours, "{name}");
        }
        std::fs::write(at("kept").join(CONFIG_FILE), "somebody's own").unwrap();
        std::os::unix::fs::symlink(at("kept"), at("sticky/r")).unwrap();
        assert!(claim(&at("sticky/r"), Place::Usual).is_err());
        assert!(at("kept").join(CONFIG_FILE).exists() && !at("kept").join(LOCK).exists());
        assert!(is_somebody(0) && is_somebody(65534));
    }

    #[test]
    fn a_reader_never_finds_a_file_missing_or_half_while_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.yml");
        write(&path, &"x".repeat(9000)).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..500).for_each(|_| write(&path, &"x".repeat(9000)).unwrap()));
            while !writer.is_finished() {
                assert_eq!(std::fs::read_to_string(&path).unwrap().len(), 9000);
            }
        });
    }

    #[test]
    fn a_boot_begins_without_what_an_earlier_one_left_and_touches_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let of_database = ["synced-01d6a8288078ed71", "verified-01d6a8288078ed71"];
        for name in of_database.into_iter().chain([CONFIG_FILE, PLAN_FILE, "somebody-elses.yml", "verified-by-me"]) {
            std::fs::write(dir.path().join(name), "old").unwrap();
        }
        let _taken = take(Some(dir.path()), None, 1).unwrap();
        let there = |name: &str| dir.path().join(name).exists();
        assert!(!there(CONFIG_FILE) && !there(PLAN_FILE) && there("somebody-elses.yml") && there("verified-by-me"));
        assert!(!of_database.into_iter().any(there), "a check of an earlier boot says nothing of this one");
    }

    #[test]
    fn what_is_written_is_private_and_replaces_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONFIG_FILE);
        write(&path, "one").unwrap();
        write(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
