//! A terminal and the one who sits at it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use super::{PATIENCE, eventually};

pub(crate) struct Terminal {
    keyboard: File,
    /// The end that a container gets.
    pub(crate) line: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a pseudo terminal");
        let keyboard = File::from(pty.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, seen) = (keyboard.try_clone().expect("a clone"), Arc::clone(&screen));
        // Ends when the last descriptor of the line is closed.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                seen.lock().expect("no panic in here").extend(&buffer[..length]);
            }
        });
        Self { keyboard, line: pty.slave, screen }
    }

    pub(crate) fn typed(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes it");
    }

    pub(crate) fn screen(&self) -> String {
        let bytes = self.screen.lock().expect("no panic in there");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[track_caller]
    pub(crate) fn shows(&self, text: &str) {
        eventually(format!("{text:?} on the screen"), PATIENCE, || self.screen().contains(text).then_some(()));
    }

    /// `stty tostop`: who writes to it from the background is stopped.
    pub(crate) fn stops_the_background(&self) {
        let mut settings = tcgetattr(&self.line).expect("its settings");
        settings.local_flags.insert(LocalFlags::TOSTOP);
        tcsetattr(&self.line, SetArg::TCSANOW, &settings).expect("the terminal takes them");
    }

    /// The window gets another size, in one go: `stty` would set rows and columns one after the other.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let path = nix::unistd::ttyname(&self.line).expect("its name");
        let script = "import fcntl, struct, sys, termios\n\
                      size = struct.pack('HHHH', int(sys.argv[2]), int(sys.argv[3]), 0, 0)\n\
                      fcntl.ioctl(open(sys.argv[1]), termios.TIOCSWINSZ, size)";
        let status = Command::new("/usr/bin/python3").args(["-c", script]).arg(path).args([rows.to_string(), columns.to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "the size is set");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- screen\n{}\n---", self.screen());
        }
    }
}
