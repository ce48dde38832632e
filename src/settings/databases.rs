//! Which databases: `LITESTREAM_DBS`, the one-path variables, `DATABASE_URL`, in that order. Must
//! never look at a file.

use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use super::database_url::{self, Named};
use super::{Environment, Replica};

/// One database and its replica.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// Its short name; the only database is `default`.
    pub alias: String,
    /// Absolute path.
    pub path: PathBuf,
    /// Where it is replicated to; filled in by the replica variables.
    pub replica: Replica,
    /// Keys of Litestream's own for it, from the list form.
    pub extra: Mapping,
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

const PATHS: [&str; 4] = ["LITESTREAM_DB_PATH", "LITESTREAM_DATABASE_PATH", "DATABASE_PATH", "DB_PATH"];

/// Every variable that is read here.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PATHS.into_iter().chain(["LITESTREAM_DBS", "LITESTREAM_EXTEND_DBS", "DATABASE_URL"])
}

pub(super) fn read(env: &Environment, problems: &mut Vec<String>) -> Found {
    let mut found = Found::default();
    if let Some(text) = env.get("LITESTREAM_DBS") {
        found.add_list("LITESTREAM_DBS", text, problems);
        found.intended = true;
    } else if let Some((name, path)) = env.first(&PATHS) {
        found.add(name, "default", path, Mapping::new(), problems);
        found.intended = name.starts_with("LITESTREAM_");
    } else if let Some(url) = env.get("DATABASE_URL") {
        match database_url::parse(url) {
            Named::File(path) => found.add("DATABASE_URL", "default", &path.to_string_lossy(), Mapping::new(), problems),
            Named::Other(engine) => found.notes.push(format!("DATABASE_URL is of {engine}, not SQLite: not replicated")),
            Named::Bad(why) => problems.push(format!("DATABASE_URL: {why}; write it as sqlite:////data/app.db")),
        }
    }
    if let Some(text) = env.get("LITESTREAM_EXTEND_DBS") {
        found.add_list("LITESTREAM_EXTEND_DBS", text, problems);
        found.intended = true;
    }
    if let [only] = found.databases.as_mut_slice() {
        "default".clone_into(&mut only.alias);
    }
    found.refuse_doubles(problems);
    found
}

impl Found {
    fn add(&mut self, name: &str, alias: &str, path: &str, extra: Mapping, problems: &mut Vec<String>) {
        let Ok(path) = std::path::absolute(path) else {
            return problems.push(format!("{name}: a database without a path; name its file"));
        };
        if path.file_name().is_none() || path.as_os_str().len() > 4000 {
            return problems.push(format!("{name}: not the path of a file; name the database's file"));
        }
        if self.decided_by.is_empty() {
            name.clone_into(&mut self.decided_by);
        }
        let (alias, named_by) = (alias.to_owned(), name.to_owned());
        self.databases.push(Database { alias, path, replica: Replica::default(), extra, named_by });
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
                    self.add(name, alias.trim(), path.trim(), Mapping::new(), problems);
                }
                Some(_) => problems.push(format!("{name}: {entry:?} is not ALIAS=PATH, with an alias of letters, digits, - and _")),
                None => self.add(name, &stem(entry), entry, Mapping::new(), problems),
            }
        }
    }

    fn add_yaml(&mut self, name: &str, text: &str, problems: &mut Vec<String>) {
        let list: Vec<Mapping> = match serde_yaml::from_str(text) {
            Ok(list) => list,
            Err(_) => return problems.push(format!("{name}: not a YAML or JSON list of databases, as [{{\"path\": \"/data/app.db\"}}]")),
        };
        for mut entry in list {
            let alias = entry.remove("alias").or_else(|| entry.remove("name"));
            match entry.remove("path") {
                Some(Value::String(path)) => {
                    let alias = alias.and_then(|a| a.as_str().map(str::to_owned)).unwrap_or_else(|| stem(&path));
                    self.add(name, &alias, &path, entry, problems);
                }
                _ => problems.push(format!("{name}: an entry without a path")),
            }
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
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn stem(path: &str) -> String {
    Path::new(path).file_stem().map_or_else(|| "default".to_owned(), |s| s.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
