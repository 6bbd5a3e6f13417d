//! Text on its way into the input line: pasted text, and a filter that is applied while it is typed.

use crate::{
    text,
    tui::{
        app::{App, Overlay, UpdateResult},
        filter::SessionFilter,
    },
};

impl App {
    /// Pasted text goes into an open input line, and is dropped otherwise.
    pub fn paste(&mut self, pasted: &str) -> UpdateResult {
        let Overlay::Typing(line) = &mut self.overlay else {
            self.refuse("pasted text is not run as a command; `/` takes a filter, `:` a command");
            return UpdateResult::Redraw;
        };
        line.insert(&text::clean_text(pasted, pasted.len()));
        self.follow_typing();
        UpdateResult::Redraw
    }

    /// A filter that is being typed is applied already; while it is invalid, the list stays as it was.
    pub(super) fn follow_typing(&mut self) {
        if let Overlay::Typing(line) = &mut self.overlay
            && line.is_filter()
        {
            match SessionFilter::parse(line.text()) {
                Ok(filter) => {
                    line.wrong = None;
                    self.lists.order.filter = filter;
                }
                Err(why) => {
                    line.wrong = Some(why);
                    let before = line.before().and_then(|before| SessionFilter::parse(before).ok());
                    self.lists.order.filter = before.unwrap_or_default();
                }
            }
            self.arrange_now();
        }
    }
}
