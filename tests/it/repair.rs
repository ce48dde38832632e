//! What operators do to a backup that is damaged, or to a database that is odd: whatever they choose, replication is whole after it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::support::container::{Recipe, said};
use crate::support::contents::Contents;
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, entry, eventually, namespaces, process, when};

both_lines!(
    the_ladder_goes_down_many_steps,
    going_back_beside_a_damaged_newest_file_leaves_a_whole_backup,
    a_ladder_of_the_operators_leaves_a_whole_backup,
    a_crash_after_the_ladder_does_not_forget_the_snapshot_that_is_owed,
    a_database_with_a_meta_path_is_not_refused_after_a_crash,
    a_symbolic_link_is_refused_with_what_it_leads_to,
    flags_that_cannot_be_are_mistakes_of_the_command,
    a_snapshot_that_is_ahead_of_its_transactions_is_not_gone_back_to,
);

only_0_5!(a_reset_after_a_crash_does_not_make_a_stranger_of_it, odd_names_in_a_directory_are_said_to_be_lost,);

only_0_3!(
    a_crash_in_the_middle_of_a_resnapshot_of_0_3_is_no_reason_to_refuse,
    a_crash_while_0_3_begins_a_generation_is_no_reason_to_refuse,
    a_generation_that_0_3_only_began_is_passed_over_for_the_one_before,
);

/// A backup of many parts, written over seconds, the newest five of one life; what the database was.
fn backed_up(line: Line) -> (Site, Contents) {
    let site = Site::new(line);
    for life in 0..3 {
        let before = parts(&site).len();
        let mut container = site.writing("--every 2000").start();
        container.ready();
        site.write_on(900);
        while life == 2 && parts(&site).len() < before + 5 {
            site.write_on(300);
        }
        if line == Line::V03 && life == 2 {
            // A stop would end with a snapshot.
            let rows = site.acknowledged();
            eventually("the rows are in the backup", PATIENCE, || when(site.backed_up() >= rows));
            container.kill();
        } else {
            assert_eq!(container.stop(), 0, "{}", container.stderr());
        }
    }
    let contents = Contents::of(site.database());
    (site, contents)
}

