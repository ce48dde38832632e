//! The app that the tests supervise: it commits rows, acknowledges each one after its commit, and
//! ends in every way an app can end.
//!
//! ```text
//! writer --db PATH… [--ack FILE] [--ready FILE]
//!        [--every MICROS] [--burst N:PAUSE_MS] [--rows N] [--checkpoint N]
//!        [--live MS] [--exit CODE] [--on-term exit=N|die|ignore|drain=MS] [--close] [--fork-writer]
//! ```
//!
//! The acknowledgement is an 8-byte little-endian counter per database, written with `pwrite`: the
//! page cache keeps it when the process is killed. At its start the writer compares it with what the
//! database holds and exits 99 if an acknowledged row is missing.

#![allow(clippy::arithmetic_side_effects, reason = "rows and milliseconds of a test do not overflow")]

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

mod rows;

/// An acknowledged row is not in the database.
const ROW_LOST: u8 = 99;
/// The writer itself failed.
const BROKEN: u8 = 98;
/// How long a pause may last before the writer looks for a signal again.
const GLANCE: Duration = Duration::from_millis(5);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let outcome = Options::parse(std::env::args().skip(1))
        .and_then(|options| if options.fork_writer { stand_by_a_child() } else { Writer::open(options)?.run() });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("writer: {error}");
            ExitCode::from(BROKEN)
        }
    }
}

/// What to do when TERM comes.
#[derive(Clone, Copy)]
enum OnTerm {
    /// Stop at once with this code.
    Exit(u8),
    /// Leave the signal to the kernel.
    Die,
    /// Go on as if nothing had come.
    Ignore,
    /// Go on writing for this long, then stop with 0.
    Drain(Duration),
}

struct Options {
    databases: Vec<PathBuf>,
    ack: Option<PathBuf>,
    ready: Option<PathBuf>,
    every: Duration,
    /// After so many commits, a pause.
    burst: Option<(u64, Duration)>,
    rows: u64,
    checkpoint: Option<u64>,
    live: Option<Duration>,
    exit: u8,
    on_term: OnTerm,
    close: bool,
    fork_writer: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            databases: Vec::new(),
            ack: None,
            ready: None,
            every: Duration::from_millis(1),
            burst: None,
            rows: u64::MAX,
            checkpoint: None,
            live: None,
            exit: 0,
            on_term: OnTerm::Exit(0),
            close: false,
            fork_writer: false,
        };
        while let Some(name) = words.next() {
            match name.as_str() {
                "--close" => options.close = true,
                "--fork-writer" => options.fork_writer = true,
                _ => {
                    let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
                    options.set(&name, &value)?;
                }
            }
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "--db" => self.databases.push(value.into()),
            "--ack" => self.ack = Some(value.into()),
            "--ready" => self.ready = Some(value.into()),
            "--every" => self.every = Duration::from_micros(value.parse()?),
            "--burst" => {
                let (count, pause) = value.split_once(':').ok_or("--burst takes N:PAUSE_MS")?;
                self.burst = Some((count.parse()?, millis(pause)?));
            }
            "--rows" => self.rows = value.parse()?,
            "--checkpoint" => self.checkpoint = Some(value.parse()?),
            "--live" => self.live = Some(millis(value)?),
            "--exit" => self.exit = value.parse()?,
            "--on-term" => self.on_term = on_term(value)?,
            _ => return Err(format!("unknown option {name}").into()),
        }
        Ok(())
    }
}

fn millis(text: &str) -> Result<Duration> {
    Ok(Duration::from_millis(text.parse()?))
}

fn on_term(text: &str) -> Result<OnTerm> {
    Ok(match text.split_once('=') {
        None if text == "die" => OnTerm::Die,
        None if text == "ignore" => OnTerm::Ignore,
        Some(("exit", code)) => OnTerm::Exit(code.parse()?),
        Some(("drain", time)) => OnTerm::Drain(millis(time)?),
        _ => return Err(format!("unknown --on-term {text}").into()),
    })
}

/// Does as `sh -c 'writer …; true'` does: waits for a child, dies of TERM and leaves the child behind.
fn stand_by_a_child() -> Result<u8> {
    let words = std::env::args_os().skip(1).filter(|word| word != "--fork-writer");
    let status = Command::new(std::env::current_exe()?).args(words).status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(BROKEN))
}

struct Writer {
    options: Options,
    databases: Vec<Database>,
    ack: Option<File>,
    born: Instant,
    term: Arc<AtomicBool>,
}

struct Database {
    connection: Connection,
    next: i64,
}

