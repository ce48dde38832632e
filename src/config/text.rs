//! A configuration as YAML text: whole, for people without its secrets, or with the variable that gave each value.
//! Must never let a value become another type, a comment or a second key.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_yaml::{Mapping, Value};

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
        Value::Mapping(inner) => {
            Value::Mapping(inner.iter().map(|(key, value)| (key.clone(), redacted(value, key.as_str().unwrap_or_default()))).collect())
        }
        Value::Sequence(items) => Value::Sequence(items.iter().map(|item| redacted(item, name)).collect()),
        Value::String(text) if is_secret(name, text) => REDACTED.into(),
        other => other.clone(),
    }
}

/// Whether a key's value is a secret, or a URL with one in it.
fn is_secret(name: &str, text: &str) -> bool {
    let userinfo = || text.split_once("://").is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|host| host.contains('@')));
    name == "identities"
        || KEYS.iter().any(|k| k.name == name && k.kind == Kind::Secret)
        || (name.ends_with("url") && (userinfo() || text.contains('?')))
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
            let _ = write!(self.out, "{}{}:", "  ".repeat(depth), scalar(key));
            self.value(value, depth, &path, name);
        }
    }

    fn value(&mut self, value: &Value, depth: usize, path: &str, name: &str) {
        let deeper = depth.saturating_add(1);
        match value {
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
            Value::String(text) if self.style != Style::Whole && is_secret(name, text) => self.leaf(&scalar(&REDACTED.into()), path),
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
        Value::String(text) => crate::litestream::socket::json_string(text),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        _ => "null".to_owned(),
    }
}

/// YAML 1.1's words for true, false and null, which Litestream's parser still knows.
fn is_word(text: &str) -> bool {
    matches!(text, "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null") || text.starts_with('-')
}
