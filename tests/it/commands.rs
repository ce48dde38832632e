//! Litestream's own commands by alias, beside a running PID 1: what it says and its code are unchanged.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::container::{Container, said};
use crate::support::s3::{self, Server};
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, SEARCH_PATH, eventually, when};

both_lines!(
    each_command_says_what_litestream_says,
    a_name_that_is_no_databases_is_answered_with_those_that_there_are,
    options_of_pid_1_and_files_of_secrets_hold_for_docker_exec,
    sync_waits_until_everything_is_in_the_replica,
    without_a_pid_1_commands_leave_nothing_behind,
    init_overwrites_only_what_it_wrote,
    the_app_gets_its_paths_on_request,
    a_file_of_the_users_own_is_linted,
);

only_0_5!(replication_that_was_paused_goes_on_without_a_gap, a_single_pass_is_made_only_where_nothing_else_replicates,);

fn replication_that_was_paused_goes_on_without_a_gap(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 500").start();
    container.ready();
    eventually("a first backup", PATIENCE, || when(site.backed_up() > 0));
    let paused = container.exec(["stop", "-timeout", "10", "default"]);
    assert!(paused.status.success(), "{}", said(&paused));
    // More than a WAL's worth, so that SQLite begins it anew meanwhile.
    site.write_on(3000);
    let goes_on = container.exec(["start", "-timeout", "10", "default"]);
    assert!(goes_on.status.success(), "{}", said(&goes_on));
    site.write_on(1000);
    let proved = container.exec(["verify", "default"]);
    assert!(proved.status.success(), "{}", said(&proved));
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

/// Two that write one replica destroy it.
fn a_single_pass_is_made_only_where_nothing_else_replicates(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 3000").start();
    container.ready();
    let beside = container.exec(["replicate", "-once"]);
    assert_eq!(beside.status.code(), Some(71), "{}", said(&beside));
    assert_eq!(container.stop(), 0);
    let (code, alone) = site.recipe().arguments(["replicate", "-once", "-force-snapshot"]).run();
    assert_eq!(code, 0, "{}", alone.stderr());
    site.assert_saved();
}

/// Each finding has its place and what to write; at a boot it is a warning.
fn a_file_of_the_users_own_is_linted(line: Line) {
    let site = Site::new(line);
    let file = site.path("own.yml");
    let key = if line == Line::V05 { "retention: 72h" } else { "sync-interval: 1d" };
    let text = |more: &str| {
        format!(
            "socket: {{enabled: true, path: {}}}\ndbs:\n  - path: {}\n    replicas:\n      - type: file\n        path: {}\n{more}",
            site.path("own.sock").display(),
            site.database().display(),
            site.replica().display()
        )
    };
    // 0.3 has no socket.
    let text = |more: &str| if line == Line::V03 { text(more).split_once('\n').unwrap().1.to_owned() } else { text(more) };
    let recipe = || site.plain_recipe().env("LITESTREAM_CONFIG", &file);
    let check = || recipe().arguments(["config", "--check"]).run();
    fs::write(&file, text("")).unwrap();
    let (code, container) = check();
    assert_eq!(code, 0, "{}", container.stderr());
    fs::write(&file, text(&format!("        {key}\n"))).unwrap();
    let (code, container) = check();
    let row = if line == Line::V05 { 7 } else { 6 };
    assert_eq!(code, 78, "{}", container.stderr());
    assert!(container.stderr().contains(&format!("own.yml:{row}:")), "{}", container.stderr());
    if line == Line::V05 {
        let mut container = recipe().app(site.writer("--every 5000")).start();
        container.ready();
        assert!(container.stderr().contains("own.yml:7:"), "{}", container.stderr());
        assert_eq!(container.stop(), 0);
        site.assert_saved();
    }
}

/// Our words, and Litestream's: `@` stands for the flags that are added, `%` for the database's path, `&` for its replica's URL.
const BOTH: &[(&str, &str)] =
    &[("databases", "databases @"), ("wal default", "wal @ %"), ("wal -no-such-flag default", "wal @ -no-such-flag %"), ("wal", "wal @")];
const V03: &[(&str, &str)] = &[
    ("generations default", "generations @ %"),
    ("snapshots default", "snapshots @ %"),
    ("snapshots --replica file default", "snapshots @ --replica file %"),
    ("generations /no/such.db", "generations @ /no/such.db"),
    ("snapshots &", "snapshots &"),
];
const V05: &[(&str, &str)] = &[
    ("ltx default", "ltx @ %"),
    ("ltx -level all -json default", "ltx @ -level all -json %"),
    ("ltx --level=0 %", "ltx @ --level=0 %"),
    ("ltx /no/such.db", "ltx @ /no/such.db"),
    ("ltx &", "ltx &"),
    ("snapshots default", "ltx @ -level 9 %"),
    ("databases -json", "databases @ -json"),
    ("reset -dry-run default", "reset @ -dry-run %"),
    ("info", "info !"),
    ("list -json", "list ! -json"),
    ("stop -timeout 5 /no/such.db", "stop ! -timeout 5 /no/such.db"),
    ("unregister -dry-run /no/such.db", "unregister ! -dry-run /no/such.db"),
    ("register", "register !"),
    ("start", "start !"),
];

/// Some rows are in the backup, and nobody writes any more.
fn at_rest(site: &Site) -> Container {
    let mut first = site.writing("--every 2000").start();
    first.ready();
    site.write_on(50);
    assert_eq!(first.stop(), 0);
    let container = site.recipe().shell("trap 'exit 0' TERM; sleep 100 & wait").start();
    container.running();
    let restarted = || container.stderr().contains("replicating to");
    eventually("Litestream runs", PATIENCE, || when(restarted()));
    eventually("it has looked at the database", PATIENCE, || when(container.exec(["sync", "default"]).status.success()));
    container
}

fn url(site: &Site) -> String {
    format!("file://{}", site.replica().display())
}

fn directly(site: &Site, words: &str) -> Output {
    let run = site.path("run");
    let mut command = Command::new(site.line.binary());
    for word in words.split_whitespace() {
        match word {
            "@" => command.arg("-config").arg(run.join("litestream.yml")).arg("-no-expand-env"),
            "!" => command.arg("-socket").arg(run.join("litestream.sock")),
            "%" => command.arg(site.database()),
            "&" => command.arg(url(site)),
            word => command.arg(word),
        };
    }
    command.env_clear().env("PATH", SEARCH_PATH).env("HOME", site.path("")).current_dir(site.path("")).output().expect("Litestream runs")
}

/// Without what a moment changes: the time since its start, the last sync.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let timeless = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        // A log line begins with the time.
        let text: String = text
            .lines()
            .map(|l| l.split_once(" level=").filter(|(t, _)| t.starts_with("time=")).map_or(l, |(_, rest)| rest))
            .collect::<Vec<_>>()
            .join("\n");
        text.split_inclusive(['\n', ',', ')'])
            .filter(|part| !["ptime", "sync", "usage", "PID", "pid"].iter().any(|w| part.contains(w)))
            .collect::<String>()
    };
    (output.status.code(), timeless(&output.stdout), timeless(&output.stderr))
}

