//! `verify`: proves that a backup restores, passes, is current, and is equal. Must never call
//! Litestream's sync, and leaves nothing behind but its (empty) table.

mod beside;
mod difference;
mod limit;
mod read_only;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::exit::{self, Failure};
use crate::json::{self, Object};
use crate::litestream::{backup, call};
use crate::pages::{self, Hashes};
use crate::plan::{Database, Plan};
use crate::restore::{self, Fetched, Source};
use crate::{interrupt, report, sys};
use beside::{Scratch, Sentinel};
pub use beside::{has_left_something, sweep};
use difference::{Compared, Suspects, compare};
use limit::Limit;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the replica is waited for, in all: until what is written now is there, and until a restore comes further.
    pub timeout: Duration,
    /// Leave the comparison of pages out.
    pub quick: bool,
    /// Write nothing to the database: the pages alone tell whether the backup is current.
    pub read_only: bool,
}

/// Name, time and result of one of them.
type Step = (&'static str, Duration, String);

/// What was proved.
#[derive(Debug)]
pub struct Proof {
    steps: Vec<Step>,
    total: Duration,
}

impl Proof {
    /// How long it took.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// For people.
    pub fn text(&self, database: &Database) -> String {
        let mut out = String::new();
        for (name, took, what) in &self.steps {
            let _ = writeln!(out, "{}: {name:<9} {:>6.2} s  {what}", database.alias, took.as_secs_f32());
        }
        let _ = writeln!(out, "{}: ok: the backup in {} is whole ({:.2} s)", database.alias, database.replica, self.total.as_secs_f32());
        out
    }

    /// For programs.
    pub fn json(&self, database: &Database) -> String {
        let step = |(name, took, what): &(&'static str, Duration, String)| {
            Object::default().with("step", *name).with("milliseconds", took.as_millis()).with("result", what)
        };
        Object::default()
            .with("database", &database.alias)
            .with("path", database.path.as_path())
            .with("replica", &database.replica)
            .with("ok", true)
            .with("milliseconds", self.total.as_millis())
            .with("steps", json::list(self.steps.iter().map(step)))
            .to_string()
    }
}

/// A failed proof for programs.
pub fn failure_json(database: &Database, failure: &Failure) -> String {
    Object::default()
        .with("database", &database.alias)
        .with("ok", false)
        .with("code", failure.code)
        .with("reason", &failure.message)
        .to_string()
}

/// Why it was not proved.
#[derive(Debug)]
pub struct Unproved {
    /// The reason, and its code.
    pub failure: Failure,
    /// The backup is whole and current, and is not what is here: a new snapshot makes it so.
    pub differs: bool,
}

impl Unproved {
    /// What is there cannot be restored.
    pub fn is_damaged(&self) -> bool {
        self.failure.message.contains(": the backup is damaged: ")
    }

    /// Of a database that is not looked at, for this reason.
    pub fn unasked(database: &Database, why: &str) -> Self {
        let failure = Failure::new(exit::DAMAGED, format!("{}: NOT PROVED: {}: {why}", database.alias, database.replica));
        Self { failure, differs: false }
    }

    /// The replica has not said what it has.
    pub fn is_silent(&self) -> bool {
        self.failure.message.contains(SILENT)
    }

    /// The replica has nothing.
    pub fn is_absent(&self) -> bool {
        self.failure.message.ends_with(NO_BACKUP)
    }
}

/// Whether SQLite finds no fault in the structure of the database here, as it stands now: then a backup can be made of it.
pub fn is_whole(database: &Database) -> bool {
    let Ok(scratch) = Scratch::new(&database.path, false) else { return false };
    let copy = scratch.path.join(NOW);
    room(database, &scratch, 1).is_ok() && pages::of_live(&database.path, &copy, false).is_ok() && restore::soundness::check(&copy).is_ok()
}

/// What is in a line that says so.
const SILENT: &str = " s what it has: ";
/// How a line ends that says so.
const NO_BACKUP: &str = "has no backup";
/// How often a comparison that found a difference is made: a page may have changed and changed
/// back meanwhile, which looks like a difference once, but not each time.
const ROUNDS: usize = 5;
/// Pause between looks at the replica.
const PAUSE: Duration = Duration::from_millis(50);
/// What the last restore has at least, where the write arrived at the end of the limit.
const LAST_RESTORE_FOR: Duration = Duration::from_secs(2);

/// Proves it, or says what cannot be proved.
///
/// # Errors
/// 65 where the backup is damaged, behind, different or not to be had; 66 where there is no database.
pub fn verify(plan: &Plan, database: &Database, options: &Options) -> Result<Proof, Unproved> {
    let began = Instant::now();
    let unproved = |code: u8, why: String, differs: bool| {
        let failure = Failure::new(code, format!("{}: NOT PROVED: {why}", database.alias));
        Unproved { failure, differs }
    };
    let failed = |code: u8, why: String| unproved(code, why, false);
    if !matches!(restore::look(&database.path), Ok(restore::Local::Sqlite)) {
        return Err(failed(
            exit::NO_BACKUP,
            format!("{} is not there to be compared; start the app, or `restore`", database.path.display()),
        ));
    }
    let scratch = Scratch::new(&database.path, options.read_only).map_err(|f| failed(f.code, f.message))?;
    room(database, &scratch, if options.read_only { 3 } else { 2 }).map_err(|why| failed(exit::SYSTEM, why))?;
    let mut suspects = Suspects::default();
    let mut rounds = 1;
    let limit = Limit::new(options.timeout);
    loop {
        // Told by table where it may be the last round: a difference is rare, and copies that are kept take room.
        let explains = options.read_only || (rounds > 1 && room(database, &scratch, 3).is_ok());
        let check =
            Check { plan, database, limit: &limit, quick: options.quick, read_only: options.read_only, scratch: &scratch, explains };
        let outcome = if options.read_only { read_only::rounds(&check, began) } else { check.round(began, &mut suspects) };
        match outcome {
            Ok(Outcome::Equal(proof)) => return Ok(proof),
            Ok(Outcome::Different(why)) if options.read_only || rounds >= ROUNDS => return Err(unproved(exit::DAMAGED, why, true)),
            // Once is not enough to know.
            Ok(Outcome::Different(why)) if limit.is_over() => {
                return Err(failed(exit::DAMAGED, format!("{why}; the time to look again is over ({} s)", limit.text())));
            }
            Ok(Outcome::Different(_)) => rounds = rounds.saturating_add(1),
            Err(failure) => return Err(failed(failure.code, failure.message)),
        }
    }
}

/// Whether copies of the database and the restored backup fit beside it, so many in all. Better known now than by a volume that is
/// full under the app.
fn room(database: &Database, scratch: &Scratch, copies: u64) -> Result<(), String> {
    let size = fs::metadata(&database.path).map(|m| m.len()).unwrap_or_default();
    let needed = size.saturating_mul(copies).saturating_add(crate::sqlite::wal::wal_size(&database.path));
    match sys::free_bytes(&scratch.path) {
        Some(free) if free < needed => Err(format!(
            "no room beside {}: {copies} copies take {}, {} are free; make room, or mount a larger volume there",
            database.path.display(),
            report::human_size(needed),
            report::human_size(free)
        )),
        _ => Ok(()),
    }
}

enum Outcome {
    Equal(Proof),
    Different(String),
}

struct Check<'a> {
    plan: &'a Plan,
    database: &'a Database,
    limit: &'a Limit,
    quick: bool,
    read_only: bool,
    scratch: &'a Scratch,
    /// Whether what is different is told by table, for which copies are kept.
    explains: bool,
}

