//! Restores: decides from what is here and what the policy says, then fetches into a private folder,
//! checks, and renames. Must never replace or delete a database, nor leave a part of one behind.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::{Group, User};
use rusqlite::{Connection, OpenFlags};

use crate::continuity::{beside, meta_dir};
use crate::exit::{self, Failure};
use crate::litestream::Litestream;
use crate::litestream::call::{self, Config};
use crate::litestream::verdict::{self, Verdict};
use crate::plan::{Database, Plan};
use crate::report;
use crate::settings::{Entry, RestorePolicy};
use crate::time;

/// What is at a database's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// Nothing.
    Missing,
    /// A file without content.
    Empty,
    /// A SQLite database.
    Sqlite,
    /// Something else, which may be somebody's data.
    Other,
}

/// What a boot does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is here: use it.
    Use,
    /// Ask the replica.
    Fetch,
    /// Let the app make a new one.
    StartEmpty,
    /// Do not start.
    Refuse,
}

/// The first half of the table: before anybody has asked the replica.
pub fn decide(local: Local, policy: RestorePolicy) -> Decision {
    match (local, policy) {
        (Local::Sqlite, _) => Decision::Use,
        (Local::Other, _) => Decision::Refuse,
        (Local::Missing | Local::Empty, RestorePolicy::Never) => Decision::StartEmpty,
        (Local::Missing | Local::Empty, RestorePolicy::Auto | RestorePolicy::Required) => Decision::Fetch,
    }
}

/// What asking the replica came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The database, checked, in this file.
    Database(PathBuf),
    /// The replica answered that it has no backup.
    NoBackup,
}

/// The second half of the table: the replica has answered that there is no backup.
pub fn without_backup(policy: RestorePolicy) -> Decision {
    if policy == RestorePolicy::Required { Decision::Refuse } else { Decision::StartEmpty }
}

/// Looks at a database's path.
///
/// # Errors
/// What the kernel says, where it cannot be read.
pub fn look(path: &Path) -> io::Result<Local> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Local::Missing),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(Local::Other);
    }
    if meta.len() == 0 {
        return Ok(Local::Empty);
    }
    let mut header = [0; 16];
    // Every SQLite database begins so (its file format, section 1.3).
    let is_sqlite = meta.len() >= 512 && file.read_exact(&mut header).is_ok() && &header == b"SQLite format 3\0";
    Ok(if is_sqlite { Local::Sqlite } else { Local::Other })
}

/// One restore's parts that do not change from try to try.
#[derive(Debug)]
pub struct Source<'a> {
    /// The binary.
    pub litestream: &'a Litestream,
    /// Its configuration.
    pub config: Config<'a>,
    /// The database's path in it.
    pub database: &'a Path,
    /// What it is called in progress lines; errors leave it to the caller.
    pub alias: &'a str,
    /// How long there may be no progress.
    pub timeout: Duration,
    /// Litestream's own flags (`-timestamp …`).
    pub flags: &'a [std::ffi::OsString],
}

/// Above this size `quick_check` is made instead of `integrity_check`, which also compares each index with its table.
pub const QUICK_CHECK_ABOVE: u64 = 1 << 30;
/// How often progress is looked at, and how often it is said.
const POLL: Duration = Duration::from_millis(20);
const SAY_EVERY: Duration = Duration::from_secs(3);

impl<'a> Source<'a> {
    /// The newest backup of a database of the plan, with the configured patience.
    pub fn newest(plan: &'a Plan, database: &'a Database) -> Self {
        Self {
            litestream: &plan.litestream,
            config: plan.config(),
            database: &database.path,
            alias: &database.alias,
            timeout: plan.entry.restore_timeout,
            flags: &[],
        }
    }

