//! Suggestions for misspelled words, and lists of the possible ones.

pub(super) fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The words to choose from, as in a sentence: "`a`, `b` or `c`".
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => format!("`{only}`"),
        [most @ .., last] => format!("{} or `{last}`", listed(most)),
    }
}

/// The word that was probably meant: at most two errors away, and one for short words.
pub(super) fn nearest<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    // The calculation looks at each pair of characters, and no word is longer.
    if text.len() > WORD_BYTES_MAX {
        return None;
    }
    let text = text.to_lowercase();
    let slips = |word: &&str| if word.len().min(text.len()) <= 4 { 1 } else { 2 };
    let near =
        words.iter().map(|word| (distance(&text, word), *word)).filter(|(far, word)| *far <= slips(word));
    near.min_by_key(|(far, _)| *far).map(|(_, word)| word)
}

const WORD_BYTES_MAX: usize = 32;

/// How many characters must be inserted, removed, replaced, or swapped with a neighbour to turn one word into
/// the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(a != b);
            let mut least = replaced.min(last[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && *a == to[column - 1] && from[row - 1] == *b {
                least = least.min(before_last[column - 1] + 1);
            }
            current.push(least);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["accept", "connect", "sessions", "idle", "peers"];

    #[test]
    fn slips_are_recognised() {
        let table = [
            ("acept", Some("accept")),
            ("acecpt", Some("accept")),
            ("Accept", Some("accept")),
            ("session", Some("sessions")),
            ("conect", Some("connect")),
            ("idel", Some("idle")),
            ("listen", None),
            ("x", None),
        ];
        for (text, meant) in table {
            assert_eq!(nearest(text, KNOWN), meant, "{text}");
        }
    }

    #[test]
    fn an_endless_key_costs_no_time() {
        assert_eq!(nearest(&"a".repeat(1_000_000), KNOWN), None);
    }
}
