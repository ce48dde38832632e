//! Checks of every key in every mapping: whether the running line knows it, and whether its value is what it
//! takes. Must never show a value that `shown` would not.

use std::rc::Rc;

use super::tree::{Body, Node, Scalar};
use super::{Context, Part, is_key, is_variable, shown};
use crate::litestream::duration;
use crate::litestream::schema::shown_key;
use crate::litestream::schema::{self, KEYS, Key, Kind, Section};
use crate::litestream::{Format, Line};
use crate::settings;
use crate::text::nearest;

pub(super) fn check(part: &Part, context: &mut Context) {
    for (index, (key, value)) in part.node.pairs().iter().enumerate() {
        // A key that a variable holds is not shown.
        let Some(name) = key.scalar().filter(|s| s.text != "<<" && s.references.is_empty()).map(|s| s.text.as_str()) else { continue };
        if let Some((first, _)) = part.node.pairs().iter().take(index).find(|(k, _)| k.is(name)) {
            let line = first.at.line;
            context.say(key.at, format!("{}: stands twice here and the last one counts; remove the one in line {line}", safe(name)));
        }
        if let Some(what) = moved(part, name, value, context) {
            let lacking = !schema::is_known(part.section, name, context.line);
            context.find(key.at, format!("{name}: {what}"), lacking && schema::is_grave(name));
        } else if schema::is_known(part.section, name, context.line) {
            let wrong = known(part.section, name).and_then(|k| wrong_value(k, part.section, value, context));
            if let Some(what) = wrong {
                context.say(value.at, format!("{name}: {what}"));
            }
        // What an alias uses has to stand somewhere, under a name that nobody else uses.
        } else if !value.anchored || is_key(name) {
            context.find(key.at, unknown(part.section, name, value, context), schema::is_grave(name));
        }
    }
}

/// At the top, 0.5 takes a replica's keys too.
fn known(section: Section, name: &str) -> Option<&'static Key> {
    schema::find(section, name).or_else(|| schema::find(Section::Replica, name).filter(|_| section == Section::Top))
}

/// A key that is none may be a value that got into its place.
fn safe(name: &str) -> &str {
    if shown_key(name) == name { name } else { "this key" }
}

/// What stands elsewhere, or is done otherwise, on the running line.
fn moved(part: &Part, name: &str, value: &Rc<Node>, context: &Context) -> Option<String> {
    let this = context.this();
    Some(match (context.line.format(), part.section, name) {
        _ if value.is_null() => return None,
        (Format::Ltx, Section::Replica, "retention" | "snapshot-interval") => {
            format!("{this} ignores it under a replica; write `{}` at the top of the file", snapshot(&part.node))
        }
        (Format::Ltx, Section::Replica, "validation-interval") => {
            format!("{this} ignores it under a replica; write `validation: {{interval: {}}}` at the top of the file", written(name, value))
        }
        (Format::Ltx, Section::Replica, "retention-check-interval") => {
            format!("{this} ignores it, since it looks for what is too old with every snapshot; remove it")
        }
        (Format::Ltx, Section::Top, "retention") if value.scalar().is_some() && !is_variable(value) => {
            format!("{this} refuses a duration here; write `snapshot: {{retention: {}}}` in its place", written(name, value))
        }
        (Format::Ltx, Section::Database, "max-checkpoint-page-count") => {
            format!(
                "{this} ignores it, since it has another limit for the WAL; remove it, or write `truncate-page-n: {}`",
                shown(name, value)
            )
        }
        (Format::Ltx, Section::Replica, "age") => {
            format!("{this} cannot encrypt and refuses it; remove it and let the bucket encrypt, or run Litestream 0.3.13")
        }
        (Format::Generations, Section::Database, "replica") if part.node.get("replicas").is_none() => {
            format!("{this} ignores it, so that NOTHING IS BACKED UP; write `replicas: [{{{}}}]`", outline(value))
        }
        (Format::Generations, Section::Top | Section::Database, "snapshot") => {
            let keys = [("interval", "snapshot-interval"), ("retention", "retention")];
            let keys = keys.iter().filter_map(|(k, new)| Some(format!("`{new}: {}`", written(k, value.get(k)?))));
            let keys: Vec<String> = keys.collect();
            format!(
                "{this} ignores it; write {} under each replica",
                if keys.is_empty() { "`retention: 24h`".to_owned() } else { keys.join(" and ") }
            )
        }
        (Format::Generations, Section::Top, "validation") => {
            let interval = value.get("interval").map_or("6h".to_owned(), |v| written("interval", v));
            format!("{this} ignores it; write `validation-interval: {interval}` under each replica")
        }
        (Format::Generations, Section::Database, "dir" | "pattern") => {
            format!("{this} ignores it, since it has no directories; write an entry `- path: …` for each database")
        }
        _ => return None,
    })
}

