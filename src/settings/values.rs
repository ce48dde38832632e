//! A variable's text as the value that Litestream's key takes. Must never repeat the text in what it says.

use serde_yaml::{Mapping, Value};

use crate::litestream::duration;
use crate::litestream::schema::{Kind, Section};

/// What became of a text.
pub(super) enum Kept {
    /// The value.
    Value(Value),
    /// How to write it.
    Bad(&'static str),
}

/// A text as a value of this kind.
pub(super) fn read(kind: Kind, text: &str) -> Kept {
    let trimmed = text.trim();
    match kind {
        // A secret's spaces may be part of it.
        Kind::Text | Kind::Secret => Kept::Value(Value::String(text.to_owned())),
        Kind::Number => trimmed.parse::<u64>().map_or(Kept::Bad("not a number"), |n| Kept::Value(n.into())),
        Kind::Size if is_size(trimmed) => Kept::Value(Value::String(trimmed.to_owned())),
        Kind::Size => Kept::Bad("not a size; write it as 5MB"),
        Kind::Flag => read_flag(trimmed).map_or(Kept::Bad("not true or false"), |on| Kept::Value(on.into())),
        Kind::Duration if is_duration(trimmed) => Kept::Value(Value::String(trimmed.to_owned())),
        Kind::Duration => Kept::Bad("not a duration with a unit; write it as 10s, 5m or 24h"),
        Kind::List => Kept::Value(Value::Sequence(items(trimmed).map(|item| Value::String(item.to_owned())).collect())),
        Kind::Mappings(Section::Level) if items(trimmed).all(is_duration) && !trimmed.is_empty() => {
            let level = |item: &str| Value::Mapping(Mapping::from_iter([("interval".into(), item.into())]));
            Kept::Value(Value::Sequence(items(trimmed).map(level).collect()))
        }
        Kind::Mappings(Section::Level) => Kept::Bad("not a list of durations; write it as 30s,5m,1h"),
        Kind::Mapping(_) | Kind::Mappings(_) => Kept::Bad("not a single value"),
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// `true`, `false` and the other words for them.
pub fn read_flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// With a unit: Litestream takes a bare number for nanoseconds.
fn is_duration(text: &str) -> bool {
    duration::parse(text).is_some_and(|nanoseconds| nanoseconds >= 0.0)
}

fn is_size(text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    unit.len() < text.len() && ["", "b", "kb", "mb", "gb", "kib", "mib", "gib"].contains(&unit.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_of_the_kind_that_its_key_takes() {
        let value = |kind, text: &str| match read(kind, text) {
            Kept::Value(value) => Some(value),
            Kept::Bad(_) => None,
        };
        assert_eq!(value(Kind::Flag, "Yes"), Some(true.into()));
        assert_eq!(value(Kind::Number, "12"), Some(12_u64.into()));
        assert_eq!(value(Kind::Number, "12s"), None);
        assert_eq!(value(Kind::Secret, " a "), Some(" a ".into()));
        assert_eq!(value(Kind::Size, "5MB"), Some("5MB".into()));
        assert_eq!(value(Kind::Size, "MB"), None);
        assert_eq!(value(Kind::Mappings(Section::Level), "30s, 1d"), None);
        assert_eq!(value(Kind::Mappings(Section::Level), "30s,5m").and_then(|v| v.as_sequence().map(Vec::len)), Some(2));
    }
}
