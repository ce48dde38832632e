//! Secrets of any bytes work, and are nowhere to be seen: not in output, argv, log or runtime directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::container::{Container, Recipe, said};
use crate::support::server::{self, Daemon};
use crate::support::site::Site;
use crate::support::{Line, process};

both_lines!(
    keys_of_any_bytes_work_and_are_nowhere,
    canaries_in_every_variable_are_nowhere,
    a_secret_for_one_database_is_in_a_private_file,
    the_app_does_not_see_the_replicas_credentials_where_it_need_not,
    keys_that_a_killed_life_left_are_gone_at_the_next_start,
    a_password_in_an_endpoint_is_refused_by_the_name_of_its_variable,
    what_stands_behind_a_misspelt_key_is_nowhere,
);

/// What a provider may issue, and what YAML, a shell, a URL or `os.Expand` would make something else of.
const ODD: &str = "$s3cr€t: \"q\" 'a' #c @x %41 \\n {y} ${HOME} `z`";

/// Every variable that may hold a secret; the ones of no provider last, so that they are what is used.
const CANARIES: &[&str] = &[
    "R2_ACCESS_KEY_ID",
    "R2_SECRET_ACCESS_KEY",
    "CLOUDFLARE_R2_SECRET_ACCESS_KEY",
    "B2_APPLICATION_KEY",
    "B2_ACCOUNT_KEY",
    "MINIO_SECRET_KEY",
    "MINIO_ROOT_PASSWORD",
    "DO_SPACES_SECRET",
    "SPACES_SECRET_ACCESS_KEY",
    "HETZNER_S3_SECRET_KEY",
    "SCW_SECRET_KEY",
    "SUPABASE_S3_SECRET_ACCESS_KEY",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "LITESTREAM_AZURE_ACCOUNT_KEY",
    "LITESTREAM_REPLICA_PASSWORD",
    "LITESTREAM_REPLICA_WEBDAV_PASSWORD",
    "LITESTREAM_REPLICA_TOKEN",
    "LITESTREAM_REPLICA_JWT",
    "LITESTREAM_REPLICA_SSE_CUSTOMER_KEY",
    "LITESTREAM_REPLICA_ACCOUNT_KEY",
    "LITESTREAM_REPLICA_SAS_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LITESTREAM_ACCESS_KEY_ID",
    "LITESTREAM_SECRET_ACCESS_KEY",
    "LITESTREAM_USERNAME",
    "LITESTREAM_PASSWORD",
];

const COMMANDS: &[&[&str]] = &[
    &["verify", "default"],
    &["verify", "--json", "default"],
    &["sync", "default"],
    &["restore", "-o", "/nowhere/x", "default"],
    &["config"],
    &["config", "--explain"],
    &["config", "--json"],
    &["config", "--check"],
    &["version"],
    &["databases"],
    &["generations", "default"],
    &["snapshots", "default"],
    &["wal", "default"],
    &["ltx", "default"],
    &["status"],
    &["info"],
    &["list"],
    &["nonsense", "nope"],
    &["--help"],
];

/// Looks everywhere for what must be nowhere.
#[track_caller]
fn assert_nowhere(site: &Site, container: &Container, secrets: &[String], files_too: bool) {
    let look = |place: &str, text: &str| {
        for secret in secrets {
            assert!(!text.contains(secret.as_str()), "a secret is in {place}");
        }
    };
    for command in COMMANDS {
        look(&command.join(" "), &said(&container.exec(*command)));
    }
    look("the log", &container.stderr());
    for process in process::descendants(container.pid1()).iter().map(|p| p.pid).chain([container.pid1()]) {
        let argv = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        look("an argv", &String::from_utf8_lossy(&argv));
    }
    for entry in fs::read_dir(site.path("run")).expect("a runtime directory").flatten() {
        let mode = entry.metadata().expect("its mode").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is for others, too", entry.path().display());
        if files_too {
            look(&entry.path().display().to_string(), &String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()));
        }
    }
}

fn running(recipe: Recipe) -> Container {
    let mut container = recipe.start();
    container.ready();
    container
}

