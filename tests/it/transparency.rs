//! The app cannot tell that it is wrapped: what it sees is compared with what it sees as PID 1 of the
//! same container without the program.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::container::{Recipe, said};
use crate::support::process;
use crate::support::site::{Site, lose};
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    arguments_byte_for_byte,
    environment_byte_for_byte,
    working_directory,
    stdin,
    stdout_is_the_apps_alone,
    signal_mask_and_dispositions,
    limits,
    no_stray_descriptors,
    what_it_is_given_is_the_apps_alone,
    a_socket_that_was_opened_for_the_app_is_the_apps,
    exit_codes,
    deaths_by_signal,
    not_found_is_127,
    not_executable_is_126,
    another_user_may_be_named_and_nothing_is_left_to_root if root,
);

/// The app's output with the program and, the second one, without it.
fn both_outputs(line: Line, app: impl Fn(Recipe) -> Recipe) -> (Vec<u8>, Vec<u8>) {
    let site = Site::new(line);
    let recipe = app(site.recipe());
    let (code, wrapped) = recipe.clone().run();
    assert_eq!(code, 0, "{}", wrapped.stderr());
    let (code, unwrapped) = recipe.unwrapped().run();
    assert_eq!(code, 0, "{}", unwrapped.stderr());
    (wrapped.stdout(), unwrapped.stdout())
}

#[track_caller]
fn assert_same(line: Line, app: impl Fn(Recipe) -> Recipe) -> String {
    let (wrapped, unwrapped) = both_outputs(line, app);
    let (wrapped, unwrapped) = (String::from_utf8_lossy(&wrapped), String::from_utf8_lossy(&unwrapped));
    assert_eq!(wrapped, unwrapped, "with the program (left) and without it (right)");
    wrapped.into_owned()
}

fn arguments_byte_for_byte(line: Line) {
    let long = "x".repeat(100_000);
    let words: Vec<&OsStr> = [
        b"".as_slice(),
        b" ",
        b"a b",
        b"'",
        b"\"",
        b"\\",
        b"$HOME",
        b"${X}",
        b"`id`",
        b";",
        b"&&",
        b"|",
        b"<",
        b">",
        b"*",
        b"?",
        b"~",
        b"(",
        b")",
        b"#",
        b"!",
        b"a\nb",
        b"\t",
        b"--",
        b"-x",
        b"--help",
        b"%s",
        b"\xff\xfe",
        "\u{fc}".as_bytes(),
        long.as_bytes(),
        b"",
    ]
    .map(OsStr::from_bytes)
    .into();
    let script = "cat /proc/$$/cmdline; echo; printf '[%s]\\n' \"$@\"";
    let app = |recipe: Recipe| recipe.shell(script).arguments(["name"]).arguments(&words);
    let (wrapped, unwrapped) = both_outputs(line, app);
    assert!(wrapped.windows(2).any(|bytes| bytes == b"\xff\xfe"), "they arrived");
    assert!(wrapped == unwrapped, "with the program:\n{}", String::from_utf8_lossy(&wrapped));
}

fn environment_byte_for_byte(line: Line) {
    let app = |recipe: Recipe| {
        let recipe = recipe.env("EMPTY", "").env("ODD", OsStr::from_bytes(b"\xff = $HOME\n'\""));
        let recipe = recipe.env("odd.name-1", "x").env("LOG_LEVEL", "debug").env("AWS_CA_BUNDLE", "/ca.pem");
        recipe.app(["/bin/cat", "/proc/self/environ"])
    };
    let (wrapped, unwrapped) = both_outputs(line, app);
    let names = |bytes: &[u8]| {
        let mut all: Vec<_> = bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        all.sort();
        all.iter().map(|it| String::from_utf8_lossy(it).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&wrapped), names(&unwrapped), "with the program (left) and without it (right)");
}

fn working_directory(line: Line) {
    assert_same(line, |recipe| recipe.app(["/bin/pwd", "-P"]));
}

