//! Checks of what belongs together: the top of the file, a database, its replica, and all of them. Must never
//! show more of a URL than its scheme.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use super::tree::{Node, Place, Scalar};
use super::{Context, Part, is_variable, shown};
use crate::litestream::kind::Row;
use crate::litestream::schema::Section;
use crate::litestream::{Format, Line, ReplicaKind};
use crate::text::nearest;

/// A check of one mapping: itself, the file, and what to add to.
type Check = fn(&Rc<Node>, &Rc<Node>, &mut Context);

const CHECKS: [(Section, Check); 16] = [
    (Section::Top, exec),
    (Section::Top, addr),
    (Section::Top, socket),
    (Section::Top, no_databases),
    (Section::Top, heartbeat_url),
    (Section::Logging, log_type),
    (Section::Level, level_interval),
    (Section::Database, database_path),
    (Section::Database, misread_path),
    (Section::Database, directory_keys),
    (Section::Database, replica_count),
    (Section::Replica, replica_type),
    (Section::Replica, url_in_path),
    (Section::Replica, url_and_parts),
    (Section::Replica, missing_parts),
    (Section::Replica, keys_in_endpoint),
];

pub(super) fn check(part: &Part, root: &Rc<Node>, context: &mut Context) {
    // What is merged into another mapping is looked at there.
    for (_, check) in CHECKS.iter().filter(|(section, _)| *section == part.section && !part.merged) {
        check(&part.node, root, context);
    }
}

/// The least that is a configuration.
pub(super) fn example(line: Line) -> &'static str {
    match line.format() {
        Format::Generations => "dbs: [{path: /data/app.db, replicas: [{url: s3://BUCKET/app.db}]}]",
        Format::Ltx => "dbs: [{path: /data/app.db, replica: {url: s3://BUCKET/app.db}}]",
    }
}

/// Where a key stands; the mapping itself where a `<<` gave it.
fn place(node: &Node, name: &str) -> Place {
    node.pairs().iter().rev().find(|(k, _)| k.is(name)).map_or(node.at, |(k, _)| k.at)
}

fn exec(top: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    if top.get("exec").is_some_and(|v| !v.is_null()) {
        let what = "exec: Litestream would start the app a second time; remove it and write it as the container's CMD";
        context.say(place(top, "exec"), what);
    }
}

fn addr(top: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    let Some(addr) = top.text("addr") else { return };
    let port = addr.rsplit_once(':').filter(|(host, port)| !port.is_empty() && (!host.contains(':') || host.ends_with(']')));
    if port.is_none() {
        let host = addr.trim_end_matches(':');
        let write = match top.get("addr").filter(|v| !is_variable(v)) {
            None => "set its variable to `:9090`".to_owned(),
            Some(_) if host.chars().all(|c| c.is_ascii_digit()) && !host.is_empty() => format!("write `addr: \":{host}\"`"),
            Some(_) => format!("write `addr: \"{host}:9090\"`"),
        };
        context.say(place(top, "addr"), format!("addr: it has no port and Litestream refuses it; {write}"));
    }
}

fn socket(top: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    if context.line.format() == Format::Generations || top.get("socket").is_some_and(|v| is_variable(v)) {
        return;
    }
    let enabled = top.get("socket").and_then(|socket| socket.get("enabled")).and_then(|v| v.scalar());
    // A variable that is not set has its own finding.
    if enabled.is_none_or(|e| e.flag() != Some(true) && e.references.is_empty()) {
        let at = if top.get("socket").is_some() { place(top, "socket") } else { Place { line: 1, column: 1 } };
        let what =
            "socket: without it the last sync before the end cannot be confirmed; write `socket: {enabled: true}` at the top of the file";
        context.say(at, what);
    }
}

fn no_databases(top: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    let dbs = top.get("dbs");
    if dbs.is_some_and(|v| is_variable(v) || v.scalar().is_some_and(|s| !s.is_null()) || v.mappings().next().is_some()) {
        return;
    }
    let at = if dbs.is_some() { place(top, "dbs") } else { Place { line: 1, column: 1 } };
    context.say(at, format!("dbs: there is no database in it, so that nothing is backed up; write `{}`", example(context.line)));
}

