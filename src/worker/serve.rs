//! `__serve`: health, metrics and a page over HTTP, for those who look and change nothing. Must never hold more than a few
//! connections, wait long for any, or show a secret.

mod history;
mod page;
mod request;
mod room;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant, SystemTime};

use crate::plan::Plan;
use crate::state::Phase;
use crate::status::health::{Limits, judge};
use crate::status::silent::{AT_MOST, Places, UNASKED, without_end};
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
    let desk = Arc::new(Desk {
        plan: plan.clone(),
        seen: Mutex::default(),
        looked: Condvar::new(),
        places: Arc::default(),
        history: Mutex::default(),
        room: Room::default(),
    });
    let sampling = Arc::clone(&desk);
    if let Err(error) = Builder::new().stack_size(STACK).spawn(move || sampling.sample()) {
        report::line(format_args!("LITESTREAM_ENTRY_HTTP: no graphs: {error}"));
    }
    for number in 0.. {
        // A connection that was given up before it was taken, or no descriptor left: neither is for ever.
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        desk.room.enter(number, &stream);
        let serving = Arc::clone(&desk);
        let served = Builder::new().stack_size(STACK).spawn(move || {
            serving.answer(number, stream);
            serving.room.leave(number);
        });
        if served.is_err() {
            desk.room.leave(number);
        }
    }
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
struct Desk {
    plan: Plan,
    seen: Mutex<Seen>,
    /// A look has come to its end.
    looked: Condvar,
    places: Arc<Places>,
    history: Mutex<History>,
    room: Room,
}

/// What was seen last.
#[derive(Default)]
struct Seen {
    last: Option<(Instant, Arc<Overview>)>,
    /// A look is under way, which may hang.
    looking: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer: status line, type, body.
struct Answer(&'static str, &'static str, String);

const PLAIN: &str = "text/plain; charset=utf-8";

impl Desk {
    fn sample(self: &Arc<Self>) {
        loop {
            if let Ok(overview) = self.look() {
                locked(&self.history).add(&overview);
            }
            std::thread::sleep(SAMPLE_EVERY);
        }
    }

    /// How things stand, looked at a moment ago at most; what does not answer, where something hangs.
    fn look(self: &Arc<Self>) -> Result<Arc<Overview>, String> {
        if let Some(overview) = self.seen_within(UNASKED) {
            return Ok(overview);
        }
        self.places.ask_of(&self.plan);
        self.places.silent().map_or(Ok(()), Err)?;
        self.seen_within(AT_MOST.saturating_sub(UNASKED)).ok_or_else(without_end)
    }

    /// Whoever comes while a look is under way waits for that one.
    fn seen_within(self: &Arc<Self>, within: Duration) -> Option<Arc<Overview>> {
        let began = Instant::now();
        let mut seen = locked(&self.seen);
        loop {
            if let Some((_, overview)) = seen.last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
                return Some(Arc::clone(overview));
            }
            if !std::mem::replace(&mut seen.looking, true) {
                let looking = Arc::clone(self);
                let look = move || looking.see();
                seen.looking = Builder::new().stack_size(STACK).spawn(look).is_ok();
            }
            let left = within.checked_sub(began.elapsed())?;
            // Where no thread is to be had, it is tried again in a moment.
            let left = if seen.looking { left } else { left.min(Duration::from_millis(20)) };
            seen = self.looked.wait_timeout(seen, left).map_or_else(|error| error.into_inner().0, |(seen, _)| seen);
        }
    }

    fn see(&self) {
        let overview = Arc::new(status::current(&self.plan));
        *locked(&self.seen) = Seen { last: Some((Instant::now(), overview)), looking: false };
        self.looked.notify_all();
    }

    fn answer(self: &Arc<Self>, number: u64, mut stream: TcpStream) {
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

    fn of_path(self: &Arc<Self>, path: &str) -> Answer {
        match path {
            "/health" | "/ready" | "/metrics" | "/status.json" | "/" => match self.look() {
                Ok(overview) => self.of_known_path(path, &overview),
                Err(why) => plain("503 Service Unavailable", &why),
            },
            _ => plain("404 Not Found", "/, /health, /ready, /metrics and /status.json are here"),
        }
    }

    fn of_known_path(&self, path: &str, overview: &Overview) -> Answer {
        let verdict = || judge(overview, &self.limits());
        match path {
            "/health" => verdict().map_or_else(|why| plain("503 Service Unavailable", &why), |line| plain("200 OK", &line)),
            "/ready" => ready(overview),
            "/metrics" => Answer("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics::text(overview)),
            "/status.json" => Answer("200 OK", "application/json", show::json(overview) + "\n"),
            _ => {
                let page = page::html(overview, &verdict(), &locked(&self.history), SystemTime::now());
                Answer("200 OK", "text/html; charset=utf-8", page)
            }
        }
    }

    fn limits(&self) -> Limits {
        Limits { lag: self.plan.entry.max_lag, verified_within: None }
    }
}

/// The databases are there and the app runs, however replication is.
fn ready(overview: &Overview) -> Answer {
    match overview.state.as_ref().map(|state| state.view.phase) {
        Some(Phase::Running) => plain("200 OK", "ready"),
        Some(phase) => plain("503 Service Unavailable", phase.word()),
        None => plain("503 Service Unavailable", "starting"),
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
