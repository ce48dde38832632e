//! `restore`: brings databases back now, or says what it would bring. Must never replace a database that anybody has open,
//! nor remove it unless that was asked for.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use clap::ArgMatches;

use super::context::{Context, chosen, context, context_of_url, context_with, paths};
use super::{not_live, print};
use crate::exit::{self, Failure};
use crate::json::Object;
use crate::litestream::backup::{self, Needed};
use crate::litestream::{Ability, Format, Line};
use crate::plan::{Database, Plan};
use crate::restore::install::{Old, install, note_end, note_position};
use crate::restore::{self, Fetched, Local, Restored, Source, ladder, rollback};
use crate::settings::Point;
use crate::{interrupt, progress, report, settings, tenants, time};

/// Litestream's flags that are handed on as they are.
const HANDED_ON: [&str; 6] = ["timestamp", "txid", "generation", "index", "parallelism", "replica"];
/// Those that mean another point than the newest.
const POINTS: [&str; 4] = ["timestamp", "txid", "generation", "index"];

/// The replica URL that is named instead of a database.
fn url(matches: &ArgMatches) -> Result<Option<String>, Failure> {
    let names: Vec<&String> = matches.get_many("db").into_iter().flatten().collect();
    match names.as_slice() {
        [url] if url.contains("://") => Ok(Some((*url).clone())),
        several if several.iter().any(|name| name.contains("://")) => {
            Err(Failure::new(exit::USAGE, "a replica's URL is restored alone; name one"))
        }
        _ => Ok(None),
    }
}

/// The variables that make a database of a URL: it is restored to the path of `-o`, by the keys in the environment.
fn variables(url: &str, matches: &ArgMatches) -> Result<Vec<(String, String)>, Failure> {
    let Some(output) = output(matches) else {
        return Err(Failure::new(exit::USAGE, "a replica's URL needs -o PATH: where the database is to be"));
    };
    let output = output.to_str().ok_or_else(|| Failure::new(exit::USAGE, "-o: not UTF-8"))?;
    Ok(settings::of_url(output, url))
}

fn output(matches: &ArgMatches) -> Option<PathBuf> {
    matches.get_one::<OsString>("o").map(|path| std::path::absolute(path).unwrap_or_else(|_| path.into()))
}

/// What Litestream would refuse, or not understand, is a mistake in the command and not in the replica.
fn check_flags(matches: &ArgMatches, line: Line) -> Result<(), Failure> {
    let wrong = |what: String| Err(Failure::new(exit::USAGE, what));
    let given = |name: &str| matches.get_one::<String>(name);
    let lacking = match line.format() {
        Format::Ltx => &["generation", "index", "replica"][..],
        Format::Generations => &["txid"],
    };
    if let Some(name) = lacking.iter().find(|name| given(name).is_some()) {
        return wrong(format!("-{name}: {} has no such thing; -timestamp goes back in time on both", line.name()));
    }
    if given("timestamp").is_some() && given("txid").is_some() {
        return wrong("-timestamp contradicts -txid; give one".to_owned());
    }
    if let Some(Err(form)) = given("txid").map(|txid| settings::txid(txid)) {
        return wrong(format!("-txid: not understood; write {form}"));
    }
    if given("index").is_some_and(|index| u64::from_str_radix(index, 16).is_err()) {
        return wrong("-index: not understood; write hexadecimal digits".to_owned());
    }
    if given("parallelism").is_some_and(|n| !n.parse::<u16>().is_ok_and(|n| n > 0)) {
        return wrong("-parallelism: not understood; write a number".to_owned());
    }
    Ok(())
}

struct Command<'a> {
    plan: &'a Plan,
    matches: &'a ArgMatches,
    flags: Vec<OsString>,
}

/// Restores those that are named, or a replica's URL.
///
/// # Errors
/// The first that cannot be restored, with its code.
pub(super) fn run(matches: &ArgMatches, flags: Vec<(String, String)>) -> Result<u8, Failure> {
    let context = match url(matches)? {
        Some(url) => context_of_url(flags, variables(&url, matches)?)?,
        None if matches.get_flag("all") => context_with(flags, &tenants::lost)?,
        None => context(flags, &paths(matches))?,
    };
    let databases = if context.of_url { context.plan.databases.clone() } else { chosen(&context.plan, matches)? };
    restore_all(&context, &databases, matches)
}

