//! The fault harness's own promises: a schedule is its seed's, and a row that is missing is found missing.

use std::collections::BTreeSet;

use crate::laps;
use crate::ledger::{Ledger, Owned, Word, both, missing, word};
use crate::schedule::{Host, Schedule};
use crate::support::Line;

fn owned(rows: &[(&str, u64, u64)]) -> Owned {
    let mut owned = Owned::new();
    for (owner, number, version) in rows {
        owned.entry((*owner).to_owned()).or_default().insert(*number, *version);
    }
    owned
}

#[test]
fn the_same_seed_is_the_same_schedule_and_another_seed_another() {
    let schedule = |seed, line| Schedule::new(seed, line).to_string();
    let mut all = BTreeSet::new();
    for seed in 1..200 {
        for line in [Line::V05, Line::V03] {
            assert_eq!(schedule(seed, line), schedule(seed, line));
            assert_eq!(Schedule::new(seed, line).fingerprint(), Schedule::new(seed, line).fingerprint());
            assert!(all.insert(schedule(seed, line)), "seed {seed}");
        }
    }
}

#[test]
fn a_row_that_is_missing_or_older_than_acknowledged_is_found_and_named() {
    let wanted = owned(&[("1a", 1, 1), ("1a", 2, 1), ("1a", 3, 2), ("1a", 5, 1), ("2a", 1, 1)]);
    assert_eq!(missing(&wanted, &wanted), None);
    let newer = owned(&[("1a", 1, 7), ("1a", 2, 1), ("1a", 3, 2), ("1a", 5, 1), ("1a", 6, 1), ("2a", 1, 1)]);
    assert_eq!(missing(&wanted, &newer), None);
    let older = owned(&[("1a", 1, 1), ("1a", 2, 1), ("1a", 3, 1), ("1a", 5, 1), ("2a", 1, 1)]);
    assert_eq!(missing(&wanted, &older), Some((1, "owner=1a rows 3 of 4".to_owned())));
    let none = missing(&wanted, &Owned::new());
    assert_eq!(none, Some((5, "owner=1a rows 1–3, 5 of 4; owner=2a rows 1 of 1".to_owned())));
}

#[test]
fn what_a_restore_had_is_confirmed_in_the_version_that_it_had() {
    let acknowledged = owned(&[("1a", 1, 3), ("1a", 2, 1)]);
    assert_eq!(both(&acknowledged, &owned(&[("1a", 1, 2)])), owned(&[("1a", 1, 2)]));
    assert_eq!(both(&acknowledged, &owned(&[("1a", 1, 9), ("2a", 1, 1)])), owned(&[("1a", 1, 3)]));
    let mut ledger = Ledger::default();
    ledger.owe(Host::A, "1a");
    ledger.confirm(&owned(&[("1a", 1, 3)]));
    ledger.confirm(&owned(&[("1a", 1, 2)]));
    assert_eq!(ledger.confirmed, owned(&[("1a", 1, 3)]));
    ledger.lose(Host::A);
    assert!(ledger.owed(Host::A).is_empty() && ledger.confirmed_rows() == 1);
}

#[test]
fn only_a_refusal_or_not_saved_is_an_honest_word() {
    assert_eq!(word(0, "", false), Word::Silent);
    assert_eq!(word(3, "litestream-entry: something else", false), Word::Silent);
    assert_eq!(word(3, "litestream-entry: NOT SAVED: default", false), Word::Honest);
    assert_eq!(word(65, "", false), Word::Honest);
    assert_eq!(word(137, "", true), Word::Killed);
}

#[test]
fn a_lap_that_is_in_no_segment_is_seen_in_the_newest_generation_alone() {
    let line = |generation: &str, index: u32, salt: u32| {
        format!("1.0 1a PUT /test/x/generations/{generation}/wal/{index:08x}_00000000.wal.lz4 9 bytes, Pass: 200 salt {salt:08x}\n")
    };
    let whole = line("a", 0, 0xb160_5829) + &line("a", 1, 0xb160_582a);
    assert!(!laps::in_bucket(&whole));
    let lacks = line("a", 0, 0xb160_5829) + &line("a", 1, 0xb160_582b);
    assert!(laps::in_bucket(&lacks) && !laps::in_bucket(&(lacks + &line("b", 0, 7))));
    assert!(!laps::in_bucket(&(line("a", 0, 0xb160_5829) + &line("a", 1, 0x0a00_0000))), "another WAL altogether");
}

#[test]
fn the_salt_is_read_where_the_header_is_packed() {
    // 16 literals, a match of 4 that goes back over zeros, more literals.
    let wal = [0x37, 0x7f, 6, 0x82, 0, 0x2d, 0xe2, 0x18, 0, 0, 0x10, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5];
    let mut block = vec![0xc0];
    block.extend(&wal[..12]);
    block.extend([1, 0]);
    block.push(0x50);
    block.extend(&wal[16..]);
    let mut frame = vec![4, 0x22, 0x4d, 0x18, 0x64, 0x70, 0];
    frame.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
    frame.extend(block);
    assert_eq!(laps::salt(&frame), Some(0x0102_0304));
}
