//! Where clients come in, with the options of each scheme. What a session finally reaches is `backend`. The options of
//! requests are in `web`, those of logins in `auth`.

use std::collections::HashSet;

use super::{
    AcceptAddress, BindPolicy, EdgeScheme, Network, PemSource, RevokedFiles, WebOptions,
    auth::RawAuth,
    defaults,
    endpoint::is_name,
    fields::{Located, MapReader, ReadValue, ValueReader},
    keys::{self, AnyKey, ClientVerification, KeyMap},
    link::material,
    problem::{Problem, ProfileLocation, ValueProblem, quote_for_problem},
    raw::{self, address},
    revoked, web,
};

/// An address where clients of a service come in.
#[derive(Debug, Clone, PartialEq)]
pub struct Accept {
    pub address: AcceptAddress,
    pub bind: BindPolicy,
    /// Only for a `tls`, `wss` or `https` accept.
    pub tls: Option<AcceptTls>,
    /// Only for an accept that reads requests.
    pub web: Option<WebOptions>,
    /// The names in a ClientHello that select this service; if empty, any name, or none.
    pub sni: Vec<String>,
    /// Clients come through proxies in these networks, which say who the clients are (the PROXY protocol);
    /// nobody else may connect.
    pub proxy: Option<Vec<Network>>,
}

/// The protocol of clients that begin with a request, by ALPN.
pub const WEB_ALPN: &str = "http/1.1";
/// RFC 7301, section 3.1.
const ALPN_NAME_BYTES_MAX: usize = 255;

/// How a service identifies itself to its clients, and who they may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AcceptTls {
    pub pair: KeyPair,
    pub clients: ClientCheck,
    pub min_version: TlsVersion,
    /// The protocols for ALPN if bytes are carried, the preferred one first.
    pub alpn: Vec<String>,
}

/// The oldest TLS version for clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    #[default]
    Tls12,
    Tls13,
}

/// A certificate and its key, not opened yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyPair {
    pub certificate: PemSource,
    pub key: PemSource,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientCheck {
    Nobody,
    /// A client that shows a certificate must show a valid one.
    Optional(ClientCertificates),
    Required(ClientCertificates),
}

/// The certificates of clients that are valid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCertificates {
    pub ca: PemSource,
    /// A certificate must have one of these names; `None` means any.
    pub names: Option<Vec<String>>,
    pub revoked: RevokedFiles,
}

impl AcceptTls {
    /// Which certificates of clients are valid, if any are requested.
    pub fn client_certificates(&self) -> Option<&ClientCertificates> {
        match &self.clients {
            ClientCheck::Nobody => None,
            ClientCheck::Optional(clients) | ClientCheck::Required(clients) => Some(clients),
        }
    }
}

/// Options that a service sets for all of its accepts, or an accept for itself.
struct AcceptOptions {
    tls: ReadValue<Located<AcceptTls>>,
    sni: Option<Vec<String>>,
    proxy: ReadValue<Vec<Network>>,
    web: web::RawWebOptions,
    auth: RawAuth,
}

/// The accepts of a service, and the locations of options for WebSocket frames.
#[derive(Default)]
pub(super) struct ServiceAccepts {
    pub list: Vec<Located<Accept>>,
    pub of_frames: Vec<ProfileLocation>,
}