fn restore_all(context: &Context, databases: &[Database], matches: &ArgMatches) -> Result<u8, Failure> {
    if output(matches).is_some() && databases.len() > 1 {
        return Err(Failure::new(exit::USAGE, "-o takes one database; name one"));
    }
    if output(matches).is_some_and(|path| path.to_str().is_none() || path.file_name().is_none()) {
        return Err(Failure::new(exit::USAGE, "-o: not the path of a file in UTF-8"));
    }
    let line = context.plan.litestream.line;
    if let Some(mark) = output(matches).and_then(|path| line.format().misread(path.as_os_str().as_bytes())) {
        return Err(Failure::new(exit::USAGE, format!("-o: it has a {mark} in it, by which Litestream opens another file; name another")));
    }
    check_flags(matches, line)?;
    let mut flags: Vec<OsString> = Vec::new();
    for name in HANDED_ON {
        let Some(value) = matches.get_one::<String>(name) else { continue };
        let value = if name == "timestamp" {
            time::utc(value).ok_or_else(|| Failure::new(exit::USAGE, "-timestamp: not understood; write a time as 2026-01-31T12:00:00Z"))?
        } else {
            value.clone()
        };
        flags.extend([format!("-{name}").into(), value.into()]);
    }
    let command = Command { plan: &context.plan, matches, flags };
    let each = |database: &Database| {
        let target = output(matches).unwrap_or_else(|| database.path.clone());
        let done = if matches.get_flag("dry-run") { command.dry_run(database, &target) } else { command.restore(database, &target) };
        done.map_err(|f| Failure::new(f.code, format!("{}: {}", database.alias, f.message)))
    };
    let done = databases.iter().try_for_each(each);
    progress::finish();
    done.map(|()| 0)
}

