//! The look of the screen on this terminal: a theme and a set of symbols.

use crate::{
    text,
    tui::{symbols::SymbolSet, theme::Theme},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScreenStyle {
    pub theme: Theme,
    pub symbols: SymbolSet,
    /// Whether colours may be used at all.
    pub has_colours: bool,
}

impl ScreenStyle {
    pub const FULL: Self = Self { theme: Theme::ANSI, symbols: SymbolSet::UNICODE, has_colours: true };

    /// The style that this process's environment asks for.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// If `NO_COLOR` is set to anything, there is no colour. If `COLORFGBG` has a light background, the theme
    /// is light. If the locale is not UTF-8, the symbols are ASCII.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        let utf8 = locale.contains("utf-8") || locale.contains("utf8");
        let has_colours = set(&"NO_COLOR").is_none();
        // As in `0;15`: the last number is the background; 7 and 15 are white.
        let colours = set(&"COLORFGBG").unwrap_or_default();
        let is_light = matches!(colours.rsplit(';').next(), Some("7" | "15"));
        Self {
            theme: match (has_colours, is_light) {
                (false, _) => Theme::MONO,
                (true, true) => Theme::LIGHT,
                (true, false) => Theme::ANSI,
            },
            symbols: if utf8 { SymbolSet::UNICODE } else { SymbolSet::ASCII },
            has_colours,
        }
    }

    /// The next theme; if `NO_COLOR` is set, `mono` stays.
    pub fn with_next_theme(&self) -> Self {
        let at = Theme::ALL.iter().position(|(_, theme)| *theme == self.theme).unwrap_or(0);
        self.with_theme(Theme::ALL[(at + 1) % Theme::ALL.len()].0)
    }

    pub fn with_theme(&self, name: &str) -> Self {
        let chosen = Theme::ALL.iter().find(|(known, _)| *known == name).filter(|_| self.has_colours);
        Self { theme: chosen.map_or(self.theme, |(_, theme)| *theme), ..self.clone() }
    }

    pub fn theme_name(&self) -> &'static str {
        match Theme::ALL.iter().find(|(_, theme)| *theme == self.theme) {
            Some(("mono", _)) if !self.has_colours => "mono, since NO_COLOR is set",
            found => found.map_or("", |(name, _)| *name),
        }
    }

    /// Text from outside in a form that this terminal can show, at most `chars_max` long.
    pub fn text(&self, from_outside: &str, chars_max: usize) -> String {
        let cleaned = text::clean_text(from_outside, chars_max);
        if self.symbols != SymbolSet::ASCII {
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

    fn look(set: &[(&str, &str)]) -> ScreenStyle {
        ScreenStyle::from_variables(|name| {
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn the_first_locale_that_is_set_decides_the_symbols() {
        let cases: [(&[(&str, &str)], SymbolSet); 6] = [
            (&[], SymbolSet::ASCII),
            (&[("LANG", "C")], SymbolSet::ASCII),
            (&[("LANG", "en_GB.UTF-8")], SymbolSet::UNICODE),
            (&[("LANG", "en_GB.UTF-8"), ("LC_ALL", "C")], SymbolSet::ASCII),
            (&[("LANG", "C"), ("LC_CTYPE", "C.utf8")], SymbolSet::UNICODE),
            (&[("LC_ALL", ""), ("LANG", "C.UTF-8")], SymbolSet::UNICODE),
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
