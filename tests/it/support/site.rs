//! One app's place: its volume, its replica, its settings.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::container::{Recipe, said};
use super::contents::{Contents, beside};
use super::s3::Server;
use super::stores::Store;
use super::{Line, PATIENCE, SEARCH_PATH, eventually, when, writer};

/// Where the backups of a site go.
enum Replica {
    /// A directory of the site itself.
    File,
    Bucket {
        endpoint: String,
        prefix: String,
    },
    /// Any other place, in Litestream's own keys.
    Keys {
        keys: Vec<(&'static str, String)>,
        /// How the program is told.
        variables: Vec<(String, String)>,
        /// What Litestream's client needs besides.
        environment: Option<(&'static str, String)>,
    },
}

/// How the program is told where a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `LITESTREAM_REPLICA_URL`.
    Url,
    /// A variable for each key: `LITESTREAM_REPLICA_TYPE`, `LITESTREAM_REPLICA_BUCKET`, …
    Variables,
    /// `LITESTREAM_DBS` as a list with the keys of the running line.
    List,
}

pub(crate) struct Site {
    directory: TempDir,
    pub(crate) line: Line,
    replica: Replica,
    databases: Vec<PathBuf>,
    variables: Vec<(String, String)>,
    /// Another release than the line's.
    release: Option<String>,
}

impl Site {
    /// One database, `data/app.db`, and a file replica.
    pub(crate) fn new(line: Line) -> Self {
        // The path is short: sockets lie below it. The memory file system spares the disk.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        let directory = TempDir::with_prefix_in("le-", base).expect("a directory");
        fs::create_dir(directory.path().join("data")).expect("a directory for data");
        let databases = vec![directory.path().join("data/app.db")];
        Self { directory, line, replica: Replica::File, databases, variables: Vec::new(), release: None }
    }

    /// The same place with another release of Litestream, as after an update of the image.
    pub(crate) fn of_release(mut self, release: &str) -> Self {
        self.release = Some(release.to_owned());
        self
    }

    /// The Litestream that is used here, bare and by the program.
    pub(crate) fn litestream(&self) -> PathBuf {
        self.release.as_ref().map_or_else(|| self.line.binary(), |release| super::tool(&format!("litestream-{release}/litestream")))
    }

    /// Two databases, `data/app.db` and `data/jobs.db`.
    pub(crate) fn with_two_databases(mut self) -> Self {
        self.databases.push(self.path("data/jobs.db"));
        self
    }

    /// Databases of these names in `data`.
    pub(crate) fn with_databases(mut self, names: &[&str]) -> Self {
        self.databases = names.iter().map(|name| self.path("data").join(name)).collect();
        self
    }

    /// Backups go to that server's bucket.
    pub(crate) fn in_bucket_of(mut self, server: &Server, prefix: &str) -> Self {
        self.replica = Replica::Bucket { endpoint: server.endpoint(), prefix: prefix.to_owned() };
        self
    }

    /// Backups of the only database go to that server, and the program is told so in this form.
    pub(crate) fn in_store(self, store: &Store, form: Form) -> Self {
        let keys = store.keys(self.line);
        let mut site = self.with_replica(keys, &store.url(), form);
        if let Replica::Keys { environment, .. } = &mut site.replica {
            *environment = store.environment();
        }
        site
    }

