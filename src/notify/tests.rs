//! Servers of every temper, over TCP and TLS.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use super::*;

const MOST: Duration = Duration::from_secs(20);
const SECRET: &str = "s3cret";

/// Serves each connection with `handle`, which knows how many there were before. The thread ends with the tests.
fn server(handle: impl Fn(TcpStream, usize) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().enumerate().for_each(|(count, stream)| handle(stream.unwrap(), count)));
    port
}

/// A server that answers `answers` in turn, from the first again after the last, and what it was asked.
fn answering(answers: &[&str]) -> (u16, mpsc::Receiver<String>) {
    let (sender, receiver) = mpsc::channel();
    let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    let port = server(move |mut stream, count| {
        let _ = sender.send(request(&mut stream));
        let _ = stream.write_all(answers.iter().cycle().nth(count).unwrap().as_bytes());
    });
    (port, receiver)
}

/// Reads a request to the end of its body.
fn request(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    let whole = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        length.is_none_or(|length| body.len() >= length.parse().unwrap())
    };
    while !whole(&bytes) && stream.read(&mut byte).is_ok_and(|count| count > 0) {
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

/// Until the other side hangs up.
fn wait_for_end(stream: &mut TcpStream) {
    let _ = std::io::copy(stream, &mut std::io::sink());
}

fn call_with(most: Duration, bundle: Option<&Path>, url: &str, body: Option<&str>) -> Result<(), String> {
    call(url, body, most, bundle)
}

fn get(port: u16) -> Result<(), String> {
    call_with(MOST, None, &format!("http://u:{SECRET}@127.0.0.1:{port}/{SECRET}?{SECRET}"), None)
}

/// The failure, which is a line that names all but the secret.
#[track_caller]
fn failure(outcome: Result<(), String>, place: &str) -> String {
    let line = outcome.expect_err("it cannot have worked");
    assert!(line.starts_with(&format!("{place}: ")), "{line}");
    assert!(!line.contains(SECRET) && !line.contains(char::is_control) && line.len() < 300, "{line}");
    line
}

#[test]
fn a_heartbeat_is_a_get_and_an_alert_a_post_of_json() {
    let (port, requests) = answering(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]);
    assert_eq!(get(port), Ok(()));
    let request = requests.recv().unwrap();
    assert!(request.starts_with(&format!("GET /{SECRET}?{SECRET} HTTP/1.1\r\n")), "{request}");
    let head = request.to_ascii_lowercase();
    assert!(head.contains(&format!("host: 127.0.0.1:{port}\r\n")) && head.contains("authorization: basic "), "{request}");
    let news = News { text: "app: \"t\" differs\nin 3 rows", database: "app", state: "different", time: SystemTime::UNIX_EPOCH };
    assert_eq!(call_with(MOST, None, &format!("http://127.0.0.1:{port}/x"), Some(&news.json("c0ffee"))), Ok(()));
    let request = requests.recv().unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /x HTTP/1.1\r\n") && head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
    assert_eq!(
        body,
        "{\"text\":\"app: \\\"t\\\" differs in 3 rows\",\"database\":\"app\",\"state\":\"different\",\
         \"container\":\"c0ffee\",\"time\":\"1970-01-01T00:00:00Z\"}"
    );
}

#[test]
fn what_is_no_success_is_said_in_a_line_without_the_secret() {
    for (answer, said) in [
        ("HTTP/1.1 500 s3cret\r\n\r\ns3cret", "answers 500"),
        ("HTTP/1.1 404 Not Found\r\n\r\n", "answers 404"),
        ("HTTP/1.1 302 Found\r\nLocation: ftp://s3cret\r\n\r\n", ""),
        ("", ""),
        ("HTTP/1.1 200 OK\r\nServer: s3cret", ""),
        ("s3cret\r\n\r\n", ""),
        (&"x".repeat(100_000), ""),
        (&"HTTP/1.1 100 Continue\r\n\r\n".repeat(4000), ""),
    ] {
        let line = failure(get(answering(&[answer]).0), "http://127.0.0.1");
        assert!(line.ends_with(said), "{line}");
    }
}

