//! The command line as clap has it, for the program and for build.rs. Must never know more than clap and static text.

use std::ffi::OsString;

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgAction, Command};

/// Litestream's own commands that are handed to it, and what each is for.
pub const NATIVES: [(&str, &str); 12] = [
    ("databases", "list the databases"),
    ("generations", "list the generations of a backup (0.3)"),
    ("snapshots", "list the snapshots of a backup"),
    ("wal", "list the WAL segments of a backup (0.5: its LTX files)"),
    ("ltx", "list the LTX files of a backup (0.5)"),
    ("reset", "throw the local state away, for a new snapshot (0.5)"),
    ("info", "what the running Litestream says of itself (0.5)"),
    ("list", "what the running Litestream replicates (0.5)"),
    ("register", "add a database to the running Litestream (0.5)"),
    ("unregister", "remove one from it (0.5)"),
    ("start", "go on replicating one (0.5)"),
    ("stop", "pause the replication of one (0.5)"),
];

const ABOUT: &str = "Container entrypoint for apps on SQLite: restores on boot, replicates with Litestream, loses nothing on stop";
const AFTER: &str = "\
Usage in a Dockerfile:
  ENTRYPOINT [\"litestream-entry\"]
  CMD [\"gunicorn\", \"app.wsgi\"]

What is replicated is taken from the environment: DATABASE_PATH (or LITESTREAM_DBS, DATABASE_URL) and
LITESTREAM_REPLICA_URL (or LITESTREAM_REPLICA_BUCKET and its parts). Every option above is also a variable:
--stop-timeout is LITESTREAM_ENTRY_STOP_TIMEOUT.

Exit codes: the app's own; 128+n when signal n ended it; 126, 127 when it cannot be run; 64 command line,
65 damaged or different, 66 no backup or no such database, 69 replica out of reach, 70 Litestream failed,
71 the system refused, 74 last sync not confirmed, 78 configuration.";

/// Declares the commands, each once: its variant, its word, and the function that has the rest of its command line.
macro_rules! verbs {
    ($($(#[$doc:meta])* $verb:ident = $word:literal, $line:ident;)*) => {
        /// What this program is asked for besides a boot.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Verb {
            $($(#[$doc])* $verb,)*
        }

        impl Verb {
            /// Each of them, as the help has them.
            pub const ALL: &[Self] = &[$(Self::$verb),*];

            /// On the command line.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$verb => $word),*
                }
            }

            fn command(self) -> Command {
                match self {
                    $(Self::$verb => $line(Command::new(self.word()))),*
                }
            }
        }
    };
}

verbs! {
    /// A boot with Litestream's spelling; `-once` is none.
    Replicate = "replicate", replicate;
    /// Restore now.
    Restore = "restore", restore;
    /// Prove backups.
    Verify = "verify", verify;
    /// Show what replicates where.
    Status = "status", status;
    /// For a HEALTHCHECK.
    Health = "health", health;
    /// What another file has and the database lacks.
    Diff = "diff", diff;
    /// A new snapshot, proved.
    Resnapshot = "resnapshot", resnapshot;
    /// Wait for the replica.
    Sync = "sync", sync;
    /// Print the configuration.
    Config = "config", config;
    /// Write it to a file.
    Init = "init", init;
    /// Print versions.
    Version = "version", version;
}

/// The whole command line, for parsing, for help and for the man page; `options` are each a name, the form of its value and its meaning.
pub fn of(options: &[(&'static str, &'static str, &'static str)]) -> Command {
    let options = options
        .iter()
        .map(|(name, form, help)| Arg::new(*name).long(*name).value_name(*form).help(*help).value_parser(NonEmptyStringValueParser::new()));
    Command::new("litestream-entry")
        .about(ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .override_usage("litestream-entry [OPTIONS] [--] APP [ARG…]\n       litestream-entry COMMAND …")
        .after_help(format!("{}\n\n{AFTER}", natives()))
        .args_override_self(true)
        .disable_help_subcommand(true)
        .args(options)
        .subcommands(Verb::ALL.iter().map(|verb| verb.command()))
}

/// Litestream's own commands for the help.
fn natives() -> String {
    let lines: Vec<String> = NATIVES.iter().map(|(name, about)| format!("  {name:<12} {about}")).collect();
    format!("Litestream's own, by alias, path or URL; its flags and output unchanged:\n{}", lines.join("\n"))
}

fn databases() -> [Arg; 2] {
    [
        Arg::new("db").value_name("DB").num_args(0..).help("alias (`default`) or path"),
        Arg::new("all").long("all").action(ArgAction::SetTrue).conflicts_with("db").help("every database"),
    ]
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn value(name: &'static str, form: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(form).help(help)
}

fn replicate(new: Command) -> Command {
    new.about("Boot with Litestream's spelling: -exec CMD is the app; without it, only replicate")
        .arg(value("exec", "CMD", "the app's command line, split as Litestream splits it"))
        .arg(own_config())
        .arg(value("log-level", "LEVEL", "Litestream's log level"))
        .arg(flag("once", "only once, and end: where nothing else replicates (0.5)"))
        .arg(flag("force-snapshot", "with -once: a snapshot of each database (0.5)").requires("once"))
        .arg(flag("enforce-retention", "with -once: remove what is too old (0.5)").requires("once"))
        .arg(flag("restore-if-db-not-exists", "").hide(true))
        .arg(flag("no-expand-env", "").hide(true))
        .arg(Arg::new("db").value_name("DB").requires("url").help("the database's path, instead of the variables"))
        .arg(Arg::new("url").value_name("REPLICA_URL").help("and its replica"))
}

fn sync(new: Command) -> Command {
    new.about("Wait until the replica has everything that is written now")
        .args(databases())
        .arg(value("timeout", "DURATION", "how long that may take [30s]"))
        .arg(flag("wait", "").hide(true))
        .arg(own_config())
}

fn config(new: Command) -> Command {
    new.about("Print Litestream's configuration as the variables give it, without secrets")
        .arg(flag("explain", "with the variable behind each value"))
        .arg(flag("json", "as JSON"))
        .arg(flag("check", "only check it: exit 78 where something is to be corrected"))
        .arg(own_config())
}

fn init(new: Command) -> Command {
    new.about("Write that configuration to a file, for a Litestream without this program")
        .arg(value("config", "PATH", "the file [/etc/litestream.yml]").value_parser(clap::value_parser!(OsString)))
        .arg(flag("force", "overwrite a file that this program did not write"))
}

fn restore(new: Command) -> Command {
    new.about("Restore databases now, or a replica's URL into -o PATH; what is replaced is kept aside")
        .args(databases())
        .arg(
            Arg::new("o")
                .short('o')
                .value_name("PATH")
                .value_parser(clap::value_parser!(OsString))
                .help("into this file instead of the database's own"),
        )
        .arg(flag("if-replica-exists", "no backup is not an error"))
        .arg(flag("if-db-not-exists", "do nothing where the database exists"))
        .arg(value("timestamp", "TIME", "as it was at this time (RFC 3339)"))
        .arg(value("txid", "TXID", "as it was at this transaction (0.5)"))
        .arg(value("generation", "NAME", "from this generation (0.3)"))
        .arg(value("index", "N", "up to this WAL index (0.3)"))
        .arg(value("parallelism", "N", "downloads at once"))
        .arg(value("replica", "NAME", "from this replica of several (0.3)"))
        .arg(flag("dry-run", "only say what would be restored, from where, how large and how old"))
        .arg(flag("discard", "remove the database that is replaced instead of keeping it aside"))
        .arg(flag("json", "print one JSON object per database"))
        .arg(flag("v", "").hide(true))
        .arg(own_config())
}

/// As every command of Litestream's has it.
fn own_config() -> Arg {
    value("config", "PATH", "a configuration file of your own, instead of the variables")
}

fn verify(new: Command) -> Command {
    new.about("Prove that a backup is restorable, current and equal to the database")
        .args(databases())
        .arg(value("timeout", "DURATION", "how long the replica is waited for, in all [30s]"))
        .arg(flag("quick", "leave out the comparison of pages"))
        .arg(flag("read-only", "write nothing to the database, not even a row to look for").conflicts_with("quick"))
        .arg(flag("json", "print one JSON object per database"))
        .arg(own_config())
}

fn status(new: Command) -> Command {
    new.about("Show what replicates where, how far behind, the last verify, restarts")
        .arg(Arg::new("db").num_args(0..).value_name("DB").help("an alias, `default` for the only one, or a path [all]"))
        .arg(flag("all", "every database, as without a name").hide(true))
        .arg(flag("json", "print one JSON object"))
        .arg(flag("watch", "again every five seconds"))
        .arg(own_config())
}

fn resnapshot(new: Command) -> Command {
    new.about("Begin a backup anew with a full snapshot, while the app runs, and prove it; on 0.5 every database's")
        .args(databases())
        .arg(value("timeout", "DURATION", "how long the replica is waited for, in all [30s]"))
        .arg(own_config())
}

fn health(new: Command) -> Command {
    new.about("Say whether all is well, for a HEALTHCHECK: 0 or 1, and one line")
        .arg(value("max-lag", "DURATION", "how long what is written may not be in the replica [LITESTREAM_ENTRY_MAX_LAG]"))
        .arg(value("require-verified-within", "DURATION", "how old the last proof of a backup may be [any age]"))
}

fn diff(new: Command) -> Command {
    new.about("Show what a file that was kept aside has and the database lacks: rows of each table by primary key")
        .arg(Arg::new("db").value_name("DB").required(true).help("alias (`default`) or path"))
        .arg(Arg::new("file").value_name("FILE").required(true).value_parser(clap::value_parser!(OsString)).help("the other file"))
        .arg(flag("json", "print one JSON object"))
        .arg(own_config())
}

fn version(new: Command) -> Command {
    new.about("Print the versions of this program, Litestream and SQLite")
}
