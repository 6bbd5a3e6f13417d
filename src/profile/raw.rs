//! A profile as written: the same shape, with each value read and its location known, defaults filled in, and no
//! mode chosen yet.
//!
//! Only checks of single keys are here. Those of several keys are in `cross_checks`, and those of the mode in
//! `resolve`.

use std::{collections::HashSet, net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    AccessLogOptions, BindPolicy, Carries, ClientScope, ConfinePolicy, Mode, ReadyWhen, ServiceName,
    SessionLimits, UnreadyPolicy,
    auth::RawAuth,
    backends::{self, RawBackends},
    carries, defaults,
    edge::{self, ServiceAccepts},
    endpoint::HostPort,
    fields::{Located, MapReader, ReadValue, ValueReader},
    gateways,
    guards::{self, RawClientRules},
    health,
    keys::{self, AnyKey, KeyMap},
    link::{DemoTls, DmzLink, InternalLink},
    logs,
    problem::{Problem, ProfileLocation, ValueProblem, quote_for_problem},
    web,
    yaml::{YamlNode, YamlValue},
};

pub(super) struct RawProfile {
    /// The beginning of the file.
    pub location: ProfileLocation,
    pub name: ReadValue<String>,
    pub mode: ReadValue<Mode>,
    pub dmz: ReadValue<RawDmz>,
    pub internal: ReadValue<RawInternal>,
    pub drain: Duration,
    pub drain_delay: Duration,
    pub health: ReadValue<Located<HostPort>>,
    pub ready: ReadyWhen,
    pub log: Option<PathBuf>,
    pub access_log: Option<AccessLogOptions>,
    pub audit: Option<PathBuf>,
    pub confine: ConfinePolicy,
    pub resolver: Vec<SocketAddr>,
}

pub(super) struct RawDmz {
    pub location: ProfileLocation,
    pub link: ReadValue<DmzLink>,
    pub unready: UnreadyPolicy,
    /// For services that do not set it themselves.
    pub clients: RawClientRules,
    /// Every named service, including those with problems.
    pub names: ReadValue<Vec<Located<ServiceName>>>,
    pub services: Vec<RawDmzService>,
}

pub(super) struct RawInternal {
    pub location: ProfileLocation,
    pub link: ReadValue<InternalLink>,
    /// Every named service, including those with problems.
    pub names: ReadValue<Vec<Located<ServiceName>>>,
    pub services: Vec<RawInternalService>,
}

pub(super) struct RawDmzService {
    pub name: ServiceName,
    pub location: ProfileLocation,
    pub accept: ServiceAccepts,
    pub unready: Option<UnreadyPolicy>,
    pub clients: RawClientRules,
    pub connect: ReadValue<RawBackends>,
    pub sessions: usize,
    pub idle: Option<Duration>,
    pub peers: Option<Vec<Located<String>>>,
    pub carries: ReadValue<Located<Carries>>,
}

pub(super) struct RawInternalService {
    pub name: ServiceName,
    pub location: ProfileLocation,
    pub connect: ReadValue<RawBackends>,
    pub sessions: Option<usize>,
    pub per_peer: Option<SessionLimits>,
    pub peers: Option<Vec<Located<String>>>,
    pub carries: ReadValue<Located<Carries>>,
}

