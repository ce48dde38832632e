//! Which databases: `LITESTREAM_DBS`, the one-path variables, `DATABASE_URL`, a directory, in that order. Must
//! never look at a file.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use super::database_url::{self, Named};
use super::replicas;
use super::values::read_flag;
use super::{Environment, Replica};

/// One database and its replica, or a directory of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Its short name.
    pub alias: String,
    /// Absolute path.
    pub path: PathBuf,
    /// The path is a directory, and its files that match are the databases (0.5).
    pub is_dir: bool,
    /// Where it is replicated to; filled in by the replica variables.
    pub replica: Replica,
    /// Keys of Litestream's own for it, from the list form and from variables.
    pub extra: Mapping,
    /// The variables that those came from, where it was not [`Self::named_by`].
    pub from: BTreeMap<String, String>,
    /// The variable that named it.
    pub named_by: String,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) databases: Vec<Database>,
    /// Whether a variable that has no other purpose named them.
    pub(super) intended: bool,
    pub(super) decided_by: String,
    pub(super) notes: Vec<String>,
}

const PATHS: [&str; 8] = [
    "LITESTREAM_DB_PATH",
    "LITESTREAM_DATABASE_PATH",
    "DATABASE_PATH",
    "DB_PATH",
    "SQLITE_DB_PATH",
    "DB_FILE",
    "DB_FILE_NAME",
    "DATABASE_FILENAME",
];
/// Rails reads `NAME_DATABASE_URL` for each of its databases.
const RAILS: [(&str, &str); 4] = [
    ("primary", "PRIMARY_DATABASE_URL"),
    ("cache", "CACHE_DATABASE_URL"),
    ("queue", "QUEUE_DATABASE_URL"),
    ("cable", "CABLE_DATABASE_URL"),
];
/// Laravel's file, where its connection is `sqlite`.
const LARAVEL: (&str, &str) = ("DB_CONNECTION", "DB_DATABASE");
const DIRECTORY: &str = "LITESTREAM_DB_DIR";
const PATTERN: &str = "LITESTREAM_DB_PATTERN";
const FLAGS: [(&str, &str); 2] = [("recursive", "LITESTREAM_DB_RECURSIVE"), ("watch", "LITESTREAM_DB_WATCH")];
const EXCLUDED: &str = "LITESTREAM_EXCLUDE_DBS";

/// Every variable that is read here.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let rails = RAILS.into_iter().map(|(_, name)| name);
    let flags = FLAGS.into_iter().map(|(_, name)| name);
    let lists = ["LITESTREAM_DBS", "LITESTREAM_EXTEND_DBS", "DATABASE_URL", DIRECTORY, PATTERN, EXCLUDED, LARAVEL.0, LARAVEL.1];
    PATHS.into_iter().chain(rails).chain(flags).chain(lists)
}

pub(super) fn read(env: &Environment, problems: &mut Vec<String>) -> Found {
    let mut found = Found::default();
    found.add_first(env, problems);
    if let Some(text) = env.get("LITESTREAM_EXTEND_DBS") {
        found.add_list("LITESTREAM_EXTEND_DBS", text, problems);
        found.intended = true;
    }
    if let Some(text) = env.get(EXCLUDED) {
        found.leave_out(text);
    }
    found.refuse_doubles(problems);
    found
}

impl Found {
    /// The first variable that names a database names them all.
    fn add_first(&mut self, env: &Environment, problems: &mut Vec<String>) {
        let laravel = env.get(LARAVEL.0).filter(|c| c.eq_ignore_ascii_case("sqlite")).and_then(|_| env.get(LARAVEL.1));
        let urls = || RAILS.into_iter().filter_map(|(alias, name)| Some((alias, name, env.get(name)?)));
        if let Some(text) = env.get("LITESTREAM_DBS") {
            self.add_list("LITESTREAM_DBS", text, problems);
            self.intended = true;
        } else if let Some((name, path)) = env.first(&PATHS) {
            // Drizzle writes file:local.db.
            if path.starts_with("file:") {
                self.add_url(name, "default", path, problems);
            } else {
                self.add(name, "default", path, problems);
            }
            self.intended = name.starts_with("LITESTREAM_");
        } else if let Some(path) = laravel {
            self.add(LARAVEL.1, "default", path, problems);
        } else if env.get("DATABASE_URL").is_some() || urls().next().is_some() {
            if let Some(url) = env.get("DATABASE_URL") {
                self.add_url("DATABASE_URL", "default", url, problems);
            }
            for (alias, name, url) in urls() {
                self.add_url(name, alias, url, problems);
            }
        } else if let Some(path) = env.get(DIRECTORY) {
            self.add_directory(env, path, problems);
            self.intended = true;
        }
    }

