//! An error where a command or a worker meets a file or a program: what was being done, and the exit code that it deserves. Must never have a second
//! line, nor a backtrace.

use std::fmt::Display;

use crate::exit::Failure;

/// What a user gets of an error: the chain of what was being done, in one line, and a code.
pub trait Coded<T> {
    /// With what it was about in front, as `/data/app.db: `.
    ///
    /// # Errors
    /// The same, with that.
    fn about(self, what: impl Display) -> anyhow::Result<T>;

    /// With its exit code.
    ///
    /// # Errors
    /// The same, for the user.
    fn coded(self, code: u8) -> Result<T, Failure>;
}

impl<T, E> Coded<T> for Result<T, E>
where
    E: Into<anyhow::Error>,
{
    fn about(self, what: impl Display) -> anyhow::Result<T> {
        self.map_err(|error| error.into().context(what.to_string()))
    }

    fn coded(self, code: u8) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(code, format!("{:#}", error.into()).replace(['\n', '\r'], " ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_being_done_is_in_front_in_one_line() {
        let read = std::fs::read_to_string("/no/such").about("/no/such").about("default").coded(71);
        assert_eq!(read.unwrap_err(), Failure::new(71, "default: /no/such: No such file or directory (os error 2)"));
        let two: Result<(), _> = Err(anyhow::anyhow!("one\ntwo"));
        assert_eq!(two.coded(70).unwrap_err().message, "one two");
    }
}
