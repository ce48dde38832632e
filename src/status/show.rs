//! How `status` is written: a table for people, JSON for programs. Must fit 80 columns, but for words that are longer.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::verified::Verified;
use super::{Absent, Lag, Overview, Status};
use crate::json::{self, Object};
use crate::litestream::backup::Position;
use crate::report::human_size;
use crate::state::State;
use crate::time::{self, period};

const WIDTH: usize = 80;
/// So many events are shown.
const EVENTS: usize = 4;

/// For people.
pub fn text(overview: &Overview) -> String {
    let mut out = String::new();
    for line in headline(overview) {
        wrap(&mut out, &line, "");
    }
    let width = overview.databases.iter().map(|s| s.alias.chars().count()).max().unwrap_or(0).clamp(8, 18);
    let row = |out: &mut String, [alias, size, wal, lag, synced, verified, backup]: [&str; 7]| {
        let _ = writeln!(out, "{alias:<width$} {size:>9} {wal:>9} {lag:>8} {synced:>8} {verified:>9}  {backup}");
    };
    out.push('\n');
    row(&mut out, ["DATABASE", "SIZE", "WAL", "LAG", "SYNCED", "VERIFIED", "BACKUP"]);
    for status in &overview.databases {
        row(
            &mut out,
            [
                &shortened(&status.alias, width),
                &status.size.map_or_else(|| "missing".to_owned(), human_size),
                &human_size(status.wal),
                &lag(&status.lag),
                &status.synced.map_or_else(|| "-".to_owned(), |at| ago(at, overview.at)),
                &status.verified.as_ref().map_or_else(|| "never".to_owned(), |v| ago(v.at, overview.at)),
                verdict(status),
            ],
        );
    }
    for status in &overview.databases {
        out.push('\n');
        wrap(&mut out, &format!("{}: {} → {}", status.alias, status.path.display(), status.replica), "  ");
        for line in details(status, overview.at) {
            wrap(&mut out, &format!("  {line}"), "    ");
        }
    }
    events(overview, &mut out);
    out
}

fn headline(overview: &Overview) -> Vec<String> {
    let own = format!("litestream-entry {}, Litestream {}", env!("CARGO_PKG_VERSION"), overview.litestream);
    let Some(state) = &overview.state else {
        return vec![own, "no litestream-entry runs here as a container's entrypoint; this is what the files say:".to_owned()];
    };
    let view = state.view;
    let up = ago(state.began, overview.at);
    let restarts = match view.restarts {
        0 => String::new(),
        1 => ", started again once".to_owned(),
        n => format!(", started again {n} times"),
    };
    let replication = format!("replication {} for {}{restarts}", view.replication.word(), ago(state.since, overview.at));
    let mut lines = vec![own, format!("{} for {up}; {replication}", view.phase.word())];
    lines.extend(overview.restoring.iter().flat_map(|text| text.lines()).map(str::to_owned));
    lines
}

fn verdict(status: &Status) -> &'static str {
    match &status.verified {
        Some(Verified { failed: Some(_), .. }) => "FAILED",
        _ if status.unreachable.is_some() => "UNREACHABLE",
        _ if status.is_empty => "none",
        _ if status.absent().is_some() => "-",
        _ if !status.proven => "unproven",
        Some(_) => "verified",
        None => "proven",
    }
}

fn details(status: &Status, now: SystemTime) -> Vec<String> {
    let place = |position: &Option<Position>| position.as_ref().map_or_else(|| "-".to_owned(), short);
    let mut lines = vec![format!("position here {}, there {}; lock {}", place(&status.here), place(&status.there), status.lock)];
    if let Some(behind) = status.behind.filter(|n| *n > 0) {
        let unit = if matches!(status.here, Some(Position::Wal { .. })) { "bytes of the WAL" } else { "transactions" };
        lines.push(format!("{behind} {unit} are not there yet"));
    }
    if let Lag::Unknown(unknown) = &status.lag {
        lines.push(format!("how far it lags is not known: {}", unknown.why));
    }
    lines.extend(status.unreachable.iter().map(|why| format!("the replica does not answer: {why}")));
    lines.extend(
        status.first_snapshot.map(|percent| format!("first snapshot: {percent} %; nothing new is in the replica before it is there")),
    );
    lines.extend(status.owed.iter().map(|why| format!("a new snapshot is made: {}", status.without_alias(why))));
    match status.absent() {
        Some(Absent::NotYet) => lines.push("the app has not made this database yet".to_owned()),
        Some(Absent::Deleted) => lines.push("it was deleted while it was replicated; what the replica has of it stays".to_owned()),
        None => {}
    }
    if status.is_empty {
        lines.push("the replica has nothing".to_owned());
    }
    if !status.proven && status.owed.is_none() && status.absent().is_none() && !status.is_empty {
        lines.push("a gap in the backup is possible; a new snapshot is tried for".to_owned());
    }
    if let Some(verified) = &status.verified {
        let took = verified.took.as_secs_f32();
        lines.push(match &verified.failed {
            None => format!("verified {} ago in {took:.1} s", ago(verified.at, now)),
            Some(why) => format!("verify failed {} ago: {why}", ago(verified.at, now)),
        });
    }
    lines
}

