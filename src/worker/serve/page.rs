//! The page: each database with its state, for people who would rather look than read. Must never hold a script or a style of
//! its own making, a link that acts, or text that is not escaped.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::history::{History, Point, SPAN};
use crate::report::human_size;
use crate::status::show::{ago, lag, short};
use crate::status::verified::Verified;
use crate::status::{Absent, Overview, Status};
use crate::time::{self, period};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Only these two run and apply, by their SHA-256 in base64; a browser refuses what does not match.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'sha256-C+ARYRQ7kOQc85ulAaYtnVUAo6YO4QEK1zvJsXrc1IU='; \
     script-src 'sha256-smnsE/pBzPLTF7u9YBXb0OmenGQLz0uRnCR0ujy9Uzg='; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The whole page.
pub(super) fn html(overview: &Overview, verdict: &Result<String, String>, history: &History, now: SystemTime) -> String {
    let (class, text) = match verdict {
        Ok(line) => ("good", line),
        Err(why) => ("bad", why),
    };
    let title = if verdict.is_ok() { "ok" } else { "not well" };
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>{title} · litestream-entry</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>litestream-entry</h1>\n\
         <p>Version {}, Litestream {}</p>\n</header>\n<main>\n<p id=\"lost\" role=\"alert\">No answer any more: what is shown is old.</p>\n\
         <section id=\"state\" aria-label=\"State\" role=\"status\">\n<p class=\"{class}\">{}</p>\n</section>\n",
        env!("CARGO_PKG_VERSION"),
        escaped(&overview.litestream),
        escaped(text)
    );
    databases(&mut out, overview, history, now);
    events(&mut out, overview, now);
    let _ = write!(
        out,
        "</main>\n<footer><p>As of <time datetime=\"{0}\">{0}</time>; refreshed every five seconds.</p></footer>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        time::rfc3339(now)
    );
    out
}

fn databases(out: &mut String, overview: &Overview, history: &History, now: SystemTime) {
    out.push_str("<section id=\"databases\" aria-label=\"Databases\">\n");
    if let Some(state) = &overview.state {
        let view = state.view;
        let facts = [
            ("App", format!("{} for {}", view.phase.word(), ago(state.began, now))),
            ("Replication", format!("{} for {}", view.replication.word(), ago(state.since, now))),
            ("Litestream restarts", view.restarts.to_string()),
        ];
        list(out, &facts.map(|(name, value)| (name, value, false)));
    }
    if let Some(restoring) = &overview.restoring {
        let _ = writeln!(out, "<p>{}</p>", escaped(restoring));
    }
    for status in &overview.databases {
        article(out, status, &history.of(&status.path), now);
    }
    out.push_str("</section>\n");
}

fn article(out: &mut String, status: &Status, points: &[Point], now: SystemTime) {
    let (class, badge) = badge(status);
    let _ = writeln!(out, "<article>\n<h2>{}<span class=\"badge {class}\">{badge}</span></h2>", escaped(&status.alias));
    let position = |p: Option<&crate::litestream::backup::Position>| p.map_or_else(|| "unknown".to_owned(), short);
    let proof = match &status.verified {
        None => "never in this run".to_owned(),
        Some(Verified { failed: None, at, took, .. }) => format!("{} ago, in {:.1} s", ago(*at, now), took.as_secs_f32()),
        Some(Verified { failed: Some(why), at, .. }) => format!("failed {} ago: {why}", ago(*at, now)),
    };
    list(
        out,
        &[
            ("Behind the database", lag(&status.lag), false),
            ("Last time level with it", status.synced.map_or_else(|| "unknown".to_owned(), |at| format!("{} ago", ago(at, now))), false),
            ("Size", status.size.map_or_else(|| "missing".to_owned(), human_size), false),
            ("WAL", human_size(status.wal), false),
            ("Position here, there", format!("{}, {}", position(status.here.as_ref()), position(status.there.as_ref())), false),
            ("Lock", status.lock.to_owned(), false),
            ("Last verify", proof, true),
            ("Database", status.path.display().to_string(), true),
            ("Replica", status.replica.clone(), true),
        ],
    );
    graph(out, status, points, now);
    out.push_str("</article>\n");
}

fn badge(status: &Status) -> (&'static str, &'static str) {
    match &status.verified {
        Some(Verified { failed: Some(_), .. }) => ("bad", "verify failed"),
        _ if status.absent() == Some(Absent::NotYet) => ("warn", "no database yet"),
        _ if !status.proven => ("warn", "unproven"),
        Some(_) => ("ok", "verified"),
        None => ("ok", "proven"),
    }
}

/// Terms and what they are; the last word is whether it takes a whole row.
fn list(out: &mut String, facts: &[(&str, String, bool)]) {
    out.push_str("<dl>\n");
    for (name, value, wide) in facts {
        let class = if *wide { " class=\"wide\"" } else { "" };
        let _ = writeln!(out, "<div{class}><dt>{name}</dt><dd>{}</dd></div>", escaped(value));
    }
    out.push_str("</dl>\n");
}

