//! The configuration of a pass of our own after the app's end: one database, no port, no socket. Must never change what the pass replicates to where.

use std::collections::BTreeMap;
use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::{Document, put, replicas};
use crate::litestream::Format;

impl Document {
    /// With one database at another path.
    #[must_use]
    pub fn with_path(&self, database: &Path, other: &Path) -> Self {
        let is_it =
            |e: &Value| e.get("path").and_then(Value::as_str).and_then(|p| std::path::absolute(p).ok()).is_some_and(|p| p == database);
        let mut entries = self.entries().to_vec();
        for entry in entries.iter_mut().filter(|e| is_it(e)) {
            if let (Value::Mapping(entry), Some(other)) = (entry, other.to_str()) {
                put(entry, "path", other.to_owned());
            }
        }
        let mut top = self.top.clone();
        put(&mut top, "dbs", entries);
        Self { top, origins: BTreeMap::new() }
    }

    /// For a pass after the app's end: one database (0.5's `-once` stops at the first that fails), no port and no socket of its own, and on 0.3 intervals that do not wait.
    #[must_use]
    pub fn last_pass(&self, format: Format, database: &Path, meta: Option<&Path>) -> Self {
        let mut top = self.top.clone();
        for key in ["addr", "socket", "exec", "mcp-addr", "dbs"] {
            top.remove(key);
        }
        let kept = self
            .entries()
            .iter()
            .filter(|e| e.get("path").and_then(Value::as_str).and_then(|p| std::path::absolute(p).ok()).is_some_and(|p| p == database));
        let dbs = kept.cloned().map(|mut entry| {
            if let Value::Mapping(entry) = &mut entry {
                if let Some(meta) = meta.and_then(Path::to_str) {
                    put(entry, "meta-path", meta.to_owned());
                }
                if meta.is_some() || format == Format::Generations {
                    without_checkpoints(entry, format);
                }
                if format == Format::Generations {
                    put(entry, "monitor-interval", "20ms".to_owned());
                }
            }
            if format == Format::Generations {
                for replica in replicas(&mut entry) {
                    put(replica, "sync-interval", "20ms".to_owned());
                }
            }
            entry
        });
        let dbs: Vec<Value> = dbs.collect();
        put(&mut top, "dbs", dbs);
        if format == Format::Generations {
            let mut logging = Mapping::new();
            put(&mut logging, "level", "debug".to_owned());
            put(&mut logging, "type", "json".to_owned());
            put(&mut logging, "stderr", true);
            put(&mut top, "logging", logging);
        }
        Self { top, origins: BTreeMap::new() }
    }
}

/// A checkpoint would write to the database, which may be full; and for each, 0.3 lets go of its lock: an app that writes in that moment may begin
/// the WAL anew before the end of it is copied.
fn without_checkpoints(entry: &mut Mapping, format: Format) {
    let counts = match format {
        Format::Ltx => ["min-checkpoint-page-count", "truncate-page-n"],
        Format::Generations => ["min-checkpoint-page-count", "max-checkpoint-page-count"],
    };
    for key in counts {
        put(entry, key, i32::MAX);
    }
    put(entry, "checkpoint-interval", "24h".to_owned());
}
