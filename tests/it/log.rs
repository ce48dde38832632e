//! What happens to replication when nobody takes what is said: nothing. And what is said arrives in whole lines.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::Signal;

use crate::support::container::{Container, Recipe};
use crate::support::process;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, fill, when};

both_lines!(
    a_stderr_whose_reader_has_gone_stops_nothing,
    a_stderr_that_was_full_from_the_start_stops_nothing,
    a_stderr_that_takes_nothing_stops_nothing,
    a_terminal_that_takes_nothing_stops_nothing,
    what_is_dropped_is_counted_and_said,
    lines_arrive_whole_beside_the_apps,
    a_flood_is_carried_and_starves_nothing,
    the_last_words_come_before_ours,
    stderr_is_the_apps_alone_where_that_is_asked_for,
    why_it_ends_is_on_stderr_wherever_the_log_is,
    a_log_that_cannot_be_is_refused,
);

/// Litestream says much, and each row is to be in the backup.
fn talking(site: &Site) -> Recipe {
    site.writing("--every 2000").env("LITESTREAM_LOG_LEVEL", "debug").env("LITESTREAM_ENTRY_STOP_TIMEOUT", "30s")
}

/// Replication goes on with the first Litestream, and a stop saves all, in time.
#[track_caller]
fn assert_goes_on(site: &Site, mut container: Container, what: &str) {
    let first = container.running_litestream().pid;
    site.write_on(200);
    let row = site.acknowledged();
    eventually(format!("{what}: newer rows in the backup"), PATIENCE, || when(site.backed_up() > row));
    assert_eq!(container.litestream().map(|it| it.pid), Some(first), "{what}: it died");
    let began = Instant::now();
    assert_eq!(container.stop(), 0, "{what}");
    // Not all of its time, as where somebody waits for an answer.
    assert!(began.elapsed() < Duration::from_secs(15), "{what}: the stop took {:?}", began.elapsed());
    site.assert_saved();
}

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    (reader.into(), writer)
}

fn a_stderr_whose_reader_has_gone_stops_nothing(line: Line) {
    for from_the_start in [true, false] {
        let site = Site::new(line);
        let (reader, writer) = pipe();
        let mut reader = Some(reader);
        let _ = reader.take_if(|_| from_the_start);
        let mut container = talking(&site).start_with_stderr(writer);
        container.ready();
        drop(reader);
        // There is something to say, by us and by another Litestream.
        let first = container.running_litestream().pid;
        process::send(first, Signal::SIGKILL);
        eventually("another Litestream", PATIENCE, || when(container.litestream().is_some_and(|it| it.pid != first)));
        assert_goes_on(&site, container, "a pipe");
    }
    let site = Site::new(line);
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let mut container = talking(&site).start_with_stderr(writer.into());
    container.ready();
    assert_goes_on(&site, container, "a socket");
    // A file of the user's own need not say `stderr`: 0.5 and 0.3 log to stdout then.
    let site = Site::new(line);
    let (database, replica) = (site.database().display().to_string(), site.replica().display().to_string());
    let key = if line == Line::V05 { "replica: " } else { "replicas: [" };
    let end = if line == Line::V05 { "" } else { "]" };
    let text = format!(
        "socket: {{enabled: true, path: {}}}\nlogging: {{level: debug}}\ndbs:\n  - path: {database}\n    {key}{{type: file, path: {replica}}}{end}\n",
        site.path("s").display()
    );
    let text = if line == Line::V05 { text } else { text.split_once('\n').unwrap().1.to_owned() };
    fs::write(site.path("own.yml"), text).unwrap();
    let recipe = talking(&site).without("DATABASE_PATH").without("LITESTREAM_REPLICA_URL").without("LITESTREAM_LOG_LEVEL");
    let recipe = recipe.env("LITESTREAM_CONFIG", site.path("own.yml")).behind(&["sh", "-c", "exec \"$@\" >&2", "sh"]);
    let (reader, writer) = pipe();
    drop(reader);
    let mut container = recipe.start_with_stderr(writer);
    container.ready();
    assert_goes_on(&site, container, "stdout");
}

