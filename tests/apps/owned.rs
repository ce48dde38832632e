//! The app of the fault harness: rows under an owner's name, each acknowledged after its commit, in every manner of writing.
//!
//! ```text
//! owned --db PATH --ack FILE --owner NAME [--ready FILE] [--style STYLE] [--every MICROS] [--rows N]
//!       [--live MS] [--exit CODE] [--ignore-term]
//! ```
//!
//! An acknowledgement is 16 bytes at the end of FILE: the row's number and its version, little-endian. One `write` each: the page
//! cache keeps it when the process is killed. It never writes a row of another owner.
#![allow(clippy::arithmetic_side_effects, reason = "rows and milliseconds of a test do not overflow")]

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

mod owned_row;

/// The writer itself failed.
const BROKEN: u8 = 98;
/// How long a pause may last before the writer looks for a signal again.
const GLANCE: Duration = Duration::from_millis(5);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("owned: {error}");
            ExitCode::from(BROKEN)
        }
    }
}

/// How rows are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// One row a commit.
    Plain,
    /// `wal_checkpoint(TRUNCATE)` after each third commit.
    Checkpoint,
    /// SQLite never checkpoints by itself.
    NoAutocheckpoint,
    /// SQLite checkpoints after each few pages.
    TinyAutocheckpoint,
    /// VACUUM after each fortieth commit.
    Vacuum,
    /// Most commits change an older row in its place.
    Update,
    /// Rows of up to half a megabyte.
    Blobs,
    /// Six connections at once.
    Connections,
    /// A child writes; the app ends without it, and it goes on, whatever TERM says.
    Orphan,
}

#[derive(Clone)]
struct Options {
    database: PathBuf,
    ack: PathBuf,
    owner: String,
    ready: Option<PathBuf>,
    style: Style,
    every: Duration,
    rows: u64,
    live: Option<Duration>,
    exit: u8,
    ignore_term: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            database: PathBuf::new(),
            ack: PathBuf::new(),
            owner: String::new(),
            ready: None,
            style: Style::Plain,
            every: Duration::from_millis(1),
            rows: u64::MAX,
            live: None,
            exit: 0,
            ignore_term: false,
        };
        while let Some(name) = words.next() {
            if name == "--ignore-term" {
                options.ignore_term = true;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--db" => options.database = value.into(),
                "--ack" => options.ack = value.into(),
                "--owner" => options.owner = value,
                "--ready" => options.ready = Some(value.into()),
                "--style" => options.style = style(&value)?,
                "--every" => options.every = Duration::from_micros(value.parse()?),
                "--rows" => options.rows = value.parse()?,
                "--live" => options.live = Some(Duration::from_millis(value.parse()?)),
                "--exit" => options.exit = value.parse()?,
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(options)
    }
}

fn style(name: &str) -> Outcome<Style> {
    Ok(match name {
        "plain" => Style::Plain,
        "checkpoint" => Style::Checkpoint,
        "no-autocheckpoint" => Style::NoAutocheckpoint,
        "tiny-autocheckpoint" => Style::TinyAutocheckpoint,
        "vacuum" => Style::Vacuum,
        "update" => Style::Update,
        "blobs" => Style::Blobs,
        "connections" => Style::Connections,
        "orphan" => Style::Orphan,
        _ => return Err(format!("unknown style {name}").into()),
    })
}

/// When it is time to end, and with what.
struct End {
    born: Instant,
    live: Option<Duration>,
    term: Arc<AtomicBool>,
    ignore_term: bool,
}

impl End {
    fn watch(options: &Options) -> Outcome<Self> {
        let term = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&term))?;
        Ok(Self { born: Instant::now(), live: options.live, term, ignore_term: options.ignore_term })
    }

    fn is_due(&self) -> bool {
        self.live.is_some_and(|life| self.born.elapsed() >= life) || (!self.ignore_term && self.term.load(Ordering::Relaxed))
    }

    /// Waits for so long, and no longer than an end that is due.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_due() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(GLANCE));
        }
    }
}

