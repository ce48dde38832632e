//! The connections that are served at once. Must never let those that ask nothing keep out one that asks.

use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many connections are served at once; others wait to be taken.
const AT_ONCE: usize = 16;
/// A client asks with its first bytes. One that has not after so long makes room for another.
const IDLE: Duration = Duration::from_millis(100);

/// Who is connected.
#[derive(Default)]
pub(super) struct Room {
    open: Mutex<Vec<Guest>>,
    closed: Condvar,
}

struct Guest {
    number: u64,
    since: Instant,
    /// Its connection, until it has asked.
    asks: Option<TcpStream>,
}

impl Room {
    fn open(&self) -> MutexGuard<'_, Vec<Guest>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for one more, which gets this number.
    pub(super) fn enter(&self, number: u64, stream: &TcpStream) {
        let mut open = self.open();
        while open.len() >= AT_ONCE {
            // They stand in the order in which they came.
            if let Some(idle) = open.iter_mut().find(|guest| guest.asks.is_some() && guest.since.elapsed() >= IDLE)
                && let Some(stream) = idle.asks.take()
            {
                let _ = stream.shutdown(Shutdown::Both);
            }
            open = self.closed.wait_timeout(open, IDLE).map_or_else(|error| error.into_inner().0, |(open, _)| open);
        }
        open.push(Guest { number, since: Instant::now(), asks: stream.try_clone().ok() });
    }

    /// It has asked: from here on it has the time that its answer takes.
    pub(super) fn has_asked(&self, number: u64) {
        self.open().iter_mut().filter(|guest| guest.number == number).for_each(|guest| guest.asks = None);
    }

    pub(super) fn leave(&self, number: u64) {
        self.open().retain(|guest| guest.number != number);
        self.closed.notify_one();
    }
}
