//! When `__exec` becomes what it is to be, and with what environment. Must never take an unknown word for one of these.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;

/// The word before an identity and the argv.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The app, at once.
    AtOnce,
    /// The app, when PID 1 opens the gate, a socket at this descriptor.
    Gated(RawFd),
    /// One of our own helpers, at once: the terminal is not for it.
    Helper,
    /// The same, with the secrets that their files have now.
    Renewed,
    /// The same, and it is the Litestream that replicates.
    RenewedLitestream,
}

/// In the place of an identity: stay who we are.
pub const SAME: &str = "-";
/// What opens the gate.
pub const OPEN: &[u8] = b"o";

const GATED: &str = "gated=";

impl When {
    /// As an argument.
    pub fn word(self) -> OsString {
        match self {
            Self::AtOnce => "now".into(),
            Self::Gated(gate) => format!("{GATED}{gate}").into(),
            Self::Helper => "helper".into(),
            Self::Renewed => "renewed".into(),
            Self::RenewedLitestream => "renewed-litestream".into(),
        }
    }

    /// From an argument; none for anything else.
    pub fn parse(word: &OsStr) -> Option<Self> {
        let word = word.to_str()?;
        let plain = [Self::AtOnce, Self::Helper, Self::Renewed, Self::RenewedLitestream].into_iter().find(|when| when.word() == word);
        plain.or_else(|| word.strip_prefix(GATED)?.parse().ok().map(Self::Gated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_arrives_as_it_was_sent_and_nothing_else_is_taken_for_one() {
        for when in [When::AtOnce, When::Gated(7), When::Helper, When::Renewed, When::RenewedLitestream] {
            assert_eq!(When::parse(&when.word()), Some(when));
        }
        for none in ["", "gated", "gated=", "gated=x", "helpers", "-"] {
            assert_eq!(When::parse(OsStr::new(none)), None, "{none}");
        }
    }
}
