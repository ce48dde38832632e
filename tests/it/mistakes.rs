//! Bad input of every kind gets one clear line and the right code, never a panic, and never an app.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::container::Recipe;
use crate::support::site::Site;
use crate::support::{Line, lines};

both_lines!(
    a_boot_without_an_app_says_how_to_name_one,
    an_option_that_nobody_knows_is_refused,
    a_directory_in_the_place_of_a_database_is_refused,
    database_in_a_directory_that_is_a_file,
    a_url_that_is_none_is_refused,
    a_url_of_no_replica_type_is_refused,
    a_bucket_without_a_database_is_refused,
    keys_without_a_bucket_are_refused,
    two_databases_on_one_replica_are_refused,
    two_databases_of_one_alias_are_refused,
    a_setting_that_nobody_knows_is_refused_with_the_nearest,
    a_value_that_is_not_understood_is_refused_by_its_variable,
    all_mistakes_are_named_at_once,
    secrets_are_not_shown,
    a_litestream_that_is_not_there_is_refused_by_its_path,
    a_litestream_that_cannot_be_run_is_refused_by_its_path,
    another_program_in_litestreams_place_is_refused,
    an_app_without_configuration_runs_plainly_and_that_is_said,
    what_is_required_and_not_configured_is_refused,
    what_was_to_be_encrypted_is_never_uploaded_in_plain_text,
    a_path_by_which_litestream_opens_another_file_is_refused,
    a_path_that_only_looks_odd_is_saved,
);

/// An app that must not run.
fn app(site: &Site, recipe: Recipe) -> Recipe {
    recipe.shell(&format!("echo ran > {}", site.path("ran").display()))
}

/// One line that says `word`, that code, and the app has not run.
#[track_caller]
fn refused(site: &Site, recipe: Recipe, codes: &[i32], words: &[&str]) {
    let (code, container) = recipe.run();
    let stderr = container.stderr();
    assert!(codes.contains(&code), "code {code}, not {codes:?}: {stderr}");
    assert!(!site.path("ran").exists(), "the app never ran");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(lines(&stderr).len(), 1, "one clear line: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "it names {word}: {stderr}");
    }
    assert!(container.stdout().is_empty(), "stdout is the app's");
}

fn a_boot_without_an_app_says_how_to_name_one(line: Line) {
    let site = Site::new(line);
    for words in [&[][..], &["--"]] {
        let (code, container) = site.recipe().arguments(words).run();
        let stderr = container.stderr();
        assert_eq!(code, 64, "{stderr}");
        assert!(!stderr.contains("panicked") && !lines(&stderr).is_empty(), "{stderr}");
    }
}

fn an_option_that_nobody_knows_is_refused(line: Line) {
    let site = Site::new(line);
    for words in [&["--no-such-option", "true"][..], &["verify", "--no-such-option"], &["restore"]] {
        let (code, container) = site.recipe().arguments(words).run();
        let stderr = container.stderr();
        assert_eq!(code, 64, "{words:?}: {stderr}");
        assert!(!stderr.contains("panicked") && !lines(&stderr).is_empty(), "{stderr}");
    }
}

fn a_directory_in_the_place_of_a_database_is_refused(line: Line) {
    let site = Site::new(line);
    fs::create_dir(site.database()).expect("a directory");
    let (code, container) = app(&site, site.recipe()).run();
    let stderr = container.stderr();
    assert!([65, 78].contains(&code), "{code}: {stderr}");
    assert!(!site.path("ran").exists(), "the app never ran");
    let last = lines(&stderr).last().copied().unwrap_or_default();
    assert!(last.contains("app.db") && last.contains("directory"), "{stderr}");
}