fn stdin(line: Line) {
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(40_000).collect();
    let (wrapped, unwrapped) = both_outputs(line, |recipe| recipe.stdin(&bytes).app(["/bin/cat"]));
    assert_eq!(unwrapped, bytes);
    assert!(wrapped == bytes, "{} bytes came through", wrapped.len());
}

fn stdout_is_the_apps_alone(line: Line) {
    let output = assert_same(line, |recipe| recipe.shell("echo only this; sleep 1.2"));
    assert_eq!(output, "only this\n");
}

fn signal_mask_and_dispositions(line: Line) {
    // glibc's posix_spawn makes its own signals, 32 and 33, ignored, in the test process too, and its sigaction does not touch them;
    // Python ignores two more.
    let clean = "import ctypes, os, platform, sys
number = {'x86_64': 13, 'aarch64': 134}[platform.machine()]
for signal in 13, 25, 32, 33: ctypes.CDLL(None).syscall(number, signal, bytes(32), None, 8)
os.execvp(sys.argv[1], sys.argv[1:])";
    for (ignoring, ignored) in [(None, "SigIgn: 0"), (Some("--ignore-signal=HUP,PIPE,TTOU,RTMAX"), "SigIgn: 8000000000201001")] {
        let words: Vec<&str> = ["/usr/bin/python3", "-c", clean, "env"].into_iter().chain(ignoring).collect();
        let app = |recipe: Recipe| recipe.app(["/bin/cat", "/proc/self/status"]).behind(&words);
        let (wrapped, unwrapped) = both_outputs(line, app);
        let (wrapped, unwrapped) = (status_fields(&wrapped), status_fields(&unwrapped));
        assert_eq!(wrapped, unwrapped, "with the program (left) and without it (right)");
        for set in ["SigBlk: 0", ignored, "SigCgt: 0"] {
            assert!(wrapped.iter().any(|it| it == set), "{set}: {wrapped:?}");
        }
    }
    // Where CHLD is ignored, the kernel throws exit codes away.
    let (code, container) = Site::new(line).recipe().shell("exit 7").behind(&["env", "--ignore-signal=CHLD"]).run();
    assert_eq!(code, 7, "{}", container.stderr());
}

/// The fields that a parent decides on; the others count what happened, or name the process.
fn status_fields(status: &[u8]) -> Vec<String> {
    let inherited = ["Umask", "Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp", "CoreDumping", "THP"];
    let status = String::from_utf8_lossy(status).into_owned();
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    fields
        .filter_map(|(name, value)| match name {
            "SigBlk" | "SigIgn" | "SigCgt" => Some(format!("{name}: {:x}", u64::from_str_radix(value.trim(), 16).ok()?)),
            _ => inherited.iter().any(|it| name.starts_with(it)).then(|| format!("{name}:{value}")),
        })
        .collect()
}

fn limits(line: Line) {
    assert_same(line, |recipe| recipe.shell("cat /proc/$$/limits /proc/$$/oom_score_adj; nice; cat /proc/$$/timerslack_ns"));
}

/// Those that the test process was started with are there in both cases.
fn no_stray_descriptors(line: Line) {
    let script = "ls /proc/$$/fd; ls -l /proc/$$/fd | sed -n s/.*socket.*/socket/p";
    assert_same(line, |recipe| recipe.shell(script));
    // Those of a supervisor or an engine, the number included under which our own helpers find theirs.
    let seen = assert_same(line, |recipe| recipe.shell(script).behind(&GIVING_DESCRIPTORS));
    assert!(["3", "4", "9", "200"].iter().all(|number| seen.lines().any(|each| each == *number)), "{seen}");
}

/// Starts a program with these descriptors open, on files that no other is open on.
const GIVING_DESCRIPTORS: [&str; 4] = ["bash", "-c", "exec 3<>given-3 4<>given-4 9<>given-9 200<>given-200; exec \"$@\"", "bash"];

