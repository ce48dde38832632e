//! End-to-end tests: the program as PID 1 of a fresh PID namespace, with the real Litestream of both
//! lines, real `SQLite` files and a real server of every replica type that there is one for.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `LITESTREAM_ENTRY` | the binary under test, instead of cargo's |
//! | `WRITER` | the supervised app, instead of the example that cargo built |
//! | `TOOLS` | where `litestream-0.5.17/`, `litestream-0.3.13/` and `servers/` are, instead of `target/tools` |
//! | `TRIALS`, `SERIES` | how often a case is tried (3), how many random series of lives are lived (4) |
//! | `PROOFS` | how many backups are proved beside writers of all kinds, on each line (10; `scripts/proofs` runs 100) |
//! | `SEED`, `JOBS` | where the random numbers start (1), how many trials run at a time (4) |
//! | `CI=true` | a test that cannot run here fails instead of being skipped |
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that goes wrong has to fail at the spot"
)]

#[macro_use]
mod support;

mod acknowledged;
mod another_user;
mod app_checks;
mod boot;
mod commands;
mod continuity;
mod diverged;
mod fault_harness;
mod first_upload;
mod full_places;
mod gate;
mod hung;
mod init;
mod jobs;
mod limits;
mod lock;
mod log;
mod migrate;
mod migrate_beside;
mod mistakes;
mod operator;
mod planted;
mod poor_places;
mod proofs;
mod proving;
mod releases;
mod repair;
mod replicas;
mod replication;
mod restore;
mod rotation;
mod round_trip;
mod secrets;
mod serve;
mod signals;
mod status;
mod taken_away;
mod tenants;
mod terminal;
mod time_limits;
mod transparency;
mod unreachable;
mod verify_anywhere;
mod watch;

#[path = "../apps/rows.rs"]
mod rows;

#[path = "../faults/laps.rs"]
#[allow(dead_code, reason = "of the fault harness, whose pure parts are tested here")]
mod laps;
#[path = "../faults/ledger.rs"]
#[allow(dead_code, reason = "of the fault harness, whose pure parts are tested here")]
mod ledger;
#[path = "../faults/schedule.rs"]
#[allow(dead_code, reason = "of the fault harness, whose pure parts are tested here")]
mod schedule;