fn a_stderr_that_was_full_from_the_start_stops_nothing(line: Line) {
    let (_reader, writer) = pipe();
    fill(&writer);
    let (_peer, socket) = UnixStream::pair().unwrap();
    fill(&socket);
    for (stderr, what) in [(writer, "a full pipe"), (socket.into(), "a full socket")] {
        let site = Site::new(line);
        let began = Instant::now();
        let mut container = talking(&site).start_with_stderr(stderr);
        container.ready();
        assert!(began.elapsed() < Duration::from_secs(9), "{what}: the app came after {:?}", began.elapsed());
        assert_goes_on(&site, container, what);
    }
}

fn a_stderr_that_takes_nothing_stops_nothing(line: Line) {
    let site = Site::new(line);
    let mut container = talking(&site).behind(&["sh", "-c", "exec \"$@\" 2>&-", "sh"]).start();
    container.ready();
    assert_goes_on(&site, container, "closed");
    let site = Site::new(line);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut container = talking(&site).start_with_stderr(full.into());
    container.ready();
    assert_goes_on(&site, container, "/dev/full");
    // A file at its size limit: the kernel raises SIGXFSZ at each write.
    let site = Site::new(line);
    let path = site.path("log");
    let log = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    log.set_len(64 << 20).unwrap();
    let mut container = talking(&site).behind(&["prlimit", "--fsize=67108864"]).start_with_stderr(log.into());
    container.ready();
    assert_goes_on(&site, container, "a file at its limit");
    assert_eq!(fs::metadata(&path).unwrap().len(), 64 << 20);
}

/// Nobody reads it, as where it was stopped (Ctrl-S), or its reader has gone.
fn a_terminal_that_takes_nothing_stops_nothing(line: Line) {
    for gone in [false, true] {
        let site = Site::new(line);
        let pty = openpty(None, None).unwrap();
        fill(&pty.slave);
        let mut container = talking(&site).start_with_stderr(pty.slave);
        container.ready();
        let master = (!gone).then_some(pty.master);
        assert_goes_on(&site, container, "a terminal");
        drop(master);
    }
}

