//! The options of accepts that begin with an HTTP request: which requests are for the service, and what a WebSocket
//! may be. How a request is matched against them is `accept::request_routing`.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    ClientAuth, Network, defaults, edge,
    endpoint::is_name,
    fields::{MapReader, ValueReader},
    keys,
    problem::{Problem, ProfileLocation, ValueProblem, quote_for_problem},
};

/// The requirements of a service for its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOptions {
    /// The host names of this service, as written; if empty, any.
    pub hosts: Vec<String>,
    /// The pages that may open a WebSocket, by their origin; if empty, any page, and clients that are not
    /// pages.
    pub origins: Vec<String>,
    /// The longest message of a client, in bytes.
    pub message_limit: usize,
    /// A client that does not answer for this long although it is asked is gone.
    pub inactivity: Option<Duration>,
    /// The subprotocols that its backend speaks; `None` means whatever the client offers.
    pub protocols: Option<Vec<String>>,
    pub frames: MessageKind,
    /// Proxies in these networks say in each request who its client is.
    pub forwarded: Option<Vec<Network>>,
    /// The longest pause of a request's body.
    pub body: Duration,
    /// How long a client's connection stays open without a request.
    pub keep_alive: Duration,
    /// Who may come in, and how clients identify themselves; `None` means everybody.
    pub auth: Option<Arc<ClientAuth>>,
}

/// The kind of WebSocket messages to the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MessageKind {
    #[default]
    Binary,
    /// What the backend sends is UTF-8.
    Text,
}

/// The locations of keys that mean nothing unless WebSocket frames are decoded.
pub(super) fn frame_key_locations(fields: &MapReader<'_>) -> Vec<ProfileLocation> {
    keys::FRAME_OPTIONS.iter().filter_map(|key| fields.take(*key)).map(|field| field.location()).collect()
}

/// The written options, at a service or at one accept.
pub(super) struct RawWebOptions {
    pub hosts: Option<Vec<String>>,
    pub origins: Option<Vec<String>>,
    pub message_limit: Option<usize>,
    pub inactivity: Option<Duration>,
    pub protocols: Option<Vec<String>>,
    pub frames: Option<MessageKind>,
    pub forwarded: Option<Vec<Network>>,
    pub body: Option<Duration>,
    pub keep_alive: Option<Duration>,
}

impl RawWebOptions {
    pub const NOTHING: Self = Self {
        hosts: None,
        origins: None,
        message_limit: None,
        inactivity: None,
        protocols: None,
        frames: None,
        forwarded: None,
        body: None,
        keep_alive: None,
    };

    pub fn read(fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Self {
        Self {
            hosts: fields.take(&keys::HOSTS).and_then(|field| names(&field, host, problems)),
            origins: fields.take(&keys::ORIGINS).and_then(|field| names(&field, origin, problems)),
            message_limit: keys::MESSAGE_LIMIT.written(fields, problems),
            inactivity: keys::INACTIVITY.read(fields, problems),
            protocols: fields.take(&keys::PROTOCOLS).and_then(|field| names(&field, protocol, problems)),
            frames: keys::FRAMES.written(fields, problems),
            forwarded: fields.take(&keys::FORWARDED).and_then(|field| {
                edge::proxies(&field, &keys::FORWARDED_FROM, &keys::FORWARDED_NETWORKS, problems)
            }),
            body: keys::BODY.written(fields, problems),
            keep_alive: keys::KEEP_ALIVE.written(fields, problems),
        }
    }

    /// Options written here take precedence over those written `above`.
    pub fn resolve_over(&self, above: &Self) -> WebOptions {
        let limit = self.message_limit.or(above.message_limit);
        WebOptions {
            hosts: self.hosts.as_ref().or(above.hosts.as_ref()).cloned().unwrap_or_default(),
            origins: self.origins.as_ref().or(above.origins.as_ref()).cloned().unwrap_or_default(),
            message_limit: limit.unwrap_or(defaults::MESSAGE_LIMIT),
            inactivity: self.inactivity.or(above.inactivity),
            protocols: self.protocols.as_ref().or(above.protocols.as_ref()).cloned(),
            frames: self.frames.or(above.frames).unwrap_or_default(),
            forwarded: self.forwarded.as_ref().or(above.forwarded.as_ref()).cloned(),
            body: self.body.or(above.body).unwrap_or(defaults::BODY),
            keep_alive: self.keep_alive.or(above.keep_alive).unwrap_or(defaults::KEEP_ALIVE),
            auth: None,
        }
    }
}

/// Hosts, as written; `*.` matches one label, only where requests choose.
pub(super) fn hosts(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Vec<String>> {
    let whole = |text: &str| match text.starts_with("*.") {
        false => host(text),
        true => Err(ValueProblem::new(
            format!("`{}` is not a single host name", quote_for_problem(text)),
            "write each name",
        )),
    };
    names(field, whole, problems)
}

fn names(
    field: &ValueReader<'_>,
    read: impl Fn(&str) -> Result<String, ValueProblem>,
    problems: &mut Vec<Problem>,
) -> Option<Vec<String>> {
    let (mut seen, mut names) = (HashSet::new(), Vec::new());
    for item in field.one_or_many(defaults::NAMES_MAX, problems)? {
        let Some(text) = item.text(problems) else { continue };
        let fault = match read(text) {
            Ok(name) if seen.insert(name.clone()) => {
                names.push(name);
                continue;
            }
            Ok(_) => {
                ValueProblem::new(format!("`{}` is listed twice", quote_for_problem(text)), "remove one")
            }
            Err(fault) => fault,
        };
        problems.push(fault.at(item.location()));
    }
    Some(names)
}

fn host(text: &str) -> Result<String, ValueProblem> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(address.to_canonical().to_string());
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if is_name(name.strip_prefix("*.").unwrap_or(&name)) {
        return Ok(name);
    }
    let what = format!("`{}` is not a host", quote_for_problem(text));
    Err(ValueProblem::new(what, "write a name without a port, `www.example.com` or `*.example.com`"))
}

/// As browsers write it: a scheme, a host, and a port unless it is the default of the scheme (RFC 6454).
fn origin(text: &str) -> Result<String, ValueProblem> {
    let name = text.to_ascii_lowercase();
    let rest = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://"));
    let is_plain = |rest: &str| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@,*".contains(&byte))
    };
    if rest.is_some_and(is_plain) {
        return Ok(name);
    }
    let what = format!("`{}` is not an origin", quote_for_problem(text));
    Err(ValueProblem::new(what, "write it as a browser does: `https://www.example.com`"))
}

/// A subprotocol that continues with a handshake inside the WebSocket, which is not supported.
const UNSPOKEN_HANDSHAKE: &str = "x-kaazing-handshake";

/// A subprotocol as a client offers it (RFC 6455, section 4.1).
fn protocol(text: &str) -> Result<String, ValueProblem> {
    if text.eq_ignore_ascii_case(UNSPOKEN_HANDSHAKE) {
        let what = format!(
            "`{}` begins another gateway's handshake, which is not spoken here",
            quote_for_problem(text)
        );
        return Err(ValueProblem::new(what, "remove it: its clients also offer what their backend speaks"));
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_allowed) {
        return Ok(text.to_owned());
    }
    let what = format!("`{}` is not a subprotocol", quote_for_problem(text));
    Err(ValueProblem::new(what, "write its name as clients offer it, without spaces or commas"))
}
