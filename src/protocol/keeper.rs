//! What PID 1 and its keeper say to each other, framed on a socket. Must never be read for anything else than it was.

use std::borrow::Cow;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Holder, Rules};
use crate::plan::Plan;
use crate::settings::Entry;

/// What PID 1 asks for. Each is answered by one [`Tell::Done`], [`Tell::Place`], [`Tell::Ours`] or [`Tell::Theirs`], in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Ask {
    /// To take the place of a keeper that has died.
    GoOn {
        /// The boot's plan.
        plan: Box<Plan>,
        /// The locks were ours.
        locked: bool,
        /// They said that all is decided about.
        passed: bool,
    },
    /// Whether what is read from the runtime directory is there, if need be anew.
    Place,
    /// To see to it that the locks are where others look for them.
    Locks,
    /// To say to those who stand by that the databases are decided about and replicated.
    Pass,
    /// To say to them that nothing more is replicated.
    Withdraw,
    /// To try for the lock.
    Take,
    /// To leave this for those who ask how things stand.
    State(String),
}

/// What the keeper tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Tell {
    /// The boot's own settings, before anything of it is looked at.
    Settings(Box<Entry>),
    /// What it is about to touch.
    At(String),
    /// The boot may begin.
    Booted(Box<Booted>),
    /// It is refused with this code, and why.
    Refused(u8, String),
    /// Whether it is there.
    Place(bool),
    /// The lock is ours now.
    Ours,
    /// Another process has it.
    Theirs {
        /// What that has said.
        holder: Holder,
    },
    /// Something to be said, and to be kept for those who ask later.
    Note(String),
    /// An operator asks for a new snapshot.
    Resnapshot,
    /// In a moment without a keeper, another process has taken the lock on this database.
    Lost(String),
    /// What was asked for is done.
    Done,
}

/// What a boot is to do, and with what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Booted {
    /// What PID 1 does.
    pub rules: Rules,
    /// What is replicated, if anything.
    pub plan: Option<Plan>,
    /// Litestream's and the workers' environment, [`Bytes`] each; none where each makes its own of what PID 1 was started with.
    pub helper_env: Option<Vec<Bytes>>,
    /// What is added to the app's environment in the place of what has the same name.
    pub exported: Vec<Bytes>,
    /// Variables that hold secrets are taken out of it.
    pub hides: bool,
    /// The word for who Litestream, the workers and the app are, where they are not who we are.
    pub identity: Option<Bytes>,
    /// A command of the shell's that is to end well before the app starts.
    pub migrate: Option<String>,
    /// Signals go to the app's group.
    pub signal_group: bool,
}

/// Any bytes as text: a character for each, so that what is none in UTF-8 arrives as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes(String);

impl Bytes {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(bytes.iter().copied().map(char::from).collect())
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect()
    }

    /// As a string of the kernel's; none where there is a NUL in it.
    pub fn entry(&self) -> Option<CString> {
        CString::new(self.bytes()).ok()
    }

    /// As a word of a command line.
    pub fn word(&self) -> OsString {
        OsString::from_vec(self.bytes())
    }
}

impl From<&OsStr> for Bytes {
    fn from(word: &OsStr) -> Self {
        Self::of(word.as_bytes())
    }
}

/// A frame: the length of what follows, in four bytes, then that.
const HEAD: usize = 4;
/// No frame is longer; an environment may have two megabytes (execve(2)), and each byte may become four.
const LONGEST: usize = 1 << 26;

/// What is said on the channel.
pub trait Word: Serialize + DeserializeOwned {
    /// As a letter and a text, where that is all of it: the boot waits for each.
    fn plain(&self) -> Option<(u8, &str)>;
    /// From a letter and a text; none for anything else.
    fn of_plain(letter: u8, text: &str) -> Option<Self>;
}

/// Before what is no plain word.
const TREE: u8 = b'=';

impl Word for Ask {
    fn plain(&self) -> Option<(u8, &str)> {
        match self {
            Self::Place => Some((b'p', "")),
            Self::Locks => Some((b'l', "")),
            Self::Pass => Some((b'+', "")),
            Self::Withdraw => Some((b'-', "")),
            Self::Take => Some((b't', "")),
            Self::State(text) => Some((b's', text)),
            Self::GoOn { .. } => None,
        }
    }

    fn of_plain(letter: u8, text: &str) -> Option<Self> {
        match (letter, text) {
            (b'p', "") => Some(Self::Place),
            (b'l', "") => Some(Self::Locks),
            (b'+', "") => Some(Self::Pass),
            (b'-', "") => Some(Self::Withdraw),
            (b't', "") => Some(Self::Take),
            (b's', text) => Some(Self::State(text.to_owned())),
            _ => None,
        }
    }
}

