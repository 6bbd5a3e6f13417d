//! A screen over time, as the bytes for a terminal: asciicast, version 2, as `asciinema play` reads it.

use std::{
    cell::RefCell,
    io::{self, Write},
    mem,
    rc::Rc,
};

use portcullis::tui::{app::App, view};
use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};
use serde_json::json;

/// What the terminal would have been sent since the last picture.
#[derive(Clone, Default)]
struct Sent(Rc<RefCell<Vec<u8>>>);

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text of the file, picture after picture.
pub struct Cast {
    sent: Sent,
    terminal: Terminal<CrosstermBackend<Sent>>,
    text: String,
}

impl Cast {
    pub fn begin(title: &str, (width, height): (u16, u16)) -> Self {
        // Whatever the surroundings of the test say of colours.
        crossterm::style::force_color_output(true);
        let sent = Sent::default();
        let options = TerminalOptions { viewport: Viewport::Fixed(Rect::new(0, 0, width, height)) };
        let terminal = Terminal::with_options(CrosstermBackend::new(sent.clone()), options).unwrap();
        let header = json!({ "version": 2, "width": width, "height": height, "title": title });
        Self { sent, terminal, text: format!("{header}\n") }
    }

    /// What has changed on the screen this many seconds after the beginning.
    pub fn draw(&mut self, at: f64, app: &App) {
        self.terminal.draw(|frame| view::draw(frame, app)).unwrap();
        let sent = String::from_utf8(mem::take(&mut *self.sent.0.borrow_mut())).unwrap();
        let seconds = (at * 1000.0).round() / 1000.0;
        self.text += &format!("{}\n", json!([seconds, "o", sent]));
    }

    pub fn text(self) -> String {
        self.text
    }
}
