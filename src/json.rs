//! JSON, for programs. Must never write what is none, whatever a text is made of.

use std::fmt;

/// A value, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json(String);

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A string's literal, which is a double-quoted scalar of YAML, too.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // YAML takes these for line breaks, a byte order mark, or no characters at all.
            c if c.is_control() || "\u{2028}\u{2029}\u{feff}\u{fffe}\u{ffff}".contains(c) => {
                out.extend(format!("\\u{:04x}", u32::from(c)).chars());
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self(quoted(text))
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&String> for Json {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<&std::path::Path> for Json {
    fn from(path: &std::path::Path) -> Self {
        (&*path.to_string_lossy()).into()
    }
}

impl From<bool> for Json {
    fn from(flag: bool) -> Self {
        Self(flag.to_string())
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl From<$number> for Json {
            fn from(number: $number) -> Self {
                Self(number.to_string())
            }
        })*
    };
}

numbers!(u8, u32, u64, u128, usize);

impl<T: Into<Self>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or_else(|| Self("null".to_owned()), Into::into)
    }
}

impl From<&serde_yaml::Value> for Json {
    fn from(value: &serde_yaml::Value) -> Self {
        use serde_yaml::Value;
        match value {
            Value::Mapping(inner) => inner.iter().fold(Object::default(), |o, (k, v)| o.with(k.as_str().unwrap_or_default(), v)).into(),
            Value::Sequence(items) => list(items),
            Value::String(text) => text.into(),
            Value::Bool(flag) => (*flag).into(),
            Value::Number(number) => Self(number.to_string()),
            _ => None::<bool>.into(),
        }
    }
}

/// Seconds, to a thousandth.
pub fn seconds(duration: std::time::Duration) -> Json {
    Json(format!("{:.3}", duration.as_secs_f64()))
}

/// An array.
pub fn list<T: Into<Json>>(items: impl IntoIterator<Item = T>) -> Json {
    let items: Vec<String> = items.into_iter().map(|item| item.into().0).collect();
    Json(format!("[{}]", items.join(",")))
}

/// An object, a key at a time.
#[derive(Debug, Default)]
pub struct Object(String);

impl Object {
    /// The same with this key, too.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Json>) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.extend([quoted(key), ":".to_owned(), value.into().0]);
        self
    }
}

impl From<Object> for Json {
    fn from(object: Object) -> Self {
        Self(format!("{{{}}}", object.0))
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_text_is_one_string() {
        assert_eq!(quoted("a\"b\\c\nd"), r#""a\"b\\c\u000ad""#);
        for odd in ["\u{2028}", "\u{2029}", "\u{feff}", "\u{fffe}", "\u{ffff}", "\u{85}", "é😀"] {
            assert_eq!(serde_yaml::from_str::<String>(&quoted(odd)).ok().as_deref(), Some(odd));
        }
    }

    #[test]
    fn an_object_has_its_keys_in_their_order() {
        let object = Object::default().with("a", 1_u64).with("b", None::<&str>).with("c", list(["x", "y"])).with("d", Object::default());
        assert_eq!(object.to_string(), r#"{"a":1,"b":null,"c":["x","y"],"d":{}}"#);
    }
}
