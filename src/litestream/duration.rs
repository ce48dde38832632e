//! Go's durations. Must never guess a unit silently: what is meant is said as a question of what to write.

/// Go's `time.ParseDuration`, in nanoseconds: `1h30m`, `-1.5s`, and `0` without a unit.
pub fn parse(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Some(0.0);
    }
    let mut total = 0.0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let after = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number: f64 = rest.strip_suffix(after)?.parse().ok()?;
        let unit = after.split(|c: char| c.is_ascii_digit() || c == '.').next().unwrap_or_default();
        total += number * nanoseconds(unit)?;
        rest = after.strip_prefix(unit)?;
    }
    let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
    (!unsigned.is_empty()).then_some(sign * total)
}

fn nanoseconds(unit: &str) -> Option<f64> {
    let units = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 6e10), ("h", 3.6e12)];
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

/// What people write and Go does not read, as Go reads it: `1d` is `24h`, `5 min` is `5m`.
pub fn corrected(text: &str) -> Option<String> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let (factor, unit) = match unit.trim().to_ascii_lowercase().as_str() {
        "w" | "week" | "weeks" => (168, "h"),
        "d" | "day" | "days" => (24, "h"),
        "h" | "hr" | "hrs" | "hour" | "hours" => (1, "h"),
        "m" | "min" | "mins" | "minute" | "minutes" => (1, "m"),
        "s" | "sec" | "secs" | "second" | "seconds" => (1, "s"),
        "ms" | "msec" | "millis" => (1, "ms"),
        _ => return None,
    };
    Some(format!("{}{unit}", number.checked_mul(factor)?))
}

/// A bare number, which Litestream takes for nanoseconds: seconds are meant, unless it is too many of them.
pub fn with_unit(number: &str) -> String {
    let nanos = number.parse::<u64>().ok().filter(|n| *n >= 1_000_000_000);
    match nanos {
        Some(nanos) if nanos.is_multiple_of(1_000_000_000) => format!("{}s", nanos / 1_000_000_000),
        Some(nanos) => format!("{nanos}ns"),
        None => format!("{number}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (good, nanos) in [("10s", 1e10), ("1h30m", 5.4e12), ("500ms", 5e8), ("1.5s", 1.5e9), ("0", 0.0), ("-1s", -1e9)] {
            assert!(parse(good).is_some_and(|n| (n - nanos).abs() < 1.0), "{good}");
        }
        for bad in ["5", "", "1d", "s", "10 s", "1h30", "-", ".s", "1..s"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_people_write_has_a_form_that_go_reads() {
        for (written, go) in [("1d", "24h"), ("7 days", "168h"), ("1w", "168h"), ("5min", "5m"), ("10 S", "10s")] {
            assert_eq!(corrected(written).as_deref(), Some(go));
            assert!(parse(go).is_some());
        }
        assert_eq!(corrected("soon"), None);
        assert_eq!(corrected("99999999999999999999d"), None);
        assert_eq!((with_unit("10").as_str(), with_unit("10000000000").as_str()), ("10s", "10s"));
    }
}
