//! As PID 1: crowds of orphans, those who will not die, and an idle day.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::container::said;
use crate::support::contents::Contents;
use crate::support::process::Process;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    a_crowd_of_orphans_leaves_no_zombies,
    those_who_fork_and_will_not_die_are_ended_before_the_last_sync,
    it_does_nothing_while_nothing_happens,
    the_apps_end_is_not_mistaken_for_an_orphans,
    where_it_is_not_pid_1_it_reaps_its_own_and_ends_nobody_elses,
    a_worker_that_starts_when_pid_1_is_gone_ends,
    under_an_init_docker_exec_finds_the_one_that_runs,
    of_several_containers_in_one_pid_namespace_docker_exec_finds_its_own,
    inside_another_one_it_runs_the_app_and_says_so,
);

/// Each child forks one more and ends, so that the grandchild is an orphan. `ORPHANS=100000` makes as many.
fn a_crowd_of_orphans_leaves_no_zombies(line: Line) {
    let orphans: u64 = std::env::var("ORPHANS").ok().and_then(|n| n.parse().ok()).unwrap_or(3000);
    let site = Site::new(line);
    let script = "import os, sys, time
for n in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        # Some end before their parent, some after it, some have orphans of their own.
        if os.fork() == 0 and n % 7 == 0 and os.fork() == 0:
            time.sleep(0.01)
        os._exit(n % 256)
    os.waitpid(child, 0)
open(sys.argv[2], 'w')
time.sleep(1000)";
    let words = ["/usr/bin/python3", "-c", script, &orphans.to_string(), site.ready_file().to_str().unwrap()].map(str::to_owned);
    let began = Instant::now();
    let mut container = site.recipe().app(words).start();
    container.running();
    let (mut most, mut seen) = (0, 0_u32);
    while !site.ready_file().exists() {
        let zombies = container.processes().iter().filter(|p| p.is_zombie()).count();
        most = most.max(zombies);
        seen += 1;
        assert!(zombies < 64, "{zombies} zombies at once");
        assert!(began.elapsed() < PATIENCE * 20, "{} ms for each", began.elapsed().as_millis() / u128::from(orphans));
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{line:?}: {orphans} orphans in {:?}, at most {most} zombies in {seen} looks", began.elapsed());
    eventually("no zombie is left", PATIENCE, || when(!container.processes().iter().any(Process::is_zombie)));
    assert_eq!(container.stop(), 143, "{}", container.stderr());
}

/// The app leaves a crowd that ignores TERM, forks as fast as it can up to a bound, and writes.
fn those_who_fork_and_will_not_die_are_ended_before_the_last_sync(line: Line) {
    let site = Site::new(line);
    let script = "import os, signal, sqlite3, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
database, ready = sys.argv[1:]
c = sqlite3.connect(database, timeout=30)
c.execute('PRAGMA journal_mode=wal'); c.execute('CREATE TABLE IF NOT EXISTS bomb(id INTEGER PRIMARY KEY, pid INTEGER)'); c.commit(); c.close()
def bomb(generation):
    end = time.time() + 60
    while time.time() < end:
        if generation < 40 and os.fork() == 0:
            os.setsid()
            generation += 1
            continue
        c = sqlite3.connect(database, timeout=30)
        try:
            c.execute('INSERT INTO bomb(pid) VALUES (?)', (os.getpid(),)); c.commit()
        except sqlite3.Error:
            pass
        c.close()
        time.sleep(0.02)
        if generation < 40:
            os._exit(0)
if os.fork() == 0:
    os.setsid()
    for _ in range(8):
        if os.fork() == 0:
            bomb(0)
            os._exit(0)
    os._exit(0)
time.sleep(1)
open(ready, 'w')
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
time.sleep(1000)";
    let words =
        ["/usr/bin/python3", "-c", script, site.database().to_str().unwrap(), site.ready_file().to_str().unwrap()].map(str::to_owned);
    let mut container = site.recipe().env("LITESTREAM_ENTRY_STOP_TIMEOUT", "15s").app(words).start();
    container.ready();
    let began = Instant::now();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    println!("{line:?}: ended {:?} after TERM", began.elapsed());
    let here = Contents::of(site.database());
    assert_eq!(site.backup_of(site.database()).difference(&here), None, "nobody wrote after the last sync");
}

/// Seconds of CPU that a process has had.
fn cpu(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<f64> = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2).map(|n| n.parse().unwrap()).collect();
    (fields[0] + fields[1]) / 100.0
}

