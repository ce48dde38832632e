//! A file system that hangs, under each of what the program needs, in each phase: nothing waits for it longer than it may, what does not
//! answer is named, and what was acknowledged is there when it answers again.

use std::fs;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::serve::get;
use crate::support::container::{Container, Recipe, said};
use crate::support::contents::Contents;
use crate::support::fuse::{self, PassedThrough};
use crate::support::process;
use crate::support::server::{connect, free_ports};
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, entry, eventually, namespaces, when};

both_lines!(
    all_that_sqlite_and_litestream_need_is_passed_through,
    a_data_directory_that_hangs_for_a_while_costs_nothing,
    a_runtime_directory_that_hangs_for_a_while_costs_nothing,
    a_replica_that_hangs_for_a_while_costs_nothing,
    health_names_what_does_not_answer_at_the_boot,
    health_names_what_does_not_answer_in_the_run,
    health_of_a_replica_that_hangs_is_its_lag,
    the_data_directory_hangs_at_the_boot,
    the_data_directory_hangs_in_the_run,
    the_data_directory_hangs_in_the_stop,
    the_runtime_directory_hangs_at_the_boot,
    the_runtime_directory_hangs_in_the_run,
    the_runtime_directory_hangs_in_the_stop,
    the_replica_hangs_at_the_boot,
    the_replica_hangs_in_the_run,
    the_replica_hangs_in_the_stop,
    a_log_file_that_hangs_stops_nothing if fuse,
);

/// By when a container has ended that was told to: its budget of 5 s and a second, and what a machine with other things to do needs.
const ENDED_WITHIN: Duration = Duration::from_secs(7);
/// Two seconds, and the start of a process on such a machine.
const HEALTH_WITHIN: Duration = Duration::from_secs(3);

/// What hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Data,
    Runtime,
    Replica,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Boot,
    Run,
    Stop,
}

/// The disk ends first: nothing that hangs in it can end before.
struct Life {
    disk: PassedThrough,
    container: Container,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Runtime => "run",
            Self::Replica => "replica",
        }
    }
}