fn database_in_a_directory_that_is_a_file(line: Line) {
    let site = Site::new(line);
    fs::write(site.path("file"), "").expect("a file");
    let recipe = site.recipe().env("DATABASE_PATH", site.path("file/app.db"));
    let (code, container) = app(&site, recipe).run();
    let stderr = container.stderr();
    assert!([65, 66, 71, 78].contains(&code), "{code}: {stderr}");
    assert!(!site.path("ran").exists(), "the app never ran");
    let last = lines(&stderr).last().copied().unwrap_or_default();
    let path = site.path("file");
    assert!(last.contains(path.to_str().expect("a name")), "{stderr}");
}

fn a_url_that_is_none_is_refused(line: Line) {
    let site = Site::new(line);
    for url in ["not a url", "s3//bucket/path", "://bucket", "s3://", "file://"] {
        let recipe = app(&site, site.recipe().env("LITESTREAM_REPLICA_URL", url));
        refused(&site, recipe, &[78], &["LITESTREAM_REPLICA_URL"]);
    }
}

fn a_url_of_no_replica_type_is_refused(line: Line) {
    let site = Site::new(line);
    let recipe = app(&site, site.recipe().env("LITESTREAM_REPLICA_URL", "gopher://host/path"));
    refused(&site, recipe, &[78], &["LITESTREAM_REPLICA_URL"]);
}

fn a_bucket_without_a_database_is_refused(line: Line) {
    let site = Site::new(line);
    let recipe = site.plain_recipe().env("LITESTREAM_REPLICA_BUCKET", "bucket");
    refused(&site, app(&site, recipe), &[78], &["LITESTREAM_REPLICA_BUCKET"]);
}

fn keys_without_a_bucket_are_refused(line: Line) {
    let site = Site::new(line);
    let recipe = site.recipe().without("LITESTREAM_REPLICA_URL");
    let recipe = recipe.env("LITESTREAM_ACCESS_KEY_ID", "id").env("LITESTREAM_SECRET_ACCESS_KEY", "s3cret");
    refused(&site, app(&site, recipe), &[78], &[]);
}

fn two_databases_on_one_replica_are_refused(line: Line) {
    let site = Site::new(line);
    let databases = format!("a={},b={}", site.path("x/app.db").display(), site.path("y/app.db").display());
    let recipe = site.recipe().without("DATABASE_PATH").env("LITESTREAM_DBS", databases);
    refused(&site, app(&site, recipe), &[78], &["LITESTREAM_REPLICA_URL", "share"]);
}

fn two_databases_of_one_alias_are_refused(line: Line) {
    let site = Site::new(line);
    let databases = format!("a={},a={}", site.path("one.db").display(), site.path("two.db").display());
    let recipe = site.recipe().without("DATABASE_PATH").env("LITESTREAM_DBS", databases);
    refused(&site, app(&site, recipe), &[78], &["LITESTREAM_DBS"]);
}

fn a_setting_that_nobody_knows_is_refused_with_the_nearest(line: Line) {
    let site = Site::new(line);
    let recipe = app(&site, site.recipe().env("LITESTREAM_ENTRY_STOP_TIMOUT", "5s"));
    refused(&site, recipe, &[78], &["LITESTREAM_ENTRY_STOP_TIMOUT", "LITESTREAM_ENTRY_STOP_TIMEOUT"]);
}

fn a_value_that_is_not_understood_is_refused_by_its_variable(line: Line) {
    let site = Site::new(line);
    let values = [
        ("LITESTREAM_ENTRY_STOP_TIMEOUT", "soon"),
        ("LITESTREAM_ENTRY_STOP_TIMEOUT", "-3s"),
        ("LITESTREAM_ENTRY_RESTORE_TIMEOUT", "99999999999999999999999s"),
        ("LITESTREAM_ENTRY_RESTORE", "perhaps"),
        ("LITESTREAM_ENTRY_LOCK", "padlock"),
        ("LITESTREAM_DBS", "="),
    ];
    for (name, value) in values {
        refused(&site, app(&site, site.recipe().env(name, value)), &[78], &[name]);
    }
}