fn log_type(logging: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    let known: &[&str] = if context.line.format() == Format::Generations { &["text", "json"] } else { &["text", "json", "pretty"] };
    if let Some(kind) = logging.text("type").filter(|kind| !known.contains(kind)) {
        let what = format!("type: {} crashes on this kind of log; write `type: {}`", context.this(), nearest(kind, known.iter().copied()));
        context.say(place(logging, "type"), what);
    }
}

fn heartbeat_url(top: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    let wrong = |url: &str| !url.starts_with("http://") && !url.starts_with("https://");
    if context.line.format() == Format::Ltx && top.text("heartbeat-url").is_some_and(wrong) {
        let what = "heartbeat-url: Litestream refuses what is not http or https; write `heartbeat-url: https://…`";
        context.say(place(top, "heartbeat-url"), what);
    }
}

/// It is not refused here, where it may have stood for years.
fn keys_in_endpoint(replica: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    if replica.text("endpoint").is_some_and(|endpoint| endpoint.contains('@')) {
        let what = "endpoint: Litestream does not use the user and the password in it, and says them in its log; write the host alone, and the keys into \
                    `access-key-id` and `secret-access-key`";
        context.say(place(replica, "endpoint"), what);
    }
}

fn level_interval(level: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    if level.get("interval").is_none_or(|v| v.is_null() && !is_variable(v)) {
        context.say(level.at, "interval: Litestream refuses a level without it; write `interval: 30s`");
    }
}

/// What 0.5 refuses beside `path`.
fn directory_keys(database: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    if context.line.format() == Format::Generations || database.text("path").is_none() || database.text("dir").is_some() {
        return;
    }
    for key in ["watch", "meta-dir"] {
        let set = database.get(key).and_then(|v| v.scalar()).is_some_and(|s| !s.is_null() && s.flag() != Some(false));
        if set {
            let write = if key == "watch" { "remove it" } else { "write `meta-path: …`" };
            context.say(place(database, key), format!("{key}: Litestream refuses it for one database, as it is for a `dir`; {write}"));
        }
    }
}

fn database_path(database: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    let has = |key: &str| database.text(key).is_some();
    let dirs = context.line.format() == Format::Ltx;
    // An unset variable has its own finding.
    let meant = |key: &str| database.get(key).is_some_and(|v| is_variable(v));
    if !has("path") && !meant("path") && !(dirs && (has("dir") || meant("dir"))) {
        // 0.3 would take the working directory for the database.
        let or = if dirs { ", or `dir: /data` and `pattern: \"*.db\"`" } else { "" };
        context.say(database.at, format!("path: this entry of `dbs:` names no database; write `path: /data/app.db`{or}"));
    } else if dirs && has("path") && has("dir") {
        context.say(place(database, "dir"), "dir: Litestream refuses it beside `path`; remove one of the two");
    } else if dirs && has("dir") && !has("pattern") && !meant("pattern") {
        context.say(place(database, "dir"), "dir: Litestream refuses it without a pattern; write `pattern: \"*.db\"` below it");
    }
}

/// Nothing shows it once Litestream runs.
fn misread_path(database: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    for key in ["path", "dir"] {
        if let Some(mark) = database.text(key).and_then(|path| context.line.format().misread(path.as_bytes())) {
            let what =
                format!("{key}: it has a {mark} in it, by which Litestream opens another file; rename it, and write the new name here");
            context.find(place(database, key), what, true);
        }
    }
}

fn replica_count(database: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    let (one, several) = (database.get("replica").filter(|v| !v.is_null()), database.get("replicas").filter(|v| !v.is_null()));
    let count = several.map_or(0, |v| v.mappings().count());
    let write = if context.line.format() == Format::Generations {
        "replicas: [{url: s3://BUCKET/app.db}]"
    } else {
        "replica: {url: s3://BUCKET/app.db}"
    };
    match (one, several) {
        (None, None) => {
            let unset = ["replica", "replicas"].iter().any(|k| database.get(k).is_some_and(|v| is_variable(v)));
            if !unset {
                context.say(database.at, format!("replica: this database has none, so that nothing is backed up; write `{write}`"));
            }
        }
        (None, Some(list)) if count == 0 && list.scalar().is_none() => {
            context.say(place(database, "replicas"), format!("replicas: the list is empty, so that nothing is backed up; write `{write}`"));
        }
        (Some(_), Some(_)) if context.line.format() == Format::Ltx => {
            let what = "replicas: Litestream 0.5 refuses it beside `replica`; remove the `replicas:`";
            context.say(place(database, "replicas"), what);
        }
        (None, Some(_)) if context.line.format() == Format::Ltx && count > 1 => {
            let what = "replicas: Litestream 0.5 refuses more than one; leave one and write it as `replica: {…}`";
            context.say(place(database, "replicas"), what);
        }
        _ => {}
    }
}

