//! Addresses of links: where the other gateway is, and what carries its links there: TCP itself, or a WebSocket. Its outer
//! TLS gets links through the network, and proves nothing.

use std::{fmt, net::IpAddr, path::Path, sync::Arc};

use super::{
    AcceptTls, ClientCheck, ConnectTls, GatewaysOfName, HostPort, KeyPair, PemSource, TlsVersion, ViaProxy,
    WEB_ALPN,
    edge::key_pair,
    endpoint::{AllowedUrlSchemes, PortUse, host_of, host_port, path, split},
    fields::{Located, MapReader, ReadValue, ValueReader},
    keys::{self, AnyKey},
    link::material,
    problem::{Problem, ProfileLocation, ValueProblem, quote_for_problem},
};

/// An end of a link between the gateways, to listen on or to dial.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinkAddress {
    /// Whether the gateways use mutual TLS with each other.
    pub tls: bool,
    pub at: HostPort,
    pub carrier: LinkCarrier,
    /// The proxy through which it is dialled.
    pub via: Option<Arc<ViaProxy>>,
    pub gateways: GatewaysOfName,
    /// The address of this machine to dial from.
    pub source: Option<IpAddr>,
}

/// The carrier of a link's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LinkCarrier {
    Tcp,
    /// The binary messages of a WebSocket.
    WebSocket(LinkWebSocket),
}

/// The WebSocket of a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinkWebSocket {
    /// The path of the request for it; paths below it do not count.
    pub path: String,
    pub outer: OuterTls,
}

/// The TLS around a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OuterTls {
    None,
    /// What a port shows whose accepts have a certificate.
    OfPort,
    /// The certificate that a listener shows.
    Shown(Box<AcceptTls>),
    /// The certificate that a dialling half accepts.
    Checked(Box<ConnectTls>),
    /// The certificate that a dialling half accepts; the name in it is that of each target of the SRV records.
    CheckedByTarget(Box<ConnectTls>),
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path) = match &self.carrier {
            LinkCarrier::Tcp => (if self.tls { "socks+tls" } else { "socks" }, ""),
            LinkCarrier::WebSocket(socket) => {
                (if socket.is_secure() { "socks+wss" } else { "socks+ws" }, socket.path.as_str())
            }
        };
        match self.gateways {
            GatewaysOfName::Service => write!(out, "{SRV}{scheme}://{}{path}", self.at.host),
            GatewaysOfName::Any
            | GatewaysOfName::Each
            | GatewaysOfName::One(_)
            | GatewaysOfName::Target(_) => write!(out, "{scheme}://{}{path}", self.at),
        }
    }
}

impl LinkWebSocket {
    pub fn is_secure(&self) -> bool {
        self.outer != OuterTls::None
    }
}

/// Comes before the scheme of a name whose SRV records say where the gateways are.
const SRV: &str = "srv+";

const LINK: AllowedUrlSchemes = AllowedUrlSchemes {
    known: &["socks", "socks+tls", "socks+ssl", "socks+ws", "socks+wss"],
    example: "socks+tls://dmz.example.com:1443",
};

const DIALLED_LINK: AllowedUrlSchemes = AllowedUrlSchemes {
    known: &[
        "socks",
        "socks+tls",
        "socks+ssl",
        "socks+ws",
        "socks+wss",
        "srv+socks",
        "srv+socks+tls",
        "srv+socks+ssl",
        "srv+socks+ws",
        "srv+socks+wss",
    ],
    ..LINK
};

impl LinkAddress {
    pub(super) fn parse(text: &str, port: PortUse) -> Result<Self, ValueProblem> {
        let schemes = match port {
            PortUse::Listening => &LINK,
            PortUse::Dialled => &DIALLED_LINK,
        };
        let (scheme, rest) = split(text, schemes)?;
        let (scheme, gateways) = match scheme.strip_prefix(SRV) {
            Some(scheme) => (scheme, GatewaysOfName::Service),
            None => (scheme, GatewaysOfName::Any),
        };
        let outer = match scheme {
            "socks+ws" => Some(OuterTls::None),
            "socks+wss" => Some(OuterTls::OfPort),
            _ => None,
        };
        let (at, requested) = match outer {
            Some(_) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => (rest, ""),
        };
        let at = match (&gateways, &outer) {
            (GatewaysOfName::Service, _) => service_name(at)?,
            (_, None) => host_port(at, port, LINK.example)?,
            (_, Some(_)) => host_port(at, port, "socks+wss://dmz.example.com:443/link")?,
        };
        let carrier = match outer {
            None => LinkCarrier::Tcp,
            Some(outer) => LinkCarrier::WebSocket(LinkWebSocket { path: path(requested)?, outer }),
        };
        let tls = matches!(scheme, "socks+tls" | "socks+ssl");
        Ok(Self { tls, at, carrier, via: None, gateways, source: None })
    }