fn it_does_nothing_while_nothing_happens(line: Line) {
    let site = Site::new(line);
    let mut container = site.recipe().shell(&format!("echo > {}; exec sleep 1000", site.ready_file().display())).start();
    container.ready();
    let pid = container.pid1();
    // Past its start.
    eventually("it has settled", PATIENCE, || {
        let before = cpu(pid);
        std::thread::sleep(Duration::from_millis(500));
        when((cpu(pid) - before).abs() < f64::EPSILON)
    });
    let (before, began) = (cpu(pid), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let used = cpu(pid) - before;
    println!("{line:?}: PID 1 used {used:.2} s of CPU in {:?}, {:.1} s in an hour", began.elapsed(), used * 720.0);
    // The clock ticks a hundred times a second: one tick may be anybody's.
    assert!(used <= 0.02, "{used} s in five idle seconds");
    assert_eq!(container.stop(), 143);
}

/// Orphans end with codes of their own all the time, one of them right before the app.
fn the_apps_end_is_not_mistaken_for_an_orphans(line: Line) {
    let site = Site::new(line);
    for code in [0, 7] {
        let script = format!("i=0; while [ $i -lt 50 ]; do (sh -c 'exit 99' & ); i=$((i+1)); done; (sleep 0.2; exit 98) & exit {code}");
        let (ended, container) = site.recipe().shell(&script).run();
        assert_eq!(ended, code, "{}", container.stderr());
    }
}

/// As under `docker run --init`, or Fly's own init.
fn where_it_is_not_pid_1_it_reaps_its_own_and_ends_nobody_elses(line: Line) {
    let site = Site::new(line);
    let program = crate::support::entry();
    let (app, left) = (site.path("app"), site.path("left"));
    // The app leaves a daemon of its own; beside it there is somebody else's.
    let script = format!(
        "(setsid sleep 1001 & echo $! > {}) ; i=0; while [ $i -lt 20 ]; do (sleep 0.0$i & ); i=$((i+1)); done; sleep 0.5; exit 5",
        left.display()
    );
    fs::write(&app, script).unwrap();
    let words = format!(
        "sleep 1002 & other=$!; LITESTREAM_ENTRY_DEBUG=true {} -- sh {}; code=$?; kill -0 $other && echo alive; kill -0 $(cat {}) 2>/dev/null && echo left; grep -l 'State:.Z' /proc/[0-9]*/status | wc -l; exit $code",
        program.display(),
        app.display(),
        left.display()
    );
    let (code, container) = site.recipe().shell(&words).unwrapped().run();
    let stderr = container.stderr();
    assert_eq!(code, 5, "{stderr}");
    assert_eq!(String::from_utf8_lossy(&container.stdout()), "alive\n0\n", "{stderr}");
    assert!(stderr.contains("not PID 1: running as a subreaper"), "{stderr}");
}

/// Where it is not PID 1, the kernel does not end its workers with it; one that has just been started is told by the pipe to it.
fn a_worker_that_starts_when_pid_1_is_gone_ends(line: Line) {
    let site = Site::new(line);
    let mut container = site.recipe().shell(&format!("echo > {}; exec sleep 1000", site.ready_file().display())).start();
    container.ready();
    let plan = site.path("run/plan.yml");
    eventually("the plan is left", PATIENCE, || when(plan.exists()));
    let alone = "import os, sys
reader, writer = os.pipe()
os.dup2(writer, 3)
os.set_inheritable(3, True)
os.close(reader) if reader != 3 else None
os.execv(sys.argv[1], sys.argv[1:])";
    let program = crate::support::entry();
    let mut worker =
        container.exec_program(["/usr/bin/python3", "-c", alone, program.to_str().unwrap(), "__watch", plan.to_str().unwrap()]);
    let ended = eventually("it has ended", PATIENCE, || worker.try_wait().unwrap());
    assert_eq!(ended.code(), Some(71));
    assert_eq!(container.stop(), 143);
}

/// Options stand on the command line, which is not PID 1's.
fn under_an_init_docker_exec_finds_the_one_that_runs(line: Line) {
    let site = Site::new(line);
    let recipe = site.recipe().without("LITESTREAM_ENTRY_RUNTIME_DIR");
    let init = "trap 'kill $!' TERM; \"$@\" & wait; wait $!; exit $?";
    let place = site.path("elsewhere");
    let words = [crate::support::entry().into_os_string(), "--runtime-dir".into(), place.into(), "--max-lag=7m".into(), "--".into()];
    let words = words.into_iter().chain(site.writer("--every 2000"));
    let mut container = recipe.shell(init).arguments(["sh"]).arguments(words).unwrapped().start();
    container.ready();
    eventually("it is well", PATIENCE, || when(container.exec(["health"]).status.success()));
    let status = container.exec(["status"]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("running"), "{}", said(&status));
    let verified = container.exec(["verify", "default"]);
    assert!(verified.status.success(), "{}", said(&verified));
    let none = container.exec_by(&["env", "-u", "DATABASE_PATH", "-u", "LITESTREAM_REPLICA_URL"], ["status"]);
    assert!(none.status.success(), "what is configured is in its plan: {}", said(&none));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

/// As with `--pid=host`, or where the containers of a pod share their processes.
fn of_several_containers_in_one_pid_namespace_docker_exec_finds_its_own(line: Line) {
    let site = Site::new(line);
    let path = |name: &str| site.path(name).display().to_string();
    let one = |name: &str| {
        let (entry, run, database, replica) = (crate::support::entry(), path("run-"), path("data/"), path("replica-"));
        format!(
            "DATABASE_PATH={database}{name}.db LITESTREAM_REPLICA_URL=file://{replica}{name} \
             unshare --mount {} --runtime-dir {run}{name} -- sh -c 'echo $$ > {run}{name}.pid; exec sleep 1000' &",
            entry.display()
        )
    };
    let script = format!("{}\n{}\nwait", one("one"), one("two"));
    let container = site.recipe().without("LITESTREAM_ENTRY_RUNTIME_DIR").shell(&script).unwrapped().start();
    for name in ["one", "two"] {
        let pid = eventually(format!("the app of {name}"), PATIENCE, || {
            let pid = fs::read_to_string(site.path(&format!("run-{name}.pid"))).ok()?;
            pid.trim().parse::<i32>().ok()
        });
        // Numbers are the container's, and so is /proc.
        let enter = ["nsenter", "--target", &pid.to_string(), "--mount", "env", &format!("DATABASE_PATH={}{name}.db", path("data/"))]
            .map(str::to_owned);
        let enter: Vec<&str> = enter.iter().map(String::as_str).collect();
        let status = container.exec_by(&enter, ["status"]);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(status.status.success() && text.contains("running"), "{name}: {}", said(&status));
        assert!(text.contains(&format!("replica-{name}")) || container.exec_by(&enter, ["config"]).status.success(), "{text}");
        let health = container.exec_by(&enter, ["health"]);
        assert!(
            String::from_utf8_lossy(&health.stdout).contains(&format!("no database at {}{name}.db yet", path("data/"))),
            "{}",
            said(&health)
        );
    }
}

/// ENTRYPOINT and the command, or the start script, both name it.
fn inside_another_one_it_runs_the_app_and_says_so(line: Line) {
    let entry = crate::support::entry().display().to_string();
    let ways: [&[&str]; 4] = [
        &[&entry, "--"],
        &["sh", "-c", "set -e; exec \"$@\"", "sh", &entry, "run", "--"],
        &["sh", "-c", "\"$@\"", "sh", &entry, "--lock", "wait", "--"],
        &["env", "LITESTREAM_ENTRY_LOCK=refuse", "LITESTREAM_ENTRY_MIGRATE=exit 9", &entry, "--"],
    ];
    std::thread::scope(|scope| {
        for (number, way) in ways.into_iter().enumerate() {
            scope.spawn(move || {
                let site = Site::new(line);
                let mut recipe = site.recipe().behind(&["sh", "-c", "mount -t tmpfs none /run && exec \"$@\"", "sh"]);
                if number % 2 == 1 {
                    recipe = recipe.without("LITESTREAM_ENTRY_RUNTIME_DIR");
                }
                for boot in 1..=2 {
                    let mut container = recipe.clone().app(way).arguments(site.writer("--every 2000")).start();
                    container.ready();
                    site.write_on(50);
                    eventually("it is well", PATIENCE, || when(container.exec(["health"]).status.success()));
                    assert!([0, 143].contains(&container.stop()), "{way:?}, boot {boot}: {}", container.stderr());
                    site.assert_saved();
                    let said = container.stderr();
                    assert!(said.contains("replicates already: this one only runs the app"), "{way:?}: {said}");
                }
            });
        }
    });
}
