//! The backup is the database, row for row, at every stop; and these tests would see it if it were not.

use std::sync::Mutex;

use crate::support::bare::Bare;
use crate::support::contents::Contents;
use crate::support::lives::{self, gap};
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, namespaces, trials, when};

both_lines!(ten_restarts_on_a_kept_volume, random_lives);

/// One boot's writing: slow enough that Litestream is there long before its end.
const BOOT: &str = "--every 2000 --rows 1200";

fn ten_restarts_on_a_kept_volume(line: Line) {
    if !namespaces() {
        return;
    }
    let site = Site::new(line);
    for boot in 1..=10 {
        let mut container = site.writing(BOOT).start();
        wait_for_boot(&site, boot);
        assert_eq!(container.stop(), 0, "boot {boot}");
        site.assert_saved();
    }
}

fn random_lives(line: Line) {
    if !namespaces() {
        return;
    }
    let stops = Mutex::new(0);
    trials::run(trials::series(), |_, random| {
        let lives = lives::series(random);
        let site = Site::new(line);
        let clean = lives::live(&site, &lives);
        *stops.lock().expect("no panic in here") += clean;
    });
    let stops = stops.into_inner().expect("no panic in there");
    println!("{} series on {line:?}: no gap at {stops} clean stops", trials::series());
}

/// The other tests prove nothing unless they find what bare Litestream leaves out: the same lives with
/// the same seeds, and the same restarts.
#[test]
fn bare_litestream_leaves_gaps_that_are_found() {
    let found = Mutex::new((0, 0));
    trials::run(trials::series(), |_, random| {
        let lives = lives::series(random);
        let site = Site::new(Line::V05);
        let (stops, gaps) = lives::live_bare(&site, &lives);
        let mut found = found.lock().expect("no panic in here");
        *found = (found.0 + stops, found.1 + gaps.len());
    });
    let (stops, gaps) = found.into_inner().expect("no panic in there");
    println!("bare Litestream, the same lives: {gaps} of {stops} clean stops left a gap");
    assert!(gaps > 0, "no gap found: the random lives are blind");
    let site = Site::new(Line::V05);
    let boots = 8;
    let wrong = (1..=boots).filter(|boot| bare_boot(&site, *boot).is_some()).count();
    println!("bare Litestream, restarts: {wrong} of {boots} left a gap");
    assert!(wrong > 0, "no gap found: the restarts are blind");
}

/// A database that came with a gap is whole in the backup after the first boot.
#[test]
fn an_earlier_gap_is_healed() {
    if !namespaces() {
        return;
    }
    let site = Site::new(Line::V05);
    let boots = (1..=12).find(|boot| bare_boot(&site, *boot).is_some());
    let boots = boots.expect("bare Litestream leaves a gap sooner or later");
    let mut container = site.writing(BOOT).start();
    wait_for_boot(&site, boots + 1);
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

/// One boot under bare Litestream, and what is missing after its stop.
fn bare_boot(site: &Site, boot: i64) -> Option<String> {
    let bare = Bare::start(site, BOOT);
    wait_for_boot(site, boot);
    bare.stop();
    Contents::of(site.database()).assert_complete_up_to(site.acknowledged());
    gap(site)
}

/// Until the writer has written all its rows, in this boot and those before it.
#[track_caller]
fn wait_for_boot(site: &Site, boot: i64) {
    let rows = boot * 1_200;
    eventually(format!("row {rows}"), PATIENCE, || when(site.acknowledged() >= rows));
}
