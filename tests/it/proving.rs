//! Backups that are proved on a schedule, and begun anew where they differ, beside the running app.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::container::{Container, said};
use crate::support::contents::Contents;
use crate::support::process;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    a_backup_that_differs_is_begun_anew_on_schedule_and_said,
    resnapshot_makes_a_backup_whole_while_the_app_runs,
    resnapshot_makes_a_backup_whole_whose_newest_snapshot_is_damaged,
    a_backup_that_cannot_be_restored_is_begun_anew_on_schedule,
    resnapshot_without_a_running_boot_says_so,
    a_scheduled_check_leaves_nothing_behind_at_the_end,
    a_scheduled_check_that_fails_is_said_and_unhealthy,
    who_is_to_know_is_told_what_is_wrong_and_hears_a_beat_while_all_is_proved,
    a_url_that_nobody_answers_harms_nothing,
);

const MARKER: &[u8; 24] = b"a-row-of-the-apps-and-us";

/// A kept volume with a table whose one row is in the database's file itself.
fn kept_volume(line: Line) -> Site {
    let site = Site::new(line);
    let mut first = site.writing("--every 1000 --rows 300").start();
    first.ready();
    eventually("its rows", PATIENCE, || when(site.acknowledged() == 300));
    let connection = rusqlite::Connection::open(site.database()).expect("the database");
    connection.busy_timeout(PATIENCE).expect("patience");
    let row = format!("CREATE TABLE extra(x TEXT); INSERT INTO extra VALUES('{}')", String::from_utf8_lossy(MARKER));
    connection.execute_batch(&row).expect("a row");
    drop(connection);
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    // The last to close has written everything into the file.
    drop(rusqlite::Connection::open(site.database()).map(|c| c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))));
    let _ = fs::remove_file(site.ready_file());
    site
}

/// Changes the first byte of that row behind everybody's back, so that the backup has another one. Litestream's own next snapshot
/// may take it as it is then: it is changed again until `differs`, and what it is now is the answer.
#[track_caller]
fn change_a_byte(database: &Path, differs: impl Fn() -> bool) -> char {
    let tail = &MARKER[1..];
    for letter in b'A'..b'F' {
        let bytes = fs::read(database).expect("the database");
        let at = bytes.windows(tail.len()).position(|w| w == tail).expect("the row") - 1;
        let file = File::options().write(true).open(database).expect("the database");
        file.write_all_at(&[letter], u64::try_from(at).expect("an offset")).expect("a byte");
        if differs() {
            return char::from(letter);
        }
    }
    panic!("the backup has every change");
}

/// What the newest backup has in that row.
#[track_caller]
fn backed_up_row(site: &Site) -> String {
    let (output, _scratch, copy) = site.try_restore(site.database());
    assert!(output.status.success(), "{}", said(&output));
    let connection = rusqlite::Connection::open(copy).expect("the copy");
    connection.query_row("SELECT x FROM extra", [], |row| row.get(0)).expect("the row")
}

fn started(site: &Site, variables: &[(&str, &str)]) -> Container {
    let mut recipe = site.writing("--every 20000");
    for (name, value) in variables {
        recipe = recipe.env(name, value);
    }
    let mut container = recipe.start();
    container.ready();
    container
}

