//! Addresses as the profile writes them: `SCHEME://HOST:PORT`, parsed once.
//!
//! Each use has its own type, so that an accept address cannot be dialled and a backend's
//! cannot be listened on. Names are resolved at each dial, not here. Hosts are kept in one
//! spelling, so that equal addresses are equal values.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
};

use super::{
    Carries,
    problem::{ValueProblem, quote_for_problem},
    server_address::socket_path,
};

/// A host and a port. The host is a name, an IPv4 address, or an IPv6 address without its brackets, which may
/// have a zone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.passed_name().is_some() {
            return out.write_str(&self.host);
        }
        match self.host.contains(':') {
            true => write!(out, "[{}]:{}", self.host, self.port),
            false => write!(out, "{}:{}", self.host, self.port),
        }
    }
}

/// The policy if an address to listen on does not exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum BindPolicy {
    /// The gateway does not start, or stays as it is.
    #[default]
    Now,
    /// It is tried again until it exists, while everything else runs.
    Wait,
}

/// An address where clients are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AcceptAddress {
    pub scheme: EdgeScheme,
    pub at: HostPort,
    /// The path of a request, including everything below it; `/` if none is written.
    pub path: String,
}

/// The protocol with clients, or with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EdgeScheme {
    Tcp,
    /// TLS, which ends here.
    Tls,
    /// A WebSocket.
    Ws,
    /// A WebSocket within TLS.
    Wss,
    Http,
    Https,
}

impl EdgeScheme {
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss | Self::Https)
    }

    /// Whether clients begin with an HTTP request.
    pub fn is_web(self) -> bool {
        matches!(self, Self::Ws | Self::Wss | Self::Http | Self::Https)
    }

    fn parse(word: &str) -> Self {
        match word {
            "tcp" => Self::Tcp,
            "ws" => Self::Ws,
            "wss" => Self::Wss,
            "http" => Self::Http,
            "https" => Self::Https,
            _ => Self::Tls,
        }
    }

    /// Parses what follows the scheme.
    fn parse_rest(
        self,
        text: &str,
        use_of_port: PortUse,
        example: &str,
    ) -> Result<(HostPort, String), ValueProblem> {
        let (text, path) = match text.find('/') {
            Some(slash) if self.is_web() => (&text[..slash], path(&text[slash..])?),
            _ => (text, "/".into()),
        };
        host_port(text, use_of_port, example).map(|at| (at, path))
    }

    /// An address as the profile writes it.
    pub(super) fn write_address(
        self,
        at: &HostPort,
        path: &str,
        out: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let scheme = match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Http => "http",
            Self::Https => "https",
        };
        let path = if path == "/" { "" } else { path };
        write!(out, "{scheme}://{at}{path}")
    }
}

impl fmt::Display for AcceptAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.scheme.write_address(&self.at, &self.path, out)
    }
}

/// The address of the server that a session finally reaches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum BackendAddress {
    /// Sends back whatever it receives.
    Echo,
    Remote {
        scheme: EdgeScheme,
        at: HostPort,
        path: String,
    },
    /// A socket of this machine, for bytes or requests.
    Unix {
        carries: Carries,
        file: PathBuf,
    },
}

impl BackendAddress {
    /// Where it is on the network.
    pub fn at(&self) -> Option<&HostPort> {
        match self {
            Self::Remote { at, .. } => Some(at),
            Self::Echo | Self::Unix { .. } => None,
        }
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo => out.write_str("echo://"),
            Self::Remote { scheme, at, path } => scheme.write_address(at, path, out),
            Self::Unix { carries, file } => write_unix_address(*carries, file, out),
        }
    }
}

/// The address of a Unix socket as the profile writes it.
pub(super) fn write_unix_address(carries: Carries, file: &Path, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let scheme = match carries {
        Carries::Bytes => "unix",
        Carries::Http => "http+unix",
    };
    write!(out, "{scheme}://{}", file.display())
}

