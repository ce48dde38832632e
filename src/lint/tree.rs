//! A configuration file as nodes that know where they stand. Must never fail on a text, however odd.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_yaml::{Mapping, Value};

use super::references::Reference;

/// A line and a column, 1-based, in the text as the user wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// One value or key.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) body: Body,
    /// Whether it has an anchor, so that it is there for an alias to use.
    pub(super) anchored: bool,
    height: usize,
}

#[derive(Debug)]
pub(super) enum Body {
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    Mapping(Vec<(Rc<Node>, Rc<Node>)>),
}

/// One text.
#[derive(Debug, Default)]
pub(super) struct Scalar {
    /// With its variables put in: to judge by, never to show.
    pub(super) text: String,
    /// As the user wrote it, but for the defaults in its variables.
    pub(super) raw: String,
    /// Without quotes.
    pub(super) plain: bool,
    /// The references in it.
    pub(super) references: Vec<usize>,
}

/// What a text holds.
pub(super) struct Parsed {
    /// The first document, which is all that Litestream reads; none where there is nothing but comments.
    pub(super) root: Option<Rc<Node>>,
    /// Where a second one begins.
    pub(super) second: Option<Place>,
}

/// Deep enough for every key there is; what holds more is dropped, since a node is dropped by recursion.
const HEIGHT: usize = 16;

impl Node {
    pub(super) fn scalar(&self) -> Option<&Scalar> {
        if let Body::Scalar(scalar) = &self.body { Some(scalar) } else { None }
    }

    pub(super) fn pairs(&self) -> &[(Rc<Self>, Rc<Self>)] {
        if let Body::Mapping(pairs) = &self.body { pairs } else { &[] }
    }

    /// The mappings in a mapping or in a list of them.
    pub(super) fn mappings(self: &Rc<Self>) -> impl Iterator<Item = &Rc<Self>> {
        let several = if let Body::List(items) = &self.body { items.as_slice() } else { std::slice::from_ref(self) };
        several.iter().filter(|n| matches!(n.body, Body::Mapping(_)))
    }

    /// A key's value: the last one counts, and a `<<` gives what the mapping itself does not have.
    pub(super) fn get(&self, key: &str) -> Option<&Rc<Self>> {
        let named = |name: &str| self.pairs().iter().rev().find(|(k, _)| k.is(name)).map(|(_, value)| value);
        named(key).or_else(|| named("<<")?.mappings().find_map(|merged| merged.get(key)))
    }

    /// A key's text, none where it is empty, absent or something else.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let scalar = self.get(key)?.scalar()?;
        (!scalar.is_null() && !scalar.text.is_empty()).then_some(scalar.text.as_str())
    }

    /// What Litestream takes it for: of two keys the last one counts, and a `<<` gives what the mapping does not have.
    pub(super) fn value(&self) -> Value {
        match &self.body {
            Body::Scalar(scalar) => scalar.value(),
            Body::List(items) => Value::Sequence(items.iter().map(|item| item.value()).collect()),
            Body::Mapping(pairs) => {
                let mut mapping = Mapping::new();
                for (key, value) in pairs.iter().filter(|(key, _)| !key.is("<<")) {
                    mapping.insert(key.value(), value.value());
                }
                let merged = pairs.iter().filter(|(key, _)| key.is("<<")).flat_map(|(_, value)| value.mappings());
                for value in merged.map(|m| m.value()) {
                    for (key, value) in value.as_mapping().into_iter().flatten() {
                        mapping.entry(key.clone()).or_insert_with(|| value.clone());
                    }
                }
                Value::Mapping(mapping)
            }
        }
    }

    pub(super) fn is(&self, text: &str) -> bool {
        self.scalar().is_some_and(|s| s.text == text)
    }

    pub(super) fn is_null(&self) -> bool {
        self.scalar().is_some_and(Scalar::is_null)
    }
}