/// Two lines over the last hour, each to its own scale, and the same in words for those who do not see them.
fn graph(out: &mut String, status: &Status, points: &[Point], now: SystemTime) {
    if points.len() < 2 {
        return;
    }
    let worst = points.iter().filter_map(|p| p.lag).max().unwrap_or_default();
    let (least, most) = (points.iter().map(|p| p.size).min().unwrap_or_default(), points.iter().map(|p| p.size).max().unwrap_or_default());
    let words = format!(
        "{}, the last hour: at most {} behind; size with WAL from {} to {}",
        status.alias,
        period(worst),
        human_size(least),
        human_size(most)
    );
    let lag = line(points, now, worst.as_millis().max(1000), |p| p.lag.map(|lag| lag.as_millis()));
    let size = line(points, now, u128::from(most.max(1)), |p| Some(u128::from(p.size)));
    let _ = writeln!(
        out,
        "<figure><svg viewBox=\"0 0 600 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{words}\">\
         <polyline class=\"size\" points=\"{size}\"/><polyline class=\"lag\" points=\"{lag}\"/></svg>\
         <figcaption>The last hour: <span class=\"bad\">behind</span>, at most {}; <span class=\"sized\">size with WAL</span>, {} to {}</figcaption></figure>",
        period(worst),
        human_size(least),
        human_size(most),
        words = escaped(&words)
    );
}

/// Points of a line in a box of 600 by 100, the top left for none.
fn line(points: &[Point], now: SystemTime, most: u128, value: impl Fn(&Point) -> Option<u128>) -> String {
    let mut out = String::new();
    for point in points {
        let age = now.duration_since(point.at).unwrap_or(Duration::ZERO).as_millis();
        let Some(value) = value(point) else { continue };
        let x = 600_u128.saturating_sub(age.saturating_mul(600).checked_div(SPAN.as_millis()).unwrap_or_default());
        let y = 96_u128.saturating_sub(value.saturating_mul(92).checked_div(most).unwrap_or_default());
        let _ = write!(out, "{x},{y} ");
    }
    out.trim_end().to_owned()
}

fn events(out: &mut String, overview: &Overview, now: SystemTime) {
    out.push_str("<section id=\"events\" aria-label=\"Recent events\">\n<h2>Recent events</h2>\n<ol>\n");
    let events = overview.state.iter().flat_map(|s| s.events.iter().rev());
    let mut any = false;
    for (at, text) in events {
        any = true;
        let when = time::rfc3339(*at);
        let _ = writeln!(out, "<li><time datetime=\"{when}\" title=\"{when}\">{} ago</time>{}</li>", ago(*at, now), escaped(text));
    }
    out.push_str(if any { "</ol>\n</section>\n" } else { "<li>None.</li>\n</ol>\n</section>\n" });
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::litestream::Line;
    use crate::status::Lag;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn status(alias: &str) -> Status {
        Status {
            alias: alias.to_owned(),
            path: "/data/app.db".into(),
            replica: "s3://bucket/<b>&\"'".to_owned(),
            size: Some(1),
            wal: 2,
            here: None,
            there: None,
            behind: None,
            lag: Lag::For(Duration::from_secs(3)),
            synced: None,
            unreachable: None,
            verified: None,
            proven: true,
            owed: None,
            first_snapshot: None,
            is_empty: false,
            lock: "held",
        }
    }

    #[test]
    fn what_is_shown_is_text_whatever_it_is_made_of() {
        let odd = "<script>alert(1)</script>";
        let overview = Overview {
            state: None,
            restoring: Some(odd.to_owned()),
            litestream: odd.to_owned(),
            line: Line::V05,
            databases: vec![status(odd)],
            at: at(0),
        };
        let page = html(&overview, &Err(odd.to_owned()), &History::default(), at(0));
        assert_eq!(page.matches("<script>").count(), 1, "our own");
        assert!(!page.contains("<b>") && page.contains("&lt;b&gt;&amp;&quot;&#39;"));
        assert!(page.contains("not well"));
    }

    #[test]
    fn a_graph_has_its_points_in_the_box_and_says_the_same_in_words() {
        let points =
            (0..300).map(|n| Point { at: at(n * 12), lag: (n != 7).then(|| Duration::from_secs(n)), size: n * 1000 }).collect::<Vec<_>>();
        let history = History::of_points(std::path::Path::new("/data/app.db"), points);
        let overview = Overview {
            state: None,
            restoring: None,
            litestream: "0.5.17".into(),
            line: Line::V05,
            databases: vec![status("default")],
            at: at(3600),
        };
        let page = html(&overview, &Ok("ok".into()), &history, at(3600));
        assert!(page.contains("aria-label=\"default, the last hour: at most 4 min behind; size with WAL from 0 B to 299.0 kB\""), "{page}");
        let drawn: Vec<&str> = page.split("points=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(drawn.iter().map(|line| line.split(' ').count()).collect::<Vec<_>>(), [300, 299]);
        for pair in drawn.iter().flat_map(|line| line.split(' ')) {
            let (x, y) = pair.split_once(',').unwrap();
            assert!(x.parse::<u32>().unwrap() <= 600 && y.parse::<u32>().unwrap() <= 100, "{pair}");
        }
    }
}
