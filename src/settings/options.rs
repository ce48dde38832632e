//! This program's own settings, as options and as variables, each declared once: for the program and for build.rs. Must never know more than static
//! text.

/// What the variables of this program's own begin with.
pub(super) const PREFIX: &str = "LITESTREAM_ENTRY_";

/// Declares the settings: each has the name that it has as an option, the form of its values, and its meaning with its default.
macro_rules! options {
    ($($setting:ident = $name:literal, $form:literal, $help:literal;)*) => {
        /// A setting of this program's own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(dead_code, clippy::doc_markdown, reason = "build.rs takes the texts alone; they are shown as they are")]
        pub(super) enum Setting {
            $(#[doc = $help] $setting,)*
        }

        #[allow(dead_code, reason = "as above")]
        impl Setting {
            /// Each of them.
            pub(super) const ALL: &[Self] = &[$(Self::$setting),*];

            /// As an option, without its dashes.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$setting => $name),*
                }
            }
        }

        /// The settings' names as options have them, with the form of their values and their meaning.
        pub const OPTIONS: &[(&str, &str, &str)] = &[$(($name, $form, $help)),*];
    };
}

options! {
    Restore = "restore", "auto|required|never", "what to do about a database that is missing here [auto]";
    RestoreTimeout = "restore-timeout", "DURATION", "how long a restore may make no progress before the start is refused [60s]";
    RestoreParallelism = "restore-parallelism", "N", "databases that are restored at once; `auto`: as the memory allows, at most 16 [auto]";
    Stale = "stale", "refuse|restore|keep", "what to do about a database that is behind its replica [refuse]";
    RestoreLadder = "restore-ladder", "true|false", "restore a damaged backup as of the newest point before the damage [false]";
    RestoreTimestamp = "restore-timestamp", "TIME", "go back to this time, RFC 3339, once [none]";
    RestoreTxid = "restore-txid", "TXID", "go back to this transaction, once; one database, Litestream 0.5 [none]";
    DbOwner = "db-owner", "USER[:GROUP]", "who owns a restored database [its directory's owner]";
    DbMode = "db-mode", "MODE", "permission bits of a restored database, as 0640 [its directory's]";
    StopTimeout = "stop-timeout", "DURATION", "from the stop signal to the end, the last sync included [10s]";
    SignalGroup = "signal-group", "true|false", "signal the app's process group instead of the app [false]";
    Migrate = "migrate", "COMMAND", "a shell's command that runs before the app, once the databases are there; its failure ends the start [none]";
    MigrateTimeout = "migrate-timeout", "DURATION", "how long that may take [15m]";
    MigrateRollback = "migrate-rollback", "true|false", "put the databases back as they were when it fails [false]";
    User = "user", "USER[:GROUP]", "who Litestream and the app run as where this is root [as this does]";
    SignalRewrite = "signal-rewrite", "FROM:TO,…", "signals that reach the app as others, as TERM:QUIT,HUP:0; 0 is none [none]";
    StopSignal = "stop-signal", "SIGNAL,…", "what asks for the end besides TERM, INT and QUIT, as WINCH where the image's STOPSIGNAL is that [none]";
    HideSecrets = "hide-secrets", "true|false", "keep the replicas' credentials out of the app's environment [false]";
    OnReplicationFailure = "on-replication-failure", "restart|exit|ignore", "what to do when Litestream ends and the app lives [restart]";
    Lock = "lock", "standby|wait|refuse|off", "what to do when another process replicates the database [standby]";
    Role = "role", "app|job", "a job restores copies, replicates nothing, and keeps nothing; Fly.io's release commands are jobs [app]";
    VerifyInterval = "verify-interval", "DURATION", "how often the backups are proved, as 6h; 0 is never [0]";
    AlertUrl = "alert-url", "URL", "what is called (POST, JSON) when a backup is not proved; better as a variable: a secret [none]";
    HeartbeatUrl = "heartbeat-url", "URL", "what is called (GET) when all are proved; better as a variable: a secret [none]";
    Http = "http", "[ADDRESS]:PORT", "serve /health, /ready, /metrics and a page there; without an address for this container alone [none]";
    MaxLag = "max-lag", "DURATION", "how long what is written may not be in the replica before `health` fails [5m]";
    MaxWal = "max-wal", "SIZE", "how large a WAL may grow while the replica cannot be reached after a start [1GiB]";
    RuntimeDir = "runtime-dir", "PATH", "where the configuration and the control socket are [/run/litestream-entry]";
    Required = "required", "true|false", "refuse to start when nothing is configured to be replicated [false]";
    ExportPaths = "export-paths", "true|false", "give the app LITESTREAM_DB_PATH, and LITESTREAM_DB_PATH_ALIAS for each database [false]";
    Log = "log", "stderr|none|PATH", "where this program's lines and Litestream's go; `none`: only why it ends, on stderr [stderr]";
    Debug = "debug", "true|false", "say more on stderr [false]";
}

/// `stop-timeout` → `LITESTREAM_ENTRY_STOP_TIMEOUT`.
pub fn variable(option: &str) -> String {
    format!("{PREFIX}{}", option.replace('-', "_").to_ascii_uppercase())
}
