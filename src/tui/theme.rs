//! Colours by meaning, never by name, and never as the only sign.
//!
//! They use only the 16 colours of the terminal's own palette and its own background, which suit light and dark
//! alike. `NO_COLOR` selects [`Theme::MONO`], which sets no colour at all.

use ratatui::style::{Color, Modifier, Style};

/// One style for each meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    pub plain: Style,
    /// Unimportant: frames, zeros, what has ended.
    pub faint: Style,
    /// Column heads and panel titles.
    pub title: Style,
    pub good: Style,
    pub warn: Style,
    pub bad: Style,
    /// Keys, and names that the eye looks for.
    pub accent: Style,
    /// Client to backend.
    pub up: Style,
    /// Backend to client.
    pub down: Style,
    pub selected: Style,
    /// The screen is not live, or waits for an answer.
    pub attention: Style,
}

impl Theme {
    /// Each with its name.
    pub const ALL: [(&'static str, Self); 4] = [
        ("default", Self::ANSI),
        ("light", Self::LIGHT),
        ("mono", Self::MONO),
        ("high-contrast", Self::HIGH_CONTRAST),
    ];

    pub const ANSI: Self = Self {
        plain: Style::new(),
        faint: Style::new().add_modifier(Modifier::DIM),
        title: Style::new().add_modifier(Modifier::BOLD),
        good: Style::new().fg(Color::Green),
        warn: Style::new().fg(Color::Yellow),
        bad: Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        accent: Style::new().fg(Color::Cyan),
        up: Style::new().fg(Color::Cyan),
        down: Style::new().fg(Color::Magenta),
        selected: Style::new().add_modifier(Modifier::REVERSED),
        attention: Style::new().fg(Color::Yellow).add_modifier(Modifier::REVERSED),
    };

    /// For black on white: no yellow or cyan, which cannot be read there, and grey instead of dim.
    pub const LIGHT: Self = Self {
        plain: Style::new(),
        faint: Style::new().fg(Color::DarkGray),
        title: Style::new().add_modifier(Modifier::BOLD),
        good: Style::new().fg(Color::Green),
        warn: Style::new().fg(Color::Magenta).add_modifier(Modifier::BOLD),
        bad: Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        accent: Style::new().fg(Color::Blue),
        up: Style::new().fg(Color::Blue),
        down: Style::new().fg(Color::Magenta),
        selected: Style::new().add_modifier(Modifier::REVERSED),
        attention: Style::new().fg(Color::Magenta).add_modifier(Modifier::REVERSED.union(Modifier::BOLD)),
    };

    /// Nothing is dim or dark, and what matters is also bold, underlined or reversed.
    pub const HIGH_CONTRAST: Self = Self {
        plain: Style::new(),
        faint: Style::new(),
        title: Style::new().add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED)),
        good: Style::new().fg(Color::LightGreen).add_modifier(Modifier::BOLD),
        warn: Style::new().fg(Color::LightYellow).add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED)),
        bad: Style::new().fg(Color::LightRed).add_modifier(Modifier::BOLD.union(Modifier::REVERSED)),
        accent: Style::new().fg(Color::LightCyan).add_modifier(Modifier::BOLD),
        up: Style::new().fg(Color::LightCyan).add_modifier(Modifier::BOLD),
        down: Style::new().fg(Color::LightMagenta).add_modifier(Modifier::BOLD),
        selected: Style::new().add_modifier(Modifier::REVERSED.union(Modifier::BOLD)),
        attention: Style::new().add_modifier(Modifier::REVERSED.union(Modifier::BOLD)),
    };

    pub const MONO: Self = Self {
        plain: Style::new(),
        faint: Style::new().add_modifier(Modifier::DIM),
        title: Style::new().add_modifier(Modifier::BOLD),
        good: Style::new(),
        warn: Style::new().add_modifier(Modifier::UNDERLINED),
        bad: Style::new().add_modifier(Modifier::BOLD.union(Modifier::UNDERLINED)),
        accent: Style::new().add_modifier(Modifier::BOLD),
        up: Style::new(),
        down: Style::new(),
        selected: Style::new().add_modifier(Modifier::REVERSED),
        attention: Style::new().add_modifier(Modifier::REVERSED.union(Modifier::BOLD)),
    };
}