#[test]
fn who_cannot_be_reached_is_said() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert!(failure(get(closed), "http://127.0.0.1").contains("refused"));
    let outcome = call_with(Duration::from_secs(2), None, &format!("https://nobody.invalid/{SECRET}"), None);
    failure(outcome, "https://nobody.invalid");
}

#[test]
fn a_server_that_lets_us_wait_costs_the_deadline_and_no_more() {
    let most = Duration::from_millis(300);
    let silent = server(|mut stream, _| wait_for_end(&mut stream));
    // A byte every now and then.
    let dripping = server(|mut stream, _| {
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        while stream.write_all(b"H").is_ok() {
            let _ = request(&mut stream);
        }
    });
    for (scheme, port) in [("http", silent), ("http", dripping), ("https", silent)] {
        let began = Instant::now();
        let line = failure(call_with(most, None, &format!("{scheme}://127.0.0.1:{port}/{SECRET}"), None), &format!("{scheme}://127.0.0.1"));
        assert!(line.ends_with("no answer within 0.3 s"), "{line}");
        assert!(began.elapsed() >= most && began.elapsed() < MOST, "{:?}", began.elapsed());
    }
}

#[test]
fn a_body_without_an_end_is_cut_off() {
    let endless = server(|mut stream, _| {
        request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    assert_eq!(get(endless), Ok(()));
    let unfinished = server(|mut stream, _| {
        request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
        wait_for_end(&mut stream);
    });
    assert_eq!(call_with(Duration::from_millis(300), None, &format!("http://127.0.0.1:{unfinished}/"), None), Ok(()));
}

#[test]
fn a_heartbeat_follows_a_few_redirects_and_an_alert_none() {
    let hop = |status, to: &str| format!("HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let (port, requests) = answering(&[&hop(301, "/a"), &hop(307, "/b"), &hop(302, "/c"), OK]);
    assert_eq!(call_with(MOST, None, &format!("http://127.0.0.1:{port}/"), None), Ok(()));
    let asked: Vec<String> = requests.iter().take(4).collect();
    let lines: Vec<&str> = asked.iter().map(|request| request.lines().next().unwrap()).collect();
    assert_eq!(lines, ["GET / HTTP/1.1", "GET /a HTTP/1.1", "GET /b HTTP/1.1", "GET /c HTTP/1.1"]);
    let (port, _requests) = answering(&[&hop(302, "/s3cret")]);
    assert!(failure(get(port), "http://127.0.0.1").ends_with("more than 3 redirects"));
    let (port, requests) = answering(&[&hop(302, "/s3cret"), OK]);
    let line = failure(call_with(MOST, None, &format!("http://127.0.0.1:{port}/"), Some("{}")), "http://127.0.0.1");
    assert!(line.ends_with("answers 302"), "{line}");
    assert_eq!(requests.try_iter().count(), 1);
}

/// A certificate for `name`, its key, and a bundle that has it.
struct Identity {
    config: Arc<ServerConfig>,
    bundle: tempfile::NamedTempFile,
}

fn identity(name: &str, version: &'static SupportedProtocolVersion) -> Identity {
    let mut bundle = tempfile::NamedTempFile::new().unwrap();
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    // No two have one name, or it would be one authority with two keys.
    params.distinguished_name.push(rcgen::DnType::CommonName, bundle.path().to_str().unwrap());
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, certificate.der());
    let damaged = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    write!(bundle, "{damaged}-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n").unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_protocol_versions(&[version]).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    Identity { config: Arc::new(config), bundle }
}

fn tls_server(identity: &Identity, answer: String) -> u16 {
    let config = identity.config.clone();
    server(move |stream, _| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        request(&mut stream);
        let _ = stream.write_all(answer.as_bytes());
    })
}

const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

#[test]
fn a_server_with_a_trusted_certificate_is_called_in_either_version_of_tls() {
    for (name, version) in [("localhost", &TLS13), ("localhost", &TLS12), ("127.0.0.1", &TLS13)] {
        let identity = identity(name, version);
        let port = tls_server(&identity, OK.to_owned());
        assert_eq!(call_with(MOST, Some(identity.bundle.path()), &format!("https://{name}:{port}/"), Some("{}")), Ok(()), "{version:?}");
    }
}

#[test]
fn nobody_else_is() {
    let (trusted, other) = (identity("localhost", &TLS13), identity("localhost", &TLS13));
    let port = tls_server(&other, OK.to_owned());
    let ask = |port, bundle| failure(call_with(MOST, bundle, &format!("https://localhost:{port}/{SECRET}"), None), "https://localhost");
    assert!(ask(port, Some(trusted.bundle.path())).contains("certificate"));
    // Neither the system nor Mozilla knows it.
    assert!(ask(port, None).contains("certificate"));
    let misnamed = identity("other.example", &TLS13);
    let line = ask(tls_server(&misnamed, OK.to_owned()), Some(misnamed.bundle.path()));
    assert!(line.contains("not valid for name"), "{line}");
    // No TLS at all.
    let plain = server(|mut stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        wait_for_end(&mut stream);
    });
    let line = ask(plain, Some(trusted.bundle.path()));
    assert!(!line.contains("400") && !line.contains("no answer"), "{line}");
    // A bundle that is none is no reason to trust another one.
    let empty = tempfile::NamedTempFile::new().unwrap();
    for bundle in [empty.path(), Path::new("/no/such/bundle")] {
        assert!(ask(port, Some(bundle)).ends_with("SSL_CERT_FILE: no certificate can be read from it"));
    }
}

