//! What happens in a trial, as a function of its seed and line alone. It never looks at the machine: the same seed is the same schedule.

use std::fmt;

use crate::support::Line;
use crate::support::trials::Random;

/// Everything that a trial does.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) line: Line,
    pub(crate) backend: Backend,
    pub(crate) scenario: Scenario,
    /// `LITESTREAM_ENTRY_STOP_TIMEOUT`, in seconds.
    pub(crate) stop_timeout: u64,
    pub(crate) migration: Option<Migration>,
    /// `LITESTREAM_ENTRY_VERIFY_INTERVAL=2s`.
    pub(crate) verified: bool,
    pub(crate) user: User,
    pub(crate) lives: Vec<Life>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    File,
    Rclone,
    Seaweed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// One container after the other on one volume.
    One,
    /// Two containers on one volume, the first of this release and the second of that.
    Pair(Release, Release),
    /// Two hosts with a volume each and one replica.
    Failover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// The program under test.
    New,
    /// The release before what is tested here (`scripts/old-release`).
    Old,
}

/// Who runs what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Root,
    /// The app and its helpers, by `LITESTREAM_ENTRY_USER`.
    Apps,
    /// Everything, as with `docker run --user`.
    All,
}

/// `LITESTREAM_ENTRY_MIGRATE`: a few rows, and an end with 5 in some lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Migration {
    pub(crate) rollback: bool,
}

/// A volume, and the host that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    A,
    B,
}

/// From one start to the end of everything that was started.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) host: Host,
    pub(crate) before: Before,
    pub(crate) migration_fails: bool,
    pub(crate) first: Part,
    /// The other container of a pair, and how long after the first one's start it starts, in milliseconds.
    pub(crate) second: Option<(u64, Part)>,
}

/// What has become of the volume since the last life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Kept,
    Lost,
    /// A copy of an earlier day is there.
    RolledBack,
    DatabaseLost,
    DatabaseAndWalLost,
}

/// One container.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) style: &'static str,
    /// Microseconds between two commits.
    pub(crate) every: u64,
    /// The time counts from the container's start, instead of from the app's first row.
    pub(crate) from_start: bool,
    pub(crate) length: u64,
    pub(crate) end: End,
    pub(crate) stderr: Stderr,
    pub(crate) poor: Poor,
    /// When, in milliseconds, and what.
    pub(crate) faults: Vec<(u64, Fault)>,
}

/// What the container has for its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stderr {
    File,
    /// That is read, until a fault says otherwise.
    Pipe,
    /// Its own, with `tostop`; its standard input and output, too.
    Terminal,
}

/// What a container lacks, or has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Poor {
    Nothing,
    /// Descriptors 3 and 7 are open.
    MoreDescriptors,
    /// Standard input is closed.
    NoStdin,
    /// `RLIMIT_NOFILE`.
    Files(u64),
    /// As `docker run --cap-drop ALL`, but for what `LITESTREAM_ENTRY_USER` needs where that is set.
    FewCapabilities,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The app ends by itself with this code.
    Exit(u8),
    Term,
    /// The app does not heed TERM.
    IgnoredTerm,
    /// SIGKILL of the whole container.
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill(Victim),
    /// SIGSTOP, and SIGCONT after so many milliseconds.
    Stop(Victim, u64),
    /// The way to the store, for so many milliseconds.
    Network(Mode, u64),
    /// The program's command beside it.
    Command(&'static str),
    /// Everything in the runtime directory is removed, and the directory, as by a cleaner of `/tmp`.
    WipeRuntime,
    /// The program's own file is removed, or another takes its name.
    Program {
        replaced: bool,
    },
    /// Nobody reads standard error for so many milliseconds.
    LogStands(u64),
    /// Whoever read standard error has gone.
    LogReaderGone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Litestream,
    /// The first worker of this name that is seen from then on.
    Worker(&'static str),
}

/// What the way to the store does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Each request waits for so many milliseconds.
    Slow(u64),
    Answer(u16),
    /// The store gets it; the answer comes after the client has given up.
    AnswerLate,
    /// The store has committed when the connection is reset.
    ResetAfter,
    /// Taken and neither answered nor closed.
    Hole,
    /// Packets are dropped; what was written comes on when they are no longer, even of a container that has gone.
    Drop,
}

