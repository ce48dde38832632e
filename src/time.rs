//! Time stamps in UTC, from the clock's seconds alone. Must never fail.

use std::time::{SystemTime, UNIX_EPOCH};

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
    use std::time::Duration;

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
