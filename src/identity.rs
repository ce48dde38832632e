//! The user that Litestream and the app run as, where PID 1 is root. Must never leave a process with root's groups, nor
//! take what it does not know for somebody.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{
    Gid, Group, Pid, Uid, User, getgrouplist, getgroups, setegid, seteuid, setfsgid, setfsuid, setgroups, setresgid, setresuid,
};

use crate::exit::{self, Failure};
use crate::files::{self, Owner};
use crate::sys;

/// What root needs to share its files with another user and to become that user, as the documentation has it.
const NEEDED: [(sys::Capability, &str); 4] =
    [(sys::CHOWN, "CAP_CHOWN"), (sys::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"), (sys::SETGID, "CAP_SETGID"), (sys::SETUID, "CAP_SETUID")];

/// A user with all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: OsString,
}

/// Who is meant by `USER[:GROUP]`.
#[derive(Debug)]
pub struct Named {
    /// The user's number.
    pub uid: u32,
    /// The group's, where one is named.
    pub group: Option<u32>,
    /// What /etc/passwd says of the user.
    pub user: Option<User>,
}

impl Named {
    /// The numbers of the user and the group that are meant; none where no group is known.
    pub fn owner(&self) -> Option<(u32, u32)> {
        Some((self.uid, self.group.or_else(|| self.user.as_ref().map(|user| user.gid.as_raw()))?))
    }
}

/// Acts on a file system as a file's owner where this process is root, so that what SQLite makes beside a database is the
/// app's. SQLite gives such files away itself, but may not without CHOWN, and then the app cannot open its own WAL.
///
/// # Errors
/// What to do, where root may not become somebody else.
pub fn as_owner_of<T>(file: &Path, work: impl FnOnce() -> T) -> Result<T, String> {
    // Of a link in its place its own, which somebody else has made.
    let Ok(meta) = fs::symlink_metadata(file) else { return Ok(work()) };
    let (us, owner) = (Uid::effective(), Uid::from_raw(meta.uid()));
    if !us.is_root() || owner.is_root() {
        return Ok(work());
    }
    // Of this thread alone; the group first, since only root may set it.
    let group = setfsgid(Gid::from_raw(meta.gid()));
    setfsuid(owner);
    let back = || {
        setfsuid(us);
        setfsgid(group);
    };
    // The call does not say whether it worked; one with no user's number changes nothing and says who it is.
    if setfsuid(Uid::from_raw(u32::MAX)) != owner {
        back();
        return Err(format!("{}: root may not act as its owner here; run this as that user (docker exec --user {owner})", file.display()));
    }
    let done = work();
    back();
    Ok(done)
}

/// Does something as another user, and is root again. Must be given nothing that takes time, nor makes files: the groups stay root's.
fn as_user<T>(uid: Uid, work: impl FnOnce() -> T) -> Result<T, Errno> {
    let own = Uid::effective();
    let dumpable = prctl::get_dumpable().unwrap_or(false);
    seteuid(uid)?;
    let done = work();
    let back = seteuid(own);
    // The kernel takes it away with each change of the user, and with it root's sight of /proc/1 where it lacks CAP_SYS_PTRACE.
    let _ = prctl::set_dumpable(dumpable);
    back.map(|()| done)
}

/// Sends a signal to a process as its user where this process is root without `CAP_KILL`, which may signal only its own processes, and
/// those of the user that it is at the moment.
///
/// # Errors
/// What the kernel says.
pub fn signal_as_its_user(pid: Pid, signal: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    if !Uid::effective().is_root() || sys::has(sys::KILL) {
        return signal();
    }
    // The real one: that of a program with a set-user-ID bit may not be root's to be.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
    as_user(Uid::from_raw(uid.unwrap_or_default()), signal)?
}

/// A command of root's that may not read what is another user's becomes that user for good: `named` (`USER[:GROUP]`), or whose this directory is.
/// An engine may give `docker exec` fewer rights than the container has. Whether it has become somebody.
pub fn become_who_may_read(named: Option<&str>, directory: &Path) -> bool {
    if may_read_all() {
        return false;
    }
    let named = named.and_then(|user| Identity::other(user).ok().flatten());
    let owner = || fs::symlink_metadata(directory).ok().filter(|about| about.uid() != 0);
    let owner = || owner().map(|about| Identity { uid: about.uid(), gid: about.gid(), groups: vec![about.gid()], home: "/".into() });
    let became = named.or_else(owner).is_some_and(|identity| identity.assume().is_ok());
    BECAME.fetch_or(became, Ordering::Relaxed);
    became
}

/// Whether this process is not a root that lacks the right to read what is another user's.
pub fn may_read_all() -> bool {
    !Uid::effective().is_root() || sys::has(sys::DAC_OVERRIDE)
}

/// A command of root's has become somebody else to read.
static BECAME: AtomicBool = AtomicBool::new(false);

/// Whether this process is root's, also where it has become somebody else only to read: what it has of secrets is root's.
pub fn is_roots() -> bool {
    Uid::effective().is_root() || BECAME.load(Ordering::Relaxed)
}

/// Looks up `USER[:GROUP]`, each by name or number.
///
/// # Errors
/// What is not known here.
pub fn look_up(text: &str) -> Result<Named, &'static str> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let number = user.parse::<u32>().ok();
    let known = number.map_or_else(|| User::from_name(user), |uid| User::from_uid(Uid::from_raw(uid))).ok().flatten();
    let uid = number.or_else(|| known.as_ref().map(|u| u.uid.as_raw())).ok_or("no such user here; use its number")?;
    let group_of = |name: &str| {
        let by_name = || Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw());
        name.parse::<u32>().ok().or_else(by_name).ok_or("no such group here; use its number")
    };
    Ok(Named { uid, group: group.map(group_of).transpose()?, user: known })
}