impl HostPort {
    /// `HOST:PORT`, to listen on.
    pub(super) fn parse(text: &str) -> Result<Self, ValueProblem> {
        if let Some((scheme, _)) = text.split_once("://") {
            let what = format!("`{}://` is not allowed here", quote_for_problem(scheme));
            return Err(ValueProblem::new(what, "write HOST:PORT alone, `127.0.0.1:9464`"));
        }
        if text.len() > ADDRESS_BYTES_MAX {
            let what = format!("the address is longer than {ADDRESS_BYTES_MAX} bytes");
            return Err(ValueProblem::new(what, "write HOST:PORT, `127.0.0.1:9464`"));
        }
        if text.starts_with(PASSED) {
            let what = "a socket that is passed in cannot be that of monitors";
            return Err(ValueProblem::new(what, "write HOST:PORT, `127.0.0.1:9464`"));
        }
        host_port(text, PortUse::Listening, "127.0.0.1:9464")
    }

    /// The name of the socket that the process is started with, if it is one.
    pub fn passed_name(&self) -> Option<&str> {
        self.host.strip_prefix(PASSED)
    }

    /// Each listener there gets a port of its own.
    pub fn takes_free_port(&self) -> bool {
        self.port == 0 && self.passed_name().is_none()
    }

    /// Whether it is an address, so that no name is looked up.
    pub fn is_address(&self) -> bool {
        self.host.contains(':') || self.host.parse::<IpAddr>().is_ok()
    }

    /// The host as other machines know it: a zone means something only on this machine (RFC 6874, section 1).
    pub fn host_without_zone(&self) -> &str {
        self.host.split_once('%').map_or(&self.host, |(host, _)| host)
    }

    /// Can be reached only from this machine, whatever the network.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// Stands for every address of this machine.
    pub fn is_any(&self) -> bool {
        self.host.parse().is_ok_and(|ip: IpAddr| ip.is_unspecified())
    }
}

impl AcceptAddress {
    pub(super) fn parse(text: &str) -> Result<Self, ValueProblem> {
        let (scheme, rest) = split(text, &ACCEPT)?;
        let scheme = EdgeScheme::parse(scheme);
        let (at, path) = scheme.parse_rest(rest, PortUse::Listening, ACCEPT.example)?;
        Ok(Self { scheme, at, path })
    }
}

impl BackendAddress {
    pub(super) fn parse(text: &str) -> Result<Self, ValueProblem> {
        match split(text, &CONNECT)? {
            ("echo", "") => Ok(Self::Echo),
            ("unix", rest) => Ok(Self::Unix { carries: Carries::Bytes, file: socket_path(rest)? }),
            ("http+unix", rest) => Ok(Self::Unix { carries: Carries::Http, file: socket_path(rest)? }),
            ("echo", _) => Err(ValueProblem::new("`echo` takes neither host nor port", "write `echo://`")),
            (scheme, rest) => {
                let scheme = EdgeScheme::parse(scheme);
                let (at, path) = scheme.parse_rest(rest, PortUse::Dialled, CONNECT.example)?;
                Ok(Self::Remote { scheme, at, path })
            }
        }
    }
}

/// A path of plain segments, without an ending slash.
pub(super) fn path(text: &str) -> Result<String, ValueProblem> {
    let path = text.strip_suffix('/').unwrap_or(text);
    let ch = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(&byte);
    let segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(ch);
    if path.is_empty() {
        return Ok("/".into());
    }
    if path.split('/').skip(1).all(segment) {
        return Ok(path.into());
    }
    let what = format!("`{}` is not a path", quote_for_problem(text));
    Err(ValueProblem::new(what, "write plain segments, `/orders/live`, without `?`, `#`, `%` or `..`"))
}

/// The use of a port: a free one (0) is possible only for listening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortUse {
    Listening,
    Dialled,
}

/// The schemes of one use.
pub(super) struct AllowedUrlSchemes {
    pub known: &'static [&'static str],
    pub example: &'static str,
}