/// What 0.5 has for the replica's keys of 0.3.
fn snapshot(replica: &Node) -> String {
    let keys = [("snapshot-interval", "interval"), ("retention", "retention")];
    let keys = keys.iter().filter_map(|(old, new)| Some(format!("{new}: {}", written(old, replica.get(old)?))));
    format!("snapshot: {{{}}}", keys.collect::<Vec<_>>().join(", "))
}

/// A duration as the user wrote it, with what Go does not read put right.
fn written(name: &str, value: &Node) -> String {
    let Some(scalar) = value.scalar().filter(|s| s.references.is_empty()) else { return shown(name, value) };
    match duration::parse(&scalar.text) {
        Some(_) => shown(name, value),
        None if scalar.text.parse::<u64>().is_ok() => duration::with_unit(&scalar.text),
        None => duration::corrected(&scalar.text).unwrap_or_else(|| "24h".to_owned()),
    }
}

/// A mapping's keys, without what they hold.
fn outline(replica: &Rc<Node>) -> String {
    let keys = replica.mappings().flat_map(|m| m.pairs()).filter_map(|(k, _)| k.scalar());
    let keys: Vec<String> = keys.filter(|k| is_key(&k.raw)).map(|k| format!("{}: …", k.raw)).collect();
    if keys.is_empty() { "url: …".to_owned() } else { keys.join(", ") }
}

fn unknown(section: Section, name: &str, value: &Node, context: &Context) -> String {
    let this = context.this();
    let ours = |k: &&Key| k.is_known_to(context.line) && k.section != Section::Age;
    let other = schema::find(section, name);
    // A mapping of the other line's is not what this line has elsewhere under that name.
    let elsewhere = KEYS.iter().filter(ours).find(|k| k.name == name && (other.is_none() || value.scalar().is_some()));
    if let Some(key) = elsewhere {
        return format!("{name}: {this} ignores it {}; write it {}", inside(section), inside(key.section));
    }
    if other.is_some() {
        let other = Line::ALL.into_iter().find(|line| *line != context.line).map_or("another", Line::name);
        return format!("{name}: only {other} knows it, {this} ignores it; remove it");
    }
    let near = nearest(name, KEYS.iter().filter(ours).filter(|k| k.section == section).map(|k| k.name));
    format!("{}: neither 0.3 nor 0.5 knows it {}; remove it, or write `{near}` if that is meant", safe(name), inside(section))
}

fn inside(section: Section) -> &'static str {
    match section {
        Section::Top => "at the top of the file",
        Section::Snapshot => "in `snapshot:`",
        Section::Retention => "in `retention:`",
        Section::Validation => "in `validation:`",
        Section::Logging => "in `logging:`",
        Section::Socket => "in `socket:`",
        Section::Level => "in an entry of `levels:`",
        Section::Database => "in an entry of `dbs:`",
        Section::Replica => "under a replica",
        Section::Age => "in `age:`",
    }
}

/// Litestream reads a file strictly by kinds and refuses it whole.
fn wrong_value(key: &Key, section: Section, value: &Rc<Node>, context: &Context) -> Option<String> {
    let name = key.name;
    if value.is_null() {
        return None;
    }
    match (key.kind, &value.body) {
        (Kind::Mapping(_) | Kind::Mappings(_) | Kind::List, Body::Scalar(_)) if is_variable(value) => None,
        (Kind::Mapping(_), Body::Mapping(_)) | (Kind::List, Body::List(_)) | (Kind::Text | Kind::Secret, Body::Scalar(_)) => None,
        (Kind::Mappings(_), Body::List(items)) => wrong_entry(items),
        (Kind::Mapping(_), _) => Some(format!("it has keys of its own; write `{name}:` and its keys below, further in")),
        (Kind::Mappings(_), Body::Mapping(_)) => Some(format!("it is a list; write `{name}:` and `- ` before the first key below")),
        (Kind::Mappings(_) | Kind::List, _) => Some(format!("it is a list; write `{name}: […]`")),
        (_, Body::List(_) | Body::Mapping(_)) => Some(format!("it takes one value; write `{name}: …` in one line")),
        (Kind::Flag, Body::Scalar(scalar)) => {
            let write = settings::read_flag(&scalar.text) != Some(false);
            scalar.flag().is_none().then(|| format!("it is true or false, without quotes; write `{name}: {write}`"))
        }
        (Kind::Number, Body::Scalar(scalar)) => number(name, scalar),
        (Kind::Size, Body::Scalar(scalar)) => size(name, scalar),
        (Kind::Duration, Body::Scalar(scalar)) => wrong_duration(name, section, scalar, value, context),
    }
}

