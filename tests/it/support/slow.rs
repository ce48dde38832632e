//! A line to a server that carries so many bytes a second, for what happens in the middle of a restore, and that can be cut.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// It ends with this value.
pub(crate) struct SlowLine {
    address: SocketAddr,
    carried: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl SlowLine {
    /// To the server at `endpoint` (`http://HOST:PORT`), `rate` bytes a second on each connection towards the client.
    pub(crate) fn to(endpoint: &str, rate: u64) -> Self {
        Self::of_rates(endpoint, rate, u64::MAX)
    }

    /// The same with so many bytes a second towards the server.
    pub(crate) fn upwards(endpoint: &str, rate: u64) -> Self {
        Self::of_rates(endpoint, u64::MAX, rate)
    }

    fn of_rates(endpoint: &str, rate: u64, up: u64) -> Self {
        let server: SocketAddr = endpoint.trim_start_matches("http://").parse().expect("an address");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let (carried, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let cut = Arc::new(AtomicBool::new(false));
        let (count, end, is_cut) = (Arc::clone(&carried), Arc::clone(&ended), Arc::clone(&cut));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                if is_cut.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                let (from, to) = (client.try_clone().expect("a descriptor"), upstream.try_clone().expect("a descriptor"));
                let (is_cut, back_is_cut) = (Arc::clone(&is_cut), Arc::clone(&is_cut));
                std::thread::spawn(move || carry(from, to, up, &AtomicU64::new(0), &is_cut));
                let count = Arc::clone(&count);
                std::thread::spawn(move || carry(upstream, client, rate, &count, &back_is_cut));
            }
        });
        Self { address, carried, cut, ended }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on every connection is closed at its next word.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Bytes that have gone to the client so far.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for SlowLine {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, rate: u64, count: &AtomicU64, cut: &AtomicBool) {
    const TICK: u64 = 20;
    let most = usize::try_from((rate / (1000 / TICK)).clamp(1, 1 << 16)).expect("small");
    let mut buffer = vec![0; most];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if cut.load(Ordering::Relaxed) || to.write_all(&buffer[..n]).is_err() {
            break;
        }
        count.fetch_add(u64::try_from(n).expect("small"), Ordering::Relaxed);
        if rate < u64::MAX {
            std::thread::sleep(Duration::from_millis(TICK));
        }
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}
