//! What may be typed next, with an explanation: commands and their arguments, fields of a filter and their values. The
//! values come from the snapshot that is shown, so nothing is asked for while a line is typed.

use crate::{
    telemetry::{
        health::{Severity, severity},
        snapshot::Snapshot,
    },
    tui::{
        app::{App, Overlay},
        command_line::{self, InputLine},
        filter,
        keys::{self, Action, KeyBinding},
        order::SortColumn,
        theme::Theme,
    },
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// The whole line after accepting it.
    pub line: String,
    pub shown: String,
    pub help: String,
}

impl App {
    /// Continuations of the text; none if nothing is typed.
    pub fn suggestions(&self) -> Vec<Suggestion> {
        match self.overlay() {
            Overlay::Typing(line) if line.is_filter() => self.terms(line),
            Overlay::Typing(line) => self.commands(line),
            Overlay::Nothing | Overlay::Help { .. } | Overlay::AskQuit | Overlay::Ask { .. } => Vec::new(),
        }
    }

    pub(super) fn complete(&mut self) {
        let lines: Vec<_> = self.suggestions().into_iter().map(|suggestion| suggestion.line).collect();
        if let Overlay::Typing(line) = &mut self.overlay {
            line.complete(&lines);
        }
        self.follow_typing();
    }

    fn commands(&self, line: &InputLine) -> Vec<Suggestion> {
        let text = line.text().trim_start();
        let offered = keys::BINDINGS.iter().filter(|binding| self.is_action_known(binding.action));
        let mut words: Vec<_> = offered.filter(|binding| !binding.command.is_empty()).collect();
        words.sort_unstable_by_key(|binding| binding.command);
        match text.split_once(' ') {
            None => words
                .into_iter()
                .filter(|binding| binding.command.starts_with(text))
                .map(suggest_binding)
                .collect(),
            Some((word, begun)) => {
                let action =
                    words.iter().find(|binding| binding.command == word).map(|binding| binding.action);
                let values = action.map(|action| self.values(action)).unwrap_or_default();
                let begun = begun.trim_start();
                let fitting = values.into_iter().filter(|(value, _)| value.starts_with(begun));
                fitting
                    .map(|(value, help)| Suggestion { line: format!("{word} {value}"), shown: value, help })
                    .collect()
            }
        }
    }

    /// What may follow the word of an action.
    fn values(&self, action: Action) -> Vec<(String, String)> {
        let shown = self.snapshot();
        let plain =
            |names: Vec<&str>| names.into_iter().map(|name| (name.to_owned(), String::new())).collect();
        match action {
            Action::Close => {
                let help = |row: &crate::telemetry::snapshot::SessionRow| {
                    format!("{} to {}", self.addresses().client(&row.client), row.service)
                };
                let rows = shown.sessions.iter().take(VALUES_MAX);
                let mut rows: Vec<_> = rows.map(|row| (row.id.clone(), help(row))).collect();
                // In a pair, both halves use the same id for a session.
                rows.dedup_by(|a, b| a.0 == b.0);
                rows
            }
            Action::Drain | Action::Lockdown => plain(services(shown)),
            Action::Unlock => plain(shown.lockdown.iter().filter_map(|row| row.service.as_deref()).collect()),
            Action::Only => plain(gateways(shown)),
            Action::Dismiss => {
                let lost = shown.pools.iter().filter(|pool| severity(pool) == Severity::Lost);
                let mut names: Vec<_> = lost.filter_map(|pool| pool.peer.as_deref()).collect();
                names.sort_unstable();
                names.dedup();
                plain(names)
            }
            Action::CloseAll => {
                let names = services(shown).into_iter().map(|name| format!("service:{name}"));
                names.map(|name| (name, "all of this service".into())).collect()
            }
            Action::Switch => plain(self.profiles().iter().map(|row| row.name.as_str()).collect()),
            Action::LogLevel => plain(vec!["error", "warn", "info", "debug", "trace", "off"]),
            Action::Sort => plain(SortColumn::ALL.iter().map(|column| column.name()).collect()),
            Action::Theme => plain(Theme::ALL.iter().map(|(name, _)| *name).collect()),
            _ => Vec::new(),
        }
    }

    /// For the last term on the line.
    fn terms(&self, line: &InputLine) -> Vec<Suggestion> {
        let text = line.text();
        let begins = text.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let (head, term) = text.split_at(begins);
        let (head, term) =
            term.strip_prefix('!').map_or((head.to_owned(), term), |rest| (format!("{head}!"), rest));
        let suggestion = |term: String, help: &str| Suggestion {
            line: format!("{head}{term}"),
            shown: term,
            help: help.to_owned(),
        };
        if let Some((field, value)) = term.split_once(':') {
            let known = self.known(field).into_iter().filter(|known| known.starts_with(value));
            return known.map(|known| suggestion(format!("{field}:{known}"), "")).collect();
        }
        let named = filter::field_names().filter(|(name, _)| name.starts_with(term));
        named.map(|(name, help)| suggestion(name, help)).collect()
    }

    /// The current values of a field.
    fn known(&self, field: &str) -> Vec<String> {
        let shown = self.snapshot();
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let mut known: Vec<String> = match field {
            "service" => services(shown).into_iter().map(str::to_owned).collect(),
            "peer" | "via" => shown.pools.iter().filter_map(|row| row.peer.clone()).collect(),
            "target" => shown.services.iter().filter_map(|row| row.connect.clone()).collect(),
            "state" => words(&[
                "authorising",
                "connecting",
                "draining",
                "ended",
                "negotiating",
                "relaying",
                "waiting",
            ]),
            "mode" => words(&["direct", "forward", "reverse"]),
            "half" => words(&["dmz", "internal"]),
            "gateway" => gateways(shown).into_iter().map(str::to_owned).collect(),
            "code" => shown.ended.iter().map(|row| row.end.clone()).collect(),
            _ => Vec::new(),
        };
        known.sort_unstable();
        known.dedup();
        known.truncate(VALUES_MAX);
        known
    }
}

fn services(shown: &Snapshot) -> Vec<&str> {
    let mut names: Vec<_> = shown.services.iter().map(|row| row.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn gateways(shown: &Snapshot) -> Vec<&str> {
    shown.gateways.iter().map(|row| &*row.name).collect()
}

fn suggest_binding(binding: &KeyBinding) -> Suggestion {
    let (line, shown) = match command_line::argument_name(binding.action) {
        Some(argument) => (format!("{} ", binding.command), format!("{} {argument}", binding.command)),
        None => (binding.command.to_owned(), binding.command.to_owned()),
    };
    Suggestion { line, shown, help: binding.label.to_owned() }
}

/// Nobody would read or type more.
const VALUES_MAX: usize = 200;