/// Reads the merged tree of a profile; `demo` replaces the `tls` of its links.
pub(super) fn read(
    tree: &YamlNode,
    demo: Option<&DemoTls>,
    problems: &mut Vec<Problem>,
) -> Option<RawProfile> {
    let top = MapReader::from_top(tree, &keys::PROFILE, problems)?;
    let dmz = ReadValue::read(top.take(&keys::DMZ), |field| {
        let half = field.map(&keys::DMZ_HALF, problems)?;
        let unready = keys::HALF_UNREADY.written(&half, problems).unwrap_or_default();
        let clients = RawClientRules::read(&half, ClientScope::Half, problems);
        let link = half.take(&keys::DMZ_LINK_KEY);
        let link = ReadValue::read(link, |link| DmzLink::read(&link, demo.map(|demo| &demo.dmz), problems));
        let auth = RawAuth::read(&half, problems);
        let read = |name, field: &ValueReader<'_>, problems: &mut Vec<Problem>| {
            dmz_service(name, field, &auth, problems)
        };
        let (names, services) = services(&half, &keys::DMZ_SERVICES, read, problems);
        Some(RawDmz { location: field.key_location(), link, unready, clients, names, services })
    });
    let internal = ReadValue::read(top.take(&keys::INTERNAL), |field| {
        let half = field.map(&keys::INTERNAL_HALF, problems)?;
        let link = half.take(&keys::INTERNAL_LINK_KEY);
        let link = ReadValue::read(link, |link| {
            InternalLink::read(&link, demo.map(|demo| &demo.internal), problems)
        });
        let (names, services) = services(&half, &keys::INTERNAL_SERVICES, internal_service, problems);
        Some(RawInternal { location: field.key_location(), link, names, services })
    });
    let log = top.take(&keys::LOG).and_then(|field| logs::file(&field, problems));
    let access_log = top.take(&keys::ACCESS_LOG).and_then(|field| logs::access_log(&field, problems));
    let others = [log.as_deref(), access_log.as_ref().and_then(AccessLogOptions::file)];
    let audit = top.take(&keys::AUDIT).and_then(|field| logs::audit(&field, others, problems));
    let (mut dmz, mut internal) = (dmz, internal);
    name_sockets(&mut dmz, &mut internal);
    Some(RawProfile {
        name: ReadValue::read(top.take(&keys::NAME), |field| profile_name(&field, problems)),
        mode: ReadValue::read(top.take(&keys::MODE), |field| keys::MODE.read_field(&field, problems)),
        dmz,
        internal,
        drain_delay: keys::DRAIN_DELAY.read(&top, problems),
        drain: keys::DRAIN.read(&top, problems),
        health: ReadValue::read(top.take(&keys::HEALTH), |field| health::read(&field, problems)),
        ready: keys::READY.written(&top, problems).unwrap_or_default(),
        log,
        audit,
        access_log,
        confine: confine(&top, problems).unwrap_or_default(),
        resolver: gateways::name_servers(&top, problems).unwrap_or_default(),
        location: top.location,
    })
}

