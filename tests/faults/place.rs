//! One trial's place: volumes, replica, acknowledgements, and what a bare Litestream restores. It never judges.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use crate::laps;
use crate::ledger::{Owned, Rows};
use crate::net::Net;
use crate::owned_row::payload;
use crate::schedule::{Host, Schedule, User};
use crate::store::Store;
use crate::support::container::{Recipe, said};
use crate::support::contents::beside;
use crate::support::{Line, SEARCH_PATH, example};

/// Who the app runs as where the schedule wants another user.
pub(crate) const USER: u32 = 12345;

/// How many places of trials are kept.
const KEPT: usize = 20;

/// Directories and the replica of one trial; gone with this value unless they are kept.
pub(crate) struct Place<'a> {
    pub(crate) directory: TempDir,
    pub(crate) schedule: &'a Schedule,
    /// None is a file replica.
    store: Option<&'a Store>,
    /// Where packets are to be dropped.
    pub(crate) net: Option<Net>,
    story: Mutex<File>,
    born: Instant,
}

/// What a database holds.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is none.
    Nothing(String),
    /// It cannot be read, or holds what nobody has written.
    Damaged(String),
    Rows(Owned),
}

impl Found {
    pub(crate) fn rows(&self) -> Owned {
        match self {
            Self::Rows(rows) => rows.clone(),
            Self::Nothing(_) | Self::Damaged(_) => Owned::new(),
        }
    }
}

/// By another process: what this one has open for writing, a child that is started meanwhile has, too, and the kernel runs no such file.
pub(crate) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let done = Command::new("cp").arg("-a").args([from, to]).status()?;
    if done.success() { Ok(()) } else { Err(std::io::Error::other("cp -a")) }
}

impl<'a> Place<'a> {
    pub(crate) fn new(schedule: &'a Schedule, store: Option<&'a Store>, net: Option<Net>) -> std::io::Result<Self> {
        // The path is short: sockets lie below it.
        let directory = TempDir::with_prefix_in(format!("lf-{}-", std::process::id()), base())?;
        fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
        for name in ["ack", "ready", "replica", "restored", "run"] {
            open_to_all(&directory.path().join(name))?;
        }
        let told = Mutex::new(File::create(directory.path().join("story"))?);
        Ok(Self { directory, schedule, store, net, story: told, born: Instant::now() })
    }

