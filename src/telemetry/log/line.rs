//! One line of the log: the content of an event, as text for people and as JSON for programs. Which lines are written,
//! and where, is `sink`; this only makes the text.

use std::{
    borrow::Cow,
    fmt::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use super::{LogEvent, LogFormat, sink::LineSink, utc_now};

/// Turns events into lines, and hands them to their sinks.
pub(super) struct LogLayer {
    pub format: LogFormat,
    /// The journal records time and level of each line itself.
    pub is_journal: bool,
    pub stderr: LineSink,
    /// `log: FILE`, if the profile has one.
    pub file: &'static Mutex<Option<LineSink>>,
    /// While a screen owns the terminal, lines for it are dropped.
    pub quiet: &'static AtomicBool,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_quiet = self.quiet.load(Ordering::Relaxed);
        let is_text = !is_quiet && self.format == LogFormat::Text;
        let mut event_text = EventText::default();
        if is_text {
            event_text.keep_text();
        }
        if file.is_some() || !is_quiet && !is_text {
            event_text.keep_json();
        }
        event.record(&mut event_text);
        let (level, time) = (*event.metadata().level(), utc_now());
        if !is_quiet {
            let line = match (self.format, self.is_journal) {
                (LogFormat::Text, false) => format!("{time} {level:>5} {}", event_text.as_text()),
                (LogFormat::Text, true) => event_text.as_text(),
                (LogFormat::Json, false) => event_text.as_json(level, Some(&time)),
                (LogFormat::Json, true) => event_text.as_json(level, None),
            };
            let priority = self.is_journal.then(|| priority(level));
            self.stderr.write(with_priority(line, priority));
        }
        if let Some(file) = file {
            file.write(event_text.as_json(level, Some(&time)));
        }
    }
}

/// The syslog(3) priorities, as the journal expects them at the start of a line (sd-daemon(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => WARNING,
        Level::INFO => INFORMATION,
        Level::DEBUG | Level::TRACE => 7,
    }
}

pub(super) const ERROR: u8 = 3;
pub(super) const WARNING: u8 = 4;
pub(super) const INFORMATION: u8 = 6;

/// A line as the journal expects it.
pub(super) fn with_priority(line: String, priority: Option<u8>) -> String {
    match priority {
        Some(priority) => format!("<{priority}>{line}"),
        None => line,
    }
}

/// A line as JSON that does not come from an event.
pub(super) struct PlainLine<'a> {
    pub level: Level,
    pub event: LogEvent,
    pub message: &'a str,
    pub field: Option<(&'a str, u64)>,
}

/// Who records the time of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineClock {
    Written,
    /// The journal does, for each line that it gets.
    OfJournal,
}

impl PlainLine<'_> {
    pub fn as_json(&self, time: LineClock) -> String {
        let mut event_text = EventText::default();
        event_text.keep_json();
        event_text.event = Some(self.event.name().into());
        event_text.message.push_str(self.message);
        if let Some((name, value)) = self.field {
            event_text.add_number(name, value);
        }
        let written = match time {
            LineClock::Written => Some(utc_now()),
            LineClock::OfJournal => None,
        };
        event_text.as_json(self.level, written.as_deref())
    }
}

/// Room for the fields of most events.
const FIELDS_BYTES: usize = 256;

/// The content of one event, in the requested forms.
#[derive(Default)]
struct EventText {
    message: String,
    event: Option<String>,
    /// ` name=value` of each field.
    text: Option<String>,
    /// `,"name":value` of each field.
    json: Option<String>,
}

impl EventText {
    fn keep_text(&mut self) {
        self.text = Some(String::with_capacity(FIELDS_BYTES));
    }

    fn keep_json(&mut self) {
        self.json = Some(String::with_capacity(FIELDS_BYTES));
    }

    fn as_text(&self) -> String {
        let mut line = visible(&self.message).into_owned();
        line.push_str(self.text.as_deref().unwrap_or_default());
        line
    }

    fn as_json(&self, level: Level, time: Option<&str>) -> String {
        let fields = self.json.as_deref().unwrap_or_default();
        let mut line = String::with_capacity(2 * FIELDS_BYTES);
        // Nothing here can fail: it writes to a string.
        let _ = match time {
            Some(time) => write!(line, r#"{{"timestamp":"{time}","level":"{level}","event":"#),
            None => write!(line, r#"{{"level":"{level}","event":"#),
        };
        push_quoted(&mut line, self.event.as_deref().unwrap_or(LogEvent::Library.name()));
        line.push_str(r#","message":"#);
        push_quoted(&mut line, &self.message);
        line.push_str(fields);
        line.push('}');
        line
    }

    /// Adds a value that looks the same in both forms.
    fn add_number(&mut self, name: &str, value: impl fmt::Display) {
        // As above.
        if let Some(text) = &mut self.text {
            let _ = write!(text, " {name}={value}");
        }
        if let Some(json) = &mut self.json {
            let _ = write!(json, r#","{name}":{value}"#);
        }
    }

    fn add_string(&mut self, name: &str, text: impl fmt::Display, value: &str) {
        // As above.
        if let Some(shown) = &mut self.text {
            let _ = write!(shown, " {name}={text}");
        }
        if let Some(json) = &mut self.json {
            let _ = write!(json, r#","{name}":"#);
            push_quoted(json, value);
        }
    }
}

impl Visit for EventText {
    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.add_number(field.name(), value),
            false => self.add_number(field.name(), "null"),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add_number(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add_number(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add_number(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            "event" => self.event = Some(value.into()),
            name => self.add_string(name, format_args!("{value:?}"), value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            // This cannot fail: it writes to a string.
            "message" => _ = write!(self.message, "{value:?}"),
            "event" => self.event = Some(format!("{value:?}")),
            // Fields that the crate `log` adds.
            name if name.starts_with("log.") => {}
            name => {
                let value = format!("{value:?}");
                self.add_string(name, visible(&value), &value);
            }
        }
    }
}

/// Text from outside must not start a line of its own, or move the cursor.
fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() {
            true => shown.extend(letter.escape_debug()),
            false => shown.push(letter),
        }
    }
    shown.into()
}

fn push_quoted(line: &mut String, text: &str) {
    // Most of what is logged needs no escaping.
    match text.bytes().all(|byte| byte >= b' ' && !matches!(byte, b'"' | b'\\' | 0x7f)) {
        true => line.extend(["\"", text, "\""]),
        false => line.push_str(&serde_json::Value::from(text).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_the_same_to_people_and_to_programs() {
        let mut event_text = EventText::default();
        event_text.keep_text();
        event_text.keep_json();
        event_text.event = Some("session_ended".into());
        event_text.message.push_str("session\nended");
        event_text.add_string("end", format_args!("{:?}", "-\"-"), "-\"-");
        event_text.add_number("seconds", 0.5);
        assert_eq!(event_text.as_text(), r#"session\nended end="-\"-" seconds=0.5"#);
        let line = event_text.as_json(Level::INFO, Some("2026-11-28T23:00:00.000Z"));
        let expected = concat!(
            r#"{"timestamp":"2026-11-28T23:00:00.000Z","level":"INFO","event":"session_ended","#,
            r#""message":"session\nended","end":"-\"-","seconds":0.5}"#
        );
        assert_eq!(line, expected);
        assert_eq!(EventText::default().as_json(Level::WARN, None).matches("library").count(), 1);
    }
}
