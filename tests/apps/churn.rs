//! An app that does to its database whatever apps do, besides adding rows: `VACUUM`, new and lost tables, columns and indexes, deletes
//! of many pages, large transactions, rows that change back and forth, checkpoints of its own.
//!
//! ```text
//! churn --db PATH --ready FILE --kind KIND[,KIND…] --seed N --pause MICROS
//! ```

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "numbers of a test do not overflow")]

use std::error::Error;
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("churn: {error}");
            ExitCode::from(98)
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = words.iter().position(|word| word == name).ok_or_else(|| format!("{name} is missing"))?;
        words.get(at + 1).cloned().ok_or_else(|| format!("{name} needs a value"))
    };
    let term = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&term))?;
    let kinds = option("--kind")?;
    let kinds: Vec<&str> = kinds.split(',').collect();
    let pause = Duration::from_micros(option("--pause")?.parse()?);
    let mut churn = Churn { connection: Connection::open(option("--db")?)?, state: option("--seed")?.parse()? };
    churn.connection.busy_timeout(Duration::from_secs(5))?;
    churn.run(
        "PRAGMA auto_vacuum=incremental; PRAGMA journal_mode=wal; PRAGMA synchronous=normal;
         CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, body); CREATE TABLE IF NOT EXISTS flags(id INTEGER PRIMARY KEY, up INTEGER);
         INSERT INTO flags(up) SELECT 0 FROM generate WHERE n <= 2000; INSERT INTO t(body) SELECT hex(randomblob(200)) FROM generate;",
    )?;
    fs::write(option("--ready")?, "")?;
    while !term.load(Ordering::Relaxed) {
        let kind = kinds[churn.below(kinds.len())];
        churn.step(kind)?;
        std::thread::sleep(pause);
    }
    Ok(())
}

struct Churn {
    connection: Connection,
    state: u64,
}

impl Churn {
    fn below(&mut self, n: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.state >> 33).unwrap_or(0) % n
    }

    fn step(&mut self, kind: &str) -> Result<()> {
        let (some, few) = (self.below(2_000), self.below(50));
        let add = |rows: usize, bytes: usize| format!("INSERT INTO t(body) SELECT randomblob({bytes}) FROM generate WHERE n <= {rows};");
        let sql = match kind {
            "rows" => add(1, 20 + some / 8) + &format!("UPDATE t SET body = randomblob(90) WHERE id = {some};"),
            // One page, and many at once.
            "flags" => "UPDATE flags SET up = 1 - up WHERE id = 7;".to_owned(),
            "all-flags" => "UPDATE flags SET up = 1 - up;".to_owned(),
            "vacuum" => format!("{} DELETE FROM t WHERE id % 3 = {};|VACUUM;", add(some, 500), few % 3),
            "incremental" => format!("{} DELETE FROM t WHERE id % 2 = {};|PRAGMA incremental_vacuum({few});", add(some, 900), few % 2),
            "schema" => [
                format!("CREATE TABLE IF NOT EXISTS x{few}(a, b UNIQUE); INSERT OR IGNORE INTO x{few}(a, b) SELECT n, n * n FROM generate WHERE n <= {some};"),
                format!("DROP TABLE IF EXISTS x{few};"),
                format!("CREATE INDEX IF NOT EXISTS i{few} ON t(body);"),
                format!("DROP INDEX IF EXISTS i{few};"),
                format!("CREATE TABLE IF NOT EXISTS x{few}(a, b UNIQUE); ALTER TABLE x{few} ADD COLUMN c{} DEFAULT 5;", self.below(1 << 31)),
                format!("CREATE TABLE IF NOT EXISTS x{few}(a, b UNIQUE); ALTER TABLE x{few} RENAME TO y{};", self.below(1 << 31)),
            ][self.below(6)]
                .clone(),
            "deletes" => format!("{}|DELETE FROM t WHERE id > {};", add(2_000, 2_500), some / 2),
            // Rows of several pages each.
            "growth" => add(1 + few, 9_000),
            "big" => format!("{} {} {} DELETE FROM t WHERE id % 4 <> 0;", add(2_000, 3_000), add(2_000, 30), add(2_000, 1_000)),
            "passive" => "PRAGMA wal_checkpoint(PASSIVE);".to_owned(),
            "restart" => "PRAGMA wal_checkpoint(RESTART);".to_owned(),
            _ => return Err(format!("unknown --kind {kind}").into()),
        };
        sql.split('|').try_for_each(|sql| self.run(sql))
    }

    /// One transaction, where it may be one; tried again where others are in the way.
    fn run(&self, sql: &str) -> Result<()> {
        let numbers = "(WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < 2000) SELECT n FROM g)";
        let sql = sql.replace("FROM generate", &format!("FROM {numbers}"));
        let alone = ["VACUUM", "PRAGMA"].iter().any(|word| sql.starts_with(word));
        let sql = if alone { sql } else { format!("BEGIN IMMEDIATE; {sql} COMMIT;") };
        loop {
            match self.connection.execute_batch(&sql) {
                Err(error) if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {
                    if !self.connection.is_autocommit() {
                        self.connection.execute_batch("ROLLBACK")?;
                    }
                }
                outcome => return Ok(outcome?),
            }
        }
    }
}