/// rclone checks S3's signatures: a key that is off by a byte is refused.
fn keys_of_any_bytes_work_and_are_nowhere(line: Line) {
    let Some(rclone) = server::program("rclone") else { return };
    let directory = server::directory("odd");
    fs::create_dir_all(directory.path().join("data/bucket")).unwrap();
    let port = server::free_ports();
    let mut daemon = Daemon::start(&rclone, directory.path(), |command| {
        command.args(["serve", "s3", "--config", "/dev/null", "--addr", &format!("127.0.0.1:{port}")]);
        command.args(["--auth-key", &format!("canary-id,{ODD}"), "data"]);
    });
    daemon.ready(|| server::connect(port).is_ok());
    let site = Site::new(line);
    fs::write(site.path("secret"), format!("{ODD}\n")).unwrap();
    for from_file in [false, true] {
        let recipe = site
            .recipe()
            .env("LITESTREAM_REPLICA_URL", format!("s3://bucket/app-{from_file}?endpoint=http://127.0.0.1:{port}&region=us-east-1"))
            .env("LITESTREAM_ACCESS_KEY_ID", "canary-id");
        let recipe = if from_file {
            recipe.env("LITESTREAM_SECRET_ACCESS_KEY_FILE", site.path("secret"))
        } else {
            recipe.env("LITESTREAM_SECRET_ACCESS_KEY", ODD)
        };
        let mut container = running(recipe.app(site.writer("--every 5000")));
        let proved = container.exec(["verify", "default"]);
        assert!(proved.status.success(), "{}", said(&proved));
        assert_nowhere(&site, &container, &[ODD.into(), "canary-id".into()], true);
        assert_eq!(container.stop(), 0);
    }
}

fn canaries_in_every_variable_are_nowhere(line: Line) {
    let site = Site::new(line);
    let mut recipe = site.writing("--every 5000");
    let canary = |name: &str| format!("canary{}", name.to_lowercase().replace('_', ""));
    for name in CANARIES {
        let value = match *name {
            "AZURE_STORAGE_CONNECTION_STRING" => format!("AccountName=a;AccountKey={}", canary(name)),
            name => canary(name),
        };
        recipe = recipe.env(name, value);
    }
    let mut container = running(recipe);
    let secrets: Vec<String> = CANARIES.iter().map(|name| canary(name)).collect();
    assert_nowhere(&site, &container, &secrets, true);
    assert_eq!(container.stop(), 0);
    // A mistake in one is reported without it.
    for name in CANARIES {
        let wrong = Command::new(crate::support::entry())
            .args(["--", "true"])
            .env_clear()
            .env("PATH", crate::support::SEARCH_PATH)
            .env("DATABASE_PATH", site.database())
            .env("LITESTREAM_REPLICA_URL", format!("s3://{}:{}@bucket/x", canary(name), canary(name)))
            .env(name, canary(name))
            .env(format!("{name}_FILE"), "/no/such/file")
            .output()
            .unwrap();
        assert_eq!(wrong.status.code(), Some(78), "{name}");
        assert!(!said(&wrong).contains(&canary(name)), "{name}: {}", said(&wrong));
    }
}

fn a_secret_for_one_database_is_in_a_private_file(line: Line) {
    let site = Site::new(line).with_two_databases();
    let stem = site.databases()[1].file_stem().unwrap().to_string_lossy().to_uppercase();
    let recipe = site
        .writing("--every 5000")
        .env(format!("LITESTREAM_REPLICA_URL_{stem}"), "s3://bucket/x?endpoint=http://127.0.0.1:9&region=us-east-1")
        .env(format!("LITESTREAM_ACCESS_KEY_ID_{stem}"), "canary-id")
        .env(format!("LITESTREAM_SECRET_ACCESS_KEY_{stem}"), ODD)
        .env("LITESTREAM_ENTRY_RESTORE", "never")
        .env("LITESTREAM_ENTRY_STOP_TIMEOUT", "2s");
    let mut container = running(recipe);
    let file = fs::read_to_string(site.path("run/litestream.yml")).unwrap();
    assert!(file.contains("canary-id"), "{file}");
    assert_nowhere(&site, &container, &[ODD.into(), "canary-id".into()], false);
    assert_eq!(container.stop(), 74, "the second replica is out of reach");
}

fn the_app_does_not_see_the_replicas_credentials_where_it_need_not(line: Line) {
    let site = Site::new(line);
    let recipe = site
        .writing("--every 5000")
        .env("LITESTREAM_ACCESS_KEY_ID", "canary-id")
        .env("LITESTREAM_SECRET_ACCESS_KEY", "canary-secret")
        .env("AWS_SECRET_ACCESS_KEY", "canary-other")
        .env("SECRET_KEY_BASE", "the app's own")
        .env("LITESTREAM_ENTRY_HIDE_SECRETS", "true");
    let mut container = running(recipe);
    let environment = fs::read(format!("/proc/{}/environ", container.app().pid)).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(
        !environment.contains("canary") && environment.contains("SECRET_KEY_BASE") && environment.contains("DATABASE_PATH"),
        "{environment}"
    );
    let verified = container.exec(["verify", "default"]);
    assert!(verified.status.success(), "{}", said(&verified));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}

