//! `diff`: what another file has that a database lacks, row by row. Must never write to either, nor empty the WAL that lies beside the file.

use std::ffi::OsString;
use std::path::Path;

use clap::ArgMatches;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::context::{context, paths};
use super::print;
use crate::coded::Coded;
use crate::exit::{self, Failure};
use crate::identity;
use crate::json::{self, Object};
use crate::pages::{self, quoted};
use crate::restore::{self, Local};

/// So many keys are named of each table.
const NAMED: usize = 5;

/// Rows of one table that are not the same in both.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    name: String,
    only_there: u64,
    changed: u64,
    only_here: u64,
    /// The first keys that only the file has, or that are another row there; parts of a key with a stroke between.
    keys: Vec<String>,
    /// Why it could not be compared.
    failed: Option<String>,
}

/// Prints it; 0 whatever it is.
///
/// # Errors
/// 66 for what is no database, 65 where one of the two cannot be read, 71 where the kernel is in the way.
pub(super) fn run(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let context = context(flags, &paths(matches))?;
    let name = matches.get_many::<String>("db").and_then(|mut names| names.next().cloned()).unwrap_or_default();
    let database = &context.plan.find(&name)?.path;
    let file = matches.get_one::<OsString>("file").cloned().unwrap_or_default();
    let file = std::path::absolute(&file).about(Path::new(&file).display()).coded(exit::SYSTEM)?;
    for path in [database, &file] {
        if !matches!(restore::look(path), Ok(Local::Sqlite)) {
            return Err(Failure::new(exit::NO_BACKUP, format!("{}: there is no SQLite database", path.display())));
        }
    }
    // What SQLite makes beside them is their owner's.
    let tables = identity::as_owner_of(database, || compare(database, &file)).map_err(|why| Failure::new(exit::SYSTEM, why))??;
    print(&if matches.get_flag("json") { as_json(database, &file, &tables) } else { as_text(database, &file, &tables) });
    Ok(0)
}

/// The tables of `file` that have something that `database` lacks.
fn compare(database: &Path, file: &Path) -> Result<Vec<Table>, Failure> {
    let both = open(database, file)?;
    let of = |schema: &str| tables(&both, schema).map_err(|e| pages::failure(if schema == HERE { database } else { file }, &e));
    let (here, there) = (of(HERE)?, of(THERE)?);
    let compared = there.into_iter().map(|name| {
        let counted = if here.contains(&name) { rows(&both, &name) } else { all(&both, &name) };
        counted.unwrap_or_else(|error| Table { name, failed: Some(error.to_string()), ..Table::default() })
    });
    Ok(compared.filter(|t| t.failed.is_some() || t.only_there > 0 || t.changed > 0).collect())
}

/// The names of both in SQL.
const HERE: &str = "main";
const THERE: &str = "there";

/// Both in one connection, each as it stands now.
fn open(database: &Path, file: &Path) -> Result<Connection, Failure> {
    let both = pages::open(database).map_err(|e| pages::failure(database, &e))?;
    // A WAL that lies beside the file stays there.
    let attach = both
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .and_then(|_| both.execute("ATTACH ?1 AS there", [file.to_string_lossy()]))
        .and_then(|_| both.execute_batch("PRAGMA query_only=on; BEGIN"));
    attach.map_err(|e| pages::failure(file, &e))?;
    Ok(both)
}

/// The app's tables that hold rows themselves.
fn tables(both: &Connection, schema: &str) -> rusqlite::Result<Vec<String>> {
    let query = "SELECT name FROM pragma_table_list WHERE schema = ?1 AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                 AND name NOT LIKE '\\_litestream\\_%' ESCAPE '\\' ORDER BY name";
    both.prepare(query)?.query_map([schema], |row| row.get(0))?.collect()
}

/// Columns in both of a table, and those of them that are its key: its primary key, or else its row's number.
fn columns(both: &Connection, table: &str) -> rusqlite::Result<(Vec<String>, Vec<String>)> {
    let query = "SELECT name, pk FROM pragma_table_xinfo(?1, 'there') WHERE hidden = 0 ORDER BY pk, cid";
    let there: Vec<(String, u32)> =
        both.prepare(query)?.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let query = "SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0";
    let here: Vec<String> = both.prepare(query)?.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let common = there.iter().filter(|(name, _)| here.is_empty() || here.contains(name));
    let key: Vec<String> = common.clone().filter(|(_, pk)| *pk > 0).map(|(name, _)| quoted(name)).collect();
    let key = if key.is_empty() { vec!["_rowid_".to_owned()] } else { key };
    Ok((common.map(|(name, _)| quoted(name)).collect(), key))
}