fn scheme(url: &str) -> Option<String> {
    let (scheme, _) = url.split_once("://")?;
    let valid = !scheme.is_empty() && scheme.len() <= 10 && scheme.chars().all(|c| c.is_ascii_alphanumeric());
    valid.then(|| scheme.to_ascii_lowercase())
}

/// As Litestream decides it: the URL's scheme, else `type`, else a file.
fn kind_text(replica: &Node) -> String {
    replica.text("url").and_then(scheme).unwrap_or_else(|| replica.text("type").unwrap_or(ReplicaKind::File.name()).to_owned())
}

fn kind(replica: &Node) -> Option<ReplicaKind> {
    ReplicaKind::parse(&kind_text(replica))
}

fn replica_type(replica: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    let url = replica.text("url");
    if url.is_some_and(|url| scheme(url).is_none()) {
        let what = "url: it does not begin with a type of replica; write `url: s3://BUCKET/PATH`, or `path: …` for a directory";
        context.say(place(replica, "url"), what);
        return;
    }
    let (text, format) = (kind_text(replica), context.line.format());
    let known = ReplicaKind::names_in(format);
    let is_other_scheme = |kind: ReplicaKind| url.is_some() && kind.row().other_scheme == Some(&text) && kind.name_in(format).is_some();
    if known.contains(&text.as_str()) || ReplicaKind::parse(&text).is_some_and(is_other_scheme) {
        return;
    }
    let this = context.this();
    let (key, write): (_, &dyn Fn(&str) -> String) =
        if url.is_some() { ("url", &|k| format!("`url: {k}://…`")) } else { ("type", &|k| format!("`type: {k}`")) };
    let lower = text.to_ascii_lowercase();
    let what = match ReplicaKind::parse(&lower).map(|kind| kind.name_in(format)) {
        _ if replica.get(key).is_some_and(|v| is_variable(v)) => {
            format!("what its variable holds is none of {this}'s types of replica; set it to one of {}", known.join(", "))
        }
        Some(Some(ours)) if ours != lower => format!("{this} has `{ours}` for it; write {}", write(ours)),
        Some(None) => {
            let s3 = write(ReplicaKind::S3.name());
            format!("{this} has no {lower} replicas; write {s3} or another of {}, or run Litestream 0.5", known.join(", "))
        }
        _ => format!("{this} has no such type of replica; write {}", write(nearest(&lower, known.iter().copied()))),
    };
    context.say(place(replica, key), format!("{key}: {what}"));
}

fn url_in_path(replica: &Rc<Node>, _: &Rc<Node>, context: &mut Context) {
    if let Some(scheme) = replica.text("path").and_then(scheme) {
        let written = replica.get("path").filter(|v| !is_variable(v)).map(|_| format!("{scheme}://")).unwrap_or_default();
        context.say(place(replica, "path"), format!("path: Litestream refuses a URL here; write `url: {written}…`"));
    }
}

/// What Litestream refuses beside a URL.
fn url_and_parts(replica: &Rc<Node>, root: &Rc<Node>, context: &mut Context) {
    if replica.text("url").is_none() {
        return;
    }
    for part in kind(replica).map_or(&[][..], |kind| kind.row().place) {
        if replica.text(part).is_some() {
            let what =
                format!("{part}: Litestream refuses it beside `url`, which says the same; remove it and write `url: …` with all of it");
            context.say(place(replica, part), what);
        } else if default(root, part, context.line).is_some() {
            let what = format!("{part}: Litestream refuses it beside the `url` of a replica, for which it is a default; remove it here");
            context.say(place(root, part), what);
        }
    }
}