    /// The WebSocket that carries it, if there is one.
    pub fn web_socket(&self) -> Option<&LinkWebSocket> {
        match &self.carrier {
            LinkCarrier::Tcp => None,
            LinkCarrier::WebSocket(socket) => Some(socket),
        }
    }

    fn web_socket_mut(&mut self) -> Option<&mut LinkWebSocket> {
        match &mut self.carrier {
            LinkCarrier::Tcp => None,
            LinkCarrier::WebSocket(socket) => Some(socket),
        }
    }

    /// Whether a port that listens there stays the same under the other address, whatever certificate it shows.
    pub fn is_same_port(&self, other: &Self) -> bool {
        let carrier =
            |address: &Self| address.web_socket().map(|socket| (socket.path.clone(), socket.is_secure()));
        (self.tls, &self.at, carrier(self)) == (other.tls, &other.at, carrier(other))
    }

    /// Where it is, in addition to its scheme: two addresses that differ in this are two gateways.
    pub(super) fn place_in_network(&self) -> String {
        let path = self.web_socket().map(|socket| socket.path.as_str()).filter(|path| *path != "/");
        let path = path.unwrap_or_default();
        match self.gateways {
            GatewaysOfName::Service => format!("{}{path}", self.at.host),
            GatewaysOfName::Any
            | GatewaysOfName::Each
            | GatewaysOfName::One(_)
            | GatewaysOfName::Target(_) => format!("{}{path}", self.at),
        }
    }

    /// Inside a WebSocket, TLS is used if the link has any.
    pub(super) fn follow_tls(&mut self, is_there: bool) {
        if self.web_socket().is_some() {
            self.tls = is_there;
        }
    }

    /// The host in the request for its WebSocket: the name in its certificate, if there is TLS around it.
    pub fn authority(&self) -> String {
        let default_port = if self.web_socket().is_some_and(LinkWebSocket::is_secure) { 443 } else { 80 };
        let outer = self.web_socket().map(|socket| &socket.outer);
        let host = if let Some(OuterTls::Checked(tls)) = outer { &tls.name } else { self.host_name() };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        match self.at.port == default_port {
            true => host,
            false => format!("{host}:{}", self.at.port),
        }
    }

    /// The certificate of its listener, if it has one of its own.
    pub fn shown_tls(&self) -> Option<&AcceptTls> {
        match self.web_socket().map(|socket| &socket.outer) {
            Some(OuterTls::Shown(tls)) => Some(tls),
            Some(OuterTls::None | OuterTls::OfPort | OuterTls::Checked(_) | OuterTls::CheckedByTarget(_))
            | None => None,
        }
    }

    /// Who must be at the other end of its outer TLS.
    pub fn checked_tls(&self) -> Option<&ConnectTls> {
        match self.web_socket().map(|socket| &socket.outer) {
            Some(OuterTls::Checked(tls) | OuterTls::CheckedByTarget(tls)) => Some(tls),
            Some(OuterTls::None | OuterTls::OfPort | OuterTls::Shown(_)) | None => None,
        }
    }
}

/// `outer` of a link, as written.
#[derive(Default)]
pub(super) struct OuterOptions {
    location: Option<ProfileLocation>,
    pair: Option<KeyPair>,
    ca: Option<PemSource>,
    name: Option<String>,
}

impl OuterOptions {
    pub fn read(link: &MapReader<'_>, problems: &mut Vec<Problem>) -> ReadValue<Self> {
        match ReadValue::read(link.take(&keys::OUTER), |field| Self::read_map(&field, problems)) {
            ReadValue::Absent => ReadValue::Good(Self::default()),
            read @ (ReadValue::Bad | ReadValue::Good(_)) => read,
        }
    }

