//! `LITESTREAM_ENTRY_HTTP`: what is served tells the truth, and nobody who asks can harm the boot.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use nix::sys::signal::Signal;

use crate::support::container::Container;
use crate::support::process;
use crate::support::server::{connect, free_ports};
use crate::support::site::Site;
use crate::support::{Line, PATIENCE, eventually, when};

both_lines!(
    health_ready_metrics_and_the_page_are_served,
    health_over_http_fails_when_health_does,
    a_flood_and_a_slow_client_leave_the_boot_untouched,
    who_asks_is_answered_beside_many_who_only_connect,
    a_server_that_dies_comes_back,
    what_is_not_understood_is_refused,
);

/// A boot that serves, and its port.
fn serving(site: &Site, variables: &[(&str, &str)]) -> (Container, u16) {
    let port = free_ports();
    let mut recipe = site.writing("--every 20000").env("LITESTREAM_ENTRY_HTTP", format!(":{port}"));
    for (name, value) in variables {
        recipe = recipe.env(name, value);
    }
    let mut container = recipe.start();
    container.ready();
    eventually("it serves", PATIENCE, || connect(port).ok());
    (container, port)
}

/// Sends bytes, and reads the answer to its end: status and body, where there is one.
fn ask(port: u16, bytes: &[u8]) -> Option<(u16, String, String)> {
    let mut stream = connect(port).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head.to_owned(), body.to_owned()))
}

pub(crate) fn get(port: u16, path: &str) -> (u16, String) {
    let (status, _, body) = ask(port, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).expect("an answer");
    (status, body)
}

fn health_ready_metrics_and_the_page_are_served(line: Line) {
    let secret = "s3cr3t-of-the-store";
    let site = Site::new(line).with_two_databases();
    let (mut container, port) =
        serving(&site, &[("LITESTREAM_SECRET_ACCESS_KEY", secret), ("LITESTREAM_ACCESS_KEY_ID", "key-of-the-store")]);
    assert!(container.exec(["verify", "app"]).status.success());
    eventually("all is well", PATIENCE, || when(get(port, "/health").0 == 200));
    let (status, health) = get(port, "/health");
    assert_eq!((status, health.lines().count()), (200, 1));
    assert!(health.starts_with("ok: 2 databases, lag "), "{health}");
    assert_eq!(get(port, "/ready"), (200, "ready\n".to_owned()));
    let metrics = eventually("metrics of a verify", PATIENCE, || {
        let text = get(port, "/metrics").1;
        when(text.contains("litestream_entry_verify_success{database=\"app\"} 1\n")).map(|()| text)
    });
    for sample in [
        "litestream_entry_replication_up 1\n",
        "litestream_entry_replica_lag_seconds{database=\"jobs\"} ",
        "litestream_entry_database_size_bytes{database=\"app\"} ",
    ] {
        assert!(metrics.contains(sample), "{sample}: {metrics}");
    }
    let (status, page) = get(port, "/");
    assert_eq!(status, 200);
    for text in ["<h2>app<span", "<h2>jobs<span", "verified", "Recent events", "ok: 2 databases", "lang=\"en\"", "viewport"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let json: serde_yaml::Value = serde_yaml::from_str(&get(port, "/status.json").1).expect("JSON is YAML too");
    assert_eq!(json["databases"].as_sequence().map(Vec::len), Some(2));
    for path in ["/", "/health", "/metrics", "/status.json"] {
        let text = get(port, path).1;
        assert!(!text.contains(secret) && !text.contains("key-of-the-store"), "{path}: {text}");
    }
    // Without an address it is on loopback alone.
    let listening = fs::read_to_string("/proc/net/tcp").expect("the sockets");
    let here = listening.lines().filter(|l| l.contains(&format!(":{port:04X} 00000000:0000 0A"))).collect::<Vec<_>>();
    assert!(here.len() == 1 && here[0].contains("0100007F:"), "{here:?}");
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    assert!(connect(port).is_err(), "it goes with the boot");
}

fn health_over_http_fails_when_health_does(line: Line) {
    let site = Site::new(line);
    let (mut container, port) = serving(&site, &[("LITESTREAM_ENTRY_ON_REPLICATION_FAILURE", "ignore")]);
    eventually("all is well", PATIENCE, || when(get(port, "/health").0 == 200));
    process::send(container.running_litestream().pid, Signal::SIGKILL);
    eventually("it is not", PATIENCE, || {
        let (status, text) = get(port, "/health");
        when(status == 503 && text.contains("replication has ended"))
    });
    assert_eq!(get(port, "/ready").0, 200, "the app runs all the same");
    assert!(get(port, "/").1.contains("not well"));
    assert!(get(port, "/metrics").1.contains("litestream_entry_replication_up 0\n"));
    container.stop();
}

fn a_flood_and_a_slow_client_leave_the_boot_untouched(line: Line) {
    let site = Site::new(line);
    let (mut container, port) = serving(&site, &[]);
    // More than are served at once say nothing, or a byte now and then.
    let mut slow: Vec<TcpStream> = (0..64).filter_map(|_| connect(port).ok()).collect();
    for (at, stream) in slow.iter_mut().enumerate() {
        let _ = stream.write_all(if at % 2 == 0 { b"GET / HTTP/1.1\r\nX: " } else { b"" });
    }
    let flood = || (0..60).for_each(|_| drop(ask(port, b"GET / HTTP/1.1\r\n\r\n")));
    std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(flood))));
    let before = site.acknowledged();
    site.write_on(20);
    assert!(site.acknowledged() >= before + 20, "the app goes on");
    eventually("it serves again", PATIENCE, || when(get(port, "/ready").0 == 200));
    let threads = container.processes().iter().filter(|p| p.runs("litestream-entry")).map(|p| threads(p.pid)).max();
    assert!(threads.is_some_and(|n| n <= 20), "{threads:?} threads");
    drop(slow);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

