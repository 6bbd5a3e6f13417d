//! One line of the log: what an event says, as text for people and as JSON for programs.

use std::{
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

/// Turns events into lines, and hands them to where they go.
pub(super) struct LogLayer {
    pub format: LogFormat,
    /// The journal has the time of each line, and its level.
    pub is_journal: bool,
    pub stderr: LineSink,
    /// `log: FILE`, where the profile has one.
    pub file: &'static Mutex<Option<LineSink>>,
    /// While a screen owns the terminal, lines for it are dropped.
    pub quiet: &'static AtomicBool,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = EventText::default();
        event.record(&mut said);
        let (level, time) = (*event.metadata().level(), utc_now());
        if !self.quiet.load(Ordering::Relaxed) {
            let line = match (self.format, self.is_journal) {
                (LogFormat::Text, false) => format!("{time} {level:>5} {}", said.as_text()),
                (LogFormat::Text, true) => said.as_text(),
                (LogFormat::Json, false) => said.as_json(level, Some(&time)),
                (LogFormat::Json, true) => said.as_json(level, None),
            };
            let priority = self.is_journal.then(|| priority(level));
            self.stderr.write(&with_priority(&line, priority));
        }
        if let Some(file) = &*self.file.lock().unwrap_or_else(PoisonError::into_inner) {
            file.write(&said.as_json(level, Some(&time)));
        }
    }
}

/// The priorities of syslog(3), as the journal takes them before a line (sd-daemon(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => WARNING,
        Level::INFO => INFORMATION,
        Level::DEBUG | Level::TRACE => 7,
    }
}

pub(super) const WARNING: u8 = 4;
pub(super) const INFORMATION: u8 = 6;

/// A line as the journal takes it.
pub(super) fn with_priority(line: &str, priority: Option<u8>) -> String {
    match priority {
        Some(priority) => format!("<{priority}>{line}"),
        None => line.to_owned(),
    }
}

/// A line that is made here and not by an event.
pub(super) fn plain_line(level: Level, event: LogEvent, message: &str, field: (&str, u64)) -> String {
    let mut said = EventText { event: Some(event.name().into()), ..EventText::default() };
    said.message.push_str(message);
    said.add(field.0, &field.1.to_string(), &field.1.to_string());
    said.as_json(level, Some(&utc_now()))
}

/// What one event says, in both forms at once.
#[derive(Default)]
struct EventText {
    message: String,
    event: Option<String>,
    /// ` name=value` of each field.
    text: String,
    /// `,"name":value` of each field.
    json: String,
}

impl EventText {
    fn as_text(&self) -> String {
        visible(&self.message) + &self.text
    }

    fn as_json(&self, level: Level, time: Option<&str>) -> String {
        let event = self.event.as_deref().unwrap_or(LogEvent::Library.name());
        let mut line = String::from("{");
        if let Some(time) = time {
            line += &format!(r#""timestamp":"{time}","#);
        }
        line += &format!(
            r#""level":"{level}","event":{},"message":{}{}}}"#,
            quoted(event),
            quoted(&self.message),
            self.json
        );
        line
    }

    fn add(&mut self, name: &str, text: &str, json: &str) {
        // Neither can fail: both go into a string.
        let _ = write!(self.text, " {name}={text}");
        let _ = write!(self.json, ",{}:{json}", quoted(name));
    }
}

impl Visit for EventText {
    fn record_f64(&mut self, field: &Field, value: f64) {
        let json = if value.is_finite() { value.to_string() } else { "null".into() };
        self.add(field.name(), &value.to_string(), &json);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), &value.to_string(), &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), &value.to_string(), &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), &value.to_string(), &value.to_string());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            "event" => self.event = Some(value.into()),
            name => self.add(name, &format!("{value:?}"), &quoted(value)),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        match field.name() {
            "message" => self.message.push_str(&value),
            "event" => self.event = Some(value),
            // What the crate `log` adds about itself.
            name if name.starts_with("log.") => {}
            name => self.add(name, &visible(&value), &quoted(&value)),
        }
    }
}

/// What comes from outside must not begin a line of its own, or move the cursor.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter.is_control() {
            true => shown.extend(letter.escape_debug()),
            false => shown.push(letter),
        }
    }
    shown
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_the_same_to_people_and_to_programs() {
        let mut said = EventText { event: Some("session_ended".into()), ..EventText::default() };
        said.message.push_str("session\nended");
        said.add("end", "\"--\"", "\"--\"");
        said.add("seconds", "0.5", "0.5");
        assert_eq!(said.as_text(), "session\\nended end=\"--\" seconds=0.5");
        let line = said.as_json(Level::INFO, Some("2026-11-28T23:00:00.000Z"));
        let expected = concat!(
            r#"{"timestamp":"2026-11-28T23:00:00.000Z","level":"INFO","event":"session_ended","#,
            r#""message":"session\nended","end":"--","seconds":0.5}"#
        );
        assert_eq!(line, expected);
        assert_eq!(EventText::default().as_json(Level::WARN, None).matches("library").count(), 1);
    }
}
