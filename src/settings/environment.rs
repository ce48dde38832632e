//! The environment as text: empty is unset, `…_FILE` twins of secrets are read, non-UTF-8 is a
//! problem only in a variable that is ours. Must never keep or show more of a value than its owner asks for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{ALERT_URL, HEARTBEAT_URL, databases, dialects, replicas};
use crate::litestream::schema::{KEYS, Kind};

/// A secret's file is a line; one that is larger is a mistake.
const LARGEST_SECRET: u64 = 64 * 1024;

/// Variables by name.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    values: BTreeMap<String, String>,
    problems: Vec<String>,
    /// Secrets that are in a file, and which.
    files: Vec<(String, PathBuf)>,
}

/// What secrets' files have, by the variables' names without `_FILE`.
pub type Values = BTreeMap<String, String>;

impl Environment {
    /// From what the process was given, and `flags`, which stand for variables and win.
    pub fn load(vars: impl Iterator<Item = (OsString, OsString)>, flags: Vec<(String, String)>) -> Self {
        Self::load_by(vars, flags, &|_, path| read_secret(path))
    }

    /// The same, where the secrets' files have been read already.
    pub fn load_with(vars: impl Iterator<Item = (OsString, OsString)>, flags: Vec<(String, String)>, values: &Values) -> Self {
        Self::load_by(vars, flags, &|name, _| values.get(name).cloned().ok_or_else(|| "was never read".to_owned()))
    }

    fn load_by(
        vars: impl Iterator<Item = (OsString, OsString)>,
        flags: Vec<(String, String)>,
        read: &dyn Fn(&str, &Path) -> Result<String, String>,
    ) -> Self {
        let mut env = Self::default();
        for (name, value) in vars {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => drop(env.values.insert(name, value)),
                Err(_) if is_ours(&name) => env.problems.push(format!("{name}: not UTF-8; set it to plain text")),
                Err(_) => {}
            }
        }
        env.values.extend(flags);
        env.values.retain(|_, value| !value.is_empty());
        env.read_secret_files(read);
        env
    }

    /// For tests: exactly these.
    pub fn of(vars: &[(&str, &str)]) -> Self {
        let flags = vars.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).filter(|(_, v)| !v.is_empty()).collect();
        Self::load(std::iter::empty(), flags)
    }

    /// A variable's value; an empty one is unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The first of these that is set, with its name.
    pub fn first<'a>(&'a self, names: &[&'a str]) -> Option<(&'a str, &'a str)> {
        names.iter().find_map(|name| self.get(name).map(|value| (*name, value)))
    }

    /// All whose names begin so.
    pub fn prefixed<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.values.iter().filter(move |(n, _)| n.starts_with(prefix)).map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// What was wrong with variables before anyone asked what they mean.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The secrets that are in a file, and which.
    pub fn files(&self) -> &[(String, PathBuf)] {
        &self.files
    }

    fn read_secret_files(&mut self, read: &dyn Fn(&str, &Path) -> Result<String, String>) {
        let twin = |(name, path): (&String, &String)| Some((name.strip_suffix("_FILE").filter(|n| is_secret(n))?.to_owned(), path.clone()));
        let twins: Vec<(String, String)> = self.values.iter().filter_map(twin).collect();
        for (name, path) in twins {
            if self.values.contains_key(&name) {
                self.problems.push(format!("{name} and {name}_FILE are both set; unset one"));
                continue;
            }
            match read(&name, Path::new(&path)) {
                Ok(secret) => {
                    self.files.push((name.clone(), path.into()));
                    self.values.insert(name, secret);
                }
                // Somebody may have put the secret itself there.
                Err(why) if !Path::new(&path).parent().is_some_and(|p| p.is_absolute() && p.is_dir()) => {
                    self.problems.push(format!("{name}_FILE: not a file in a directory that exists ({why})"));
                }
                Err(why) => self.problems.push(format!("{name}_FILE: {path}: {why}")),
            }
        }
    }
}

fn read_secret(path: &Path) -> Result<String, String> {
    secret_in(File::open(path).map_err(|e| e.to_string())?)
}

/// A secret's file as it is used.
///
/// # Errors
/// What is wrong with it.
pub fn secret_in(file: File) -> Result<String, String> {
    let mut bytes = Vec::new();
    file.take(LARGEST_SECRET.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LARGEST_SECRET {
        return Err(format!("more than {LARGEST_SECRET} bytes are too many for a secret"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Whether the variable may hold a secret; `_ALIAS` may stand behind its name. The longest known name decides:
/// `…_SSE_CUSTOMER_KEY_PATH` is no `…_SSE_CUSTOMER_KEY` of a database called `path`.
pub(super) fn is_secret(name: &str) -> bool {
    let keys = KEYS.iter().filter_map(|k| Some((k.variable?, k.kind == Kind::Secret)));
    let known = dialects::secrets().chain([ALERT_URL, HEARTBEAT_URL]).map(|n| (n, true)).chain(keys);
    let begins = |(known, _): &(&str, bool)| name.strip_prefix(*known).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    known.filter(begins).max_by_key(|(known, secret)| (known.len(), *secret)).is_some_and(|(_, secret)| secret)
}

/// Whether this program gives the variable a meaning of its own.
fn is_ours(name: &str) -> bool {
    name.starts_with("LITESTREAM_") || replicas::names().chain(databases::names()).any(|known| known == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    #[test]
    fn an_empty_value_is_unset_and_foreign_bytes_are_no_problem() {
        let odd = OsString::from_vec(vec![0xff, 0xfe]);
        let env = Environment::load(
            [("DB_PATH".into(), OsString::new()), ("LESSOPEN".into(), odd.clone()), ("LITESTREAM_DBS".into(), odd)].into_iter(),
            Vec::new(),
        );
        assert_eq!(env.get("DB_PATH"), None);
        assert_eq!(env.problems(), ["LITESTREAM_DBS: not UTF-8; set it to plain text"]);
    }

    #[test]
    fn a_secret_file_loses_its_trailing_newline_and_an_unreadable_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "s3 cr$t: #\n").unwrap();
        let env = Environment::of(&[
            ("LITESTREAM_SECRET_ACCESS_KEY_FILE", file.to_str().unwrap()),
            ("AWS_ACCESS_KEY_ID_FILE", "/proc/nowhere"),
            ("REPLICA_URL_FILE", "s3cret"),
        ]);
        assert_eq!(env.get("LITESTREAM_SECRET_ACCESS_KEY"), Some("s3 cr$t: #"));
        assert!(env.problems()[0].starts_with("AWS_ACCESS_KEY_ID_FILE: /proc/nowhere: "));
        assert!(env.problems()[1].starts_with("REPLICA_URL_FILE: not a file") && !env.problems()[1].contains("s3cret"));
    }
}
