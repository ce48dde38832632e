//! Litestream's own commands: which line has which, and how an alias, the configuration and the control socket get
//! into their argv. Must never run anything.

use std::ffi::OsString;

use super::schema::Lines;
use super::{Ability, Format, Line, Version};
use crate::exit::{self, Failure};

/// One of Litestream's commands.
#[derive(Debug)]
pub struct Native {
    /// Its name.
    pub name: &'static str,
    lines: Lines,
    given: Given,
    /// What to do on the line that does not have it.
    instead: &'static str,
}

/// What Litestream is told without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Config,
    Socket,
}

const NO_SOCKET: &str = "Litestream 0.3 has no control socket; replication is configured by variables and starts with the container";

/// All but `replicate`, `restore`, `sync` and `version`, which this program has of its own.
pub static NATIVE: [Native; 12] = [
    native("databases", Lines::Both, Given::Config, ""),
    native(
        "generations",
        Lines::Only03,
        Given::Config,
        "Litestream 0.5 has no generations: a backup is one line of transactions, which `ltx DB` lists",
    ),
    native("snapshots", Lines::Both, Given::Config, ""),
    native("wal", Lines::Both, Given::Config, ""),
    native(
        "ltx",
        Lines::Only05,
        Given::Config,
        "Litestream 0.3 has no LTX files: `wal DB` lists its WAL segments, `snapshots DB` its snapshots",
    ),
    native("reset", Lines::Only05, Given::Config, "Litestream 0.3 has no reset: stop the app and move the .NAME-litestream directory away"),
    native("info", Lines::Only05, Given::Socket, NO_SOCKET),
    native("list", Lines::Only05, Given::Socket, NO_SOCKET),
    native("register", Lines::Only05, Given::Socket, NO_SOCKET),
    native("unregister", Lines::Only05, Given::Socket, NO_SOCKET),
    native("start", Lines::Only05, Given::Socket, NO_SOCKET),
    native("stop", Lines::Only05, Given::Socket, NO_SOCKET),
];

const fn native(name: &'static str, lines: Lines, given: Given, instead: &'static str) -> Native {
    Native { name, lines, given, instead }
}

/// Flags that take the next word, in either line.
const TAKES_VALUE: [&str; 14] = [
    "config",
    "socket",
    "timeout",
    "level",
    "replica",
    "generation",
    "index",
    "timestamp",
    "txid",
    "o",
    "parallelism",
    "exec",
    "log-level",
    "integrity-check",
];

/// The command of this name.
pub fn find(name: &str) -> Option<&'static Native> {
    NATIVE.iter().find(|n| n.name == name)
}

/// argv behind `litestream`: the words unchanged, but for what `resolve` makes of a database's name.
///
/// # Errors
/// 64 where the line or the release does not have the command, with what to use instead; whatever `resolve` says.
pub fn argv(
    native: &Native,
    version: Version,
    args: &[OsString],
    config: &[OsString],
    socket: Option<OsString>,
    resolve: &dyn Fn(&str) -> Result<OsString, Failure>,
) -> Result<Vec<OsString>, Failure> {
    let is_05 = version.line().map(Line::format) == Some(Format::Ltx);
    // 0.5 calls its snapshots the files of level 9.
    let snapshots = native.name == "snapshots" && is_05;
    let refused = |why: &str| Err(Failure::new(exit::USAGE, format!("{}: {why}", native.name)));
    match (native.lines, is_05) {
        (Lines::Only03, true) | (Lines::Only05, false) => return refused(native.instead),
        (_, true) if (snapshots || native.given == Given::Socket) && !version.can(Ability::Socket) => {
            return refused(&version.lacks(if snapshots { "list of them" } else { "control socket that does it" }, Ability::Socket));
        }
        _ => {}
    }
    let mut words: Vec<OsString> = vec![if snapshots { "ltx" } else { native.name }.into()];
    let has = |flag: &str| args.iter().filter_map(|a| flag_of(a)).any(|(name, _)| name == flag);
    // Litestream refuses a URL beside a configuration.
    let is_url = |word: &OsString| word.to_str().is_some_and(|text| !text.starts_with('-') && text.contains("://"));
    match native.given {
        Given::Config if has("config") || args.iter().any(is_url) => {}
        Given::Config => words.extend(config.iter().cloned()),
        Given::Socket if !has("socket") => words.extend(socket.into_iter().flat_map(|path| ["-socket".into(), path])),
        Given::Socket => {}
    }
    if snapshots {
        words.extend(["-level".into(), "9".into()]);
    }
    let mut takes_next = false;
    for word in args {
        let flag = flag_of(word);
        let is_name = !takes_next && flag.is_none();
        takes_next = flag.is_some_and(|(name, complete)| !complete && TAKES_VALUE.contains(&name));
        words.push(match word.to_str() {
            Some(text) if is_name => resolve(text)?,
            _ => word.clone(),
        });
    }
    Ok(words)
}

