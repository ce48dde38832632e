//! One trial from its schedule to its verdict: lives, what becomes of the volumes between them, and what is asked after each end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::ledger::{Ledger, Owned, Word, both, missing, word};
use crate::life::{Ended, Start, live};
use crate::net::Net;
use crate::place::{Found, Place, copy, provide};
use crate::schedule::{Before, End, Host, Life, Part, Poor, Release, Scenario, Schedule, Stderr};
use crate::store::Store;
use crate::support::contents::beside;
use crate::support::entry;

/// The container of the life without faults.
const LAST: &str = "end";
/// The stop timeout where nothing else may be the reason of a failure, in seconds.
const UNHURRIED: u64 = 30;

/// What came of a trial.
#[derive(Default)]
pub(crate) struct Verdict {
    /// What is wrong, the first first.
    pub(crate) failures: Vec<String>,
    /// What is no failure and yet not as one would have it.
    pub(crate) odd: Vec<String>,
    /// Of which kind a failure is that is known not to be mended.
    pub(crate) class: Option<&'static str>,
    /// Exit codes of refusals and of stops that were said not to be saved.
    pub(crate) words: BTreeMap<i32, usize>,
    pub(crate) silent: usize,
    pub(crate) kills: usize,
    pub(crate) rows: usize,
    pub(crate) confirmed: usize,
    pub(crate) seconds: f64,
    pub(crate) kept: Option<PathBuf>,
}

struct Trial<'a> {
    place: &'a Place<'a>,
    schedule: &'a Schedule,
    store: Option<&'a Store>,
    old: Option<&'a Path>,
    ledger: Mutex<Ledger>,
    verdict: Mutex<Verdict>,
    /// Containers that were killed, are of the old release, or said themselves that something is not saved: the one beside them in the
    /// same life answers for its own rows.
    unanswered: Mutex<Vec<String>>,
}

/// The volume of a host as a life finds it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It may be gone on with.
    Current,
    /// The replica has confirmed rows that it lacks: it has to be refused.
    Stale,
}

pub(crate) fn run(schedule: &Schedule, store: Option<&Store>, old: Option<&Path>) -> std::io::Result<Verdict> {
    let begin = Instant::now();
    let net = if schedule.drops_packets() { Net::new().ok() } else { None };
    let place = Place::new(schedule, store, net)?;
    place.tell(&schedule.to_string());
    let trial =
        Trial { place: &place, schedule, store, old, ledger: Mutex::default(), verdict: Mutex::default(), unanswered: Mutex::default() };
    let outcome = trial.live_all();
    let mut verdict = trial.verdict.into_inner().unwrap();
    verdict.rows = place.acknowledged(&place.owners()).values().map(BTreeMap::len).sum();
    verdict.confirmed = trial.ledger.into_inner().unwrap().confirmed_rows();
    verdict.seconds = begin.elapsed().as_secs_f64();
    if let Err(error) = outcome {
        verdict.failures.push(format!("HARNESS: {error}"));
    }
    if !verdict.failures.is_empty() || std::env::var_os("KEEP").is_some() {
        verdict.failures.iter().chain(&verdict.odd).for_each(|text| place.tell(text));
        verdict.kept = Some(place.keep());
    }
    Ok(verdict)
}

