//! Makes the man page and the shells' completions from the program's own command line, into `OUT_DIR` and into the directory
//! that `LITESTREAM_ENTRY_ASSETS` names; and says how the static program is linked. Must never put anything into the program, and
//! never panic: an error ends the build.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
use clap_complete::{Generator, Shell};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

// The library's own files, which must know of nothing else in it.
#[path = "src/cli/command.rs"]
#[expect(unreachable_pub, reason = "the library's")]
mod command;
#[path = "src/exit.rs"]
#[expect(unreachable_pub, dead_code, reason = "the library's")]
mod exit;
#[path = "src/settings/options.rs"]
#[expect(unreachable_pub, reason = "the library's")]
mod options;

/// Where the program's files are taken to, if anywhere.
const ASSETS: &str = "LITESTREAM_ENTRY_ASSETS";
const NAME: &str = "litestream-entry";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

const DESCRIPTION: [&str; 3] = [
    "Restores an app's databases when its container starts, replicates them with Litestream while the app runs, and ends only when the \
     last write is known to be in the replica. As PID 1 it forwards signals, reaps zombies and keeps the app's exit code.",
    "The first word that is neither an option nor a command begins the app, and all behind it are the app's. Behind `--` or `run` stands an \
     app also where its name is a command's.",
    "What is replicated is taken from the environment, or from a configuration file of Litestream's.",
];

const ENVIRONMENT: [(&str, &str); 8] = [
    ("LITESTREAM_DBS", "the databases, as main=/data/app.db,cache=/data/cache.db; the first of these that is set wins"),
    ("LITESTREAM_DB_PATH, DATABASE_PATH, DB_PATH, DATABASE_URL", "a single database"),
    ("LITESTREAM_DB_DIR", "a directory of databases (0.5)"),
    ("LITESTREAM_REPLICA_URL, REPLICA_URL", "the replica, as s3://BUCKET/PATH or file:///PATH"),
    ("LITESTREAM_REPLICA_BUCKET, BUCKET_NAME, AWS_BUCKET", "or its bucket, with LITESTREAM_REPLICA_ENDPOINT, _REGION and _PATH"),
    ("LITESTREAM_ACCESS_KEY_ID, LITESTREAM_SECRET_ACCESS_KEY", "its keys; with _FILE behind the name the value is in that file"),
    ("LITESTREAM_CONFIG", "a configuration file of your own, instead of all these"),
    ("LITESTREAM_BIN", "the Litestream to run [litestream in PATH]"),
];

const FILES: [(&str, &str); 5] = [
    ("/etc/litestream.yml", "a configuration file of your own, used as it is where the environment names no other"),
    ("/run/litestream-entry", "the configuration that was made of the environment, the control socket and what `docker exec` is to know"),
    (".NAME-litestream-entry", "beside a database: what is known of its backup, and the lock of who replicates it"),
    ("NAME.aside-TIME", "beside a database: what a restore replaced; the newest five are kept"),
    (".litestream-entry-tenants", "in a directory of databases: which there are, for a boot without them"),
];

/// The tables by which a stack is unwound are a sixth of the static program, and nothing reads them: a panic aborts, after its
/// message. rustc has no option that leaves them out (most are musl's, SQLite's and the standard library's), the linker has.
const NO_TABLES: &str = "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.gcc_except_table .gcc_except_table.*) } } INSERT BEFORE .init;\n";

fn main() -> Result<(), Box<dyn Error>> {
    for file in ["build.rs", "src/cli/command.rs", "src/exit.rs", "src/settings/options.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed={ASSETS}");
    let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or("OUT_DIR is not set: cargo runs this")?;
    link(&out)?;
    let mut files = vec![(format!("{NAME}.1"), page()?)];
    for shell in SHELLS {
        files.push((shell.file_name(NAME), script(shell)?));
    }
    let mut places = vec![out];
    if let Some(assets) = env::var_os(ASSETS).filter(|path| !path.is_empty()) {
        fs::create_dir_all(&assets).map_err(|e| format!("{ASSETS}: {}: {e}", Path::new(&assets).display()))?;
        places.push(assets.into());
    }
    for place in places {
        let failed = |e: io::Error| format!("{}: {e}", place.display());
        for (name, text) in &files {
            fs::write(place.join(name), text).map_err(failed)?;
        }
    }
    Ok(())
}

fn link(out: &Path) -> io::Result<()> {
    let is = |name: &str, value: &str| env::var_os(name).is_some_and(|v| v == value);
    // A debug build unwinds. (CARGO_CFG_PANIC tells the target's default, not the profile's choice.)
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        let script = out.join("no-tables.ld");
        fs::write(&script, NO_TABLES)?;
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{}", script.display());
    }
    Ok(())
}

/// A shell's completions.
fn script(shell: Shell) -> io::Result<String> {
    let mut command = completed();
    command.set_bin_name(NAME);
    command.build();
    let mut script = Vec::new();
    shell.try_generate(&command, &mut script)?;
    let script = String::from_utf8(script).map_err(io::Error::other)?;
    // clap_complete spells a dash in the program's name in two ways, and bash then has nothing for any command
    // (https://github.com/clap-rs/clap/issues/6421).
    Ok(if shell == Shell::Bash { script.replace("litestream__subcmd__entry", "litestream__entry") } else { script })
}

