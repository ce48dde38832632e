//! The program: hands its arguments to the library and exits with what that says.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    ExitCode::from(litestream_entry::run(&args))
}