/// Files with rows, the oldest first.
fn parts(site: &Site) -> Vec<PathBuf> {
    let place = if site.line == Line::V05 { "/ltx/0/" } else { "/wal/" };
    let (mut files, mut folders) = (Vec::new(), vec![site.replica()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path()) {
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.retain(|f| f.display().to_string().contains(place) && fs::metadata(f).is_ok_and(|about| about.len() > 5000));
    files.sort_by_key(|f| fs::metadata(f).and_then(|about| about.modified()).unwrap_or(std::time::UNIX_EPOCH));
    files
}

/// Cuts it in half; its time stays, as that of an object in a bucket would.
fn damage(file: &Path) {
    let (bytes, modified) = (fs::read(file).unwrap(), fs::metadata(file).unwrap().modified().unwrap());
    fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    fs::File::options().write(true).open(file).unwrap().set_modified(modified).unwrap();
}

/// Two compacted levels have it again on 0.5, and so may a snapshot, which comes two seconds after a life's start or not at all:
/// without them it is the only one.
fn only_level_0(site: &Site) {
    for level in 1..=9 {
        let _ = fs::remove_dir_all(site.replica().join(format!("ltx/{level}")));
    }
}

fn ladder(site: &Site) -> Recipe {
    site.recipe().env("LITESTREAM_ENTRY_RESTORE_LADDER", "true")
}

/// A life of the writer, after which the backup is the database.
#[track_caller]
fn goes_on(site: &Site, recipe: Recipe) -> String {
    let _ = fs::remove_file(site.path("ack"));
    let mut container = recipe.app(site.writer("--every 1000")).start();
    container.ready();
    site.write_on(200);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
    container.stderr()
}

fn the_ladder_goes_down_many_steps(line: Line) {
    let (site, all) = backed_up(line);
    only_level_0(&site);
    let parts = parts(&site);
    assert!(parts.len() >= 5, "{parts:?}");
    damage(&parts[parts.len() - 4]);
    lose(site.database());
    let said = goes_on(&site, ladder(&site));
    assert!(said.contains("AS OF 20"), "{said}");
    // Neither the beginning nor the end: what came before the damage is back.
    let here = Contents::of(site.database()).last();
    assert!(here > 200 && here < all.last() + 200, "{here} of {}", all.last());
    lose(site.database());
    goes_on(&site, site.recipe());
}

fn going_back_beside_a_damaged_newest_file_leaves_a_whole_backup(line: Line) {
    let (site, _) = backed_up(line);
    only_level_0(&site);
    let parts = parts(&site);
    let at = fs::metadata(&parts[parts.len() - 3]).unwrap().modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let at = std::process::Command::new("date").args(["-u", &format!("-d@{at}"), "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap().stdout;
    let at = String::from_utf8(at).unwrap().trim().to_owned();
    damage(parts.last().unwrap());
    // By hand with the database lost, and then by variable on what came of that.
    lose(site.database());
    let (code, restored) = site.recipe().arguments(["restore", "-timestamp", &at, "default"]).run();
    assert_eq!(code, 0, "{}", restored.stderr());
    goes_on(&site, site.recipe());
    let said = goes_on(&site, site.recipe().env("LITESTREAM_ENTRY_RESTORE_TIMESTAMP", &at));
    assert!(said.contains("the newest point at or before"), "{said}");
    lose(site.database());
    goes_on(&site, site.recipe());
}

fn a_ladder_of_the_operators_leaves_a_whole_backup(line: Line) {
    let (site, _) = backed_up(line);
    only_level_0(&site);
    let parts = parts(&site);
    damage(&parts[parts.len() - 2]);
    lose(site.database());
    let (code, restored) = ladder(&site).arguments(["restore", "default"]).run();
    assert_eq!(code, 0, "{}", restored.stderr());
    goes_on(&site, site.recipe());
    lose(site.database());
    goes_on(&site, site.recipe());
}

fn a_crash_after_the_ladder_does_not_forget_the_snapshot_that_is_owed(line: Line) {
    let (site, _) = backed_up(line);
    only_level_0(&site);
    let parts = parts(&site);
    damage(&parts[parts.len() - 2]);
    lose(site.database());
    let _ = fs::remove_file(site.path("ack"));
    let mut container = ladder(&site).app(site.writer("--every 1000")).start();
    eventually("it is in its place", PATIENCE, || when(site.database().exists()));
    container.kill();
    goes_on(&site, site.recipe());
    lose(site.database());
    goes_on(&site, site.recipe());
}

fn a_database_with_a_meta_path_is_not_refused_after_a_crash(line: Line) {
    let site = Site::new(line);
    let meta = |recipe: Recipe| recipe.env("LITESTREAM_META_PATH", site.path("meta"));
    for _ in 0..2 {
        let mut container = meta(site.writing("--every 1000")).start();
        container.ready();
        site.write_on(300);
        eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
        container.kill();
    }
    goes_on(&site, meta(site.recipe()));
}

fn a_symbolic_link_is_refused_with_what_it_leads_to(line: Line) {
    let site = Site::new(line);
    std::os::unix::fs::symlink("../elsewhere/real.db", site.database()).unwrap();
    let (code, refused) = site.recipe().app(["true"]).run();
    assert!(code == 78 && refused.stderr().contains("elsewhere/real.db instead"), "{code}: {}", refused.stderr());
}

fn flags_that_cannot_be_are_mistakes_of_the_command(line: Line) {
    let site = Site::new(line);
    let lacking = if line == Line::V05 { ["-generation", "abc"] } else { ["-txid", "000000000000002a"] };
    for flags in [
        &lacking[..],
        &["-timestamp", "yesterday"],
        &["-txid", "zz"],
        &["-timestamp", "2026-01-01T00:00:00Z", "-txid", "000000000000002a"],
        &["-parallelism", "x"],
        &["-o", ""],
    ] {
        let (code, refused) = site.recipe().arguments(["restore"].iter().chain(flags).chain(&["default"])).run();
        assert_eq!(code, 64, "{flags:?}: {}", refused.stderr());
        assert!(!refused.stderr().contains("trying again"), "{}", refused.stderr());
    }
}

/// Litestream's own `reset` after a crash: where the database stood is not forgotten.
fn a_reset_after_a_crash_does_not_make_a_stranger_of_it(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 1000").start();
    container.ready();
    site.write_on(300);
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    site.write_on(100);
    container.kill();
    let (code, reset) = site.recipe().arguments(["reset", "default"]).run();
    assert_eq!(code, 0, "{}", reset.stderr());
    goes_on(&site, site.recipe());
}

/// Names that Litestream takes and cannot replicate are named.
fn odd_names_in_a_directory_are_said_to_be_lost(line: Line) {
    use std::os::unix::ffi::OsStrExt;
    let site = Site::new(line).with_databases(&["ok.db"]);
    let directory = site.path("data");
    let recipe = || site.writing("--every 3000").without("DATABASE_PATH").env("LITESTREAM_DB_DIR", &directory);
    let mut container = recipe().start();
    container.ready();
    site.write_on(50);
    fs::copy(site.database(), directory.join("what?.db")).unwrap();
    eventually("it is named", PATIENCE, || when(container.stderr().contains("what?.db: its name has a character")));
    let verified = container.exec(["verify", "ok"]);
    assert!(verified.status.success(), "{}", said(&verified));
    container.stop();
    fs::rename(directory.join("what?.db"), directory.join(std::ffi::OsStr::from_bytes(b"bad\xff.db"))).unwrap();
    let mut container = recipe().start();
    eventually("it is named", PATIENCE, || when(container.stderr().contains("its name is not UTF-8")));
    container.stop();
}

/// A host that dies in the second after a snapshot leaves one that is ahead of the transactions' own files, after which Litestream
/// goes on counting: what the next host writes under the same numbers would be passed over by each restore.
fn a_snapshot_that_is_ahead_of_its_transactions_is_not_gone_back_to(line: Line) {
    if !namespaces() || line == Line::V03 {
        return;
    }
    for (by_hand, forgotten) in [(false, false), (true, false), (true, true)] {
        let site = Site::new(line);
        let mut container = site.writing("--every 2000").start();
        container.ready();
        site.write_on(900);
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        let (code, pass) = site.recipe().arguments(["replicate", "-once", "-force-snapshot"]).run();
        assert_eq!(code, 0, "{}", pass.stderr());
        let level_0 = || -> Vec<PathBuf> {
            let mut files: Vec<_> = fs::read_dir(site.replica().join("ltx/0")).unwrap().map(|e| e.unwrap().path()).collect();
            files.sort();
            files
        };
        for file in level_0().iter().rev().take(2) {
            fs::remove_file(file).unwrap();
        }
        lose(site.database());
        let _ = fs::remove_dir_all(site.path("data/.app.db-litestream"));
        if by_hand {
            let (code, restored) = site.recipe().arguments(["restore", "default"]).run();
            assert_eq!(code, 0, "{}", restored.stderr());
        }
        if forgotten {
            // As an older release leaves it, or one that is killed just then.
            let _ = fs::remove_dir_all(site.path("data/.app.db-litestream"));
        }
        goes_on(&site, site.recipe());
        lose(site.database());
        goes_on(&site, site.recipe());
        // As an older release leaves what took the place of all that was there.
        fs::write(site.path("data/.app.db-litestream-entry"), "restored ffffffffffffffff\n").unwrap();
        let _ = fs::remove_dir_all(site.path("data/.app.db-litestream"));
        goes_on(&site, site.recipe());
    }
}

fn a_crash_in_the_middle_of_a_resnapshot_of_0_3_is_no_reason_to_refuse(line: Line) {
    let (site, _) = backed_up(line);
    let mut container = site.writing("--every 2000").start();
    container.ready();
    site.write_on(100);
    // The pointer to the generation goes, and nobody makes another.
    process::send(container.running_litestream().pid, Signal::SIGSTOP);
    let mut asked = container.exec_program([entry().into_os_string(), "resnapshot".into(), "default".into()]);
    eventually("the pointer is gone", PATIENCE, || when(!site.path("data/.app.db-litestream/generation").exists()));
    container.kill();
    let _ = asked.wait();
    let said = goes_on(&site, site.recipe());
    assert!(!said.contains("comparing it"), "{said}");
}

/// 0.3 takes its pointer away itself where its copy of the WAL does not fit any more, and may be killed before it has made another.
fn a_crash_while_0_3_begins_a_generation_is_no_reason_to_refuse(line: Line) {
    let (site, _) = backed_up(line);
    let mut container = site.writing("--every 2000").start();
    container.ready();
    site.write_on(100);
    container.kill();
    fs::remove_file(site.path("data/.app.db-litestream/generation")).unwrap();
    let said = goes_on(&site, site.recipe());
    assert!(!said.contains("comparing it"), "{said}");
}

/// What 0.3 leaves that is killed between the snapshot of a new generation and the first part of its WAL: a copy of a file that was being written.
fn a_generation_that_0_3_only_began_is_passed_over_for_the_one_before(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 2000").start();
    container.ready();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    let torn = fs::read(site.database()).unwrap();
    let (torn, _) = torn.split_at(torn.len() / 2);
    let snapshots = site.replica().join("generations/00000000000000aa/snapshots");
    fs::create_dir_all(&snapshots).unwrap();
    // An LZ4 frame of one block that is not compressed, of 4 MB at the most, without checksums.
    let length = u32::try_from(torn.len()).unwrap();
    let frame = [&[0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73], &(length | 1 << 31).to_le_bytes()[..], torn, &[0; 4]].concat();
    fs::write(snapshots.join("00000000.snapshot.lz4"), frame).unwrap();
    lose(site.database());
    let mut container = site.writing("--every 2000").start();
    container.ready();
    assert!(container.stderr().contains("of 00000000000000aa there is a snapshot alone"), "{}", container.stderr());
    // Before a generation of its own is in the replica.
    process::send(container.running_litestream().pid, Signal::SIGSTOP);
    container.kill();
    let mut container = site.writing("--every 2000").start();
    container.ready();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}
