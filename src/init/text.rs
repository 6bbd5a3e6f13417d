//! The profiles that `init` writes, from templates with placeholders for the answers.

use super::answers::{InitAnswers, InitQuestion};
use crate::{
    cli::InitHalf,
    profile::{Half, Mode},
};

const DMZ: &str = include_str!("dmz.yaml");
const INTERNAL: &str = include_str!("internal.yaml");

/// The profile of one half.
pub fn profile(half: Half, answers: &InitAnswers) -> String {
    let (template, listens_in, dials_in) = match half {
        Half::Dmz => (DMZ, Mode::Reverse, Mode::Forward),
        Half::Internal => (INTERNAL, Mode::Forward, Mode::Reverse),
    };
    let link = LinkAnswers::of(answers);
    let listen = format!("listen: {}", quoted(&link.listen(listens_in)));
    let connect = format!("connect: {}", quoted(&link.connect(dials_in)));
    let mode = if answers.mode == Mode::Forward { "forward" } else { "reverse" };
    // What the mode does not use is written as well, so that reversing is one word.
    let unless_used = |line: String, used_in: Mode| match link.host(used_in) {
        Some(_) => line,
        None => format!("# {line}"),
    };
    let marks = [
        ("@MODE@", mode.to_owned()),
        ("@LISTEN@", listen),
        ("@CONNECT@", unless_used(connect, dials_in)),
        ("@SERVICE@", key(&answers.value(InitQuestion::Service))),
        ("@ACCEPT@", quoted(&answers.accept())),
        ("@BACKEND@", quoted(&answers.connect())),
    ];
    // The placeholders are replaced from left to right, so an answer that looks like one stays.
    let mut text = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((at, mark, value)) =
        marks.iter().filter_map(|(mark, value)| Some((rest.find(mark)?, mark, value))).min()
    {
        text.push_str(&rest[..at]);
        text.push_str(value);
        rest = &rest[at + mark.len()..];
    }
    text.push_str(rest);
    text
}

/// Both directions of one link.
struct LinkAnswers<'a> {
    answers: &'a InitAnswers,
    is_local: bool,
}

impl<'a> LinkAnswers<'a> {
    fn of(answers: &'a InitAnswers) -> Self {
        Self { answers, is_local: answers.half == InitHalf::Pair }
    }

    fn port(&self, mode: Mode) -> String {
        let (reverse, forward) = self.answers.link_ports();
        if mode == Mode::Forward { forward } else { reverse }
    }

    fn listen(&self, mode: Mode) -> String {
        let host = if self.is_local { "127.0.0.1" } else { "0.0.0.0" };
        format!("socks+tls://{host}:{}", self.port(mode))
    }

    fn connect(&self, mode: Mode) -> String {
        let example = if mode == Mode::Forward { "internal.example.com" } else { "dmz.example.com" };
        let host = self.host(mode).unwrap_or_else(|| example.to_owned());
        format!("socks+tls://{host}:{}", self.port(mode))
    }

    /// The host that is dialled in a mode, if known.
    fn host(&self, mode: Mode) -> Option<String> {
        match (self.is_local, mode == self.answers.mode) {
            (true, _) | (_, true) => Some(self.answers.value(InitQuestion::Host)),
            (false, false) => self.answers.other_host.clone(),
        }
    }
}

/// A text that is a string in YAML whatever it contains, since YAML accepts JSON strings.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A key, quoted only if it would otherwise be something else, such as a number or `no`.
fn key(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let is_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let means_more = is_word.contains(&name.to_ascii_lowercase().as_str());
    if begins && name.bytes().all(is_plain) && !means_more { name.to_owned() } else { quoted(name) }
}
