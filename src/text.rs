//! Names that people mistype. Must never be given a value, which may be a secret.

/// The known name that is most like this one; empty where none is known.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> &'a str {
    known.into_iter().min_by_key(|k| distance(name, k)).unwrap_or_default()
}

/// Levenshtein's distance, on names of at most a few dozen letters.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(80).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, y) in b.chars().enumerate() {
        let mut before = i.saturating_add(1);
        let mut next = vec![before];
        for (x, pair) in a.iter().zip(row.windows(2)) {
            let [diagonal, above] = pair else { continue };
            let cost = diagonal.saturating_add(usize::from(*x != y));
            before = cost.min(above.saturating_add(1)).min(before.saturating_add(1));
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_finds_the_one_that_was_meant() {
        assert_eq!(nearest("retension", ["retention", "replica"]), "retention");
        assert_eq!(nearest("sync_interval", ["snapshot-interval", "sync-interval"]), "sync-interval");
        assert_eq!(nearest("x", []), "");
    }
}