/// What is kept in the scratch folder.
const BEFORE: &str = "before.db";
const AFTER: &str = "after.db";
const NOW: &str = "now.db";

impl Check<'_> {
    /// One comparison. The first look at the pages comes before the write and the second after the
    /// restore, so that the restored state lies between them.
    fn round(&self, began: Instant, suspects: &mut Suspects) -> Result<Outcome, Failure> {
        let before = if self.quick { None } else { Some(self.look(BEFORE)?) };
        let listed = self.listing(None);
        self.out_of_time(&listed)?;
        let sentinel = Sentinel::write(&self.database.path)?;
        let wrote = Instant::now();
        let restored = self.restore_until_current(&sentinel, listed)?;
        let mut steps = restored.steps();
        steps.push((
            "current",
            wrote.elapsed().saturating_sub(restored.took).saturating_sub(restored.checked),
            "a row written now has come back".to_owned(),
        ));
        if let Some(before) = before {
            let compared = Instant::now();
            let compare = compare(before.each(), self.look(AFTER)?.each(), pages_there(&restored)?.each());
            if suspects.narrow(&compare) {
                return Ok(Outcome::Different(self.difference(&compare, suspects, &restored)));
            }
            steps.push(("equal", compared.elapsed(), compare.equal()));
        }
        let _ = fs::remove_file(&restored.path);
        Ok(Outcome::Equal(Proof { steps, total: began.elapsed() }))
    }

    /// The database's pages now, by way of a copy under that name.
    fn look(&self, name: &str) -> Result<Hashes, Failure> {
        let copy = self.scratch.path.join(name);
        let pages = self.limit.beside(|| pages::of_live(&self.database.path, &copy, self.read_only));
        if !self.explains || name == NOW {
            let _ = fs::remove_file(&copy);
        }
        pages
    }

    fn difference(&self, compared: &Compared, suspects: &Suspects, restored: &Restored) -> String {
        let copy = |name| self.scratch.path.join(name);
        let tables = if self.explains { difference::rows(&copy(BEFORE), &copy(AFTER), &restored.path) } else { None };
        format!(
            "the backup differs: {}{}; `resnapshot {}` makes it whole",
            tables.map(|text| format!("{text}; ")).unwrap_or_default(),
            suspects.text(compared),
            self.database.alias
        )
    }

    /// What the replica lists: text that changes when anything arrives there; or why it does not. One that the end of the time has cut
    /// short says less than the one before.
    fn listing(&self, before: Option<&Result<String, String>>) -> Result<String, String> {
        let args = call::listing(self.plan.litestream.format(), &self.plan.config(), &self.database.path);
        let listed = backup::answer(&self.plan.litestream, &args, self.limit.by());
        if listed.is_err() && self.limit.is_over() { before.cloned().unwrap_or(listed) } else { listed }
    }

    /// The time is over, and the replica has not said what it has.
    fn out_of_time(&self, listed: &Result<String, String>) -> Result<(), Failure> {
        match listed {
            Err(why) if self.limit.is_over() => {
                interrupt::check()?;
                let (replica, waited) = (&self.database.replica, self.limit.text());
                Err(Failure::new(code_of(why), format!("{replica} has not said within {waited}{SILENT}{why}")))
            }
            _ => Ok(()),
        }
    }

    fn restore_until_current(&self, sentinel: &Sentinel, mut listed: Result<String, String>) -> Result<Restored, Failure> {
        let mut last = None;
        loop {
            interrupt::check()?;
            let now_listed = self.listing(Some(&listed));
            self.out_of_time(&now_listed)?;
            let late = self.limit.is_over();
            if (now_listed != listed && now_listed.is_ok()) || late {
                listed = now_listed;
                match self.restore() {
                    Ok(restored) if sentinel.is_in(&restored.path) => return Ok(restored),
                    Ok(_) => last = None,
                    // One that was made with more time knows more.
                    Err(failure) if late => drop(last.get_or_insert(failure)),
                    Err(failure) => last = Some(failure),
                }
            }
            if late {
                return Err(last.unwrap_or_else(|| self.not_reached("a row written now")));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn not_reached(&self, what: &str) -> Failure {
        let (replica, waited) = (&self.database.replica, self.limit.text());
        Failure::new(exit::DAMAGED, format!("{what} has not reached {replica} within {waited} s: replication is cut or behind"))
    }

    fn restore(&self) -> Result<Restored, Failure> {
        let began = Instant::now();
        let source = Source { timeout: self.limit.left().max(LAST_RESTORE_FOR), ..Source::newest(self.plan, self.database) };
        // Whatever keeps it from coming back, it is not proved.
        let failed = |f: Failure| interrupt::check().err().unwrap_or_else(|| Failure::new(code_of(&f.message), f.message));
        match self.limit.beside(|| source.fetch(&self.scratch.path.join("restore"))).map_err(failed)? {
            Fetched::NoBackup => Err(Failure::new(exit::DAMAGED, format!("{} {NO_BACKUP}", self.database.replica))),
            Fetched::Database(restore::Restored { file: path, remark, checked, .. }) => {
                let took = began.elapsed();
                Ok(Restored { path, took: took.saturating_sub(checked), checked, remark })
            }
        }
    }
}

/// What is not proved for a limit of this place says nothing of the backup.
fn code_of(why: &str) -> u8 {
    if sys::limits::is_one(why) { exit::SYSTEM } else { exit::DAMAGED }
}

fn pages_there(restored: &Restored) -> Result<Hashes, Failure> {
    pages::of_file(&restored.path).map_err(|e| Failure::new(exit::SYSTEM, e.to_string()))
}

struct Restored {
    path: PathBuf,
    took: Duration,
    checked: Duration,
    remark: String,
}

impl Restored {
    fn steps(&self) -> Vec<Step> {
        let size = report::human_size(fs::metadata(&self.path).map(|m| m.len()).unwrap_or_default());
        let passes = format!("SQLite finds no fault in its structure{}", self.remark);
        vec![("restores", self.took, size), ("passes", self.checked, passes)]
    }
}
