//! Makes a database present at a boot: used as it is, restored, or refused. Must never start on an empty database, or on
//! an old one, where the replica may have what is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::fetch::{Fetched, Restored, Source};
use super::install::{END_FOR, Old, go_on_after, go_on_after_the_end, install, note_end, note_position};
use super::point;
use super::snapshot;
use super::standing::{self, Standing};
use super::{Decision, aside, clear, decide, folder, ladder, look, rollback, with_standing, without_backup};
use crate::continuity;
use crate::exit::{self, Failure};
use crate::litestream::backup::{self, Depth, Position};
use crate::litestream::folder::Folder;
use crate::litestream::local;
use crate::litestream::{Ability, Format, call};
use crate::mark::Mark;
use crate::plan::{Database, Plan};
use crate::settings::Point;
use crate::settings::{self, StalePolicy};
use crate::{files, interrupt, layout, report, runtime, sqlite, time};

/// How long the replica of a database that is to start empty is asked what is left behind by that.
const ASK_BEFORE_NEVER: Duration = Duration::from_secs(2);
/// How long each other place is asked.
const ELSEWHERE_FOR: Duration = Duration::from_secs(10);

/// Whether it is known that a database is the one to go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It is: the replica has nothing that it lacks.
    Decided,
    /// The replica did not answer; a line says why. The app may work with it, and nothing may be uploaded.
    NotYet(String),
}

/// Makes one database present.
///
/// # Errors
/// Why the start is refused, in one line with the database's name.
pub fn make_present(plan: &Plan, database: &Database) -> Result<Known, Failure> {
    let boot = Boot { plan, database, folder: folder(&database.path), may_replace: true, patience: standing::ASK_FOR };
    boot.named(boot.run())
}

/// Decides the same of a database that others work with, or that is not ours: nothing is restored, moved or written beside it. The
/// replica has so long to answer.
///
/// # Errors
/// Why it must not be gone on with, in one line with the database's name.
pub fn judge(plan: &Plan, database: &Database, patience: Duration) -> Result<Known, Failure> {
    let folder = layout::hidden(&database.path, &format!("-deciding-{}", plan.life));
    let boot = Boot { plan, database, folder, may_replace: false, patience };
    boot.named(boot.decide())
}

/// Makes good what a restore from the past has left to do, when all databases are decided about.
pub fn make_good(plan: &Plan, database: &Database) {
    Boot { plan, database, folder: folder(&database.path), may_replace: true, patience: standing::ASK_FOR }.make_good();
}

struct Boot<'a> {
    plan: &'a Plan,
    database: &'a Database,
    folder: PathBuf,
    /// Nobody else works with it, and none can begin.
    may_replace: bool,
    /// How long the replica of a database that is here has to answer.
    patience: Duration,
}

