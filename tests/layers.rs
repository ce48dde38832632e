//! A file of `src` imports from its own folder and from what stands above it in [`ORDER`]: so nothing goes in a circle, and PID 1 imports
//! nothing that opens a database, resolves a name or speaks HTTP. `docs/architecture.md` says what each layer is for.

#![allow(clippy::arithmetic_side_effects, clippy::unwrap_used, reason = "a test: what it reads is the source itself")]

use std::fs;
use std::path::{Path, PathBuf};

/// Every top-level module, from what knows nothing of the others on. What stands on a line may import from the lines above it, and from what
/// stands before it on its own.
const ORDER: [&str; 11] = [
    "exit coded text json time parallel sys files process report interrupt facilities identity kept",
    "layout sqlite pages",
    "litestream",
    "settings job lint model pattern config cli",
    "plan state runtime progress protocol",
    "mark position continuity pin laps lock watched tenants paths configured habits",
    "restore resnapshot verify status watch notify",
    "running rotation worker",
    "keeper supervise",
    "operator",
    "lib main",
];

#[test]
fn a_file_imports_from_its_own_folder_and_from_the_layers_above_it() {
    let order: Vec<&str> = ORDER.iter().flat_map(|line| line.split(' ')).collect();
    let place = |module: &str| order.iter().position(|each| *each == module);
    let mut wrong = Vec::new();
    for (file, module) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        assert!(place(&module).is_some(), "{}: `{module}` has no place in ORDER", file.display());
        for (line, imported) in imports(&fs::read_to_string(&file).unwrap()) {
            if place(&imported) > place(&module) {
                wrong.push(format!("{}:{line}: `{module}` must not import `{imported}`, which stands below it", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pid_1_imports_nothing_that_opens_a_database_resolves_a_name_or_speaks_http() {
    let forbidden = "pages sqlite continuity pin restore resnapshot verify status watch watched notify tenants habits worker operator";
    let forbidden: Vec<&str> = forbidden.split(' ').collect();
    let mut wrong = Vec::new();
    for (file, _) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/supervise")) {
        let text = fs::read_to_string(&file).unwrap();
        let modules = imports(&text).into_iter().filter(|(_, imported)| forbidden.contains(&imported.as_str()));
        let foreign =
            ["rusqlite", "ureq", "rustls", "std::net"].into_iter().filter(|name| without_tests(&text).contains(&format!("use {name}")));
        wrong.extend(modules.map(|(line, imported)| format!("{}:{line}: `{imported}`", file.display())));
        wrong.extend(foreign.map(|name| format!("{}: `{name}`", file.display())));
    }
    assert!(wrong.is_empty(), "PID 1 must not import what opens a database or asks a network:\n{}", wrong.join("\n"));
}

#[test]
fn the_map_of_the_source_names_every_module_and_only_files_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let map = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let quoted: Vec<&str> = map.split('`').skip(1).step_by(2).collect();
    let is_named = |module: &str| quoted.iter().any(|word| word.trim_end_matches('/') == module);
    let modules = ORDER.iter().flat_map(|line| line.split(' ')).filter(|module| !["lib", "main"].contains(module));
    let unnamed: Vec<_> = modules.filter(|module| !is_named(module)).collect();
    assert!(unnamed.is_empty(), "docs/architecture.md does not name {unnamed:?}");
    let is_there = |path: &str| ["src/supervise", "src", "."].iter().any(|folder| root.join(folder).join(path).exists());
    let gone: Vec<_> =
        quoted.iter().filter(|word| word.contains('/') && word.contains(".rs") && !word.contains(' ') && !is_there(word)).collect();
    assert!(gone.is_empty(), "docs/architecture.md names {gone:?}, which are not there");
}

#[test]
fn only_what_speaks_to_litestream_asks_which_line_it_is() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let elsewhere = sources(&src).into_iter().filter(|(_, module)| module != "litestream");
    let asks = |text: &str| without_tests(text).lines().position(|line| line.contains("Line::V0"));
    let asking: Vec<_> = elsewhere.filter_map(|(path, _)| Some((asks(&fs::read_to_string(&path).unwrap())? + 1, path))).collect();
    assert!(asking.is_empty(), "these ask for a line by its number instead of by its `Format` or an `Ability`: {asking:?}");
}

/// Every source file below, with its top-level module; those of tests alone left out.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") && !["tests.rs", "arbitrary.rs"].iter().any(|name| path.ends_with(name)) {
            let module = path.strip_prefix(&src).unwrap().iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
            found.push((path, module));
        }
    }
    found.sort();
    found
}

/// The unit tests are at the end of a file, and may import what they like.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

/// The top-level modules that are named after `crate::`, each with its line.
fn imports(text: &str) -> Vec<(usize, String)> {
    let code = without_tests(text);
    let code: String =
        code.lines().map(|line| if line.trim_start().starts_with("//") { "\n".to_owned() } else { format!("{line}\n") }).collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(first_words(list).into_iter().map(|word| (line, word))),
            None => found.push((line, word(rest))),
        }
    }
    found
}

/// The first word of each entry of a list in braces, up to its end.
fn first_words(list: &str) -> Vec<String> {
    let (mut depth, mut entry, mut words) = (0_usize, String::new(), Vec::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => words.push(word(std::mem::take(&mut entry).trim())),
            _ => {}
        }
        if c != ',' || depth > 0 {
            entry.push(c);
        }
    }
    words.push(word(entry.trim()));
    words.retain(|word| !word.is_empty());
    words
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
}

#[test]
fn every_import_is_seen() {
    let text = "use crate::a;\nuse crate::{b, c::{d, e}, f_g::H};\n// crate::x\nfn f() { crate::i::j(); }\n#[cfg(test)]\nmod tests { use crate::z; }\n";
    let seen: Vec<_> = imports(text).into_iter().map(|(line, word)| format!("{line}{word}")).collect();
    assert_eq!(seen, ["1a", "2b", "2c", "2f_g", "4i"]);
}