/// Processes that hang show where, for whoever reads of a failure.
fn standing(container: &Container) -> String {
    let Some(pid1) = container.first_process() else { return "no PID 1".to_owned() };
    // A command beside it is no child of its.
    let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let all = process::all().into_iter().filter(|process| namespace(process.pid) == namespace(pid1));
    let lines = all.map(|process| {
        let words: Vec<_> = process.arguments.iter().map(|word| String::from_utf8_lossy(word)).collect();
        let stack = fs::read_to_string(format!("/proc/{}/stack", process.pid)).unwrap_or_default();
        let stack: Vec<&str> = stack.lines().take(12).filter_map(|line| line.split_whitespace().nth(1)).collect();
        format!("{} {} {}\n    {}", process.pid, process.state, words.join(" "), stack.join(" < "))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether PID 1 has done all that it can: it has ended, or does with nothing open any more. Then it waits in the kernel for those of its
/// namespace that hang in their own end, each with a file to close, where no signal reaches them.
fn has_ended(container: &mut Container) -> bool {
    const PF_EXITING: u32 = 4;
    if container.ended().is_some() {
        return true;
    }
    let Some(pid1) = container.first_process() else { return false };
    let stat = fs::read_to_string(format!("/proc/{pid1}/stat")).unwrap_or_default();
    let flags = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split_whitespace().nth(6)?.parse::<u32>().ok());
    let open = fs::read_dir(format!("/proc/{pid1}/fd")).map_or(0, Iterator::count);
    flags.is_some_and(|flags| flags & PF_EXITING > 0) && open == 0
}

fn recipe(site: &Site) -> Recipe {
    site.recipe().env("LITESTREAM_ENTRY_STOP_TIMEOUT", "5s").env("LITESTREAM_ENTRY_MAX_LAG", "2s")
}

/// Writes for a while whenever it is told so by a file, and touches nothing but then.
fn writes_when_told(site: &Site) -> Recipe {
    let (told, done) = (site.path("write").display().to_string(), site.path("written").display().to_string());
    let script =
        format!("trap 'exit 0' TERM; while :; do if [ -e {told} ]; then rm {told}; \"$@\" && touch {done}; fi; sleep 0.05 & wait $!; done");
    recipe(site).shell(&script).arguments(["sh"]).arguments(site.writer("--every 1000 --live 500"))
}

#[track_caller]
fn write(site: &Site) {
    let _ = fs::remove_file(site.path("written"));
    fs::write(site.path("write"), "").expect("a file");
    eventually("the rows are written", PATIENCE, || when(site.path("written").exists()));
}

/// A life that ended well, on a disk that answers; the next one may begin.
fn lived(line: Line, place: Place) -> Option<(Site, PassedThrough)> {
    if !namespaces() || !fuse::possible() {
        return None;
    }
    let site = Site::new(line);
    let disk = PassedThrough::over(&site.path(place.name()));
    live_well(&site);
    Some((site, disk))
}

fn live_well(site: &Site) {
    let mut container = recipe(site).app(site.writer("--every 1000")).start();
    container.ready();
    site.write_on(200);
    let code = container.stop();
    assert_eq!(code, 0, "{}", container.stderr());
    site.assert_saved();
}

fn all_that_sqlite_and_litestream_need_is_passed_through(line: Line) {
    for place in [Place::Data, Place::Runtime, Place::Replica] {
        let Some((site, _disk)) = lived(line, place) else { return };
        assert!(PassedThrough::beneath(&site.path(place.name())).read_dir().unwrap().next().is_some(), "{place:?} is not passed through");
        live_well(&site);
    }
}

fn a_data_directory_that_hangs_for_a_while_costs_nothing(line: Line) {
    hangs_for_a_while(line, Place::Data);
}

fn a_runtime_directory_that_hangs_for_a_while_costs_nothing(line: Line) {
    hangs_for_a_while(line, Place::Runtime);
}

fn a_replica_that_hangs_for_a_while_costs_nothing(line: Line) {
    hangs_for_a_while(line, Place::Replica);
}

fn hangs_for_a_while(line: Line, place: Place) {
    let Some((site, disk)) = lived(line, place) else { return };
    let container = recipe(&site).app(site.writer("--every 2000 --on-term exit=3")).start();
    let mut trial = Life { disk, container };
    trial.container.ready();
    site.write_on(200);
    trial.disk.hang();
    // It is the time itself that is tried.
    std::thread::sleep(Duration::from_secs(5));
    trial.disk.go_on();
    site.write_on(200);
    eventually("health is 0", PATIENCE, || when(trial.container.exec(["health"]).status.success()));
    let code = trial.container.stop();
    assert_eq!(code, 3, "{}", trial.container.stderr());
    site.assert_saved();
}

fn health_names_what_does_not_answer_at_the_boot(line: Line) {
    for place in [Place::Data, Place::Runtime] {
        let Some((site, disk)) = lived(line, place) else { return };
        disk.hang();
        let container = recipe(&site).app(site.writer("--every 1000")).start();
        let mut trial = Life { disk, container };
        trial.container.running();
        assert_unwell(&trial.container, &site, place);
        trial.disk.go_on();
        trial.container.ready();
        eventually("health is 0", PATIENCE, || when(trial.container.exec(["health"]).status.success()));
        assert_eq!(trial.container.stop(), 0, "{}", trial.container.stderr());
        site.assert_saved();
    }
}

fn health_names_what_does_not_answer_in_the_run(line: Line) {
    for place in [Place::Data, Place::Runtime] {
        let Some((site, disk)) = lived(line, place) else { return };
        let port = free_ports();
        let app = recipe(&site).env("LITESTREAM_ENTRY_HTTP", format!(":{port}")).app(site.writer("--every 2000"));
        let mut trial = Life { disk, container: app.start() };
        trial.container.ready();
        eventually("it serves", PATIENCE, || connect(port).ok());
        eventually("health is 200", PATIENCE, || when(get(port, "/health").0 == 200));
        trial.disk.hang();
        // A look that has just been taken may serve for a second.
        eventually("health is 503", PATIENCE, || when(get(port, "/health").0 == 503));
        assert_unwell(&trial.container, &site, place);
        for path in ["/health", "/ready", "/metrics"] {
            let began = Instant::now();
            let (status, why) = get(port, path);
            assert!(began.elapsed() < HEALTH_WITHIN, "{path} after {:?}", began.elapsed());
            assert!(status == 503 && names(&why, &site, place), "{path}: {status} {why}");
        }
        trial.disk.go_on();
        eventually("health is 0", PATIENCE, || when(trial.container.exec(["health"]).status.success()));
        eventually("health is 200", PATIENCE, || when(get(port, "/health").0 == 200));
        assert_eq!(trial.container.stop(), 0, "{}", trial.container.stderr());
        site.assert_saved();
    }
}

/// Which Litestream knows, and no file of the replica's is looked at.
fn health_of_a_replica_that_hangs_is_its_lag(line: Line) {
    let Some((site, disk)) = lived(line, Place::Replica) else { return };
    let mut trial = Life { disk, container: recipe(&site).app(site.writer("--every 2000")).start() };
    trial.container.ready();
    eventually("health is 0", PATIENCE, || when(trial.container.exec(["health"]).status.success()));
    trial.disk.hang();
    assert_unwell(&trial.container, &site, Place::Replica);
    trial.disk.go_on();
    eventually("health is 0", PATIENCE, || when(trial.container.exec(["health"]).status.success()));
    assert_eq!(trial.container.stop(), 0, "{}", trial.container.stderr());
    site.assert_saved();
}

fn the_data_directory_hangs_at_the_boot(line: Line) {
    hangs(line, Place::Data, Phase::Boot);
}

fn the_data_directory_hangs_in_the_run(line: Line) {
    hangs(line, Place::Data, Phase::Run);
}

fn the_data_directory_hangs_in_the_stop(line: Line) {
    hangs(line, Place::Data, Phase::Stop);
}

fn the_runtime_directory_hangs_at_the_boot(line: Line) {
    hangs(line, Place::Runtime, Phase::Boot);
}

fn the_runtime_directory_hangs_in_the_run(line: Line) {
    hangs(line, Place::Runtime, Phase::Run);
}

fn the_runtime_directory_hangs_in_the_stop(line: Line) {
    hangs(line, Place::Runtime, Phase::Stop);
}

fn the_replica_hangs_at_the_boot(line: Line) {
    hangs(line, Place::Replica, Phase::Boot);
}

fn the_replica_hangs_in_the_run(line: Line) {
    hangs(line, Place::Replica, Phase::Run);
}

fn the_replica_hangs_in_the_stop(line: Line) {
    hangs(line, Place::Replica, Phase::Stop);
}

/// It hangs, the container is stopped, and the next one has it all.
fn hangs(line: Line, place: Place, phase: Phase) {
    let Some((site, disk)) = lived(line, place) else { return };
    if phase == Phase::Boot {
        disk.hang();
    }
    let mut trial = Life { container: writes_when_told(&site).start(), disk };
    match phase {
        Phase::Boot => {
            trial.container.running();
            assert_unwell(&trial.container, &site, place);
            std::thread::sleep(Duration::from_secs(1));
        }
        Phase::Run => {
            write(&site);
            eventually("health is 0", PATIENCE, || when(trial.container.exec(["health"]).status.success()));
            trial.disk.hang();
            if place != Place::Data {
                write(&site);
            }
            assert_unwell(&trial.container, &site, place);
        }
        Phase::Stop => {
            write(&site);
            eventually("health is 0", PATIENCE, || when(trial.container.exec(["health"]).status.success()));
            trial.disk.hang();
        }
    }
    assert_ends(&mut trial, &site, place, phase);
    drop(trial.container);
    live_well(&site);
    Contents::of(site.database()).assert_complete_up_to(site.acknowledged());
}

/// What `health` says, in time.
#[track_caller]
fn health(container: &Container) -> (Duration, Output) {
    let began = Instant::now();
    let mut command = container.command_beside(container.pid1(), &entry(), ["health"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("timeout is there");
    while child.try_wait().expect("our own child").is_none() {
        assert!(began.elapsed() < HEALTH_WITHIN, "health says nothing for {HEALTH_WITHIN:?}:\n{}", standing(container));
        std::thread::sleep(Duration::from_millis(5));
    }
    (began.elapsed(), child.wait_with_output().expect("one line"))
}

/// `health` says so at once; where only the replica hangs, as soon as something is not there for too long.
#[track_caller]
fn assert_unwell(container: &Container, site: &Site, place: Place) {
    let unwell = || {
        let (took, output) = health(container);
        println!("{place:?}: health after {took:?}: {}", said(&output));
        (output.status.code() == Some(1)).then_some(output)
    };
    let output = match place {
        Place::Replica => eventually("health is 1", PATIENCE, unwell),
        Place::Data | Place::Runtime => unwell().expect("health is 1"),
    };
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    let reason =
        if place == Place::Replica { ["default: ", "starting: "].iter().any(|why| line.contains(why)) } else { names(&line, site, place) };
    assert!(reason && line.trim().lines().count() == 1, "no reason: {line}");
}

/// Whether it says that a place does not answer, or of a replica that it has not all.
fn names(text: &str, site: &Site, place: Place) -> bool {
    let path = site.path(place.name()).display().to_string();
    let says = if place == Place::Replica { "NOT SAVED" } else { "not answer" };
    text.lines().any(|line| line.contains(&path) && line.contains(says))
}

/// TERM ends it in time. Then the disk answers again.
#[track_caller]
fn assert_ends(trial: &mut Life, site: &Site, place: Place, phase: Phase) {
    let began = Instant::now();
    trial.container.signal(Signal::SIGTERM);
    let (_, asked) = health(&trial.container);
    // What runs beside the app when it has ended is ended, too.
    assert!(asked.status.code() != Some(0), "{}", said(&asked));
    while !has_ended(&mut trial.container) {
        let took = began.elapsed();
        assert!(took < ENDED_WITHIN, "runs {took:?} after TERM:\n{}", standing(&trial.container));
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = began.elapsed();
    let saved = place == Place::Runtime && Contents::of(site.database()).difference(&site.backup_of(site.database())).is_none();
    let left = if trial.container.ended().is_some() { String::new() } else { standing(&trial.container) };
    trial.disk.go_on();
    let (code, log) = (trial.container.wait(PATIENCE), trial.container.stderr());
    println!("{place:?}, {phase:?}: {code} after {took:?}, saved {saved}\n{left}\n{log}");
    let named = names(&log, site, place);
    match phase {
        Phase::Boot => assert!(named || code != 0, "{code}: nothing says what does not answer: {log}"),
        Phase::Run | Phase::Stop => assert!((code == 74 && named) || (code == 0 && saved), "{code}, saved {saved}: {log}"),
    }
}

fn a_log_file_that_hangs_stops_nothing(line: Line) {
    let site = Site::new(line);
    let disk = PassedThrough::over(&site.path("journal"));
    let log = site.path("journal/log");
    let talking = writes_when_told(&site).env("LITESTREAM_ENTRY_LOG", &log).env("LITESTREAM_LOG_LEVEL", "debug");
    let mut trial = Life { disk, container: talking.start() };
    write(&site);
    eventually("health is 0", PATIENCE, || when(trial.container.exec(["health"]).status.success()));
    assert!(fs::read_to_string(&log).unwrap().contains("litestream-entry: default: "));
    trial.disk.hang();
    // There is something to say.
    let first = trial.container.running_litestream().pid;
    process::send(first, Signal::SIGKILL);
    eventually("another Litestream", PATIENCE, || when(trial.container.litestream().is_some_and(|it| it.pid != first)));
    write(&site);
    eventually("health is 0", PATIENCE, || when(trial.container.exec(["health"]).status.success()));
    trial.container.signal(Signal::SIGTERM);
    let began = Instant::now();
    while !has_ended(&mut trial.container) {
        assert!(began.elapsed() < ENDED_WITHIN, "it has not ended:\n{}", standing(&trial.container));
        std::thread::sleep(Duration::from_millis(5));
    }
    trial.disk.go_on();
    assert_eq!(trial.container.wait(PATIENCE), 0, "{}", fs::read_to_string(&log).unwrap_or_default());
    site.assert_saved();
}
