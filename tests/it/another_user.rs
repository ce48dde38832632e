//! `LITESTREAM_ENTRY_USER`: PID 1 is root, and nobody else is.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crate::support::container::{Recipe, said};
use crate::support::pty::Terminal;
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, lines, root, when};

both_lines!(
    signals_arrive_without_the_capability_to_send_them_to_everybody,
    so_they_do_where_the_app_changes_its_user_itself,
    a_signal_that_cannot_be_sent_is_said,
    stdin_stdout_and_stderr_can_be_opened_by_name,
    what_is_lacking_is_named_before_anything_starts,
    an_image_without_the_directory_that_ours_is_in_is_good_for_another_user,
    who_may_not_enter_our_directory_is_named_at_the_start,
    root_without_its_rights_finds_the_boot_of_another_user
);

/// Of Debian.
const NOBODY: u32 = 65534;

/// What the documentation says that it takes.
const NEEDED: [&str; 4] = ["chown", "dac_override", "setgid", "setuid"];

/// A place whose data and replica are nobody's, while the rest is root's; none where this is not root.
fn site_of_nobody(line: Line) -> Option<Site> {
    if !root() {
        return None;
    }
    let site = Site::new(line);
    for folder in ["data", "replica"] {
        fs::create_dir_all(site.path(folder)).unwrap();
        chown(site.path(folder), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    // The app leaves its handshake there.
    fs::set_permissions(site.path("."), fs::Permissions::from_mode(0o777)).unwrap();
    Some(site)
}

/// Root with these capabilities alone, as by `cap_drop: ALL` and `cap_add`.
fn with_capabilities(recipe: Recipe, all: &[&str]) -> Recipe {
    let set: Vec<String> = ["-all".to_owned()].into_iter().chain(all.iter().map(|each| format!("+{each}"))).collect();
    recipe.env("LITESTREAM_ENTRY_USER", "nobody").behind(&["setpriv", &format!("--bounding-set={}", set.join(","))])
}

fn signals_arrive_without_the_capability_to_send_them_to_everybody(line: Line) {
    let Some(site) = site_of_nobody(line) else { return };
    let recipe = |recipe: Recipe| with_capabilities(recipe, &NEEDED).env("LITESTREAM_ENTRY_STOP_TIMEOUT", "30s");
    let mut container = recipe(site.writing("--every 1000")).start();
    container.ready();
    site.write_on(300);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
    // An app that takes no TERM, and a daemon of it in a session of its own, that takes none either.
    let deaf = "trap '' TERM; echo > $0; while :; do sleep 0.05; done";
    let script = format!("setsid sh -c \"{}\" {} & {deaf}", deaf.replace('$', "\\$"), site.path("daemon").display());
    let mut container =
        recipe(site.recipe().shell(&script).arguments([site.ready_file()])).env("LITESTREAM_ENTRY_STOP_TIMEOUT", "4s").start();
    container.ready();
    eventually("the daemon runs", PATIENCE, || when(site.path("daemon").exists()));
    assert_eq!(container.stop(), 137, "{}", container.stderr());
    let said = container.stderr();
    assert!(!said.contains("NOT SAVED") && !said.contains("not permitted"), "{said}");
}

/// An app that becomes somebody by itself, as by gosu.
fn so_they_do_where_the_app_changes_its_user_itself(line: Line) {
    let Some(site) = site_of_nobody(line) else { return };
    let drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(OsString::from);
    let words: Vec<OsString> = drop.into_iter().chain(site.writer("--every 1000")).collect();
    let of_root = |all: &[&str]| with_capabilities(site.recipe().app(&words), all).without("LITESTREAM_ENTRY_USER");
    let mut container = of_root(&NEEDED).start();
    container.ready();
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

fn a_signal_that_cannot_be_sent_is_said(line: Line) {
    let Some(site) = site_of_nobody(line) else { return };
    let set_user_id = site.path("python");
    fs::copy(fs::canonicalize("/usr/bin/python3").unwrap(), &set_user_id).unwrap();
    fs::set_permissions(&set_user_id, fs::Permissions::from_mode(0o4755)).unwrap();
    let script = "import os, sys, time; os.setresuid(0, 0, 0); open(sys.argv[1], 'w'); time.sleep(1000)";
    let words = [set_user_id.as_os_str(), "-c".as_ref(), script.as_ref(), site.ready_file().as_os_str()].map(ToOwned::to_owned);
    let mut container = site.recipe().env("LITESTREAM_ENTRY_STOP_TIMEOUT", "2s").app(words).of_user(NOBODY).start();
    container.ready();
    assert_eq!(container.stop(), 137, "{}", container.stderr());
    let said = container.stderr();
    for signal in [15, 9] {
        assert!(said.contains(&format!("the app cannot be signalled ({signal}): Operation not permitted")), "{said}");
    }
    assert!(said.contains("NOT SAVED: "), "{said}");
}

/// As nginx, httpd and php-fpm do it for their logs.
fn stdin_stdout_and_stderr_can_be_opened_by_name(line: Line) {
    let Some(site) = site_of_nobody(line) else { return };
    let recipe = || site.recipe().env("LITESTREAM_ENTRY_USER", "nobody");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let by_name = "echo by-name > /dev/stderr && echo by-number > /proc/self/fd/2 || exit 9; : < /dev/null";
    let mut container = recipe().shell(by_name).start_with_stderr(writer);
    assert_eq!(container.wait(PATIENCE), 0);
    let mut said = String::new();
    File::from(reader).read_to_string(&mut said).unwrap();
    assert!(said.contains("by-name\n") && said.contains("by-number\n"), "{said}");
    // What is everybody's stays root's.
    assert_eq!(fs::metadata("/dev/null").unwrap().uid(), 0);

    let (code, container) = recipe().shell("echo in-a-file >> /dev/stdout").run();
    assert_eq!((code, container.stdout().as_slice()), (0, b"in-a-file\n".as_slice()), "{}", container.stderr());

    let mut terminal = Terminal::new();
    let script =
        "echo out > /dev/stdout && echo err > /dev/stderr && read line < /dev/stdin && echo \"=$line=\" > /proc/self/fd/1 || exit 9";
    let mut container = recipe().shell(script).start_on(&terminal.line);
    terminal.typed("typed\n");
    assert_eq!(container.wait(PATIENCE), 0, "{}", terminal.screen());
    for word in ["out", "err", "=typed="] {
        terminal.shows(word);
    }
}

fn what_is_lacking_is_named_before_anything_starts(line: Line) {
    let Some(site) = site_of_nobody(line) else { return };
    for lacking in NEEDED {
        let rest: Vec<&str> = NEEDED.into_iter().filter(|each| *each != lacking).collect();
        let (code, refused) = with_capabilities(site.recipe().app(["true"]), &rest).run();
        let said = refused.stderr();
        let named = format!("LITESTREAM_ENTRY_USER: nobody: root lacks CAP_{} here", lacking.to_uppercase());
        assert!(code == 71 && said.contains(&named) && lines(&said).len() == 1, "{code}: {said}");
    }
    // Root of a namespace of its own, in which there is nobody else.
    let alone = ["unshare", "--user", "--map-root-user"];
    let (code, refused) = site.recipe().env("LITESTREAM_ENTRY_USER", "nobody").app(["true"]).behind(&alone).run();
    let said = refused.stderr();
    let named = "LITESTREAM_ENTRY_USER: nobody: root cannot become that user here: this user namespace denies setgroups";
    assert!(code == 71 && said.contains(named) && lines(&said).len() == 1, "{code}: {said}");
    // Who it is already, it may be without anything.
    for (user, code) in [("root", 0), ("0:0", 0)] {
        let recipe = site.plain_recipe().env("LITESTREAM_ENTRY_USER", user).shell("exit 0").behind(&alone);
        let (ended_with, container) = recipe.run();
        assert_eq!(ended_with, code, "{user}: {}", container.stderr());
    }
    for (user, code) in [("4711", 0), ("4711:4711", 0), ("4711:4712", 71), ("nobody", 71)] {
        let recipe = site.plain_recipe().env("LITESTREAM_ENTRY_USER", user).shell("exit 0").of_user(4711);
        let (ended_with, container) = recipe.run();
        assert_eq!(ended_with, code, "{user}: {}", container.stderr());
    }
}

fn an_image_without_the_directory_that_ours_is_in_is_good_for_another_user(line: Line) {
    let Some(site) = site_of_nobody(line) else { return };
    let recipe = |recipe: Recipe| {
        let recipe = recipe.env("LITESTREAM_ENTRY_USER", "nobody").env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("none/run/ours"));
        recipe.behind(&["sh", "-c", "umask 077; exec \"$@\"", "sh"])
    };
    let mut container = recipe(site.writing("--every 2000")).start();
    container.ready();
    site.write_on(200);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
    assert_eq!(fs::metadata(site.path("none/run")).unwrap().permissions().mode() & 0o777, 0o755);
}

fn who_may_not_enter_our_directory_is_named_at_the_start(line: Line) {
    let Some(site) = site_of_nobody(line) else { return };
    fs::create_dir(site.path("closed")).unwrap();
    fs::set_permissions(site.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let recipe = site.recipe().env("LITESTREAM_ENTRY_USER", "nobody").env("LITESTREAM_ENTRY_RUNTIME_DIR", site.path("closed/run"));
    let (code, container) = recipe.app(["true"]).run();
    let said = container.stderr();
    let last = lines(&said).last().copied().unwrap_or_default();
    assert!(code == 71 && last.contains("LITESTREAM_ENTRY_USER") && last.contains("closed/run"), "{code}: {said}");
}

/// As where an engine gives `docker exec` or a HEALTHCHECK fewer rights than the container.
fn root_without_its_rights_finds_the_boot_of_another_user(line: Line) {
    let Some(site) = site_of_nobody(line) else { return };
    let mut container = site.writing("--every 2000").env("LITESTREAM_ENTRY_USER", "nobody").start();
    container.ready();
    site.write_on(200);
    for rights in [&["-all", "+setuid", "+setgid"][..], &["-all"]] {
        let by = ["setpriv", &format!("--bounding-set={}", rights.join(",")), "--inh-caps=-all"];
        eventually("health is 0", PATIENCE, || when(container.exec_by(&by, ["health"]).status.success()));
        let status = container.exec_by(&by, ["status"]);
        assert!(status.status.success(), "{}", said(&status));
    }
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    // A container that is another user's from its start, whose directory nobody else may enter.
    fs::remove_dir_all(site.path("run")).unwrap();
    let mut container = site.writing("--every 2000").of_user(NOBODY).start();
    container.ready();
    let by = ["setpriv", "--bounding-set=-all,+setuid,+setgid", "--inh-caps=-all"];
    eventually("health is 0", PATIENCE, || when(container.exec_by(&by, ["health"]).status.success()));
    let verified = container.exec_by(&by, ["verify", "default"]);
    assert!(verified.status.success(), "{}", said(&verified));
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}
