//! Every key of both lines' configuration, as their sources have it (`cmd/litestream/main.go` of v0.3.13 and
//! v0.5.17). The one list that variables, rendering and lint go by. Must never hold a value.

use super::{Format, Line};

/// A mapping in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// The file itself. On 0.5 a replica's keys may stand here too, as defaults, but for its place.
    Top,
    /// `snapshot:`, at the top, or in a database (0.5).
    Snapshot,
    /// `retention:` at the top (0.5).
    Retention,
    /// `validation:` at the top (0.5).
    Validation,
    /// `logging:`.
    Logging,
    /// `socket:` (0.5).
    Socket,
    /// An entry of `levels:` (0.5).
    Level,
    /// An entry of `dbs:`.
    Database,
    /// `replica:` of a database, or an entry of its `replicas:`.
    Replica,
    /// `age:` of a replica (0.3; 0.5 refuses it).
    Age,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A whole number.
    Number,
    /// Bytes, as `5MB`.
    Size,
    /// Go's duration, as `10s`: a bare number would be nanoseconds.
    Duration,
    /// `true` or `false`.
    Flag,
    /// A list of texts.
    List,
    /// A mapping of its own.
    Mapping(Section),
    /// A list of mappings.
    Mappings(Section),
}

/// Which lines know a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// Both.
    Both,
    /// 0.3 alone.
    Only03,
    /// 0.5 alone.
    Only05,
}

/// The replica types that a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// All.
    Any,
    /// S3 and what speaks its language, Alibaba's included.
    S3,
    /// Azure.
    Abs,
    /// SFTP.
    Sftp,
    /// `WebDAV`.
    Webdav,
    /// NATS.
    Nats,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Where it stands.
    pub section: Section,
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Who knows it.
    pub lines: Lines,
    /// The variable that sets it; none for what is set otherwise. A replica's or a database's may have `_ALIAS`
    /// behind it, and what begins with `LITESTREAM_REPLICA_` may leave `REPLICA_` out where it is for any type or S3.
    pub variable: Option<&'static str>,
    /// The replica type that it is for.
    pub of: For,
}

impl Key {
    /// Whether the running line knows it.
    pub fn is_known_to(&self, line: Line) -> bool {
        match self.lines {
            Lines::Both => true,
            Lines::Only03 => line.format() == Format::Generations,
            Lines::Only05 => line.format() == Format::Ltx,
        }
    }
}