const WORKERS: [&str; 7] = ["__prepare", "__flush", "__prepare", "__flush", "__watch", "__check", "__pulse"];

impl Schedule {
    pub(crate) fn new(seed: u64, line: Line) -> Self {
        let mut random = Random::new(seed ^ if line == Line::V03 { 3 << 40 } else { 5 << 40 });
        let r = &mut random;
        let backend = *r.pick(&[Backend::File, Backend::File, Backend::Rclone, Backend::Seaweed]);
        let scenario = match r.between(0, 9) {
            0..=4 => Scenario::One,
            5 => Scenario::Pair(Release::New, Release::New),
            6 => Scenario::Pair(Release::Old, Release::New),
            7 => Scenario::Pair(Release::New, Release::Old),
            _ => Scenario::Failover,
        };
        let stop_timeout = *r.pick(&[4, 6, 10]);
        let migration = r.one_in(5).then(|| Migration { rollback: r.one_in(2) });
        let verified = r.one_in(5);
        let user = *r.pick(&[User::Root, User::Root, User::Root, User::Apps, User::All]);
        let count = if matches!(scenario, Scenario::Pair(..)) { 3 } else { 5 };
        let mut host = Host::A;
        let mut lives = Vec::new();
        for number in 0..count {
            if scenario == Scenario::Failover && number > 0 && !r.one_in(3) {
                host = if host == Host::A { Host::B } else { Host::A };
            }
            lives.push(life(r, number == 0, host, scenario, backend, migration.is_some()));
        }
        Self { seed, line, backend, scenario, stop_timeout, migration, verified, user, lives }
    }

    pub(crate) fn drops_packets(&self) -> bool {
        let parts = self.lives.iter().flat_map(|life| std::iter::once(&life.first).chain(life.second.iter().map(|(_, part)| part)));
        parts.flat_map(|part| &part.faults).any(|(_, fault)| matches!(fault, Fault::Network(Mode::Drop, _)))
    }

    /// A number that is another one when the schedule is.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(self.to_string().as_bytes())
    }
}

fn life(r: &mut Random, is_first: bool, host: Host, scenario: Scenario, backend: Backend, migrates: bool) -> Life {
    let before = match (scenario, r.between(0, 11)) {
        _ if is_first => Before::Kept,
        (Scenario::Failover, 0..=3) | (_, 0) => Before::Lost,
        (Scenario::Failover, _) | (_, 5..) => Before::Kept,
        (_, 1) => Before::RolledBack,
        (_, 2) => Before::DatabaseLost,
        (_, 3 | 4) => Before::DatabaseAndWalLost,
    };
    let first = part(r, backend);
    let second = matches!(scenario, Scenario::Pair(..)).then(|| (r.between(20, 2_500), part(r, backend)));
    Life { host, before, migration_fails: migrates && r.one_in(4), first, second }
}

fn part(r: &mut Random, backend: Backend) -> Part {
    let styles = [
        "plain",
        "plain",
        "plain",
        "checkpoint",
        "no-autocheckpoint",
        "tiny-autocheckpoint",
        "vacuum",
        "update",
        "blobs",
        "connections",
        "orphan",
    ];
    let style = *r.pick(&styles);
    let every = *r.pick(&[300, 1_000, 3_000, 10_000, 50_000]);
    let every = if style == "blobs" { 20_000 + every } else { every };
    let from_start = r.one_in(6);
    let length = if from_start { r.between(50, 1_500) } else { r.between(100, 4_000) };
    let end = match r.between(0, 9) {
        0 => End::Exit(0),
        1 => End::Exit(3),
        2 => End::IgnoredTerm,
        3..=5 => End::Kill,
        _ => End::Term,
    };
    let count = *r.pick(&[0, 1, 1, 2, 2, 3]);
    let mut faults: Vec<_> = (0..count).map(|_| (r.between(0, length), fault(r, backend))).collect();
    // Some faults are there from just before the stop.
    if backend != Backend::File && r.one_in(4) {
        faults.push((length.saturating_sub(50), Fault::Network(mode(r), r.between(200, 3_000))));
    }
    let stderr = *r.pick(&[Stderr::File, Stderr::Pipe, Stderr::Terminal]);
    if let Some(fault) = log_fault(r, stderr, end, from_start) {
        faults.push((r.between(0, length), fault));
    }
    faults.sort_by_key(|(time, _)| *time);
    let poor = match r.between(0, 9) {
        0 => Poor::MoreDescriptors,
        1 => Poor::NoStdin,
        2 => Poor::Files(*r.pick(&[24, 32, 64, 256])),
        3 => Poor::FewCapabilities,
        _ => Poor::Nothing,
    };
    Part { style, every, from_start, length, end, stderr, poor, faults }
}