    fn read_map(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let fields = field.map(&keys::OUTER_TLS, problems)?;
        let before = problems.len();
        let both: [&dyn AnyKey; 2] = [&keys::OUTER_CERTIFICATE, &keys::OUTER_KEY];
        let given = both.map(|key| fields.take(key).is_some());
        let pair = key_pair(&fields, both[0], both[1], problems);
        match given {
            [true, false] => {
                fields.report_missing(both[1], "write the file with the certificate's private key", problems)
            }
            [false, true] => {
                fields.report_missing(both[0], "write the file with the key's certificate", problems)
            }
            [true, true] | [false, false] => {}
        }
        let ca = fields.take(&keys::OUTER_CA).and_then(|field| material(&field, problems));
        let name = fields.take(&keys::OUTER_NAME).and_then(|field| {
            let name = host_of(field.text(problems)?);
            name.map_or_else(|fault| field.refuse(fault, problems), Some)
        });
        (problems.len() == before).then(|| Self { location: Some(field.location()), pair, ca, name })
    }

    /// Applies the options to each address.
    pub fn apply(
        &self,
        listen: &mut ReadValue<Located<LinkAddress>>,
        connect: &mut ReadValue<Vec<Located<LinkAddress>>>,
        problems: &mut Vec<Problem>,
    ) {
        let mut is_used = false;
        if let ReadValue::Good(listen) = listen
            && let Some(socket) = listen.value.web_socket_mut().filter(|socket| socket.is_secure())
        {
            is_used = true;
            if let Some(pair) = &self.pair {
                socket.outer = OuterTls::Shown(Box::new(outer_accept_tls(pair)));
            }
        }
        if let ReadValue::Good(connect) = connect {
            for Located { value: address, location } in connect {
                let host = address.at.host_without_zone().to_owned();
                let has_targets = address.gateways == GatewaysOfName::Service && self.name.is_none();
                let Some(socket) = address.web_socket_mut().filter(|socket| socket.is_secure()) else {
                    continue;
                };
                is_used = true;
                match self.checked(host, location) {
                    Ok(tls) if has_targets => socket.outer = OuterTls::CheckedByTarget(Box::new(tls)),
                    Ok(tls) => socket.outer = OuterTls::Checked(Box::new(tls)),
                    Err(fault) => problems.push(fault.at(location.clone())),
                }
            }
        }
        if let Some(location) = self.location.as_ref().filter(|_| !is_used) {
            let what = "no address of this link speaks TLS around a WebSocket";
            let fault = ValueProblem::new(what, "write `socks+wss://HOST:PORT/PATH`, or remove it");
            problems.push(fault.at(location.clone()));
        }
    }

    fn checked(&self, host: String, location: &ProfileLocation) -> Result<ConnectTls, ValueProblem> {
        let of_system = || {
            Some(PemSource::File { path: system_authorities()?.to_path_buf(), location: location.clone() })
        };
        let ca = self.ca.clone().or_else(of_system).ok_or_else(|| {
            let what = "this system has no file with authorities that the outer certificate could come from";
            ValueProblem::new(what, "write `outer: { ca: FILE }` under `link`")
        })?;
        let name = self.name.clone().unwrap_or(host);
        Ok(ConnectTls { ca, name, pair: None, alpn: vec![WEB_ALPN.into()] })
    }
}

/// The name whose SRV records are looked up, and nothing after it.
fn service_name(text: &str) -> Result<HostPort, ValueProblem> {
    let written = quote_for_problem(text);
    if let Some(ch) = text.chars().find(|ch| matches!(ch, '/' | '?' | '#')) {
        let what = format!("unexpected text after the name in `{written}`");
        return Err(ValueProblem::new(what, format!("remove everything from the `{ch}`")));
    }
    if !text.starts_with('[')
        && let Some((name, port)) = text.rsplit_once(':')
    {
        let what = format!("`{written}` has a port, and so have the SRV records");
        let port = quote_for_problem(port);
        let advice =
            format!("remove the `:{port}`, or write `socks+tls://{}:{port}`", quote_for_problem(name));
        return Err(ValueProblem::new(what, advice));
    }
    let at = HostPort { host: host_of(text)?, port: 0 };
    if at.is_address() {
        let what = format!("`{}` is an address, and has no SRV records", at.host);
        return Err(ValueProblem::new(what, "write a name, `_portcullis._tcp.example.com`"));
    }
    Ok(at)
}

