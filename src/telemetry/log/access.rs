//! The access log: a line for each request of a client, as JSON or in the combined format of web servers.
//!
//! A query is never written, not even of a `Referer`: it may hold what nobody else should read.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use serde::Serialize;

use super::{
    format_utc, is_journal,
    line::{INFORMATION, with_priority},
    sink::{LineSink, SinkTarget},
};
use crate::{
    profile::{AccessLogFormat, AccessLogOptions, AccessLogTarget},
    text::clean_text,
};

const SWITCHING_PROTOCOLS: u16 = 101;
/// The longest text from a client.
const TEXT_CHARS_MAX: usize = 1024;

/// The file where requests are logged, if any; a reload may change that while requests are under way.
#[derive(Debug, Default)]
pub struct AccessLog(ArcSwapOption<OpenAccessLog>);

#[derive(Debug)]
struct OpenAccessLog {
    options: AccessLogOptions,
    sink: LineSink,
}

impl AccessLog {
    /// Logs as the profile says from now on. A file that is already open stays open.
    pub fn configure(&self, options: Option<&AccessLogOptions>) {
        let before = self.0.load_full();
        let open = options.map(|options| {
            let target = match &options.target {
                AccessLogTarget::StandardError => SinkTarget::StandardError,
                AccessLogTarget::File(path) => SinkTarget::File(path.clone()),
            };
            let kept = before.filter(|open| open.sink.is_for(&target)).map(|open| open.sink.clone());
            let sink = kept.unwrap_or_else(|| LineSink::start(target, None));
            Arc::new(OpenAccessLog { options: options.clone(), sink })
        });
        self.0.store(open);
    }

    /// Begins the record of a request; `None` if requests are not logged.
    pub fn begin(
        &self,
        client: SocketAddr,
        method: &str,
        path: &str,
        version: &'static str,
    ) -> Option<AccessRecord> {
        let log = self.0.load_full()?;
        Some(AccessRecord {
            began: Instant::now(),
            at: SystemTime::now(),
            fields: AccessFields {
                client: client.ip().to_string(),
                method: clean_text(method, TEXT_CHARS_MAX),
                path: clean_text(path, TEXT_CHARS_MAX),
                ..AccessFields::default()
            },
            version,
            referer: None,
            agent: None,
            log,
        })
    }
}

/// A request under way; dropping it writes its line.
#[derive(Debug)]
pub struct AccessRecord {
    log: Arc<OpenAccessLog>,
    at: SystemTime,
    began: Instant,
    version: &'static str,
    /// Only for the combined format.
    pub referer: Option<String>,
    pub agent: Option<String>,
    pub fields: AccessFields,
}

/// The fields of a request's line; unknown ones are null.
#[derive(Debug, Default, Serialize)]
pub struct AccessFields {
    time: String,
    client: String,
    pub user: Option<String>,
    method: String,
    path: String,
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub first_byte_seconds: Option<f64>,
    seconds: f64,
    pub service: Option<String>,
    pub session: Option<String>,
    /// Known if the gateway dials it itself.
    pub backend: Option<Arc<str>>,
    pub end: Option<String>,
}

impl AccessRecord {
    /// Sets the client that a trusted proxy names.
    pub fn set_client(&mut self, client: SocketAddr) {
        self.fields.client = client.ip().to_string();
    }

    /// Notes that the answer begins.
    pub fn note_answer(&mut self, status: u16) {
        self.fields.status = status;
        self.fields.first_byte_seconds = Some(milliseconds(self.began.elapsed()));
    }

    /// Ends it like its session. For an upgraded connection, all the session's bytes count.
    pub fn finish(mut self, code: &str, (up, down): (u64, u64), backend: Option<Arc<str>>) {
        self.fields.end = Some(code.to_owned());
        self.fields.backend = backend;
        if self.fields.status == SWITCHING_PROTOCOLS {
            (self.fields.bytes_in, self.fields.bytes_out) = (up, down);
        }
    }

    fn line(&self) -> String {
        match self.log.options.format {
            // Text, numbers and nulls can always be written.
            AccessLogFormat::Json => serde_json::to_string(&self.fields).unwrap_or_default(),
            AccessLogFormat::Combined => self.combined(),
        }
    }

