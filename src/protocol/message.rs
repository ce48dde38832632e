//! What a worker says to PID 1, a line each. Must never be taken for anything else than it was.

/// What a worker tells PID 1: a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `__prepare`: Litestream may start. `held` says whether WALs are pinned until it has its locks.
    Ready {
        /// The worker lives on and holds pins.
        held: bool,
        /// Some database could be neither pinned nor emptied.
        unproven: bool,
    },
    /// `__prepare`: it holds pins now, of databases that the app has only just begun to write to.
    Held,
    /// `__prepare`: a pin has been let go, so that from here on a dead Litestream needs the other way.
    Released,
    /// `__prepare`: pins were let go for size, and the replica answers now: start Litestream anew.
    Reopen,
    /// `__prepare`: a replica does not answer, so that it is not decided yet whether its database is the one to go on with. The app
    /// may work with it; Litestream may not start.
    Waits,
    /// The start is refused with this code; why has been said.
    Refused(u8),
    /// `__flush`: this database's last writes are not known to be saved, and why.
    Unsaved(String),
    /// `__flush`: this database's last writes are saved.
    Saved(String),
    /// `__flush`: all has been said.
    Flushed,
    /// A worker at the end of a life, from time to time: it is not stopped.
    Beat,
    /// One that cannot say so, since it has got no thread for that.
    Unheard,
    /// `__check`, or an operator by way of the socket `control`: a backup is different, begin it anew.
    Resnapshot,
    /// `__check`: something to be said.
    Note(String),
    /// `__pulse`: Litestream is there and does nothing, and how that shows.
    Hung(String),
    /// `__pulse`: a backup needs a new snapshot, by a Litestream that is started again, and why.
    Begin(String),
    /// `__flush`: the Litestream that runs cannot make the last sync; a pass of our own can.
    ByPass,
}

/// No message is longer: an alias and a reason.
pub const LONGEST: usize = 2048;

impl Message {
    /// As a line.
    pub fn encode(&self) -> String {
        match self {
            Self::Ready { held, unproven } => format!("ready {} {}\n", u8::from(*held), u8::from(*unproven)),
            Self::Held => "held\n".to_owned(),
            Self::Released => "released\n".to_owned(),
            Self::Reopen => "reopen\n".to_owned(),
            Self::Waits => "waits\n".to_owned(),
            Self::Resnapshot => "resnapshot\n".to_owned(),
            Self::Note(text) => format!("note {}\n", short(text)),
            Self::Refused(code) => format!("refused {code}\n"),
            Self::Unsaved(text) => format!("unsaved {}\n", short(text)),
            Self::Saved(name) => format!("saved {}\n", short(name)),
            Self::Hung(text) => format!("hung {}\n", short(text)),
            Self::Begin(text) => format!("begin {}\n", short(text)),
            Self::ByPass => "by-pass\n".to_owned(),
            Self::Flushed => "flushed\n".to_owned(),
            Self::Beat => "beat\n".to_owned(),
            Self::Unheard => "unheard\n".to_owned(),
        }
    }

    /// From a line without its end; none for anything that is not a message.
    pub fn decode(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let flag = |text| match text {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        };
        match (word, rest) {
            ("ready", flags) => {
                let (held, unproven) = flags.split_once(' ')?;
                Some(Self::Ready { held: flag(held)?, unproven: flag(unproven)? })
            }
            ("held", "") => Some(Self::Held),
            ("released", "") => Some(Self::Released),
            ("reopen", "") => Some(Self::Reopen),
            ("waits", "") => Some(Self::Waits),
            ("resnapshot", "") => Some(Self::Resnapshot),
            ("note", text) if !text.is_empty() => Some(Self::Note(text.to_owned())),
            ("refused", code) => code.parse().ok().map(Self::Refused),
            ("unsaved", text) if !text.is_empty() => Some(Self::Unsaved(text.to_owned())),
            ("saved", name) if !name.is_empty() => Some(Self::Saved(name.to_owned())),
            ("flushed", "") => Some(Self::Flushed),
            ("beat", "") => Some(Self::Beat),
            ("unheard", "") => Some(Self::Unheard),
            ("hung", text) if !text.is_empty() => Some(Self::Hung(text.to_owned())),
            ("begin", text) if !text.is_empty() => Some(Self::Begin(text.to_owned())),
            ("by-pass", "") => Some(Self::ByPass),
            _ => None,
        }
    }
}

fn short(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let mut all = vec![
            Message::Held,
            Message::Released,
            Message::Reopen,
            Message::Waits,
            Message::Refused(69),
            Message::Flushed,
            Message::Beat,
            Message::Unheard,
            Message::Unsaved("default: refused".into()),
            Message::Saved("default".into()),
            Message::Hung("no answer".into()),
            Message::Begin("default: was replaced".into()),
            Message::ByPass,
            Message::Resnapshot,
            Message::Note("default: verified".into()),
        ];
        for bits in 0..4 {
            all.push(Message::Ready { held: bits & 1 != 0, unproven: bits & 2 != 0 });
        }
        for message in all {
            assert_eq!(Message::decode(message.encode().trim_end_matches('\n')), Some(message));
        }
    }

    #[test]
    fn a_message_is_one_line_and_short_enough_for_one_write() {
        let text = Message::Unsaved("é\n".repeat(5000)).encode();
        assert!(text.len() <= LONGEST && text.matches('\n').count() == 1);
    }

    proptest! {
        #[test]
        fn nothing_else_is_taken_for_a_message(line in "\\PC*") {
            if let Some(message) = Message::decode(&line) {
                prop_assert_eq!(Message::decode(message.encode().trim_end_matches('\n')), Some(message));
            }
        }
    }
}