    /// A replica in Litestream's own keys, and the same as a URL: the program is told so in this form.
    pub(crate) fn with_replica(mut self, mut keys: Vec<(&'static str, String)>, url: &str, form: Form) -> Self {
        let path = self.database().display().to_string();
        let variables = match form {
            Form::Url => vec![("DATABASE_PATH".into(), path), ("LITESTREAM_REPLICA_URL".into(), url.into())],
            Form::List => {
                let replica = match self.line {
                    Line::V05 => format!("\"replica\": {}", mapping(&keys)),
                    Line::V03 => format!("\"replicas\": [{}]", mapping(&keys)),
                };
                vec![("LITESTREAM_DBS".into(), format!("[{{\"path\": {path:?}, {replica}}}]"))]
            }
            Form::Variables => {
                let named = keys.iter().map(|(key, value)| (variable(key), value.clone()));
                let variables = named.chain([("DATABASE_PATH".into(), path)]).collect();
                // In variables the path is a prefix, below which each database has its name.
                for (_, path) in keys.iter_mut().filter(|(key, _)| *key == "path") {
                    path.push_str("/app.db");
                }
                variables
            }
        };
        self.replica = Replica::Keys { keys, variables, environment: None };
        self
    }

    /// Variables that are set besides this site's own.
    pub(crate) fn with_variables(mut self, variables: &[(&str, &str)]) -> Self {
        self.variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn database(&self) -> &Path {
        &self.databases[0]
    }

    pub(crate) fn databases(&self) -> &[PathBuf] {
        &self.databases
    }

    pub(crate) fn replica(&self) -> PathBuf {
        self.path("replica")
    }

    pub(crate) fn ready_file(&self) -> PathBuf {
        self.path("ready")
    }

    /// The program with the settings of this site.
    pub(crate) fn recipe(&self) -> Recipe {
        let recipe = self.plain_recipe();
        let recipe = match (&self.replica, self.databases.as_slice()) {
            (Replica::Keys { .. }, _) => recipe,
            (_, [database]) => recipe.env("DATABASE_PATH", database),
            (_, several) => {
                let named = several.iter().map(|path| {
                    let stem = path.file_stem().expect("a name").to_string_lossy();
                    format!("{stem}={}", path.display())
                });
                recipe.env("LITESTREAM_DBS", named.collect::<Vec<_>>().join(","))
            }
        };
        match &self.replica {
            Replica::File => recipe.env("LITESTREAM_REPLICA_URL", format!("file://{}", self.replica().display())),
            Replica::Bucket { endpoint, prefix } => recipe
                .env("LITESTREAM_REPLICA_BUCKET", super::s3::BUCKET)
                .env("LITESTREAM_REPLICA_ENDPOINT", endpoint)
                .env("LITESTREAM_REPLICA_REGION", "us-east-1")
                .env("LITESTREAM_REPLICA_PATH", prefix)
                .env("LITESTREAM_ACCESS_KEY_ID", super::s3::KEY)
                .env("LITESTREAM_SECRET_ACCESS_KEY", super::s3::SECRET),
            Replica::Keys { variables, environment, .. } => {
                let named = variables.iter().map(|(name, value)| (name.as_str(), value));
                let all = named.chain(environment.iter().map(|(name, value)| (*name, value)));
                all.fold(recipe, |recipe, (name, value)| recipe.env(name, value))
            }
        }
    }

    /// The program with Litestream, but neither database nor replica.
    pub(crate) fn plain_recipe(&self) -> Recipe {
        let recipe = Recipe::new(self.directory.path(), self.ready_file());
        let variables = self.variables.iter();
        variables
            .fold(recipe, |recipe, (name, value)| recipe.env(name, value))
            .env("PATH", SEARCH_PATH)
            .env("HOME", self.directory.path())
            .env("LITESTREAM_BIN", self.litestream())
            .env("LITESTREAM_ENTRY_RUNTIME_DIR", self.path("run"))
    }

    /// The writer's command line: it writes to every database of this site.
    pub(crate) fn writer(&self, options: &str) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![writer().into()];
        for database in &self.databases {
            words.extend(["--db".into(), database.into()]);
        }
        words.extend(["--ack".into(), self.path("ack").into()]);
        words.extend(["--ready".into(), self.ready_file().into()]);
        words.extend(options.split_whitespace().map(OsString::from));
        words
    }

    /// The program with the settings of this site and the writer as its app.
    pub(crate) fn writing(&self, options: &str) -> Recipe {
        self.recipe().app(self.writer(options))
    }

    /// The last row of the database of this number that the writer has acknowledged.
    pub(crate) fn acknowledged_in(&self, number: usize) -> i64 {
        let bytes = fs::read(self.path("ack")).unwrap_or_default();
        let counter = bytes.get(number * 8..number * 8 + 8);
        counter.map_or(0, |counter| i64::from_le_bytes(counter.try_into().expect("8 bytes")))
    }

    pub(crate) fn acknowledged(&self) -> i64 {
        self.acknowledged_in(0)
    }

    /// Waits until so many more rows are acknowledged.
    #[track_caller]
    pub(crate) fn write_on(&self, rows: i64) {
        let target = self.acknowledged() + rows;
        eventually(format!("row {target}"), PATIENCE, || when(self.acknowledged() >= target));
    }

    /// Restores the newest backup with the real Litestream: what it said and where the copy is.
    pub(crate) fn try_restore(&self, database: &Path) -> (Output, TempDir, PathBuf) {
        let scratch = TempDir::with_prefix_in("restored-", self.directory.path()).expect("a directory");
        let config = scratch.path().join("litestream.yml");
        fs::write(&config, self.restore_config(database)).expect("a configuration");
        let copy = scratch.path().join("restored.db");
        let environment = match &self.replica {
            Replica::Keys { environment, .. } => environment.clone(),
            Replica::File | Replica::Bucket { .. } => None,
        };
        let output = Command::new(self.litestream())
            .args(["restore", "-config"])
            .arg(config)
            .arg("-o")
            .args([copy.as_path(), database])
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LITESTREAM_ACCESS_KEY_ID", super::s3::KEY)
            .env("LITESTREAM_SECRET_ACCESS_KEY", super::s3::SECRET)
            .envs(environment)
            .stdin(Stdio::null())
            .output()
            .expect("Litestream runs");
        (output, scratch, copy)
    }

    /// What the newest backup holds.
    #[track_caller]
    pub(crate) fn backup_of(&self, database: &Path) -> Contents {
        let (output, _scratch, copy) = self.try_restore(database);
        assert!(output.status.success() && copy.exists(), "nothing restored: {}", said(&output));
        Contents::of(&copy)
    }

    /// The last row in the backup; 0 if there is none, or not yet a whole one.
    pub(crate) fn backed_up(&self) -> i64 {
        let (output, _scratch, copy) = self.try_restore(self.database());
        if !output.status.success() || !copy.exists() {
            return 0;
        }
        Contents::read(&copy).map_or(0, |contents| contents.last())
    }

    /// Every database, that nobody writes to any more, is in the backup row for row, and has every row
    /// that was acknowledged.
    #[track_caller]
    pub(crate) fn assert_saved(&self) {
        for (number, database) in self.databases.iter().enumerate() {
            let here = Contents::of(database);
            here.assert_complete_up_to(self.acknowledged_in(number));
            if let Some(difference) = here.difference(&self.backup_of(database)) {
                panic!("the backup of {} is not the database:\n{difference}", database.display());
            }
        }
    }

    /// The same key for both lines: 0.5 takes a list of one.
    fn restore_config(&self, database: &Path) -> String {
        let name = database.file_name().expect("a name").to_string_lossy();
        let replica = match &self.replica {
            Replica::File if self.databases.len() == 1 => {
                format!("{{type: file, path: \"{}\"}}", self.replica().display())
            }
            Replica::File => {
                format!("{{type: file, path: \"{}/{name}\"}}", self.replica().display())
            }
            Replica::Bucket { endpoint, prefix } => format!(
                "{{type: s3, bucket: {}, path: \"{prefix}/{name}\", endpoint: \"{endpoint}\", \
                 region: us-east-1, force-path-style: true}}",
                super::s3::BUCKET,
            ),
            Replica::Keys { keys, .. } => mapping(keys),
        };
        format!("dbs:\n  - path: \"{}\"\n    replicas:\n      - {replica}\n", database.display())
    }
}

/// A mapping of strings, in YAML and JSON alike.
fn mapping(keys: &[(&'static str, String)]) -> String {
    let pairs: Vec<_> = keys.iter().map(|(key, value)| format!("{key:?}: {value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// The variable that gives a key of a replica.
fn variable(key: &str) -> String {
    match key {
        "access-key-id" | "secret-access-key" => format!("LITESTREAM_{}", key.to_uppercase().replace('-', "_")),
        _ => format!("LITESTREAM_REPLICA_{}", key.to_uppercase().replace('-', "_")),
    }
}

/// Deletes a database and everything that lies beside it under its name, as a lost volume does.
pub(crate) fn lose(database: &Path) {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let _ = fs::remove_file(beside(database, suffix));
    }
}

/// A file system of its own for the data; unmounted with this value.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn new(at: PathBuf, size: &str) -> Self {
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&at).status().unwrap();
        assert!(done.success());
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Takes every byte that is left in a folder.
pub(crate) fn fill_up(folder: &Path) {
    let mut file = fs::File::create(folder.join("filler")).unwrap();
    for size in [4096, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
}
