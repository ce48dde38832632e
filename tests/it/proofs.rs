//! `verify` finds what is wrong with a backup, and only that: made to fail in every way, and not failing beside apps of all kinds.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::support::bare::Bare;
use crate::support::container::{Container, said};
use crate::support::contents::Contents;
use crate::support::site::Site;
use crate::support::trials::{self, Random};
use crate::support::{Line, PATIENCE, eventually, example, when};
use crate::support::{lives, process};

both_lines!(a_damaged_newest_file, a_lost_newest_file, a_replica_rolled_back, a_changed_row, another_databases_replica, no_false_alarm,);

only_0_5!(a_gap_of_bare_litestream,);

const ROWS: i64 = 400;

/// An idle app with some rows, all of them in the backup.
fn idle(site: &Site) -> Container {
    let rows = site.acknowledged() + ROWS;
    let mut container = site.writing(&format!("--every 200 --rows {ROWS}")).start();
    container.ready();
    eventually("all rows", PATIENCE, || when(site.acknowledged() >= rows));
    container
}

fn filled(site: &Site) {
    assert_eq!(idle(site).stop(), 0);
    site.assert_saved();
}

/// A copy of a directory with all that is in it, in the place of what is there.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().expect("cp is there");
    assert!(done.success());
}

/// The replica's files, the oldest first.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { found.push((entry.metadata().unwrap().modified().unwrap(), path)) }
        }
    }
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// What the backup has not, counted by a restore of the real Litestream; none where there is none to be had.
fn lacking(site: &Site) -> Option<Vec<String>> {
    let (output, _scratch, copy) = site.try_restore(site.database());
    if !output.status.success() || !copy.exists() {
        return None;
    }
    Some(Contents::of(site.database()).lacks(&Contents::read(&copy).ok()?))
}

/// Code 65, and these tables with these counts, no others of the app's; where nothing can be restored, `why`.
#[track_caller]
fn assert_found(code: Option<i32>, said: &str, lacking: Option<&Vec<String>>, why: &str) {
    assert_eq!(code, Some(65), "{said}");
    let Some(lacking) = lacking else {
        assert!(said.contains(why), "{why}: {said}");
        return;
    };
    let line = said.lines().find(|line| line.contains("NOT PROVED")).expect("the reason");
    let named: Vec<_> =
        line.split("; ").map(|part| part.rsplit_once(": table ").map_or(part.to_owned(), |(_, it)| format!("table {it}"))).collect();
    let named: Vec<_> = named.into_iter().filter(|part| part.starts_with("table ") && !part.contains(" _litestream")).collect();
    assert_eq!(&named, lacking, "{said}");
}

const READ_ONLY: [&str; 5] = ["verify", "--timeout", "1s", "--read-only", "default"];
const WRITING: [&str; 4] = ["verify", "--timeout", "1s", "default"];

/// Without anybody who runs, and beside PID 1 and an idle app: `verify` does not pass after `spoil`, in both ways.
fn spoiled(line: Line, prepare: impl Fn(&Site), spoil: impl Fn(&Site), why: &str) {
    let site = Site::new(line);
    filled(&site);
    prepare(&site);
    spoil(&site);
    let lacking = lacking(&site);
    assert!(lacking.as_ref().is_none_or(|lacking| !lacking.is_empty()), "it is not spoiled");
    let (code, alone) = site.recipe().arguments(READ_ONLY).run();
    assert_found(Some(code), &alone.stderr(), lacking.as_ref(), why);
    // Nobody is here to replicate the row that it writes.
    let (code, alone) = site.recipe().arguments(WRITING).run();
    assert_found(Some(code), &alone.stderr(), None, if lacking.is_none() { why } else { "cut or behind" });

    let site = Site::new(line);
    filled(&site);
    prepare(&site);
    let container = idle(&site);
    let ready = container.exec(["verify", "default"]);
    assert!(ready.status.success(), "{}", said(&ready));
    let litestream = container.running_litestream().pid;
    process::send(litestream, Signal::SIGSTOP);
    spoil(&site);
    process::send(litestream, Signal::SIGCONT);
    for words in [&READ_ONLY[..], &WRITING[..]] {
        let output: Output = container.exec(words);
        println!("{line:?}: {words:?}: {}", said(&output));
        // One that notices may have made it whole.
        if !output.status.success() || self::lacking(&site).is_none_or(|lacking| !lacking.is_empty()) {
            assert_eq!(output.status.code(), Some(65), "{words:?}: {}", said(&output));
            assert!(said(&output).contains("NOT PROVED"), "{}", said(&output));
        }
    }
}