    /// A line of the trial's story, for whoever looks into a failure.
    pub(crate) fn tell(&self, text: &str) {
        let line = format!("{:9.3} {}\n", self.born.elapsed().as_secs_f64(), text.trim_end());
        let _ = self.story.lock().unwrap().write_all(line.as_bytes());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn volume(&self, host: Host) -> PathBuf {
        self.path(&format!("vol-{host:?}").to_lowercase())
    }

    pub(crate) fn database(&self, host: Host) -> PathBuf {
        self.volume(host).join("app.db")
    }

    /// The program with this trial's settings, on that volume, by that endpoint where the replica is in a store.
    pub(crate) fn recipe(&self, name: &str, volume: &Path, endpoint: Option<&str>) -> Recipe {
        let schedule = self.schedule;
        let recipe = Recipe::new(self.directory.path(), self.ready_file(name))
            .env("PATH", SEARCH_PATH)
            .env("HOME", self.directory.path())
            .env("LITESTREAM_BIN", schedule.line.binary())
            .env("LITESTREAM_ENTRY_RUNTIME_DIR", self.runtime(name))
            .env("LITESTREAM_ENTRY_RESTORE_TIMEOUT", "20s")
            .env("DATABASE_PATH", volume.join("app.db"));
        let recipe = match (self.store, endpoint) {
            (Some(store), Some(endpoint)) => recipe
                .env("LITESTREAM_REPLICA_URL", format!("s3://{}/{}", store.bucket, self.prefix()))
                .env("LITESTREAM_REPLICA_ENDPOINT", endpoint)
                .env("LITESTREAM_REPLICA_REGION", "us-east-1")
                .env("LITESTREAM_REPLICA_FORCE_PATH_STYLE", "true")
                .env("LITESTREAM_ACCESS_KEY_ID", store.key)
                .env("LITESTREAM_SECRET_ACCESS_KEY", store.secret),
            _ => recipe.env("LITESTREAM_REPLICA_URL", format!("file://{}", self.path("replica").display())),
        };
        let recipe = if schedule.verified { recipe.env("LITESTREAM_ENTRY_VERIFY_INTERVAL", "2s") } else { recipe };
        if schedule.user == User::Apps { recipe.env("LITESTREAM_ENTRY_USER", format!("{USER}:{USER}")) } else { recipe }
    }

    /// What becomes of its own file is a container's own affair.
    pub(crate) fn own_program(&self, name: &str, program: &Path) -> std::io::Result<PathBuf> {
        let own = self.path(&format!("bin-{name}"));
        fs::create_dir_all(&own)?;
        let own = own.join("litestream-entry");
        copy(program, &own)?;
        Ok(own)
    }

    /// Whether 0.3 has only just begun a generation in a bucket: its snapshot is there, and nothing yet of the WAL that belongs to it. A
    /// bare one leaves it so where it is killed then, and goes on with the next.
    pub(crate) fn only_begins_a_generation(&self) -> bool {
        let writes = self.writes();
        let last = writes.lines().rfind(|line| line.contains(" PUT ") && line.contains("/generations/"));
        last.is_some_and(|line| line.contains("/snapshots/")) || self.newest_generation_has_no_wal()
    }

    /// The same of a folder.
    fn newest_generation_has_no_wal(&self) -> bool {
        let files = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
        let written = |generation: &PathBuf| {
            files(&generation.join("snapshots")).iter().filter_map(|file| file.metadata().ok()?.modified().ok()).max()
        };
        let newest = files(&self.path("replica").join("generations")).into_iter().max_by_key(written);
        newest.is_some_and(|newest| !files(&newest.join("wal")).iter().any(|part| part.extension().is_some_and(|end| end == "lz4")))
    }

    /// What the store may have taken, a request a line: not what the proxy answered in its place, or kept to itself.
    fn writes(&self) -> String {
        let all = fs::read_to_string(self.path("writes")).unwrap_or_default();
        let kept = |line: &&str| [", Answer(", "the client has gone"].iter().any(|word| line.contains(word));
        all.lines().filter(|line| !kept(line)).flat_map(|line| [line, "\n"]).collect()
    }

    /// Whether 0.3 has left out laps of the WAL in its newest generation.
    pub(crate) fn lacks_laps(&self) -> bool {
        laps::in_bucket(&self.writes()) || laps::in_folder(&self.path("replica"))
    }

    pub(crate) fn runtime(&self, name: &str) -> PathBuf {
        self.path("run").join(name)
    }

    pub(crate) fn ready_file(&self, name: &str) -> PathBuf {
        self.path("ready").join(name)
    }

    /// The app's command line.
    pub(crate) fn app(&self, owner: &str, database: &Path, more: &[String]) -> Vec<OsString> {
        let program = example("owned");
        assert!(program.exists(), "no {}: cargo build --examples", program.display());
        let mut words: Vec<OsString> = vec![program.into(), "--db".into(), database.into(), "--owner".into(), owner.into()];
        words.extend(["--ack".into(), self.path("ack").join(owner).into()]);
        words.extend(more.iter().map(OsString::from));
        words
    }

    /// What these owners have acknowledged.
    pub(crate) fn acknowledged(&self, owners: &[String]) -> Owned {
        let rows = |owner: &String| {
            let bytes = fs::read(self.path("ack").join(owner)).unwrap_or_default();
            let mut rows = Rows::new();
            for record in bytes.chunks_exact(16) {
                let (number, version) = record.split_at(8);
                let version = u64::from_le_bytes(version.try_into().unwrap());
                let highest = rows.entry(u64::from_le_bytes(number.try_into().unwrap())).or_default();
                *highest = version.max(*highest);
            }
            (owner.clone(), rows)
        };
        owners.iter().map(rows).filter(|(_, rows)| !rows.is_empty()).collect()
    }

    /// Everybody who has ever acknowledged a row.
    pub(crate) fn owners(&self) -> Vec<String> {
        let names = fs::read_dir(self.path("ack")).into_iter().flatten().flatten();
        names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// What a Litestream without this program restores now. What goes wrong is tried again: somebody else may be tidying up there.
    pub(crate) fn restore(&self) -> Found {
        let mut found = self.restore_once();
        for _ in 0..3 {
            if matches!(found, Found::Rows(_)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
            found = self.restore_once();
        }
        found
    }

    fn restore_once(&self) -> Found {
        let folder = TempDir::with_prefix_in("r-", self.path("restored")).expect("a directory");
        let config = folder.path().join("litestream.yml");
        let replica = match self.store {
            None => format!("{{type: file, path: \"{}\"}}", self.path("replica").display()),
            Some(store) => format!(
                "{{type: s3, bucket: {}, path: \"{}\", endpoint: \"{}\", region: us-east-1, force-path-style: true, \
                 access-key-id: {}, secret-access-key: {}}}",
                store.bucket,
                self.prefix(),
                store.endpoint(),
                store.key,
                store.secret
            ),
        };
        fs::write(&config, format!("dbs:\n  - path: /restored/app.db\n    replicas:\n      - {replica}\n")).expect("a file");
        let copy = folder.path().join("app.db");
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", "30"]).arg(self.schedule.line.binary());
        command.args(["restore", "-config"]).arg(&config).arg("-o").arg(&copy).arg("/restored/app.db");
        command.env_clear().env("PATH", SEARCH_PATH).stdin(Stdio::null());
        let output = command.output().expect("timeout is there");
        if !output.status.success() || !copy.exists() {
            return Found::Nothing(said(&output).replace('\n', " | "));
        }
        let found = read(&copy);
        // Kept for whoever looks into a failure: the last one only.
        let _ = fs::rename(&copy, self.path("restored/last.db"));
        found
    }

    /// What a volume's database holds, read from a copy: a reader that came and went would change what the next start finds.
    pub(crate) fn look(&self, database: &Path) -> Found {
        let folder = TempDir::with_prefix_in("l-", self.path("restored")).expect("a directory");
        let copy = folder.path().join("app.db");
        if let Err(error) = fs::copy(database, &copy) {
            return Found::Nothing(error.to_string());
        }
        let _ = fs::copy(beside(database, "-wal"), beside(&copy, "-wal"));
        read(&copy)
    }

    /// In a bucket that other trials use, too.
    fn prefix(&self) -> String {
        let name = self.directory.path().file_name().unwrap_or_default().to_string_lossy();
        format!("{name}-{}", self.schedule.seed)
    }

    /// Out of the memory, to where the next run does not look: the place's new name.
    pub(crate) fn keep(self) -> PathBuf {
        let line = if self.schedule.line == Line::V05 { "0.5" } else { "0.3" };
        let time = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
        let kept = crate::results().join(format!("failed-{line}-{}-{time}", self.schedule.seed));
        let _ = Command::new("cp").arg("-a").arg(self.directory.path()).arg(&kept).status();
        forget_all_but(KEPT);
        kept
    }
}

/// Every row of a database that nobody writes to, and whether it is one that was ever written.
fn read(database: &Path) -> Found {
    match read_rows(database) {
        Ok(found) => found,
        Err(error) => Found::Damaged(error.to_string()),
    }
}

fn read_rows(database: &Path) -> rusqlite::Result<Found> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let check: String = connection.query_row("PRAGMA integrity_check", (), |row| row.get(0))?;
    if check != "ok" {
        return Ok(Found::Damaged(check.replace('\n', " | ")));
    }
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'owned'", (), |row| row.get(0))?;
    let mut found: BTreeMap<String, Rows> = BTreeMap::new();
    if tables == 0 {
        return Ok(Found::Rows(found));
    }
    let mut statement = connection.prepare("SELECT owner, number, version, payload FROM owned")?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        let (owner, number, version): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (number, version) = (number.cast_unsigned(), version.cast_unsigned());
        let bytes = row.get_ref(3)?.as_blob().unwrap_or_default().to_vec();
        if bytes != payload(&owner, number, version, bytes.len()) || bytes.is_empty() {
            return Ok(Found::Damaged(format!("owner={owner} row {number} in version {version} is not what was written")));
        }
        found.entry(owner).or_default().insert(number, version);
    }
    Ok(Found::Rows(found))
}

/// An empty volume, if there is none.
pub(crate) fn provide(volume: &Path) -> std::io::Result<()> {
    if volume.is_dir() { Ok(()) } else { open_to_all(volume) }
}

fn open_to_all(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o777))
}

/// The memory file system spares the disk.
fn base() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

/// Takes away what runs that were killed have left behind: places whose name has the number of a process that is no more.
pub(crate) fn sweep() {
    for (name, path) in entries(&base()) {
        if is_of_nobody(&name) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Whether `lf-PID-…` is of a process that is no more.
pub(crate) fn is_of_nobody(name: &str) -> bool {
    let pid = name.strip_prefix("lf-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

fn forget_all_but(count: usize) {
    let mut kept: Vec<_> = entries(&crate::results()).into_iter().filter(|(name, _)| name.starts_with("failed-")).collect();
    kept.sort_by_key(|(_, path)| fs::metadata(path.join("story")).and_then(|meta| meta.modified()).ok());
    for (_, path) in kept.iter().rev().skip(count) {
        let _ = fs::remove_dir_all(path);
    }
}

fn entries(folder: &Path) -> Vec<(String, PathBuf)> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}
