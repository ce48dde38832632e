//! `${VAR}` in a configuration: what Litestream puts there that is not what was meant. Must never show what a
//! variable holds, what was meant as its default, or a name that may be a piece of a password.

use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;

use super::tree::{Body, Node, Place};
use super::{Context, is_public};
use crate::litestream::expand::{self, Form};

/// A reference, where it stands, and what is put there.
pub(super) struct Reference<'a> {
    pub(super) at: Range<usize>,
    pub(super) written: &'a str,
    pub(super) value: String,
    name: &'a str,
    form: Form,
    place: Place,
}

/// Where a reference was found to count.
#[derive(Clone, Default)]
pub(super) enum Used {
    /// Nowhere: in a comment.
    #[default]
    Not,
    /// In a place without a key that is known, so that it may be a secret's.
    Somewhere,
    /// In a key's value, and what the user wrote there.
    In(String, String),
}

/// Every reference in the text.
pub(super) fn find<'a>(text: &'a str, env: &dyn Fn(&str) -> Option<String>) -> Vec<Reference<'a>> {
    let mut place = Place { line: 1, column: 1 };
    let mut from = 0;
    let mut found = Vec::new();
    for reference in expand::references(text) {
        for c in text.get(from..reference.at.start).unwrap_or_default().chars() {
            place = if c == '\n' {
                Place { line: place.line.saturating_add(1), column: 1 }
            } else {
                Place { column: place.column.saturating_add(1), ..place }
            };
        }
        from = reference.at.start;
        found.push(Reference {
            written: text.get(reference.at.clone()).unwrap_or_default(),
            value: env(reference.name).unwrap_or_default(),
            name: reference.name,
            form: reference.form,
            at: reference.at,
            place,
        });
    }
    found
}

impl Reference<'_> {
    /// Whether its `}` is on another line, so that what is between is not what it looks like.
    pub(super) fn swallows_lines(&self) -> bool {
        self.written.contains(['\n', '\r'])
    }

    pub(super) fn line(&self) -> usize {
        self.place.line
    }

    /// What may be shown of it: no default, which may be a secret.
    pub(super) fn outline(&self) -> String {
        let name = self.identifier();
        if self.form == Form::Braced && name != self.name { format!("${{{name}…}}") } else { self.written.to_owned() }
    }

    /// The part of its name that is one.
    fn identifier(&self) -> &str {
        self.name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default()
    }

    /// Whether it has the form that names of variables have: `AWS_REGION`.
    fn is_loud(&self) -> bool {
        let loud = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        self.name.starts_with(|c: char| c.is_ascii_uppercase()) && self.name.contains('_') && self.name.chars().all(loud)
    }

    fn what(&self, secret: bool) -> Option<String> {
        let name = self.identifier();
        let operator = self.name.get(name.len()..).is_some_and(|rest| rest.starts_with([':', '-', '=', '?', '+']));
        Some(match self.form {
            Form::Broken => "a `${` without a name or a `}` vanishes; write `${NAME}`".to_owned(),
            Form::Special => {
                "a `$` and the character after it vanish here; put the value into a variable and write `${NAME}`".to_owned()
            }
            Form::Braced if self.swallows_lines() => {
                "a `${` has no `}` on its line, so that everything up to the next one vanishes; write `${NAME}`".to_owned()
            }
            Form::Braced if !name.is_empty() && operator => format!(
                "Litestream knows no default in `${{{name}…}}` and puts nothing there; write `${{{name}}}` and set {name} in the environment"
            ),
            Form::Braced if name != self.name => {
                "what is in these braces is no variable's name, so that it vanishes; write `${NAME}`".to_owned()
            }
            _ if !self.value.is_empty() => return None,
            Form::Bare if secret => {
                "a `$` begins the name of a variable, which is not set, so that it vanishes; put the value into a variable and write `${NAME}`"
                    .to_owned()
            }
            _ => format!("{name} is not set, so that nothing is put there; set {name} in the environment"),
        })
    }
}

/// Says what is wrong with those that count.
pub(super) fn check(references: &[Reference<'_>], used: &[Used], context: &mut Context) {
    for (reference, used) in references.iter().zip(used) {
        let (secret, before) = match used {
            Used::Not => continue,
            Used::Somewhere => (true, String::new()),
            // A password does not look like this, and a name mostly does.
            Used::In(key, raw) => {
                let named = is_public(key) || raw == reference.written && reference.is_loud();
                (!named, format!("{key}: "))
            }
        };
        if let Some(what) = reference.what(secret) {
            context.say(reference.place, format!("{before}{what}"));
        }
    }
}

/// Which references are in a key or in a value, and whose.
pub(super) fn used(root: Option<&Rc<Node>>, count: usize) -> Vec<Used> {
    let mut used = vec![Used::Not; count];
    let mut seen = HashSet::new();
    if let Some(root) = root {
        mark(root, &Used::Somewhere, &mut used, &mut seen);
    }
    used
}

fn mark(node: &Rc<Node>, by: &Used, used: &mut [Used], seen: &mut HashSet<*const Node>) {
    if !seen.insert(Rc::as_ptr(node)) {
        return;
    }
    match &node.body {
        Body::Scalar(scalar) => {
            for index in &scalar.references {
                if let Some(slot) = used.get_mut(*index) {
                    *slot = match by {
                        Used::In(key, _) => Used::In(key.clone(), scalar.raw.clone()),
                        other => other.clone(),
                    };
                }
            }
        }
        Body::List(items) => items.iter().for_each(|item| mark(item, by, used, seen)),
        Body::Mapping(pairs) => {
            for (key, value) in pairs {
                mark(key, &Used::Somewhere, used, seen);
                let name = key.scalar().map(|s| s.text.as_str()).filter(|name| super::is_key(name));
                mark(value, &name.map_or(Used::Somewhere, |name| Used::In(name.to_owned(), String::new())), used, seen);
            }
        }
    }
}

/// Where the text is not YAML: those that are not behind a `#`.
pub(super) fn outside_comments(text: &str, references: &[Reference<'_>]) -> Vec<Used> {
    let commented = |reference: &Reference<'_>| {
        let before = text.get(..reference.at.start).unwrap_or_default();
        // One that is not closed eats the end of its comment, and more.
        !reference.swallows_lines() && before.rsplit('\n').next().unwrap_or_default().contains('#')
    };
    references.iter().map(|r| if commented(r) { Used::Not } else { Used::Somewhere }).collect()
}