/// Each of them is named.
fn all_mistakes_are_named_at_once(line: Line) {
    let site = Site::new(line);
    let recipe = site.recipe().env("LITESTREAM_ENTRY_STOP_TIMEOUT", "soon");
    let recipe = recipe.env("LITESTREAM_ENTRY_RESTORE", "perhaps").env("LITESTREAM_REPLICA_URL", "gopher://h");
    let (code, container) = app(&site, recipe).run();
    let stderr = container.stderr();
    assert_eq!(code, 78, "{stderr}");
    for name in ["LITESTREAM_ENTRY_STOP_TIMEOUT", "LITESTREAM_ENTRY_RESTORE", "LITESTREAM_REPLICA_URL"] {
        assert!(stderr.contains(name), "{name}: {stderr}");
    }
}

fn secrets_are_not_shown(line: Line) {
    let site = Site::new(line);
    let recipe = site.recipe().without("DATABASE_PATH");
    let recipe = recipe.env("LITESTREAM_REPLICA_URL", "sftp://user:hunter2@host/path?secret=hunter2");
    let recipe = recipe.env("LITESTREAM_SECRET_ACCESS_KEY", "hunter2").env("LITESTREAM_ENTRY_RESTORE", "perhaps");
    let (code, container) = app(&site, recipe).run();
    assert_eq!(code, 78, "{}", container.stderr());
    assert!(!container.stderr().contains("hunter2"), "{}", container.stderr());
}

fn a_litestream_that_is_not_there_is_refused_by_its_path(line: Line) {
    let site = Site::new(line);
    let recipe = app(&site, site.recipe().env("LITESTREAM_BIN", "/no/such/litestream"));
    refused(&site, recipe, &[78], &["/no/such/litestream"]);
}

fn a_litestream_that_cannot_be_run_is_refused_by_its_path(line: Line) {
    let site = Site::new(line);
    let path = site.path("litestream");
    fs::write(&path, "#!/bin/sh\n").expect("a file");
    let recipe = app(&site, site.recipe().env("LITESTREAM_BIN", &path));
    refused(&site, recipe, &[78], &[path.to_str().expect("a name")]);
}

fn another_program_in_litestreams_place_is_refused(line: Line) {
    let site = Site::new(line);
    let talker = site.path("talker");
    fs::write(&talker, "#!/bin/sh\necho hello\n").expect("a script");
    fs::set_permissions(&talker, fs::Permissions::from_mode(0o755)).expect("its mode");
    for program in ["/bin/true", "/bin/false", talker.to_str().expect("a name")] {
        let recipe = app(&site, site.recipe().env("LITESTREAM_BIN", program));
        refused(&site, recipe, &[78], &[program]);
    }
}

/// Then it is a plain init, and says so.
fn an_app_without_configuration_runs_plainly_and_that_is_said(line: Line) {
    let site = Site::new(line);
    let (code, container) = site.plain_recipe().shell("exit 9").run();
    let stderr = container.stderr();
    assert_eq!(code, 9, "{stderr}");
    assert_eq!(lines(&stderr).len(), 1, "one line says that nothing is replicated: {stderr}");
    assert!(stderr.to_lowercase().contains("replicat"), "{stderr}");
}

fn what_is_required_and_not_configured_is_refused(line: Line) {
    let site = Site::new(line);
    let recipe = site.plain_recipe().env("LITESTREAM_ENTRY_REQUIRED", "true");
    refused(&site, app(&site, recipe), &[78], &["LITESTREAM_ENTRY_REQUIRED"]);
}

