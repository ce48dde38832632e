//! Every release of Litestream 0.5 that people pin: nothing is lost, and nothing is said that is not so, whatever it lacks.

use std::fs;
use std::process::Command;

use litestream_entry::litestream::{Ability, Version};
use serde_yaml::Value;

use crate::support::container::{Container, said};
use crate::support::s3::Server;
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, tool, when};

only_0_5!(
    a_release_without_a_status_of_its_syncs_is_not_taken_for_one_that_hangs,
    an_update_of_the_image_keeps_every_row_and_one_that_cannot_go_back_says_so,
    a_backup_that_only_a_later_release_can_read_is_refused_as_that,
);

/// The oldest that is in the registry, the first without gaps of its own, and each that brought something that is used.
macro_rules! releases {
    ($($name:ident: $release:literal,)+) => {
        $(mod $name {
            #[test] fn saves_restores_and_proves_in_a_folder() { super::saves_restores_and_proves(super::Site::new(super::Line::V05), $release); }
            #[test] fn saves_restores_and_proves_in_a_bucket() { super::in_a_bucket($release); }
        })+
    };
}

releases! {
    r0_5_5: "0.5.5",
    r0_5_6: "0.5.6",
    r0_5_8: "0.5.8",
    r0_5_9: "0.5.9",
    r0_5_12: "0.5.12",
    r0_5_17: "0.5.17",
}

fn writing(site: &Site) -> Container {
    let _ = fs::remove_file(site.ready_file());
    let mut container = site.writing("--every 2000").start();
    container.ready();
    site.write_on(300);
    container
}

fn in_a_bucket(release: &str) {
    let Some(server) = Server::start() else { return };
    saves_restores_and_proves(Site::new(Line::V05).in_bucket_of(&server, release), release);
}

fn saves_restores_and_proves(site: Site, release: &str) {
    let site = site.of_release(release);
    let mut first = writing(&site);
    let status = said(&first.exec(["status"]));
    assert!(!status.contains("UNREACHABLE"), "{status}");
    eventually("how far the replica is behind is known", PATIENCE, || {
        let told: Value = serde_yaml::from_slice(&first.exec(["status", "--json"]).stdout).ok()?;
        let database = &told["databases"][0];
        when(database["lag_seconds"].as_f64().is_some_and(|lag| lag < 5.0) && !database["last_sync"].is_null())
    });
    assert_eq!(first.exec(["health"]).status.code(), Some(0));
    let verified = first.exec(["verify", "default"]);
    assert!(verified.status.success(), "{}", said(&verified));
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    site.assert_saved();
    // A life that is killed, and the next on the same volume.
    writing(&site).kill();
    let mut next = writing(&site);
    assert_eq!(next.stop(), 0, "{}", next.stderr());
    site.assert_saved();
    // The volume is lost, and right after the restore the container is killed.
    lose(site.database());
    let mut restored = writing(&site);
    assert!(restored.stderr().contains("default: restored"), "{}", restored.stderr());
    restored.kill();
    let mut last = writing(&site);
    let again = last.exec(["resnapshot", "default"]);
    assert!(again.status.success(), "{}", said(&again));
    assert_eq!(last.stop(), 0, "{}", last.stderr());
    site.assert_saved();
    for told in [first.stderr(), next.stderr(), last.stderr()] {
        assert!(!told.contains("NOT SAVED") && !told.contains("hangs"), "{told}");
    }
}

fn a_release_without_a_status_of_its_syncs_is_not_taken_for_one_that_hangs(line: Line) {
    let site = Site::new(line).of_release("0.5.9");
    let mut container = writing(&site);
    let litestream = container.running_litestream().pid;
    // PID 1 looks every 20 s, and once more 2 s after it has found one that hangs; each look notes the lag.
    let looked = || fs::read_dir(site.path("run")).unwrap().filter_map(|e| e.ok()?.metadata().ok()?.modified().ok()).max();
    let began = looked();
    eventually("it was looked at", PATIENCE, || when(looked() > began));
    let first = looked();
    eventually("and again", PATIENCE, || when(looked() > first));
    assert_eq!(container.running_litestream().pid, litestream);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert!(!container.stderr().contains("hangs"), "{}", container.stderr());
}

