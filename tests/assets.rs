//! The man page and the completions that build.rs made, against the program's own command line. Must never take a list of
//! commands or options from anywhere else.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::Command;
use litestream_entry::cli;
use litestream_entry::cli::command::NATIVES;
use litestream_entry::exit;
use litestream_entry::settings::{OPTIONS, variable};

fn path(name: &str) -> PathBuf {
    Path::new(env!("OUT_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

/// The command line with what clap adds to it.
fn program() -> Command {
    let mut program = cli::command();
    program.build();
    program
}

/// The options of a command that its help shows, without their dashes.
fn options(command: &Command) -> Vec<String> {
    let shown = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set());
    shown.map(|arg| arg.get_long().map_or_else(|| arg.get_short().unwrap().to_string(), str::to_owned)).collect()
}

fn dashed(option: &str) -> String {
    format!("{}{option}", if option.len() == 1 { "-" } else { "--" })
}

/// The man page as a reader sees it, with its requests.
fn page() -> String {
    let codes = [(r"\-", "-"), (r"\fB", ""), (r"\fI", ""), (r"\fR", ""), (r"\*(Aq", "'")];
    codes.iter().fold(text("litestream-entry.1"), |page, (code, sign)| page.replace(code, sign))
}

/// What stands under a heading, up to the next one.
fn under<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("nothing under {heading}"));
    let kinds: &[&str] = if heading.starts_with(".SS") { &["\n.SS ", "\n.SH "] } else { &["\n.SH "] };
    let end = kinds.iter().filter_map(|kind| rest.find(kind)).min().unwrap_or(rest.len());
    rest.get(..end).unwrap()
}

/// The words of the entries' first lines.
fn entries(part: &str) -> BTreeSet<&str> {
    let heads = part.lines().zip(part.lines().skip(1)).filter(|(request, _)| *request == ".TP").map(|(_, head)| head);
    heads.flat_map(|head| head.split([',', ' '])).filter(|word| !word.is_empty()).collect()
}

