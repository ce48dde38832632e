//! The way of one container to the store: logs every write with its sender, and is as bad as the schedule has it. It never changes a byte.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use crate::laps;
use crate::net::Net;
use crate::schedule::Mode;

/// No connection waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer stays away that comes after the client's deadline, where the client waits at all.
const LATE: Duration = Duration::from_secs(12);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(5);
/// The longest head of a request.
const HEAD: usize = 64 << 10;

/// It ends with this value.
pub(crate) struct Proxy<'a> {
    address: SocketAddr,
    net: Option<&'a Net>,
    way: Arc<Way>,
}

struct Way {
    sender: String,
    store: SocketAddr,
    /// Packets can be dropped on the way here.
    drops: bool,
    mode: Mutex<Mode>,
    ended: AtomicBool,
    log: Mutex<File>,
    born: Instant,
}

impl<'a> Proxy<'a> {
    /// Of this sender to the store at `endpoint` (`http://HOST:PORT`); writes go into the log.
    pub(crate) fn to(endpoint: &str, sender: &str, log: &Path, net: Option<&'a Net>) -> io::Result<Self> {
        let listener = net.map_or_else(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), Net::listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let way = Arc::new(Way {
            sender: sender.to_owned(),
            store: endpoint.trim_start_matches("http://").parse().map_err(io::Error::other)?,
            drops: net.is_some(),
            mode: Mutex::new(Mode::Pass),
            ended: AtomicBool::new(false),
            log: Mutex::new(File::options().create(true).append(true).open(log)?),
            born: Instant::now(),
        });
        let shared = Arc::clone(&way);
        std::thread::spawn(move || {
            while !shared.ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((client, _)) => {
                        let way = Arc::clone(&shared);
                        std::thread::spawn(move || way.serve(client));
                    }
                    Err(_) => std::thread::sleep(GLANCE),
                }
            }
        });
        Ok(Self { address, net, way })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Packets are dropped where there is a network for it; elsewhere nothing is answered.
    pub(crate) fn set(&self, mode: Mode) {
        let was = self.way.mode();
        if let Some(net) = self.net {
            for (mode, drops) in [(was, false), (mode, true)] {
                if mode == Mode::Drop {
                    net.drop_packets(self.address.port(), drops);
                }
            }
        }
        self.way.set(mode);
    }

    /// Whether what was sent may come on after its sender's end.
    pub(crate) fn outlives(&self, mode: Mode) -> bool {
        mode == Mode::Drop && self.net.is_some()
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        self.way.ended.store(true, Ordering::Relaxed);
    }
}

/// A request as it came.
struct Request {
    head: Vec<u8>,
    body: Vec<u8>,
    method: String,
    path: String,
}

impl Way {
    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    /// One request: each connection carries one, and says so.
    fn serve(&self, mut client: TcpStream) {
        let _ = client.set_nonblocking(false);
        let _ = (client.set_read_timeout(Some(PATIENCE)), client.set_write_timeout(Some(PATIENCE)));
        if let Ok(Some(request)) = Request::read(&mut client) {
            let mode = self.mode();
            let outcome = self.treat(&request, &mut client, mode);
            if matches!(request.method.as_str(), "PUT" | "POST" | "DELETE") || mode != Mode::Pass {
                let outcome = outcome.unwrap_or_else(|error| error.to_string());
                let salt = laps::salt(&request.body).filter(|_| request.path.ends_with("_00000000.wal.lz4"));
                let salt = salt.map(|salt| format!(" salt {salt:08x}")).unwrap_or_default();
                self.note(&format!("{} {} {} bytes, {mode:?}: {outcome}{salt}", request.method, request.path, request.body.len()));
            }
        }
    }

    fn note(&self, text: &str) {
        let line = format!("{:9.3} {} {text}\n", self.born.elapsed().as_secs_f64(), self.sender);
        let _ = self.log.lock().unwrap().write_all(line.as_bytes());
    }