    fn add_url(&mut self, name: &str, alias: &str, url: &str, problems: &mut Vec<String>) {
        match database_url::parse(url) {
            Named::File(path) => self.add(name, alias, &path.to_string_lossy(), problems),
            Named::Other(engine) => self.notes.push(format!("{name} is of {engine}, not SQLite: not replicated")),
            Named::Bad(why) => problems.push(format!("{name}: {why}; write it as sqlite:////data/app.db")),
        }
    }

    /// New tenants are noticed, unless told otherwise: Litestream refuses an empty directory that it does not watch.
    fn add_directory(&mut self, env: &Environment, path: &str, problems: &mut Vec<String>) {
        let mut keys = Mapping::new();
        keys.insert("pattern".into(), env.get(PATTERN).unwrap_or("*.db").into());
        keys.insert("watch".into(), true.into());
        for (key, name) in FLAGS {
            match env.get(name).map(read_flag) {
                Some(Some(on)) => drop(keys.insert(key.into(), on.into())),
                Some(None) => problems.push(format!("{name}: not true or false")),
                None => {}
            }
        }
        self.add_with(DIRECTORY, "tenants", path, true, keys, problems);
    }

    fn add(&mut self, name: &str, alias: &str, path: &str, problems: &mut Vec<String>) {
        self.add_with(name, alias, path, false, Mapping::new(), problems);
    }

    fn add_with(&mut self, name: &str, alias: &str, path: &str, is_dir: bool, mut extra: Mapping, problems: &mut Vec<String>) {
        if path == ":memory:" {
            return problems.push(format!("{name}: a database in memory cannot be replicated; name a file"));
        }
        let Ok(path) = std::path::absolute(path) else {
            return problems.push(format!("{name}: a database without a path; name its file"));
        };
        if path.as_os_str().as_bytes().iter().any(u8::is_ascii_control) {
            return problems
                .push(format!("{name}: a control character in the path; write it in one line, and rename the file that has one"));
        }
        if path.file_name().is_none() || path.as_os_str().len() > 4000 {
            return problems.push(format!("{name}: not the path of a file; name the database's file"));
        }
        if self.decided_by.is_empty() {
            name.clone_into(&mut self.decided_by);
        }
        let replica = replicas::take_listed(&mut extra, name);
        let (alias, named_by) = (alias.to_owned(), name.to_owned());
        self.databases.push(Database { alias, path, is_dir, replica, extra, from: BTreeMap::new(), named_by });
    }

    /// `default=/data/app.db,cache=/data/cache.db`, plain paths, or a YAML/JSON list as in Litestream's `dbs:`.
    fn add_list(&mut self, name: &str, text: &str, problems: &mut Vec<String>) {
        let trimmed = text.trim_start();
        if trimmed.starts_with('[') || trimmed.starts_with("- ") {
            return self.add_yaml(name, text, problems);
        }
        for entry in text.split([',', '\n']).map(str::trim).filter(|e| !e.is_empty()) {
            match entry.split_once('=') {
                Some((alias, path)) if is_alias(alias.trim()) && !path.trim().is_empty() => {
                    self.add(name, alias.trim(), path.trim(), problems);
                }
                Some(_) => problems.push(format!("{name}: an entry is not ALIAS=PATH, with an alias of letters, digits, - and _")),
                None => self.add(name, &stem(entry), entry, problems),
            }
        }
    }