const ACCEPT: AllowedUrlSchemes = AllowedUrlSchemes {
    known: &["tcp", "tls", "ssl", "ws", "wss", "http", "https"],
    example: "tcp://0.0.0.0:8000",
};

const CONNECT: AllowedUrlSchemes = AllowedUrlSchemes {
    known: &["tcp", "tls", "ssl", "ws", "wss", "http", "https", "unix", "http+unix", "echo"],
    example: "tcp://127.0.0.1:9000",
};

/// The scheme, which must be one of these, and what follows it.
pub(super) fn split<'a>(
    text: &'a str,
    schemes: &AllowedUrlSchemes,
) -> Result<(&'static str, &'a str), ValueProblem> {
    // Checked first, since the text must not be shown if it contains a password. A path may contain the
    // character as well.
    let needs_none = |rest: &str| rest.starts_with(PASSED) || rest.starts_with('/');
    let holds_no_login = text.split_once("://").is_some_and(|(_, rest)| needs_none(rest));
    if text.contains('@') && !holds_no_login {
        return Err(ValueProblem::new(
            "the address holds a user name or a password",
            "remove everything up to and including the `@`",
        ));
    }
    if text.len() > ADDRESS_BYTES_MAX {
        let what = format!("the address is longer than {ADDRESS_BYTES_MAX} bytes");
        return Err(ValueProblem::new(what, format!("write `{}`", schemes.example)));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let what = format!("`{}` has no scheme", quote_for_problem(text));
        return Err(ValueProblem::new(what, format!("write SCHEME://HOST:PORT, `{}`", schemes.example)));
    };
    if let Some(known) = schemes.known.iter().find(|known| **known == scheme) {
        return Ok((known, rest));
    }
    let what = format!("`{}` is not a scheme that is allowed here", quote_for_problem(scheme));
    Err(ValueProblem::new(what, format!("use `{}`", schemes.known.join("` or `"))))
}

/// Parses `HOST:PORT`, and nothing after it.
pub(super) fn host_port(text: &str, use_of_port: PortUse, example: &str) -> Result<HostPort, ValueProblem> {
    if let Some(name) = text.strip_prefix(PASSED) {
        return passed_socket(name, use_of_port, example);
    }
    let written = quote_for_problem(text);
    let fault = |what: String| ValueProblem::new(what, format!("write it like `{example}`"));
    if let Some(ch) = text.chars().find(|ch| matches!(ch, '/' | '?' | '#')) {
        return Err(ValueProblem::new(
            format!("unexpected text after the port in `{written}`"),
            format!("remove everything from the `{ch}`"),
        ));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(fault(format!("`{written}` has no port")));
    };
    if host.contains(':') && !host.starts_with('[') {
        return Err(ValueProblem::new(
            format!("`{written}` is an IPv6 address without brackets"),
            "write `[::1]:8000`",
        ));
    }
    if host.starts_with('[') && !host.ends_with(']') {
        return Err(fault(format!("`{written}` has no port")));
    }
    let port = number(port).ok_or_else(|| {
        let what = format!("`{}` is not a port", quote_for_problem(port));
        ValueProblem::new(what, "write a number from 1 to 65535")
    })?;
    if port == 0 && use_of_port == PortUse::Dialled {
        return Err(ValueProblem::new("port 0 cannot be dialled", "write the port that is listened on"));
    }
    host_of(host).map(|host| HostPort { host, port })
}

/// Comes before the name of a socket that was passed in.
const PASSED: &str = "fd@";

/// A socket that a service manager passes in with this name.
fn passed_socket(name: &str, use_of_port: PortUse, example: &str) -> Result<HostPort, ValueProblem> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match use_of_port {
        PortUse::Dialled => Err(ValueProblem::new(
            "a socket that is passed in cannot be dialled",
            format!("write it like `{example}`"),
        )),
        PortUse::Listening if !(1..=255).contains(&name.len()) || !name.bytes().all(valid) => {
            let what = format!("`{PASSED}{}` names no passed socket", quote_for_problem(name));
            Err(ValueProblem::new(what, "write `fd@` and 1 to 255 of A-Z, a-z, 0-9, `.`, `_`, `-`"))
        }
        PortUse::Listening => Ok(HostPort { host: format!("{PASSED}{name}"), port: 0 }),
    }
}