fn an_update_of_the_image_keeps_every_row_and_one_that_cannot_go_back_says_so(line: Line) {
    let mut site = Site::new(line);
    for release in ["0.5.5", "0.5.6", "0.5.9", "0.5.17"] {
        site = site.of_release(release);
        let mut container = writing(&site);
        assert_eq!(container.stop(), 0, "{release}: {}", container.stderr());
        site.assert_saved();
        writing(&site).kill();
    }
    let mut last = writing(&site);
    assert_eq!(last.stop(), 0, "{}", last.stderr());
    site.assert_saved();
    // The files of later releases have a flag that 0.5.6 does not know.
    site = site.of_release("0.5.6");
    let mut back = writing(&site);
    assert_eq!(back.stop(), 74, "{}", back.stderr());
    assert!(back.stderr().contains("NOT SAVED") && back.stderr().contains("NOTHING IS REPLICATED"), "{}", back.stderr());
    // Nothing is lost by that: the later release goes on.
    site = site.of_release("0.5.17");
    let mut again = writing(&site);
    assert_eq!(again.stop(), 0, "{}", again.stderr());
    site.assert_saved();
}

/// A whole backup of a later release is not taken for a damaged one, and no older point of it is gone back to.
fn a_backup_that_only_a_later_release_can_read_is_refused_as_that(line: Line) {
    let mut site = Site::new(line).of_release("0.5.17");
    assert_eq!(writing(&site).stop(), 0);
    lose(site.database());
    site = site.of_release("0.5.12");
    let (code, refused) = site.writing("").env("LITESTREAM_ENTRY_RESTORE_LADDER", "true").run();
    let told = refused.stderr();
    assert_eq!(code, 69, "{told}");
    assert!(told.contains("0.5.16 or later") && !told.contains("damaged") && !site.database().exists(), "{told}");
    site = site.of_release("0.5.17");
    let mut again = writing(&site);
    assert_eq!(again.stop(), 0, "{}", again.stderr());
    site.assert_saved();
}

/// 0.5.5 and 0.5.6 do not see a backup of 0.3's: no empty database is begun beside it.
#[test]
fn a_backup_of_0_3_is_restored_or_seen_and_never_begun_over() {
    let mut site = Site::new(Line::V03);
    assert_eq!(writing(&site).stop(), 0);
    lose(site.database());
    site.line = Line::V05;
    site = site.of_release("0.5.6");
    let (code, refused) = site.writing("").run();
    assert_eq!(code, 66, "{}", refused.stderr());
    assert!(refused.stderr().contains("0.5.7 or later") && !site.database().exists(), "{}", refused.stderr());
    site = site.of_release("0.5.8");
    let mut restored = writing(&site);
    assert_eq!(restored.stop(), 0, "{}", restored.stderr());
    site.assert_saved();
}

/// The table in `src/litestream/line.rs`, by what each says of itself. The endpoints of its socket are in the tests above.
#[test]
fn what_a_release_can_is_what_its_help_says() {
    for release in ["0.5.5", "0.5.6", "0.5.8", "0.5.9", "0.5.12", "0.5.17"] {
        let version: Version = release.parse().unwrap();
        let has = |command: &str, flag: &str| {
            let output = Command::new(tool(&format!("litestream-{release}/litestream"))).args([command, "-help"]).output().unwrap();
            said(&output).lines().any(|line| line.split_whitespace().next() == Some(flag))
        };
        for (ability, command, flag) in [
            (Ability::Once, "replicate", "-once"),
            (Ability::Once, "replicate", "-force-snapshot"),
            (Ability::Socket, "list", "-socket"),
            (Ability::Socket, "ltx", "-level"),
            (Ability::Sync, "sync", "-socket"),
            (Ability::Status, "restore", "-json"),
            (Ability::Status, "restore", "-dry-run"),
        ] {
            assert_eq!(has(command, flag), version.can(ability), "{release}: {command} {flag}");
        }
    }
}
