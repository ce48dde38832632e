//! The command line: which words are ours and which are the app's. Must never touch an app's word.

pub mod command;

pub use command::Verb;

use std::ffi::{OsStr, OsString};

use clap::{ArgMatches, Command};

use crate::exit::{self, Failure};
use crate::litestream::commands::{self, Native};
use crate::settings::{OPTIONS, variable};

/// What is asked for.
#[derive(Debug)]
pub enum Invocation {
    /// Boot with this app.
    Boot {
        /// Its argv.
        app: Vec<OsString>,
        /// Options, as the variables that they stand for.
        flags: Vec<(String, String)>,
    },
    /// One of the commands.
    Command {
        /// Which.
        verb: Verb,
        /// Its arguments.
        matches: ArgMatches,
        /// Options before it, as the variables that they stand for.
        flags: Vec<(String, String)>,
    },
    /// One of Litestream's own commands.
    Native {
        /// Which.
        native: &'static Native,
        /// Its arguments, as they are.
        args: Vec<OsString>,
        /// Options before it, as the variables that they stand for.
        flags: Vec<(String, String)>,
    },
    /// Text that was asked for (`--help`, `--version`).
    Text(String),
}

/// Takes the command line apart.
///
/// # Errors
/// 64, with what is wrong in one line.
pub fn parse(args: &[OsString]) -> Result<Invocation, Failure> {
    let (own, app) = split(args);
    if let (true, Some(app @ [_, ..])) = (own.is_empty() && app.and_then(|app| native_of(args, app)).is_none(), app) {
        // The usual boot: nothing is ours to parse, and the app waits.
        return Ok(Invocation::Boot { app: app.to_vec(), flags: Vec::new() });
    }
    let mut words: Vec<OsString> = vec!["litestream-entry".into()];
    words.extend(own.iter().enumerate().map(|(at, word)| if at == 0 { word.clone() } else { double_dash(word) }));
    let matches = match command().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) if error.exit_code() == 0 => return Ok(Invocation::Text(error.to_string())),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
            let first = first.strip_prefix("error: ").unwrap_or(first);
            let hints: Vec<&str> = text.lines().skip(1).map(str::trim).filter(|l| l.starts_with('<') || l.starts_with("tip:")).collect();
            return Err(Failure::new(exit::USAGE, format!("{first} {} (see --help)", hints.join(" ")).replace("  ", " ")));
        }
    };
    let flags = flags(&matches);
    if let Some(([word, args @ ..], native)) = app.and_then(|app| Some((app, native_of(args, app)?))) {
        let _ = word;
        return Ok(Invocation::Native { native, args: args.to_vec(), flags });
    }
    match (app, matches.subcommand()) {
        (Some([]), _) => Err(Failure::new(exit::USAGE, "no app after --; name one as in `litestream-entry -- gunicorn app.wsgi`")),
        (Some(app), _) => Ok(Invocation::Boot { app: app.to_vec(), flags }),
        (None, Some((name, matches))) => {
            let own = matches.try_get_one::<String>("config").ok().flatten();
            let flags = flags.into_iter().chain(own.map(|path| ("LITESTREAM_CONFIG".to_owned(), path.clone()))).collect();
            let verb = verb_of(name).ok_or_else(|| Failure::new(exit::USAGE, format!("{name}: no such command (see --help)")))?;
            Ok(Invocation::Command { verb, matches: matches.clone(), flags })
        }
        (None, None) => {
            Err(Failure::new(exit::USAGE, "no app to run; name one as in `litestream-entry -- gunicorn app.wsgi` (see --help)"))
        }
    }
}

fn flags(matches: &ArgMatches) -> Vec<(String, String)> {
    OPTIONS.iter().filter_map(|(name, ..)| Some((variable(name), matches.get_one::<String>(name)?.clone()))).collect()
}

/// The options before the app or command in a command line, as the variables that they stand for.
pub fn options(args: &[OsString]) -> Vec<(String, String)> {
    let (own, app) = split(args);
    let words = std::iter::once(OsString::from("litestream-entry")).chain(own.iter().cloned());
    let own = if app.is_some() { command().try_get_matches_from(words).ok() } else { None };
    own.map(|matches| flags(&matches)).unwrap_or_default()
}

/// Litestream's command where the app would be, unless `--` or `run` says that it is the app.
fn native_of(args: &[OsString], app: &[OsString]) -> Option<&'static Native> {
    let before = args.len().checked_sub(app.len())?.checked_sub(1).and_then(|at| args.get(at));
    let forced = before.is_some_and(|word| word == "--" || word == "run");
    commands::find(app.first()?.to_str()?).filter(|_| !forced)
}

