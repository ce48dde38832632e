//! The pattern of a directory's entry, and the file in which the names of its databases are kept. Must match as Litestream does.

/// The list's name in its directory.
pub const LIST: &str = ".litestream-entry-tenants";

/// Whether Litestream takes the list for one of the databases by itself.
pub fn takes_list(pattern: &str) -> bool {
    matches(pattern, LIST)
}

/// Go's `filepath.Match` on a file's name: `*`, `?`, and `[…]` with ranges.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    matches_from(&pattern, &name)
}

fn matches_from(pattern: &[char], name: &[char]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => (0..=name.len()).any(|at| name.get(at..).is_some_and(|left| matches_from(rest, left))),
        (Some(('?', rest)), Some((_, left))) => matches_from(rest, left),
        (Some(('[', rest)), Some((c, left))) => {
            let Some(end) = rest.iter().skip(1).position(|c| *c == ']').map(|at| at.saturating_add(1)) else { return false };
            let (class, rest) = rest.split_at(end);
            in_class(class, *c) && matches_from(rest.get(1..).unwrap_or_default(), left)
        }
        (Some((p, rest)), Some((c, left))) => p == c && matches_from(rest, left),
        _ => false,
    }
}

fn in_class(class: &[char], c: char) -> bool {
    let (negated, class) = if let Some(('^', rest)) = class.split_first() { (true, rest) } else { (false, class) };
    let single = class.contains(&c) && c != '-';
    let ranged = class.windows(3).any(|w| matches!(w, [from, '-', to] if (*from..=*to).contains(&c)));
    (single || ranged) != negated
}