/// What 0.5 takes from the top of the file where a replica does not have it.
fn default<'a>(root: &'a Node, part: &str, line: Line) -> Option<&'a str> {
    if line.format() == Format::Ltx && matches!(part, "bucket" | "host" | "user") { root.text(part) } else { None }
}

/// What Litestream refuses to be without: the parts of a type, and the last of them as a URL has it.
fn missing_parts(replica: &Rc<Node>, root: &Rc<Node>, context: &mut Context) {
    let Some(kind) = kind(replica) else { return };
    let Row { needs: parts, example, .. } = *kind.row();
    let (host, path) = replica.text("url").and_then(place_of).unwrap_or_default();
    let in_url = |part: &str| match part {
        "user" => host.contains('@'),
        // NATS has its server in the host's place.
        "path" => !path.is_empty(),
        "bucket" if kind == ReplicaKind::Nats => !path.is_empty(),
        _ => !host.rsplit('@').next().unwrap_or_default().is_empty(),
    };
    let has = |part: &str| in_url(part) || replica.text(part).or_else(|| default(root, part, context.line)).is_some();
    // An unset variable has its own finding.
    let meant = |part: &str| [part, "url"].iter().any(|key| replica.get(key).is_some_and(|v| is_variable(v)));
    if let Some(part) = parts.iter().find(|p| !has(p) && !meant(p)) {
        context.say(replica.at, format!("{part}: Litestream refuses this type of replica without it; write `{example}`"));
    }
}

/// A URL's host, with the user, and its path.
fn place_of(url: &str) -> Option<(&str, &str)> {
    let place = url.split_once("://")?.1.split('?').next().unwrap_or_default();
    Some(place.split_once('/').unwrap_or((place, "")))
}

/// What two entries must not share.
pub(super) fn check_databases(root: &Rc<Node>, context: &mut Context) {
    let mut paths: HashMap<PathBuf, Place> = HashMap::new();
    let mut places: HashMap<String, Place> = HashMap::new();
    for database in root.get("dbs").into_iter().flat_map(Node::mappings) {
        if let Some(path) = database.text("path") {
            let value = database.get("path").map_or_else(|| "…".to_owned(), |v| shown("path", v));
            if let Some(first) = paths.insert(normal(path), database.at) {
                let what = format!("path: the entry in line {} has {value} too; remove one of the two entries", first.line);
                context.say(place(database, "path"), what);
            }
        }
        // Each database of a directory gets a place of its own below the replica's.
        if database.text("dir").is_some() {
            continue;
        }
        for key in ["replica", "replicas"] {
            for replica in database.get(key).into_iter().flat_map(Node::mappings) {
                let Some(at) = where_to(replica, root, context.line) else { continue };
                if let Some(first) = places.insert(at, replica.at) {
                    let what = format!(
                        "{key}: the replica in line {} has the same place, and each would destroy the other's backup; write another path, as `…/{}`",
                        first.line,
                        suggestion(database)
                    );
                    context.say(replica.at, what);
                }
            }
        }
    }
}

/// A path without what makes no difference.
fn normal(path: &str) -> PathBuf {
    Path::new(path).components().filter(|c| *c != Component::CurDir).collect()
}

/// A name for the second backup: the database's own.
fn suggestion(database: &Node) -> String {
    let path = database.get("path").and_then(|v| v.scalar()).filter(|s| s.references.is_empty());
    let name = path.and_then(|s: &Scalar| Path::new(&s.text).file_name()).map(|n| n.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "app.db".to_owned())
}

/// Where a replica is, however it is written; never shown.
fn where_to(replica: &Node, root: &Node, line: Line) -> Option<String> {
    let kind = kind(replica).map_or_else(|| kind_text(replica), |kind| kind.name().to_owned());
    let text = |key: &str| replica.text(key).or_else(|| default(root, key, line)).unwrap_or_default();
    let (host, path) = match replica.text("url") {
        Some(url) => {
            let (host, path) = place_of(url)?;
            (host.rsplit('@').next().unwrap_or_default(), path)
        }
        None => (["bucket", "host", "webdav-url"].iter().map(|k| text(k)).find(|t| !t.is_empty()).unwrap_or_default(), text("path")),
    };
    let path = path.trim_matches('/');
    (!host.is_empty() || !path.is_empty()).then(|| format!("{kind} {host} {path} {} {}", text("endpoint"), text("account-name")))
}