    /// Fetches into `folder`, trying again until there has been no progress for the timeout.
    ///
    /// # Errors
    /// 69 where the replica did not give it, 65 where it gave a damaged one, 71 where it cannot be written.
    pub fn fetch(&self, folder: &Path) -> Result<Fetched, Failure> {
        let mut patience = Patience::new(self.timeout);
        let mut pause = Duration::from_millis(250);
        loop {
            let (reason, verdict) = match self.attempt(folder, &mut patience)? {
                Attempt::Fetched(fetched) => return Ok(fetched),
                Attempt::Failed(reason, verdict) => (reason, verdict),
            };
            let hint = verdict.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            if verdict.permanent {
                return Err(Failure::new(exit::UNREACHABLE, format!("cannot be restored: {reason}{hint}")));
            }
            if patience.is_over_after(pause) {
                let waited = patience.waited().as_secs();
                return Err(Failure::new(exit::UNREACHABLE, format!("cannot be restored: {reason} (no progress for {waited} s){hint}")));
            }
            report::line(format_args!("{}: restore failed, trying again: {reason}", self.alias));
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    fn attempt(&self, folder: &Path, patience: &mut Patience) -> Result<Attempt, Failure> {
        let system = |error: io::Error| Self::cannot_write(folder, &error);
        fresh_folder(folder).map_err(system)?;
        let output = folder.join(self.database.file_name().unwrap_or_default());
        let log = File::options().read(true).append(true).create_new(true).open(folder.join("log")).map_err(system)?;
        let args = call::restore(&self.config, self.database, &output, self.flags);
        let mut running = call::start(self.litestream, &args, log)
            .map_err(|e| Failure::new(exit::SYSTEM, format!("{} cannot be run: {e}", self.litestream.path.display())))?;
        let mut said_at = Instant::now();
        let ended = loop {
            if let Some(ended) = running.ended() {
                break ended;
            }
            let bytes = size_of_folder(folder);
            patience.progress(bytes);
            if patience.is_over_after(Duration::ZERO) {
                let said = running.said();
                // The time is over: whatever it is, it is not tried again.
                return Ok(Attempt::Failed(
                    format!("no answer in time; litestream's last words: {}", call::reason(&said)),
                    verdict::judge(&said),
                ));
            }
            if said_at.elapsed() >= SAY_EVERY {
                said_at = Instant::now();
                report::line(format_args!("{}: restoring, {} so far", self.alias, report::human_size(bytes)));
            }
            std::thread::sleep(POLL);
        };
        match (ended.ok(), look(&output)) {
            // 0.5 and 0.3 end well for "restored" and for "nothing there" alike: only the file tells.
            (true, Ok(Local::Sqlite)) => check(&output).map(|()| Attempt::Fetched(Fetched::Database(output))).map_err(|why| {
                Failure::new(
                    exit::DAMAGED,
                    format!("the backup is damaged: {why}; an older one is had by `litestream-entry restore -timestamp …`"),
                )
            }),
            (true, Ok(Local::Missing)) => Ok(Attempt::Fetched(Fetched::NoBackup)),
            (true, _) => Ok(Attempt::Failed("litestream restored something that is not a SQLite database".to_owned(), verdict::judge(""))),
            (false, _) => {
                let said = running.said();
                Ok(Attempt::Failed(call::reason(&said), verdict::judge(&said)))
            }
        }
    }

    fn cannot_write(folder: &Path, error: &io::Error) -> Failure {
        let place = folder.parent().unwrap_or(folder).display();
        Failure::new(exit::SYSTEM, format!("cannot restore into {place}: {error}; make it writable for uid {}", nix::unistd::geteuid()))
    }
}

enum Attempt {
    Fetched(Fetched),
    Failed(String, Verdict),
}

/// Counts the time without progress.
struct Patience {
    timeout: Duration,
    since: Instant,
    bytes: u64,
}

impl Patience {
    fn new(timeout: Duration) -> Self {
        Self { timeout, since: Instant::now(), bytes: 0 }
    }

    /// Only more than ever before is progress: a retry that gets as far as the last is none.
    fn progress(&mut self, bytes: u64) {
        if bytes > self.bytes {
            self.bytes = bytes;
            self.since = Instant::now();
        }
    }

    fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    fn is_over_after(&self, pause: Duration) -> bool {
        self.waited().saturating_add(pause) >= self.timeout
    }
}

/// The private folder of a database's restore, in the same directory: same disk, so a rename is one step.
pub fn folder(database: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(database.file_name().unwrap_or_default());
    name.push("-restoring");
    database.with_file_name(name)
}

fn fresh_folder(folder: &Path) -> io::Result<()> {
    clear(folder)?;
    // Where the folder is to be, there may be nothing yet on a new volume.
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(0o700).create(folder)
}

/// Removes what a killed restore left behind.
///
/// # Errors
/// What the kernel says.
pub fn clear(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn size_of_folder(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|e| e.metadata().ok()).map(|m| m.blocks().saturating_mul(512).max(m.len())).fold(0, u64::saturating_add)
}

/// SQLite's own check of a file that nobody else has open.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(database: &Path) -> Result<(), String> {
    let size = fs::metadata(database).map(|m| m.len()).unwrap_or_default();
    let pragma = if size > QUICK_CHECK_ABOVE { "quick_check" } else { "integrity_check" };
    // `immutable`: no -wal and -shm are made beside it.
    let connection = open_immutable(database).map_err(|e| e.to_string())?;
    let verdict = connection.query_row(&format!("PRAGMA {pragma}(1)"), [], |row| row.get::<_, String>(0));
    match verdict {
        Ok(text) if text == "ok" => Ok(()),
        Ok(text) => Err(text),
        Err(error) => Err(error.to_string()),
    }
}

/// Opens a database that nobody writes.
///
/// # Errors
/// What SQLite says.
pub fn open_immutable(database: &Path) -> rusqlite::Result<Connection> {
    let path: String = database
        .to_string_lossy()
        .chars()
        .map(|c| match c {
            '%' | '?' | '#' => format!("%{:02x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(format!("file:{path}?immutable=1"), flags)
}

/// Changes a file's owner to `USER[:GROUP]`, by name or number; a user's own group where none is named.
fn give(file: &Path, owner: &str) -> io::Result<()> {
    let unknown =
        |what: &str| io::Error::new(io::ErrorKind::NotFound, format!("LITESTREAM_ENTRY_DB_OWNER: no such {what} here; use its number"));
    let (user, group) = owner.split_once(':').map_or((owner, None), |(user, group)| (user, Some(group)));
    let (uid, its_group) = match user.parse::<u32>() {
        Ok(uid) => (uid, None),
        Err(_) => User::from_name(user).ok().flatten().map(|u| (u.uid.as_raw(), Some(u.gid.as_raw()))).ok_or_else(|| unknown("user"))?,
    };
    let gid = match group.map(|group| (group, group.parse::<u32>())) {
        None => its_group,
        Some((_, Ok(gid))) => Some(gid),
        Some((name, Err(_))) => Some(Group::from_name(name).ok().flatten().map(|g| g.gid.as_raw()).ok_or_else(|| unknown("group"))?),
    };
    std::os::unix::fs::chown(file, Some(uid), gid)
        .map_err(|error| io::Error::new(error.kind(), format!("LITESTREAM_ENTRY_DB_OWNER: {error}; only root may give a file away")))
}

/// Puts a restored file in its place: owner and mode, fsync, stale companions aside, rename, fsync.
///
/// # Errors
/// What the kernel says.
pub fn install(restored: &Path, database: &Path, entry: &Entry) -> io::Result<()> {
    let directory = database.parent().unwrap_or(Path::new("/"));
    let place = fs::metadata(directory)?;
    match &entry.db_owner {
        Some(owner) => give(restored, owner)?,
        None if nix::unistd::geteuid().is_root() => std::os::unix::fs::chown(restored, Some(place.uid()), Some(place.gid()))?,
        None => {}
    }
    fs::set_permissions(restored, fs::Permissions::from_mode(entry.db_mode.unwrap_or(place.mode() & 0o666)))?;
    File::open(restored)?.sync_all()?;
    move_companions_aside(database)?;
    fs::rename(restored, database)?;
    File::open(directory)?.sync_all()
}

/// Moves a stale `-wal`, `-shm`, `-journal` and Litestream's local state away from a database that is
/// missing: SQLite would replay them over the next one. Nothing is deleted. Says what it moved.
///
/// # Errors
/// What the kernel says.
pub fn move_companions_aside(database: &Path) -> io::Result<()> {
    let stale = [beside(database, "-wal"), beside(database, "-shm"), beside(database, "-journal"), meta_dir(database)];
    for path in stale {
        move_aside(&path)?;
    }
    Ok(())
}

/// So many of each name are kept aside: a container that is started again and again must not fill its volume.
const KEPT_ASIDE: usize = 5;

/// Removes what was moved aside longest ago, beyond the number that is kept. What cannot be removed stays.
fn forget_oldest(path: &Path) {
    let prefix = format!("{}.aside-", path.file_name().unwrap_or_default().to_string_lossy());
    let entries = fs::read_dir(path.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten();
    let mut aside: Vec<PathBuf> = entries.filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect();
    // Their names end with the time, and those of one second with a number.
    aside.sort();
    for oldest in aside.iter().take(aside.len().saturating_sub(KEPT_ASIDE)) {
        let removed = if oldest.is_dir() { fs::remove_dir_all(oldest) } else { fs::remove_file(oldest) };
        if removed.is_ok() {
            report::line(format_args!("{}: removed, {KEPT_ASIDE} newer ones are kept", oldest.display()));
        }
    }
}

/// Renames a file or folder to `NAME.aside-TIME`, if it is there.
///
/// # Errors
/// What the kernel says.
pub fn move_aside(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let stamp = time::compact(SystemTime::now());
    for attempt in 0..1000_u32 {
        let suffix = if attempt == 0 { format!(".aside-{stamp}") } else { format!(".aside-{stamp}-{attempt}") };
        let aside = beside(path, &suffix);
        if fs::symlink_metadata(&aside).is_err() {
            fs::rename(path, &aside)?;
            report::line(format_args!("{} is stale: kept as {}", path.display(), aside.display()));
            forget_oldest(path);
            return Ok(());
        }
    }
    Err(io::Error::other(format!("{}: no free name to move it aside", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decision_table_holds() {
        use RestorePolicy::{Auto, Never, Required};
        for (local, policy, decision) in [
            (Local::Sqlite, Auto, Decision::Use),
            (Local::Sqlite, Required, Decision::Use),
            (Local::Sqlite, Never, Decision::Use),
            (Local::Missing, Auto, Decision::Fetch),
            (Local::Empty, Auto, Decision::Fetch),
            (Local::Missing, Required, Decision::Fetch),
            (Local::Empty, Required, Decision::Fetch),
            (Local::Missing, Never, Decision::StartEmpty),
            (Local::Empty, Never, Decision::StartEmpty),
            (Local::Other, Auto, Decision::Refuse),
            (Local::Other, Required, Decision::Refuse),
            (Local::Other, Never, Decision::Refuse),
        ] {
            assert_eq!(decide(local, policy), decision, "{local:?} {policy:?}");
        }
        assert_eq!(without_backup(Auto), Decision::StartEmpty);
        assert_eq!(without_backup(Required), Decision::Refuse);
    }

    #[test]
    fn what_is_at_the_path_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        assert_eq!(look(&path).unwrap(), Local::Missing);
        fs::write(&path, "").unwrap();
        assert_eq!(look(&path).unwrap(), Local::Empty);
        fs::write(&path, "somebody's letters").unwrap();
        assert_eq!(look(&path).unwrap(), Local::Other);
        assert_eq!(look(dir.path()).unwrap(), Local::Other);
        fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        assert_eq!(look(&path).unwrap(), Local::Sqlite);
    }

    #[test]
    fn of_what_is_moved_aside_the_newest_five_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db-wal");
        for second in 0..7 {
            fs::write(dir.path().join(format!("a.db-wal.aside-20200101T00000{second}Z")), "old").unwrap();
        }
        fs::write(dir.path().join("a.db-wal2.aside-20200101T000000Z"), "another's").unwrap();
        fs::write(&path, "new").unwrap();
        move_aside(&path).unwrap();
        let mut kept: Vec<String> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        kept.sort();
        assert_eq!(kept.len(), 6, "{kept:?}");
        assert_eq!(kept[0], "a.db-wal.aside-20200101T000003Z");
        assert!(kept[4].as_str() > "a.db-wal.aside-2026", "the newest is kept");
    }

    #[test]
    fn stale_companions_are_moved_aside_and_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        for round in ["one", "two"] {
            fs::write(beside(&path, "-wal"), round).unwrap();
            fs::create_dir(meta_dir(&path)).unwrap();
            move_companions_aside(&path).unwrap();
        }
        let mut kept: Vec<String> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        kept.sort();
        assert_eq!(kept.iter().filter(|n| n.starts_with("a.db-wal.aside-")).count(), 2);
        assert_eq!(kept.iter().filter(|n| n.starts_with(".a.db-litestream.aside-")).count(), 2);
        assert_eq!(kept.len(), 4);
    }

    #[test]
    fn a_damaged_database_does_not_pass_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("50% a?.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("CREATE TABLE t(x); CREATE INDEX i ON t(x); INSERT INTO t SELECT value FROM generate_series(1,1)")
            .unwrap_or_default();
        db.execute_batch("CREATE TABLE IF NOT EXISTS t(x); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<5000) INSERT INTO t SELECT hex(randomblob(20)) FROM c").unwrap();
        drop(db);
        assert_eq!(check(&path), Ok(()));
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 4096].fill(0xaa);
        fs::write(&path, bytes).unwrap();
        assert!(check(&path).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