fn what_it_is_given_is_the_apps_alone(line: Line) {
    let site = Site::new(line);
    let mut container = site.writing("--every 1000").behind(&GIVING_DESCRIPTORS).start();
    container.ready();
    site.write_on(100);
    let given = |pid: i32| {
        let links =
            fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().contains("/given-")).count()
    };
    assert_eq!(given(container.app().pid), 4);
    let app = container.app().pid;
    for process in container.processes().iter().filter(|process| process.pid != app) {
        assert_eq!(given(process.pid), 0, "{process:?}");
    }
    // Whoever is at a pipe's or socket's other end sees when the app closes its own.
    assert_eq!(given(container.pid1()), 0, "PID 1");
    process::send(container.running_litestream().pid, Signal::SIGKILL);
    eventually("Litestream is back", PATIENCE, || when(container.stderr().contains("replication is back")));
    assert_eq!(given(container.running_litestream().pid), 0);
    assert_eq!(container.stop(), 0);
    site.assert_saved();
}

/// `sd_listen_fds(3)`: a socket is somebody's who has the number that a variable names, which is PID 1's where nothing wraps the app.
fn a_socket_that_was_opened_for_the_app_is_the_apps(line: Line) {
    let site = Site::new(line);
    let opener = "import os, socket, sys
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen()
if listener.fileno() != 3: os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), WATCHDOG_PID=str(os.getpid()), LISTEN_FDNAMES='web')
os.execvp(sys.argv[1], sys.argv[1:])";
    let app = "import os, socket
named = [os.environ[name] == str(os.getpid()) for name in ('LISTEN_PID', 'WATCHDOG_PID')]
listener = socket.socket(fileno=3)
client = socket.create_connection(listener.getsockname()); listener.accept()[0].sendall(b'served')
print(named, os.environ['LISTEN_FDS'], os.environ['LISTEN_FDNAMES'], client.recv(9))";
    let recipe = site.recipe().app(["/usr/bin/python3", "-c", app]).behind(&["/usr/bin/python3", "-c", opener]);
    for recipe in [recipe.clone(), recipe.unwrapped()] {
        let (code, container) = recipe.run();
        assert_eq!(code, 0, "{}", container.stderr());
        assert_eq!(String::from_utf8_lossy(&container.stdout()), "[True, True] 1 web b'served'\n");
    }
}

fn exit_codes(line: Line) {
    let site = Site::new(line);
    for code in [0, 1, 2, 42, 64, 74, 78, 125, 126, 127, 128, 130, 137, 143, 200, 255] {
        let (ended_with, container) = site.recipe().shell(&format!("exit {code}")).run();
        assert_eq!(ended_with, code, "{}", container.stderr());
    }
}

fn deaths_by_signal(line: Line) {
    let site = Site::new(line);
    for signal in [1, 2, 3, 6, 8, 9, 10, 11, 13, 14, 15, 24, 31, 34, 64] {
        let (ended_with, container) = site.recipe().shell(&format!("kill -{signal} $$")).run();
        assert_eq!(ended_with, 128 + signal, "{}", container.stderr());
    }
}

fn not_found_is_127(line: Line) {
    let site = Site::new(line);
    for command in ["no-such-command", "/no/such/command", "./missing"] {
        assert_refused(&site, &[command.into()], 127, command);
    }
}

fn not_executable_is_126(line: Line) {
    let site = Site::new(line);
    let plain = site.path("plain-file");
    fs::write(&plain, "text").expect("a file");
    assert_refused(&site, &[plain.into()], 126, "plain-file");
    assert_refused(&site, &["/tmp".into()], 126, "/tmp");
    let broken = site.path("broken");
    fs::write(&broken, b"\x7fELF and nothing more").expect("a file");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("its mode");
    assert_refused(&site, &[broken.into()], 126, "broken");
}