fn a_backup_that_differs_is_begun_anew_on_schedule_and_said(line: Line) {
    let site = kept_volume(line);
    let mut container = started(&site, &[("LITESTREAM_ENTRY_VERIFY_INTERVAL", "2s")]);
    eventually("the first check", PATIENCE, || when(container.stderr().contains("default: verified in ")));
    let checks = || container.stderr().matches("default: verified in ").count();
    let letter = change_a_byte(site.database(), || {
        let before = checks();
        eventually("two checks, or one that fails", PATIENCE, || when(checks() >= before + 2 || container.stderr().contains("NOT PROVED")));
        container.stderr().contains("NOT PROVED")
    });
    eventually("it is made whole", PATIENCE, || {
        when(container.stderr().contains("default: a new snapshot has made the backup whole again, verified in "))
    });
    let told = container.stderr();
    assert!(told.contains("NOT PROVED: the backup differs: ") && told.contains("table extra: 1 row changed"), "{told}");
    assert!(backed_up_row(&site).starts_with(letter));
    let shown = container.exec(["status", "--json"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("has made the backup whole again") && shown.contains("\"ok\":true"), "{shown}");
    eventually("all is well", PATIENCE, || when(container.exec(["health"]).status.success()));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert!(backed_up_row(&site).starts_with(letter));
}

fn resnapshot_makes_a_backup_whole_while_the_app_runs(line: Line) {
    let site = kept_volume(line);
    let mut container = started(&site, &[]);
    assert!(container.exec(["verify", "default"]).status.success());
    let letter = change_a_byte(site.database(), || {
        let verified = container.exec(["verify", "default"]);
        let differs = said(&verified).contains("table extra: 1 row changed; ");
        assert_eq!(verified.status.code(), Some(if differs { 65 } else { 0 }), "{}", said(&verified));
        differs
    });
    assert!(!backed_up_row(&site).starts_with(letter));
    let app = container.app().pid;
    let made = container.exec(["resnapshot", "default"]);
    assert!(made.status.success(), "{}", said(&made));
    assert!(String::from_utf8_lossy(&made.stdout).contains("default: a new snapshot is in "), "{}", said(&made));
    assert!(backed_up_row(&site).starts_with(letter));
    assert_eq!(container.app().pid, app, "the app has not noticed");
    assert!(container.exec(["verify", "default"]).status.success());
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert!(backed_up_row(&site).starts_with(letter));
}

/// Cuts the newest snapshot in the middle, and waits for it where there is none yet.
fn damage_the_newest_snapshot(site: &Site) {
    let place = if site.line == Line::V05 { "/ltx/9/" } else { "/snapshots/" };
    let snapshots = || {
        let (mut files, mut folders) = (Vec::new(), vec![site.replica()]);
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files.retain(|f| f.display().to_string().contains(place) && f.extension().is_none_or(|e| e != "tmp"));
        files.sort_by_key(|f| fs::metadata(f).unwrap().modified().unwrap());
        files
    };
    let newest = eventually("a snapshot", PATIENCE, || snapshots().pop());
    let bytes = fs::read(&newest).unwrap();
    fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    assert!(!site.try_restore(site.database()).0.status.success(), "it is damaged");
}

fn resnapshot_makes_a_backup_whole_whose_newest_snapshot_is_damaged(line: Line) {
    let site = kept_volume(line);
    let mut container = started(&site, &[]);
    damage_the_newest_snapshot(&site);
    let made = container.exec(["resnapshot", "default"]);
    assert!(made.status.success(), "{}", said(&made));
    assert!(container.exec(["verify", "default"]).status.success());
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert_eq!(Contents::of(site.database()).difference(&site.backup_of(site.database())), None);
}

fn a_backup_that_cannot_be_restored_is_begun_anew_on_schedule(line: Line) {
    let site = kept_volume(line);
    let mut container = started(&site, &[("LITESTREAM_ENTRY_VERIFY_INTERVAL", "2s")]);
    eventually("the first check", PATIENCE, || when(container.stderr().contains("default: verified in ")));
    damage_the_newest_snapshot(&site);
    eventually("it is made whole", PATIENCE, || {
        when(container.stderr().contains("default: a new snapshot has made the backup whole again"))
    });
    assert!(container.stderr().contains("NOT PROVED: the backup is damaged"), "{}", container.stderr());
    eventually("all is well", PATIENCE, || when(container.exec(["health"]).status.success()));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert!(site.try_restore(site.database()).0.status.success());
}

fn resnapshot_without_a_running_boot_says_so(line: Line) {
    let site = Site::new(line);
    let (code, alone) = site.recipe().arguments(["resnapshot", "default"]).run();
    assert_eq!(code, 71, "{}", alone.stderr());
    assert!(alone.stderr().contains("no litestream-entry runs here"), "{}", alone.stderr());
}

fn a_scheduled_check_leaves_nothing_behind_at_the_end(line: Line) {
    let site = Site::new(line);
    for trial in 0..4 {
        let _ = fs::remove_file(site.ready_file());
        let mut container = started(&site, &[("LITESTREAM_ENTRY_VERIFY_INTERVAL", "1s")]);
        let scratch = || {
            let names = fs::read_dir(site.path("data")).expect("the volume").flatten();
            names.map(|e| e.file_name().to_string_lossy().into_owned()).find(|n| n.contains("-verify-"))
        };
        eventually("the middle of a check", PATIENCE, scratch);
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        assert_eq!(scratch(), None, "trial {trial}");
        assert!(!container.stderr().contains("NOT PROVED"), "{}", container.stderr());
    }
    site.assert_saved();
}

fn a_scheduled_check_that_fails_is_said_and_unhealthy(line: Line) {
    let site = Site::new(line);
    let mut container = started(&site, &[("LITESTREAM_ENTRY_VERIFY_INTERVAL", "1s")]);
    eventually("the first check", PATIENCE, || when(container.stderr().contains("default: verified in ")));
    process::send(container.running_litestream().pid, Signal::SIGSTOP);
    // A file where a directory has to be: nobody can read or write below it, not even root.
    fs::rename(site.replica(), site.path("away")).expect("the replica moves away");
    fs::write(site.replica(), "").expect("a file in its place");
    let said = eventually("it is said", crate::support::PATIENCE * 4, || {
        let output = container.exec(["health"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        when(text.contains("default: verify failed ")).map(|()| text)
    });
    assert!(container.stderr().contains("default: NOT PROVED: "), "{said}");
    container.kill();
}

/// A server that takes a call and answers it, or hangs; what it was asked, as it comes.
fn called() -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = vec![0; 64 * 1024];
            let (mut length, mut text) = (0, String::new());
            // A body comes after its head, perhaps by itself.
            while !text.contains("\r\n\r\n") || (text.starts_with("POST") && !text.ends_with('}')) {
                match stream.read(&mut bytes[length..]) {
                    Ok(n @ 1..) => length += n,
                    _ => break,
                }
                text = String::from_utf8_lossy(&bytes[..length]).into_owned();
            }
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            let _ = sender.send(text);
        }
    });
    (port, receiver)
}

