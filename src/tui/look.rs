//! How the screen looks on this terminal: a theme and a set of symbols.

use crate::{
    telemetry::text,
    tui::{symbols::Symbols, theme::Theme},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub theme: Theme,
    pub symbols: Symbols,
}

impl Look {
    pub const FULL: Self = Self { theme: Theme::ANSI, symbols: Symbols::UNICODE };

    /// What the environment of this process asks for.
    pub fn of_environment() -> Self {
        Self::chosen_by(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// `NO_COLOR` set to anything: no colour. A locale that is not UTF-8: ASCII.
    pub fn chosen_by(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        let utf8 = locale.contains("utf-8") || locale.contains("utf8");
        Self {
            theme: if set(&"NO_COLOR").is_some() { Theme::MONO } else { Theme::ANSI },
            symbols: if utf8 { Symbols::UNICODE } else { Symbols::ASCII },
        }
    }

    /// Text from outside as this terminal can show it, at most `chars_max` long.
    pub fn text(&self, from_outside: &str, chars_max: usize) -> String {
        let cleaned = text::clean(from_outside, chars_max);
        if self.symbols != Symbols::ASCII {
            return cleaned;
        }
        let ascii = |letter: char| match letter {
            text::ELLIPSIS => self.symbols.ellipsis,
            _ if letter.is_ascii() => letter,
            _ => '?',
        };
        cleaned.chars().map(ascii).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(set: &[(&str, &str)]) -> Look {
        Look::chosen_by(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into()))
    }

    #[test]
    fn the_first_locale_that_is_set_decides_the_symbols() {
        let cases: [(&[(&str, &str)], Symbols); 6] = [
            (&[], Symbols::ASCII),
            (&[("LANG", "C")], Symbols::ASCII),
            (&[("LANG", "en_GB.UTF-8")], Symbols::UNICODE),
            (&[("LANG", "en_GB.UTF-8"), ("LC_ALL", "C")], Symbols::ASCII),
            (&[("LANG", "C"), ("LC_CTYPE", "C.utf8")], Symbols::UNICODE),
            (&[("LC_ALL", ""), ("LANG", "C.UTF-8")], Symbols::UNICODE),
        ];
        for (set, expected) in cases {
            assert_eq!(look(set).symbols, expected, "{set:?}");
        }
    }

    #[test]
    fn no_color_counts_unless_it_is_empty() {
        assert_eq!(look(&[("NO_COLOR", "1")]).theme, Theme::MONO);
        assert_eq!(look(&[("NO_COLOR", "")]).theme, Theme::ANSI);
        assert_eq!(look(&[]).theme, Theme::ANSI);
    }

    #[test]
    fn an_ascii_terminal_gets_ascii_only() {
        assert_eq!(look(&[]).text("bücher.example", 8), "b?cher.~");
        assert_eq!(look(&[("LANG", "C.UTF-8")]).text("bücher.example", 8), "bücher.…");
    }
}