fn number(port: &str) -> Option<u16> {
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| port.parse().ok()).flatten()
}

/// The host in its canonical spelling: lower case, and addresses as the standard library writes them.
pub(super) fn host_of(text: &str) -> Result<String, ValueProblem> {
    let advice = "write a name, an IPv4 address, or an IPv6 address in brackets";
    if text.is_empty() {
        return Err(ValueProblem::new(
            "the host is missing",
            format!("{advice}, or `0.0.0.0` for all addresses"),
        ));
    }
    if let Some(inner) = text.strip_prefix('[') {
        let fault =
            || ValueProblem::new(format!("`{}` is not an IPv6 address", quote_for_problem(text)), advice);
        let inner = inner.strip_suffix(']').ok_or_else(fault)?;
        let (ip, zone) = inner.split_once('%').map_or((inner, None), |(ip, zone)| (ip, Some(zone)));
        let ip = ip.parse::<Ipv6Addr>().map_err(|_| fault())?;
        return match zone {
            // An IPv4-mapped address is that IPv4 address.
            None => Ok(ip.to_canonical().to_string()),
            Some(zone) => parse_zoned(ip, zone),
        };
    }
    let name = text.to_ascii_lowercase();
    match name.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_string()),
        Err(_) if is_name(&name) => Ok(name),
        Err(_) => Err(ValueProblem::new(format!("`{}` is not a host", quote_for_problem(text)), advice)),
    }
}

/// A link-local address, with the interface that says which link it is on (RFC 4007, section 11).
fn parse_zoned(ip: Ipv6Addr, zone: &str) -> Result<String, ValueProblem> {
    let ch = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !ip.is_unicast_link_local() {
        let what = format!("`{ip}` is not a link-local address; only those have a zone");
        return Err(ValueProblem::new(what, format!("remove the `%{}`", quote_for_problem(zone))));
    }
    // An interface's name has at most 15 bytes (IFNAMSIZ).
    if !(1..=15).contains(&zone.len()) || !zone.bytes().all(ch) {
        let what = format!("`{}` is not the name of an interface", quote_for_problem(zone));
        return Err(ValueProblem::new(what, "write it as `ip link` shows it, `[fe80::1%eth0]`"));
    }
    Ok(format!("{ip}%{zone}"))
}