fn who_is_to_know_is_told_what_is_wrong_and_hears_a_beat_while_all_is_proved(line: Line) {
    let site = kept_volume(line);
    let (port, calls) = called();
    let (alert, beat) = (format!("http://127.0.0.1:{port}/alert/s3cret"), format!("http://127.0.0.1:{port}/beat/s3cret"));
    let variables = [
        ("LITESTREAM_ENTRY_VERIFY_INTERVAL", "1s"),
        ("LITESTREAM_ENTRY_ALERT_URL", alert.as_str()),
        ("LITESTREAM_ENTRY_HEARTBEAT_URL", beat.as_str()),
    ];
    let mut container = started(&site, &variables);
    let next = || calls.recv_timeout(PATIENCE).expect("a call");
    assert!(next().starts_with("GET /beat/s3cret HTTP/1.1\r\n"));
    let told = RefCell::new(String::new());
    change_a_byte(site.database(), || {
        *told.borrow_mut() = (0..3).map(|_| next()).find(|call| call.starts_with("POST ")).unwrap_or_default();
        !told.borrow().is_empty()
    });
    let told = told.into_inner();
    let body = told.split_once("\r\n\r\n").expect("a body").1;
    let json: serde_yaml::Value = serde_yaml::from_str(body).expect("JSON is YAML too");
    assert_eq!((json["database"].as_str(), json["state"].as_str()), (Some("default"), Some("different")), "{body}");
    assert!(json["text"].as_str().is_some_and(|text| text.contains("table extra: 1 row changed")), "{body}");
    let whole = next();
    assert!(whole.starts_with("POST ") && whole.contains("\"state\":\"ok\"") && whole.contains("made the backup whole again"), "{whole}");
    assert!(next().starts_with("GET /beat/"), "all is proved again");
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert!(!container.stderr().contains("s3cret"), "{}", container.stderr());
}

fn a_url_that_nobody_answers_harms_nothing(line: Line) {
    let site = Site::new(line);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let beat = format!("http://127.0.0.1:{}/beat", silent.local_addr().expect("its address").port());
    let mut container = started(&site, &[("LITESTREAM_ENTRY_VERIFY_INTERVAL", "1s"), ("LITESTREAM_ENTRY_HEARTBEAT_URL", &beat)]);
    let said = "LITESTREAM_ENTRY_HEARTBEAT_URL: http://127.0.0.1: no answer within 10 s";
    eventually("it is said", PATIENCE, || when(container.stderr().contains(said)));
    eventually("another check", PATIENCE, || when(container.stderr().matches("default: verified in ").count() >= 2));
    // In the middle of a call that takes ten seconds.
    let began = std::time::Instant::now();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    println!("{line:?}: ended after {:?}", began.elapsed());
    site.assert_saved();
}
