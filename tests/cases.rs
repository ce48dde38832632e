//! Golden folders: what an environment becomes. `tests/cases/NAME/env` gives `litestream.yml` (0.5), `litestream-0.3.yml`
//! and `said.txt`, or `error.txt`. `UPDATE=1 cargo test --test cases` writes what is: read the difference before it is committed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use std::fs;
use std::path::{Path, PathBuf};

use litestream_entry::exit::Failure;
use litestream_entry::facilities::Facilities;
use litestream_entry::litestream::{Line, Litestream};
use litestream_entry::plan::{self, Planned};
use litestream_entry::settings::{self, Environment, Source};

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut folders: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    folders
}

/// `NAME=VALUE` lines; `\n` in a value is a newline.
fn environment(folder: &Path) -> Environment {
    let text = fs::read_to_string(folder.join("env")).unwrap();
    let pairs: Vec<(String, String)> = text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|l| l.split_once('=').unwrap_or_else(|| panic!("{}: {l}", folder.display())))
        .map(|(name, value)| (name.to_owned(), value.replace("\\n", "\n")))
        .collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    Environment::of(&pairs)
}

fn plan(env: &Environment, line: Line) -> Result<Option<Planned>, Failure> {
    let settings = settings::read(env, &|_| false)?;
    if let Source::Nothing(_) = settings.source {
        return Ok(None);
    }
    let version = if line == Line::V05 { "0.5.17" } else { "0.3.13" };
    let litestream = Litestream { path: "/bin/litestream".into(), version: version.parse().unwrap(), line, env: None };
    plan::make(&settings, litestream, Path::new("/run/litestream-entry"), None, &Facilities::ALL).map(Some)
}

/// The files that a folder should hold beside `env`.
fn outcome(folder: &Path) -> Vec<(&'static str, String)> {
    let env = environment(folder);
    let mut files = Vec::new();
    match plan(&env, Line::V05) {
        Err(failure) => files.push(("error.txt", format!("{}\n", failure.message))),
        Ok(None) => {
            let settings = settings::read(&env, &|_| false).unwrap();
            let Source::Nothing(why) = settings.source else { unreachable!() };
            files.push(("said.txt", [settings.notes, vec![why]].concat().join("\n") + "\n"));
        }
        Ok(Some(planned)) => {
            files.push(("litestream.yml", planned.document.text()));
            files.push(("said.txt", [planned.notes, planned.findings, planned.plan.lines()].concat().join("\n") + "\n"));
            match plan(&env, Line::V03) {
                Ok(older) => files.push(("litestream-0.3.yml", older.unwrap().document.text())),
                Err(failure) => files.push(("error-0.3.txt", format!("{}\n", failure.message))),
            }
        }
    }
    files
}

const FILES: [&str; 5] = ["litestream.yml", "litestream-0.3.yml", "said.txt", "error.txt", "error-0.3.txt"];

#[test]
fn each_environment_becomes_what_its_folder_says() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for folder in folders() {
        let outcome = outcome(&folder);
        for name in FILES {
            let (file, is) = (folder.join(name), outcome.iter().find(|(n, _)| *n == name).map(|(_, text)| text));
            let meant = fs::read_to_string(&file).ok();
            match (update, is) {
                (true, Some(text)) => fs::write(&file, text).unwrap(),
                (true, None) => drop(fs::remove_file(&file)),
                (false, is) if is != meant.as_ref() => wrong.push(format!("{}:\n{}", file.display(), is.cloned().unwrap_or_default())),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The real Litestream of both lines takes every file; what it says of the paths is what was meant.
#[test]
fn litestream_takes_every_configuration() {
    let tools = std::env::var_os("TOOLS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"), PathBuf::from);
    for (version, name) in [("0.5.17", "litestream.yml"), ("0.3.13", "litestream-0.3.yml")] {
        let binary = tools.join(format!("litestream-{version}/litestream"));
        assert!(binary.exists(), "{} is missing: run scripts/tools", binary.display());
        for file in folders().into_iter().map(|f| f.join(name)).filter(|f| f.exists()) {
            let output = std::process::Command::new(&binary)
                .args(["databases", "-no-expand-env", "-config"])
                .arg(&file)
                .env_clear()
                .env("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{} with {version}: {said}", file.display());
        }
    }
}