#[track_caller]
fn assert_entries(part: &str, wanted: impl IntoIterator<Item = String>) {
    let there = entries(part);
    let missing: Vec<String> = wanted.into_iter().filter(|word| !there.contains(word.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?} of {there:?}");
}

#[test]
fn the_man_page_has_every_command_option_variable_and_exit_code_where_it_is_looked_for() {
    let page = page();
    let commands = under(&page, ".SH COMMANDS");
    for command in cli::command().get_subcommands() {
        let section = under(commands, &format!(".SS {}", command.get_name()));
        assert_entries(section, options(command).iter().map(|option| dashed(option)));
        assert!(section.contains(&command.get_about().unwrap().to_string().replace('`', "")), "{section}");
    }
    assert_entries(under(&page, ".SH OPTIONS"), options(&program()).iter().map(|option| dashed(option)));
    assert_entries(under(&page, ".SH \"LITESTREAM'S COMMANDS\""), NATIVES.map(|(name, _)| name.to_owned()));
    assert_entries(under(&page, ".SH ENVIRONMENT"), OPTIONS.iter().map(|(name, ..)| variable(name)));
    let codes = exit::TABLE.iter().flat_map(|(codes, _)| codes.split([',', ' '])).filter(|code| !code.is_empty());
    assert_entries(under(&page, ".SH \"EXIT STATUS\""), codes.map(str::to_owned));
    assert_entries(under(&page, ".SH FILES"), ["/etc/litestream.yml".to_owned(), "/run/litestream-entry".to_owned()]);
}

/// The configuration page is held against the code by a test of its own.
#[test]
fn the_man_page_names_no_variable_that_the_configuration_page_does_not_have() {
    let (page, configuration) = (page(), include_str!("../docs/configuration.md"));
    for name in entries(under(&page, ".SH ENVIRONMENT")) {
        assert!(configuration.contains(&format!("`{name}`")), "{name}");
    }
}

/// What bash offers after each of these lines, whose last word is the one that is completed.
fn offered(lines: &[Vec<String>]) -> Vec<BTreeSet<String>> {
    let calls = lines.iter().map(|words| format!("offer {}\n", words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")));
    // As bash calls it: the program, the word, and the one before it.
    let program = format!(
        "set -e\nsource \"$1\"\nfound=$(complete -p litestream-entry)\nfound=${{found##*-F }}\nfound=${{found%% *}}\n\
         offer() {{\nCOMP_WORDS=(litestream-entry \"$@\") COMP_CWORD=$# COMPREPLY=()\n\
         $found litestream-entry \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\necho \"${{COMPREPLY[*]}}\"\n}}\n{}",
        calls.collect::<String>()
    );
    let output = Process::new("bash").args(["--norc", "-c", &program, "bash"]).arg(path("litestream-entry.bash")).output().unwrap();
    let (said, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    said.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

fn line(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let program = program();
    let mut lines = vec![line(&["ver"]), line(&["lt"]), line(&[""]), line(&["--stale", ""]), line(&["--lock", "standby", "heal"])];
    let names: BTreeSet<String> = program.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let natives = NATIVES.map(|(name, _)| name.to_owned());
    let own = options(&program).into_iter().map(|option| dashed(&option)).chain(["-h".to_owned(), "-V".to_owned()]);
    let all: BTreeSet<String> = own.chain(names).chain(natives).collect();
    let set = |words: &[&str]| line(words).into_iter().collect::<BTreeSet<String>>();
    let mut wanted = vec![set(&["verify", "version"]), set(&["ltx"]), all, set(&["refuse", "restore", "keep"]), set(&["health"])];
    for command in program.get_subcommands() {
        lines.push(line(&[command.get_name(), "--"]));
        wanted.push(options(command).into_iter().filter(|option| option.len() > 1).map(|option| dashed(&option)).collect());
    }
    let offered = offered(&lines);
    assert_eq!(offered.len(), lines.len());
    for (line, (offered, wanted)) in lines.iter().zip(offered.iter().zip(&wanted)) {
        assert_eq!(offered, wanted, "litestream-entry {}", line.join(" "));
    }
}

/// Neither shell is on every machine, so their scripts are read, and not run.
#[test]
fn the_scripts_of_zsh_and_fish_have_every_command_and_option() {
    let (zsh, fish) = (text("_litestream-entry"), text("litestream-entry.fish"));
    let in_zsh = |script: &str, option: &str| ["[", "=[", "+["].iter().any(|end| script.contains(&format!("{}{end}", dashed(option))));
    let in_fish = |condition: &str, option: &str| {
        let flag = format!(" {} {option} ", if option.len() == 1 { "-s" } else { "-l" });
        fish.lines().any(|line| line.contains(&format!("{condition}\"")) && line.contains(&flag))
    };
    let program = program();
    for command in program.get_subcommands() {
        let name = command.get_name();
        let (_, case) = zsh.split_once(&format!("({name})\n")).unwrap_or_else(|| panic!("zsh: {name}"));
        let case = case.split("\n;;\n").next().unwrap();
        for option in options(command) {
            assert!(in_zsh(case, &option), "zsh: {name} {option}");
            assert!(in_fish(&format!("__fish_litestream_entry_using_subcommand {name}"), &option), "fish: {name} {option}");
        }
    }
    let top = zsh.split("(replicate)\n").next().unwrap();
    for option in options(&program) {
        assert!(in_zsh(top, &option), "zsh: {option}");
        assert!(in_fish("__fish_litestream_entry_needs_command", &option), "fish: {option}");
    }
    // `'--option=[what it is]:NAME:ACTION'`: zsh runs what stands behind a second colon.
    for spec in zsh.lines().filter(|line| line.starts_with("'-")) {
        let (_, value) = spec.replace(r"\]", "").split_once(']').map(|(about, value)| (about.to_owned(), value.to_owned())).unwrap();
        assert!([0, 2].contains(&value.matches(':').count()), "{spec}");
    }
    for (name, about) in NATIVES {
        assert!(zsh.contains(&format!("'{name}:")) && fish.contains(&format!("-a \"{name}\" -d '{about}'")), "{name}");
    }
}