fn a_damaged_newest_file(line: Line) {
    let damage = |site: &Site| {
        let newest = files(&site.replica()).pop().expect("a file");
        let mut bytes = fs::read(&newest).expect("the file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        fs::write(&newest, bytes).expect("the damaged file");
    };
    spoiled(line, |_| (), damage, "the backup is damaged: ");
}

fn a_lost_newest_file(line: Line) {
    let lose = |site: &Site| {
        // The last may hold nothing but what Litestream itself wrote.
        let mut files = files(&site.replica());
        while lacking(site).is_some_and(|lacking| lacking.is_empty()) {
            fs::remove_file(files.pop().expect("a file")).expect("it is removed");
        }
    };
    spoiled(line, |_| (), lose, "NOT PROVED");
}

fn a_replica_rolled_back(line: Line) {
    let keep = |site: &Site| {
        copy(&site.replica(), &site.path("earlier"));
        filled(site);
    };
    spoiled(line, keep, |site| copy(&site.path("earlier"), &site.replica()), "NOT PROVED");
}

/// The backup is one of the same file but for a byte of one row.
fn a_changed_row(line: Line) {
    let change = |site: &Site| {
        let twin = Site::new(line);
        let (output, _scratch, copied) = site.try_restore(site.database());
        assert!(output.status.success(), "{}", said(&output));
        fs::copy(copied, twin.database()).expect("a copy");
        let connection = rusqlite::Connection::open(twin.database()).expect("the copy");
        let changed = "UPDATE t SET body = 'A' || substr(body, 2) WHERE id = 77";
        assert_eq!(connection.execute(changed, ()), Ok(1));
        drop(connection);
        let (code, ended) = twin.recipe().app(["true"]).run();
        assert_eq!(code, 0, "{}", ended.stderr());
        copy(&twin.replica(), &site.replica());
    };
    spoiled(line, |_| (), change, "NOT PROVED");
}

fn another_databases_replica(line: Line) {
    let swap = |site: &Site| {
        let other = Site::new(line);
        let mut container = other.recipe().app(churn(&other, "rows,schema", "0", 5)).start();
        container.ready();
        assert_eq!(container.stop(), 0);
        copy(&other.replica(), &site.replica());
    };
    spoiled(line, |_| (), swap, "NOT PROVED");
}

/// A gap that bare Litestream left, and bare Litestream goes on beside an idle app: only the comparison of pages finds it.
///
/// Litestream sometimes heals a gap at its next start. One that is still there afterwards was there
/// all the time, and only such a one counts.
fn a_gap_of_bare_litestream(line: Line) {
    let lasting = (0..6).any(|_| {
        let site = Site::new(line);
        lives::leave_a_gap(&site);
        let bare = Bare::start(&site, "--rows 1");
        let verify = |words: &[&str]| site.recipe().arguments(words).run();
        let found = [verify(&["verify", "--timeout", "10s", "default"]), verify(&["verify", "--timeout", "10s", "--read-only", "default"])];
        bare.stop();
        let lacking = lacking(&site);
        let lasts = lacking.as_ref().is_none_or(|lacking| !lacking.is_empty());
        for (code, container) in &found {
            let said = format!("{}{}", String::from_utf8_lossy(&container.stdout()), container.stderr());
            println!("{lacking:?}: {code}, {said}");
            if lasts {
                assert_found(Some(*code), &said, lacking.as_ref(), "NOT PROVED");
            }
            assert!(*code == 0 || said.contains("NOT PROVED"), "it says why: {said}");
        }
        lasts
    });
    assert!(lasting, "every gap was healed before it could be looked for");
}

/// What churning apps do: one thing all the time, or several by turns.
const CHURNS: [&str; 12] = [
    "rows,schema",
    "flags,all-flags",
    "rows,vacuum,deletes",
    "growth,incremental,passive,restart",
    "big",
    "flags",
    "rows,flags,vacuum,incremental,schema,deletes,growth,big,passive,restart",
    "rows,vacuum",
    "flags,incremental,growth",
    "schema",
    "deletes,rows",
    "growth,passive,restart",
];

/// Two proofs beside each app; half of the apps are verified without a write.
fn no_false_alarm(line: Line) {
    trials::run(trials::proofs().div_ceil(2), |number, random| {
        let site = Site::new(line);
        let (what, words) = app(&site, number, random);
        let mut container = site.recipe().app(words).start();
        container.ready();
        let verify: &[&str] = if number % 2 == 0 { &["verify", "default"] } else { &["verify", "--read-only", "default"] };
        for _ in 0..2 {
            let start = Instant::now();
            let output = container.exec(verify);
            println!("{line:?} {number}: {verify:?} beside {what}: {:?}, {:.1} s", output.status.code(), start.elapsed().as_secs_f32());
            assert!(output.status.success(), "{verify:?} beside {what}: {}", said(&output));
        }
    });
}

/// Every third is the writer at some speed.
fn app(site: &Site, number: usize, random: &mut Random) -> (String, Vec<OsString>) {
    if number % 3 == 2 {
        let paces = ["--every 0", "--every 200", "--every 3000", "--every 500000", "--burst 800:700", "--every 500 --checkpoint 40"];
        let pace = *random.pick(&paces);
        return (format!("writer {pace}"), site.writer(pace));
    }
    let kind = CHURNS[(number - number / 3) % CHURNS.len()];
    // Never none: beside a transaction that always follows the last at once, 0.3 gets no lock and does stop replicating.
    let pauses = if kind.contains("restart") { ["10000", "30000", "400000"] } else { ["1000", "30000", "400000"] };
    let pause = *random.pick(&pauses);
    let seed = random.between(1, 1 << 30);
    (format!("churn {kind}, pause {pause}, seed {seed}"), churn(site, kind, pause, seed))
}

/// The churning app's command line.
fn churn(site: &Site, kind: &str, pause: &str, seed: u64) -> Vec<OsString> {
    let program = example("churn");
    assert!(program.exists(), "no {}: cargo build --examples", program.display());
    let mut words: Vec<OsString> = vec![program.into(), "--db".into(), site.database().into(), "--ready".into(), site.ready_file().into()];
    words.extend(["--kind", kind, "--pause", pause, "--seed", &seed.to_string()].map(OsString::from));
    words
}
