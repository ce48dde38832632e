//! A database and a directory of databases as every later stage knows them: data alone. Must never decide anything.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One database as every later stage knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its short name.
    pub alias: String,
    /// Absolute path.
    pub path: PathBuf,
    /// Type and place of its replica, without secrets.
    pub replica: String,
    /// The variables that decided it.
    pub from: Vec<String>,
    /// Litestream keeps its own files of it in another place (`meta-path`).
    pub has_own_meta: bool,
    /// Other paths in the same bucket under which an earlier configuration may have kept it, where we chose ours.
    pub elsewhere: Vec<String>,
}

/// A directory whose files that match are databases (0.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Its short name.
    pub alias: String,
    /// Absolute path.
    pub path: PathBuf,
    /// Go's `filepath.Match` on a file's name.
    pub pattern: String,
    /// Whether the directories in it are searched, too.
    pub recursive: bool,
    /// Type and place of its replica, below which each database has its relative path; without secrets.
    pub replica: String,
    /// Litestream keeps its own files in another place (`meta-dir`).
    pub has_own_meta: bool,
    /// The variables that decided it.
    pub from: Vec<String>,
}

impl Directory {
    /// As a database of its own, for the lock on it.
    pub fn as_database(&self) -> Database {
        Database {
            alias: self.alias.clone(),
            path: self.path.clone(),
            replica: self.replica.clone(),
            from: self.from.clone(),
            has_own_meta: false,
            elsewhere: Vec::new(),
        }
    }
}