    fn add_yaml(&mut self, name: &str, text: &str, problems: &mut Vec<String>) {
        let list: Vec<Mapping> = match serde_yaml::from_str(text).or_else(|_| serde_yaml::from_str(&with_whole_escapes(text))) {
            Ok(list) => list,
            Err(_) => return problems.push(format!("{name}: not a YAML or JSON list of databases, as [{{\"path\": \"/data/app.db\"}}]")),
        };
        for mut entry in list {
            let alias = entry.remove("alias").or_else(|| entry.remove("name"));
            let alias = alias.and_then(|a| a.as_str().map(str::to_owned));
            let is_dir = entry.contains_key("dir");
            match entry.remove("path").or_else(|| entry.remove("dir")) {
                Some(Value::String(path)) => {
                    let alias = alias.unwrap_or_else(|| stem(&path));
                    if !is_alias(&alias) {
                        problems.push(format!("{name}: an alias is not of letters, digits, - and _"));
                    }
                    self.add_with(name, &alias, &path, is_dir, entry, problems);
                }
                _ => problems.push(format!("{name}: an entry without a path")),
            }
        }
    }

    /// Aliases, paths or file names that are not to be replicated, such as a cache.
    fn leave_out(&mut self, text: &str) {
        for word in text.split([',', '\n']).map(str::trim).filter(|w| !w.is_empty()) {
            let is_meant = |d: &Database| {
                d.alias == word
                    || Some(d.path.as_path()) == std::path::absolute(word).ok().as_deref()
                    || d.path.file_name().is_some_and(|n| n == word)
            };
            let before = self.databases.len();
            self.databases.retain(|d| !is_meant(d));
            let left_out = if before == self.databases.len() { "is no database here" } else { "is not replicated" };
            self.notes.push(format!("{EXCLUDED}: {word} {left_out}"));
        }
    }

    fn refuse_doubles(&self, problems: &mut Vec<String>) {
        for (at, db) in self.databases.iter().enumerate() {
            for other in self.databases.iter().skip(at.saturating_add(1)) {
                if other.path == db.path {
                    problems.push(format!("{}: {} is named twice; name it once", other.named_by, db.path.display()));
                } else if other.alias == db.alias {
                    problems
                        .push(format!("{}: two databases are called {}; write ALIAS=PATH to tell them apart", other.named_by, db.alias));
                }
            }
        }
    }
}

fn is_alias(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.')
}

/// A file's stem, with what an alias cannot have replaced.
fn stem(path: &str) -> String {
    let stem = Path::new(path).file_stem().map_or_else(|| "default".to_owned(), |s| s.to_string_lossy().into_owned());
    stem.chars().map(|c| if is_alias(&c.to_string()) { c } else { '_' }).collect()
}