fn who_asks_is_answered_beside_many_who_only_connect(line: Line) {
    let site = Site::new(line);
    let (mut container, port) = serving(&site, &[]);
    let idle: Vec<_> = (0..200).map(|_| connect(port).unwrap()).collect();
    assert_eq!(get(port, "/health").0, 200);
    // None of them had to come to the end of its time before.
    let timed_out = |mut stream: &TcpStream| {
        let mut first = [0; 12];
        stream.set_nonblocking(true).unwrap();
        stream.read(&mut first).is_ok_and(|n| first[..n].ends_with(b"408"))
    };
    assert!(idle.iter().filter(|stream| timed_out(stream)).count() < 100);
    drop(idle);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}

fn threads(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map(Iterator::count).unwrap_or_default()
}

fn a_server_that_dies_comes_back(line: Line) {
    let site = Site::new(line);
    let (mut container, port) = serving(&site, &[]);
    let is_it = |p: &process::Process| p.arguments.iter().any(|word| word == b"__serve");
    let server = eventually("the server's process", PATIENCE, || container.processes().into_iter().find(is_it));
    process::send(server.pid, Signal::SIGKILL);
    eventually("it is gone", PATIENCE, || when(connect(port).is_err()));
    eventually("it serves again", PATIENCE, || connect(port).ok());
    assert_eq!(get(port, "/ready").0, 200);
    assert_eq!(container.stop(), 0, "{}", container.stderr());
    site.assert_saved();
}

fn what_is_not_understood_is_refused(line: Line) {
    let site = Site::new(line);
    let (mut container, port) = serving(&site, &[]);
    let status = |bytes: &[u8]| ask(port, bytes).map(|(status, ..)| status);
    assert_eq!(status(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"), Some(405));
    assert_eq!(status(b"DELETE /health HTTP/1.1\r\n\r\n"), Some(405));
    assert_eq!(status(b"GET /../etc/passwd HTTP/1.1\r\n\r\n"), Some(404));
    assert_eq!(status(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n"), Some(400), "TLS");
    assert_eq!(status(&[b"GET / HTTP/1.1\r\nX: ".as_slice(), &b"x".repeat(20_000)].concat()), Some(431));
    assert_eq!(status(b"GET / HTTP/1.1\r\nHost: x\r\n"), Some(408), "a head that does not end");
    let (_, head, body) = ask(port, b"HEAD / HTTP/1.1\r\n\r\n").expect("an answer");
    assert!(body.is_empty() && head.contains("Content-Security-Policy: default-src 'none'"), "{head}{body}");
    assert_eq!(container.stop(), 0, "{}", container.stderr());
}
