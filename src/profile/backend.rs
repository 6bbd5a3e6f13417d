//! What a session finally reaches, with the options of each scheme. Where clients come in is `edge`. Several of them
//! behind one service are `backends`.

use std::{fmt, net::IpAddr, time::Duration};

use super::{
    Carries, EdgeScheme, HostPort, KeyPair, PemSource, ServerAddress,
    carries::carries_of_backend,
    defaults,
    edge::{alpn_names, check_web_alpn, key_pair},
    endpoint::{BackendAddress, host_of, write_unix_address},
    fields::{Located, ReadValue, ValueReader},
    gateways, keys,
    link::material,
    problem::{Problem, ValueProblem},
    raw::address,
    source,
};

/// The server that a session finally reaches.
#[derive(Debug, Clone, PartialEq)]
pub enum Backend {
    /// Sends back whatever it receives.
    Echo,
    Socket(RemoteServer),
    Http(HttpRemote),
}

/// A server that receives requests.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRemote {
    pub remote: RemoteServer,
    /// Replaces the path of the accept; `/` if none is written.
    pub path: String,
    /// Written `ws` or `wss`: only requests for a WebSocket go there.
    pub socket: bool,
    /// What it calls itself besides its address.
    pub own_names: Vec<String>,
    /// The host in requests to a server that has none; `localhost` if none is written.
    pub host: Option<String>,
    /// The longest wait for the head of an answer.
    pub answer: Duration,
}

/// A server on the network, or on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteServer {
    pub at: ServerAddress,
    /// `None` means plain TCP.
    pub tls: Option<Box<ConnectTls>>,
    /// Whether the PROXY protocol tells it who the client is.
    pub proxy: Option<ProxyVersion>,
    /// The address of this machine to dial from.
    pub source: Option<IpAddr>,
    /// The one address of its name to dial, if each of them is a backend of its own.
    pub ip: Option<IpAddr>,
}

impl RemoteServer {
    /// Where to dial for this written address.
    pub fn at_address(&self, written: &HostPort) -> HostPort {
        let host = self.ip.map_or_else(|| written.host.clone(), |ip| ip.to_string());
        HostPort { host, port: written.port }
    }
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    V1,
    V2,
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (remote, path) = match self {
            Self::Echo => return out.write_str("echo://"),
            Self::Socket(remote) => (remote, "/"),
            Self::Http(http) => (&http.remote, http.path.as_str()),
        };
        let at = match &remote.at {
            ServerAddress::Network(at) => &remote.at_address(at),
            ServerAddress::Unix(file) => return write_unix_address(carries_of_backend(self), file, out),
        };
        let (plain, within_tls) = match self {
            Self::Http(http) if http.socket => (EdgeScheme::Ws, EdgeScheme::Wss),
            Self::Http(_) => (EdgeScheme::Http, EdgeScheme::Https),
            Self::Echo | Self::Socket(_) => (EdgeScheme::Tcp, EdgeScheme::Tls),
        };
        let scheme = if remote.tls.is_some() { within_tls } else { plain };
        scheme.write_address(at, path, out)
    }
}

impl Backend {
    /// The authority for requests that name no other; its port is left out if it is the default of its scheme.
    pub fn authority(&self) -> String {
        let Some(remote) = self.remote() else { return String::new() };
        let Some(host_port) = remote.at.network() else { return self.socket_host().into() };
        let default_port = if remote.tls.is_some() { 443 } else { 80 };
        let at = host_port.to_string();
        if host_port.port != default_port {
            return at;
        }
        at.rsplit_once(':').map_or(at.clone(), |(host, _)| host.to_owned())
    }

    /// The host in requests to a Unix socket, which has none.
    fn socket_host(&self) -> &str {
        match self {
            Self::Http(http) => http.host.as_deref().unwrap_or("localhost"),
            Self::Echo | Self::Socket(_) => "localhost",
        }
    }

    /// This backend at one address of its name; requests and TLS still use the name.
    pub fn at_address(&self, ip: IpAddr) -> Self {
        let mut backend = self.clone();
        match &mut backend {
            Self::Echo => {}
            Self::Socket(remote) | Self::Http(HttpRemote { remote, .. }) => remote.ip = Some(ip),
        }
        backend
    }

    /// The host that the profile names.
    pub fn host_name(&self) -> Option<&str> {
        Some(self.remote()?.at.network()?.host_without_zone())
    }

    /// The server to dial; `None` if there is none.
    pub fn remote(&self) -> Option<&RemoteServer> {
        match self {
            Self::Echo => None,
            Self::Socket(remote) | Self::Http(HttpRemote { remote, .. }) => Some(remote),
        }
    }
}

/// The identity that a backend must prove, and the one that the gateway shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnectTls {
    pub ca: PemSource,
    /// The name that its certificate must have.
    pub name: String,
    pub pair: Option<KeyPair>,
    /// The protocols offered by ALPN; if empty, the one agreed on with the client.
    pub alpn: Vec<String>,
}

/// A backend's usage among those of its service.
#[derive(Debug, Clone, Copy)]
pub(super) struct BackendUsage {
    pub is_standby: bool,
    pub is_each: bool,
}

