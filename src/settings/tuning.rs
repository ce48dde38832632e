//! Litestream's settings that are no database's and no replica's, each from the variable that the schema names.
//! Must never reject what the running line may know: that is said when the configuration is rendered.

use serde_yaml::Value;

use super::Environment;
use super::values::{self, Kept};
use crate::litestream::schema::{KEYS, Key, Section};

/// One setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuning {
    /// What it sets.
    pub key: &'static Key,
    /// Its value.
    pub value: Value,
    /// The variable that it came from.
    pub from: &'static str,
}

pub(super) fn read(env: &Environment) -> Vec<Tuning> {
    let mut found: Vec<Tuning> = Vec::new();
    for key in KEYS.iter().filter(|k| !matches!(k.section, Section::Database | Section::Replica)) {
        let Some((from, text)) = key.variable.and_then(|name| Some((name, env.get(name)?))) else { continue };
        // Two variables may mean one key: the first wins.
        if found.iter().any(|t| (t.key.section, t.key.name) == (key.section, key.name)) {
            continue;
        }
        if let Kept::Value(value) = values::read(key.kind, text) {
            found.push(Tuning { key, value, from });
        }
    }
    found
}