fn run(options: &Options) -> Outcome<u8> {
    let end = End::watch(options)?;
    if options.style == Style::Orphan {
        let words = std::env::args_os().skip(1).filter(|word| word != "orphan" && word != "--style" && word != "--ignore-term");
        let mut words: Vec<_> = words.collect();
        if let Some(live) = words.iter().position(|word| word == "--live") {
            words.drain(live..live + 2);
        }
        let mut child = Command::new(std::env::current_exe()?).args(words).arg("--ignore-term").spawn()?;
        while !end.is_due() {
            if child.try_wait()?.is_some() {
                return Ok(BROKEN);
            }
            std::thread::sleep(GLANCE);
        }
        return Ok(options.exit);
    }
    let shared = Shared { next: AtomicU64::new(1), options: options.clone(), end };
    let connections = if options.style == Style::Connections { 6 } else { 1 };
    let mut first = Writer::open(&shared)?;
    // Most apps have something to show before they say that they are ready.
    first.step()?;
    if let Some(ready) = &options.ready {
        fs::write(ready, "")?;
    }
    std::thread::scope(|scope| -> Outcome<()> {
        let others: Vec<_> = (1..connections).map(|_| scope.spawn(|| Writer::open(&shared)?.run())).collect();
        first.run()?;
        others.into_iter().try_for_each(|other| other.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    })?;
    // Most apps just exit, without closing anything.
    std::process::exit(options.exit.into())
}

struct Shared {
    next: AtomicU64,
    options: Options,
    end: End,
}

struct Writer<'a> {
    shared: &'a Shared,
    connection: Connection,
    ack: File,
    /// Of each of its own rows: number and version.
    rows: Vec<(u64, u64)>,
    steps: u64,
}

impl<'a> Writer<'a> {
    fn open(shared: &'a Shared) -> Outcome<Self> {
        let options = &shared.options;
        let connection = Connection::open(&options.database)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        patiently(|| connection.pragma_update(None, "journal_mode", "wal"))?;
        connection.pragma_update(None, "synchronous", "normal")?;
        match options.style {
            Style::NoAutocheckpoint => connection.pragma_update(None, "wal_autocheckpoint", 0)?,
            Style::TinyAutocheckpoint => connection.pragma_update(None, "wal_autocheckpoint", 3)?,
            _ => {}
        }
        let schema = "CREATE TABLE IF NOT EXISTS owned \
                      (owner TEXT, number INTEGER, version INTEGER, payload BLOB, PRIMARY KEY (owner, number))";
        patiently(|| connection.execute_batch(schema))?;
        let ack = OpenOptions::new().append(true).create(true).open(&options.ack)?;
        Ok(Self { shared, connection, ack, rows: Vec::new(), steps: 0 })
    }

    fn run(mut self) -> Outcome<()> {
        let options = &self.shared.options;
        while !self.shared.end.is_due() {
            if self.shared.next.load(Ordering::Relaxed) <= options.rows {
                self.step()?;
                self.shared.end.pause(options.every);
            } else if options.live.is_none() && options.ready.is_none() {
                // Nobody waits for more: a migration is over.
                return Ok(());
            } else {
                self.shared.end.pause(GLANCE);
            }
        }
        Ok(())
    }

    /// One commit and its acknowledgement, and what the style does besides.
    fn step(&mut self) -> Outcome<()> {
        self.steps += 1;
        let options = &self.shared.options;
        let older = usize::try_from(self.steps.wrapping_mul(0x9e37_79b9))?.checked_rem(self.rows.len());
        let index = older.filter(|_| options.style == Style::Update && !self.steps.is_multiple_of(4));
        let (number, version) = if let Some(row) = index.and_then(|index| self.rows.get_mut(index)) {
            row.1 += 1;
            *row
        } else {
            let row = (self.shared.next.fetch_add(1, Ordering::Relaxed), 1);
            self.rows.push(row);
            row
        };
        let length = match options.style {
            Style::Blobs => 50_000 + usize::try_from(number % 10)? * 50_000,
            _ => 40 + usize::try_from(number % 17)? * 50,
        };
        let payload = owned_row::payload(&options.owner, number, version, length);
        patiently(|| commit(&mut self.connection, &options.owner, number, version, &payload))?;
        let mut record = [0; 16];
        record[..8].copy_from_slice(&number.to_le_bytes());
        record[8..].copy_from_slice(&version.to_le_bytes());
        self.ack.write_all(&record)?;
        match options.style {
            Style::Checkpoint if self.steps.is_multiple_of(3) => {
                // Refused while somebody reads: as the app would find it.
                let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
            }
            Style::Vacuum if self.steps.is_multiple_of(40) => {
                let _ = self.connection.execute_batch("VACUUM");
            }
            _ => {}
        }
        Ok(())
    }
}

fn commit(connection: &mut Connection, owner: &str, number: u64, version: u64, payload: &[u8]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    let version = i64::try_from(version).unwrap_or(i64::MAX);
    let row = (owner, number, version, payload);
    let upsert = "INSERT INTO owned (owner, number, version, payload) VALUES (?1, ?2, ?3, ?4) \
                  ON CONFLICT (owner, number) DO UPDATE SET version = ?3, payload = ?4";
    transaction.execute(upsert, row)?;
    transaction.commit()
}

/// Tries again for as long as someone else holds the database.
fn patiently<T>(mut operation: impl FnMut() -> rusqlite::Result<T>) -> Outcome<T> {
    loop {
        match operation() {
            Err(error) if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {}
            other => return Ok(other?),
        }
    }
}