fn refused(text: &str, what: impl std::fmt::Display) -> Failure {
    Failure::new(exit::SYSTEM, format!("LITESTREAM_ENTRY_USER: {text}: {what}"))
}

impl Identity {
    /// From `USER[:GROUP]`, by name or number; none where this process is that user already.
    ///
    /// # Errors
    /// 78 for a user or group that is not known here; 71 where this process may not become it.
    pub fn resolve(text: &str) -> Result<Option<Self>, Failure> {
        let Some(identity) = Self::other(text)? else { return Ok(None) };
        identity.try_out().map_err(|what| refused(text, what))?;
        Ok(Some(identity))
    }

    /// The same without a look at whether it may be become, for which the whole process has to be that user for a moment.
    fn other(text: &str) -> Result<Option<Self>, Failure> {
        let wrong = |what: &str| Failure::new(exit::CONFIG, format!("LITESTREAM_ENTRY_USER: {text}: {what}"));
        let Named { uid, group, user } = look_up(text).map_err(wrong)?;
        let (own, own_group) = (Uid::effective(), Gid::effective());
        if own.as_raw() == uid && group.is_none_or(|gid| own_group.as_raw() == gid) {
            return Ok(None);
        }
        if !own.is_root() {
            return Err(refused(text, format!("only root may become another user or group, and this is {own}:{own_group}")));
        }
        let gid = group.or_else(|| user.as_ref().map(|u| u.gid.as_raw())).ok_or_else(|| wrong("not in /etc/passwd; write UID:GID"))?;
        // A group that is named stands alone, as with Docker's own `--user`.
        let groups = match (&user, group) {
            (Some(user), None) => CString::new(user.name.as_bytes()).ok().and_then(|name| getgrouplist(&name, Gid::from_raw(gid)).ok()),
            _ => None,
        };
        let groups = groups.map_or_else(|| vec![gid], |groups| groups.iter().map(|g| g.as_raw()).collect());
        let home = user.map_or_else(|| "/".into(), |user| user.dir.into_os_string());
        Ok(Some(Self { uid, gid, groups, home }))
    }