    fn combined(&self) -> String {
        let of = &self.fields;
        let or_dash = |text: &Option<String>| text.as_deref().map_or("-".into(), escape);
        format!(
            "{} - {} [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"",
            of.client,
            or_dash(&of.user).replace(' ', "_"),
            combined_time(self.at),
            escape(&of.method),
            escape(&of.path),
            self.version,
            of.status,
            of.bytes_out,
            self.referer.as_deref().map_or("-".into(), |referer| escape(without_query(referer))),
            or_dash(&self.agent),
        )
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        self.fields.time = format_utc(self.at);
        self.fields.seconds = milliseconds(self.began.elapsed());
        let priority = (self.log.options.target == AccessLogTarget::StandardError && is_journal())
            .then_some(INFORMATION);
        if self.log.options.target == AccessLogTarget::StandardError && super::is_quiet() {
            return;
        }
        self.log.sink.write(with_priority(self.line(), priority));
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// In the form of web servers: `28/Nov/2026:23:00:00 +0000`.
fn combined_time(at: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = format_utc(at);
    let month = text.get(5..7).and_then(|month| month.parse::<usize>().ok()).unwrap_or(1);
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or("");
    format!("{}/{}/{}:{} +0000", part(8..10), MONTHS[(month - 1) % 12], part(0..4), part(11..19))
}

fn without_query(address: &str) -> &str {
    address.split(['?', '#']).next().unwrap_or_default()
}

/// Escapes a client's text, which must end neither its quotes nor the line.
fn escape(text: &str) -> String {
    let escaped = |letter: char| match letter {
        '"' | '\\' => format!("\\{letter}"),
        _ if letter.is_control() => format!("\\x{:02x}", u32::from(letter)),
        _ => letter.to_string(),
    };
    text.chars().take(TEXT_CHARS_MAX).map(escaped).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn written(format: AccessLogFormat, file: &Path) -> String {
        let log = AccessLog::default();
        let client = "192.0.2.7:50000".parse().unwrap();
        assert!(log.begin(client, "GET", "/", "HTTP/1.1").is_none(), "nowhere to write");
        let options = AccessLogOptions { target: AccessLogTarget::File(file.to_owned()), format };
        log.configure(Some(&options));
        let mut record = log.begin(client, "GET", "/a \"b\"\n", "HTTP/1.1").unwrap();
        record.referer = Some("https://example.com/x?secret=1".into());
        record.agent = Some("an \"agent\"".into());
        record.fields.service = Some("web".into());
        record.fields.backend = Some("http://127.0.0.1:80".into());
        record.fields.bytes_out = 12;
        record.note_answer(200);
        drop(record);
        log.0.load_full().unwrap().sink.flush(Duration::from_secs(20));
        fs::read_to_string(file).unwrap()
    }

    #[test]
    fn a_request_is_one_line_in_either_form_and_without_a_query() {
        let folder = tempfile::tempdir().unwrap();
        let line = written(AccessLogFormat::Json, &folder.path().join("json"));
        let fields: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&fields["status"], &fields["bytes_out"]), (&200.into(), &12.into()), "{line}");
        assert_eq!(fields["backend"], "http://127.0.0.1:80");
        assert!(fields["user"].is_null() && fields["first_byte_seconds"].is_f64(), "{line}");
        let line = written(AccessLogFormat::Combined, &folder.path().join("combined"));
        let (begin, rest) = line.split_once(" [").unwrap();
        let (time, rest) = rest.split_once("] ").unwrap();
        assert_eq!((begin, time.len()), ("192.0.2.7 - -", "28/Nov/2026:23:00:00 +0000".len()));
        let expected = r#""GET /a \"b\"  HTTP/1.1" 200 12 "https://example.com/x" "an \"agent\"""#;
        assert_eq!(rest.trim_end(), expected);
    }

    #[test]
    fn a_time_is_as_web_servers_write_it() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        assert_eq!(combined_time(at), "09/Sep/2001:01:46:40 +0000");
    }
}