fn each_command_says_what_litestream_says(line: Line) {
    let site = Site::new(line);
    let mut container = at_rest(&site);
    let own = if line == Line::V05 { V05 } else { V03 };
    for (ours, theirs) in BOTH.iter().chain(own) {
        let url = url(&site);
        let word = |word| match word {
            "%" => site.database().as_os_str(),
            "&" => OsStr::new(&url),
            word => OsStr::new(word),
        };
        let words: Vec<&OsStr> = ours.split_whitespace().map(word).collect();
        // A compaction may come between the two, but not each time.
        let both = || (told(&container.exec(&words)), told(&directly(&site, theirs)));
        let (wrapped, direct) = (0..5).map(|_| both()).find(|(wrapped, direct)| wrapped == direct).unwrap_or_else(both);
        assert_eq!(wrapped, direct, "{ours}");
    }
    for lacking in if line == Line::V05 { ["generations"].as_slice() } else { &["ltx", "reset", "info", "list", "start", "stop"] } {
        let output = container.exec([lacking, "default"]);
        assert_eq!(output.status.code(), Some(64), "{lacking}: {}", said(&output));
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{lacking}: {}", said(&output));
    }
    assert_eq!(container.stop(), 0);
}

fn a_name_that_is_no_databases_is_answered_with_those_that_there_are(line: Line) {
    let site = Site::new(line).with_two_databases();
    let mut container = site.writing("--every 5000").start();
    container.ready();
    for command in ["wal", "verify", "restore", "sync"] {
        let output = container.exec([command, "nope"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(66), "{command}: {stderr}");
        assert!(site.databases().iter().all(|d| stderr.contains(&*d.file_stem().unwrap().to_string_lossy())), "{command}: {stderr}");
    }
    assert_eq!(container.stop(), 0);
}

fn options_of_pid_1_and_files_of_secrets_hold_for_docker_exec(line: Line) {
    let Some(server) = Server::start() else { return };
    let site = Site::new(line).in_bucket_of(&server, "exec");
    for (name, secret) in [("id", s3::KEY), ("secret", s3::SECRET)] {
        fs::write(site.path(name), format!("{secret}\n")).unwrap();
    }
    let recipe = site
        .recipe()
        .without("LITESTREAM_ACCESS_KEY_ID")
        .without("LITESTREAM_SECRET_ACCESS_KEY")
        .without("LITESTREAM_ENTRY_RUNTIME_DIR")
        .env("LITESTREAM_ACCESS_KEY_ID_FILE", site.path("id"))
        .env("LITESTREAM_SECRET_ACCESS_KEY_FILE", site.path("secret"))
        .arguments(["--runtime-dir".as_ref(), site.path("other").as_os_str()])
        .app(site.writer("--every 5000"));
    let mut container = recipe.start();
    container.ready();
    let output = container.exec(["verify", "default"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = container.exec(["wal", "default"]);
    assert!(output.status.success(), "{}", said(&output));
    for entry in fs::read_dir(site.path("other")).unwrap() {
        let text = fs::read(entry.unwrap().path()).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains(s3::SECRET), "a secret in the runtime directory");
    }
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

fn sync_waits_until_everything_is_in_the_replica(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 3000").start();
    container.ready();
    for _ in 0..3 {
        let before = site.acknowledged();
        let output = container.exec(["sync", "--all"]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(site.backed_up() >= before, "row {before} is in the backup");
    }
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

fn without_a_pid_1_commands_leave_nothing_behind(line: Line) {
    let site = Site::new(line);
    let temporary = site.path("tmp");
    fs::create_dir_all(&temporary).unwrap();
    for command in ["databases", "config"] {
        let output = Command::new(crate::support::entry())
            .arg(command)
            .env_clear()
            .envs([("PATH", SEARCH_PATH.as_ref()), ("TMPDIR", temporary.as_os_str())])
            .env("LITESTREAM_BIN", line.binary())
            .env("DATABASE_PATH", site.database())
            .env("LITESTREAM_REPLICA_URL", "file:///nowhere/replica")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    let left = |path: &Path| fs::read_dir(path).map_or(0, |entries| entries.flatten().filter(|e| e.file_name() != "lock").count());
    assert_eq!(left(&temporary), 0);
}

fn init_overwrites_only_what_it_wrote(line: Line) {
    let site = Site::new(line);
    let file = site.path("litestream.yml");
    let init = |more: &[&str]| {
        Command::new(crate::support::entry())
            .args(["init", "-config"])
            .arg(&file)
            .args(more)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LITESTREAM_BIN", line.binary())
            .env("DATABASE_PATH", site.database())
            .env("LITESTREAM_REPLICA_URL", "file:///nowhere/replica")
            .output()
            .unwrap()
    };
    assert!(init(&[]).status.success() && init(&[]).status.success(), "its own file is written anew");
    let databases = Command::new(line.binary()).args(["databases", "-no-expand-env", "-config"]).arg(&file).output().unwrap();
    assert!(String::from_utf8_lossy(&databases.stdout).contains("app.db"), "{}", said(&databases));
    fs::write(&file, "dbs: []\n").unwrap();
    let refused = init(&[]);
    assert_eq!(refused.status.code(), Some(78), "{}", said(&refused));
    assert_eq!(fs::read_to_string(&file).unwrap(), "dbs: []\n");
    assert!(init(&["--force"]).status.success());
}

fn the_app_gets_its_paths_on_request(line: Line) {
    let site = Site::new(line).with_two_databases();
    let shown = |recipe: crate::support::container::Recipe| {
        let (code, container) = recipe.shell("env").run();
        assert_eq!(code, 0, "{}", container.stderr());
        String::from_utf8_lossy(&container.stdout()).into_owned()
    };
    assert!(!shown(site.recipe()).contains("LITESTREAM_DB_PATH"));
    let env = shown(site.recipe().env("LITESTREAM_ENTRY_EXPORT_PATHS", "true"));
    for database in site.databases() {
        let alias = database.file_stem().unwrap().to_string_lossy().to_uppercase();
        assert!(env.lines().any(|l| l == format!("LITESTREAM_DB_PATH_{alias}={}", database.display())), "{env}");
    }
    assert!(env.lines().any(|l| l == format!("LITESTREAM_DB_PATH={}", site.database().display())), "{env}");
}