fn wrong_entry(items: &[Rc<Node>]) -> Option<String> {
    items.iter().filter(|item| !is_variable(item)).find_map(|item| match &item.body {
        Body::Mapping(_) => None,
        _ if item.is_null() => Some("Litestream crashes on an empty entry; remove the `-` that nothing follows".to_owned()),
        _ => Some("each entry has keys of its own; write them as `- key: …`".to_owned()),
    })
}

/// As `go-humanize` reads it.
fn size(name: &str, scalar: &Scalar) -> Option<String> {
    let text = scalar.text.to_ascii_lowercase();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.strip_prefix(number).unwrap_or_default().trim_end_matches('b').trim_end_matches('i');
    let right = number.trim().replace(',', "").parse::<f64>().is_ok() && matches!(unit, "" | "k" | "m" | "g" | "t" | "p" | "e");
    (!right).then(|| format!("it is a size; write `{name}: 5MB`"))
}

fn number(name: &str, scalar: &Scalar) -> Option<String> {
    let digits = scalar.text.replace('_', "");
    let radix = ["0x", "0o", "0b"].iter().any(|prefix| digits.starts_with(prefix));
    let write = scalar.raw.parse::<i64>().map_or("1000".to_owned(), |n| n.to_string());
    let right = scalar.plain && (radix || digits.parse::<f64>().is_ok());
    (!right).then(|| format!("it is a whole number, without quotes; write `{name}: {write}`"))
}

/// Below what 0.5 refuses a duration, in nanoseconds, and its own default.
const LEAST: [(Section, &str, f64, &str); 10] = [
    (Section::Replica, "sync-interval", 1.0, "1s"),
    (Section::Snapshot, "interval", 1.0, "24h"),
    (Section::Snapshot, "retention", 1.0, "24h"),
    (Section::Level, "interval", 1.0, "30s"),
    (Section::Top, "sync-interval", 1.0, "1s"),
    (Section::Top, "l0-retention-check-interval", 1.0, "15s"),
    (Section::Top, "shutdown-sync-interval", 1.0, "500ms"),
    (Section::Top, "l0-retention", 0.0, "5m"),
    (Section::Top, "shutdown-sync-timeout", 0.0, "30s"),
    (Section::Top, "heartbeat-interval", 6e10, "1m"),
];

fn wrong_duration(name: &str, section: Section, scalar: &Scalar, value: &Node, context: &Context) -> Option<String> {
    let digits = scalar.text.replace('_', "");
    let is_number = scalar.plain && digits.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
    let bare = is_number.then(|| digits.parse::<f64>().ok()).flatten();
    let nanos = bare.or_else(|| duration::parse(&scalar.text));
    let least = LEAST.iter().find(|(s, n, ..)| context.line.format() == Format::Ltx && *s == section && *n == name);
    // What the variable holds is not shown, and is put right where it is set.
    let at = |right: &str| match scalar.references.as_slice() {
        [] => format!("write `{name}: {right}`"),
        _ => format!("set the variable in `{}` to what Go reads, as 10s, 5m or 24h", shown(name, value)),
    };
    match (nanos, least) {
        (None, _) => {
            let right =
                duration::corrected(&scalar.text).or_else(|| scalar.text.parse::<u64>().ok().map(|_| duration::with_unit(&scalar.text)));
            Some(format!("Go reads no such duration (it has h, m, s and ms, no days); {}", at(&right.unwrap_or_else(|| "10s".to_owned()))))
        }
        (Some(nanos), Some((_, _, floor, default))) if nanos < *floor => {
            Some(format!("{} refuses a time as short as this; {}", context.this(), at(default)))
        }
        _ if bare.is_some_and(|n| n != 0.0) => {
            Some(format!("a number without a unit is nanoseconds; {}", at(&duration::with_unit(&digits))))
        }
        _ => None,
    }
}