/// What becomes of a log that is a pipe. What a container says at its end is lost with the reader: then its code has to say it.
fn log_fault(r: &mut Random, stderr: Stderr, end: End, from_start: bool) -> Option<Fault> {
    let code_says_it = matches!(end, End::Term | End::Exit(0) | End::Kill) && !from_start;
    match (stderr, r.between(0, 3)) {
        (Stderr::Pipe, 0 | 1) => Some(Fault::LogStands(r.between(200, 5_000))),
        (Stderr::Pipe, 2) if code_says_it => Some(Fault::LogReaderGone),
        _ => None,
    }
}

fn fault(r: &mut Random, backend: Backend) -> Fault {
    let victim = |r: &mut Random| if r.one_in(2) { Victim::Litestream } else { Victim::Worker(r.pick::<&'static str>(&WORKERS)) };
    match r.between(0, 12) {
        10 | 11 => Fault::WipeRuntime,
        12 => Fault::Program { replaced: r.one_in(2) },
        0..=2 => Fault::Kill(victim(r)),
        3 | 4 => Fault::Stop(victim(r), r.between(50, 3_000)),
        5..=7 if backend != Backend::File => Fault::Network(mode(r), r.between(200, 3_000)),
        _ => Fault::Command(r.pick::<&'static str>(&["verify", "health", "sync", "resnapshot"])),
    }
}

fn mode(r: &mut Random) -> Mode {
    match r.between(0, 6) {
        0 => Mode::Slow(r.between(50, 600)),
        1 => Mode::Answer(403),
        2 => Mode::Answer(503),
        3 => Mode::AnswerLate,
        4 => Mode::ResetAfter,
        5 => Mode::Hole,
        _ => Mode::Drop,
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Rclone => "rclone",
            Self::Seaweed => "weed",
        })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::New { "new" } else { "old" })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => f.write_str("one"),
            Self::Pair(first, second) => write!(f, "standby-{first}-{second}"),
            Self::Failover => f.write_str("failover"),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = line_name(self.line);
        write!(f, "seed {} line {line} {} {} stop-timeout={}s", self.seed, self.backend, self.scenario, self.stop_timeout)?;
        if let Some(migration) = self.migration {
            write!(f, " migrate{}", if migration.rollback { "+rollback" } else { "" })?;
        }
        writeln!(f, "{} user={:?}", if self.verified { " verified" } else { "" }, self.user)?;
        for (number, life) in (1..).zip(&self.lives) {
            let fails = if life.migration_fails { ", migration fails" } else { "" };
            writeln!(f, "  life {number} on {:?}: volume {:?}{fails}", life.host, life.before)?;
            writeln!(f, "    first: {}", life.first)?;
            if let Some((after, second)) = &life.second {
                writeln!(f, "    second, {after} ms later: {second}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = if self.from_start { "its start" } else { "ready" };
        write!(f, "{} every {} µs, {:?} {} ms after {from}", self.style, self.every, self.end, self.length)?;
        write!(f, ", stderr {:?}, poor {:?}", self.stderr, self.poor)?;
        self.faults.iter().try_for_each(|(time, fault)| write!(f, "; {time} ms: {fault:?}"))
    }
}

/// `0.5`, as on the command line.
pub(crate) fn line_name(line: Line) -> &'static str {
    match line {
        Line::V03 => "0.3",
        Line::V05 => "0.5",
    }
}

/// FNV-1a: another number for other bytes.
pub(crate) fn fingerprint(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