fn events(overview: &Overview, out: &mut String) {
    let events = overview.state.iter().flat_map(|s| &s.events).collect::<Vec<_>>();
    let last = events.iter().skip(events.len().saturating_sub(EVENTS));
    for (at, (when, what)) in last.enumerate() {
        if at == 0 {
            out.push('\n');
        }
        wrap(out, &format!("{} ago: {what}", ago(*when, overview.at)), "  ");
    }
}

/// `2a`, `3/1f2e0`: people compare them, no more.
pub fn short(position: &Position) -> String {
    match position {
        Position::Txid(txid) => format!("{txid:x}"),
        Position::Wal { index, offset, .. } if *offset == u64::MAX => format!("{index:x}"),
        Position::Wal { index, offset, .. } => format!("{index:x}/{offset:x}"),
    }
}

/// How far behind, as short.
pub fn lag(lag: &Lag) -> String {
    match lag {
        Lag::For(lag) => period(*lag),
        Lag::Unknown(_) => "unknown".to_owned(),
    }
}

/// How long ago, as short.
pub fn ago(at: SystemTime, now: SystemTime) -> String {
    period(now.duration_since(at).unwrap_or_default())
}

fn shortened(text: &str, width: usize) -> String {
    let text = plain(text);
    if text.chars().count() <= width { text } else { text.chars().take(width.saturating_sub(1)).chain(['…']).collect() }
}

/// A database in a directory may be called anything; a terminal must not obey its name.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Writes words up to the width, the lines after the first with an indent.
fn wrap(out: &mut String, text: &str, indent: &str) {
    let text = plain(text);
    let mut line: String = text.chars().take_while(|c| *c == ' ').collect();
    let mut empty = true;
    for word in text.split_whitespace() {
        let length = line.chars().count().saturating_add(word.chars().count()).saturating_add(usize::from(!empty));
        if length > WIDTH && !empty {
            let _ = writeln!(out, "{line}");
            (line, empty) = (indent.to_owned(), true);
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(out, "{line}");
}

/// For programs: one object.
pub fn json(overview: &Overview) -> String {
    let object = Object::default()
        .with("version", env!("CARGO_PKG_VERSION"))
        .with("litestream", &overview.litestream)
        .with("at", time::rfc3339(overview.at));
    let object = match &overview.state {
        Some(state) => with_state(object, state),
        None => object.with("running", false),
    };
    let databases = json::list(overview.databases.iter().map(|status| object_of(status, overview.at)));
    object.with("restoring", overview.restoring.as_ref()).with("databases", databases).to_string()
}

fn with_state(object: Object, state: &State) -> Object {
    let event = |(at, text): &(SystemTime, String)| Object::default().with("at", time::rfc3339(*at)).with("text", text);
    object
        .with("running", true)
        .with("phase", state.view.phase.word())
        .with("replication", state.view.replication.word())
        .with("replication_since", time::rfc3339(state.since))
        .with("began", time::rfc3339(state.began))
        .with("restarts", state.view.restarts)
        .with("unproven", state.view.unproven)
        .with("events", json::list(state.events.iter().map(event)))
}

fn object_of(status: &Status, now: SystemTime) -> Object {
    let moment = |at: Option<SystemTime>| at.map(time::rfc3339);
    let (lag, unknown) = match &status.lag {
        Lag::For(lag) => (Some(json::seconds(*lag)), None),
        Lag::Unknown(unknown) => (None, Some(unknown.why.as_str())),
    };
    let verified = status.verified.as_ref().map(|verified| {
        Object::default()
            .with("at", time::rfc3339(verified.at))
            .with("ok", verified.failed.is_none())
            .with("milliseconds", verified.took.as_millis())
            .with("proved", moment(verified.proved))
            .with("reason", verified.failed.as_ref())
    });
    Object::default()
        .with("database", &status.alias)
        .with("path", status.path.as_path())
        .with("replica", &status.replica)
        .with("size", status.size)
        .with("wal_size", status.wal)
        .with("position_here", status.here.as_ref().map(short))
        .with("position_there", status.there.as_ref().map(short))
        .with("behind", status.behind)
        .with("lag_seconds", lag)
        .with("lag_unknown", unknown)
        .with("last_sync", moment(status.synced))
        .with("seconds_since_sync", status.synced.map(|at| now.duration_since(at).unwrap_or_default().as_secs()))
        .with("unreachable", status.unreachable.as_ref())
        .with("verified", verified)
        .with("proven", status.proven)
        .with("owed", status.owed.as_ref())
        .with("first_snapshot", status.first_snapshot)
        .with("lock", status.lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_the_table_is_one_word_on_one_line_whatever_it_is_made_of() {
        assert_eq!(shortened("a\nb\u{1b}[2Jc\u{9b}2Jd", 18), "a b [2Jc 2Jd");
        assert_eq!(shortened(&"é".repeat(300), 4), "ééé…");
    }
}