/// The code, one line that names the command, and no panic.
fn assert_refused(site: &Site, app: &[OsString], code: i32, name: &str) {
    let mut container = site.recipe().app(app).start();
    let ended_with = container.wait(PATIENCE);
    let stderr = container.stderr();
    assert_eq!(ended_with, code, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(stderr.contains(name), "it says what could not be run: {stderr}");
}

/// Root starts it, and neither Litestream nor the app is root; what they make is theirs, a restored database included.
fn another_user_may_be_named_and_nothing_is_left_to_root(line: Line) {
    let site = Site::new(line).with_two_databases();
    fs::remove_dir_all(site.path("data")).unwrap();
    // Made by PID 1, and then not its own.
    for folder in [".", "logs", "run"] {
        fs::create_dir_all(site.path(folder)).unwrap();
        fs::set_permissions(site.path(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(site.replica()).unwrap();
    std::os::unix::fs::chown(site.replica(), Some(65534), Some(65534)).unwrap();
    std::os::unix::fs::chown(site.path("."), Some(65534), Some(65534)).unwrap();
    for round in 0..3 {
        let mut container = site.writing("--every 1000").env("LITESTREAM_ENTRY_USER", "nobody").start();
        container.ready();
        site.write_on(200);
        let field_of = |pid: i32, name: &str| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.lines().find_map(|l| l.strip_prefix(name)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        // CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID.
        for set in ["CapEff:", "CapPrm:"] {
            assert_eq!(u64::from_str_radix(&field_of(container.pid1(), set), 16).unwrap() & !0b1110_1011, 0, "{set}");
        }
        for pid in [container.app().pid, container.running_litestream().pid] {
            let field = |name: &str| field_of(pid, name);
            assert_eq!(
                (field("Uid:"), field("Gid:"), field("Groups:")),
                ("65534 ".repeat(4).trim().into(), "65534 ".repeat(4).trim().into(), "65534".into())
            );
            assert_eq!(field("CapEff:"), "0000000000000000");
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
            assert!(String::from_utf8_lossy(&environment).contains("HOME=/nonexistent"));
        }
        // Root, as an engine has it.
        let root = |words: &[&str]| container.exec_by(&["setpriv", "--bounding-set=-sys_ptrace"], words);
        eventually("root sees that it is well", PATIENCE, || when(root(&["health"]).status.success()));
        let verified = root(&["verify", "--all"]);
        assert!(verified.status.success(), "{}", said(&verified));
        // By its plan root may be run again: that user may read it, and put no other in its place.
        let roots = ["lock", "plan.yml", "state"];
        for path in fs::read_dir(site.path("run")).unwrap().map(|e| e.unwrap().path()) {
            let (about, is_roots) = (fs::symlink_metadata(&path).unwrap(), roots.iter().any(|name| path.ends_with(name)));
            assert_eq!(about.uid(), if is_roots { 0 } else { 65534 }, "{}", path.display());
            assert_eq!(about.mode() & 0o027, 0, "{}", path.display());
        }
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let theirs = container.exec_by(&user, ["status"]);
        assert!(theirs.status.success(), "{}", said(&theirs));
        for name in roots {
            let mut move_away = Command::new("setpriv");
            move_away.args(&user[1..]).args(["mv", "-f"]).args([site.path("run").join(name), site.path("run/elsewhere")]);
            assert!(!move_away.output().unwrap().status.success(), "{name}");
        }
        assert_eq!(container.stop(), 0, "{}", container.stderr());
        site.assert_saved();
        let mut folders = vec![site.path("data")];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                assert_eq!(fs::symlink_metadata(&path).unwrap().uid(), 65534, "{}", path.display());
                folders.extend(path.is_dir().then_some(path));
            }
        }
        if round == 1 {
            site.databases().iter().for_each(|d| lose(d));
        }
    }
    let (code, refused) = site.recipe().app(["true"]).env("LITESTREAM_ENTRY_USER", "no-such-user").run();
    assert!(code == 78 && refused.stderr().contains("LITESTREAM_ENTRY_USER: no-such-user: no such user here"), "{}", refused.stderr());
}