/// A backend, and its usage among the others.
pub(super) fn backend(
    field: &ValueReader<'_>,
    problems: &mut Vec<Problem>,
) -> Option<(Located<Backend>, BackendUsage)> {
    let (read, fields) =
        address(field, &keys::CONNECT_ADDRESS, &keys::CONNECT_ADDRESS_KEY, BackendAddress::parse, problems)?;
    let tls = fields.as_ref().and_then(|fields| fields.take(&keys::CONNECT_TLS_KEY));
    let proxy = fields.as_ref().and_then(|fields| fields.take(&keys::PROXY_VERSION));
    let is_standby = fields.as_ref().is_some_and(|fields| keys::STANDBY.read(fields, problems));
    let Located { value: address, location } = read;
    let is_each = match fields.as_ref().and_then(|fields| fields.take(&keys::EACH_BACKEND)) {
        None => false,
        Some(field) => match address.at() {
            Some(at) => gateways::each_address(&field, at, problems)?,
            None => {
                let what = format!("`{address}` has no name with addresses");
                return field.refuse(ValueProblem::new(what, "remove it"), problems);
            }
        },
    };
    if let (BackendAddress::Echo, Some(proxy)) = (&address, &proxy) {
        return proxy
            .refuse(ValueProblem::new("`echo` does not ask who its client is", "remove it"), problems);
    }
    let proxy = match ReadValue::read(proxy, |field| keys::PROXY_VERSION.read_field(&field, problems)) {
        ReadValue::Absent => None,
        ReadValue::Bad => return None,
        ReadValue::Good(version) => Some(version),
    };
    let source = match fields.as_ref().and_then(|fields| fields.take(&keys::SOURCE)) {
        None => None,
        Some(field) => Some(source::read(&field, address.at(), problems)?),
    };
    let ip = None;
    let backend = match (address, tls) {
        (BackendAddress::Echo, None) => Backend::Echo,
        (BackendAddress::Remote { scheme, at, path }, Some(tls)) if scheme.is_tls() => {
            let tls = Some(Box::new(connect_tls(&tls, (scheme, &at), problems)?));
            remote(scheme, path, RemoteServer { at: ServerAddress::Network(at), tls, proxy, source, ip })
        }
        (address, Some(tls)) => {
            let what = format!("`{address}` does not speak TLS");
            let advice = "write `tls://…`, `wss://…` or `https://…`, or remove it";
            return tls.refuse(ValueProblem::new(what, advice), problems);
        }
        (address @ BackendAddress::Remote { scheme, .. }, None) if scheme.is_tls() => {
            let fault = ValueProblem::new(
                format!("`{address}` needs `tls`, and has none"),
                format!("write `{{ address: \"{address}\", tls: {{ ca: FILE }} }}`"),
            );
            problems.push(fault.at(location));
            return None;
        }
        (BackendAddress::Remote { scheme, at, path }, None) => remote(
            scheme,
            path,
            RemoteServer { at: ServerAddress::Network(at), tls: None, proxy, source, ip },
        ),
        (BackendAddress::Unix { carries, file }, None) => {
            let scheme = if carries == Carries::Http { EdgeScheme::Http } else { EdgeScheme::Tcp };
            let at = ServerAddress::Unix(file);
            remote(scheme, "/".into(), RemoteServer { at, tls: None, proxy, source, ip })
        }
    };
    Some((Located { value: backend, location }, BackendUsage { is_standby, is_each }))
}

fn remote(scheme: EdgeScheme, path: String, remote: RemoteServer) -> Backend {
    let socket = matches!(scheme, EdgeScheme::Ws | EdgeScheme::Wss);
    match scheme.is_web() {
        false => Backend::Socket(remote),
        true => Backend::Http(HttpRemote {
            remote,
            path,
            socket,
            own_names: Vec::new(),
            host: None,
            answer: defaults::ANSWER,
        }),
    }
}

fn connect_tls(
    field: &ValueReader<'_>,
    (scheme, at): (EdgeScheme, &HostPort),
    problems: &mut Vec<Problem>,
) -> Option<ConnectTls> {
    let fields = field.map(&keys::CONNECT_TLS, problems)?;
    let ca = fields.take(&keys::BACKEND_CA);
    if ca.is_none() {
        fields.report_missing(
            &keys::BACKEND_CA,
            "write the file with the authority of the backend's certificate",
            problems,
        );
    }
    let ca = ca.and_then(|ca| material(&ca, problems));
    let name = match fields.take(&keys::BACKEND_NAME) {
        Some(field) => match host_of(field.text(problems)?) {
            Ok(name) => name,
            Err(fault) => return field.refuse(fault, problems),
        },
        None => at.host_without_zone().to_owned(),
    };
    let given = [fields.take(&keys::SHOWN_CERTIFICATE), fields.take(&keys::SHOWN_KEY)];
    let pair = match given {
        [None, None] => None,
        [Some(_), Some(_)] => Some(key_pair(&fields, &keys::SHOWN_CERTIFICATE, &keys::SHOWN_KEY, problems)?),
        [Some(_), None] => {
            fields.report_missing(
                &keys::SHOWN_KEY,
                "write the file with the certificate's private key",
                problems,
            );
            return None;
        }
        [None, Some(_)] => {
            fields.report_missing(
                &keys::SHOWN_CERTIFICATE,
                "write the file with the key's certificate",
                problems,
            );
            return None;
        }
    };
    let alpn = match fields.take(&keys::BACKEND_ALPN) {
        None => Vec::new(),
        Some(field) => {
            let names = alpn_names(&field, problems)?;
            match check_web_alpn(scheme, &names) {
                Ok(()) => names,
                Err(fault) => return field.refuse(fault, problems),
            }
        }
    };
    Some(ConnectTls { ca: ca?, name, pair, alpn })
}
