//! `__hold`: stands in for the app as Litestream's `-exec` child. Must never end but when PID 1 lets
//! go, and always with 0: any other end makes Litestream skip its last sync.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::Path;
use std::time::Duration;

use crate::litestream::call;
use crate::sys;

/// The command for Litestream's `-exec`: this binary, by that path, with the descriptor of its socket.
///
/// # Errors
/// `InvalidData` where go-shellwords could not pass it on.
pub fn command(own: &Path, socket: RawFd) -> io::Result<OsString> {
    let own = own.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this program's path is not UTF-8"))?;
    Ok(format!("{} __hold {socket}", call::quote(own)).into())
}

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
