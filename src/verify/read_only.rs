//! `verify --read-only`: the same proof from what is here anyway. Must never write to the database, nor take a backup for current
//! because all that is behind in it has changed here meanwhile.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::difference::{Suspects, compare};
use super::{AFTER, BEFORE, Check, NOW, Outcome, Proof, ROUNDS, pages_there};
use crate::exit::{self, Failure};
use crate::interrupt;
use crate::litestream::backup::{Depth, Position};
use crate::pages::Hashes;
use crate::plan::{Database, Plan};
use crate::position;
use crate::restore::Source;
use crate::sqlite::wal;
use crate::sqlite::wal::Place;

/// Pause between looks at the replica: it need not be asked often, since each answer costs a restore.
const PAUSE: Duration = Duration::from_millis(250);
/// What the last list of what the replica has is given at least.
const LAST_LIST_FOR: Duration = Duration::from_secs(1);

/// Looks until it is proved or disproved, or until the timeout, since it may just be behind.
pub(super) fn rounds(check: &Check<'_>, began: Instant) -> Result<Outcome, Failure> {
    let path = &check.database.path;
    let mut rounds = Rounds::begin(check, began)?;
    let (mut listed, mut last, mut seen) = (None, None, rounds.stamp);
    let mut found = Found::Not(Failure::new(exit::DAMAGED, "no time was left"));
    loop {
        interrupt::check()?;
        let now_listed = check.listing(last.as_ref());
        last = Some(now_listed.clone());
        check.out_of_time(&now_listed)?;
        let late = check.limit.is_over();
        let changed = (listed.as_ref() != Some(&now_listed) && now_listed.is_ok()) || late;
        let there = changed && rounds.goal.is_there(check.limit.left().max(LAST_LIST_FOR));
        let quiet = Stamp::of(path) == seen;
        // While the app writes, a backup that is behind need not be looked into.
        if changed && (there || quiet || late) {
            listed = Some(now_listed);
            found = rounds.look(there)?;
        }
        seen = Stamp::of(path);
        // What has arrived late is compared as often as what came in time.
        let over = (late && !there) || rounds.count >= ROUNDS;
        found = match found {
            Found::Proved(proof) => return Ok(Outcome::Equal(proof)),
            Found::Different { why, sure } if over || sure => return Ok(Outcome::Different(why)),
            Found::Not(failure) if over || late => return Err(failure),
            open => open,
        };
        std::thread::sleep(PAUSE);
    }
}

/// What a look came to.
enum Found {
    Proved(Proof),
    /// It is behind, or cannot be had.
    Not(Failure),
    /// It has everything and is not the same; where nothing has been written since the check began, it never will be.
    Different {
        why: String,
        sure: bool,
    },
}

/// What is kept from look to look.
struct Rounds<'a> {
    check: &'a Check<'a>,
    began: Instant,
    /// As it was when the check began, and its pages.
    stamp: Stamp,
    first: Hashes,
    goal: Goal<'a>,
    suspects: Suspects,
    /// How often the backup had everything and was not the same.
    count: usize,
}

impl<'a> Rounds<'a> {
    fn begin(check: &'a Check<'a>, began: Instant) -> Result<Self, Failure> {
        let stamp = Stamp::of(&check.database.path);
        let first = check.look(BEFORE)?;
        let goal = Goal::new(check.plan, check.database);
        Ok(Self { check, began, stamp, first, goal, suspects: Suspects::default(), count: 0 })
    }

    /// Restores and compares. It is current when nothing was written meanwhile and every page is the same, or when the replica
    /// had what Litestream had read up to where the WAL ended when the check began (`there`).
    fn look(&mut self, there: bool) -> Result<Found, Failure> {
        let before = self.check.look(NOW)?;
        let restored = match self.check.restore() {
            Ok(restored) => restored,
            Err(failure) => return Ok(Found::Not(failure)),
        };
        let compared = Instant::now();
        let (after, pages) = (self.check.look(AFTER)?, pages_there(&restored)?);
        let now = compare(before.each(), after.each(), pages.each());
        let since_first = compare(self.first.each(), after.each(), pages.each());
        let still = now.still && now.different.is_empty();
        let passed = there && !self.suspects.narrow(&since_first);
        if still || passed {
            let mut steps = restored.steps();
            steps.push(("current", compared.duration_since(self.began), "what was here when the check began is there".to_owned()));
            steps.push(("equal", compared.elapsed(), if still { now } else { since_first }.equal()));
            return Ok(Found::Proved(Proof { steps, total: self.began.elapsed() }));
        }
        if there {
            self.count = self.count.saturating_add(1);
            let why = self.check.difference(&since_first, &self.suspects, &restored);
            return Ok(Found::Different { why, sure: Stamp::of(&self.check.database.path) == self.stamp });
        }
        let mut why = self.behind();
        if now.still {
            why = format!("{why}; {}", self.check.difference(&now, &Suspects::of(&now), &restored));
        }
        Ok(Found::Not(Failure::new(exit::DAMAGED, why)))
    }

    fn behind(&self) -> String {
        self.check.not_reached("what was here when the check began").message
    }
}

/// What is another after every write: to the WAL, or, where that is taken into the file, to both.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp(Option<Place>, Option<SystemTime>);

impl Stamp {
    fn of(database: &Path) -> Self {
        Self(wal::wal_end(database), fs::metadata(database).and_then(|m| m.modified()).ok())
    }
}

/// Where the WAL ended when a check began, which the replica must come to have.
struct Goal<'a> {
    plan: &'a Plan,
    database: &'a Database,
    wal: Option<Place>,
    then: Option<position::Read>,
    /// Litestream's position when it had read all of that.
    wanted: Option<Position>,
}

impl<'a> Goal<'a> {
    fn new(plan: &'a Plan, database: &'a Database) -> Self {
        // Litestream's place first: what it reads in between is then something new.
        let then = position::read_patiently(&database.path, plan.litestream.format());
        Self { plan, database, wal: wal::wal_end(&database.path), then, wanted: None }
    }

    fn is_there(&mut self, within: Duration) -> bool {
        let Some(now) = position::read(&self.database.path, self.plan.litestream.format()) else { return false };
        if self.wanted.is_none() && position::has_read(self.wal, self.then.as_ref(), &now) {
            self.wanted = Some(now.position.clone());
        }
        let Some(wanted) = &self.wanted else { return false };
        let files = Source::newest(self.plan, self.database).list(Depth::Newest, within);
        files.is_ok_and(|files| position::is_there(wanted, Some(&now.position), &files))
    }
}