/// A table that only the file has.
fn all(both: &Connection, name: &str) -> rusqlite::Result<Table> {
    let (_, key) = columns(both, name)?;
    let from = format!("FROM there.{} AS t", quoted(name));
    Ok(Table { name: name.to_owned(), only_there: count(both, &from)?, keys: keys(both, &key, &from)?, ..Table::default() })
}

/// A table that both have.
fn rows(both: &Connection, name: &str) -> rusqlite::Result<Table> {
    let (columns, key) = columns(both, name)?;
    let table = quoted(name);
    let join = |parts: &[String], how: &str, with: &str| {
        parts.iter().map(|part| format!("t.{part} {how} h.{part}")).collect::<Vec<_>>().join(with)
    };
    let same_key = join(&key, "IS", " AND ");
    let only = |one: &str, as_one: &str, other: &str, as_other: &str| {
        format!("FROM {one}.{table} AS {as_one} WHERE NOT EXISTS (SELECT 1 FROM {other}.{table} AS {as_other} WHERE {same_key})")
    };
    let only_there = only(THERE, "t", HERE, "h");
    let changed = format!("FROM there.{table} AS t JOIN main.{table} AS h ON {same_key} WHERE {}", join(&columns, "IS NOT", " OR "));
    let mut table = Table {
        name: name.to_owned(),
        only_there: count(both, &only_there)?,
        changed: count(both, &changed)?,
        only_here: count(both, &only(HERE, "h", THERE, "t"))?,
        keys: keys(both, &key, &only_there)?,
        failed: None,
    };
    table.keys.extend(keys(both, &key, &changed)?);
    table.keys.truncate(NAMED);
    Ok(table)
}

fn count(both: &Connection, from: &str) -> rusqlite::Result<u64> {
    let rows: i64 = both.query_row(&format!("SELECT count(*) {from}"), [], |row| row.get(0))?;
    Ok(rows.unsigned_abs())
}

fn keys(both: &Connection, key: &[String], from: &str) -> rusqlite::Result<Vec<String>> {
    let part = |column: &String| {
        format!("coalesce(CASE typeof(t.{column}) WHEN 'blob' THEN 'x' || hex(t.{column}) ELSE substr(t.{column}, 1, 60) END, 'NULL')")
    };
    let parts = key.iter().map(part).collect::<Vec<_>>().join(" || '/' || ");
    both.prepare(&format!("SELECT {parts} {from} LIMIT {NAMED}"))?.query_map([], |row| row.get(0))?.collect()
}

fn as_text(database: &Path, file: &Path, tables: &[Table]) -> String {
    if tables.is_empty() {
        return format!("{} has nothing that {} lacks", file.display(), database.display());
    }
    let width = tables.iter().map(|t| t.name.chars().count()).max().unwrap_or_default().max("TABLE".len());
    let mut lines = vec![format!("{:width$}  ONLY THERE  CHANGED  ONLY HERE  KEYS", "TABLE")];
    for Table { name, only_there, changed, only_here, keys, failed } in tables {
        let named = u64::try_from(keys.len()).unwrap_or_default();
        let more = if only_there.saturating_add(*changed) > named { ", …" } else { "" };
        let keys = keys.join(", ").replace(char::is_control, " ");
        lines.push(match failed {
            Some(why) => format!("{name:width$}  could not be compared: {why}"),
            None => format!("{name:width$}  {only_there:>10}  {changed:>7}  {only_here:>9}  {keys}{more}"),
        });
    }
    format!("{}\n\nthere: {}\nhere:  {}", lines.join("\n"), file.display(), database.display())
}

fn as_json(database: &Path, file: &Path, tables: &[Table]) -> String {
    let of = |Table { name, only_there, changed, only_here, keys, failed }: &Table| {
        let object = Object::default()
            .with("table", name)
            .with("only_there", *only_there)
            .with("changed", *changed)
            .with("only_here", *only_here)
            .with("keys", json::list(keys));
        failed.iter().fold(object, |object, why| object.with("error", why))
    };
    Object::default().with("here", database).with("there", file).with("tables", json::list(tables.iter().map(of))).to_string()
}