/// JSON writes what is beyond sixteen bits as two escapes (`\ud83d\ude00`, RFC 8259, section 7), and YAML knows none of them alone.
fn with_whole_escapes(json: &str) -> String {
    let unit = |text: &str| u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok();
    let (mut whole, mut rest) = (String::new(), json);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        whole.push_str(before);
        let pair = unit(escape).zip(escape.get(6..).and_then(unit));
        let joined = pair.and_then(|(high, low)| char::decode_utf16([high, low]).next()?.ok().filter(|one| one.len_utf16() == 2));
        // What stands behind a backslash begins nothing.
        let end = if joined.is_some() { 12 } else { escape.char_indices().nth(2).map_or(escape.len(), |(at, _)| at) };
        let (this, after) = escape.split_at_checked(end).unwrap_or((escape, ""));
        match joined {
            Some(one) => whole.push(one),
            None => whole.push_str(this),
        }
        rest = after;
    }
    whole + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_of_json_in_two_parts_is_one_character() {
        assert_eq!(
            with_whole_escapes(r#"["\ud83d\ude00", "\u00e9", "\\ud83d\ude00", "\ud83d"]"#),
            r#"["😀", "\u00e9", "\\ud83d\ude00", "\ud83d"]"#
        );
        assert_eq!(with_whole_escapes("\\"), "\\");
    }

    fn named(vars: &[(&str, &str)]) -> (Vec<(String, String)>, Vec<String>) {
        let mut problems = Vec::new();
        let found = read(&Environment::of(vars), &mut problems);
        (found.databases.iter().map(|d| (d.alias.clone(), d.path.display().to_string())).collect(), problems)
    }

    #[test]
    fn the_list_takes_aliases_plain_paths_and_litestreams_own_form() {
        let pair = |a: &str, p: &str| (a.to_owned(), p.to_owned());
        let both = vec![pair("main", "/d/a.db"), pair("cache", "/d/cache.db")];
        for text in [
            "main=/d/a.db, cache=/d/cache.db",
            "main=/d/a.db\n/d/cache.db",
            r#"[{"path":"/d/a.db","alias":"main"},{"path":"/d/cache.db"}]"#,
        ] {
            assert_eq!(named(&[("LITESTREAM_DBS", text)]), (both.clone(), vec![]), "{text}");
        }
    }

    #[test]
    fn the_first_variable_that_is_set_wins() {
        let (dbs, _) = named(&[("DB_PATH", "/d/2.db"), ("DATABASE_PATH", "/d/1.db"), ("DATABASE_URL", "sqlite:////d/3.db")]);
        assert_eq!(dbs, [("default".to_owned(), "/d/1.db".to_owned())]);
    }

    #[test]
    fn doubles_and_nonsense_are_named() {
        assert_eq!(named(&[("LITESTREAM_DBS", "a=/d/x,b=/d/x")]).1.len(), 1);
        assert_eq!(named(&[("LITESTREAM_DBS", "a=/d/x,a=/d/y")]).1.len(), 1);
        assert_eq!(named(&[("LITESTREAM_DBS", "a b=/d/x,=/y")]).1.len(), 2);
        assert_eq!(named(&[("LITESTREAM_DBS", "[nonsense")]).1.len(), 1);
        assert_eq!(named(&[("DB_PATH", "/")]).1.len(), 1);
    }

    #[test]
    fn rails_databases_have_a_url_each_and_some_are_left_out() {
        let rails = [
            ("DATABASE_URL", "sqlite3:///rails/storage/production.sqlite3"),
            ("CACHE_DATABASE_URL", "sqlite3:///rails/storage/production_cache.sqlite3"),
            ("QUEUE_DATABASE_URL", "sqlite3:///rails/storage/production_queue.sqlite3"),
            ("CABLE_DATABASE_URL", "postgres://h/cable"),
            ("LITESTREAM_EXCLUDE_DBS", "cache, nonsense"),
        ];
        let aliases: Vec<String> = named(&rails).0.into_iter().map(|(alias, _)| alias).collect();
        assert_eq!(aliases, ["default", "queue"]);
        let notes = read(&Environment::of(&rails), &mut Vec::new()).notes;
        assert_eq!(notes.len(), 3, "{notes:?}");
    }

    #[test]
    fn laravels_file_counts_only_where_its_connection_is_sqlite() {
        assert_eq!(named(&[("DB_CONNECTION", "sqlite"), ("DB_DATABASE", "/d/l.sqlite")]).0.len(), 1);
        assert!(named(&[("DB_CONNECTION", "mysql"), ("DB_DATABASE", "laravel")]).0.is_empty());
    }

    #[test]
    fn a_directory_is_watched_unless_told_otherwise() {
        let read = |vars: &[(&str, &str)]| read(&Environment::of(vars), &mut Vec::new()).databases;
        let watched = &read(&[("LITESTREAM_DB_DIR", "/d/tenants")])[0];
        assert!(watched.is_dir && watched.extra["watch"] == Value::Bool(true) && watched.extra["pattern"] == "*.db");
        assert_eq!(read(&[("LITESTREAM_DB_DIR", "/d/t"), ("LITESTREAM_DB_WATCH", "false")])[0].extra["watch"], Value::Bool(false));
        assert!(read(&[("LITESTREAM_DBS", "- dir: /d/t\n  pattern: '*.sqlite'")])[0].is_dir);
    }
}
