//! `verify`: proves that a backup restores, passes, is current, and is equal. Must never call
//! Litestream's sync, and leaves nothing behind but its (empty) table.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OptionalExtension};

use crate::exit::{self, Failure};
use crate::litestream::call;
use crate::litestream::socket::json_string;
use crate::plan::{Database, Plan};
use crate::restore::{self, Fetched, Source};
use crate::{interrupt, pages, report, time};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a write may take to reach the replica.
    pub timeout: Duration,
    /// Leave the comparison of pages out.
    pub quick: bool,
}

/// What was proved.
#[derive(Debug)]
pub struct Proof {
    /// Name, time and result of each step.
    steps: Vec<(&'static str, Duration, String)>,
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
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(|(name, took, what)| {
                format!("{{\"step\":{},\"milliseconds\":{},\"result\":{}}}", json_string(name), took.as_millis(), json_string(what))
            })
            .collect();
        format!(
            "{{\"database\":{},\"path\":{},\"replica\":{},\"ok\":true,\"milliseconds\":{},\"steps\":[{}]}}",
            json_string(&database.alias),
            json_string(&database.path.to_string_lossy()),
            json_string(&database.replica),
            self.total.as_millis(),
            steps.join(",")
        )
    }
}

/// A failed proof for programs.
pub fn failure_json(database: &Database, failure: &Failure) -> String {
    format!(
        "{{\"database\":{},\"ok\":false,\"code\":{},\"reason\":{}}}",
        json_string(&database.alias),
        failure.code,
        json_string(&failure.message)
    )
}

/// How often a comparison that found a difference is repeated: a page may have changed and changed
/// back meanwhile, which looks like a difference once, but not each time.
const ROUNDS: usize = 3;
/// Pause between looks at the replica.
const PAUSE: Duration = Duration::from_millis(50);
/// Rows of runs that were killed are removed after this time.
const OLD_ROWS: &str = "-1 day";

/// Proves it, or says what cannot be proved.
///
/// # Errors
/// 65 where the backup is damaged, behind, different or not to be had; 66 where there is no database.
pub fn verify(plan: &Plan, database: &Database, options: &Options) -> Result<Proof, Failure> {
    let began = Instant::now();
    let failed = |code: u8, why: String| Failure::new(code, format!("{}: NOT PROVED: {why}", database.alias));
    if !matches!(restore::look(&database.path), Ok(restore::Local::Sqlite)) {
        return Err(failed(
            exit::NO_BACKUP,
            format!("{} is not there to be compared; start the app, or `restore`", database.path.display()),
        ));
    }
    let scratch = Scratch::new(&database.path)
        .map_err(|e| failed(exit::SYSTEM, format!("no room to restore beside {}: {e}", database.path.display())))?;
    let check = Check { plan, database, options, scratch: &scratch };
    let mut rounds = 1;
    loop {
        match check.round(began) {
            Ok(Outcome::Equal(proof)) => return Ok(proof),
            Ok(Outcome::Different(why)) if rounds >= ROUNDS => return Err(failed(exit::DAMAGED, why)),
            Ok(Outcome::Different(_)) => rounds = rounds.saturating_add(1),
            Err(failure) => return Err(failed(failure.code, failure.message)),
        }
    }
}

enum Outcome {
    Equal(Proof),
    Different(String),
}

struct Check<'a> {
    plan: &'a Plan,
    database: &'a Database,
    options: &'a Options,
    scratch: &'a Scratch,
}