    /// Whether root may do here what is needed; what is in its way.
    fn try_out(&self) -> Result<(), String> {
        let lacking: Vec<&str> = NEEDED.iter().filter(|(number, _)| !sys::has(*number)).map(|(_, name)| *name).collect();
        if !lacking.is_empty() {
            let all = lacking.join(", ");
            return Err(format!("root lacks {all} here; add what is lacking (docker run --cap-add), or start the container as that user"));
        }
        self.become_and_return(|| ()).map_err(|(call, errno)| {
            let denied = || fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny");
            let why = match errno {
                // user_namespaces(7)
                Errno::EINVAL if call == "seteuid" => format!("{} is no user of this user namespace (/proc/self/uid_map)", self.uid),
                Errno::EINVAL => format!("{:?} are not all groups of this user namespace (/proc/self/gid_map)", self.groups),
                Errno::EPERM if call == "setgroups" && denied() => {
                    "this user namespace denies setgroups (/proc/self/setgroups), so that root's groups would stay".to_owned()
                }
                errno => format!("{call}: {}", errno.desc()),
            };
            format!("root cannot become that user here: {why}; start the container as that user, or as root of a namespace that may")
        })
    }

    /// Whether it may enter this directory.
    ///
    /// # Errors
    /// 71, with what is in its way.
    pub fn try_to_enter(&self, directory: &Path) -> Result<(), Failure> {
        let entered = self.become_and_return(|| fs::metadata(directory.join("."))).map_err(|(_, errno)| io::Error::from(errno)).flatten();
        entered.map(drop).map_err(|error| {
            let what = "open it and those above it to that user, or name another in LITESTREAM_ENTRY_RUNTIME_DIR";
            refused(&self.uid.to_string(), format!("{}: {error}; {what}", directory.display()))
        })
    }

    /// Becomes it by its effective numbers and groups, does something that takes no time, and is root again; the call that was refused.
    fn become_and_return<T>(&self, work: impl FnOnce() -> T) -> Result<T, (&'static str, Errno)> {
        let (groups, gid) = (getgroups().map_err(|e| ("getgroups", e))?, Gid::effective());
        let theirs: Vec<Gid> = self.groups.iter().map(|g| Gid::from_raw(*g)).collect();
        setgroups(&theirs).map_err(|e| ("setgroups", e))?;
        let became = setegid(Gid::from_raw(self.gid))
            .map_err(|e| ("setegid", e))
            .and_then(|()| as_user(Uid::from_raw(self.uid), work).map_err(|e| ("seteuid", e)));
        setegid(gid).and_then(|()| setgroups(&groups)).map_err(|e| ("setgroups", e)).and(became)
    }

    /// As a word of `__exec`'s command line.
    pub fn word(&self) -> OsString {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        let mut word = OsString::from(format!("{}:{}:{}:", self.uid, self.gid, groups.join(",")));
        word.push(&self.home);
        word
    }

    /// From that word; none for anything else.
    pub fn from_word(word: &OsStr) -> Option<Self> {
        let mut parts = word.as_bytes().splitn(4, |b| *b == b':');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u32>().ok();
        let (uid, gid) = (number()?, number()?);
        let groups = std::str::from_utf8(parts.next()?).ok()?.split(',').map(|g| g.parse().ok()).collect::<Option<Vec<u32>>>()?;
        Some(Self { uid, gid, groups, home: OsString::from_vec(parts.next()?.to_vec()) })
    }

