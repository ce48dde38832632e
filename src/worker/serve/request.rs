//! A request: its method and path, no more. Must never keep more of it than a page of memory, nor wait past its deadline.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// A head that is longer is refused.
const LONGEST: usize = 8 * 1024;
/// How much that was not asked for is read before the connection is closed, so that the answer is not lost to a reset.
const DRAIN: usize = 64 * 1024;
const DRAIN_WITHIN: Duration = Duration::from_millis(200);

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// `HEAD`.
    pub(super) head_only: bool,
    /// Without its query.
    pub(super) path: String,
}

/// Why it is not answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Gone,
    TooLong,
    TooSlow,
    Method,
    Malformed,
}

/// Reads a request's head.
pub(super) fn read(stream: &mut TcpStream, within: Duration) -> Result<Request, Wrong> {
    let deadline = Instant::now() + within;
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Wrong::TooSlow);
        }
        stream.set_read_timeout(Some(left)).map_err(|_| Wrong::Gone)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(Wrong::Gone),
            Ok(n) => head.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(Wrong::TooSlow),
            Err(_) => return Err(Wrong::Gone),
        }
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            return parse(head.get(..end).unwrap_or_default());
        }
        if head.len() > LONGEST {
            return Err(Wrong::TooLong);
        }
    }
}

fn parse(head: &[u8]) -> Result<Request, Wrong> {
    let head = std::str::from_utf8(head).map_err(|_| Wrong::Malformed)?;
    let words: Vec<&str> = head.lines().next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = words.as_slice() else { return Err(Wrong::Malformed) };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') || method.is_empty() {
        return Err(Wrong::Malformed);
    }
    let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
    match *method {
        "GET" => Ok(Request { head_only: false, path }),
        "HEAD" => Ok(Request { head_only: true, path }),
        _ => Err(Wrong::Method),
    }
}

/// Ends a connection; what the client still sends is read for a moment (closed with bytes unread, TCP resets it, and the answer
/// may be lost).
pub(super) fn drain(stream: &mut TcpStream) {
    let deadline = Instant::now() + DRAIN_WITHIN;
    let _ = stream.shutdown(Shutdown::Write);
    let mut chunk = [0; 4096];
    let mut read = 0_usize;
    while read < DRAIN {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(n) => read = read.saturating_add(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_method_and_path_and_everything_else_is_refused() {
        let get = |path: &str| Ok(Request { head_only: false, path: path.to_owned() });
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost: x"), get("/"));
        assert_eq!(parse(b"GET /health?x=1 HTTP/1.0"), get("/health"));
        assert_eq!(parse(b"HEAD /metrics HTTP/1.1"), Ok(Request { head_only: true, path: "/metrics".to_owned() }));
        assert_eq!(parse(b"POST / HTTP/1.1"), Err(Wrong::Method));
        for bad in [
            &b""[..],
            b"GET",
            b"GET /",
            b"GET / x HTTP/1.1",
            b"GET http://x/ HTTP/1.1",
            b"GET / FTP/1",
            b"\xff\xfe / HTTP/1.1",
            b" / HTTP/1.1",
        ] {
            assert_eq!(parse(bad), Err(Wrong::Malformed), "{bad:?}");
        }
    }
}