#[test]
fn a_secret_that_was_encrypted_stays_so() {
    let identity = identity("localhost", &TLS13);
    let (plain, requests) = answering(&[OK]);
    let port = tls_server(&identity, format!("HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:{plain}/{SECRET}\r\n\r\n"));
    let outcome = call_with(MOST, Some(identity.bundle.path()), &format!("https://localhost:{port}/{SECRET}"), None);
    assert!(failure(outcome, "https://localhost").ends_with("redirects from https to http; not followed"));
    assert!(requests.try_recv().is_err());
}

/// What the test below runs in a process of its own.
#[test]
#[ignore = "for a process with an environment of its own"]
fn in_an_environment_of_its_own() {
    let news = News { text: "t", database: "d", state: "failed", time: SystemTime::now() };
    println!("alert {:?}, heartbeat {:?}", alert(&news), heartbeat());
}

#[test]
fn the_environment_says_what_is_called_and_whom_to_trust() {
    let identity = identity("localhost", &TLS13);
    let (port, requests) = answering(&["HTTP/1.1 503 Busy\r\n\r\n"]);
    let secure = tls_server(&identity, OK.to_owned());
    let run = |env: &[(&str, String)]| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "notify::tests::in_an_environment_of_its_own", "--ignored", "--nocapture"]);
        command.env_remove(settings::ALERT_URL).env_remove(settings::HEARTBEAT_URL).envs(env.iter().cloned());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let said = run(&[
        ("SSL_CERT_FILE", identity.bundle.path().to_str().unwrap().to_owned()),
        (settings::ALERT_URL, format!("https://localhost:{secure}/{SECRET}")),
        (settings::HEARTBEAT_URL, format!("http://127.0.0.1:{port}/{SECRET}")),
    ]);
    let failed = "Err(\"LITESTREAM_ENTRY_HEARTBEAT_URL: http://127.0.0.1: answers 503\")";
    assert!(said.contains(&format!("alert Ok(()), heartbeat {failed}")), "{said}");
    assert!(requests.recv().unwrap().starts_with("GET /s3cret "));
    assert!(run(&[]).contains("alert Ok(()), heartbeat Ok(())"));
}