/// The accepts of a service, with the options that the service sets for all of them, and the half for all
/// services.
pub(super) fn accepts(
    field: Option<&ValueReader<'_>>,
    service: &MapReader<'_>,
    of_half: &RawAuth,
    problems: &mut Vec<Problem>,
) -> ServiceAccepts {
    let mut of_service = AcceptOptions::read(service, problems);
    of_service.auth = of_service.auth.over(of_half);
    let items = field.and_then(|field| field.one_or_many(defaults::ACCEPTS_MAX, problems));
    let Some(items) = items else { return ServiceAccepts::default() };
    let mut of_frames = web::frame_key_locations(service);
    let accepts: Vec<_> =
        items.iter().filter_map(|item| accept(item, &of_service, &mut of_frames, problems)).collect();
    // One that is not read may be the one that uses an option.
    let all_are_read = accepts.len() == items.len();
    let is_used = accepts.iter().any(|accept| accept.value.tls.is_some());
    if let ReadValue::Good(tls) = &of_service.tls
        && !is_used
        && all_are_read
    {
        let fault =
            ValueProblem::new("no accept of this service speaks TLS", "write `tls://…`, or remove it");
        problems.push(fault.at(tls.location.clone()));
    }
    if !accepts.iter().any(|accept| accept.value.web.is_some()) && all_are_read {
        for unused in keys::ACCEPT_WEB.iter().filter_map(|key| service.take(*key)) {
            let fault = ValueProblem::new(
                "no accept of this service reads requests",
                "write `http://…` or `ws://…`, or remove it",
            );
            problems.push(fault.at(unused.location()));
        }
    }
    ServiceAccepts { list: accepts, of_frames }
}

fn accept(
    field: &ValueReader<'_>,
    of_service: &AcceptOptions,
    of_frames: &mut Vec<ProfileLocation>,
    problems: &mut Vec<Problem>,
) -> Option<Located<Accept>> {
    let (read, fields) =
        address(field, &keys::ACCEPT_ADDRESS, &keys::ACCEPT_ADDRESS_KEY, AcceptAddress::parse, problems)?;
    of_frames.extend(fields.iter().flat_map(web::frame_key_locations));
    let own = fields.as_ref().map(|fields| AcceptOptions::read(fields, problems));
    let bind = raw::bind(fields.as_ref(), problems);
    let Located { value: address, location } = read;
    if !address.scheme.is_web() {
        for key in keys::ACCEPT_WEB {
            if let Some(unused) = fields.as_ref().and_then(|fields| fields.take(*key)) {
                let what = format!("`{address}` reads no requests");
                problems.push(
                    ValueProblem::new(what, "write `http://…` or `ws://…`, or remove it")
                        .at(unused.location()),
                );
            }
        }
    }
    let web = own.as_ref().map_or(&web::RawWebOptions::NOTHING, |own| &own.web).resolve_over(&of_service.web);
    let sni = own.as_ref().and_then(|own| own.sni.as_ref()).or(of_service.sni.as_ref());
    let sni = sni.cloned().unwrap_or_default();
    let own_proxy = own.as_ref().map_or(&ReadValue::Absent, |own| &own.proxy);
    let proxy = match (own_proxy, &of_service.proxy) {
        (ReadValue::Good(proxy), _) | (ReadValue::Absent, ReadValue::Good(proxy)) => Some(proxy.clone()),
        (ReadValue::Absent, ReadValue::Absent) => None,
        (ReadValue::Bad, _) | (ReadValue::Absent, ReadValue::Bad) => return None,
    };
    let own_auth = own.as_ref().map_or(RawAuth::NOTHING, |own| own.auth.clone());
    let own = own.map_or(ReadValue::Absent, |own| own.tls);
    let proxies = [proxy.as_deref(), web.forwarded.as_deref()];
    let auth = match own_auth.over(&of_service.auth).resolve(&address, proxies, problems) {
        ReadValue::Good(auth) => Some(auth),
        ReadValue::Absent => None,
        ReadValue::Bad => return None,
    };
    let web = address.scheme.is_web().then_some(WebOptions { auth, ..web });
    let tls = match (address.scheme.is_tls(), own, &of_service.tls) {
        (false, ReadValue::Good(tls), _) => {
            let fault = ValueProblem::new(
                format!("`{address}` does not speak TLS"),
                "write `tls://…`, `wss://…` or `https://…`, or remove it",
            );
            problems.push(fault.at(tls.location));
            return None;
        }
        (false, ReadValue::Absent, _) => None,
        (true, ReadValue::Good(tls), _) => Some(tls.value),
        (true, ReadValue::Absent, ReadValue::Good(tls)) => Some(tls.value.clone()),
        (true, ReadValue::Absent, ReadValue::Absent) => {
            let fault = ValueProblem::new(
                format!("`{address}` needs `tls`, and neither it nor its service has any"),
                "write `tls: { certificate: FILE, key: FILE }`",
            );
            problems.push(fault.at(location));
            return None;
        }
        (_, ReadValue::Bad, _) | (true, ReadValue::Absent, ReadValue::Bad) => return None,
    };
    if let Some(Err(fault)) = tls.as_ref().map(|tls| check_web_alpn(address.scheme, &tls.alpn)) {
        problems.push(fault.at(location));
        return None;
    }
    Some(Located { value: Accept { address, bind: bind?, tls, web, sni, proxy }, location })
}

