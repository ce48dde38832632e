//! `__serve`: health, metrics and a page over HTTP, for those who look and change nothing. Must never hold more than a few
//! connections, wait long for any, or show a secret.

mod history;
mod page;
mod request;
mod room;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::plan::Plan;
use crate::state::Phase;
use crate::status::health::{Limits, judge};
use crate::status::{self, Overview, metrics, show};
use crate::{report, sys};
use history::History;
use request::{Request, Wrong};
use room::Room;

/// How long a client may take to ask, and to read its answer.
const ASK_WITHIN: Duration = Duration::from_secs(2);
const READ_WITHIN: Duration = Duration::from_secs(5);
/// What was looked at serves for so long, so that a flood costs no more than one who asks.
const FRESH: Duration = Duration::from_secs(1);
/// How often a point of the graphs is taken.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// When an address that is taken is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// A connection needs little.
const STACK: usize = 256 * 1024;

/// Serves until it is killed.
pub(super) fn run(plan: &Plan) {
    let Some(address) = plan.entry.http else { return };
    sys::be_nice();
    let listener = bind(address);
    let desk = &Desk { plan, seen: Mutex::new(None), history: Mutex::new(History::default()), room: Room::default() };
    std::thread::scope(|scope| {
        let sampler = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || desk.sample());
        if let Err(error) = sampler {
            report::line(format_args!("LITESTREAM_ENTRY_HTTP: no graphs: {error}"));
        }
        for number in 0.. {
            // A connection that was given up before it was taken, or no descriptor left: neither is for ever.
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            desk.room.enter(number, &stream);
            let served = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || {
                desk.answer(number, stream);
                desk.room.leave(number);
            });
            if served.is_err() {
                desk.room.leave(number);
            }
        }
    });
}

fn bind(address: std::net::SocketAddr) -> TcpListener {
    let mut said = false;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) if !said => {
                report::line(format_args!("LITESTREAM_ENTRY_HTTP: {address}: {error}; it is tried again"));
                said = true;
            }
            Err(_) => {}
        }
        std::thread::sleep(BIND_AGAIN);
    }
}

/// What all connections share.
struct Desk<'a> {
    plan: &'a Plan,
    seen: Mutex<Option<(Instant, std::sync::Arc<Overview>)>>,
    history: Mutex<History>,
    room: Room,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer: status line, type, body.
struct Answer(&'static str, &'static str, String);

const PLAIN: &str = "text/plain; charset=utf-8";

impl Desk<'_> {
    fn sample(&self) {
        loop {
            let overview = self.look();
            locked(&self.history).add(&overview);
            std::thread::sleep(SAMPLE_EVERY);
        }
    }

    /// How things stand, looked at a moment ago at most.
    fn look(&self) -> std::sync::Arc<Overview> {
        // Whoever comes meanwhile waits for the one look that is under way.
        let mut seen = locked(&self.seen);
        if let Some((_, overview)) = seen.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return std::sync::Arc::clone(overview);
        }
        let overview = std::sync::Arc::new(status::current(self.plan));
        *seen = Some((Instant::now(), std::sync::Arc::clone(&overview)));
        overview
    }

    fn answer(&self, number: u64, mut stream: TcpStream) {
        let asked = request::read(&mut stream, ASK_WITHIN);
        self.room.has_asked(number);
        let answer = match asked {
            Ok(Request { head_only, path }) => Some((self.of_path(&path), head_only)),
            Err(Wrong::Gone) => None,
            Err(Wrong::TooLong) => Some((plain("431 Request Header Fields Too Large", "too long"), false)),
            Err(Wrong::TooSlow) => Some((plain("408 Request Timeout", "too slow"), false)),
            Err(Wrong::Method) => Some((plain("405 Method Not Allowed", "there is nothing to be changed here"), false)),
            Err(Wrong::Malformed) => Some((plain("400 Bad Request", "not understood"), false)),
        };
        if let Some((answer, head_only)) = answer {
            // One that is gone or too slow has had its time.
            let _ = write(&mut stream, &answer, head_only);
        }
        request::drain(&mut stream);
    }

    fn of_path(&self, path: &str) -> Answer {
        match path {
            "/health" => self.health(),
            "/ready" => self.ready(),
            "/metrics" => Answer("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics::text(&self.look())),
            "/status.json" => Answer("200 OK", "application/json", show::json(&self.look()) + "\n"),
            "/" => {
                let overview = self.look();
                let verdict = judge(&overview, &self.limits());
                let page = page::html(&overview, &verdict, &locked(&self.history), SystemTime::now());
                Answer("200 OK", "text/html; charset=utf-8", page)
            }
            _ => plain("404 Not Found", "/, /health, /ready, /metrics and /status.json are here"),
        }
    }

    fn limits(&self) -> Limits {
        Limits { lag: self.plan.entry.max_lag, verified_within: None }
    }

    fn health(&self) -> Answer {
        match judge(&self.look(), &self.limits()) {
            Ok(line) => plain("200 OK", &line),
            Err(why) => plain("503 Service Unavailable", &why),
        }
    }

    /// The databases are there and the app runs, however replication is.
    fn ready(&self) -> Answer {
        match self.look().state.as_ref().map(|state| state.view.phase) {
            Some(Phase::Running) => plain("200 OK", "ready"),
            Some(phase) => plain("503 Service Unavailable", phase.word()),
            None => plain("503 Service Unavailable", "starting"),
        }
    }
}

fn plain(status: &'static str, text: &str) -> Answer {
    Answer(status, PLAIN, format!("{text}\n"))
}

fn write(stream: &mut TcpStream, Answer(status, kind, body): &Answer, head_only: bool) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nContent-Security-Policy: {}\r\n\r\n",
        body.len(),
        page::POLICY
    );
    let mut bytes = head.into_bytes();
    if !head_only {
        bytes.extend_from_slice(body.as_bytes());
    }
    let deadline = Instant::now() + READ_WITHIN;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        let written = stream.write(rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    Ok(())
}
