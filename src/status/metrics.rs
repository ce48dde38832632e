//! `/metrics`: the same as Prometheus' text format. Must never name a secret, nor a label whose values have no bound.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::{Lag, Overview, Status};
use crate::state::{Replication, millis};

/// All of it (Prometheus' exposition format, version 0.0.4).
pub fn text(overview: &Overview) -> String {
    let mut out = String::new();
    let own = [("version", env!("CARGO_PKG_VERSION")), ("litestream", overview.litestream.as_str())];
    family(&mut out, "build_info", "gauge", "The versions that run.", [(labels(&own), 1.0)]);
    if let Some(state) = &overview.state {
        let up = f64::from(u8::from(state.view.replication == Replication::Up));
        family(&mut out, "start_time_seconds", "gauge", "When PID 1 began, since 1970.", [(String::new(), seconds(state.began))]);
        family(&mut out, "replication_up", "gauge", "Whether Litestream runs.", [(String::new(), up)]);
        let restarts = f64::from(state.view.restarts);
        family(&mut out, "litestream_restarts_total", "counter", "How often Litestream was started again.", [(String::new(), restarts)]);
    }
    let mut each = |name: &str, help: &str, value: &dyn Fn(&Status) -> Option<f64>| {
        let samples = overview.databases.iter().filter_map(|s| Some((labels(&[("database", &s.alias)]), value(s)?)));
        family(&mut out, name, "gauge", help, samples);
    };
    each("database_size_bytes", "Size of the database's file.", &|s| s.size.map(float));
    each("database_wal_size_bytes", "Size of its WAL.", &|s| Some(float(s.wal)));
    each("replica_lag_seconds", "For how long something has been here that is not in the replica.", &|s| match &s.lag {
        Lag::For(lag) => Some(lag.as_secs_f64()),
        Lag::Unknown(_) => None,
    });
    each("replica_last_sync_timestamp_seconds", "When the replica last had everything.", &|s| s.synced.map(seconds));
    each("backup_proven", "Whether no gap is possible in the backup.", &|s| Some(f64::from(u8::from(s.proven))));
    each("verify_success", "Whether the last verify proved the backup.", &|s| {
        s.verified.as_ref().map(|v| f64::from(u8::from(v.failed.is_none())))
    });
    each("verify_last_timestamp_seconds", "When the last verify ended.", &|s| s.verified.as_ref().map(|v| seconds(v.at)));
    each("verify_last_success_timestamp_seconds", "When a verify last proved the backup.", &|s| {
        s.verified.as_ref().and_then(|v| v.proved).map(seconds)
    });
    each("verify_duration_seconds", "How long the last verify took.", &|s| s.verified.as_ref().map(|v| v.took.as_secs_f64()));
    out
}

fn family(out: &mut String, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
    let mut samples = samples.into_iter().peekable();
    if samples.peek().is_none() {
        return;
    }
    let _ = writeln!(out, "# HELP litestream_entry_{name} {help}\n# TYPE litestream_entry_{name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(out, "litestream_entry_{name}{labels} {value}");
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[expect(clippy::cast_precision_loss, reason = "a sample is a float")]
fn float(value: u64) -> f64 {
    value as f64
}

fn seconds(at: SystemTime) -> f64 {
    float(millis(at)) / 1000.0
}
