//! A screen as a picture: SVG, in a dark terminal's colours.
//!
//! Letters are text, held to their cells whatever font there is; bars and frames are shapes, since
//! in most fonts they would not meet.

use std::fmt::Write;

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
    text::Span,
};

/// A cell, in pixels.
const WIDTH: u16 = 8;
const HEIGHT: u16 = 17;
const MARGIN: u16 = 12;
/// From the top of a cell to the foot of its letter.
const BASE: u16 = 13;
const BACKGROUND: &str = "#14171c";
const FOREGROUND: &str = "#d5d9df";

pub fn of(buffer: &Buffer) -> String {
    let (width, height) = (buffer.area.width * WIDTH + 2 * MARGIN, buffer.area.height * HEIGHT + 2 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n"
    );
    for y in 0..buffer.area.height {
        let mut x = 0;
        while x < buffer.area.width {
            let cell = &buffer[(x, y)];
            let run = run(buffer, x, y);
            let place = (MARGIN + x * WIDTH, MARGIN + y * HEIGHT);
            let text: String = (x..x + run).map(|x| buffer[(x, y)].symbol()).collect();
            draw(&mut out, cell, &text, place, run);
            x += run;
        }
    }
    out + "</svg>\n"
}

/// Cells from `x` on that are drawn as one: letters of one style, or one shape.
fn run(buffer: &Buffer, x: u16, y: u16) -> u16 {
    let first = &buffer[(x, y)];
    let alike = |cell: &Cell| shape(cell.symbol()).is_none() && cell.style() == first.style();
    let letters = (x..buffer.area.width).take_while(|&x| alike(&buffer[(x, y)])).count();
    u16::try_from(letters).unwrap().max(1)
}

fn draw(out: &mut String, cell: &Cell, text: &str, (x, y): (u16, u16), run: u16) {
    let (mut fore, mut back) = (colour(cell.fg, FOREGROUND), colour(cell.bg, BACKGROUND));
    if cell.modifier.contains(Modifier::REVERSED) {
        (fore, back) = (back, fore);
    }
    let width = run * WIDTH;
    if back != BACKGROUND {
        writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{HEIGHT}\" fill=\"{back}\"/>")
            .unwrap();
    }
    let faint = if cell.modifier.contains(Modifier::DIM) { " opacity=\".55\"" } else { "" };
    if let Some(shape) = shape(text) {
        let (body, style) = match shape {
            Shape::Bar { eighths } => {
                let top = HEIGHT - HEIGHT * eighths / 8;
                (format!("M0 {top}h{WIDTH}V{HEIGHT}H0z"), format!("fill=\"{fore}\""))
            }
            Shape::Lines(path) => (path.into(), format!("fill=\"none\" stroke=\"{fore}\"")),
        };
        writeln!(out, "<path transform=\"translate({x} {y})\" d=\"{body}\" {style}{faint}/>").unwrap();
        return;
    }
    let bold = if cell.modifier.contains(Modifier::BOLD) { " font-weight=\"bold\"" } else { "" };
    let line = cell.modifier.contains(Modifier::UNDERLINED);
    let line = if line { " text-decoration=\"underline\"" } else { "" };
    for (at, word) in words(text) {
        let (x, y, width) = (x + at * WIDTH, y + BASE, cells(word) * WIDTH);
        let word = word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" textLength=\"{width}\" fill=\"{fore}\"{bold}{line}{faint}>{word}</text>"
        )
        .unwrap();
    }
}

/// Words, and the cell each begins at: spaces are not the same in every viewer.
fn words(text: &str) -> impl Iterator<Item = (u16, &str)> {
    let mut at = 0;
    text.split(' ').filter_map(move |word| {
        let begins = at;
        at += cells(word) + 1;
        (!word.is_empty()).then_some((begins, word))
    })
}

fn cells(word: &str) -> u16 {
    u16::try_from(Span::raw(word).width()).unwrap()
}

enum Shape {
    Bar { eighths: u16 },
    Lines(&'static str),
}

fn shape(symbol: &str) -> Option<Shape> {
    let letter = symbol.chars().next()?;
    Some(match letter {
        '▁'..='█' => Shape::Bar { eighths: u16::try_from(u32::from(letter) - 0x2580).unwrap() },
        '─' => Shape::Lines("M0 8.5h8"),
        '│' => Shape::Lines("M4 0v17"),
        '┌' | '╭' => Shape::Lines("M8 8.5h-4v8.5"),
        '┐' | '╮' => Shape::Lines("M0 8.5h4v8.5"),
        '└' | '╰' => Shape::Lines("M4 0v8.5h4"),
        '┘' | '╯' => Shape::Lines("M4 0v8.5h-4"),
        _ => return None,
    })
}

fn colour(colour: Color, by_default: &'static str) -> &'static str {
    match colour {
        Color::Reset => by_default,
        Color::Black => "#000000",
        Color::Red => "#f0716b",
        Color::Green => "#7ec77b",
        Color::Yellow => "#e3b957",
        Color::Blue => "#6ea8f0",
        Color::Magenta => "#cf8ee6",
        Color::Cyan => "#5cc4cf",
        Color::Gray | Color::White => "#d5d9df",
        Color::DarkGray => "#7d8590",
        other => panic!("a theme has only colours of the terminal, not {other}"),
    }
}
