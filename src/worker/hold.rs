//! `__hold`: stands in for the app as Litestream's `-exec` child. Must never end but when PID 1 lets
//! go, and always with 0: any other end makes Litestream skip its last sync.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

use crate::sys;

/// Says hello (Litestream has accepted its configuration), waits for the socket's end, exits 0.
pub fn run(args: &[OsString]) -> u8 {
    let fd = args.first().and_then(|a| a.to_str()).and_then(|a| a.parse().ok());
    let Some(Ok(socket)) = fd.map(sys::take_fd) else { return 0 };
    let mut socket = File::from(socket);
    let _ = socket.write_all(b"h");
    // From here on it only waits, for as long as the app lives.
    sys::drop_code_pages();
    while !super::until_closed(&socket, Duration::from_secs(3600)) {}
    0
}
