//! A point in time that a boot goes back to. Must never be another one than was asked for.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

/// Where to go back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Point {
    /// As it was at this time, RFC 3339.
    Time(String),
    /// As it was after this transaction (0.5).
    Txid(String),
}

impl Point {
    /// Litestream's flags for it.
    pub fn flags(&self) -> Vec<OsString> {
        match self {
            Self::Time(time) => vec!["-timestamp".into(), time.into()],
            Self::Txid(txid) => vec!["-txid".into(), txid.into()],
        }
    }

    /// What is asked for, in words.
    pub fn asked(&self) -> String {
        match self {
            Self::Time(time) => format!("as it was at {time}"),
            Self::Txid(txid) => format!("as it was at transaction {txid}"),
        }
    }

    /// What was found for it, in words; `written` is when the newest of that was written.
    pub fn found(&self, written: Option<String>) -> String {
        match self {
            // Where transactions have been compacted, that may be some time before.
            Self::Time(time) => format!("as of {}the newest point at or before {time}", written.map(|at| at + ", ").unwrap_or_default()),
            Self::Txid(_) => self.asked(),
        }
    }

    /// As it is noted.
    pub fn key(&self) -> String {
        match self {
            Self::Time(time) => format!("timestamp {time}"),
            Self::Txid(txid) => format!("txid {txid}"),
        }
    }
}
