//! Fetches a backup into a private folder, by Litestream, until it is there and checked or there is no hope. Must never
//! touch the database's own file, nor take Litestream's exit code for "restored".

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::soundness::{self, Soundness};
use super::{Local, clear, look};
use crate::exit::{self, Failure};
use crate::files::{self, Dir, Owner};
use crate::interrupt;
use crate::litestream::backup::{self, Depth, Ended, Position};
use crate::litestream::call::{self, Config, Running};
use crate::litestream::folder::Folder;
use crate::litestream::verdict::{self, Kind};
use crate::litestream::{Ability, Format, Litestream};
use crate::plan::{Database, Plan};
use crate::progress::Meter;
use crate::report;
use crate::sys::limits;

/// What asking the replica came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The database.
    Database(Restored),
    /// The replica answered that it has no backup.
    NoBackup,
}

/// A database that was fetched and has passed SQLite's check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The file, in the folder of the restore.
    pub file: PathBuf,
    /// Where in its history it ends, where Litestream said so.
    pub position: Option<Position>,
    /// It is from before the end of the backup, of which some may be damaged.
    pub is_of_the_past: bool,
    /// What is to be said of it besides, as ` of Litestream 0.3`.
    pub remark: String,
    /// How long SQLite's check took.
    pub checked: Duration,
    /// 0.3: it is of a generation before one that was only begun; until when all that is there was known.
    pub passes_over: Option<SystemTime>,
}

/// One restore's parts that do not change from try to try.
#[derive(Debug)]
pub struct Source<'a> {
    /// The binary.
    pub litestream: &'a Litestream,
    /// Its configuration.
    pub config: Config<'a>,
    /// Where it is, as the plan names it.
    pub replica: &'a str,
    /// The database's path in it.
    pub database: &'a Path,
    /// What it is called in progress lines; errors leave it to the caller.
    pub alias: &'a str,
    /// How long there may be no progress.
    pub timeout: Duration,
    /// How much of that has gone by before, in vain.
    pub waited: Duration,
    /// Litestream's own flags (`-timestamp …`).
    pub flags: &'a [OsString],
    /// Take one in which SQLite finds a fault, if every row of it can be read all the same.
    pub readable: bool,
    /// How often a damaged backup is tried: a connection that breaks in the middle of a file looks the same.
    pub tries: u32,
}

/// How often a running restore is looked at.
const POLL: Duration = Duration::from_millis(20);
/// So many bytes that it reads are a part of the backup.
const DOWNLOAD: u64 = 64 * 1024;
/// How long a list of the backup is waited for at most, where it only serves a message.
const LIST_FOR: Duration = Duration::from_secs(10);

impl<'a> Source<'a> {
    /// The newest backup of a database of the plan, with the configured patience.
    pub fn newest(plan: &'a Plan, database: &'a Database) -> Self {
        Self {
            litestream: &plan.litestream,
            config: plan.config(),
            replica: &database.replica,
            database: &database.path,
            alias: &database.alias,
            timeout: plan.entry.restore_timeout,
            waited: Duration::ZERO,
            flags: &[],
            readable: false,
            tries: 3,
        }
    }

    /// Fetches into `folder`, trying again until there has been no progress for the timeout.
    ///
    /// # Errors
    /// 69 where the replica did not give it, 65 where it gave a damaged one, 71 where it cannot be written, 128+n where this
    /// process has been asked to end. Then there is no folder.
    pub fn fetch(&self, folder: &Path) -> Result<Fetched, Failure> {
        let fetched = self.fetch_patiently(folder);
        if fetched.is_err() {
            let _ = clear(folder);
        }
        fetched
    }

