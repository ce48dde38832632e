//! A configuration file of the user's own: what is wrong for the running line, where, and what to write
//! instead. Must never show a secret, what a variable holds, or fail on a text, however odd.

mod keys;
mod references;
mod rules;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashSet;
use std::rc::Rc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::litestream::expand;
use crate::litestream::schema::{self, KEYS, Kind, Section};
use crate::litestream::{Format, Line};
use references::Reference;
use tree::{Body, Node, Place, Scalar};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Its line in the file, 1-based.
    pub line: usize,
    /// Its column, 1-based.
    pub column: usize,
    /// What is wrong and what to write instead, in one line.
    pub what: String,
    /// A backup made all the same could be read by others than was meant, or be in another place: it is not made.
    pub grave: bool,
}

/// Lints a file's text, as Litestream would read it with this environment, in the order of its lines.
pub fn lint(text: &str, line: Line, env: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    // 0.5 has a variable of its own.
    let env = |name: &str| if line.format() == Format::Ltx && name == "PID" { Some("1".to_owned()) } else { env(name) };
    let mut context = Context { line, findings: Vec::new() };
    let references = references::find(text, &env);
    if references.iter().any(Reference::swallows_lines) {
        // What is left of the text is not what it looks like.
        references::check(&references, &references::outside_comments(text, &references), &mut context);
        return context.sorted();
    }
    match (tree::parse(&tree::mask(text, &references), &references), yaml_error(&expand::expand(text, &env))) {
        (Err(at), Some(_)) => {
            references::check(&references, &references::outside_comments(text, &references), &mut context);
            context.say(at, not_yaml(text, at));
        }
        // Its variables make it YAML; where they stand cannot be said.
        (Err(_), None) => references::check(&references, &references::outside_comments(text, &references), &mut context),
        (Ok(parsed), broken) => {
            references::check(&references, &references::used(parsed.root.as_ref(), references.len()), &mut context);
            match broken {
                Some(at) => context.say(at, not_yaml_expanded(&references, at)),
                None => check(&parsed, &mut context),
            }
        }
    }
    context.sorted()
}

/// Reads an expanded text as Litestream does: one document, of two keys the last one counts, a `<<` is followed.
///
/// # Errors
/// Line and column where it is not YAML.
pub fn read(text: &str) -> Result<serde_yaml::Value, (usize, usize)> {
    let parsed = tree::parse(text, &[]).map_err(|at| (at.line, at.column))?;
    Ok(parsed.root.map_or(serde_yaml::Value::Null, |root| root.value()))
}

/// Everything that is checked once the text is YAML.
fn check(parsed: &tree::Parsed, context: &mut Context) {
    if let Some(at) = parsed.second {
        context.say(at, "Litestream reads nothing after this `---`; write everything into one document");
    }
    match &parsed.root {
        Some(root) if !root.pairs().is_empty() => {
            let mut collector = Collector { line: context.line, seen: HashSet::new(), parts: Vec::new() };
            collector.take(root, Section::Top, false);
            for part in &collector.parts {
                keys::check(part, context);
                rules::check(part, root, context);
            }
            rules::check_databases(root, context);
        }
        Some(root) if is_variable(root) => {}
        root => {
            let at = root.as_ref().map_or(Place { line: 1, column: 1 }, |root| root.at);
            let example = rules::example(context.line);
            context.say(at, format!("this is no configuration: it has no `dbs:`; write `{example}`"));
        }
    }
}

/// A mapping and what the running line takes it for.
struct Part {
    section: Section,
    node: Rc<Node>,
    /// A `<<` put it into another one, so that it need not be whole.
    merged: bool,
}

/// Finds the parts, each once, however many aliases lead to it.
struct Collector {
    line: Line,
    seen: HashSet<(*const Node, Section, bool)>,
    parts: Vec<Part>,
}

