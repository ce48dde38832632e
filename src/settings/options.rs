//! The names of this program's own settings, as options and as variables, for the program and for build.rs. Must never
//! know more than static text.

/// What the variables of this program's own begin with.
pub(super) const PREFIX: &str = "LITESTREAM_ENTRY_";

/// The settings' names as options have them, with the form of their values and their meaning.
pub const OPTIONS: [(&str, &str, &str); 32] = [
    ("restore", "auto|required|never", "what to do about a database that is missing here [auto]"),
    ("restore-timeout", "DURATION", "how long a restore may make no progress before the start is refused [60s]"),
    ("restore-parallelism", "N", "databases that are restored at once; `auto`: as the memory allows, at most 16 [auto]"),
    ("stale", "refuse|restore|keep", "what to do about a database that is behind its replica [refuse]"),
    ("restore-ladder", "true|false", "restore a damaged backup as of the newest point before the damage [false]"),
    ("restore-timestamp", "TIME", "go back to this time, RFC 3339, once [none]"),
    ("restore-txid", "TXID", "go back to this transaction, once; one database, Litestream 0.5 [none]"),
    ("db-owner", "USER[:GROUP]", "who owns a restored database [its directory's owner]"),
    ("db-mode", "MODE", "permission bits of a restored database, as 0640 [its directory's]"),
    ("stop-timeout", "DURATION", "from the stop signal to the end, the last sync included [10s]"),
    ("signal-group", "true|false", "signal the app's process group instead of the app [false]"),
    ("migrate", "COMMAND", "a shell's command that runs before the app, once the databases are there; its failure ends the start [none]"),
    ("migrate-timeout", "DURATION", "how long that may take [15m]"),
    ("migrate-rollback", "true|false", "put the databases back as they were when it fails [false]"),
    ("user", "USER[:GROUP]", "who Litestream and the app run as where this is root [as this does]"),
    ("signal-rewrite", "FROM:TO,…", "signals that reach the app as others, as TERM:QUIT,HUP:0; 0 is none [none]"),
    ("stop-signal", "SIGNAL,…", "what asks for the end besides TERM, INT and QUIT, as WINCH where the image's STOPSIGNAL is that [none]"),
    ("hide-secrets", "true|false", "keep the replicas' credentials out of the app's environment [false]"),
    ("on-replication-failure", "restart|exit|ignore", "what to do when Litestream ends and the app lives [restart]"),
    ("lock", "standby|wait|refuse|off", "what to do when another process replicates the database [standby]"),
    ("role", "app|job", "a job restores copies, replicates nothing, and keeps nothing; Fly.io's release commands are jobs [app]"),
    ("verify-interval", "DURATION", "how often the backups are proved, as 6h; 0 is never [0]"),
    ("alert-url", "URL", "what is called (POST, JSON) when a backup is not proved; better as a variable: a secret [none]"),
    ("heartbeat-url", "URL", "what is called (GET) when all are proved; better as a variable: a secret [none]"),
    ("http", "[ADDRESS]:PORT", "serve /health, /ready, /metrics and a page there; without an address for this container alone [none]"),
    ("max-lag", "DURATION", "how long what is written may not be in the replica before `health` fails [5m]"),
    ("max-wal", "SIZE", "how large a WAL may grow while the replica cannot be reached after a start [1GiB]"),
    ("runtime-dir", "PATH", "where the configuration and the control socket are [/run/litestream-entry]"),
    ("required", "true|false", "refuse to start when nothing is configured to be replicated [false]"),
    ("export-paths", "true|false", "give the app LITESTREAM_DB_PATH, and LITESTREAM_DB_PATH_ALIAS for each database [false]"),
    ("log", "stderr|none|PATH", "where this program's lines and Litestream's go; `none`: only why it ends, on stderr [stderr]"),
    ("debug", "true|false", "say more on stderr [false]"),
];

/// `stop-timeout` → `LITESTREAM_ENTRY_STOP_TIMEOUT`.
pub fn variable(option: &str) -> String {
    format!("{PREFIX}{}", option.replace('-', "_").to_ascii_uppercase())
}
