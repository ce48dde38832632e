//! Whether this process, a worker or a command, has been asked to end: it then cleans up and ends. Must never be used in
//! PID 1, which reads its signals itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::exit::{Ended, Failure};

static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From here on HUP, INT and TERM are noted instead of ending the process.
pub fn watch() {
    let noted = SIGNAL.get_or_init(Arc::default);
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        let _ = signal_hook::flag::register_usize(signal, Arc::clone(noted), usize::try_from(signal).unwrap_or_default());
    }
}

/// Ends what is under way, with the code that the signal would have given, once one has come.
///
/// # Errors
/// 128+n after signal n.
pub fn check() -> Result<(), Failure> {
    match SIGNAL.get().map_or(0, |noted| noted.load(Ordering::Relaxed)) {
        0 => Ok(()),
        signal => Err(Failure::new(Ended::Signal(i32::try_from(signal).unwrap_or_default()).code(), "interrupted")),
    }
}
