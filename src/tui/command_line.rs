//! The line that is typed: a command, or the filter of the sessions. What a line may mean is the table of `keys`; what
//! it does is `update`.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::tui::keys::{self, Action};

/// A line being typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputLine {
    kind: InputKind,
    text: String,
    /// Why the current text is invalid.
    pub wrong: Option<String>,
    /// How far back in the earlier lines, and what was being typed before that.
    back: usize,
    draft: String,
    /// The first visible suggestion.
    pub scroll: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum InputKind {
    Command,
    /// With the previous filter, for Esc.
    Filter {
        before: String,
    },
}

impl InputLine {
    pub fn command(text: &str) -> Self {
        Self::new(InputKind::Command, text)
    }

    pub fn filter(before: &str) -> Self {
        Self::new(InputKind::Filter { before: before.into() }, before)
    }

    fn new(kind: InputKind, text: &str) -> Self {
        Self { kind, text: text.into(), wrong: None, back: 0, draft: String::new(), scroll: 0 }
    }

    pub fn is_filter(&self) -> bool {
        matches!(self.kind, InputKind::Filter { .. })
    }

    /// The previous filter.
    pub fn before(&self) -> Option<&str> {
        match &self.kind {
            InputKind::Filter { before } => Some(before),
            InputKind::Command => None,
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The character before it.
    pub fn sign(&self) -> &'static str {
        if self.is_filter() { "/" } else { ":" }
    }

    pub fn set(&mut self, text: String) {
        self.text = text.chars().take(CHARS_MAX).collect();
        self.wrong = None;
        self.scroll = 0;
    }

    /// Adds what was pasted, as far as there is room.
    pub fn insert(&mut self, text: &str) {
        self.set(format!("{}{text}", self.text));
        self.back = 0;
    }

    /// Inserts or deletes a character; returns whether the line has changed.
    pub fn press(&mut self, key: KeyEvent) -> bool {
        match (key.code, key.modifiers.difference(KeyModifiers::SHIFT)) {
            (KeyCode::Char(letter), KeyModifiers::NONE)
                if !letter.is_control() && self.text.chars().count() < CHARS_MAX =>
            {
                self.text.push(letter);
            }
            (KeyCode::Char('u'), KeyModifiers::CONTROL) => self.text.clear(),
            (KeyCode::Char('w'), KeyModifiers::CONTROL) => {
                let kept = self.text.trim_end().rfind(' ').map_or(0, |at| at + 1);
                self.text.truncate(kept);
            }
            (KeyCode::Backspace, KeyModifiers::NONE) => {
                self.text.pop();
            }
            _ => return false,
        }
        self.wrong = None;
        self.back = 0;
        self.scroll = 0;
        true
    }

    /// The line typed before this one, and before that.
    pub fn earlier(&mut self, typed: &[String]) {
        if let Some(line) = self.typed_before(typed, self.back) {
            if self.back == 0 {
                self.draft = std::mem::take(&mut self.text);
            }
            self.set(line);
            self.back += 1;
        }
    }

    /// The other direction, back to what was being typed.
    pub fn later(&mut self, typed: &[String]) {
        match self.back {
            0 => {}
            1 => {
                self.back = 0;
                let draft = std::mem::take(&mut self.draft);
                self.set(draft);
            }
            back => {
                self.back = back - 1;
                let line = self.typed_before(typed, back - 2);
                self.set(line.unwrap_or_default());
            }
        }
    }

    fn typed_before(&self, typed: &[String], back: usize) -> Option<String> {
        let mut mine = typed.iter().rev().filter_map(|line| line.strip_prefix(self.sign()));
        mine.nth(back).map(str::to_owned)
    }

    /// Completes the text as far as the candidates agree; they are shown above the line.
    pub fn complete(&mut self, candidates: &[String]) {
        let Some(first) = candidates.first() else {
            self.wrong = Some("nothing begins so".into());
            return;
        };
        let agreed = candidates.iter().fold(first.as_str(), |agreed, word| {
            let same = agreed.chars().zip(word.chars()).take_while(|(a, b)| a == b);
            &agreed[..same.map(|(letter, _)| letter.len_utf8()).sum()]
        });
        let agreed = agreed.to_owned();
        self.set(agreed);
    }
}

/// Parses a typed command into an action and the text after its word.
pub fn parse(text: &str) -> Result<(Action, Option<&str>), String> {
    let text = text.trim();
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let known = keys::BINDINGS.iter().find(|binding| !binding.command.is_empty() && binding.command == word);
    let argument = Some(rest.trim()).filter(|rest| !rest.is_empty());
    let action =
        known.ok_or_else(|| format!("no command `{word}`; the list above shows what there is"))?.action;
    match (argument, argument_name(action)) {
        (Some(_), None) => Err(format!("`{word}` takes nothing behind it")),
        _ => Ok((action, argument)),
    }
}

/// What may follow the word of an action.
pub fn argument_name(action: Action) -> Option<&'static str> {
    match action {
        Action::Close => Some("SESSION"),
        Action::Drain => Some("SERVICE"),
        Action::Lockdown | Action::Unlock => Some("[--peer NAME] [SERVICE]"),
        Action::Dismiss => Some("PEER"),
        Action::Only => Some("GATEWAY"),
        Action::Resize => Some("LINKS"),
        Action::LogLevel => Some("LEVEL"),
        Action::Switch => Some("PROFILE"),
        Action::Sort => Some("COLUMN"),
        Action::Filter | Action::CloseAll => Some("FILTER"),
        Action::Theme => Some("THEME"),
        _ => None,
    }
}

const CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_completed_as_far_as_they_agree() {
        let complete = |text: &str, candidates: &[&str]| {
            let mut line = InputLine::command(text);
            line.complete(&candidates.iter().map(|&word| word.into()).collect::<Vec<_>>());
            (line.text, line.wrong)
        };
        assert_eq!(complete("s", &["services", "sessions"]), ("se".into(), None));
        assert_eq!(complete("ses", &["sessions"]), ("sessions".into(), None));
        assert_eq!(complete("x", &[]), ("x".into(), Some("nothing begins so".into())));
    }

    #[test]
    fn a_command_is_a_word_and_what_it_takes() {
        assert_eq!(parse("drain web"), Ok((Action::Drain, Some("web"))));
        assert_eq!(parse(" reload "), Ok((Action::Reload, None)));
        assert_eq!(parse("reload now"), Err("`reload` takes nothing behind it".into()));
        assert_eq!(parse("relaod"), Err("no command `relaod`; the list above shows what there is".into()));
        assert!(parse("").is_err());
    }

    #[test]
    fn lines_typed_before_come_back_each_to_its_kind() {
        let typed = [":reload", "/web", ":stop"].map(String::from);
        let mut line = InputLine::command("");
        line.earlier(&typed);
        assert_eq!(line.text(), "stop");
        line.earlier(&typed);
        line.earlier(&typed);
        assert_eq!(line.text(), "reload");
        line.later(&typed);
        assert_eq!(line.text(), "stop");
        line.later(&typed);
        line.later(&typed);
        assert_eq!(line.text(), "", "what was being typed");
        let mut line = InputLine::filter("");
        line.earlier(&typed);
        assert_eq!(line.text(), "web");
    }
}