/// A DNS name of letters, digits, `-` and `_`. If the last label has only digits, it is a mistyped IPv4 address
/// (RFC 1123, section 2.1).
pub(super) fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let ch = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label =
        |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(ch) && !label.starts_with('-');
    let last = text.rsplit('.').next().unwrap_or(text);
    text.len() <= 253 && text.split('.').all(label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// A name of 253 bytes, the longest scheme and a port fit.
const ADDRESS_BYTES_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_are_read_into_one_spelling() {
        let accept = |text| AcceptAddress::parse(text).map(|address| address.to_string());
        let connect = |text| BackendAddress::parse(text).map(|address| address.to_string());
        let table = [
            (accept("tcp://0.0.0.0:0"), "tcp://0.0.0.0:0"),
            (accept("tcp://[::]:8000"), "tcp://[::]:8000"),
            (accept("tcp://[0:0:0:0:0:0:0:1]:8000"), "tcp://[::1]:8000"),
            (accept("tcp://[::ffff:10.0.0.1]:8000"), "tcp://10.0.0.1:8000"),
            (accept("tcp://[FE80:0::1%eth0]:8000"), "tcp://[fe80::1%eth0]:8000"),
            (accept("tcp://LocalHost:65535"), "tcp://localhost:65535"),
            (accept("ssl://0.0.0.0:443"), "tls://0.0.0.0:443"),
            (connect("tls://db:5432"), "tls://db:5432"),
            (connect("tcp://db_1.example.com.:5432"), "tcp://db_1.example.com.:5432"),
            (accept("http://0.0.0.0:80/shop/"), "http://0.0.0.0:80/shop"),
            (accept("https://0.0.0.0:443/"), "https://0.0.0.0:443"),
            (connect("http://[::1]:80/a/b"), "http://[::1]:80/a/b"),
            (connect("wss://Shop:443"), "wss://shop:443"),
            (connect("echo://"), "echo://"),
            (connect("unix:///run/app/a@b.sock"), "unix:///run/app/a@b.sock"),
            (connect("http+unix:///run/app.sock"), "http+unix:///run/app.sock"),
        ];
        for (read, expected) in table {
            assert_eq!(read, Ok(expected.to_owned()));
        }
    }

    #[test]
    fn each_bad_address_has_its_own_error() {
        let table = [
            ("", "`` has no scheme"),
            ("127.0.0.1:9000", "`127.0.0.1:9000` has no scheme"),
            ("wss://h:1/a//b", "`/a//b` is not a path"),
            ("http://h:1/a?b", "`/a?b` is not a path"),
            ("http://h", "`h` has no port"),
            ("https://h/shop:1", "`h` has no port"),
            ("socks://h:1", "`socks` is not a scheme that is allowed here"),
            ("echo://h:1", "`echo` takes neither host nor port"),
            ("unix://run/app.sock", "`run/app.sock` is not an absolute path"),
            ("unix:///run/", "`/run/` names no socket"),
            ("http+unix:///", "`/` names no socket"),
            ("unix:///a\nb", "`/a\\nb` has a sign that no path of a socket has"),
            ("tcp://", "`` has no port"),
            ("tcp://h", "`h` has no port"),
            ("tcp://[::1]", "`[::1]` has no port"),
            ("tcp://h:", "`` is not a port"),
            ("tcp://h:70000", "`70000` is not a port"),
            ("tcp://h:+80", "`+80` is not a port"),
            ("tcp://h:0", "port 0 cannot be dialled"),
            ("tcp://:80", "the host is missing"),
            ("tcp://::1:80", "`::1:80` is an IPv6 address without brackets"),
            ("tcp://[::1", "`[::1` has no port"),
            ("tcp://[h]:80", "`[h]` is not an IPv6 address"),
            ("tcp://[fe80::1%]:80", "`` is not the name of an interface"),
            ("tcp://[fe80::1%a b]:80", "`a b` is not the name of an interface"),
            (
                "tcp://[fe80::1%an_interface_too_long]:80",
                "`an_interface_too_long` is not the name of an interface",
            ),
            ("tcp://[::1%lo]:80", "`::1` is not a link-local address; only those have a zone"),
            ("tcp://fe80%eth0:80", "`fe80%eth0` is not a host"),
            ("tcp://256.1.1.1:80", "`256.1.1.1` is not a host"),
            ("tcp://a..b:80", "`a..b` is not a host"),
            ("tcp://a b:80", "`a b` is not a host"),
            ("tcp://h:80/path", "unexpected text after the port in `h:80/path`"),
            ("tcp://h:80?a", "unexpected text after the port in `h:80?a`"),
            ("tcp://me:secret@h:80", "the address holds a user name or a password"),
        ];
        for (text, what) in table {
            let read = BackendAddress::parse(text).map_err(|fault| fault.what);
            assert_eq!(read, Err(what.to_owned()), "{text}");
        }
        let long = format!("tcp://{}:80", "a".repeat(400));
        assert!(BackendAddress::parse(&long).is_err_and(|fault| fault.what.contains("longer than 300")));
    }

    #[test]
    fn loopback_is_this_machine_alone() {
        let table = [("127.0.0.1", true), ("127.9.9.9", true), ("::1", true), ("localhost", true)]
            .into_iter()
            .chain([("0.0.0.0", false), ("10.0.0.1", false), ("::", false), ("localhost.example", false)]);
        for (host, expected) in table {
            assert_eq!(HostPort { host: host.to_owned(), port: 1 }.is_loopback(), expected, "{host}");
        }
    }
}