    /// Becomes it for good: groups, then group, then user, since afterwards the others are no longer allowed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn assume(&self) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<Gid> = self.groups.iter().map(|g| Gid::from_raw(*g)).collect();
        setgroups(&groups)?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    }

    /// The environment with its HOME.
    pub fn at_home(&self, env: &[CString]) -> Vec<CString> {
        let home = CString::new([b"HOME=", self.home.as_bytes()].concat()).ok();
        env.iter().filter(|e| !e.to_bytes().starts_with(b"HOME=")).cloned().chain(home).collect()
    }

    /// To whom belongs what root makes for it.
    pub fn owner(&self) -> Owner {
        Owner::Is(self.uid, self.gid)
    }

    /// Its group.
    pub fn group(&self) -> u32 {
        self.gid
    }

    /// Gives it stdin, stdout and stderr, as an engine does for its `--user`, so that it can open them by name (`/dev/stdout`). Not
    /// what is everybody's, as `/dev/null`, nor a file that is only read. One that cannot be given can be used all the same.
    pub fn own_stdio(&self) {
        let give = |stream: BorrowedFd<'_>, is_terminal: bool, is_read: bool| {
            let theirs = || File::from(stream.try_clone_to_owned()?).metadata();
            let is_own = |meta: &fs::Metadata| {
                let kind = meta.file_type();
                is_terminal || kind.is_fifo() || kind.is_socket() || (kind.is_file() && !is_read)
            };
            if theirs().is_ok_and(|meta| is_own(&meta) && meta.uid() != self.uid) {
                let _ = std::os::unix::fs::fchown(stream, Some(self.uid), None);
            }
        };
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        give(stdin.as_fd(), stdin.is_terminal(), true);
        give(stdout.as_fd(), stdout.is_terminal(), false);
        give(stderr.as_fd(), stderr.is_terminal(), false);
    }

    /// Gives it a file of root's own.
    ///
    /// # Errors
    /// What the kernel says; what it is where it is none.
    pub fn own(&self, file: &Path) -> io::Result<()> {
        files::give(file, self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_name_or_number_and_nobody_is_made_up() {
        if !Uid::effective().is_root() {
            return;
        }
        let of = |text: &str| Identity::other(text).unwrap().unwrap();
        let nobody = of("nobody");
        assert!(nobody.uid == 65534 && nobody.groups == [65534] && nobody.home == "/nonexistent", "{nobody:?}");
        assert_eq!(of("65534"), nobody);
        let alone = of("4711:4712");
        assert_eq!((alone.uid, alone.gid, alone.groups.as_slice(), alone.home.to_str()), (4711, 4712, &[4712][..], Some("/")));
        assert_eq!(of("nobody:daemon").groups, [1]);
        for bad in ["no-such-user", "4711", "nobody:no-such-group"] {
            let failure = Identity::other(bad).unwrap_err();
            assert!(failure.code == exit::CONFIG && failure.message.starts_with("LITESTREAM_ENTRY_USER: "), "{failure}");
        }
    }

    #[test]
    fn what_is_made_as_the_owner_is_the_owners_and_root_is_root_again() {
        if !Uid::effective().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| fs::write(dir.path().join(name), "").map(|()| fs::metadata(dir.path().join(name)).unwrap());
        assert_eq!(make("db").unwrap().uid(), 0);
        std::os::unix::fs::chown(dir.path().join("db"), Some(4711), Some(4712)).unwrap();
        assert!(as_owner_of(&dir.path().join("db"), || make("refused")).unwrap().is_err(), "the directory is root's");
        std::os::unix::fs::chown(dir.path(), Some(4711), None).unwrap();
        let theirs = as_owner_of(&dir.path().join("db"), || make("made")).unwrap().unwrap();
        assert_eq!((theirs.uid(), theirs.gid()), (4711, 4712));
        let after = make("after").unwrap();
        assert_eq!((after.uid(), after.gid()), (0, 0));
    }

    #[test]
    fn it_arrives_as_it_was_sent() {
        let identity = Identity { uid: 1, gid: 2, groups: vec![2, 3], home: OsString::from_vec(b"/a:b \xff".to_vec()) };
        assert_eq!(Identity::from_word(&identity.word()), Some(identity));
        for bad in ["", "1:2", "1:2:x:/", "-", "1:2::/"] {
            assert_eq!(Identity::from_word(OsStr::new(bad)), None, "{bad}");
        }
    }
}
