//! The mouse, once it is switched on: a click selects, the wheel scrolls, a click on a column head sorts.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Rect;

use crate::tui::{
    app::{App, MouseCapture, Overlay, StatusMessage, UpdateResult},
    keys::Action,
    view::{self, HitTarget},
};

impl App {
    pub(super) fn toggle_mouse(&mut self) -> UpdateResult {
        let (mouse, text) = match self.mouse {
            MouseCapture::Off => (
                MouseCapture::On,
                "mouse on, m gives it back: a click selects, the wheel scrolls, a head sorts",
            ),
            MouseCapture::On => (MouseCapture::Off, "mouse off: the terminal selects text again"),
        };
        self.mouse = mouse;
        self.message = Some(StatusMessage::Done(text.into()));
        UpdateResult::Mouse(mouse)
    }

    /// Handles a mouse event on a screen of this size.
    pub fn handle_mouse(&mut self, event: MouseEvent, area: Rect) -> UpdateResult {
        // Input lines and questions are answered with keys.
        if self.mouse == MouseCapture::Off || !matches!(self.overlay, Overlay::Nothing | Overlay::Help { .. })
        {
            return UpdateResult::Nothing;
        }
        match event.kind {
            MouseEventKind::ScrollDown => self.scroll(Action::Down),
            MouseEventKind::ScrollUp => self.scroll(Action::Up),
            MouseEventKind::Down(MouseButton::Left) if self.overlay == Overlay::Nothing => {
                self.click(view::hit_test(self, area, (event.column, event.row)))
            }
            _ => UpdateResult::Nothing,
        }
    }

    fn scroll(&mut self, action: Action) -> UpdateResult {
        self.message = None;
        (0..SCROLLED_LINES).for_each(|_| drop(self.perform(action)));
        UpdateResult::Redraw
    }

    fn click(&mut self, touched: HitTarget) -> UpdateResult {
        self.message = None;
        match touched {
            HitTarget::Nothing => return UpdateResult::Nothing,
            HitTarget::Screen(screen) => return self.perform(Action::Show(screen)),
            HitTarget::Row(line) => self.move_selection(|_, _| line),
            HitTarget::Head(column) if column == self.session_order().column => {
                return self.perform(Action::Flip);
            }
            HitTarget::Head(column) => self.sort(column),
        }
        UpdateResult::Redraw
    }
}

/// As terminals scroll their own text.
const SCROLLED_LINES: usize = 3;