/// A command's word; `run` and `--` before it make an app of it.
fn verb_of(word: &str) -> Option<Verb> {
    Verb::ALL.iter().copied().find(|verb| verb.word() == word)
}

/// Splits at the first word that is neither an option nor a command: it and all behind it are the app's.
fn split(args: &[OsString]) -> (&[OsString], Option<&[OsString]>) {
    let mut at = 0_usize;
    while let Some(word) = args.get(at) {
        let rest = at.saturating_add(1);
        if word == "--" || word == "run" {
            let app = args.get(rest..).unwrap_or_default();
            let app = if word == "run" && app.first().is_some_and(|w| w == "--") { app.get(1..).unwrap_or_default() } else { app };
            return (args.get(..at).unwrap_or_default(), Some(app));
        }
        let text = word.to_str().unwrap_or_default();
        if let Some(option) = text.strip_prefix("--") {
            let takes_next = OPTIONS.iter().any(|(name, ..)| *name == option);
            at = if takes_next { rest.saturating_add(1) } else { rest };
        } else if text.starts_with('-') && text.len() > 1 {
            at = rest;
        } else if verb_of(text).is_some() {
            return (args, None);
        } else {
            return (args.get(..at).unwrap_or_default(), args.get(at..));
        }
    }
    (args, None)
}

/// Litestream's flags have one dash; clap's have two.
fn double_dash(word: &OsStr) -> OsString {
    match word.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && text.chars().nth(1).is_some_and(|c| c.is_ascii_lowercase()) => {
            format!("-{text}").into()
        }
        _ => word.to_owned(),
    }
}

/// The whole command line, for parsing and for help.
pub fn command() -> Command {
    command::of(OPTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn words(text: &[&str]) -> Vec<OsString> {
        text.iter().map(OsString::from).collect()
    }

    fn app(args: &[&str]) -> Vec<OsString> {
        match parse(&words(args)).unwrap() {
            Invocation::Boot { app, .. } => app,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_word_that_is_no_command_begins_the_app() {
        assert_eq!(app(&["gunicorn", "-w", "4", "--help"]), words(&["gunicorn", "-w", "4", "--help"]));
        assert_eq!(app(&["--", "verify", "x"]), words(&["verify", "x"]));
        assert_eq!(app(&["run", "verify"]), words(&["verify"]));
        assert_eq!(app(&["--stop-timeout", "5s", "app", "--stop-timeout", "9s"]), words(&["app", "--stop-timeout", "9s"]));
        assert_eq!(app(&["--stop-timeout=5s", "--", "--odd"]), words(&["--odd"]));
        assert_eq!(app(&[""]), words(&[""]));
    }

    #[test]
    fn an_apps_words_need_not_be_text() {
        let odd = OsString::from_vec(b"a\xff b\n".to_vec());
        let Invocation::Boot { app, .. } = parse(&[odd.clone(), odd.clone()]).unwrap() else { panic!() };
        assert_eq!(app, [odd.clone(), odd]);
    }

    #[test]
    fn options_stand_for_variables() {
        let Invocation::Boot { flags, .. } = parse(&words(&["--stop-timeout", "5s", "app"])).unwrap() else { panic!() };
        assert_eq!(flags, [("LITESTREAM_ENTRY_STOP_TIMEOUT".to_owned(), "5s".to_owned())]);
    }

    #[test]
    fn litestreams_single_dash_flags_work() {
        let Invocation::Command { verb, matches, .. } = parse(&words(&["restore", "-if-replica-exists", "-o", "/x", "default"])).unwrap()
        else {
            panic!()
        };
        assert_eq!(verb, Verb::Restore);
        assert!(matches.get_flag("if-replica-exists"));
        assert_eq!(matches.get_one::<OsString>("o").unwrap(), "/x");
    }

    #[test]
    fn a_wrong_command_line_is_one_line_and_64() {
        for bad in [&[][..], &["--"], &["--no-such-option", "app"], &["verify", "--wat"], &["--stop-timeout"]] {
            let failure = parse(&words(bad)).unwrap_err();
            assert_eq!((failure.code, failure.message.lines().count()), (exit::USAGE, 1), "{bad:?}: {failure}");
        }
        assert!(matches!(parse(&words(&["--help"])).unwrap(), Invocation::Text(_)));
        command().debug_assert();
    }
}
