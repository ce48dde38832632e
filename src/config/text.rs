//! A configuration as YAML text: whole, for people without its secrets, or with the variable that gave each value.
//! Must never let a value become another type, a comment or a second key.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_yaml::{Mapping, Value};

use crate::litestream::schema::shown_key;
use crate::litestream::schema::{KEYS, Kind};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// All of it, for Litestream.
    Whole,
    /// For people: secrets are left out.
    Redacted,
    /// For people, with the variable that gave each value behind it.
    Explained,
}

/// What stands in the place of a secret.
pub const REDACTED: &str = "(secret)";

/// A mapping as text. `origins` has the variables by path, as `dbs.0.replica.bucket`. Every string that is not a plain
/// word is a double-quoted scalar.
pub(super) fn text(mapping: &Mapping, origins: &BTreeMap<String, String>, style: Style) -> String {
    let mut writer = Writer { out: String::new(), origins, style };
    writer.mapping(mapping, 0, "");
    writer.out
}

/// The same tree without its secrets.
pub fn redacted(value: &Value, name: &str) -> Value {
    match value {
        _ if is_secret(name, value) => REDACTED.into(),
        Value::Mapping(inner) => Value::Mapping(
            inner
                .iter()
                .map(|(key, value)| {
                    let name = key.as_str().unwrap_or_default();
                    (shown_key(name).into(), redacted(value, name))
                })
                .collect(),
        ),
        Value::Sequence(items) => Value::Sequence(items.iter().map(|item| redacted(item, name)).collect()),
        other => other.clone(),
    }
}

/// Whether what stands behind a key is a secret, or may be: a key that nobody knows may be a misspelt one, and a place may have a password in it.
fn is_secret(name: &str, value: &Value) -> bool {
    let is_place = name.ends_with("url") || name == "endpoint";
    // The whole has no name.
    let known = name.is_empty() || KEYS.iter().any(|k| k.name == name);
    !known
        || name == "identities"
        || KEYS.iter().any(|k| k.name == name && k.kind == Kind::Secret)
        || value.as_str().is_some_and(|text| text.contains('@') && text.contains("://") || is_place && text.contains(['@', '?']))
}

struct Writer<'a> {
    out: String,
    origins: &'a BTreeMap<String, String>,
    style: Style,
}

impl Writer<'_> {
    fn mapping(&mut self, mapping: &Mapping, depth: usize, path: &str) {
        for (key, value) in mapping {
            let name = key.as_str().unwrap_or_default();
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            let key = if self.style == Style::Whole { key.clone() } else { shown_key(name).into() };
            let _ = write!(self.out, "{}{}:", "  ".repeat(depth), scalar(&key));
            self.value(value, depth, &path, name);
        }
    }

    fn value(&mut self, value: &Value, depth: usize, path: &str, name: &str) {
        let deeper = depth.saturating_add(1);
        match value {
            _ if self.style != Style::Whole && is_secret(name, value) => self.leaf(&scalar(&REDACTED.into()), path),
            Value::Mapping(inner) if inner.is_empty() => self.out.push_str(" {}\n"),
            Value::Mapping(inner) => {
                self.out.push('\n');
                self.mapping(inner, deeper, path);
            }
            Value::Sequence(items) if items.is_empty() => self.out.push_str(" []\n"),
            Value::Sequence(items) => {
                self.out.push('\n');
                for (at, item) in items.iter().enumerate() {
                    self.item(item, deeper, &format!("{path}.{at}"), name);
                }
            }
            other => self.leaf(&scalar(other), path),
        }
    }

    /// `- path: …`: an item's first key stands on the line of its dash.
    fn item(&mut self, item: &Value, depth: usize, path: &str, name: &str) {
        let _ = write!(self.out, "{}-", "  ".repeat(depth));
        match item {
            Value::Mapping(inner) if !inner.is_empty() => {
                let at = self.out.len();
                self.mapping(inner, depth.saturating_add(1), path);
                let lines = self.out.split_off(at);
                let _ = write!(self.out, " {}", lines.trim_start());
            }
            other => self.value(other, depth, path, name),
        }
    }

    fn leaf(&mut self, text: &str, path: &str) {
        let origin = self.origins.get(path).filter(|o| self.style == Style::Explained && !o.is_empty());
        let _ = match origin {
            Some(origin) => writeln!(self.out, " {text}  # {origin}"),
            None => writeln!(self.out, " {text}"),
        };
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !is_word(text) => {
            text.clone()
        }
        Value::String(text) => crate::json::quoted(text),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        _ => "null".to_owned(),
    }
}

/// YAML 1.1's words for true, false and null, which Litestream's parser still knows.
fn is_word(text: &str) -> bool {
    matches!(text, "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null") || text.starts_with('-')
}