/// The command line for completions: with Litestream's commands, with what an option's value may be, and without what the
/// help hides, which would be offered.
fn completed() -> Command {
    let program = command::of(options::OPTIONS);
    let natives = command::NATIVES.map(|(name, about)| {
        let rest = Arg::new("rest").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true).value_hint(ValueHint::FilePath);
        Command::new(name).about(about).disable_help_flag(true).arg(rest)
    });
    let mut completed = shown(&program)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .subcommands(program.get_subcommands().map(shown))
        .subcommands(natives);
    for (name, form, _) in options::OPTIONS.iter().filter(|(_, form, _)| form.contains('|')) {
        let words: Vec<&str> = form.split('|').collect();
        completed = completed.mut_arg(name, |option| option.value_parser(PossibleValuesParser::new(words)));
    }
    completed
}

/// A command alone, with the arguments that its help shows.
fn shown(command: &Command) -> Command {
    // clap takes no other names; this process does not live long.
    let name: &str = command.get_name().to_owned().leak();
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned().map(hinted);
    Command::new(name).about(command.get_about().cloned().unwrap_or_default()).args(args)
}

/// Paths are completed as paths. A colon ends a value's name for zsh, which then runs the rest.
fn hinted(arg: Arg) -> Arg {
    let names: Vec<String> = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let is_path = names.iter().any(|name| name == "PATH" || name == "DB");
    let arg = if is_path { arg.value_hint(ValueHint::FilePath) } else { arg };
    if names.iter().any(|name| name.contains(':')) { arg.value_name("VALUE") } else { arg }
}

/// The man page.
fn page() -> io::Result<String> {
    let command = command::of(options::OPTIONS);
    // No date, or no two builds were the same; as nothing at all it would be left out, and the next word be the date.
    let man = Man::new(command.clone()).date("\"\"").manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    section("DESCRIPTION", &DESCRIPTION.map(|text| ("", text))).to_writer(&mut page)?;
    commands(&command, &mut page)?;
    section("LITESTREAM'S COMMANDS", &[("", "By alias, path or URL; their flags and output are Litestream's.")]).to_writer(&mut page)?;
    entries(&command::NATIVES).to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    section("EXIT STATUS", &exit::TABLE).to_writer(&mut page)?;
    section("ENVIRONMENT", &ENVIRONMENT).to_writer(&mut page)?;
    let own: Vec<(String, String)> = options::OPTIONS.iter().map(|(name, ..)| (options::variable(name), format!("as --{name}"))).collect();
    entries(&own).to_writer(&mut page)?;
    let more =
        "These are the usual ones: docs/configuration.md, beside the program's source, has all, those of Litestream's keys included.";
    Roff::new().control("PP", []).text([roman(more)]).to_writer(&mut page)?;
    section("FILES", &FILES).to_writer(&mut page)?;
    section("SEE ALSO", &[("", "https://litestream.io")]).to_writer(&mut page)?;
    String::from_utf8(page).map(|page| tidy(&page)).map_err(io::Error::other)
}

/// Every command with its options.
fn commands(command: &Command, page: &mut dyn Write) -> io::Result<()> {
    section("COMMANDS", &[("", "Their options may have one dash, as Litestream's have.")]).to_writer(page)?;
    for one in command.get_subcommands() {
        let name = one.get_name();
        let mut one = one.clone().disable_help_flag(true).bin_name(format!("{NAME} {name}"));
        let usage = one.render_usage().to_string();
        let about = one.get_about().map(ToString::to_string).unwrap_or_default();
        let mut head = Roff::new();
        head.control("SS", [name]).text([bold(usage.trim_start_matches("Usage: "))]).control("PP", []).text([roman(about)]);
        head.to_writer(page)?;
        let mut options = Vec::new();
        Man::new(one).render_options_section(&mut options)?;
        // Under a command they are no section.
        let options = String::from_utf8(options).map_err(io::Error::other)?.replace(".SH OPTIONS\n", "");
        page.write_all(options.as_bytes())?;
    }
    Ok(())
}

/// A section of entries.
fn section(name: &str, rows: &[(&str, &str)]) -> Roff {
    let mut heading = Roff::new();
    heading.control("SH", [name]);
    [heading, entries(rows)].into_iter().collect()
}

/// A name and what it is, row by row; without a name, a paragraph.
fn entries<T: AsRef<str>>(rows: &[(T, T)]) -> Roff {
    let mut roff = Roff::new();
    for (at, (name, text)) in rows.iter().enumerate() {
        match name.as_ref() {
            "" if at == 0 => &mut roff,
            "" => roff.control("PP", []),
            name => roff.control("TP", []).text([bold(name)]),
        };
        roff.text([roman(text.as_ref())]);
    }
    roff
}

/// Every part begins with two lines that say what an apostrophe is, and once is enough. Words between backticks are bold.
fn tidy(page: &str) -> String {
    let repeated = |at: usize, line: &str| at >= 2 && [".ie ", ".el "].iter().any(|request| line.starts_with(request));
    let mut tidied = String::new();
    for (_, line) in page.lines().enumerate().filter(|(at, line)| !repeated(*at, line)) {
        for (at, words) in line.split('`').enumerate() {
            tidied.push_str(match at {
                0 => "",
                at if at.is_multiple_of(2) => "\\fR",
                _ => "\\fB",
            });
            tidied.push_str(words);
        }
        tidied.push('\n');
    }
    tidied
}