impl Trial<'_> {
    fn live_all(&self) -> std::io::Result<()> {
        let schedule = self.schedule;
        let keeps = schedule.lives.iter().any(|life| life.before == Before::RolledBack);
        for (number, life) in (1..).zip(&schedule.lives) {
            let rolled_back = self.change_volume(life)?;
            if keeps && life.before != Before::RolledBack {
                self.keep_copy(life.host)?;
            }
            self.live_one(number, life, rolled_back)?;
            if rolled_back {
                let (volume, newest) = (self.place.volume(life.host), self.place.path("newest"));
                fs::remove_dir_all(&volume)?;
                fs::rename(newest, &volume)?;
            }
            if !self.verdict.lock().unwrap().failures.is_empty() {
                return Ok(());
            }
        }
        self.closing_life()?;
        self.empty_disk()
    }

    /// Whether what is there now is an old copy, and the newest is put aside.
    fn change_volume(&self, life: &Life) -> std::io::Result<bool> {
        let volume = self.place.volume(life.host);
        provide(&volume)?;
        let database = self.place.database(life.host);
        let lose = |suffixes: &[&str]| suffixes.iter().for_each(|suffix| drop(fs::remove_file(beside(&database, suffix))));
        match life.before {
            Before::Kept => return Ok(false),
            Before::RolledBack => return self.roll_back(life.host),
            Before::Lost => fs::remove_dir_all(&volume)?,
            Before::DatabaseLost => lose(&[""]),
            Before::DatabaseAndWalLost => lose(&["", "-wal", "-shm"]),
        }
        self.place.tell(&format!("volume of {:?}: {:?}", life.host, life.before));
        self.ledger.lock().unwrap().lose(life.host);
        Ok(false)
    }

    fn keep_copy(&self, host: Host) -> std::io::Result<()> {
        let earlier = self.place.path("earlier");
        if earlier.exists() {
            return Ok(());
        }
        if self.place.database(host).exists() { copy(&self.place.volume(host), &earlier) } else { Ok(()) }
    }

    fn roll_back(&self, host: Host) -> std::io::Result<bool> {
        let (volume, newest, earlier) = (self.place.volume(host), self.place.path("newest"), self.place.path("earlier"));
        if !earlier.exists() {
            self.place.tell("there is no earlier copy to come back");
            return Ok(false);
        }
        fs::rename(&volume, &newest)?;
        copy(&earlier, &volume)?;
        if self.standing(host) == Standing::Current {
            self.place.tell("the earlier copy lacks nothing that was confirmed: it does not come back");
            fs::remove_dir_all(&volume)?;
            fs::rename(&newest, &volume)?;
            return Ok(false);
        }
        self.place.tell("an earlier copy of the volume comes back");
        Ok(true)
    }

    /// Whether the volume has a database that lacks confirmed rows.
    fn standing(&self, host: Host) -> Standing {
        let database = self.place.database(host);
        if fs::metadata(&database).map_or(0, |meta| meta.len()) == 0 {
            return Standing::Current;
        }
        let here = self.place.look(&database).rows();
        let lacks = missing(&self.ledger.lock().unwrap().confirmed, &here);
        if lacks.is_some() { Standing::Stale } else { Standing::Current }
    }

    fn live_one(&self, number: usize, life: &Life, rolled_back: bool) -> std::io::Result<()> {
        let standing = self.standing(life.host);
        if standing == Standing::Stale {
            self.place.tell("this volume lacks rows that were confirmed: it has to be refused");
        }
        let (first, second) = match self.schedule.scenario {
            Scenario::Pair(first, second) => (first, second),
            Scenario::One | Scenario::Failover => (Release::New, Release::New),
        };
        let names = (format!("{number}a"), format!("{number}b"));
        // How many of this life's containers run.
        let running = Mutex::new(if life.second.is_some() { 2 } else { 1 });
        let play = |name: &str, part: &Part, release| -> std::io::Result<()> {
            let ended = self.play(name, life, part, release, standing)?;
            let is_last = {
                let mut running = running.lock().unwrap();
                *running -= 1;
                *running == 0
            };
            self.judge(name, life.host, &ended, release, standing, is_last);
            Ok(())
        };
        match &life.second {
            None => play(&names.0, &life.first, first)?,
            Some((after, part)) => std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(*after));
                    play(&names.1, part, second)
                });
                play(&names.0, &life.first, first)?;
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?,
        }
        if standing == Standing::Stale && !rolled_back {
            self.place.tell("the stale volume is put away");
            fs::remove_dir_all(self.place.volume(life.host))?;
            self.ledger.lock().unwrap().lose(life.host);
        }
        Ok(())
    }

    fn play(&self, name: &str, life: &Life, part: &Part, release: Release, standing: Standing) -> std::io::Result<Ended> {
        let volume = self.place.volume(life.host);
        let new = entry();
        let program = match (release, self.old) {
            (Release::Old, Some(old)) => old,
            _ => &new,
        };
        let migration = self.schedule.migration.map(|migration| {
            let owner = format!("{name}m");
            let app = self.place.app(&owner, &volume.join("app.db"), &["--rows".to_owned(), "4".to_owned()]);
            let app: Vec<_> = app.iter().map(|word| format!("'{}'", word.to_string_lossy())).collect();
            let end = if life.migration_fails { 5 } else { 0 };
            // What is rolled back is owed to nobody.
            if !migration.rollback && standing == Standing::Current {
                self.ledger.lock().unwrap().owe(life.host, &owner);
            }
            (format!("{} && exit {end}", app.join(" ")), migration.rollback)
        });
        // A stale volume is put away with what is written to it.
        if standing == Standing::Current {
            self.ledger.lock().unwrap().owe(life.host, name);
        }
        let endpoint = self.store.map(Store::endpoint);
        let stop_timeout = if name == LAST { UNHURRIED } else { self.schedule.stop_timeout };
        let start = Start { place: self.place, name: name.to_owned(), volume: &volume, program, endpoint, stop_timeout, migration };
        live(&start, part)
    }

    /// What the end itself says, before anything is asked of the backup.
    fn note(&self, name: &str, ended: &Ended, release: Release, standing: Standing) -> Word {
        let word = word(ended.code, &ended.log, ended.killed);
        let mut verdict = self.verdict.lock().unwrap();
        match word {
            Word::Killed => verdict.kills += 1,
            Word::Honest => *verdict.words.entry(ended.code).or_default() += 1,
            Word::Silent => verdict.silent += 1,
        }
        drop(verdict);
        if ended.hung {
            self.fail(release, standing, format!("HUNG {name}: it does not end after TERM"));
        }
        if let Some(line) = ended.log.lines().find(|line| line.starts_with("owned: ") || line.contains("panicked")) {
            self.odd(format!("{name}: {line}"));
        }
        if word == Word::Honest && ended.code == 65 && standing == Standing::Current && self.schedule.scenario != Scenario::Failover {
            self.odd(format!("{name}: 65 on the newest volume: {}", last_line(&ended.log)));
        }
        word
    }

    /// Asks volume and backup for what must be there after this container's end.
    fn judge(&self, name: &str, host: Host, ended: &Ended, release: Release, standing: Standing, is_last: bool) {
        let word = self.note(name, ended, release, standing);
        // It has left no database, and only its copy of it: the newer one asks what to do.
        let release = if ended.code == 65 && ended.log.contains("an older release died") { Release::Old } else { release };
        if word != Word::Silent || release == Release::Old {
            self.unanswered.lock().unwrap().push(name.to_owned());
        }
        // Of a pair's container that ends beside another one, its own rows and those of earlier lives.
        let owners: Vec<String> = self.ledger.lock().unwrap().owed(host);
        let owners: Vec<String> =
            if is_last { owners } else { owners.into_iter().filter(|owner| owner.starts_with(name) || !same_life(owner, name)).collect() };
        let acknowledged = self.place.acknowledged(&owners);
        if is_last && standing == Standing::Current && !acknowledged.is_empty() {
            self.judge_volume(name, host, &acknowledged, release);
        }
        let confirmed = {
            let mut ledger = self.ledger.lock().unwrap();
            ledger.confirm(&ended.proven);
            ledger.confirmed.clone()
        };
        let found = self.place.restore();
        let leaves_to_holder = ended.stood_by_to_its_end() && !is_last;
        if word == Word::Killed && matches!(found, Found::Damaged(_)) && self.place.only_begins_a_generation() {
            self.odd(format!("{name}: killed when 0.3 had begun a generation and nothing more of it"));
            return;
        }
        if matches!(found, Found::Damaged(_)) && (word != Word::Silent || leaves_to_holder) && self.place.lacks_laps() {
            // Until the next look; what was confirmed must be there in the end.
            self.odd(format!("{name}: 0.3 has left out laps of the WAL{}", why(&found)));
            return;
        }
        if let Some((count, rows)) = missing(&confirmed, &found.rows()) {
            self.fail(release, standing, format!("LOST after {name} ({}): {count} confirmed: {rows}{}", ended.code, why(&found)));
            return;
        }
        if word == Word::Silent && !leaves_to_holder && standing == Standing::Current {
            let unanswered = self.unanswered.lock().unwrap().clone();
            let beside =
                |owner: &String| owner != name && same_life(owner, name) && unanswered.iter().any(|one| owner.starts_with(one.as_str()));
            let owed: Owned = acknowledged.clone().into_iter().filter(|(owner, _)| !beside(owner)).collect();
            if let Some((count, rows)) = missing(&owed, &found.rows()) {
                let text = format!("SILENT {name}: exit {} and {count} rows missing: {rows}{}", ended.code, why(&found));
                self.fail(release, standing, text);
                return;
            }
            self.ledger.lock().unwrap().confirm(&owed);
        }
        let wrote = self.place.acknowledged(&[name.to_owned()]);
        if word == Word::Silent && standing == Standing::Stale && !wrote.is_empty() {
            self.fail(release, standing, format!("STALE {name}: exit {} on a volume that lacks confirmed rows", ended.code));
        }
        if standing == Standing::Current {
            self.ledger.lock().unwrap().confirm(&both(&acknowledged, &found.rows()));
        }
    }

    /// What was acknowledged on a volume is in its database, whatever has become of the container.
    fn judge_volume(&self, name: &str, host: Host, acknowledged: &Owned, release: Release) {
        let here = self.place.look(&self.place.database(host));
        if let Some((count, rows)) = missing(acknowledged, &here.rows()) {
            self.fail(release, Standing::Current, format!("VOLUME after {name}: {count} rows missing: {rows}{}", why(&here)));
        }
    }

    /// Without any fault, on the volume of the last life: whatever was before, it is well in the end.
    fn closing_life(&self) -> std::io::Result<()> {
        let host = self.schedule.lives.last().map_or(Host::A, |life| life.host);
        let part = Part {
            style: "plain",
            every: 3_000,
            from_start: false,
            length: 300,
            end: End::Term,
            stderr: Stderr::File,
            poor: Poor::Nothing,
            faults: Vec::new(),
        };
        let life = Life { host, before: Before::Kept, migration_fails: false, first: part.clone(), second: None };
        let standing = self.standing(host);
        if standing == Standing::Stale {
            return Ok(());
        }
        let ended = self.play(LAST, &life, &part, Release::New, standing)?;
        self.judge(LAST, host, &ended, Release::New, standing, true);
        if ended.code != 0 {
            let text = format!("{LAST}: a life without faults: {}: {}", ended.code, last_line(&ended.log));
            match self.schedule.scenario {
                // It may be ahead of a host that has written nothing.
                Scenario::Failover if ended.code == 65 => self.odd(text),
                _ => self.fail(Release::New, standing, format!("STUCK {text}")),
            }
        }
        Ok(())
    }

    /// Everything confirmed comes back where there is nothing, and is still there when that has ended.
    fn empty_disk(&self) -> std::io::Result<()> {
        if !self.verdict.lock().unwrap().failures.is_empty() {
            return Ok(());
        }
        let volume = self.place.path("vol-empty");
        let part = Part {
            style: "plain",
            every: 1_000,
            from_start: false,
            length: 200,
            end: End::Term,
            stderr: Stderr::File,
            poor: Poor::Nothing,
            faults: Vec::new(),
        };
        let program = entry();
        let endpoint = self.store.map(Store::endpoint);
        let start = Start {
            place: self.place,
            name: "empty".to_owned(),
            volume: &volume,
            program: &program,
            endpoint,
            stop_timeout: UNHURRIED,
            migration: None,
        };
        let ended = live(&start, &part)?;
        let mut wanted = self.ledger.lock().unwrap().confirmed.clone();
        let here = self.place.look(&volume.join("app.db"));
        if let Some((count, rows)) = missing(&wanted, &here.rows()) {
            let text = format!("LOST on an empty disk ({}): {count} confirmed: {rows}{}", ended.code, why(&here));
            self.fail(Release::New, Standing::Current, text);
        }
        wanted.extend(self.place.acknowledged(&["empty".to_owned()]));
        let found = self.place.restore();
        if let Some((count, rows)) = missing(&wanted, &found.rows()) {
            let text = format!("LOST after a life on an empty disk ({}): {count} confirmed: {rows}{}", ended.code, why(&found));
            self.fail(Release::New, Standing::Current, text);
        }
        if ended.code != 0 {
            self.fail(Release::New, Standing::Current, format!("STUCK on an empty disk: {}: {}", ended.code, last_line(&ended.log)));
        }
        Ok(())
    }

    fn fail(&self, release: Release, standing: Standing, text: String) {
        self.place.tell(&text);
        // What the older release does is its own; what is to be refused and is not, is a check of its own.
        let class = match (release, standing) {
            (Release::Old, _) => Some("old release"),
            (Release::New, Standing::Stale) => Some("diverged"),
            (Release::New, Standing::Current) if text.starts_with("STUCK") && text.contains(" 65: ") => Some("refused"),
            (Release::New, Standing::Current) => None,
        };
        let mut verdict = self.verdict.lock().unwrap();
        if verdict.failures.is_empty() {
            verdict.class = class;
        }
        verdict.failures.push(text);
    }

    fn odd(&self, text: String) {
        self.place.tell(&text);
        self.verdict.lock().unwrap().odd.push(text);
    }
}

/// Whether both names begin with the same number: `2a`, `2b`, `2bm`.
fn same_life(one: &str, other: &str) -> bool {
    let number = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_alphabetic()).to_owned();
    number(one) == number(other)
}

/// The reason why nothing or nothing whole was found.
fn why(found: &Found) -> String {
    match found {
        Found::Rows(_) => String::new(),
        Found::Nothing(why) => format!(" (nothing there: {why})"),
        Found::Damaged(why) => format!(" (DAMAGED: {why})"),
    }
}

fn last_line(log: &str) -> String {
    log.lines().rev().find(|line| line.contains("litestream-entry")).unwrap_or("no line").to_owned()
}