fn what_is_dropped_is_counted_and_said(line: Line) {
    let site = Site::new(line);
    let (mut reader, writer) = pipe();
    fill(&writer);
    // More than is kept meanwhile.
    let talks = "[ \"$1\" = replicate ] && seq 20000 | sed 's/^/words of litestream /' >&2";
    let mut container = talking(&site).env("LITESTREAM_BIN", litestream_with(&site, talks)).start_with_stderr(writer);
    container.ready();
    eventually("a backup", PATIENCE, || when(site.backed_up() > 0));
    let mut said = Vec::new();
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    eventually("it is said that lines were dropped", PATIENCE, || {
        let _ = reader.read_to_end(&mut said);
        when(String::from_utf8_lossy(&said).contains(" lines were dropped"))
    });
    let text = String::from_utf8_lossy(&said).trim_start_matches('x').to_owned();
    assert_eq!(text.matches(" lines were dropped").count(), 1, "{text}");
    let reading = std::thread::spawn(move || {
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let _ = reader.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let code = container.stop();
    drop(container);
    let text = reading.join().unwrap();
    assert_eq!(code, 0, "{text}");
    site.assert_saved();
    assert_eq!(text.matches(" lines were dropped").count(), 1, "{text}");
}

/// The app says lines to the same pipe, all the time, and the reader is slow.
fn lines_arrive_whole_beside_the_apps(line: Line) {
    let site = Site::new(line);
    let (mut reader, writer) = pipe();
    let script = format!(
        "{} & while [ ! -e {} ]; do echo app-$$-{} >&2; done; kill $!; wait",
        site.writer("--every 500").iter().map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "),
        site.path("enough").display(),
        "y".repeat(700)
    );
    let mut container = site.recipe().env("LITESTREAM_LOG_LEVEL", "debug").shell(&script).start_with_stderr(writer);
    let reading = std::thread::spawn(move || {
        let (mut said, mut chunk) = (Vec::new(), [0; 1500]);
        while let Ok(n @ 1..) = reader.read(&mut chunk) {
            said.extend_from_slice(&chunk[..n]);
            if said.len() < 1 << 20 {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    container.ready();
    site.write_on(500);
    process::send(container.running_litestream().pid, Signal::SIGKILL);
    site.write_on(500);
    eventually("a backup", PATIENCE, || when(site.backed_up() > 0));
    fs::write(site.path("enough"), "").unwrap();
    assert_eq!(container.wait(PATIENCE), 0);
    drop(container);
    let said = reading.join().unwrap();
    let (mut apps, mut litestreams, mut ours) = (0, 0, 0);
    for line in said.lines() {
        if line.starts_with("app-") {
            assert!(line.ends_with(&"y".repeat(700)) && line.len() < 720, "{line:?}");
            apps += 1;
        } else if line.starts_with("litestream-entry: ") {
            ours += 1;
        } else {
            assert!(line.starts_with("time=") && !line.contains("app-") && line.matches("time=").count() == 1, "{line:?}");
            litestreams += 1;
        }
        assert!(line.matches("litestream-entry: ").count() <= 1, "{line:?}");
    }
    assert!(apps > 100 && litestreams > 10 && ours > 0, "{apps} {litestreams} {ours}");
}

/// A Litestream that does this before it becomes itself.
fn litestream_with(site: &Site, script: &str) -> std::path::PathBuf {
    let own = site.path("litestream");
    fs::write(&own, format!("#!/bin/sh\n{script}\nexec {} \"$@\"\n", site.line.binary().display())).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    own
}

/// Tens of thousands of lines a second, long lines among them: all arrive, nothing waits for them, and PID 1 is not busy.
fn a_flood_is_carried_and_starves_nothing(line: Line) {
    let site = Site::new(line);
    let flood = format!(
        "if [ \"$1\" = replicate ]; then (i=0; long=$(head -c 20000 /dev/zero | tr '\\0' z); while [ ! -e {} ]; do echo flood $i some words more; i=$((i+1)); [ $((i%1000)) = 0 ] && echo long $long end; done; echo counted $i) & fi",
        site.path("enough").display()
    );
    // Litestream's own lines would come in the middle of the long ones, which no pipe takes at once.
    let quiet = site.writing("--every 2000").env("LITESTREAM_LOG_LEVEL", "error");
    let mut container = quiet.env("LITESTREAM_BIN", litestream_with(&site, &flood)).start();
    container.ready();
    eventually("a backup", PATIENCE, || when(site.backed_up() > 0));
    let row = site.acknowledged();
    let began = Instant::now();
    eventually("newer rows in the backup", PATIENCE, || when(site.backed_up() > row));
    println!("{line:?}: newer rows after {:?}", began.elapsed());
    let output = container.exec(["health"]);
    assert!(output.status.success());
    fs::write(site.path("enough"), "").unwrap();
    eventually("the flood ends", PATIENCE, || when(container.stderr().contains("\ncounted ")));
    assert_eq!(container.stop(), 0, "{}", &container.stderr()[..2000]);
    site.assert_saved();
    let said = container.stderr();
    let counted: usize = said.lines().find_map(|l| l.strip_prefix("counted ")).unwrap().parse().unwrap();
    let arrived = said.lines().filter(|l| l.starts_with("flood ")).count();
    println!("{line:?}: {counted} lines, {arrived} arrived");
    assert_eq!(arrived, counted, "a file takes all");
    assert!(said.lines().filter(|l| l.starts_with("long ")).all(|l| l.ends_with(" end") && l.len() == 20009));
}

/// A Litestream that ends says why before we say that it has ended, also in a line without end.
fn the_last_words_come_before_ours(line: Line) {
    let site = Site::new(line);
    let gone = site.path("gone");
    let dies = format!(
        "if [ \"$1\" = replicate ] && [ ! -e {0} ]; then touch {0}; seq 2000 | sed 's/^/words /' >&2; printf 'last words' >&2; exit 3; fi",
        gone.display()
    );
    let mut container = site.writing("--every 2000").env("LITESTREAM_BIN", litestream_with(&site, &dies)).start();
    container.ready();
    eventually("a backup", PATIENCE, || when(site.backed_up() > 0));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    let said = container.stderr();
    let at = |text: &str| said.lines().position(|l| l.contains(text)).unwrap_or_else(|| panic!("no {text}: {said}"));
    assert_eq!(said.lines().filter(|l| *l == "last words").count(), 1, "{said}");
    assert!(at("words 2000") < at("last words") && at("last words") < at("litestream ended"), "{said}");
    site.assert_saved();
}

fn stderr_is_the_apps_alone_where_that_is_asked_for(line: Line) {
    let site = Site::new(line);
    let (log, old) = (site.path("entry.log"), site.path("entry.log.1"));
    for place in ["none".to_owned(), log.display().to_string()] {
        let writer = site.writer("--every 2000").iter().map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        let script = format!("echo out; echo err >&2; exec {writer}");
        let mut container = site.recipe().env("LITESTREAM_ENTRY_LOG", &place).env("LITESTREAM_ENTRY_DEBUG", "true").shell(&script).start();
        container.ready();
        eventually("a backup", PATIENCE, || when(site.backed_up() > 0));
        if place != "none" {
            // As logrotate does it.
            fs::rename(&log, &old).unwrap();
        }
        let first = container.running_litestream().pid;
        process::send(first, Signal::SIGKILL);
        eventually("another Litestream", PATIENCE, || when(container.litestream().is_some_and(|it| it.pid != first)));
        let row = site.acknowledged();
        eventually("newer rows in the backup", PATIENCE, || when(site.backed_up() > row));
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        assert_eq!((container.stderr().as_str(), container.stdout().as_slice()), ("err\n", &b"out\n"[..]), "{place}");
        site.assert_saved();
    }
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap();
    assert!(read(&old).contains("litestream-entry: default: ") && read(&old).contains("level=INFO"), "{}", read(&old));
    assert!(read(&log).contains("level=INFO"), "{}", read(&log));
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o027, 0, "others may not read it");
}

/// Whoever sees nothing but the exit code and stderr is told, once the app has no more use for it.
fn why_it_ends_is_on_stderr_wherever_the_log_is(line: Line) {
    for place in ["none", "./entry.log"] {
        let site = Site::new(line);
        let refused = site.recipe().env("LITESTREAM_ENTRY_LOG", place).env("LITESTREAM_ENTRY_RESTORE", "required").shell("echo ran");
        let (code, container) = refused.run();
        assert_eq!((code, container.stdout().as_slice()), (66, &b""[..]), "{}", container.stderr());
        assert!(container.stderr().contains("default: ") && !container.stderr().contains("level=INFO"), "{}", container.stderr());
        let wrong = site.recipe().env("LITESTREAM_ENTRY_LOG", place).env("LITESTREAM_BIN", "/no/such/litestream").shell("echo ran");
        let (code, container) = wrong.run();
        assert!(code == 78 && container.stderr().contains("/no/such/litestream"), "{code}: {}", container.stderr());
        // The app's own code stays, and what it does not say is said.
        let unsaved = site
            .recipe()
            .env("LITESTREAM_ENTRY_LOG", place)
            .env("LITESTREAM_REPLICA_URL", "s3://bucket/x?endpoint=http://127.0.0.1:9&region=us-east-1")
            .env("LITESTREAM_ACCESS_KEY_ID", "i")
            .env("LITESTREAM_SECRET_ACCESS_KEY", "s")
            .env("LITESTREAM_ENTRY_RESTORE", "never")
            .env("LITESTREAM_ENTRY_STOP_TIMEOUT", "2s")
            .shell(&format!("sqlite3 {} 'create table if not exists t(id)'; echo err >&2; exit 3", site.database().display()));
        let (code, container) = unsaved.run();
        assert_eq!(code, 3, "{}", container.stderr());
        let said = container.stderr();
        assert!(said.starts_with("err\n") && said.contains("NOT SAVED: default: ") && said.lines().count() <= 6, "{said}");
    }
}

fn a_log_that_cannot_be_is_refused(line: Line) {
    let site = Site::new(line);
    let (symlink, target, twin) = (site.path("link.log"), site.path("target"), site.path("twin.log"));
    fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, &symlink).unwrap();
    fs::hard_link(&target, &twin).unwrap();
    let paths = [symlink, twin, site.path(""), site.path("no/such/directory")].map(|path| path.display().to_string());
    for place in paths.into_iter().chain(["true".to_owned(), "stdout".to_owned()]) {
        let (code, container) = site.recipe().env("LITESTREAM_ENTRY_LOG", &place).shell("echo ran").run();
        assert_eq!((code, container.stdout().as_slice()), (78, &b""[..]), "{place}: {}", container.stderr());
        assert!(container.stderr().starts_with("litestream-entry: LITESTREAM_ENTRY_LOG: "), "{place}: {}", container.stderr());
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "");
}
