//! The keys that each map of a profile takes. Reading and the schema go by the same tables.

use super::problem::{Fault, shown};

/// The keys of one kind of map.
pub(super) struct Keys {
    pub known: &'static [&'static str],
}

const fn keys(known: &'static [&'static str]) -> Keys {
    Keys { known }
}

pub(super) const PROFILE: Keys = keys(&["extends", "name", "mode", "dmz", "internal", "drain", "health"]);

/// The port that monitors ask at.
pub(super) const HEALTH: Keys = keys(&["address", "insecure"]);

pub(super) const HALF: Keys = keys(&["link", "services"]);

pub(super) const DMZ_LINK: Keys =
    keys(&["listen", "connect", "tls", "insecure", "prepared", "wait", "waiters"]);

pub(super) const INTERNAL_LINK: Keys =
    keys(&["connect", "listen", "tls", "insecure", "prepared", "maximum", "retry"]);

pub(super) const LINK_TLS: Keys = keys(&["certificate", "key", "ca", "peers"]);

pub(super) const RETRY: Keys = keys(&["first", "maximum"]);

pub(super) const DMZ_SERVICE: Keys = keys(&[
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

pub(super) const INTERNAL_SERVICE: Keys = keys(&["connect", "peers", "carries", "own_names", "answer"]);

/// An address of a link written as a map, to dial.
pub(super) const LINK_ADDRESS: Keys = keys(&["address"]);

/// The same to listen on.
pub(super) const LINK_LISTEN: Keys = keys(&["address", "bind"]);

/// The same where clients come in.
pub(super) const ACCEPT_ADDRESS: Keys = keys(&[
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
pub(super) const CONNECT_ADDRESS: Keys = keys(&["address", "tls", "proxy"]);

/// Proxies before an accept.
pub(super) const ACCEPT_PROXY: Keys = keys(&["from"]);

pub(super) const ACCEPT_TLS: Keys = keys(&["certificate", "key", "ca", "verify_client", "names"]);

pub(super) const CONNECT_TLS: Keys = keys(&["ca", "name", "certificate", "key"]);

impl Keys {
    /// Why `key` is not taken, if it is not.
    pub fn fault(&self, key: &str) -> Option<Fault> {
        if self.known.contains(&key) {
            return None;
        }
        let what = format!("there is no key `{}` here", shown(key));
        Some(match self.meant(key) {
            Some(meant) => Fault::new(what, format!("did you mean `{meant}`?")),
            None => Fault::new(what, format!("known are {}", listed(self.known))),
        })
    }

    /// The known key that an unknown one probably stands for.
    pub fn meant(&self, key: &str) -> Option<&'static str> {
        if self.known.contains(&key) { None } else { nearest(key, self.known) }
    }
}

pub(super) fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The word that was probably meant: two slips away at most, and one in short words.
pub(super) fn nearest<'a>(text: &str, words: &[&'a str]) -> Option<&'a str> {
    // The distance takes time for each pair of signs, and no word is longer.
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

/// Signs to insert, remove or replace, or neighbours to swap, to get from one word to the other.
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
            assert_eq!(nearest(text, DMZ_SERVICE.known), meant, "{text}");
        }
    }

    #[test]
    fn an_endless_key_costs_no_time() {
        assert_eq!(nearest(&"a".repeat(1_000_000), DMZ_SERVICE.known), None);
    }
}