/// A flag's name without its dashes, and whether its value stands behind a `=`.
fn flag_of(word: &OsString) -> Option<(&str, bool)> {
    let name = word.to_str()?.strip_prefix('-')?;
    let name = name.strip_prefix('-').unwrap_or(name);
    let (name, complete) = name.split_once('=').map_or((name, false), |(name, _)| (name, true));
    (!name.is_empty()).then_some((name, complete))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command::NATIVES;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn made(line: Line, command: &str) -> Result<String, u8> {
        made_by(if line == Line::V05 { "0.5.17" } else { "0.3.13" }, command).map_err(|f| f.code)
    }

    fn made_by(version: &str, command: &str) -> Result<String, Failure> {
        let words = words(command);
        let native = find(words[0].to_str().unwrap()).unwrap();
        let resolve = |name: &str| match name {
            "default" => Ok(OsString::from("/d/app.db")),
            other => Ok(other.into()),
        };
        let made = argv(native, version.parse().unwrap(), &words[1..], &["-config".into(), "/c".into()], Some("/s".into()), &resolve);
        made.map(|w| w.join(" ".as_ref()).into_string().unwrap())
    }

    #[test]
    fn an_alias_becomes_its_path_and_all_else_is_handed_over() {
        for (line, command, meant) in [
            (Line::V05, "ltx default", "ltx -config /c /d/app.db"),
            (Line::V05, "ltx -level 9 --json default", "ltx -config /c -level 9 --json /d/app.db"),
            (Line::V05, "ltx -level=9 s3://b/p", "ltx -level=9 s3://b/p"),
            (Line::V05, "ltx -config /mine default", "ltx -config /mine /d/app.db"),
            (Line::V05, "snapshots default", "ltx -config /c -level 9 /d/app.db"),
            (Line::V03, "snapshots -replica default default", "snapshots -config /c -replica default /d/app.db"),
            (Line::V05, "stop -timeout 5 default", "stop -socket /s -timeout 5 /d/app.db"),
            (Line::V05, "list --socket /x", "list --socket /x"),
        ] {
            assert_eq!(made(line, command), Ok(meant.to_owned()), "{command}");
        }
    }

    #[test]
    fn what_a_release_lacks_is_refused_with_the_first_that_has_it() {
        for (version, command) in [("0.5.5", "info"), ("0.5.6", "stop default"), ("0.5.7", "snapshots default")] {
            let refused = made_by(version, command).unwrap_err();
            assert!(refused.code == exit::USAGE && refused.message.contains("0.5.8"), "{refused}");
        }
        assert_eq!(made_by("0.5.5", "ltx default").unwrap(), "ltx -config /c /d/app.db");
    }

    #[test]
    fn what_a_line_lacks_is_refused_with_what_to_use_instead() {
        for (line, command) in [(Line::V05, "generations default"), (Line::V03, "ltx default"), (Line::V03, "stop default")] {
            assert_eq!(made(line, command), Err(exit::USAGE), "{command}");
        }
        for native in &NATIVE {
            assert!(native.lines == Lines::Both || native.instead.len() > 20, "{}", native.name);
        }
        // The help, the man page and the completions have what can be run.
        assert_eq!(NATIVE.iter().map(|n| n.name).collect::<Vec<_>>(), NATIVES.map(|(name, _)| name));
    }
}