    fn treat(&self, request: &Request, client: &mut TcpStream, mode: Mode) -> io::Result<String> {
        match mode {
            // What has come in spite of it was on its way before.
            Mode::Drop if self.drops => {}
            Mode::Pass => {}
            Mode::Slow(time) => std::thread::sleep(Duration::from_millis(time)),
            Mode::Answer(code) => {
                let body = format!("<Error><Code>{}</Code></Error>", if code == 403 { "AccessDenied" } else { "SlowDown" });
                let head = format!("HTTP/1.1 {code} Fault\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                client.write_all(head.as_bytes())?;
                if request.method != "HEAD" {
                    client.write_all(body.as_bytes())?;
                }
                return Ok(code.to_string());
            }
            Mode::Hole | Mode::Drop => {
                self.wait(client, mode, PATIENCE);
                if is_gone(client) {
                    return Ok("the client has gone".to_owned());
                }
            }
            Mode::AnswerLate => {
                let answer = self.ask(request)?;
                self.wait(client, mode, LATE);
                client.write_all(&answer)?;
                return Ok(format!("{}, answered late", status(&answer)));
            }
            Mode::ResetAfter => {
                let answer = self.ask(request)?;
                reset(client)?;
                return Ok(format!("{}, reset", status(&answer)));
            }
        }
        if is_gone(client) {
            return Ok("the client has gone".to_owned());
        }
        let answer = self.ask(request)?;
        client.write_all(&answer)?;
        Ok(status(&answer))
    }

    /// Until the mode is another one, the client has gone, or the time is up.
    fn wait(&self, client: &TcpStream, mode: Mode, limit: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < limit && self.mode() == mode && !is_gone(client) && !self.ended.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The store's whole answer.
    fn ask(&self, request: &Request) -> io::Result<Vec<u8>> {
        let mut store = TcpStream::connect_timeout(&self.store, PATIENCE)?;
        store.set_read_timeout(Some(PATIENCE))?;
        store.write_all(&request.head)?;
        store.write_all(&request.body)?;
        let mut answer = Vec::new();
        store.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

impl Request {
    fn read(client: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 << 10];
        let end = loop {
            if let Some(end) = position(&bytes, b"\r\n\r\n") {
                break end + 4;
            }
            let n = client.read(&mut buffer)?;
            if n == 0 || bytes.len() > HEAD {
                return Ok(None);
            }
            bytes.extend(&buffer[..n]);
        };
        let mut body = bytes.split_off(end);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let header = |name: &str| {
            let named = |line: &&str| line.split_once(':').is_some_and(|(it, _)| it.eq_ignore_ascii_case(name));
            text.lines().skip(1).find(named).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_ascii_lowercase())
        };
        if header("expect").is_some_and(|it| it.starts_with("100")) {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let length: Option<usize> = header("content-length").and_then(|text| text.parse().ok());
        let is_chunked = header("transfer-encoding").is_some_and(|it| it.contains("chunked"));
        let is_whole = |body: &[u8]| match length {
            Some(length) => body.len() >= length,
            None => !is_chunked || body.ends_with(b"0\r\n\r\n"),
        };
        while !is_whole(&body) {
            let n = client.read(&mut buffer)?;
            if n == 0 {
                // The client died in the middle of its request: the store sees none of it.
                return Ok(None);
            }
            body.extend(&buffer[..n]);
        }
        // The signature is over other headers than these two.
        let kept = text.trim_end().split("\r\n").filter(|line| {
            let name = line.split(':').next().unwrap_or_default();
            !name.eq_ignore_ascii_case("connection") && !name.eq_ignore_ascii_case("expect")
        });
        let head = kept.collect::<Vec<_>>().join("\r\n") + "\r\nConnection: close\r\n\r\n";
        let mut words = text.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Ok(Some(Self { head: head.into_bytes(), body, method, path }))
    }
}

fn position(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The code in an answer's first line.
fn status(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()).into_owned()
}

/// Whether the client has closed its end: it says nothing more before it is answered.
fn is_gone(client: &TcpStream) -> bool {
    use std::os::fd::AsRawFd;
    let looked = recv(client.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    !matches!(looked, Err(nix::errno::Errno::EAGAIN) | Ok(1..))
}

/// Closed by a reset, not by an end.
fn reset(client: &TcpStream) -> io::Result<()> {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&client.as_fd(), sockopt::Linger, &at_once).map_err(io::Error::from)
}
