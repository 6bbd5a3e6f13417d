//! What the mouse does, once it is asked for: a click selects, the wheel scrolls, a click on a head sorts.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Rect;

use crate::tui::{
    app::{App, Mouse, Open, Reaction, Said},
    keys::Action,
    view::{self, Touched},
};

impl App {
    pub(super) fn toggle_mouse(&mut self) -> Reaction {
        let (mouse, text) = match self.mouse {
            Mouse::Off => {
                (Mouse::On, "mouse on, m gives it back: a click selects, the wheel scrolls, a head sorts")
            }
            Mouse::On => (Mouse::Off, "mouse off: the terminal selects text again"),
        };
        self.mouse = mouse;
        self.said = Some(Said::Done(text.into()));
        Reaction::Mouse(mouse)
    }

    /// An event of the mouse on a screen of this size.
    pub fn point(&mut self, event: MouseEvent, area: Rect) -> Reaction {
        // What is typed or asked is answered by keys.
        if self.mouse == Mouse::Off || !matches!(self.open, Open::Nothing | Open::Help { .. }) {
            return Reaction::Nothing;
        }
        match event.kind {
            MouseEventKind::ScrollDown => self.scroll(Action::Down),
            MouseEventKind::ScrollUp => self.scroll(Action::Up),
            MouseEventKind::Down(MouseButton::Left) if self.open == Open::Nothing => {
                self.touch(view::touched(self, area, (event.column, event.row)))
            }
            _ => Reaction::Nothing,
        }
    }

    fn scroll(&mut self, action: Action) -> Reaction {
        self.said = None;
        (0..SCROLLED_LINES).for_each(|_| drop(self.act(action)));
        Reaction::Redraw
    }

    fn touch(&mut self, touched: Touched) -> Reaction {
        self.said = None;
        match touched {
            Touched::Nothing => return Reaction::Nothing,
            Touched::Screen(screen) => return self.act(Action::Show(screen)),
            Touched::Row(line) => self.step(|_, _| line),
            Touched::Head(column) if column == self.order().column => return self.act(Action::Flip),
            Touched::Head(column) => self.sort(column),
        }
        Reaction::Redraw
    }
}

/// As terminals scroll their own text.
const SCROLLED_LINES: usize = 3;