/// The runtime directory is in the container's layer, which a restart keeps.
fn keys_that_a_killed_life_left_are_gone_at_the_next_start(line: Line) {
    let site = Site::new(line);
    let run = site.path("run");
    fs::create_dir(&run).unwrap();
    let left = ["litestream-each-77.yml", "last-pass-0.yml", "last-pass-0.log", "elsewhere-1.yml", "plan.yml.77.new", "restoring"];
    for name in left {
        fs::write(run.join(name), "secret-access-key: canary").unwrap();
    }
    fs::write(run.join("somebody-elses.yml"), "").unwrap();
    let mut container = running(site.writing("--every 5000"));
    let gone = |name: &&str| !run.join(name).exists();
    assert!(left.iter().all(gone) && run.join("somebody-elses.yml").exists(), "{:?}", fs::read_dir(&run).unwrap().collect::<Vec<_>>());
    fs::remove_file(run.join("somebody-elses.yml")).unwrap();
    assert_nowhere(&site, &container, &["canary".into()], true);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}

/// Litestream sends it to nobody, and says it in its log.
fn a_password_in_an_endpoint_is_refused_by_the_name_of_its_variable(line: Line) {
    let site = Site::new(line);
    let endpoint = "http://canary-user:canary-secret@127.0.0.1:9";
    let list = |replica: String| format!("[{{\"path\": \"{}\", \"replica\": {replica}}}]", site.database().display());
    for (name, value) in [
        ("LITESTREAM_REPLICA_ENDPOINT", endpoint.to_owned()),
        ("AWS_ENDPOINT_URL_S3", endpoint.to_owned()),
        ("S3_ENDPOINT", "canary-user:canary-secret@127.0.0.1:9".to_owned()),
        ("LITESTREAM_REPLICA_ENDPOINT_DEFAULT", endpoint.to_owned()),
        ("LITESTREAM_REPLICA_URL", format!("s3://bucket/x?endpoint={endpoint}")),
        (
            "LITESTREAM_REPLICA_URL",
            format!("s3://bucket/x?endpoint={}", endpoint.replace(':', "%3A").replace('/', "%2F").replace('@', "%40")),
        ),
        ("LITESTREAM_DBS", list(format!("{{\"type\": \"s3\", \"bucket\": \"b\", \"path\": \"x\", \"endpoint\": \"{endpoint}\"}}"))),
        ("LITESTREAM_DBS", list(format!("{{\"url\": \"s3://b/x?endpoint={endpoint}\"}}"))),
    ] {
        let commands: [&[&str]; 8] = [
            &["--", "true"],
            &["config"],
            &["config", "--explain"],
            &["config", "--json"],
            &["config", "--check"],
            &["status"],
            &["verify", "default"],
            &["init", "--config", "/nowhere/x"],
        ];
        for words in commands {
            let mut command = Command::new(crate::support::entry());
            command.args(words).env_clear().env("PATH", crate::support::SEARCH_PATH).env("LITESTREAM_BIN", site.litestream());
            command.env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("run"));
            if name != "LITESTREAM_DBS" {
                command.env("DATABASE_PATH", site.database());
            }
            if !["LITESTREAM_DBS", "LITESTREAM_REPLICA_URL"].contains(&name) {
                command.env("LITESTREAM_REPLICA_BUCKET", "bucket");
            }
            let output = command.env(name, &value).output().unwrap();
            assert!(!said(&output).contains("canary"), "{name}: {words:?}: a secret is shown");
            assert_eq!(output.status.code(), Some(78), "{name}: {words:?}: {}", said(&output));
            assert!(said(&output).contains(&format!("{name}: a user or password in an endpoint")), "{name}: {words:?}: {}", said(&output));
        }
    }
}

fn what_stands_behind_a_misspelt_key_is_nowhere(line: Line) {
    let site = Site::new(line);
    let replica = site.replica().display().to_string();
    let mistakes = "\"secret-acess-key\": \"canary1\", \"pasword\": 424242424242, \"credentials\": {\"path\": \"canary2\"}, \"keys\": [\"canary3\"], \"canary4/+\": true";
    let replica = format!("{{\"type\": \"file\", \"path\": {replica:?}, {mistakes}}}");
    let replica = match line {
        Line::V05 => format!("\"replica\": {replica}"),
        Line::V03 => format!("\"replicas\": [{replica}]"),
    };
    let list = format!("[{{\"path\": {:?}, {mistakes}, {replica}}}]", site.database().display().to_string());
    let recipe = site.plain_recipe().env("LITESTREAM_DBS", list).app(site.writer("--every 5000"));
    let mut container = running(recipe);
    assert_nowhere(&site, &container, &["canary".into(), "424242424242".into()], false);
    assert!(container.stderr().contains("`secret-acess-key` is ignored"), "{}", container.stderr());
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}
