//! Hides addresses, for a screen that is shared or photographed.

use std::net::{IpAddr, SocketAddr};

/// Replaces an address.
pub const HIDDEN: &str = "(hidden)";

/// Whether addresses of clients are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressMasking {
    Shown,
    Hidden,
}

impl AddressMasking {
    pub fn toggled(self) -> Self {
        match self {
            Self::Shown => Self::Hidden,
            Self::Hidden => Self::Shown,
        }
    }

    /// A client's address: all of it is hidden, even if it is a name.
    pub fn client(self, address: &str) -> String {
        match self {
            Self::Shown => address.into(),
            Self::Hidden => HIDDEN.into(),
        }
    }

    /// Free text: every IP address in it is hidden, with its port.
    pub fn text(self, text: &str) -> String {
        match self {
            Self::Shown => text.into(),
            Self::Hidden => text.split_inclusive(separates_words).map(hide_word).collect(),
        }
    }
}

fn separates_words(letter: char) -> bool {
    letter.is_whitespace()
        || matches!(letter, '=' | ',' | ';' | '(' | ')' | '"' | '\'' | '/' | '<' | '>' | '@')
}

/// A word may end with punctuation that separates it from the next one.
fn hide_word(word: &str) -> String {
    let core = word.trim_end_matches(|letter| separates_words(letter) || matches!(letter, '.' | ':'));
    let bare = core.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() || core.parse::<SocketAddr>().is_ok() {
        return word.replacen(core, HIDDEN, 1);
    }
    word.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_text_are_hidden_and_nothing_else() {
        let cases = [
            ("link in-2 lost", "link in-2 lost"),
            ("connect 10.1.4.9:143 refused", "connect (hidden) refused"),
            ("client=192.0.2.7:50000 ended", "client=(hidden) ended"),
            ("from 2001:db8::1.", "from (hidden)."),
            ("tcp://[2001:db8::1]:80/", "tcp://(hidden)/"),
            ("at 192.0.2.7: reset", "at (hidden): reset"),
            ("took 12.5s, 3 of 4", "took 12.5s, 3 of 4"),
            ("at 14:02:09", "at 14:02:09"),
        ];
        for (text, expected) in cases {
            assert_eq!(AddressMasking::Hidden.text(text), expected);
            assert_eq!(AddressMasking::Shown.text(text), text);
        }
    }
}
