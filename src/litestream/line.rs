//! The lines of Litestream, and what each release of them can: the one place where that is decided. Must never be asked of a release's
//! number anywhere else.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Litestream, Version};

/// The two lines of Litestream, which differ in commands, configuration and backup format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// 0.3.x: generations, WAL segments, no control socket.
    V03,
    /// 0.5.x: LTX files, and what [`Ability`] tells.
    V05,
}

/// How a line keeps what it replicates, beside the database and in the replica, and what follows from that. All that depends on it asks for this
/// and not for the line, so that a line with the same files is handled as those are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Generations of a snapshot and WAL segments; a copy of the WAL beside the database, which has to fit before anything goes on.
    Generations,
    /// LTX files, numbered by transaction, in one history.
    Ltx,
}

/// What a release of 0.5 has or lacks. None of it is in 0.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// `replicate -once`, with `-force-snapshot`.
    Once,
    /// A control socket that lists the databases; `ltx -level`.
    Socket,
    /// `/sync` on that socket, which confirms a last sync.
    Sync,
    /// `/debug/sync-status` there, by which a pin can be let go; `restore -json` and `-dry-run`.
    Status,
    /// It reads files whose pages have flags, as it and its successors write them.
    Flags,
    /// `restore` finds a backup of 0.3's, too.
    Reads03,
}

/// The first release of 0.5 with each, found by trying the released binaries 0.5.5 to 0.5.17.
const SINCE: [(Ability, u16); 6] =
    [(Ability::Once, 6), (Ability::Reads03, 7), (Ability::Socket, 8), (Ability::Sync, 9), (Ability::Status, 12), (Ability::Flags, 16)];
/// The first release of 0.5 that leaves no gaps at its own checkpoints.
const WHOLE: u16 = 15;
/// The oldest release of 0.5 that was tried.
const OLDEST: u16 = 5;

impl Ability {
    /// The first release that has it, `0.5.12`.
    pub fn since(self) -> Version {
        let patch = SINCE.iter().find(|(ability, _)| *ability == self).map_or(u16::MAX, |(_, patch)| *patch);
        Version { major: 0, minor: 5, patch }
    }
}

impl Version {
    /// The line it belongs to; none for one that this program does not know.
    pub fn line(self) -> Option<Line> {
        match (self.major, self.minor) {
            (0, 3) => Some(Line::V03),
            (0, 5) => Some(Line::V05),
            _ => None,
        }
    }

    /// Whether this release has it.
    pub fn can(self, ability: Ability) -> bool {
        self.line() == Some(Line::V05) && self >= ability.since()
    }

    /// What to say where it lacks it.
    pub fn lacks(self, what: impl fmt::Display, ability: Ability) -> String {
        format!("Litestream {self} has no {what}; {} and later have it", ability.since())
    }

    /// 0.5.6 and 0.5.7 stop replicating silently (upstream's report 1083).
    pub fn stops_silently(self) -> bool {
        self.line() == Some(Line::V05) && (self.patch == 6 || self.patch == 7)
    }

    /// Before 0.5.15 a release of 0.5 may leave out what was written while it checkpoints: bare, of an app that wrote a thousand times a
    /// second for some seconds, a few rows in one backup of five. Of 0.5.9 none was seen.
    pub fn leaves_gaps(self) -> bool {
        self.line() == Some(Line::V05) && self.patch < WHOLE && self.patch != 9
    }

    /// A release of 0.5 before those that were tried.
    pub fn is_untried(self) -> bool {
        self.line() == Some(Line::V05) && self.patch < OLDEST
    }
}

impl Line {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::V03, Self::V05];

    /// For a line that is said.
    pub fn name(self) -> &'static str {
        match self {
            Self::V03 => "Litestream 0.3",
            Self::V05 => "Litestream 0.5",
        }
    }

    /// Its files.
    pub fn format(self) -> Format {
        match self {
            Self::V03 => Format::Generations,
            Self::V05 => Format::Ltx,
        }
    }
}

impl Format {
    /// What in a path makes its SQLite open another file: the driver takes all behind a `?` for options, and 0.5, whose files are LTX, gives it a
    /// URI, in which a `#` ends the path and an escape is a character.
    pub fn misread(self, path: &[u8]) -> Option<&'static str> {
        let hex = |at: usize| path.get(at).is_some_and(u8::is_ascii_hexdigit);
        path.iter().enumerate().find_map(|(at, byte)| match (byte, self) {
            (b'?', _) => Some("?"),
            (b'#', Self::Ltx) => Some("#"),
            (b'%', Self::Ltx) if hex(at.saturating_add(1)) && hex(at.saturating_add(2)) => Some("%"),
            _ => None,
        })
    }
}

impl Litestream {
    /// Its files.
    pub fn format(&self) -> Format {
        self.line.format()
    }

    /// Whether it has that.
    pub fn can(&self, ability: Ability) -> bool {
        self.version.can(ability)
    }

    /// What to say where it lacks it.
    pub fn lacks(&self, what: impl fmt::Display, ability: Ability) -> String {
        self.version.lacks(what, ability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_misread_as_each_lines_driver_does() {
        for (path, v03, v05) in [
            ("/d/a.db", None, None),
            ("/d?/a.db", Some("?"), Some("?")),
            ("/d/a#.db", None, Some("#")),
            ("/d/a%41", None, Some("%")),
            ("/d/100%", None, None),
            ("/d/100%.db", None, None),
            ("/d/%4", None, None),
        ] {
            assert_eq!((Format::Generations.misread(path.as_bytes()), Format::Ltx.misread(path.as_bytes())), (v03, v05), "{path}");
        }
    }

    #[test]
    fn each_ability_is_there_from_its_release_on_and_never_in_0_3() {
        let can = |version: &str, ability| version.parse::<Version>().unwrap().can(ability);
        for (ability, patch) in SINCE {
            assert!(can(&format!("0.5.{patch}"), ability) && can("0.5.99", ability), "{ability:?}");
            assert!(!can(&format!("0.5.{}", patch - 1), ability) && !can("0.3.13", ability), "{ability:?}");
        }
        assert_eq!("v0.3.13".parse::<Version>().unwrap().line(), Some(Line::V03));
        assert_eq!("0.4.0-beta.2".parse::<Version>().unwrap().line(), None);
        assert!("0.5.7".parse::<Version>().unwrap().stops_silently());
        assert!("0.5.14".parse::<Version>().unwrap().leaves_gaps() && !"0.5.15".parse::<Version>().unwrap().leaves_gaps());
        assert!(!"0.5.9".parse::<Version>().unwrap().leaves_gaps());
        assert!(!"0.3.13".parse::<Version>().unwrap().leaves_gaps());
        assert!("0.5.4".parse::<Version>().unwrap().is_untried() && !"0.5.5".parse::<Version>().unwrap().is_untried());
    }
}
