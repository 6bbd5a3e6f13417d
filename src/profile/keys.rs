//! The keys that each map of a profile takes. Reading and the schema go by the same tables.

use super::problem::{ValueProblem, quote_for_problem};

/// The keys of one kind of map.
pub(super) struct KnownKeys {
    pub known: &'static [&'static str],
}

const fn keys(known: &'static [&'static str]) -> KnownKeys {
    KnownKeys { known }
}

pub(super) const PROFILE: KnownKeys =
    keys(&["extends", "name", "mode", "dmz", "internal", "drain", "drain_delay", "health", "ready"]);

/// The port that monitors ask at.
pub(super) const HEALTH: KnownKeys = keys(&["address", "insecure"]);

pub(super) const HALF: KnownKeys = keys(&["link", "services"]);

pub(super) const DMZ_LINK: KnownKeys =
    keys(&["listen", "connect", "tls", "insecure", "prepared", "wait", "waiters"]);

pub(super) const INTERNAL_LINK: KnownKeys =
    keys(&["connect", "listen", "tls", "insecure", "prepared", "maximum", "retry"]);

pub(super) const LINK_TLS: KnownKeys = keys(&["certificate", "key", "ca", "peers"]);

pub(super) const RETRY: KnownKeys = keys(&["first", "maximum"]);

pub(super) const DMZ_SERVICE: KnownKeys = keys(&[
    "accept",
    "connect",
    "sessions",
    "idle",
    "peers",
    "carries",
    "tls",
    "sni",
    "proxy",
    "hosts",
    "origins",
    "inactivity",
    "message_limit",
    "protocols",
    "frames",
    "forwarded",
    "body",
    "keep_alive",
    "answer",
]);

pub(super) const INTERNAL_SERVICE: KnownKeys = keys(&["connect", "peers", "carries", "own_names", "answer"]);

/// An address of a link written as a map, to dial.
pub(super) const LINK_ADDRESS: KnownKeys = keys(&["address"]);

/// The same to listen on.
pub(super) const LINK_LISTEN: KnownKeys = keys(&["address", "bind"]);

/// The same where clients come in.
pub(super) const ACCEPT_ADDRESS: KnownKeys = keys(&[
    "address",
    "bind",
    "tls",
    "sni",
    "proxy",
    "hosts",
    "origins",
    "inactivity",
    "message_limit",
    "protocols",
    "frames",
    "forwarded",
    "body",
    "keep_alive",
]);

/// The same of a backend.
pub(super) const CONNECT_ADDRESS: KnownKeys = keys(&["address", "tls", "proxy"]);

/// Proxies before an accept.
pub(super) const ACCEPT_PROXY: KnownKeys = keys(&["from"]);

pub(super) const ACCEPT_TLS: KnownKeys =
    keys(&["certificate", "key", "ca", "verify_client", "names", "min_version"]);

pub(super) const CONNECT_TLS: KnownKeys = keys(&["ca", "name", "certificate", "key"]);

impl KnownKeys {
    /// Why `key` is not taken, if it is not.
    pub fn problem_with(&self, key: &str) -> Option<ValueProblem> {
        if self.known.contains(&key) {
            return None;
        }
        let what = format!("there is no key `{}` here", quote_for_problem(key));
        Some(match self.nearest_key(key) {
            Some(meant) => ValueProblem::new(what, format!("did you mean `{meant}`?")),
            None => ValueProblem::new(what, format!("known are {}", list_words(self.known))),
        })
    }

    /// The known key that an unknown one probably stands for.
    pub fn nearest_key(&self, key: &str) -> Option<&'static str> {
        if self.known.contains(&key) { None } else { nearest_word(key, self.known) }
    }
}

pub(super) fn list_words(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The word that was probably meant: two slips away at most, and one in short words.
pub(super) fn nearest_word<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    // The distance takes time for each pair of signs, and no word is longer.
    if text.len() > WORD_BYTES_MAX {
        return None;
    }
    let text = text.to_lowercase();
    let slips = |word: &&str| if word.len().min(text.len()) <= 4 { 1 } else { 2 };
    let near = words
        .iter()
        .map(|word| (edit_distance(&text, word), *word))
        .filter(|(far, word)| *far <= slips(word));
    near.min_by_key(|(far, _)| *far).map(|(_, word)| word)
}

const WORD_BYTES_MAX: usize = 32;

/// Signs to insert, remove or replace, or neighbours to swap, to get from one word to the other.
fn edit_distance(from: &str, to: &str) -> usize {
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
            assert_eq!(nearest_word(text, DMZ_SERVICE.known), meant, "{text}");
        }
    }

    #[test]
    fn an_endless_key_costs_no_time() {
        assert_eq!(nearest_word(&"a".repeat(1_000_000), DMZ_SERVICE.known), None);
    }
}