impl Writer {
    fn open(options: Options) -> Result<Self> {
        let born = Instant::now();
        let term = Arc::new(AtomicBool::new(false));
        if !matches!(options.on_term, OnTerm::Die) {
            signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&term))?;
        }
        let ack = match &options.ack {
            Some(path) => Some(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?),
            None => None,
        };
        let databases = options.databases.iter().map(Database::open).collect::<Result<_>>()?;
        Ok(Self { options, databases, ack, born, term })
    }

    fn run(mut self) -> Result<u8> {
        if self.acknowledged_rows_are_lost() {
            return Ok(ROW_LOST);
        }
        let mut stop_at = None;
        let mut written = 0;
        loop {
            if written < self.options.rows {
                self.write(written)?;
                written += 1;
            }
            if let Some(code) = self.end(&mut stop_at) {
                return Ok(self.leave(code));
            }
            self.pause(written, stop_at);
        }
    }

    /// Says so on stderr, once for each database.
    fn acknowledged_rows_are_lost(&self) -> bool {
        let Some(ack) = &self.ack else { return false };
        let mut incomplete = false;
        for ((index, database), path) in (0..).zip(&self.databases).zip(&self.options.databases) {
            let acknowledged = read_counter(ack, index);
            let last = database.next - 1;
            if last < acknowledged {
                let path = path.display();
                eprintln!("writer: {path}: row {acknowledged} was acknowledged, the last one here is {last}");
                incomplete = true;
            }
        }
        incomplete
    }

    fn write(&mut self, written: u64) -> Result<()> {
        for (index, database) in (0..).zip(&mut self.databases) {
            let id = database.commit_next()?;
            if let Some(ack) = &self.ack {
                ack.write_all_at(&id.to_le_bytes(), index * 8)?;
            }
            if self.options.checkpoint.is_some_and(|every| (written + 1).is_multiple_of(every)) {
                database.checkpoint()?;
            }
        }
        if written == 0
            && let Some(ready) = &self.options.ready
        {
            fs::write(ready, format!("{}\n", std::process::id()))?;
        }
        Ok(())
    }

    /// The code to end with, if it is time to end.
    fn end(&self, stop_at: &mut Option<Instant>) -> Option<u8> {
        if self.options.live.is_some_and(|life| self.born.elapsed() >= life) {
            return Some(self.options.exit);
        }
        if !self.term.load(Ordering::Relaxed) {
            return None;
        }
        match self.options.on_term {
            OnTerm::Exit(code) => Some(code),
            OnTerm::Die | OnTerm::Ignore => None,
            OnTerm::Drain(time) => {
                let at = *stop_at.get_or_insert_with(|| Instant::now() + time);
                (Instant::now() >= at).then_some(0)
            }
        }
    }

    /// Waits for the time of the next commit, and no longer than an end that is due.
    fn pause(&self, written: u64, stop_at: Option<Instant>) {
        let pause = match self.options.burst {
            _ if written >= self.options.rows => GLANCE,
            Some((count, pause)) if written.is_multiple_of(count) => pause,
            Some(_) => Duration::ZERO,
            None => self.options.every,
        };
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.end(&mut stop_at.clone()).is_some() {
                return;
            }
            std::thread::sleep(left.min(GLANCE));
        }
    }

    /// Most apps just exit; with `--close` the last connection is closed first, as a careful one does.
    fn leave(self, code: u8) -> u8 {
        if self.options.close {
            drop(self.databases);
            return code;
        }
        std::process::exit(code.into())
    }
}

impl Database {
    fn open(path: &PathBuf) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        patiently(|| connection.pragma_update(None, "journal_mode", "wal"))?;
        connection.pragma_update(None, "synchronous", "normal")?;
        let schema = "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body TEXT NOT NULL)";
        patiently(|| connection.execute_batch(schema))?;
        let highest = "SELECT coalesce(max(id), 0) FROM t";
        let last: i64 = patiently(|| connection.query_row(highest, (), |row| row.get(0)))?;
        Ok(Self { connection, next: last + 1 })
    }

    fn commit_next(&mut self) -> Result<i64> {
        let id = self.next;
        patiently(|| commit(&mut self.connection, id))?;
        self.next += 1;
        Ok(id)
    }

    fn checkpoint(&self) -> Result<()> {
        patiently(|| self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(())))
    }
}

fn commit(connection: &mut Connection, id: i64) -> rusqlite::Result<()> {
    let step = rows::step(id);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let body = rows::body(id.cast_unsigned());
    transaction.execute("INSERT INTO t (id, body) VALUES (?1, ?2)", (id, body))?;
    if let Some(row) = step.update {
        let body = rows::body(rows::mix(id, row));
        transaction.execute("UPDATE t SET body = ?2 WHERE id = ?1", (row, body))?;
    }
    if let Some(row) = step.delete {
        transaction.execute("DELETE FROM t WHERE id = ?1", [row])?;
    }
    transaction.commit()
}

/// Tries again for as long as someone else holds the database.
fn patiently<T>(mut operation: impl FnMut() -> rusqlite::Result<T>) -> Result<T> {
    loop {
        match operation() {
            Err(error) if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {}
            other => return Ok(other?),
        }
    }
}

/// The counter of database `index`; 0 if there is none yet.
fn read_counter(ack: &File, index: u64) -> i64 {
    let mut bytes = [0; 8];
    match ack.read_exact_at(&mut bytes, index * 8) {
        Ok(()) => i64::from_le_bytes(bytes),
        Err(_) => 0,
    }
}
