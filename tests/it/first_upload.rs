//! The first upload after a restore, which is the whole database on 0.5: how far it is is said, and a crash before its end loses nothing that
//! was in the backup or is on the volume.

use std::fs;

use rusqlite::Connection;

use crate::support::container::{Container, said};
use crate::support::contents::Contents;
use crate::support::s3::Server;
use crate::support::site::{Site, lose};
use crate::support::slow::SlowLine;
use crate::support::{Line, PATIENCE, eventually};

only_0_5!(how_far_the_first_upload_after_a_restore_is_is_said_and_a_crash_before_its_end_loses_nothing_on_the_volume,);

/// Bytes of the database, and what each connection carries of them in a second.
const SIZE: i64 = 20_000_000;
const RATE: u64 = 400_000;

fn insert(site: &Site, bytes: i64) {
    let app = Connection::open(site.database()).unwrap();
    app.busy_timeout(PATIENCE).unwrap();
    app.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE IF NOT EXISTS big(id INTEGER PRIMARY KEY, x BLOB)").unwrap();
    for _ in 0..=bytes / 1_000_000 {
        app.execute("INSERT INTO big(x) VALUES(randomblob(?1))", [bytes.min(1_000_000)]).unwrap();
    }
}

fn waiting(site: &Site, endpoint: &str) -> Container {
    let _ = fs::remove_file(site.ready_file());
    let app = format!("trap 'exit 0' TERM; touch {}; while :; do sleep 0.05; done", site.ready_file().display());
    let mut container = site.recipe().env("LITESTREAM_REPLICA_ENDPOINT", endpoint).shell(&app).start();
    container.ready();
    container
}

fn how_far_the_first_upload_after_a_restore_is_is_said_and_a_crash_before_its_end_loses_nothing_on_the_volume(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "first-upload");
    let mut first = waiting(&site, &server.endpoint());
    insert(&site, SIZE);
    assert_eq!(first.stop(), 0, "{}", first.stderr());
    let before = Contents::of(site.database());
    lose(site.database());
    let slow = SlowLine::upwards(&server.endpoint(), RATE);
    let mut restored = waiting(&site, &slow.endpoint());
    insert(&site, 100);
    let percent = |text: &str| -> Option<u64> { text.split_once("first snapshot: ")?.1.split_once(" %")?.0.parse().ok() };
    let far = eventually("some of it is uploaded", PATIENCE, || percent(&said(&restored.exec(["status"]))).filter(|far| *far > 5));
    assert!(far < 100, "{far}");
    let health = said(&restored.exec(["health"]));
    assert!(percent(&health).is_some_and(|now| now >= far), "{health}");
    restored.kill();
    // What was in the backup is, and the rest is on the volume.
    assert_eq!(site.backup_of(site.database()).difference(&before), None);
    let here = Contents::of(site.database());
    let mut next = waiting(&site, &server.endpoint());
    eventually("it is uploaded", PATIENCE, || percent(&said(&next.exec(["status"]))).is_none().then_some(()));
    assert_eq!(next.stop(), 0, "{}", next.stderr());
    assert_eq!(site.backup_of(site.database()).difference(&here), None);
}
