//! `DATABASE_URL` → the path of a SQLite database. Must never guess: a URL of another engine is not ours.

use std::path::PathBuf;

/// What a `DATABASE_URL` names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A SQLite database in this file.
    File(PathBuf),
    /// A database of another engine (its scheme).
    Other(String),
    /// Nothing that can be replicated, and why.
    Bad(&'static str),
}

/// Every spelling in use: plain paths, `file:`, `sqlite:`, `sqlite3:` with one to four slashes, and
/// a driver behind `+`. Three slashes are a relative path in SQLAlchemy and Django, an absolute one in Rails.
pub(super) fn parse(text: &str) -> Named {
    let Some((scheme, rest)) = text.split_once(':') else { return file(text) };
    let engine = scheme.split('+').next().unwrap_or_default().to_ascii_lowercase();
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    match engine.as_str() {
        "sqlite" | "sqlite3" | "file" | "ecto" => {}
        _ if scheme.is_empty() || scheme.contains('/') => return file(text),
        _ => return Named::Other(scheme.to_owned()),
    }
    let rails = engine == "sqlite3" || engine == "file";
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(after) => match after.strip_prefix('/') {
            // sqlite:////abs, and Rails' sqlite3:///abs
            Some(_) if rails || after.starts_with("//") => after,
            Some(relative) => relative,
            // sqlite://data/app.db: some drivers take the host for a folder
            None => after,
        },
    };
    let path = if path.starts_with("//") { path.get(1..).unwrap_or(path) } else { path };
    match decode(path) {
        Some(path) => file(&path),
        None => Named::Bad("its %-escapes do not give text"),
    }
}

fn file(path: &str) -> Named {
    match path {
        "" => Named::Bad("it names no file"),
        ":memory:" => Named::Bad("a database in memory cannot be replicated"),
        path => Named::File(PathBuf::from(path)),
    }
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_in_use_gives_its_file() {
        for (url, path) in [
            ("/data/app.db", "/data/app.db"),
            ("data/app.db", "data/app.db"),
            ("file:/data/x.db", "/data/x.db"),
            ("file:///data/x.db", "/data/x.db"),
            ("file:dev.sqlite?connection_limit=1", "dev.sqlite"),
            ("file:./dev.db", "./dev.db"),
            ("sqlite:app.db", "app.db"),
            ("sqlite:/data/app.db", "/data/app.db"),
            ("sqlite:///rel/app.db", "rel/app.db"),
            ("sqlite:////abs/app.db", "/abs/app.db"),
            ("sqlite://data/app.db?mode=rwc", "data/app.db"),
            ("sqlite+aiosqlite:////abs/app.db", "/abs/app.db"),
            ("sqlite3:///data/production.sqlite3", "/data/production.sqlite3"),
            ("sqlite3:/data/production.sqlite3", "/data/production.sqlite3"),
            ("sqlite3:storage/production.sqlite3", "storage/production.sqlite3"),
            ("sqlite:////data/my%20app.db", "/data/my app.db"),
        ] {
            assert_eq!(parse(url), Named::File(path.into()), "{url}");
        }
    }

    #[test]
    fn another_engine_is_not_ours_and_memory_cannot_be_replicated() {
        assert_eq!(parse("postgres://u:p@h/db"), Named::Other("postgres".into()));
        assert_eq!(parse("mysql2://h/db"), Named::Other("mysql2".into()));
        assert!(matches!(parse("sqlite::memory:"), Named::Bad(_)));
        assert!(matches!(parse("sqlite://"), Named::Bad(_)));
        assert!(matches!(parse("sqlite:a%zz"), Named::Bad(_)));
    }
}