fn outer_accept_tls(pair: &KeyPair) -> AcceptTls {
    AcceptTls {
        pair: pair.clone(),
        clients: ClientCheck::Nobody,
        min_version: TlsVersion::default(),
        alpn: Vec::new(),
    }
}

/// Where systems keep their authorities in one file: Debian and its like, Fedora and its like, SUSE, Alpine.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn system_authorities() -> Option<&'static Path> {
    SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, port: PortUse) -> Result<String, String> {
        let parsed = LinkAddress::parse(text, port);
        parsed.map(|address| address.to_string()).map_err(|fault| fault.what)
    }

    #[test]
    fn addresses_of_links_are_read_into_one_spelling() {
        let table = [
            ("socks+tls://[fe80::2%3]:1443", "socks+tls://[fe80::2%3]:1443"),
            ("socks://127.0.0.1:1080", "socks://127.0.0.1:1080"),
            ("socks+tls://dmz.example.com:1443", "socks+tls://dmz.example.com:1443"),
            ("socks+ssl://dmz.example.com:1443", "socks+tls://dmz.example.com:1443"),
            ("socks+ws://127.0.0.1:0/link", "socks+ws://127.0.0.1:0/link"),
            ("socks+wss://Gate.example.com:443/a/link/", "socks+wss://gate.example.com:443/a/link"),
            ("socks+wss://fd@link/link", "socks+wss://fd@link/link"),
            ("socks+ws://[::1]:80", "socks+ws://[::1]:80/"),
        ];
        for (text, expected) in table {
            assert_eq!(parsed(text, PortUse::Listening), Ok(expected.to_owned()));
        }
        let dialled = [
            ("srv+socks+tls://_portcullis._tcp.Example.com", "srv+socks+tls://_portcullis._tcp.example.com"),
            ("srv+socks+ssl://links.example.com.", "srv+socks+tls://links.example.com."),
            ("srv+socks://localhost", "srv+socks://localhost"),
            ("srv+socks+ws://_p._tcp.test/link", "srv+socks+ws://_p._tcp.test/link"),
            ("srv+socks+wss://_p._tcp.test", "srv+socks+wss://_p._tcp.test/"),
        ];
        for (text, expected) in dialled {
            assert_eq!(parsed(text, PortUse::Dialled), Ok(expected.to_owned()));
        }
    }

    #[test]
    fn each_bad_link_address_has_its_own_error() {
        let table = [
            ("ws://h:1/link", "`ws` is not a scheme that is allowed here"),
            ("socks+ws://h/link", "`h` has no port"),
            ("socks+ws://h:1/a//b", "`/a//b` is not a path"),
            ("socks+ws://h:1/a?b", "`/a?b` is not a path"),
            ("socks+tls://h:1/link", "unexpected text after the port in `h:1/link`"),
            ("srv+socks+tls://h", "`srv+socks+tls` is not a scheme that is allowed here"),
        ];
        for (text, what) in table {
            assert_eq!(parsed(text, PortUse::Listening), Err(what.to_owned()), "{text}");
        }
        let dialled = [
            ("srv+tcp://h", "`srv+tcp` is not a scheme that is allowed here"),
            ("srv+socks+tls://h:1443", "`h:1443` has a port, and so have the SRV records"),
            ("srv+socks+tls://h/link", "unexpected text after the name in `h/link`"),
            ("srv+socks+tls://10.0.0.1", "`10.0.0.1` is an address, and has no SRV records"),
            ("srv+socks+tls://[::1]", "`::1` is an address, and has no SRV records"),
            ("srv+socks+wss://h/a//b", "`/a//b` is not a path"),
            ("srv+socks://", "the host is missing"),
        ];
        for (text, what) in dialled {
            assert_eq!(parsed(text, PortUse::Dialled), Err(what.to_owned()), "{text}");
        }
    }
}
