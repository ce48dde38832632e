//! What is known of the trials that were run: one line of JSON each, in `target/faults/LINE.jsonl`. It never forgets one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::schedule::{Schedule, fingerprint, line_name};
use crate::trial::Verdict;

/// The line that says how a trial went.
pub(crate) fn line(schedule: &Schedule, verdict: &Verdict) -> String {
    let name = line_name(schedule.line);
    let mut text = format!("seed {} line {name} {} {}", schedule.seed, schedule.backend, schedule.scenario);
    let _ = write!(text, " rows={} confirmed={} ended={} killed={}", verdict.rows, verdict.confirmed, verdict.silent, verdict.kills);
    for (code, count) in &verdict.words {
        let _ = write!(text, " {code}×{count}");
    }
    let _ = write!(text, " {:.0}s … {}", verdict.seconds, outcome(verdict));
    text
}

/// `ok`, or what is wrong and where it can be seen.
fn outcome(verdict: &Verdict) -> String {
    if verdict.failures.is_empty() {
        return "ok".to_owned();
    }
    let class = verdict.class.map(|class| format!(" [{class}]")).unwrap_or_default();
    let kept = verdict.kept.as_ref().map(|path| format!(" | kept in {}", path.display())).unwrap_or_default();
    format!("{}{class}{kept}", verdict.failures.join(" | "))
}

/// Seed, schedule and program.
type Key = (u64, String, String);

/// The file of one line's trials.
pub(crate) struct Results {
    path: PathBuf,
    /// The program that is tested, as a number of its bytes: of another one nothing is known.
    program: String,
    /// Whether a trial passed, and its line.
    known: BTreeMap<Key, (bool, String)>,
}

impl Results {
    pub(crate) fn open(folder: &Path, name: &str, program: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("{name}.jsonl"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let program = fingerprint(fs::read(program)?.as_slice());
        Ok(Self { path, program, known: text.lines().filter_map(parse).collect() })
    }

    pub(crate) fn known(&self, schedule: &Schedule) -> Option<&(bool, String)> {
        self.known.get(&(schedule.seed, schedule.fingerprint(), self.program.clone()))
    }

    pub(crate) fn add(&self, schedule: &Schedule, verdict: &Verdict) -> io::Result<()> {
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        let odd: Vec<_> = verdict.odd.iter().map(|text| quoted(text)).collect();
        let record = format!(
            "{{\"seed\":{},\"schedule\":{},\"program\":{},\"ok\":{},\"class\":{},\"line\":{},\"odd\":[{}]}}\n",
            schedule.seed,
            quoted(&schedule.fingerprint()),
            quoted(&self.program),
            verdict.failures.is_empty(),
            quoted(verdict.class.unwrap_or_default()),
            quoted(&line(schedule, verdict)),
            odd.join(",")
        );
        file.write_all(record.as_bytes())
    }
}

/// A line that `add` wrote.
fn parse(text: &str) -> Option<(Key, (bool, String))> {
    let record: BTreeMap<String, serde_yaml::Value> = serde_yaml::from_str(text).ok()?;
    let string = |name: &str| Some(record.get(name)?.as_str()?.to_owned());
    Some(((record.get("seed")?.as_u64()?, string("schedule")?, string("program")?), (record.get("ok")?.as_bool()?, string("line")?)))
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