impl Word for Tell {
    fn plain(&self) -> Option<(u8, &str)> {
        match self {
            Self::At(text) => Some((b'a', text)),
            Self::Place(there) => Some((b'p', if *there { "1" } else { "0" })),
            Self::Ours => Some((b'o', "")),
            Self::Note(text) => Some((b'n', text)),
            Self::Resnapshot => Some((b'r', "")),
            Self::Lost(text) => Some((b'l', text)),
            Self::Done => Some((b'd', "")),
            Self::Settings(_) | Self::Booted(_) | Self::Refused(..) | Self::Theirs { .. } => None,
        }
    }

    fn of_plain(letter: u8, text: &str) -> Option<Self> {
        match (letter, text) {
            (b'a', text) => Some(Self::At(text.to_owned())),
            (b'p', "1") => Some(Self::Place(true)),
            (b'p', "0") => Some(Self::Place(false)),
            (b'o', "") => Some(Self::Ours),
            (b'n', text) => Some(Self::Note(text.to_owned())),
            (b'r', "") => Some(Self::Resnapshot),
            (b'l', text) => Some(Self::Lost(text.to_owned())),
            (b'd', "") => Some(Self::Done),
            _ => None,
        }
    }
}

/// As a frame.
///
/// # Errors
/// What cannot be written down.
pub fn framed<T: Word>(word: &T) -> io::Result<Vec<u8>> {
    let tree = |word| serde_yaml::to_string(word).map_err(io::Error::other);
    let (letter, text) = match word.plain() {
        Some((letter, text)) => (letter, Cow::Borrowed(text)),
        None => (TREE, Cow::Owned(tree(word)?)),
    };
    let length = u32::try_from(text.len().saturating_add(1)).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes(), &[letter][..], text.as_bytes()].concat())
}

/// Takes the first whole frame out of what has arrived; none where it is not all there yet.
///
/// # Errors
/// Where it is not one of ours.
pub fn unframed<T: Word>(arrived: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some(head) = arrived.first_chunk::<HEAD>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*head)).ok().filter(|length| *length <= LONGEST);
    let none_of_ours = || io::Error::other("no frame");
    let end = length.ok_or_else(none_of_ours)?.saturating_add(HEAD);
    let Some(frame) = arrived.get(HEAD..end) else { return Ok(None) };
    let (letter, text) = frame.split_first().ok_or_else(none_of_ours)?;
    let text = std::str::from_utf8(text).map_err(io::Error::other)?;
    let word = match *letter {
        TREE => serde_yaml::from_str(text).map_err(io::Error::other)?,
        letter => T::of_plain(letter, text).ok_or_else(none_of_ours)?,
    };
    arrived.drain(..end);
    Ok(Some(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrives<T: Word + PartialEq + std::fmt::Debug>(word: T) {
        let frame = framed(&word).unwrap();
        let mut arrived = Vec::new();
        for byte in &frame {
            assert_eq!(unframed::<T>(&mut arrived).unwrap(), None);
            arrived.push(*byte);
        }
        arrived.extend_from_slice(&frame);
        assert_eq!(unframed(&mut arrived).unwrap().as_ref(), Some(&word));
        assert_eq!(unframed(&mut arrived).unwrap(), Some(word));
        assert!(arrived.is_empty());
    }

    #[test]
    fn every_word_arrives_as_it_was_said() {
        for ask in [Ask::Place, Ask::Locks, Ask::Pass, Ask::Withdraw, Ask::Take, Ask::State("phase running\nevent 1 a: \"b\"\n".into())] {
            arrives(ask);
        }
        for holder in [Holder::Passed, Holder::Undecided, Holder::Silent { present: true }] {
            arrives(Tell::Theirs { holder });
        }
        let texts = [Tell::At("/data".into()), Tell::Refused(78, "A: no\nB: \u{1b} 'no'".into()), Tell::Note(String::new())];
        for tell in texts.into_iter().chain([Tell::Place(false), Tell::Ours, Tell::Done, Tell::Resnapshot]) {
            arrives(tell);
        }
    }

    #[test]
    fn any_bytes_arrive() {
        let all: Vec<u8> = (1..=u8::MAX).collect();
        let text = serde_yaml::to_string(&Bytes::of(&all)).unwrap();
        let bytes: Bytes = serde_yaml::from_str(&text).unwrap();
        assert_eq!(bytes.entry().unwrap().as_bytes(), all);
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        assert!(unframed::<Ask>(&mut b"\xff\xff\xff\xff".to_vec()).is_err());
        for none in [&b"\x01\0\0\0z"[..], b"\x02\0\0\0px", b"\0\0\0\0", b"\x02\0\0\0=x", b"\x02\0\0\0s\xff"] {
            assert!(unframed::<Ask>(&mut none.to_vec()).is_err(), "{none:?}");
        }
    }
}