    /// Fetches the state at a point of the past. 0.3 finds none after its last write, where the whole is meant.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub fn fetch_past(&self, folder: &Path) -> Result<Fetched, Failure> {
        let fetched = self.fetch(folder)?;
        let time = backup::flag(self.flags, "-timestamp");
        let (Format::Generations, Fetched::NoBackup, Some(time)) = (self.litestream.format(), &fetched, time) else { return Ok(fetched) };
        let files = self.list(Depth::All, self.timeout).unwrap_or_default();
        match backup::up_to(&files, time).filter(|flags| backup::flag(flags, "-generation").is_some()) {
            Some(flags) => self.asking(&flags).fetch(folder),
            None => Ok(fetched),
        }
    }

    /// The same with other flags of Litestream's.
    pub fn asking<'b>(&'b self, flags: &'b [OsString]) -> Source<'b> {
        Source { flags, config: self.config.clone(), ..*self }
    }

    /// What the replica lists.
    ///
    /// # Errors
    /// Litestream's reason, or that it has not answered in that time.
    pub fn list(&self, depth: Depth, within: Duration) -> Result<Vec<backup::File>, String> {
        backup::list(self.litestream, &self.config, self.database, depth, Instant::now() + within)
    }

    /// The same to where it ends, by a look into its folder where it is one: that costs no process.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn look(&self, within: Duration) -> Result<Vec<backup::File>, String> {
        match Folder::of(self.replica).map(|folder| folder.end(self.litestream.format())) {
            Some(Ok(files)) => Ok(files),
            _ => self.list(Depth::End, within),
        }
    }

    /// Where the backup ends, whose place a database from the past takes.
    ///
    /// # Errors
    /// 69 where that is not to be had.
    pub fn end(&self) -> Result<Position, Failure> {
        let unknown = |why: &str| Failure::new(exit::UNREACHABLE, format!("where the backup ends is not to be had: {why}; try again"));
        // Of 0.5's levels a snapshot's may be ahead.
        let files = self.list(Depth::All, self.timeout).map_err(|why| unknown(&why))?;
        backup::newest(&files).ok_or_else(|| unknown("the replica lists nothing"))
    }

    /// When the newest was written of what these flags ask for; none where that is not to be had.
    pub fn written(&self) -> Option<String> {
        let by = Instant::now() + self.list_for();
        backup::needed(self.litestream, &self.config, self.database, self.flags, by).ok().flatten().map(|needed| needed.created)
    }

    /// No longer than a restore may come no further.
    fn list_for(&self) -> Duration {
        LIST_FOR.min(self.timeout)
    }

    fn fetch_patiently(&self, folder: &Path) -> Result<Fetched, Failure> {
        let mut patience = Patience::new(self.timeout, self.waited);
        let mut pause = Duration::from_millis(250);
        let mut damaged = (0_u32, String::new());
        let mut one_by_one = false;
        loop {
            let failed = match self.attempt(folder, &mut patience, one_by_one)? {
                Attempt::Fetched(fetched) => return Ok(fetched),
                Attempt::Failed(failed) => failed,
            };
            let reason = failed.reason;
            let refused = |more: &str| {
                let hint = failed.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                Failure::new(exit::UNREACHABLE, format!("{} cannot be restored: {reason}{more}{hint}", self.replica))
            };
            // 0.3 downloads at once, and one download's failure may hide behind the others' end.
            one_by_one |= reason == "context canceled";
            // Damage says the same each time; a connection breaks now here, now there.
            let before = if damaged.1 == reason { damaged.0 } else { 0 };
            damaged = (if failed.kind == Kind::Damaged { before.saturating_add(1) } else { 0 }, reason.clone());
            match failed.kind {
                Kind::Permanent => return Err(refused("")),
                Kind::Refused => {
                    let hint = failed.hint.unwrap_or("correct it");
                    return Err(Failure::new(exit::CONFIG, format!("litestream refuses its configuration: {reason}; {hint}")));
                }
                Kind::NoRoom => return Err(self.no_room(folder)),
                Kind::NoStart => return Err(Failure::new(exit::SYSTEM, format!("litestream cannot run: {reason}"))),
                Kind::Damaged if damaged.0 >= self.tries => {
                    return Err(Failure::new(exit::DAMAGED, format!("the backup is damaged: {reason}")));
                }
                Kind::Damaged | Kind::Temporary if patience.is_over_after(pause) => {
                    return Err(refused(&format!(" (no progress for {} s)", patience.waited().as_secs())));
                }
                Kind::Damaged | Kind::Temporary => {}
            }
            interrupt::check()?;
            report::news(format_args!("{}: restore failed, trying again: {reason}", self.alias));
            wait(pause)?;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    fn attempt(&self, folder: &Path, patience: &mut Patience, one_by_one: bool) -> Result<Attempt, Failure> {
        let system = |error: io::Error| self.cannot_write(folder, &error);
        let opened = fresh_folder(folder).map_err(system)?;
        let output = folder.join(OUTPUT);
        // On a full volume Litestream could not even say that it is full.
        let log = crate::sys::file_in_memory().or_else(|_| opened.create("log".as_ref(), 0o600, Owner::Ours)).map_err(system)?;
        let mut flags = self.flags.to_vec();
        if self.litestream.can(Ability::Status) {
            // It says where the restore ended.
            flags.push("-json".into());
        }
        if one_by_one {
            flags.extend(["-parallelism".into(), "1".into()]);
        }
        // A release that does not say where it ended has ended there at least: another host may have gone on meanwhile.
        let says = self.litestream.format() == Format::Generations || self.litestream.can(Ability::Status);
        let before = if says || !self.flags.is_empty() { None } else { self.list(Depth::All, self.list_for()).ok() };
        let args = call::restore(&self.config, self.database, &opened.path_for_a_child(OUTPUT).unwrap_or_else(|| output.clone()), &flags);
        let mut running = call::start(self.litestream, &args, log)
            .map_err(|e| Failure::new(exit::SYSTEM, format!("{} cannot be run: {e}", self.litestream.path.display())))?;
        let Some(ended) = self.watch(&mut running, folder, patience)? else {
            let said = running.said();
            // The time is over: whatever it is, it is not tried again.
            return Ok(Attempt::failed(format!("no answer in time; litestream's last words: {}", call::reason(&said)), &said));
        };
        let said = running.said();
        match (ended.ok(), look(&output)) {
            // 0.5 and 0.3 end well for "restored" and for "nothing there" alike: only the file tells.
            (true, Ok(Local::Sqlite)) => {
                let listed = || before.map_or(Ended::Unsaid, |files| backup::newest(&files).map_or(Ended::Of03, Ended::At));
                self.checked(output, &if says { backup::ended(self.litestream.format(), &said) } else { listed() })
            }
            (true, Ok(Local::Missing)) => Ok(Attempt::Fetched(Fetched::NoBackup)),
            (true, _) => Ok(Attempt::failed("litestream restored something that is not a SQLite database".to_owned(), "")),
            (false, _) if ended == exit::Ended::Signal(nix::libc::SIGKILL) => Ok(Attempt::killed()),
            (false, _) => Ok(Attempt::failed(call::reason(&said), &said)),
        }
    }

    /// What SQLite says of a file that Litestream has restored.
    fn checked(&self, file: PathBuf, ended: &Ended) -> Result<Attempt, Failure> {
        let began = Instant::now();
        let sound = soundness::check(&file);
        // Cut short, it says nothing.
        interrupt::check()?;
        let remark = match sound {
            Ok(Soundness::Sound) => String::new(),
            Ok(Soundness::Partly(why)) => format!("; its structure is whole, and it could not be checked in full: {why}"),
            Err(reason) if self.readable && soundness::read_every_row(&file).is_ok() => {
                format!("; SQLite finds a fault in it, and every row can be read: {reason}")
            }
            Err(reason) => return Ok(Attempt::Failed(Failed { reason, kind: Kind::Damaged, hint: None })),
        };
        let mut restored = self.restored(file, ended);
        restored.remark.push_str(&remark);
        restored.checked = began.elapsed();
        Ok(Attempt::Fetched(Fetched::Database(restored)))
    }

    /// Until Litestream has ended, or the patience.
    fn watch(&self, running: &mut Running, folder: &Path, patience: &mut Patience) -> Result<Option<exit::Ended>, Failure> {
        let meter = Meter::begin(self.alias);
        let mut size = Size::default();
        loop {
            if let Some(ended) = running.ended() {
                return Ok(Some(ended));
            }
            interrupt::check()?;
            let written = size_of_folder(folder);
            // A download may be kept in memory first; what a retry reads of names and errors is no progress.
            patience.progress(written.saturating_add((running.read() / DOWNLOAD).saturating_mul(DOWNLOAD)));
            if patience.is_over_after(Duration::ZERO) {
                return Ok(None);
            }
            if meter.is_wanted() {
                meter.update(written, size.of(self).map(|whole| (running.read().min(whole), whole)));
            }
            std::thread::sleep(POLL);
        }
    }

    fn restored(&self, file: PathBuf, ended: &Ended) -> Restored {
        let (position, remark) = match ended {
            Ended::At(position) => (Some(position.clone()), ""),
            Ended::Of03 => (None, " (a backup of Litestream 0.3; from here on it is one of 0.5)"),
            Ended::Unsaid => (None, ""),
        };
        let remark = position.as_ref().and_then(|at| self.which(at)).unwrap_or_else(|| remark.to_owned());
        Restored { file, position, is_of_the_past: false, remark, checked: Duration::ZERO, passes_over: None }
    }

    /// Which of 0.3's generations it is, where there are several: it takes the one that was written last, by the storage's clock.
    fn which(&self, position: &Position) -> Option<String> {
        let Position::Wal { generation, .. } = position else { return None };
        let of = |file: backup::File| if let Position::Wal { generation, .. } = file.position { Some(generation) } else { None };
        let all: BTreeSet<String> = self.list(Depth::Newest, self.list_for()).ok()?.into_iter().filter_map(of).collect();
        (all.len() > 1).then(|| format!(" (generation {generation} of {})", all.len()))
    }

    /// What a restore would fetch; nothing where that is not to be had.
    fn needed(&self) -> Option<u64> {
        let by = Instant::now() + self.list_for();
        Some(backup::needed(self.litestream, &self.config, self.database, self.flags, by).ok()??.bytes)
    }

    fn no_room(&self, folder: &Path) -> Failure {
        // What is free when it is gone is what counts.
        let _ = clear(folder);
        let place = folder.parent().unwrap_or(folder);
        let free = crate::sys::free_bytes(place).unwrap_or_default();
        let needed = self.needed().map_or_else(
            || "does not fit".to_owned(),
            |bytes| format!("is {} compressed and needs more than that", report::human_size(bytes)),
        );
        Failure::new(
            exit::SYSTEM,
            format!(
                "no room in {}: the backup {needed}, {} are free; make room, or mount a larger volume there",
                place.display(),
                report::human_size(free)
            ),
        )
    }

    fn cannot_write(&self, folder: &Path, error: &io::Error) -> Failure {
        if matches!(error.raw_os_error(), Some(nix::libc::ENOSPC | nix::libc::EDQUOT)) {
            return self.no_room(folder);
        }
        let place = folder.parent().unwrap_or(folder).display();
        Failure::new(exit::SYSTEM, format!("cannot restore into {place}: {error}; {}", files::what_to_do(error)))
    }
}

enum Attempt {
    Fetched(Fetched),
    Failed(Failed),
}

struct Failed {
    reason: String,
    kind: Kind,
    hint: Option<&'static str>,
}

impl Attempt {
    fn failed(reason: String, said: &str) -> Self {
        let verdict = verdict::judge(said);
        Self::Failed(Failed { reason, kind: verdict.kind, hint: verdict.hint })
    }

    /// By nobody of ours: likely by the kernel, for its memory.
    fn killed() -> Self {
        let reason = call::killed();
        let kind = if limits::is_one(&reason) { Kind::NoStart } else { Kind::Temporary };
        Self::Failed(Failed { reason, kind, hint: None })
    }
}

/// Waits, unless this process has been asked to end.
fn wait(pause: Duration) -> Result<(), Failure> {
    let until = Instant::now() + pause;
    while Instant::now() < until {
        interrupt::check()?;
        std::thread::sleep(POLL);
    }
    interrupt::check()
}

/// How large the whole is: asked for once, beside the restore, and only when somebody is waiting for it.
#[derive(Default)]
struct Size {
    answer: Option<std::sync::mpsc::Receiver<Option<u64>>>,
    known: Option<u64>,
}

impl Size {
    fn of(&mut self, source: &Source<'_>) -> Option<u64> {
        let answer = self.answer.get_or_insert_with(|| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let (litestream, database, flags) = (source.litestream.clone(), source.database.to_owned(), source.flags.to_vec());
            let (path, expand) = (source.config.path.to_owned(), source.config.expand);
            let _ = std::thread::Builder::new().spawn(move || {
                let config = Config { path: &path, expand };
                let needed = backup::needed(&litestream, &config, &database, &flags, Instant::now() + LIST_FOR);
                let _ = sender.send(needed.ok().flatten().map(|n| n.bytes));
            });
            receiver
        });
        if let Ok(bytes) = answer.try_recv() {
            self.known = bytes;
        }
        self.known
    }
}

/// Counts the time without progress.
struct Patience {
    timeout: Duration,
    since: Instant,
    bytes: u64,
}

impl Patience {
    fn new(timeout: Duration, waited: Duration) -> Self {
        let now = Instant::now();
        Self { timeout, since: now.checked_sub(waited).unwrap_or(now), bytes: 0 }
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

/// What the restored database is called in its folder: SQLite takes a path of 511 bytes at most, and the folder has the database's name.
const OUTPUT: &str = "db";

fn fresh_folder(folder: &Path) -> io::Result<Dir> {
    clear(folder)?;
    // Where the folder is to be, there may be nothing yet on a new volume.
    if let Some(parent) = folder.parent() {
        files::make_directories(parent, Owner::Directorys)?;
    }
    DirBuilder::new().mode(0o700).create(folder)?;
    Dir::own(folder)
}

fn size_of_folder(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|e| e.metadata().ok()).map(|m| m.blocks().saturating_mul(512).max(m.len())).fold(0, u64::saturating_add)
}