/// A word, or true and false, since some YAML parsers turn `on` and `off` into those.
fn confine(top: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<ConfinePolicy> {
    let field = top.take(&keys::CONFINE)?;
    if let YamlValue::Bool(is_on) = field.node.value {
        return Some(if is_on { ConfinePolicy::On } else { ConfinePolicy::Off });
    }
    keys::CONFINE.read_field(&field, problems)
}

/// An operator's name for a gateway: like a profile's name, and not an option of a program.
pub fn is_gateway_name(text: &str) -> bool {
    is_profile_name(text) && !text.starts_with('-')
}

/// 1 to 64 of `A-Za-z0-9._-`.
pub(super) fn is_profile_name(text: &str) -> bool {
    text.len() <= 64 && ServiceName::parse(text).is_some()
}

fn profile_name(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<String> {
    let text = field.text(problems)?;
    if is_profile_name(text) {
        return Some(text.to_owned());
    }
    let what = format!("`{}` is not a profile's name", quote_for_problem(text));
    field.refuse(ValueProblem::new(what, "write 1 to 64 of A-Z, a-z, 0-9, `.`, `_`, `-`"), problems)
}

/// The services of a half, each read by `read`, and all their names.
fn services<T>(
    half: &MapReader<'_>,
    key: &dyn AnyKey,
    read: impl Fn(ServiceName, &ValueReader<'_>, &mut Vec<Problem>) -> Option<T>,
    problems: &mut Vec<Problem>,
) -> (ReadValue<Vec<Located<ServiceName>>>, Vec<T>) {
    let Some(field) = half.take(key) else {
        half.report_missing(key, "write it, and a service's name and keys under it", problems);
        return (ReadValue::Absent, Vec::new());
    };
    let Some(named) = named_services(&field, problems) else { return (ReadValue::Bad, Vec::new()) };
    let services = named.iter().filter_map(|(name, field)| read(name.clone(), field, problems)).collect();
    let name = |(name, field): (ServiceName, ValueReader<'_>)| Located {
        value: name,
        location: field.key_location(),
    };
    (ReadValue::Good(named.into_iter().map(name).collect()), services)
}

fn named_services<'a>(
    field: &ValueReader<'a>,
    problems: &mut Vec<Problem>,
) -> Option<Vec<(ServiceName, ValueReader<'a>)>> {
    let named = field.named(problems)?;
    if named.is_empty() || named.len() > defaults::SERVICES_MAX {
        let what = match named.len() {
            0 => "there are no services".to_owned(),
            count => format!("there are {count} services"),
        };
        return field
            .refuse(ValueProblem::new(what, format!("write 1 to {}", defaults::SERVICES_MAX)), problems);
    }
    let mut services = Vec::with_capacity(named.len());
    for (name, field) in named {
        if let Some(name) = ServiceName::parse(name) {
            services.push((name, field));
            continue;
        }
        let what = format!("`{}` is not a service's name", quote_for_problem(name));
        let fault = ValueProblem::new(what, "write 1 to 255 of A-Z, a-z, 0-9, `.`, `_`, `-`");
        problems.push(fault.at(field.key_location()));
    }
    Some(services)
}

fn dmz_service(
    name: ServiceName,
    field: &ValueReader<'_>,
    of_half: &RawAuth,
    problems: &mut Vec<Problem>,
) -> Option<RawDmzService> {
    let fields = field.map(&keys::DMZ_SERVICE, problems)?;
    let accept = fields.take(&keys::ACCEPT);
    if accept.is_none() {
        fields.report_missing(
            &keys::ACCEPT,
            "write where clients come in: `[\"tcp://0.0.0.0:8000\"]`",
            problems,
        );
    }
    Some(RawDmzService {
        name,
        location: field.key_location(),
        accept: edge::accepts(accept.as_ref(), &fields, of_half, problems),
        connect: backends::reached(&fields, &keys::DMZ_SERVICE_CONNECT, problems),
        unready: keys::UNREADY.written(&fields, problems),
        clients: RawClientRules::read(&fields, ClientScope::Service, problems),
        sessions: keys::SESSIONS.read(&fields, problems),
        idle: keys::IDLE.read(&fields, problems),
        peers: fields.take(&keys::MAY_OFFER).and_then(|field| field.names(defaults::PEERS_MAX, problems)),
        carries: ReadValue::read(fields.take(&keys::CARRIES), |field| carries::read(&field, problems)),
    })
}

fn internal_service(
    name: ServiceName,
    field: &ValueReader<'_>,
    problems: &mut Vec<Problem>,
) -> Option<RawInternalService> {
    let fields = field.map(&keys::INTERNAL_SERVICE, problems)?;
    let mut connect = backends::reached(&fields, &keys::INTERNAL_SERVICE_CONNECT, problems);
    if connect.is_absent() {
        fields.report_missing(
            &keys::INTERNAL_SERVICE_CONNECT,
            "write what it reaches: `\"tcp://127.0.0.1:9000\"`",
            problems,
        );
    }
    if let Some(field) = fields.take(&keys::SOCKET_HOSTS) {
        socket_hosts(&field, &mut connect, problems);
    }
    Some(RawInternalService {
        name,
        location: field.key_location(),
        connect,
        sessions: keys::INTERNAL_SESSIONS.read(&fields, problems),
        per_peer: guards::peer_limits(&fields, problems),
        peers: fields.take(&keys::MAY_USE).and_then(|field| field.names(defaults::PEERS_MAX, problems)),
        carries: ReadValue::read(fields.take(&keys::CARRIES), |field| carries::read(&field, problems)),
    })
}

/// The host in requests to backends at Unix sockets.
fn socket_hosts(field: &ValueReader<'_>, connect: &mut ReadValue<RawBackends>, problems: &mut Vec<Problem>) {
    let hosts = web::hosts(field, problems);
    let ReadValue::Good(connect) = connect else { return };
    if !connect.name_sockets(hosts.as_deref().unwrap_or_default()) {
        let what = "what this service reaches has a host of its own";
        let fault = ValueProblem::new(what, "write `http+unix:///…` in `connect`, or remove it");
        problems.push(fault.at(field.location()));
    }
}

/// A backend at a Unix socket has the clients' name for the service, unless the inside gives another.
fn name_sockets(dmz: &mut ReadValue<RawDmz>, internal: &mut ReadValue<RawInternal>) {
    let ReadValue::Good(dmz) = dmz else { return };
    for service in &mut dmz.services {
        let accepts = service.accept.list.iter().filter_map(|accept| accept.value.web.as_ref());
        let hosts = accepts.flat_map(|web| &web.hosts).filter(|host| !host.starts_with("*."));
        let hosts: Vec<_> = hosts.cloned().collect();
        if let ReadValue::Good(connect) = &mut service.connect {
            connect.name_sockets(&hosts);
        }
        let ReadValue::Good(internal) = &mut *internal else { continue };
        for partner in internal.services.iter_mut().filter(|partner| partner.name == service.name) {
            if let ReadValue::Good(connect) = &mut partner.connect {
                connect.name_sockets(&hosts);
            }
        }
    }
}

/// Reads an address, or a map with the address at `key` and options.
pub(super) fn address<'a, T>(
    field: &ValueReader<'a>,
    options: &'static KeyMap,
    key: &dyn AnyKey,
    parse: impl FnOnce(&str) -> Result<T, ValueProblem>,
    problems: &mut Vec<Problem>,
) -> Option<(Located<T>, Option<MapReader<'a>>)> {
    if let YamlValue::Map(_) = field.node.value {
        let fields = field.map(options, problems)?;
        let Some(inner) = fields.take(key) else {
            fields.report_missing(key, "write it: SCHEME://HOST:PORT", problems);
            return None;
        };
        return Some((plain_address(&inner, parse, problems)?, Some(fields)));
    }
    Some((plain_address(field, parse, problems)?, None))
}

/// `bind` in a map with an address to listen on.
pub(super) fn bind(fields: Option<&MapReader<'_>>, problems: &mut Vec<Problem>) -> Option<BindPolicy> {
    match fields.and_then(|fields| fields.take(&keys::BIND)) {
        None => Some(BindPolicy::default()),
        Some(field) => keys::BIND.read_field(&field, problems),
    }
}

fn plain_address<T>(
    field: &ValueReader<'_>,
    parse: impl FnOnce(&str) -> Result<T, ValueProblem>,
    problems: &mut Vec<Problem>,
) -> Option<Located<T>> {
    let text = match &field.node.value {
        YamlValue::Text(text) => text.clone(),
        // A port alone: what is missing is said as of any text.
        YamlValue::Integer(number) => number.to_string(),
        YamlValue::Null
        | YamlValue::Bool(_)
        | YamlValue::Float(_)
        | YamlValue::List(_)
        | YamlValue::Map(_) => return field.refuse_type("an address", "write one, as text", problems),
    };
    match parse(&text) {
        Ok(value) => Some(field.at(value)),
        Err(fault) => field.refuse(fault, problems),
    }
}

/// Reports addresses that are listed twice, and drops them.
pub(super) fn distinct<T>(
    items: Vec<Located<T>>,
    location: impl Fn(&T) -> String,
    problems: &mut Vec<Problem>,
) -> Vec<Located<T>> {
    let mut seen = HashSet::new();
    let mut distinct = Vec::new();
    for item in items {
        let at = location(&item.value);
        if seen.contains(&at) {
            problems
                .push(ValueProblem::new(format!("`{at}` is listed twice"), "remove one").at(item.location));
        } else {
            seen.insert(at);
            distinct.push(item);
        }
    }
    distinct
}