/// The list. A variable may stand twice where the lines have its meaning in different places.
pub const KEYS: &[Key] = &[
    key(Section::Top, "addr", Kind::Text, Lines::Both, Some("LITESTREAM_ADDR"), For::Any),
    key(Section::Top, "dbs", Kind::Mappings(Section::Database), Lines::Both, None, For::Any),
    key(Section::Top, "exec", Kind::Text, Lines::Both, None, For::Any),
    key(Section::Top, "logging", Kind::Mapping(Section::Logging), Lines::Both, None, For::Any),
    key(Section::Top, "access-key-id", Kind::Secret, Lines::Both, None, For::Any),
    key(Section::Top, "secret-access-key", Kind::Secret, Lines::Both, None, For::Any),
    key(Section::Top, "mcp-addr", Kind::Text, Lines::Only05, Some("LITESTREAM_MCP_ADDR"), For::Any),
    key(Section::Top, "socket", Kind::Mapping(Section::Socket), Lines::Only05, None, For::Any),
    key(Section::Top, "levels", Kind::Mappings(Section::Level), Lines::Only05, Some("LITESTREAM_LEVELS"), For::Any),
    key(Section::Top, "snapshot", Kind::Mapping(Section::Snapshot), Lines::Only05, None, For::Any),
    key(Section::Top, "validation", Kind::Mapping(Section::Validation), Lines::Only05, None, For::Any),
    key(Section::Top, "retention", Kind::Mapping(Section::Retention), Lines::Only05, None, For::Any),
    key(Section::Top, "l0-retention", Kind::Duration, Lines::Only05, Some("LITESTREAM_L0_RETENTION"), For::Any),
    key(
        Section::Top,
        "l0-retention-check-interval",
        Kind::Duration,
        Lines::Only05,
        Some("LITESTREAM_L0_RETENTION_CHECK_INTERVAL"),
        For::Any,
    ),
    key(Section::Top, "verify-compaction", Kind::Flag, Lines::Only05, Some("LITESTREAM_VERIFY_COMPACTION"), For::Any),
    key(Section::Top, "heartbeat-url", Kind::Secret, Lines::Only05, Some("LITESTREAM_HEARTBEAT_URL"), For::Any),
    key(Section::Top, "heartbeat-interval", Kind::Duration, Lines::Only05, Some("LITESTREAM_HEARTBEAT_INTERVAL"), For::Any),
    key(Section::Top, "shutdown-sync-timeout", Kind::Duration, Lines::Only05, Some("LITESTREAM_SHUTDOWN_SYNC_TIMEOUT"), For::Any),
    key(Section::Top, "shutdown-sync-interval", Kind::Duration, Lines::Only05, Some("LITESTREAM_SHUTDOWN_SYNC_INTERVAL"), For::Any),
    key(Section::Snapshot, "interval", Kind::Duration, Lines::Only05, Some("LITESTREAM_SNAPSHOT_INTERVAL"), For::Any),
    key(Section::Snapshot, "retention", Kind::Duration, Lines::Only05, Some("LITESTREAM_SNAPSHOT_RETENTION"), For::Any),
    key(Section::Snapshot, "retention", Kind::Duration, Lines::Only05, Some("LITESTREAM_RETENTION"), For::Any),
    key(Section::Retention, "enabled", Kind::Flag, Lines::Only05, Some("LITESTREAM_RETENTION_ENABLED"), For::Any),
    key(Section::Validation, "interval", Kind::Duration, Lines::Only05, Some("LITESTREAM_VALIDATION_INTERVAL"), For::Any),
    key(Section::Logging, "level", Kind::Text, Lines::Both, Some("LITESTREAM_LOG_LEVEL"), For::Any),
    key(Section::Logging, "type", Kind::Text, Lines::Both, Some("LITESTREAM_LOG_TYPE"), For::Any),
    key(Section::Logging, "stderr", Kind::Flag, Lines::Both, None, For::Any),
    key(Section::Logging, "source", Kind::Flag, Lines::Only05, Some("LITESTREAM_LOG_SOURCE"), For::Any),
    key(Section::Socket, "enabled", Kind::Flag, Lines::Only05, None, For::Any),
    key(Section::Socket, "path", Kind::Text, Lines::Only05, None, For::Any),
    key(Section::Socket, "permissions", Kind::Number, Lines::Only05, None, For::Any),
    key(Section::Level, "interval", Kind::Duration, Lines::Only05, None, For::Any),
    key(Section::Database, "path", Kind::Text, Lines::Both, None, For::Any),
    key(Section::Database, "dir", Kind::Text, Lines::Only05, None, For::Any),
    key(Section::Database, "pattern", Kind::Text, Lines::Only05, None, For::Any),
    key(Section::Database, "recursive", Kind::Flag, Lines::Only05, None, For::Any),
    key(Section::Database, "watch", Kind::Flag, Lines::Only05, None, For::Any),
    key(Section::Database, "meta-path", Kind::Text, Lines::Both, Some("LITESTREAM_META_PATH"), For::Any),
    key(Section::Database, "meta-dir", Kind::Text, Lines::Only05, None, For::Any),
    key(Section::Database, "snapshot", Kind::Mapping(Section::Snapshot), Lines::Only05, None, For::Any),
    key(Section::Database, "monitor-interval", Kind::Duration, Lines::Both, Some("LITESTREAM_MONITOR_INTERVAL"), For::Any),
    key(Section::Database, "checkpoint-interval", Kind::Duration, Lines::Both, Some("LITESTREAM_CHECKPOINT_INTERVAL"), For::Any),
    key(Section::Database, "busy-timeout", Kind::Duration, Lines::Only05, Some("LITESTREAM_BUSY_TIMEOUT"), For::Any),
    key(Section::Database, "min-checkpoint-page-count", Kind::Number, Lines::Both, Some("LITESTREAM_MIN_CHECKPOINT_PAGE_COUNT"), For::Any),
    key(
        Section::Database,
        "max-checkpoint-page-count",
        Kind::Number,
        Lines::Only03,
        Some("LITESTREAM_MAX_CHECKPOINT_PAGE_COUNT"),
        For::Any,
    ),
    key(Section::Database, "truncate-page-n", Kind::Number, Lines::Only05, Some("LITESTREAM_TRUNCATE_PAGE_N"), For::Any),
    key(Section::Database, "max-sync-wal-bytes", Kind::Number, Lines::Only05, Some("LITESTREAM_MAX_SYNC_WAL_BYTES"), For::Any),
    key(Section::Database, "restore-if-db-not-exists", Kind::Flag, Lines::Only05, None, For::Any),
    key(Section::Database, "replica", Kind::Mapping(Section::Replica), Lines::Only05, None, For::Any),
    key(Section::Database, "replicas", Kind::Mappings(Section::Replica), Lines::Both, None, For::Any),
    key(Section::Replica, "type", Kind::Text, Lines::Both, None, For::Any),
    key(Section::Replica, "name", Kind::Text, Lines::Both, None, For::Any),
    key(Section::Replica, "path", Kind::Text, Lines::Both, None, For::Any),
    key(Section::Replica, "url", Kind::Text, Lines::Both, None, For::Any),
    key(Section::Replica, "sync-interval", Kind::Duration, Lines::Both, Some("LITESTREAM_REPLICA_SYNC_INTERVAL"), For::Any),
    key(Section::Replica, "snapshot-interval", Kind::Duration, Lines::Only03, Some("LITESTREAM_SNAPSHOT_INTERVAL"), For::Any),
    key(Section::Replica, "retention", Kind::Duration, Lines::Only03, Some("LITESTREAM_RETENTION"), For::Any),
    key(
        Section::Replica,
        "retention-check-interval",
        Kind::Duration,
        Lines::Only03,
        Some("LITESTREAM_REPLICA_RETENTION_CHECK_INTERVAL"),
        For::Any,
    ),
    key(Section::Replica, "validation-interval", Kind::Duration, Lines::Both, Some("LITESTREAM_VALIDATION_INTERVAL"), For::Any),
    key(Section::Replica, "max-sync-ltx-files", Kind::Number, Lines::Only05, Some("LITESTREAM_REPLICA_MAX_SYNC_LTX_FILES"), For::Any),
    key(Section::Replica, "auto-recover", Kind::Flag, Lines::Only05, Some("LITESTREAM_REPLICA_AUTO_RECOVER"), For::Any),
    key(Section::Replica, "access-key-id", Kind::Secret, Lines::Both, None, For::S3),
    key(Section::Replica, "secret-access-key", Kind::Secret, Lines::Both, None, For::S3),
    key(Section::Replica, "bucket", Kind::Text, Lines::Both, None, For::Any),
    key(Section::Replica, "region", Kind::Text, Lines::Both, Some("LITESTREAM_REPLICA_REGION"), For::S3),
    key(Section::Replica, "endpoint", Kind::Text, Lines::Both, Some("LITESTREAM_REPLICA_ENDPOINT"), For::Any),
    key(Section::Replica, "force-path-style", Kind::Flag, Lines::Both, Some("LITESTREAM_REPLICA_FORCE_PATH_STYLE"), For::S3),
    key(Section::Replica, "skip-verify", Kind::Flag, Lines::Both, Some("LITESTREAM_REPLICA_SKIP_VERIFY"), For::S3),
    key(Section::Replica, "sign-payload", Kind::Flag, Lines::Only05, Some("LITESTREAM_REPLICA_SIGN_PAYLOAD"), For::S3),
    key(Section::Replica, "sign-accept-encoding", Kind::Flag, Lines::Only05, Some("LITESTREAM_REPLICA_SIGN_ACCEPT_ENCODING"), For::S3),
    key(Section::Replica, "require-content-md5", Kind::Flag, Lines::Only05, Some("LITESTREAM_REPLICA_REQUIRE_CONTENT_MD5"), For::S3),
    key(Section::Replica, "storage-class", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_STORAGE_CLASS"), For::S3),
    key(Section::Replica, "part-size", Kind::Size, Lines::Only05, Some("LITESTREAM_REPLICA_PART_SIZE"), For::S3),
    key(Section::Replica, "concurrency", Kind::Number, Lines::Only05, Some("LITESTREAM_REPLICA_CONCURRENCY"), For::S3),
    key(Section::Replica, "sse-customer-algorithm", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_SSE_CUSTOMER_ALGORITHM"), For::S3),
    key(Section::Replica, "sse-customer-key", Kind::Secret, Lines::Only05, Some("LITESTREAM_REPLICA_SSE_CUSTOMER_KEY"), For::S3),
    key(Section::Replica, "sse-customer-key-path", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_SSE_CUSTOMER_KEY_PATH"), For::S3),
    key(Section::Replica, "sse-kms-key-id", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_SSE_KMS_KEY_ID"), For::S3),
    key(Section::Replica, "account-name", Kind::Text, Lines::Both, Some("LITESTREAM_REPLICA_ACCOUNT_NAME"), For::Abs),
    key(Section::Replica, "account-key", Kind::Secret, Lines::Both, Some("LITESTREAM_REPLICA_ACCOUNT_KEY"), For::Abs),
    key(Section::Replica, "sas-token", Kind::Secret, Lines::Only05, Some("LITESTREAM_REPLICA_SAS_TOKEN"), For::Abs),
    key(Section::Replica, "host", Kind::Text, Lines::Both, Some("LITESTREAM_REPLICA_HOST"), For::Sftp),
    key(Section::Replica, "user", Kind::Text, Lines::Both, Some("LITESTREAM_REPLICA_USER"), For::Sftp),
    key(Section::Replica, "password", Kind::Secret, Lines::Both, Some("LITESTREAM_REPLICA_PASSWORD"), For::Sftp),
    key(Section::Replica, "key-path", Kind::Text, Lines::Both, Some("LITESTREAM_REPLICA_KEY_PATH"), For::Sftp),
    key(Section::Replica, "host-key", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_HOST_KEY"), For::Sftp),
    key(Section::Replica, "concurrent-writes", Kind::Flag, Lines::Only05, Some("LITESTREAM_REPLICA_CONCURRENT_WRITES"), For::Sftp),
    key(Section::Replica, "webdav-url", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_WEBDAV_URL"), For::Webdav),
    key(Section::Replica, "webdav-username", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_WEBDAV_USERNAME"), For::Webdav),
    key(Section::Replica, "webdav-password", Kind::Secret, Lines::Only05, Some("LITESTREAM_REPLICA_WEBDAV_PASSWORD"), For::Webdav),
    key(Section::Replica, "jwt", Kind::Secret, Lines::Only05, Some("LITESTREAM_REPLICA_JWT"), For::Nats),
    key(Section::Replica, "seed", Kind::Secret, Lines::Only05, Some("LITESTREAM_REPLICA_SEED"), For::Nats),
    key(Section::Replica, "creds", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_CREDS"), For::Nats),
    key(Section::Replica, "nkey", Kind::Secret, Lines::Only05, Some("LITESTREAM_REPLICA_NKEY"), For::Nats),
    key(Section::Replica, "username", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_USERNAME"), For::Nats),
    key(Section::Replica, "password", Kind::Secret, Lines::Both, Some("LITESTREAM_REPLICA_PASSWORD"), For::Nats),
    key(Section::Replica, "token", Kind::Secret, Lines::Only05, Some("LITESTREAM_REPLICA_TOKEN"), For::Nats),
    key(Section::Replica, "tls", Kind::Flag, Lines::Only05, Some("LITESTREAM_REPLICA_TLS"), For::Nats),
    key(Section::Replica, "root-cas", Kind::List, Lines::Only05, Some("LITESTREAM_REPLICA_ROOT_CAS"), For::Nats),
    key(Section::Replica, "client-cert", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_CLIENT_CERT"), For::Nats),
    key(Section::Replica, "client-key", Kind::Text, Lines::Only05, Some("LITESTREAM_REPLICA_CLIENT_KEY"), For::Nats),
    key(Section::Replica, "max-reconnects", Kind::Number, Lines::Only05, Some("LITESTREAM_REPLICA_MAX_RECONNECTS"), For::Nats),
    key(Section::Replica, "reconnect-wait", Kind::Duration, Lines::Only05, Some("LITESTREAM_REPLICA_RECONNECT_WAIT"), For::Nats),
    key(Section::Replica, "timeout", Kind::Duration, Lines::Only05, Some("LITESTREAM_REPLICA_TIMEOUT"), For::Nats),
    key(Section::Replica, "age", Kind::Mapping(Section::Age), Lines::Only03, None, For::Any),
    key(Section::Age, "identities", Kind::List, Lines::Only03, None, For::Any),
    key(Section::Age, "recipients", Kind::List, Lines::Only03, None, For::Any),
];

const fn key(section: Section, name: &'static str, kind: Kind, lines: Lines, variable: Option<&'static str>, of: For) -> Key {
    Key { section, name, kind, lines, variable, of }
}

/// What is known of a key in a section; none where neither line has it.
pub fn find(section: Section, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.section == section && k.name == name)
}

/// Keys of who may read a backup, and of where it goes: without one of them, what was to be encrypted would be readable, or in another
/// place than the one that was named. One that the running line does not read is refused, never left out.
const GRAVE: [&str; 19] = [
    "age",
    "identities",
    "recipients",
    "sse-customer-algorithm",
    "sse-customer-key",
    "sse-customer-key-path",
    "sse-kms-key-id",
    "host-key",
    "tls",
    "root-cas",
    "client-cert",
    "client-key",
    "url",
    "bucket",
    "endpoint",
    "account-name",
    "host",
    "webdav-url",
    "sas-token",
];

/// Whether a key concerns who may read a backup, or where it goes.
pub fn is_grave(name: &str) -> bool {
    GRAVE.contains(&name)
}

/// Whether the running line reads the key there. 0.5 takes most of a replica's keys at the top as defaults.
pub fn is_known(section: Section, name: &str, line: Line) -> bool {
    let known = |section| find(section, name).is_some_and(|k| k.is_known_to(line));
    // A replica's place and name are its own (`ReplicaConfig`); the rest is shared (`ReplicaSettings`).
    let shared = !matches!(name, "type" | "name" | "path" | "url");
    known(section) || section == Section::Top && line.format() == Format::Ltx && shared && known(Section::Replica)
}

/// A key that is none may be a value that got into its place.
pub fn shown_key(name: &str) -> &str {
    let like_a_key = name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '-' | '_'));
    if like_a_key || KEYS.iter().any(|k| k.name == name) { name } else { "(not a key)" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grave_key_is_one() {
        assert!(GRAVE.iter().all(|name| KEYS.iter().any(|k| k.name == *name)));
    }

    #[test]
    fn a_key_is_known_to_the_lines_whose_source_has_it() {
        assert!(is_known(Section::Database, "replica", Line::V05) && !is_known(Section::Database, "replica", Line::V03));
        assert!(is_known(Section::Replica, "retention", Line::V03) && !is_known(Section::Replica, "retention", Line::V05));
        assert!(is_known(Section::Top, "bucket", Line::V05) && !is_known(Section::Top, "url", Line::V05));
        assert!(is_known(Section::Top, "region", Line::V05) && !is_known(Section::Top, "region", Line::V03));
        assert!(!is_known(Section::Top, "retension", Line::V05));
    }
}