impl Boot<'_> {
    fn run(&self) -> Result<Known, Failure> {
        let path = &self.database.path;
        clear(&self.folder).map_err(|e| self.system(&e))?;
        match decide(look(path).map_err(|e| self.system(&e))?, self.plan.entry.restore) {
            Decision::Use => self.use_it(),
            Decision::Fetch => self.restore_missing().map(|()| Known::Decided),
            Decision::StartEmpty => self.start_empty().map(|()| Known::Decided),
            Decision::Refuse => Err(self.not_a_database()),
        }
    }

    /// The same where nothing may be replaced.
    fn decide(&self) -> Result<Known, Failure> {
        match decide(look(&self.database.path).map_err(|e| self.system(&e))?, self.plan.entry.restore) {
            Decision::Use => self.decide_here(),
            Decision::Fetch => self.decide_missing(),
            Decision::StartEmpty => Ok(Known::Decided),
            Decision::Refuse => Err(self.not_a_database()),
        }
    }

    /// With the database's name, and without the folder.
    fn named(&self, done: Result<Known, Failure>) -> Result<Known, Failure> {
        let cleared = clear(&self.folder).map_err(|e| self.system(&e));
        done.and_then(|known| cleared.map(|()| known)).map_err(|f| Failure::new(f.code, format!("{}: {}", self.database.alias, f.message)))
    }

    fn not_a_database(&self) -> Failure {
        let path = self.database.path.display();
        let what = format!("{path} is not a SQLite database; move it away to have the backup restored, or correct the path");
        Failure::new(exit::DAMAGED, what)
    }

    fn not_installed(&self, error: &std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::ResourceBusy => Failure::new(exit::SYSTEM, format!("{}: {error}", self.database.path.display())),
            _ => self.system(error),
        }
    }

    fn system(&self, error: &std::io::Error) -> Failure {
        Failure::new(exit::SYSTEM, format!("{}: {error}; {}", self.database.path.display(), files::what_to_do(error)))
    }

    // ---- a database that is here

    fn use_it(&self) -> Result<Known, Failure> {
        if let Some(point) = &self.plan.entry.restore_point
            && !has_gone_back(point, &self.database.path)?
        {
            return self.go_back(point).map(|()| Known::Decided);
        }
        let known = self.decide_here()?;
        if known == Known::Decided {
            self.go_on_after_a_restore().map_err(|e| self.system(&e))?;
        }
        Ok(known)
    }

    /// An earlier boot has restored it, and may have been killed before it had seen to where 0.5 goes on. What takes the place of all that
    /// is there has had a snapshot after it.
    fn go_on_after_a_restore(&self) -> std::io::Result<()> {
        let path = &self.database.path;
        let is_new = self.plan.litestream.format() == Format::Ltx && local::newest_txid(path).is_none();
        match Mark::read(path) {
            Mark::Restored(Position::Txid(txid)) if is_new && txid < u64::MAX => {
                go_on_after_the_end(&Source::newest(self.plan, self.database), txid)
            }
            _ => Ok(()),
        }
    }

    fn decide_here(&self) -> Result<Known, Failure> {
        sqlite::only_files(&self.database.path).map_err(|why| Failure::new(exit::SYSTEM, why))?;
        let policy = self.plan.entry.stale;
        // 0.3 begins a generation of its own. 0.5 would go on among another host's transactions.
        if policy == StalePolicy::Keep && self.plan.litestream.format() == Format::Generations {
            return Ok(Known::Decided);
        }
        // Litestream's own directory is elsewhere: its position is not ours to read.
        if self.database.has_own_meta {
            report::debug(format_args!("{}: it has a meta-path: whether it is behind its replica is not looked at", self.database.alias));
            return Ok(Known::Decided);
        }
        let mut standing = standing::ask(self.plan, self.database, self.patience);
        if standing == Standing::Unknown && policy != StalePolicy::Keep {
            report::line(format_args!(
                "{}: Litestream has left no position beside {}: comparing it with its backup",
                self.database.alias,
                self.database.path.display()
            ));
            standing = match standing::compare_contents(self.plan, self.database, &self.folder) {
                Ok(standing) => standing,
                Err(failure) if failure.code == exit::UNREACHABLE => Standing::NotAsked(failure.message),
                Err(failure) if self.may_replace && policy == StalePolicy::Restore && failure.code == exit::DAMAGED => {
                    return self.replace_stale();
                }
                Err(failure) => {
                    let what = "; go on with this file with LITESTREAM_ENTRY_STALE=keep";
                    return Err(Failure::new(
                        failure.code,
                        format!("{} cannot be compared: {}{what}", self.database.path.display(), failure.message),
                    ));
                }
            };
        }
        if let Standing::NotAsked(why) = &standing {
            return Ok(Known::NotYet(format!(
                "{}: whether it is behind its replica is not known, and nothing is uploaded before it is: {why}",
                self.database.alias
            )));
        }
        match with_standing(&standing, policy) {
            Decision::Refuse if self.is_our_own_end() => Ok(Known::Decided),
            Decision::Fetch if self.may_replace => self.replace_stale(),
            Decision::Fetch | Decision::Refuse => Err(Failure::new(exit::DAMAGED, self.refusal(&standing))),
            Decision::Use | Decision::StartEmpty => Ok(Known::Decided),
        }
    }

    /// Whether the backup's end is this very database, by a last sync that could leave nothing beside it. Then it is gone on with.
    fn is_our_own_end(&self) -> bool {
        let Some(end) = standing::end_of_our_own(self.plan, self.database, &self.folder, self.patience) else { return false };
        report::line(format_args!(
            "{}: the newest in {} is this very database: going on with it",
            self.database.alias, self.database.replica
        ));
        continuity::go_on_as_restored(&self.database.path, end).is_ok()
    }

    /// Missing under an app that works, or beside a process that has it. It must not be made anew where there is a backup of it.
    fn decide_missing(&self) -> Result<Known, Failure> {
        let replica = &self.database.replica;
        match Source::newest(self.plan, self.database).list(Depth::Newest, self.patience) {
            Ok(files) if files.is_empty() => Ok(Known::Decided),
            Ok(_) => Err(Failure::new(
                exit::DAMAGED,
                format!(
                    "{} is missing here, and {replica} has a backup of it; start again to have it restored",
                    self.database.path.display()
                ),
            )),
            Err(why) => {
                let (alias, path) = (&self.database.alias, self.database.path.display());
                Ok(Known::NotYet(format!("{alias}: {path} is missing here, and {replica} does not answer: {why}")))
            }
        }
    }

    /// This file takes the place of what is there. 0.3 goes on in its generation where it is, and stops for ever at a replica that is
    /// beyond it: a new one is begun. 0.5 would upload what it has among another host's transactions: it forgets what it has, and a
    /// snapshot is owed.
    fn keep(&self) {
        let path = &self.database.path;
        let noted = match (standing::ask(self.plan, self.database, self.patience), self.plan.litestream.format()) {
            (Standing::Behind(_), Format::Generations) => continuity::begin_anew(path),
            (Standing::Diverged(_), Format::Ltx) => {
                aside::move_aside(&layout::meta_dir(path)).and_then(|()| Mark::Rewound(Position::Txid(u64::MAX)).write(path))
            }
            _ => Ok(()),
        };
        if let Err(error) = noted {
            report::line(format_args!("{}: {}: {error}", self.database.alias, path.display()));
        }
    }

    fn refusal(&self, standing: &Standing) -> String {
        let how = match standing {
            Standing::Behind(how) => {
                format!("is behind its replica {} ({how}): an old volume, or another host wrote there", self.database.replica)
            }
            Standing::Diverged(how) => format!(
                "has diverged from its replica {} ({how}): both have gone on after the same transaction, this file and another host, and each has \
                 what the other lacks",
                self.database.replica
            ),
            _ => format!("is not what its replica {} has, and nothing beside it tells which is newer", self.database.replica),
        };
        let path = self.database.path.display();
        if self.plan.entry.stale == StalePolicy::Restore {
            let instead =
                "end every container on this volume and start again: LITESTREAM_ENTRY_STALE=restore replaces it before anybody has it open";
            return format!("{path} {how}; {instead}");
        }
        format!(
            "{path} {how}; take what is there with LITESTREAM_ENTRY_STALE=restore (this file is kept aside, and `litestream-entry diff` shows \
             what only it has), or go on with this file with LITESTREAM_ENTRY_STALE=keep"
        )
    }

    fn replace_stale(&self) -> Result<Known, Failure> {
        let began = Instant::now();
        match self.fetch_newest(Duration::ZERO)? {
            Fetched::Database(restored) => self.install(&restored, began).map(|()| Known::Decided),
            // It had one a moment ago.
            Fetched::NoBackup => Err(Failure::new(exit::UNREACHABLE, format!("{} has no backup any more", self.database.replica))),
        }
    }

    // ---- a database that is missing

    /// As it was asked for; what that leaves behind is said, where the replica tells.
    fn start_empty(&self) -> Result<(), Failure> {
        let files = Source::newest(self.plan, self.database).list(Depth::Newest, ASK_BEFORE_NEVER).unwrap_or_default();
        if let Some(newest) = files.iter().map(|file| file.created.as_str()).max() {
            report::line(format_args!(
                "{}: starts empty (LITESTREAM_ENTRY_RESTORE=never) although {} has a backup, written at {newest}, whose place it takes",
                self.database.alias, self.database.replica
            ));
        }
        aside::move_companions_aside(&self.database.path).map_err(|e| self.system(&e))
    }

    fn restore_missing(&self) -> Result<(), Failure> {
        let began = Instant::now();
        self.look_for_the_other_line()?;
        let waited = self.doubt_the_clock()?;
        let restored = match self.fetch_newest(waited)? {
            Fetched::Database(restored) => restored,
            Fetched::NoBackup => return self.start_without_backup(),
        };
        match &self.plan.entry.restore_point {
            // On a new disk only the backup itself knows that it has gone back already.
            Some(point) if !has_gone_back(point, &restored.file)? => self.go_back(point),
            _ => self.install(&restored, began),
        }
    }

    /// 0.3 restores the generation that was written last by the storage's times, which a clock that was set back makes an old one.
    /// How long the replica was waited for in vain: the restore, which waits on, has so much less.
    fn doubt_the_clock(&self) -> Result<Duration, Failure> {
        if self.plan.litestream.format() != Format::Generations || self.plan.entry.restore_point.is_some() {
            return Ok(Duration::ZERO);
        }
        let began = Instant::now();
        let within = self.patience.min(self.plan.entry.restore_timeout / 2);
        let Ok(files) = Source::newest(self.plan, self.database).look(within) else { return Ok(began.elapsed()) };
        let Some([(last, at), (other, before)]) = backup::ahead_of_the_clock(&files, SystemTime::now()) else { return Ok(Duration::ZERO) };
        // All of that second: the list has no fractions.
        let until = time::parse(&before).and_then(|at| at.checked_add(Duration::from_secs(1))).map(time::rfc3339).unwrap_or_default();
        let ways = format!("set the clock right, or take the other with LITESTREAM_ENTRY_RESTORE_TIMESTAMP={until}");
        Err(Failure::new(
            exit::DAMAGED,
            format!(
                "generation {last} was written last by its times ({at}), but that is ahead of this host's clock, and generation {other} was written at {before}: which is newer is not known; {ways}"
            ),
        ))
    }

    fn fetch_newest(&self, waited: Duration) -> Result<Fetched, Failure> {
        let source = Source { waited, ..Source::newest(self.plan, self.database) };
        ladder::fetch(&source, &self.folder, self.plan.entry.restore_ladder).map_err(|failure| {
            let advice = match failure.code {
                exit::UNREACHABLE => "; correct the replica's settings and start again",
                _ => "",
            };
            Failure::new(failure.code, format!("{}{advice}", failure.message))
        })
    }

    fn start_without_backup(&self) -> Result<(), Failure> {
        let (database, replica) = (self.database, &self.database.replica);
        if without_backup(self.plan.entry.restore) == Decision::Refuse {
            let what = format!("{replica} has no backup, and LITESTREAM_ENTRY_RESTORE=required; set it to auto for the first boot");
            return Err(Failure::new(exit::NO_BACKUP, what));
        }
        if let Some(place) = self.elsewhere() {
            let name = if self.plan.databases.len() > 1 { settings::suffix(&database.alias) } else { String::new() };
            return Err(Failure::new(
                exit::NO_BACKUP,
                format!(
                    "{replica} has no backup, but {place} has one: set LITESTREAM_REPLICA_URL{name}={place} to go on with it, or start empty with LITESTREAM_ENTRY_RESTORE=never"
                ),
            ));
        }
        report::line(format_args!("{}: first boot: {replica} has no backup yet", database.alias));
        aside::move_companions_aside(&database.path).map_err(|e| self.system(&e))
    }

    /// 0.3 does not see 0.5's backups, nor do the first of 0.5 see 0.3's: each would restore an older one of its own, or begin an empty
    /// database. Only a folder can be looked into.
    fn look_for_the_other_line(&self) -> Result<(), Failure> {
        let (alias, replica, litestream) = (&self.database.alias, &self.database.replica, &self.plan.litestream);
        let (other, own, theirs, instead) = match litestream.format() {
            Format::Ltx if litestream.can(Ability::Reads03) => return Ok(()),
            Format::Ltx => (Format::Generations, "0.5", "0.3", format!("{} or later", Ability::Reads03.since())),
            Format::Generations => (Format::Ltx, "0.3", "0.5", "0.5".to_owned()),
        };
        let version = if litestream.format() == Format::Ltx { litestream.version.to_string() } else { own.to_owned() };
        let Some(folder) = Folder::of(replica) else {
            let what = format!("cannot see whether it has one of Litestream {theirs}, which may be newer");
            report::line(format_args!("{alias}: {replica}: Litestream {version} looks for a backup of its own, and {what}"));
            return Ok(());
        };
        let older = folder.written(litestream.format());
        let Some(at) = folder.written(other).filter(|theirs| older.is_none_or(|ours| *theirs > ours)).map(time::rfc3339) else {
            return Ok(());
        };
        let by_hand = older
            .map(time::rfc3339)
            .map(|at| format!(", restore the older one of {own} ({at}) by hand with `litestream-entry restore {alias}`"));
        let ways = format!("run Litestream {instead}{}, or name another replica", by_hand.unwrap_or_default());
        let what = format!("{replica} has a backup of Litestream {theirs}, written at {at}, which {version} cannot read; {ways}");
        Err(Failure::new(exit::NO_BACKUP, what))
    }

    /// Where else in the bucket there is a backup of it, before an empty database takes its place: who comes from a
    /// `litestream.yml` may have had another path in it. Only at a first boot, and only where we chose the path.
    fn elsewhere(&self) -> Option<String> {
        let (plan, database) = (self.plan, self.database);
        let document = runtime::document(plan).ok().filter(|_| !plan.users_file)?;
        let file = runtime::elsewhere_file(plan, database);
        let found = database.elsewhere.iter().find(|place| {
            let written = runtime::write(&file, &document.with_replica_path(&database.path, place).text());
            let config = call::Config { path: &file, expand: false };
            let source =
                Source { config, replica: place, timeout: ELSEWHERE_FOR.min(plan.entry.restore_timeout), ..Source::newest(plan, database) };
            written.is_ok() && matches!(source.fetch(&self.folder), Ok(Fetched::Database(_)))
        });
        let _ = fs::remove_file(&file);
        let (scheme, rest) = database.replica.split_once("://")?;
        let (bucket, _) = rest.split_once('/')?;
        found.map(|place| format!("{scheme}://{bucket}/{place}"))
    }

    // ---- a point in time

    /// Goes back to the point, and notes that in the database that comes of it.
    fn go_back(&self, point: &Point) -> Result<(), Failure> {
        let began = Instant::now();
        if let Point::Time(time) = point
            && time::since(time, SystemTime::now()).is_none()
        {
            return Err(Failure::new(
                exit::CONFIG,
                format!("LITESTREAM_ENTRY_RESTORE_TIMESTAMP: {time} is still to come; name a time of the past"),
            ));
        }
        let flags = point.flags();
        let source = Source::newest(self.plan, self.database);
        let mut restored = match source.asking(&flags).fetch_past(&self.folder)? {
            Fetched::Database(restored) => restored,
            Fetched::NoBackup => {
                let what = format!("{} has no backup {}; see `litestream-entry restore --dry-run`", self.database.replica, point.asked());
                return Err(Failure::new(exit::NO_BACKUP, what));
            }
        };
        point::note(point, &restored.file).map_err(|e| Failure::new(exit::SYSTEM, format!("{}: {e}", restored.file.display())))?;
        restored.remark = format!(", {}", point.found(source.asking(&flags).written()));
        restored.position = Some(source.end()?);
        restored.is_of_the_past = true;
        self.install(&restored, began)
    }

    fn install(&self, restored: &Restored, began: Instant) -> Result<(), Failure> {
        let path = &self.database.path;
        let size = fs::metadata(&restored.file).map(|m| m.len()).unwrap_or_default();
        install(restored, path, &self.plan.entry, Old::Keep)
            .and_then(|()| rollback::is_over(path))
            .and_then(|()| note_end(&Source::newest(self.plan, self.database), restored))
            .and_then(|()| note_position(restored, path))
            .map_err(|e| self.not_installed(&e))?;
        report::line(format_args!(
            "{}: restored {} from {} in {:.1} s{}",
            self.database.alias,
            report::human_size(size),
            self.database.replica,
            began.elapsed().as_secs_f32(),
            restored.remark
        ));
        Ok(())
    }

    /// After a restore from the past or a rollback, at this boot or before it. 0.5's restores go through every file since its last
    /// snapshot, and so through what is damaged or was undone: a new snapshot stands before all that is restored from here on. It
    /// is owed until it is made.
    fn make_good(&self) {
        if self.plan.entry.stale == StalePolicy::Keep && !self.database.has_own_meta && self.database.path.exists() {
            self.keep();
        }
        let Mark::Rewound(position) = Mark::read(&self.database.path) else { return };
        let path = &self.database.path;
        let outcome = match (self.plan.litestream.format(), &position) {
            (Format::Ltx, Position::Txid(txid)) => self
                .place_of(*txid)
                .and_then(|txid| go_on_after(&Source::newest(self.plan, self.database), txid).map_err(|e| e.to_string()))
                .and_then(|()| snapshot::force(self.plan, self.database, Instant::now() + self.plan.entry.restore_timeout)),
            _ => Ok(()),
        };
        match outcome.and_then(|()| Mark::Restored(position).write(path).map_err(|e| e.to_string())) {
            Ok(()) => {}
            Err(why) => report::line(format_args!(
                "{}: its backup is not known to be whole: no new snapshot: {why}; tried again at the next start",
                self.database.alias
            )),
        }
    }

    /// The transaction whose place is taken: the last of all that is there, on every level. A snapshot may be ahead of the
    /// transactions' own files, after which Litestream alone would go on counting.
    fn place_of(&self, txid: u64) -> Result<u64, String> {
        if txid < u64::MAX {
            return Ok(txid);
        }
        loop {
            match Source::newest(self.plan, self.database).list(Depth::All, END_FOR) {
                Ok(files) => return Ok(if let Some(Position::Txid(last)) = backup::newest(&files) { last } else { 0 }),
                // Without it, Litestream must not start.
                Err(why) => report::line(format_args!("{}: where its backup ends is not known yet: {why}", self.database.alias)),
            }
            interrupt::check().map_err(|interrupted| interrupted.message)?;
            std::thread::sleep(END_FOR);
        }
    }
}

fn has_gone_back(point: &Point, file: &Path) -> Result<bool, Failure> {
    point::is_applied(point, file).map_err(|e| Failure::new(exit::DAMAGED, format!("{}: {e}", file.display())))
}
