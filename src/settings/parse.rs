//! The texts of this program's own settings as values. Must never show a text in what it says.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::entry::LogTo;
use super::values::read_flag;
use crate::time;

/// A value, or how it is written.
type Read<T> = Result<T, String>;

fn or<T>(read: Option<T>, form: &str) -> Read<T> {
    read.ok_or_else(|| form.to_owned())
}

pub(super) fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Read<T> {
    let found = words.iter().find(|(word, _)| text.eq_ignore_ascii_case(word));
    found.map(|(_, choice)| *choice).ok_or_else(|| words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "))
}

pub(super) fn flag(text: &str) -> Read<bool> {
    or(read_flag(text), "true or false")
}

/// More than nothing.
pub(super) fn duration_of_some(text: &str) -> Read<Duration> {
    or(duration(text).filter(|duration| !duration.is_zero()), "a duration as 500ms, 10s or 2m")
}

/// `:9091` is on loopback: what others may see is to be said.
pub(super) fn address(text: &str) -> Read<SocketAddr> {
    let text = match text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':')) {
        Some(port) => format!("127.0.0.1:{port}"),
        None if text.bytes().all(|b| b.is_ascii_digit()) => format!("127.0.0.1:{text}"),
        None => text.to_owned(),
    };
    let address = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    or(address, "a port as :9091, or an address as 0.0.0.0:9091 or [::]:9091")
}

/// A duration, or never.
pub(super) fn interval(text: &str) -> Read<Option<Duration>> {
    match text {
        "0" | "off" => Ok(None),
        text => or(duration(text).filter(|d| *d >= Duration::from_secs(1)).map(Some), "a duration as 6h, or 0 for never"),
    }
}

pub(super) fn rewrite(text: &str) -> Read<Vec<(i32, i32)>> {
    let pair = |text: &str| {
        let (from, to) = text.split_once(':')?;
        Some((signal(from)?, if to.trim() == "0" { 0 } else { signal(to)? }))
    };
    or(text.split(',').map(pair).collect(), "pairs of signals, as TERM:QUIT or 15:3; KILL and STOP cannot be rewritten")
}

pub(super) fn signals(text: &str) -> Read<Vec<i32>> {
    or(text.split(',').map(signal).collect(), "signals, as WINCH or USR1,RTMIN+3; KILL and STOP cannot be caught")
}

pub(super) fn owner(text: &str) -> Read<String> {
    let is_name = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-$".contains(c));
    let is_owner = text.split(':').count() <= 2 && text.split(':').all(is_name);
    or(is_owner.then(|| text.to_owned()), "USER or USER:GROUP, by name or number")
}

/// A path has a slash, so that `true` or `off` makes no file of that name.
pub(super) fn log(text: &str) -> Read<LogTo> {
    match text {
        "stderr" => Ok(LogTo::Stderr),
        "none" => Ok(LogTo::Nowhere),
        path if path.contains('/') && !path.contains(char::is_control) => Ok(LogTo::File(path.into())),
        _ => Err("stderr, none, or a path as /var/log/litestream-entry.log".to_owned()),
    }
}

pub(super) fn mode(text: &str) -> Read<u32> {
    or(u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777), "octal digits, as 0640")
}

pub(super) fn timestamp(text: &str) -> Read<String> {
    or(time::utc(text), "a time as 2026-01-31T12:00:00Z")
}

/// A transaction of Litestream 0.5's, as it writes one.
///
/// # Errors
/// How it is written.
pub fn txid(text: &str) -> Read<String> {
    let is_txid = text.len() == 16 && text.chars().all(|c| c.is_ascii_hexdigit());
    or(is_txid.then(|| text.to_ascii_lowercase()), "sixteen hexadecimal digits, as `ltx` prints them")
}

/// None for `auto`.
pub(super) fn count(text: &str) -> Read<Option<usize>> {
    match text {
        "auto" => Ok(None),
        text => or(text.parse().ok().filter(|count| (1..=64).contains(count)).map(Some), "a number from 1 to 64, or auto"),
    }
}

pub(super) fn size(text: &str) -> Read<u64> {
    or(bytes(text), "a size as 512MB or 1GiB")
}

/// The first and last real-time signal as Docker, glibc and systemd count them. A libc may keep more for itself (musl does), and begin later.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// A signal that can be caught, by name or number: `TERM`, `SIGTERM`, `15`, `RTMIN+3`.
fn signal(text: &str) -> Option<i32> {
    let name = text.trim().to_ascii_uppercase();
    let name = name.trim_start_matches("SIG");
    let number = name.parse::<i32>().ok();
    let named = || format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32);
    let found = number.or_else(|| real_time(name)).or_else(named);
    found.filter(|n| (1..=RTMAX).contains(n) && ![Signal::SIGKILL as i32, Signal::SIGSTOP as i32].contains(n))
}

fn real_time(name: &str) -> Option<i32> {
    let beyond =
        |rest: &str, sign: char| if rest.is_empty() { Some(0) } else { rest.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from) };
    let found = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => RTMIN.checked_add(beyond(rest, '+')?)?,
        (None, Some(rest)) => RTMAX.checked_sub(beyond(rest, '-')?)?,
        (None, None) => return None,
    };
    (RTMIN..=RTMAX).contains(&found).then_some(found)
}

/// `500ms`, `10s`, `2m`, `1h`; a bare number is seconds, as in `docker stop -t`. A year at most.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let value: u64 = number.parse().ok()?;
    let millis = match text.get(number.len()..)? {
        "ms" => value,
        "" | "s" => value.checked_mul(1000)?,
        "m" => value.checked_mul(60_000)?,
        "h" => value.checked_mul(3_600_000)?,
        _ => return None,
    };
    (millis <= 365 * 24 * 3_600_000).then(|| Duration::from_millis(millis))
}

fn bytes(text: &str) -> Option<u64> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match text.get(number.len()..)?.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => return None,
    };
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_written_as_people_write_one() {
        for (text, meant) in [("true", true), ("ON", true), ("1", true), ("no", false), ("off", false), ("0", false)] {
            assert_eq!(flag(text), Ok(meant), "{text}");
        }
        assert!(flag("2").is_err() && flag("").is_err());
    }

    #[test]
    fn a_signal_has_a_name_or_a_number_and_can_be_caught() {
        for (text, meant) in [
            ("15", Some(15)),
            ("TERM", Some(15)),
            ("sigquit", Some(3)),
            (" HUP ", Some(1)),
            ("64", Some(64)),
            ("RTMIN+3", Some(37)),
            ("sigrtmax-1", Some(63)),
            ("RTMIN", Some(34)),
            ("winch", Some(28)),
        ] {
            assert_eq!(signal(text), meant, "{text}");
        }
        for bad in ["", "0", "65", "-1", "9", "KILL", "SIGSTOP", "NOPE", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMIN+-1", "RTMAX-31"] {
            assert_eq!(signal(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_and_sizes_are_read_as_people_write_them() {
        assert_eq!(duration("10"), Some(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        for bad in ["", "s", "-1s", "1.5s", "99999999999999999999s", "10 s", "1d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        assert_eq!(bytes("512MB"), Some(512_000_000));
        assert_eq!(bytes("999999999999GiB"), None);
    }
}