impl Command<'_> {
    fn source<'a>(&'a self, database: &'a Database) -> Source<'a> {
        Source { flags: &self.flags, readable: output(self.matches).is_some(), ..Source::newest(self.plan, database) }
    }

    fn restore(&self, database: &Database, target: &Path) -> Result<(), Failure> {
        let (matches, began) = (self.matches, Instant::now());
        let system = |error: std::io::Error| Failure::new(exit::SYSTEM, format!("{}: {error}", target.display()));
        let present = restore::look(target).map_err(system)?;
        if present != Local::Missing && matches.get_flag("if-db-not-exists") {
            report::line(format_args!("{}: {} exists: nothing to do", database.alias, target.display()));
            return Ok(());
        }
        let own = target == database.path && url(matches)?.is_none();
        if !own && present != Local::Missing {
            return Err(Failure::new(exit::SYSTEM, format!("{} exists; name another file with -o, or move it away", target.display())));
        }
        // Held for as long as the file is replaced: no boot may begin meanwhile.
        let _locks = if own { Some(not_live(database, "stop the app first, or restore beside it with -o PATH")?) } else { None };
        let folder = Folder(restore::folder(target));
        let source = self.source(database);
        let fetched = if self.is_of_the_past() {
            source.fetch_past(&folder.0)?
        } else {
            ladder::fetch(&source, &folder.0, self.plan.entry.restore_ladder)?
        };
        match fetched {
            Fetched::NoBackup if matches.get_flag("if-replica-exists") => {
                report::line(format_args!("{}: {} has no backup", database.alias, database.replica));
                Ok(())
            }
            Fetched::NoBackup => Err(Failure::new(exit::NO_BACKUP, format!("{} has no backup{}", database.replica, self.point()))),
            Fetched::Database(mut restored) => {
                interrupt::check()?;
                if let Some(time) = backup::flag(&self.flags, "-timestamp") {
                    restored.remark = format!(", {}{}", Point::Time(time.to_owned()).found(source.written()), restored.remark);
                }
                if own && self.is_of_the_past() {
                    restored.position = Some(source.end()?);
                    restored.is_of_the_past = true;
                }
                let size = std::fs::metadata(&restored.file).map(|m| m.len()).unwrap_or_default();
                let old = if matches.get_flag("discard") { Old::Discard } else { Old::Keep };
                install(&restored, target, &self.plan.entry, old).map_err(system)?;
                if own {
                    rollback::is_over(target)
                        .and_then(|()| note_end(&source, &restored))
                        .and_then(|()| note_position(&restored, target))
                        .map_err(system)?;
                }
                self.say(database, target, &restored, size, began);
                Ok(())
            }
        }
    }

    fn is_of_the_past(&self) -> bool {
        POINTS.iter().any(|name| self.matches.contains_id(name))
    }

    fn point(&self) -> String {
        let words: Vec<String> = self.flags.iter().map(|f| f.to_string_lossy().into_owned()).collect();
        if words.is_empty() { String::new() } else { format!(" with {}", words.join(" ")) }
    }

    fn say(&self, database: &Database, target: &Path, restored: &Restored, size: u64, began: Instant) {
        let milliseconds = began.elapsed().as_millis();
        if self.matches.get_flag("json") {
            let object = Object::default().with("database", &database.alias).with("replica", &database.replica).with("path", target);
            return print(&object.with("bytes", size).with("milliseconds", milliseconds).to_string());
        }
        print(&format!(
            "{}: restored {} from {} to {} in {:.1} s{}",
            database.alias,
            report::human_size(size),
            database.replica,
            target.display(),
            began.elapsed().as_secs_f32(),
            restored.remark
        ));
    }

    fn dry_run(&self, database: &Database, target: &Path) -> Result<(), Failure> {
        let plan = self.plan;
        let limit = plan.entry.restore_timeout;
        let by = Instant::now() + limit;
        if plan.litestream.format() == Format::Ltx && !plan.litestream.can(Ability::Status) {
            return Err(Failure::new(exit::USAGE, plan.litestream.lacks("dry run of a restore", Ability::Status)));
        }
        let needed = backup::needed(&plan.litestream, &plan.config(), &database.path, &self.flags, by).map_err(|why| {
            let limit = if Instant::now() >= by { format!(" (within {} s)", limit.as_secs_f32()) } else { String::new() };
            Failure::new(exit::UNREACHABLE, format!("{}: {why}{limit}", database.replica))
        })?;
        match needed {
            Some(needed) => {
                print(&if self.matches.get_flag("json") {
                    json(database, target, &needed)
                } else {
                    text(database, target, &needed, self.matches.get_flag("discard"))
                });
                Ok(())
            }
            None if self.matches.get_flag("if-replica-exists") => {
                report::line(format_args!("{}: {} has no backup", database.alias, database.replica));
                Ok(())
            }
            None => Err(Failure::new(
                exit::NO_BACKUP,
                format!("{} lists no backup{} (one of 0.3's is not listed by 0.5, but restored)", database.replica, self.point()),
            )),
        }
    }
}

fn text(database: &Database, target: &Path, needed: &Needed, discards: bool) -> String {
    let here = match restore::look(target) {
        Ok(Local::Missing) => "",
        _ if discards => ", where a file is that would be removed",
        _ => ", where a file is that would be kept aside",
    };
    let ago = time::since(&needed.created, SystemTime::now()).map(|ago| format!(", {ago} ago")).unwrap_or_default();
    format!(
        "{}: would restore {} (position {}, written at {}{ago}): {} in {} files, compressed, to {}{here}",
        database.alias,
        database.replica,
        needed.position,
        needed.created,
        report::human_size(needed.bytes),
        needed.files,
        target.display()
    )
}

fn json(database: &Database, target: &Path, needed: &Needed) -> String {
    Object::default()
        .with("database", &database.alias)
        .with("replica", &database.replica)
        .with("path", target)
        .with("position", needed.position.to_string())
        .with("created", &needed.created)
        .with("compressed_bytes", needed.bytes)
        .with("files", needed.files)
        .to_string()
}

/// Removed when dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = restore::clear(&self.0);
    }
}