impl AcceptOptions {
    fn read(fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Self {
        Self {
            tls: ReadValue::read(fields.take(&keys::ACCEPT_TLS_KEY), |field| accept_tls(&field, problems)),
            sni: fields.take(&keys::SNI).and_then(|field| server_names(&field, problems)),
            proxy: ReadValue::read(fields.take(&keys::PROXY_FROM_KEY), |field| {
                proxies(&field, &keys::PROXY_FROM, &keys::PROXY_NETWORKS, problems)
            }),
            web: web::RawWebOptions::read(fields, problems),
            auth: RawAuth::read(fields, problems),
        }
    }
}

/// The networks of the proxies in front of an accept.
pub(super) fn proxies(
    field: &ValueReader<'_>,
    map: &'static KeyMap,
    networks: &dyn AnyKey,
    problems: &mut Vec<Problem>,
) -> Option<Vec<Network>> {
    let fields = field.map(map, problems)?;
    let Some(from) = fields.take(networks) else {
        fields.report_missing(networks, "write the networks of the proxies: `[10.0.0.0/8]`", problems);
        return None;
    };
    let mut networks = Vec::new();
    let before = problems.len();
    for item in from.items(defaults::NETWORKS_MAX, problems)? {
        match item.text(problems).map(Network::parse) {
            Some(Ok(network)) => networks.push(network),
            Some(Err(fault)) => problems.push(fault.at(item.location())),
            None => {}
        }
    }
    networks.sort_unstable();
    (problems.len() == before).then_some(networks)
}

/// Names that a ClientHello may ask for; `*.` matches one label.
fn server_names(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Vec<String>> {
    let mut seen = HashSet::new();
    for item in field.one_or_many(defaults::NAMES_MAX, problems)? {
        let Some(text) = item.text(problems) else { continue };
        let name = text.to_ascii_lowercase();
        let fault = if !is_name(name.strip_prefix("*.").unwrap_or(&name)) || name.ends_with('.') {
            let what = format!("`{}` is not a server's name", quote_for_problem(text));
            ValueProblem::new(what, "write a DNS name, `www.example.com` or `*.example.com`")
        } else if seen.insert(name) {
            continue;
        } else {
            ValueProblem::new(format!("`{text}` is listed twice"), "remove one")
        };
        problems.push(fault.at(item.location()));
    }
    let mut names: Vec<_> = seen.into_iter().collect();
    names.sort_unstable();
    Some(names)
}

fn accept_tls(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Located<AcceptTls>> {
    let fields = field.map(&keys::ACCEPT_TLS, problems)?;
    let pair = key_pair(&fields, &keys::SERVICE_CERTIFICATE, &keys::SERVICE_KEY, problems);
    let needed: [(&dyn AnyKey, _); 2] = [
        (&keys::SERVICE_CERTIFICATE, "the service's certificate"),
        (&keys::SERVICE_KEY, "the certificate's private key"),
    ];
    for (key, about) in needed {
        if fields.take(key).is_none() {
            fields.report_missing(key, format!("write the file with {about}"), problems);
        }
    }
    let ca = fields.take(&keys::CLIENT_CA);
    let names = fields.take(&keys::CLIENT_NAMES);
    let verification = match fields.take(&keys::VERIFY_CLIENT) {
        Some(field) => keys::VERIFY_CLIENT.read_field(&field, problems)?,
        // Whoever names an authority wants clients to have certificates from it.
        None if ca.is_some() => ClientVerification::Required,
        None => ClientVerification::None,
    };
    let clients = match verification {
        ClientVerification::Required => ClientCheck::Required(clients(&fields, ca, names, problems)?),
        ClientVerification::Optional => ClientCheck::Optional(clients(&fields, ca, names, problems)?),
        ClientVerification::None => {
            let revoked: [&dyn AnyKey; 2] = [&keys::REVOKED, &keys::REVOKED_EXPIRED];
            let unused = [ca, names].into_iter().flatten();
            for unused in unused.chain(revoked.into_iter().filter_map(|key| fields.take(key))) {
                let fault = ValueProblem::new("clients' certificates are not asked for", "remove it");
                problems.push(fault.at(unused.location()));
            }
            ClientCheck::Nobody
        }
    };
    let min_version = match fields.take(&keys::MIN_VERSION) {
        None => TlsVersion::default(),
        Some(field) => keys::MIN_VERSION.read_field(&field, problems)?,
    };
    let alpn = match fields.take(&keys::CLIENT_ALPN) {
        None => Vec::new(),
        Some(field) => alpn_names(&field, problems)?,
    };
    Some(field.at(AcceptTls { pair: pair?, clients, min_version, alpn }))
}

/// Names of protocols, in order.
pub(super) fn alpn_names(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Vec<String>> {
    let (mut names, before) = (Vec::new(), problems.len());
    for item in field.one_or_many(defaults::ALPN_NAMES_MAX, problems)? {
        let Some(name) = item.text(problems) else { continue };
        let fault = if !(1..=ALPN_NAME_BYTES_MAX).contains(&name.len()) {
            let what = format!("`{}` is not a protocol's name", quote_for_problem(name));
            ValueProblem::new(what, "write a name of 1 to 255 bytes, such as `h2`")
        } else if names.iter().any(|other| other == name) {
            ValueProblem::new(format!("`{}` is listed twice", quote_for_problem(name)), "remove one")
        } else {
            names.push(name.to_owned());
            continue;
        };
        problems.push(fault.at(item.location()));
    }
    (problems.len() == before).then_some(names)
}

/// Where requests are read or sent, only HTTP/1.1 is spoken.
pub(super) fn check_web_alpn(scheme: EdgeScheme, alpn: &[String]) -> Result<(), ValueProblem> {
    match alpn.iter().find(|name| scheme.is_web() && *name != WEB_ALPN) {
        None => Ok(()),
        Some(name) => {
            let what = format!("`{}` is not spoken where requests are read", quote_for_problem(name));
            Err(ValueProblem::new(what, "write `http/1.1`, carry bytes by `tls://…`, or remove `alpn`"))
        }
    }
}

fn clients(
    fields: &MapReader<'_>,
    ca: Option<ValueReader<'_>>,
    names: Option<ValueReader<'_>>,
    problems: &mut Vec<Problem>,
) -> Option<ClientCertificates> {
    let Some(ca) = ca else {
        let advice = "name the file with the CA that issues clients' certificates";
        fields.report_missing(&keys::CLIENT_CA, advice, problems);
        return None;
    };
    let names = match ReadValue::read(names, |names| names.names(defaults::NAMES_MAX, problems)) {
        ReadValue::Absent => None,
        ReadValue::Bad => return None,
        ReadValue::Good(names) => Some(names.into_iter().map(|name| name.value).collect()),
    };
    let revoked = revoked::read(fields, problems)?;
    Some(ClientCertificates { ca: material(&ca, problems)?, names, revoked })
}

/// `certificate` and `key`, if both are present and valid.
pub(super) fn key_pair(
    fields: &MapReader<'_>,
    certificate: &dyn AnyKey,
    key: &dyn AnyKey,
    problems: &mut Vec<Problem>,
) -> Option<KeyPair> {
    let mut file = |key| fields.take(key).and_then(|field| material(&field, problems));
    let (certificate, key) = (file(certificate), file(key));
    Some(KeyPair { certificate: certificate?, key: key? })
}
