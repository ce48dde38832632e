//! Go's `os.Expand`, which Litestream runs over its whole configuration before it is YAML. Must never put in
//! anything but what the environment has: Go knows no defaults.

use std::ops::Range;

/// How a reference is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `${…}`.
    Braced,
    /// `$NAME`.
    Bare,
    /// `$` and one of Go's `*#$@!?-0123456789`, braced or not: a variable that no environment has.
    Special,
    /// `${}`, or `${` without a `}`: Go eats just that.
    Broken,
}

/// A place where Go puts in a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Its bytes in the text, `$` and braces included.
    pub at: Range<usize>,
    /// What Go asks the environment for.
    pub name: &'a str,
    /// How it is written.
    pub form: Form,
}

/// Every reference in a text. A `$` before anything else stays as it is.
pub fn references(text: &str) -> Vec<Reference<'_>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some((before, after)) = text.get(from..).and_then(|rest| rest.split_once('$')) {
        let start = from.saturating_add(before.len());
        let (name, form, width) = name(after);
        let end = start.saturating_add(1).saturating_add(width);
        if width > 0 {
            found.push(Reference { at: start..end, name, form });
        }
        from = end;
    }
    found
}

/// The text as Litestream gets it; what is unset is empty.
pub fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut from = 0;
    for reference in references(text) {
        out.push_str(text.get(from..reference.at.start).unwrap_or_default());
        out.push_str(&env(reference.name).unwrap_or_default());
        from = reference.at.end;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

/// Go's `getShellName`: the name, its form, and how many bytes after the `$` it takes.
fn name(after: &str) -> (&str, Form, usize) {
    let special = |c: char| matches!(c, '*' | '#' | '$' | '@' | '!' | '?' | '-') || c.is_ascii_digit();
    if let Some(braced) = after.strip_prefix('{') {
        return match braced.split_once('}') {
            None => ("", Form::Broken, 1),
            Some(("", _)) => ("", Form::Broken, 2),
            Some((name, _)) if name.len() == 1 && name.starts_with(special) => (name, Form::Special, 3),
            Some((name, _)) => (name, Form::Braced, name.len().saturating_add(2)),
        };
    }
    if after.starts_with(special) {
        return (after.get(..1).unwrap_or_default(), Form::Special, 1);
    }
    let name = after.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
    (name, Form::Bare, name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    // What both lines' binaries make of these, seen with `litestream databases`.
    #[test]
    fn a_text_is_expanded_as_go_does_it() {
        let env = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        for (text, becomes) in [
            ("x${HOME}y$HOME/z", "x/rooty/root/z"),
            ("pa$$word$1b$ c${}d", "pawordb$ cd"),
            ("${NO:-x}${HOME:-x}", ""),
            ("a${b", "ab"),
            ("a$/b$", "a$/b$"),
            ("$12", "2"),
            ("ä$HOMEä${*}", "ä/rootä"),
            ("ä$HOME.ä", "ä/root.ä"),
        ] {
            assert_eq!(expand(text, &env), becomes, "{text}");
        }
    }
}