impl Scalar {
    fn value(&self) -> Value {
        let number = || {
            let whole = self.text.parse::<i64>().ok().map(Value::from);
            whole.or_else(|| self.text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from))
        };
        match self.flag() {
            Some(flag) => Value::Bool(flag),
            None if self.is_null() => Value::Null,
            None if self.plain => number().unwrap_or_else(|| Value::String(self.text.clone())),
            None => Value::String(self.text.clone()),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// Whether it is one of the words that Litestream's YAML has for `true` and `false`.
    pub(super) fn flag(&self) -> Option<bool> {
        match self.text.as_str() {
            _ if !self.plain => None,
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => Some(false),
            _ => None,
        }
    }
}

/// Reads a text in which [`mask`] has hidden the references.
///
/// # Errors
/// Where it is not YAML.
pub(super) fn parse(masked: &str, references: &[Reference<'_>]) -> Result<Parsed, Place> {
    let mut builder = Builder { references, open: Vec::new(), anchors: HashMap::new(), root: None };
    let mut documents: usize = 0;
    for event in Parser::new_from_str(masked) {
        let (event, span) = event.map_err(|error| place(error.marker()))?;
        match event {
            Event::DocumentStart(_) if documents > 0 => return Ok(Parsed { root: builder.root, second: Some(place(&span.start)) }),
            Event::DocumentStart(_) => documents = 1,
            event => builder.take(event, place(&span.start)),
        }
    }
    Ok(Parsed { root: builder.root, second: None })
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col().saturating_add(1) }
}

struct Builder<'a> {
    references: &'a [Reference<'a>],
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
}

/// A list or a mapping whose end is still to come.
struct Open {
    at: Place,
    anchor: usize,
    items: Vec<Rc<Node>>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, at: Place) {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let scalar = unmask(&text, style == ScalarStyle::Plain, self.references);
                self.close(at, anchor, Body::Scalar(scalar), 1);
            }
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => self.open.push(Open { at, anchor, items: Vec::new() }),
            Event::SequenceEnd => self.end(Body::List),
            Event::MappingEnd => self.end(|items| {
                let pairs = items.chunks_exact(2).filter_map(|pair| if let [k, v] = pair { Some((k.clone(), v.clone())) } else { None });
                Body::Mapping(pairs.collect())
            }),
            // An alias to what it stands in itself has no value.
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().unwrap_or_else(|| null(at));
                self.add(node);
            }
            _ => {}
        }
    }

    fn end(&mut self, body: impl FnOnce(Vec<Rc<Node>>) -> Body) {
        let Some(Open { at, anchor, items }) = self.open.pop() else { return };
        let height = items.iter().map(|n| n.height).max().unwrap_or_default().saturating_add(1);
        self.close(at, anchor, body(items), height);
    }

    fn close(&mut self, at: Place, anchor: usize, body: Body, height: usize) {
        let node = Rc::new(Node { at, body, anchored: anchor > 0, height });
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.add(node);
    }

    fn add(&mut self, node: Rc<Node>) {
        match self.open.last_mut() {
            Some(parent) => parent.items.push(if node.height < HEIGHT { node } else { null(node.at) }),
            None => self.root = Some(node),
        }
    }
}

fn null(at: Place) -> Rc<Node> {
    let body = Body::Scalar(Scalar { plain: true, ..Scalar::default() });
    Rc::new(Node { at, body, anchored: false, height: 1 })
}

/// Unicode has these characters for private use: one says which reference stands there, the other fills up
/// its width, so that every place in the masked text is the place in the user's.
const FIRST: u32 = 0xF_0000;
const FILL: char = '\u{E000}';

/// The text with every reference hidden: the braces of `${NAME}` mean something else in `[…]` and `{…}`.
pub(super) fn mask(text: &str, references: &[Reference<'_>]) -> String {
    let mut out = String::new();
    let mut from = 0;
    for (index, reference) in references.iter().enumerate() {
        out.push_str(text.get(from..reference.at.start).unwrap_or_default());
        let mark = u32::try_from(index).ok().and_then(|i| char::from_u32(FIRST.checked_add(i)?)).unwrap_or(FILL);
        out.push(mark);
        out.extend(reference.written.chars().skip(1).map(|_| FILL));
        from = reference.at.end;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

fn unmask(masked: &str, plain: bool, references: &[Reference<'_>]) -> Scalar {
    let mut scalar = Scalar { plain, ..Scalar::default() };
    for c in masked.chars().filter(|c| *c != FILL) {
        let index = u32::from(c).checked_sub(FIRST).and_then(|i| usize::try_from(i).ok());
        if let Some((index, reference)) = index.and_then(|i| Some((i, references.get(i)?))) {
            scalar.text.push_str(&reference.value);
            scalar.raw.push_str(&reference.outline());
            scalar.references.push(index);
        } else {
            scalar.text.push(c);
            scalar.raw.push(c);
        }
    }
    scalar
}
