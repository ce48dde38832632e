//! Places that take nothing any more: a full or read-only volume, replica, runtime directory. What can be saved is saved, and what cannot is
//! said for what it is.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::container::Container;
use crate::support::contents::Contents;
use crate::support::process;
use crate::support::site::{Mounted, Site, fill_up, lose};
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    a_replica_that_takes_nothing_is_said_to_be_full_or_read_only if root,
    what_is_on_a_full_volume_at_the_stop_is_saved if root,
    what_is_on_a_volume_that_became_read_only_is_saved_at_the_stop if root,
    a_full_runtime_directory_costs_nothing_at_the_stop if root,
);

/// Each row is in the backup at the stop, and the next life on the same volume goes on where it was.
fn saved_and_gone_on_with(site: &Site, code: i32, container: &Container) {
    assert_eq!(code, 0, "{}", container.stderr());
    let _ = fs::remove_file(site.path("data/filler"));
    site.assert_saved();
    for _ in 0..2 {
        let mut container = site.writing("--every 2000").start();
        container.ready();
        site.write_on(200);
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        site.assert_saved();
    }
    let was = Contents::of(site.database());
    lose(site.database());
    let _ = fs::remove_dir_all(site.path("data/.app.db-litestream"));
    let (code, container) = site.recipe().shell("exit 0").run();
    assert_eq!(code, 0, "{}", container.stderr());
    assert_eq!(Contents::of(site.database()).difference(&was), None);
}

fn what_is_on_a_full_volume_at_the_stop_is_saved(line: Line) {
    let site = Site::new(line);
    // 0.3 keeps a copy of the WAL.
    let _disk = Mounted::new(site.path("data"), if line == Line::V05 { "8m" } else { "32m" });
    // Once the volume is full, the writer ends.
    let mut container = site.recipe().shell("\"$@\"; exit 0").arguments(["sh"]).arguments(site.writer("--every 2000")).start();
    container.ready();
    site.write_on(300);
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    fill_up(&site.path("data"));
    let filler = fs::File::options().write(true).open(site.path("data/filler")).unwrap();
    filler.set_len(filler.metadata().unwrap().len() - 100_000).unwrap();
    drop(filler);
    let code = container.wait(PATIENCE);
    saved_and_gone_on_with(&site, code, &container);
}

fn what_is_on_a_volume_that_became_read_only_is_saved_at_the_stop(line: Line) {
    // Without Litestream, the WAL is begun anew and written over.
    for (is_killed, more) in [(false, 100), (true, 4000)] {
        let site = Site::new(line);
        let mut container = site.writing("--every 500").start();
        container.ready();
        site.write_on(300);
        eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
        // Who has a file open goes on; nobody else can.
        let data = site.path("data").display().to_string();
        let script = format!("mount --bind '{data}' '{data}' && mount -o remount,bind,ro '{data}'");
        assert!(container.exec_program(["sh", "-c", &script]).wait().unwrap().success());
        if is_killed {
            process::send(container.running_litestream().pid, Signal::SIGKILL);
        }
        site.write_on(more);
        let code = container.stop();
        saved_and_gone_on_with(&site, code, &container);
    }
}

/// Not that it does not answer.
fn a_replica_that_takes_nothing_is_said_to_be_full_or_read_only(line: Line) {
    for (is_full, why) in [(true, "no space left on device"), (false, "read-only file system")] {
        let site = Site::new(line);
        let replica = site.replica();
        fs::create_dir(&replica).unwrap();
        let _disk = Mounted::new(replica.clone(), "8m");
        let mut container = site.writing("--every 2000").start();
        container.ready();
        eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
        if is_full {
            fill_up(&replica);
        } else {
            let replica = replica.display().to_string();
            let script = format!("mount --bind '{replica}' '{replica}' && mount -o remount,bind,ro '{replica}'");
            assert!(container.exec_program(["sh", "-c", &script]).wait().unwrap().success());
        }
        site.write_on(300);
        let code = container.stop();
        let said = container.stderr();
        let last = said.lines().last().unwrap_or_default();
        assert!(code == 74 && last.contains("NOT SAVED") && last.contains(why), "{code}: {said}");
        assert!(!last.contains("no reason given"), "{said}");
    }
}

/// In which a last pass has its configuration and what Litestream says.
fn a_full_runtime_directory_costs_nothing_at_the_stop(line: Line) {
    // Without Litestream, the last sync is a pass on both lines; without /proc, it is handed nothing by a number.
    for (is_killed, words) in [(false, ""), (true, ""), (true, "mount -t tmpfs none /proc;")] {
        let site = Site::new(line);
        fs::create_dir(site.path("run")).unwrap();
        let _disk = Mounted::new(site.path("run"), "1m");
        let temporary = site.path("tmp");
        fs::create_dir(&temporary).unwrap();
        let recipe = site.writing("--every 2000").env("TMPDIR", &temporary);
        let mut container = recipe.behind(&["sh", "-c", &format!("{words} exec \"$@\""), "sh"]).start();
        container.ready();
        eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
        fill_up(&site.path("run"));
        site.write_on(300);
        if is_killed {
            process::send(container.running_litestream().pid, Signal::SIGKILL);
        }
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        site.assert_saved();
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "a file with keys is left");
    }
}
