//! Time stamps in UTC, from the clock's seconds alone. Must never fail.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-11-24T20:15:00Z` (RFC 3339).
pub fn rfc3339(time: SystemTime) -> String {
    let [y, mo, d, h, mi, s] = parts(time);
    format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}Z")
}

/// `20261124T201500Z`, for file names.
pub fn compact(time: SystemTime) -> String {
    let [y, mo, d, h, mi, s] = parts(time);
    format!("{y:04}{mo:02}{d:02}T{h:02}{mi:02}{s:02}Z")
}

/// How long ago that was, in one unit: `12 s`, `3 h`; none for what is no time, or still to come.
pub fn since(text: &str, now: SystemTime) -> Option<String> {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds(text)?))?;
    now.duration_since(at).ok().map(period)
}

/// A length of time in one unit: `12 s`, `3 h`.
pub fn period(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A time as people write it (RFC 3339, any offset) in UTC, a fraction kept; none for anything else.
pub fn utc(text: &str) -> Option<String> {
    let whole = rfc3339(UNIX_EPOCH.checked_add(Duration::from_secs(seconds(text)?))?);
    let fraction: String = text.trim().chars().skip(19).take_while(|c| *c == '.' || c.is_ascii_digit()).collect();
    Some(format!("{}{fraction}Z", whole.trim_end_matches('Z')))
}

/// A time (RFC 3339), to the millisecond; none for anything else.
pub fn parse(text: &str) -> Option<SystemTime> {
    let fraction: String = text.trim().chars().skip(19).skip_while(|c| *c == '.').take_while(char::is_ascii_digit).take(3).collect();
    let millis: u64 = format!("{fraction:0<3}").parse().ok()?;
    let whole = UNIX_EPOCH.checked_add(Duration::from_secs(seconds(text)?))?;
    whole.checked_add(Duration::from_millis(if text.trim().chars().nth(19) == Some('.') { millis } else { 0 }))
}

/// A time (RFC 3339) in seconds since 1970.
fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let (date, rest) = (text.get(..19)?, text.get(19..)?);
    let digits = |range: std::ops::Range<usize>| {
        let part = date.get(range)?;
        if part.bytes().all(|b| b.is_ascii_digit()) { part.parse::<u64>().ok() } else { None }
    };
    let separated = [(4_usize, '-'), (7, '-'), (10, 'T'), (13, ':'), (16, ':')]
        .iter()
        .all(|(at, c)| date.chars().nth(*at).is_some_and(|found| found.eq_ignore_ascii_case(c) || (*c == 'T' && found == ' ')));
    let [year, month, day] = [digits(0..4)?, digits(5..7)?, digits(8..10)?];
    let [hour, minute, second] = [digits(11..13)?, digits(14..16)?, digits(17..19)?];
    let fraction_end = rest.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(rest.len());
    let (fraction, zone) = rest.split_at(fraction_end);
    let fraction_ok = fraction.is_empty() || (fraction.starts_with('.') && fraction.len() > 1 && fraction.matches('.').count() == 1);
    if !separated || !fraction_ok || year < 1970 || second > 60 {
        return None;
    }
    let local = days(year, month, day)?.checked_mul(86_400)?.checked_add(of_day(hour, minute)?.checked_add(second)?)?;
    match zone {
        "Z" | "z" => Some(local),
        _ => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
            let offset = of_day(hours, minutes)?;
            // East of Greenwich it is later.
            if zone.starts_with('+') { local.checked_sub(offset) } else { zone.starts_with('-').then(|| local.checked_add(offset))? }
        }
    }
}

fn of_day(hours: u64, minutes: u64) -> Option<u64> {
    if hours > 23 || minutes > 59 { None } else { hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?) }
}

/// A date to days since 1970, where there is such a day.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted = if month > 2 { year } else { year.checked_sub(1)? };
    let (era, of_era) = (shifted / 400, shifted % 400);
    let of_year = (153_u64.checked_mul(if month > 2 { month.checked_sub(3)? } else { month.checked_add(9)? })?.checked_add(2)? / 5)
        .checked_add(day.checked_sub(1)?)?;
    let of_era = of_era.checked_mul(365)?.checked_add(of_era / 4)?.checked_sub(of_era / 100)?.checked_add(of_year)?;
    let days = era.checked_mul(146_097)?.checked_add(of_era)?.checked_sub(719_468)?;
    // The 31st of a month of 30 days comes out as another day.
    let seconds = Duration::from_secs(days.checked_mul(86_400)?);
    let [y, m, d, ..] = parts(UNIX_EPOCH.checked_add(seconds)?);
    ([y, m, d] == [year, month, day]).then_some(days)
}

/// Days since 1970 to a date: Howard Hinnant's `civil_from_days`, years from March on.
#[expect(clippy::arithmetic_side_effects, reason = "seconds since 1970 in 64 bits are far from any limit here")]
fn parts(time: SystemTime) -> [u64; 6] {
    // Before year 10,000, whatever the clock says.
    let seconds = time.duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default().min(253_402_300_799);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    [era * 400 + year + carry, month, of_month, rest / 3600, rest / 60 % 60, rest % 60]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_go_writes_keeps_its_milliseconds() {
        let millis = |text| parse(text).map(|at| at.duration_since(UNIX_EPOCH).unwrap().as_millis());
        assert_eq!(millis("2026-11-25T12:16:36.801403536Z"), Some(1_795_608_996_801));
        assert_eq!(millis("2026-11-25T13:16:36.8+01:00"), Some(1_795_608_996_800));
        assert_eq!(millis("2026-11-25T12:16:36Z"), Some(1_795_608_996_000));
        assert_eq!(millis("soon"), None);
    }

    #[test]
    fn a_time_is_read_as_people_write_it_and_nothing_else_is() {
        for (text, meant) in [
            ("2026-11-25T02:28:14Z", "2026-11-25T02:28:14Z"),
            ("2026-11-25 02:28:14z", "2026-11-25T02:28:14Z"),
            ("2026-11-25T02:28:14.25Z", "2026-11-25T02:28:14.25Z"),
            ("2026-03-01T00:30:00+01:00", "2026-02-28T23:30:00Z"),
            ("2024-02-29T23:30:00-00:45", "2024-03-01T00:15:00Z"),
        ] {
            assert_eq!(utc(text).as_deref(), Some(meant), "{text}");
        }
        for bad in [
            "",
            "now",
            "2026-11-25",
            "2026-11-25T02:28:14",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-11-25T25:00:00Z",
            "2026-11-25T02:28:14.Z",
            "2026-11-25T02:28:14+1",
            "2026-00-10T00:00:00Z",
            "2026-11-25T02:28:1é4Z",
            "1969-01-01T00:00:00Z",
        ] {
            assert_eq!(utc(bad), None, "{bad}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_550_100, "2026-11-24T19:55:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        assert_eq!(compact(UNIX_EPOCH + Duration::from_secs(951_782_400)), "20000229T000000Z");
    }
}
