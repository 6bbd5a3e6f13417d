//! The symbols of the screen, in full and for terminals that only know ASCII.

use ratatui::symbols::{bar, border};

/// One symbol for each thing that is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolSet {
    pub border: border::Set<'static>,
    pub spark: bar::Set<'static>,
    /// A second without a sample.
    pub gap: &'static str,
    /// Before the word of the health.
    pub health: &'static str,
    /// Before a problem.
    pub alert: &'static str,
    pub separator: &'static str,
    pub selected: &'static str,
    pub ended: &'static str,
    /// The parts of a pool's bar.
    pub ready: char,
    pub dialling: char,
    pub missing: char,
    pub ellipsis: char,
    /// Between a time and its variation.
    pub spread: &'static str,
    /// After a number that the other half counts differently.
    pub differs: &'static str,
    pub arrow_up: &'static str,
    pub arrow_down: &'static str,
    /// After the head of the column that the list is sorted by: smallest on top, or largest.
    pub rising: &'static str,
    pub falling: &'static str,
    /// Before bytes a second: from clients, and to them.
    pub up: &'static str,
    pub down: &'static str,
    /// Lines between parts, by the sides of a cell that they leave: 1 up, 2 right, 4 down, 8 left.
    pub wires: [&'static str; 16],
    /// At the end of a line, and if the part it leads to is broken.
    pub arrow_right: &'static str,
    pub broken: &'static str,
}

impl SymbolSet {
    /// A cell filled from below by this many eighths.
    pub fn eighth(&self, eighths: u16) -> &'static str {
        let signs = &self.spark;
        match eighths {
            0 => signs.empty,
            1 => signs.one_eighth,
            2 => signs.one_quarter,
            3 => signs.three_eighths,
            4 => signs.half,
            5 => signs.five_eighths,
            6 => signs.three_quarters,
            7 => signs.seven_eighths,
            8.. => signs.full,
        }
    }

    pub const UNICODE: Self = Self {
        border: border::PLAIN,
        spark: bar::NINE_LEVELS,
        gap: "·",
        health: "●",
        alert: "▲",
        separator: "│",
        selected: ">",
        ended: "x",
        ready: '█',
        dialling: '▒',
        missing: '·',
        ellipsis: '…',
        spread: "±",
        differs: "≠",
        arrow_up: "↑",
        arrow_down: "↓",
        rising: "▲",
        falling: "▼",
        up: "↑",
        down: "↓",
        wires: [" ", "│", "─", "└", "│", "│", "┌", "├", "─", "┘", "─", "┴", "┐", "┤", "┬", "┼"],
        arrow_right: "▶",
        broken: "x",
    };

    pub const ASCII: Self = Self {
        border: border::Set {
            top_left: "+",
            top_right: "+",
            bottom_left: "+",
            bottom_right: "+",
            vertical_left: "|",
            vertical_right: "|",
            horizontal_top: "-",
            horizontal_bottom: "-",
        },
        spark: bar::Set {
            full: "#",
            seven_eighths: "#",
            three_quarters: "*",
            five_eighths: "*",
            half: "=",
            three_eighths: "=",
            one_quarter: "-",
            one_eighth: ":",
            empty: " ",
        },
        gap: ".",
        health: "*",
        alert: "!",
        separator: "|",
        selected: ">",
        ended: "x",
        ready: '#',
        dialling: '=',
        missing: '.',
        ellipsis: '~',
        spread: "+-",
        differs: "!",
        arrow_up: "Up",
        arrow_down: "Down",
        rising: "^",
        falling: "v",
        up: "^",
        down: "v",
        wires: [" ", "|", "-", "+", "|", "|", "+", "+", "-", "+", "-", "+", "+", "+", "+", "+"],
        arrow_right: ">",
        broken: "x",
    };
}