impl Check<'_> {
    /// One comparison. The first look at the pages comes before the write and the second after the
    /// restore, so that the restored state lies between them.
    fn round(&self, began: Instant) -> Result<Outcome, Failure> {
        let sqlite = |error: rusqlite::Error| Failure::new(exit::DAMAGED, format!("{}: {error}", self.database.path.display()));
        let mut steps = Vec::new();
        let before = if self.options.quick { Vec::new() } else { pages::of_live(&self.database.path, &self.scratch.0).map_err(sqlite)? };
        let listed = self.listing();
        let sentinel = Sentinel::write(&self.database.path).map_err(sqlite)?;
        let wrote = Instant::now();
        let restored = self.restore_until_current(&sentinel, listed)?;
        steps.push(("restores", restored.took, report::human_size(fs::metadata(&restored.path).map(|m| m.len()).unwrap_or_default())));
        steps.push(("passes", restored.checked, "SQLite finds no fault in it".to_owned()));
        steps.push(("current", wrote.elapsed().saturating_sub(restored.took), "a row written now has come back".to_owned()));
        if !self.options.quick {
            let compared = Instant::now();
            let after = pages::of_live(&self.database.path, &self.scratch.0).map_err(sqlite)?;
            let there = pages::of_file(&restored.path).map_err(|e| Failure::new(exit::SYSTEM, e.to_string()))?;
            let compare = compare(&before, &after, &there);
            if compare.different > 0 {
                return Ok(Outcome::Different(format!(
                    "the backup differs: {} of {} pages that did not change here are not the same there (first: page {}); a new snapshot is needed: restart the container after moving {} away",
                    compare.different,
                    compare.unchanged,
                    compare.first,
                    crate::continuity::mark_path(&self.database.path).display()
                )));
            }
            let what = match compare.unchanged {
                0 => "nothing to compare: every page has changed meanwhile".to_owned(),
                pages => format!("all {pages} pages that did not change meanwhile are the same"),
            };
            steps.push(("equal", compared.elapsed(), what));
        }
        let _ = fs::remove_file(&restored.path);
        Ok(Outcome::Equal(Proof { steps, total: began.elapsed() }))
    }

    /// What the replica lists: text that changes when anything arrives there. Nothing where it does not answer.
    fn listing(&self) -> String {
        let args = call::listing(self.plan.litestream.line, &self.plan.config(), &self.database.path);
        match call::run(&self.plan.litestream, &args, Instant::now() + Duration::from_secs(10)) {
            Ok(Some(output)) if output.ended.ok() => output.stdout,
            _ => String::new(),
        }
    }

    fn restore_until_current(&self, sentinel: &Sentinel, mut listed: String) -> Result<Restored, Failure> {
        let deadline = Instant::now() + self.options.timeout;
        let mut last = None;
        loop {
            interrupt::check()?;
            let now_listed = self.listing();
            let late = Instant::now() >= deadline;
            if (now_listed != listed && !now_listed.is_empty()) || late {
                listed = now_listed;
                match self.restore(deadline) {
                    Ok(restored) if sentinel.is_in(&restored.path) => return Ok(restored),
                    Ok(_) => last = None,
                    Err(failure) => last = Some(failure),
                }
            }
            if late {
                let waited = self.options.timeout.as_secs_f32();
                return Err(last.unwrap_or_else(|| {
                    Failure::new(
                        exit::DAMAGED,
                        format!(
                            "a row written now has not reached {} within {waited} s: replication is cut or behind",
                            self.database.replica
                        ),
                    )
                }));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn restore(&self, deadline: Instant) -> Result<Restored, Failure> {
        let began = Instant::now();
        let left = deadline.saturating_duration_since(began).max(Duration::from_secs(2));
        let source = Source { timeout: left, ..Source::newest(self.plan, self.database) };
        // Whatever keeps it from coming back, it is not proved.
        match source
            .fetch(&self.scratch.0.join("restore"))
            .map_err(|f| interrupt::check().err().unwrap_or_else(|| Failure::new(exit::DAMAGED, f.message)))?
        {
            Fetched::NoBackup => Err(Failure::new(exit::DAMAGED, format!("{} has no backup", self.database.replica))),
            Fetched::Database(restore::Restored { file: path, .. }) => {
                let took = began.elapsed();
                let checking = Instant::now();
                restore::check(&path).map_err(|why| Failure::new(exit::DAMAGED, format!("the backup is damaged: {why}")))?;
                Ok(Restored { path, took, checked: checking.elapsed() })
            }
        }
    }
}

struct Restored {
    path: PathBuf,
    took: Duration,
    checked: Duration,
}

/// The row that must come back; removed when dropped, together with those of runs that were killed.
struct Sentinel {
    connection: Connection,
    code: String,
}

impl Sentinel {
    fn write(database: &Path) -> rusqlite::Result<Self> {
        let connection = pages::open(database)?;
        connection.execute_batch("CREATE TABLE IF NOT EXISTS _litestream_verification(id INTEGER PRIMARY KEY, code TEXT, created TEXT)")?;
        let code: String = connection.query_row("SELECT hex(randomblob(16))", [], |row| row.get(0))?;
        connection
            .execute("INSERT INTO _litestream_verification(code, created) VALUES (?1, ?2)", [&code, &time::rfc3339(SystemTime::now())])?;
        Ok(Self { connection, code })
    }

    fn is_in(&self, restored: &Path) -> bool {
        let found = restore::open_immutable(restored)
            .and_then(|c| c.query_row("SELECT 1 FROM _litestream_verification WHERE code = ?1", [&self.code], |_| Ok(())).optional());
        matches!(found, Ok(Some(())))
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.connection.execute(
            "DELETE FROM _litestream_verification WHERE code = ?1 OR datetime(created) < datetime('now', ?2)",
            [self.code.as_str(), OLD_ROWS],
        );
    }
}

/// A folder of this run's own beside the database, where there is room for it; removed when dropped.
struct Scratch(PathBuf);

static RUNS: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    fn new(database: &Path) -> io::Result<Self> {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let name = database.file_name().unwrap_or_default().to_string_lossy();
        // The pid alone may stand for two processes where containers share a volume.
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|d| d.subsec_nanos()).unwrap_or_default();
        let path = database.with_file_name(format!(".{name}-verify-{}-{run}-{nanos}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Compared {
    unchanged: usize,
    different: usize,
    first: usize,
}

/// Every page that is the same before and after must be the same there; one that is missing in both
/// must be missing there.
fn compare(before: &[u64], after: &[u64], there: &[u64]) -> Compared {
    let mut result = Compared { unchanged: 0, different: 0, first: 0 };
    for at in 0..before.len().max(after.len()).max(there.len()) {
        if before.get(at) != after.get(at) {
            continue;
        }
        result.unchanged = result.unchanged.saturating_add(1);
        if there.get(at) != before.get(at) {
            result.different = result.different.saturating_add(1);
            if result.first == 0 {
                result.first = at.saturating_add(1);
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_did_not_change_here_must_be_the_same_there() {
        let same = |different, first, unchanged| Compared { unchanged, different, first };
        assert_eq!(compare(&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]), same(0, 0, 3));
        assert_eq!(compare(&[1, 2, 3], &[1, 9, 3], &[1, 5, 3]), same(0, 0, 2));
        assert_eq!(compare(&[1, 2, 3], &[1, 2, 3], &[1, 0, 3]), same(1, 2, 3));
        assert_eq!(compare(&[1, 2], &[1, 2], &[1]), same(1, 2, 2));
        assert_eq!(compare(&[1], &[1], &[1, 7]).different, 1);
        assert_eq!(compare(&[1], &[1, 7], &[1, 7]), same(0, 0, 1));
    }
}