/// 0.5 has no encryption: a replica that was to have one gets nothing, wherever that was written. On 0.3 what is malformed is refused.
fn what_was_to_be_encrypted_is_never_uploaded_in_plain_text(line: Line) {
    let recipient = match line {
        Line::V05 => "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
        Line::V03 => "age1malformed",
    };
    let age = format!("\"age\": {{\"identities\": [\"AGE-SECRET-KEY-1BAD\"], \"recipients\": [\"{recipient}\"]}}");
    for here in [false, true] {
        let site = Site::new(line);
        if here {
            rusqlite::Connection::open(site.database()).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        }
        let replica = site.replica();
        let key = if line == Line::V05 { "replica" } else { "replicas" };
        let inner = format!("{{\"type\": \"file\", \"path\": \"{}\", {age}}}", replica.display());
        let inner = if line == Line::V05 { inner } else { format!("[{inner}]") };
        let list = format!("[{{\"path\": \"{}\", \"{key}\": {inner}}}]", site.database().display());
        let file = site.path("own.yml");
        fs::write(&file, format!("dbs: {list}\n")).unwrap();
        let app = format!("echo ran > {}", site.path("ran").display());
        let recipe = || site.plain_recipe().env("LITESTREAM_ENTRY_RESTORE_TIMEOUT", "30s");
        let ways =
            [recipe().env("LITESTREAM_DBS", &list), recipe().env("LITESTREAM_EXTEND_DBS", &list), recipe().env("LITESTREAM_CONFIG", &file)];
        for way in ways {
            let (code, container) = way.shell(&app).run();
            let said = container.stderr();
            assert!(code == 78 && (said.contains("age") || said.contains("malformed")), "{code}: {said}");
            assert!(!said.contains("AGE-SECRET") && !said.contains("trying again"), "{said}");
            assert!(!site.path("ran").exists() && !replica.exists(), "{said}");
        }
    }
}

/// The rest of such a path is an option or an escape to Litestream's driver, which then holds its lock on another file.
fn a_path_by_which_litestream_opens_another_file_is_refused(line: Line) {
    let names: &[&str] = if line == Line::V05 { &["a?b.db", "a#b.db", "a%41.db", "d?x/app.db"] } else { &["a?b.db", "d?x/app.db"] };
    for name in names {
        let site = Site::new(line);
        let path = site.path("data").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let shown = path.to_str().unwrap();
        let recipe = || site.recipe().without("DATABASE_PATH");
        refused(&site, app(&site, recipe().env("DATABASE_PATH", &path)), &[78], &["DATABASE_PATH", shown, "rename"]);
        refused(&site, app(&site, recipe().env("LITESTREAM_DBS", &path)), &[78], &["LITESTREAM_DBS", shown, "rename"]);
        let escaped = shown.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let url = format!("sqlite:///{escaped}?mode=rwc");
        refused(&site, app(&site, recipe().env("DATABASE_URL", url)), &[78], &["DATABASE_URL", shown, "rename"]);
        let file = site.path("own.yml");
        let replica = format!("{{type: file, path: '{}'}}", site.replica().display());
        fs::write(&file, format!("dbs:\n  - path: '{shown}'\n    replicas: [{replica}]\n")).unwrap();
        let (code, container) = app(&site, site.plain_recipe().env("LITESTREAM_CONFIG", &file)).run();
        let said = container.stderr();
        assert!(code == 78 && said.contains("own.yml:2:5: path: ") && said.contains("rename"), "{code}: {said}");
        assert!(!site.path("ran").exists() && !site.replica().exists(), "{said}");
    }
}

fn a_path_that_only_looks_odd_is_saved(line: Line) {
    let names: &[&str] = if line == Line::V05 { &["100%.db", "a&b; c'd.db"] } else { &["a#b.db", "a%41.db"] };
    for name in names {
        let site = Site::new(line).with_databases(&[name]);
        let mut container = site.writing("--every 2000").start();
        container.ready();
        site.write_on(100);
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        site.assert_saved();
    }
    // Drizzle's spelling, with options that are the app's alone.
    let site = Site::new(line);
    let url = format!("file:{}?mode=rwc", site.database().display());
    let mut container = site.writing("--every 2000").env("DATABASE_PATH", url).start();
    container.ready();
    site.write_on(100);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}