impl Collector {
    fn take(&mut self, node: &Rc<Node>, section: Section, merged: bool) {
        if !self.seen.insert((Rc::as_ptr(node), section, merged)) {
            return;
        }
        self.parts.push(Part { section, node: node.clone(), merged });
        for (key, value) in node.pairs() {
            let Some(name) = key.scalar().map(|s| s.text.as_str()) else { continue };
            // 0.3 ignores `replica:`, but what is in it is going to be an entry of `replicas:`.
            let read = schema::is_known(section, name, self.line) || name == "replica";
            match schema::find(section, name).map(|k| k.kind) {
                _ if name == "<<" => value.mappings().for_each(|m| self.take(m, section, true)),
                Some(Kind::Mapping(inner) | Kind::Mappings(inner)) if read => {
                    value.mappings().for_each(|m| self.take(m, inner, false));
                }
                _ => {}
            }
        }
    }
}

/// What the checks go by and add to.
struct Context {
    line: Line,
    findings: Vec<Finding>,
}

impl Context {
    fn say(&mut self, at: Place, what: impl Into<String>) {
        self.find(at, what, false);
    }

    fn find(&mut self, at: Place, what: impl Into<String>, grave: bool) {
        let what = what.into().replace(char::is_control, " ");
        self.findings.push(Finding { line: at.line, column: at.column, what, grave });
    }

    fn sorted(mut self) -> Vec<Finding> {
        self.findings.sort();
        self.findings.dedup();
        self.findings
    }

    /// The running line's name.
    fn this(&self) -> &'static str {
        self.line.name()
    }
}

/// Whether a line has a key of that name anywhere.
fn is_key(name: &str) -> bool {
    KEYS.iter().any(|k| k.name == name)
}

/// Whether what stands behind a key may be shown. A URL may have a password in it, and a command anything.
fn is_public(key: &str) -> bool {
    let public = |k: &schema::Key| matches!(k.kind, Kind::Text | Kind::Number | Kind::Size | Kind::Duration | Kind::Flag);
    is_key(key)
        && KEYS.iter().filter(|k| k.name == key).all(|k| public(k) || matches!(k.kind, Kind::Mapping(_)))
        && !matches!(key, "url" | "webdav-url" | "endpoint" | "exec")
}

/// A value as the user wrote it, or dots where it is not to be shown.
fn shown(key: &str, value: &Node) -> String {
    match value.scalar() {
        Some(Scalar { raw, .. }) if is_public(key) && !raw.is_empty() => raw.chars().take(80).collect(),
        _ => "…".to_owned(),
    }
}

/// Where Litestream's kind of parser finds no YAML; none where it does.
fn yaml_error(text: &str) -> Option<Place> {
    // The first document alone, and no `Value`, which would refuse a key that stands twice: Litestream takes both.
    let error = serde_yaml::Deserializer::from_str(text).next().and_then(|first| IgnoredAny::deserialize(first).err())?;
    // An empty text is none either, but that is said better.
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return None;
    }
    let at = error.location().map_or((1, 1), |l| (l.line().max(1), l.column().max(1)));
    Some(Place { line: at.0, column: at.1 })
}

fn not_yaml(text: &str, at: Place) -> String {
    let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
    let write = match line.trim_start().split_once(": ").map(|(_, value)| value.trim_start()) {
        _ if line.contains('\t') => "write spaces instead of the tab",
        Some(value) if value.starts_with(['@', '`', '%', '*', '&', '!', '|', '>']) => "write the value in single quotes: `'…'`",
        _ => "write each key below the one before it, with a space after its colon, and a value with `: ` or ` #` in single quotes",
    };
    format!("this is not YAML; {write}")
}

fn not_yaml_expanded(references: &[Reference<'_>], at: Place) -> String {
    let here = references.iter().any(|r| r.line() == at.line);
    let place = if here { "in this line" } else { "above" };
    format!("what a variable holds makes this no YAML; write the variable {place} in single quotes: `'${{NAME}}'`")
}

/// Whether a value comes from a variable alone, which may hold lists and mappings.
fn is_variable(node: &Node) -> bool {
    matches!(&node.body, Body::Scalar(scalar) if !scalar.references.is_empty())
}
