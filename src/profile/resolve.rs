//! Turns a profile as written into what one gateway should be in one mode. It reports all problems at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    BackendSet, DmzHalf, DmzMode, DmzService, Half, InternalHalf, InternalMode, InternalService, LinkAddress,
    LinkTls, Mode, Profile, ProfileChecked, ServiceName,
    backends::RawBackends,
    carries, chain, cross_checks,
    fields::{Located, ReadValue},
    health,
    link::{DemoTls, DmzLink, InternalLink, LinkEnds},
    problem::{Problem, ProfileLocation, ValueProblem, quote_for_problem},
    raw::{self, RawDmz, RawDmzService, RawInternal, RawInternalService, RawProfile},
    via,
    yaml::{self, SourceFile, YamlNode},
};
use crate::{disk::PipePolicy, text};

/// Values that the command line sets in place of the profile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProfileOverrides {
    /// Runs the profile in another mode than its own.
    pub mode: Option<Mode>,
    /// Runs one half of a profile that has both.
    pub half: Option<Half>,
}

/// Reads `file` with everything it extends, and checks all of it.
///
/// The problems are those of the whole file, even if `choice` selects one half of it.
pub fn load(file: &Path, choice: &ProfileOverrides) -> Result<Profile, Vec<Problem>> {
    load_with(file, choice, PipePolicy::Refused)
}

/// Loads a profile; also from pipes, if that is allowed.
pub fn load_with(file: &Path, choice: &ProfileOverrides, pipes: PipePolicy) -> Result<Profile, Vec<Problem>> {
    let (tree, problems) = chain::read(file, pipes)?;
    resolve(&tree, Some(file), None, choice, problems)
}

/// Resolves a text that is not in its file yet.
pub fn parse(text: &str, file: &Path, choice: &ProfileOverrides) -> Result<Profile, Vec<Problem>> {
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let source = Arc::new(SourceFile { label: text::clean_path(file).into(), folder });
    let (tree, problems) = yaml::read(text, &source)?;
    resolve(&tree, Some(file), None, choice, problems)
}

/// The ports of the built-in profile: those of its clients, and of its links in reverse and in forward mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemoPorts(pub [u16; 3]);

impl DemoPorts {
    /// The ports in `demo.yaml`.
    pub const USUAL: Self = Self([7000, 7001, 7002]);
}

/// The built-in profile, as it is written.
pub const DEMO_TEXT: &str = include_str!("demo.yaml");

/// The built-in profile: a pair in one process, with a `tls` that the caller has made in memory.
pub fn builtin_demo(
    choice: &ProfileOverrides,
    tls: &DemoTls,
    ports: DemoPorts,
) -> Result<Profile, Vec<Problem>> {
    let source = Arc::new(SourceFile { label: "(built-in demo)".into(), folder: PathBuf::new() });
    let mut text = DEMO_TEXT.to_owned();
    for (usual, port) in DemoPorts::USUAL.0.into_iter().zip(ports.0) {
        text = text.replace(&format!("127.0.0.1:{usual}"), &format!("127.0.0.1:{port}"));
    }
    let (tree, problems) = yaml::read(&text, &source)?;
    resolve(&tree, None, Some(tls), choice, problems)
}

fn resolve(
    tree: &YamlNode,
    file: Option<&Path>,
    demo: Option<&DemoTls>,
    choice: &ProfileOverrides,
    mut problems: Vec<Problem>,
) -> Result<Profile, Vec<Problem>> {
    let mut profile = raw::read(tree, demo, &mut problems).and_then(|raw| {
        let mode = mode(&raw, choice, &mut problems);
        cross_checks::check(&raw, mode, &mut problems);
        let name = name(&raw, file, &mut problems);
        let mode = mode?;
        check_halves(&raw, mode, choice.half, &mut problems);
        let outside = raw.dmz.good().and_then(|dmz| dmz_half(dmz, &raw.internal, mode, &mut problems));
        let inside = raw.internal.good().and_then(|internal| internal_half(internal, mode, &mut problems));
        let passed = passed_names(&raw);
        Some(Profile {
            name: name?,
            file: file.map(Path::to_path_buf),
            mode,
            dmz: outside.filter(|_| choice.half != Some(Half::Internal)),
            internal: inside.filter(|_| choice.half != Some(Half::Dmz)),
            drain: raw.drain,
            drain_delay: raw.drain_delay,
            health: health::resolve(&raw, choice.half),
            ready: raw.ready,
            passed,
            log: raw.log,
            access_log: raw.access_log,
            audit: raw.audit,
            confine: raw.confine,
            resolver: raw.resolver,
            _checked: ProfileChecked,
        })
    });
    if let Some(profile) = &mut profile {
        via::read_logins(profile, &mut problems);
    }
    // In the order of the file, whatever order they were found in.
    problems.sort_by(|a, b| {
        let order = |location: &ProfileLocation| (location.file.clone(), location.line, location.column);
        order(&a.location).cmp(&order(&b.location))
    });
    match profile {
        Some(profile) if problems.is_empty() => Ok(profile),
        _ => Err(problems),
    }
}

/// The sockets that the DMZ half is started with, for its clients and for links.
fn passed_names(raw: &RawProfile) -> BTreeSet<String> {
    let Some(dmz) = raw.dmz.good() else { return BTreeSet::new() };
    let link = dmz.link.good().and_then(|link| link.ends.listen.good()).map(|listen| &listen.value.at);
    let accepts = dmz.services.iter().flat_map(|service| &service.accept.list);
    let listened = accepts.map(|accept| &accept.value.address.at).chain(link);
    listened.filter_map(|at| at.passed_name()).map(str::to_owned).collect()
}

fn mode(raw: &RawProfile, choice: &ProfileOverrides, problems: &mut Vec<Problem>) -> Option<Mode> {
    if choice.mode.is_none() && raw.mode.is_absent() {
        let location = ProfileLocation { key: "mode".to_owned(), ..raw.location.clone() };
        let fault = ValueProblem::new(
            "this key is missing",
            "write `mode: direct`, `mode: forward` or `mode: reverse`",
        );
        problems.push(fault.at(location));
    }
    choice.mode.or(raw.mode.good().copied())
}

/// The written name, or the file's without its extension.
fn name(raw: &RawProfile, file: Option<&Path>, problems: &mut Vec<Problem>) -> Option<String> {
    match &raw.name {
        ReadValue::Good(name) => return Some(name.clone()),
        ReadValue::Bad => return None,
        ReadValue::Absent => {}
    }
    let stem = file.and_then(Path::file_stem).unwrap_or_default().to_string_lossy();
    if raw::is_profile_name(&stem) {
        return Some(stem.into_owned());
    }
    let what = format!("the file's name, `{}`, cannot be the profile's", quote_for_problem(&stem));
    let location = ProfileLocation { key: "name".to_owned(), ..raw.location.clone() };
    problems.push(
        ValueProblem::new(what, "write `name:` with 1 to 64 of A-Z, a-z, 0-9, `.`, `_`, `-`").at(location),
    );
    None
}

/// Checks that the halves needed by the mode and by `--role` are there.
fn check_halves(raw: &RawProfile, mode: Mode, half: Option<Half>, problems: &mut Vec<Problem>) {
    let mut missing = |half: &str, what: String, advice: &str| {
        let location = ProfileLocation { key: half.to_owned(), ..raw.location.clone() };
        problems.push(ValueProblem::new(what, advice).at(location));
    };
    let (no_dmz, no_internal) = (raw.dmz.is_absent(), raw.internal.is_absent());
    if no_dmz && no_internal {
        missing("profile", "there is neither `dmz` nor `internal`".to_owned(), "write one of them, or both");
    } else if no_dmz && mode == Mode::Direct {
        missing("dmz", "mode `direct` needs this half".to_owned(), "write it, or choose another mode");
    } else if no_dmz && half == Some(Half::Dmz) {
        missing("dmz", "role `dmz` needs this half".to_owned(), "write it, or choose role `internal`");
    } else if no_internal && half == Some(Half::Internal) {
        missing("internal", "role `internal` needs this half".to_owned(), "write it, or choose role `dmz`");
    } else if mode == Mode::Direct && half == Some(Half::Internal) {
        let what = "in mode `direct` there is no internal gateway to run".to_owned();
        missing("internal", what, "choose role `dmz`, or another mode");
    }
}

fn dmz_half(
    raw: &RawDmz,
    partner: &ReadValue<RawInternal>,
    mode: Mode,
    problems: &mut Vec<Problem>,
) -> Option<DmzHalf> {
    if mode != Mode::Direct {
        backends_stay_inside(raw, mode, problems);
    }
    let mode_settings = match mode {
        Mode::Direct => DmzMode::Direct(backends(raw, partner, problems)),
        Mode::Forward => {
            let link = link(&raw.link, &raw.location, "dmz.link", mode, problems)?;
            let connect = needed(&link.ends.connect, "connect", &link.ends, mode, problems)?;
            let (connect, tls) = with_tls(connect, &link.ends);
            DmzMode::Forward { connect, tls, pool: link.pool }
        }
        Mode::Reverse => {
            let DmzLink { ends, pool } = link(&raw.link, &raw.location, "dmz.link", mode, problems)?;
            let listen = needed(&ends.listen, "listen", ends, mode, problems)?.value.clone();
            let tls = ends.tls.good().filter(|_| listen.tls).cloned();
            DmzMode::Reverse { listen, bind: ends.bind, tls, pool: *pool }
        }
    };
    let inside = connects(partner);
    let service = |service| dmz_service(service, raw, reached(service, &inside).good(), mode);
    Some(DmzHalf { mode: mode_settings, services: raw.services.iter().map(service).collect() })
}

fn internal_half(raw: &RawInternal, mode: Mode, problems: &mut Vec<Problem>) -> Option<InternalHalf> {
    let (mode_settings, link) = match mode {
        Mode::Direct => return None,
        Mode::Forward => {
            let link = link(&raw.link, &raw.location, "internal.link", mode, problems)?;
            let listen = needed(&link.ends.listen, "listen", &link.ends, mode, problems)?.value.clone();
            let tls = link.ends.tls.good().filter(|_| listen.tls).cloned();
            (InternalMode::Forward { listen, bind: link.ends.bind, tls }, link)
        }
        Mode::Reverse => {
            let link = link(&raw.link, &raw.location, "internal.link", mode, problems)?;
            let connect = needed(&link.ends.connect, "connect", &link.ends, mode, problems)?;
            let (connect, tls) = with_tls(connect, &link.ends);
            (InternalMode::Reverse { connect, tls, prepared: link.prepared, retry: link.retry }, link)
        }
    };
    let services = raw.services.iter().filter_map(internal_service).collect();
    let InternalLink { maximum, retire, sessions_per_link, .. } = *link;
    Some(InternalHalf { mode: mode_settings, services, maximum, retire, sessions_per_link })
}

fn dmz_service(raw: &RawDmzService, half: &RawDmz, connect: Option<&RawBackends>, mode: Mode) -> DmzService {
    DmzService {
        name: raw.name.clone(),
        accept: raw.accept.list.iter().map(|accept| accept.value.clone()).collect(),
        sessions: raw.sessions,
        idle: raw.idle,
        peers: names(raw.peers.as_deref()),
        carries: carries::dmz_carries(raw, connect.map(|connect| &connect.first)),
        unready: raw.unready.unwrap_or(half.unready),
        hours: if mode == Mode::Direct { connect.and_then(|connect| connect.hours.clone()) } else { None },
        clients: raw.clients.resolve_over(&half.clients),
    }
}

/// `None` only if a problem was left before.
fn internal_service(raw: &RawInternalService) -> Option<InternalService> {
    let connect = raw.connect.good()?;
    Some(InternalService {
        name: raw.name.clone(),
        connect: connect.resolve(),
        peers: names(raw.peers.as_deref()),
        carries: carries::internal_carries(&raw.carries, &connect.first),
        hours: connect.hours.clone(),
        sessions: raw.sessions,
        per_peer: raw.per_peer,
    })
}

fn names(peers: Option<&[Located<String>]>) -> Option<Vec<String>> {
    peers.map(|peers| peers.iter().map(|peer| peer.value.clone()).collect())
}

type ConnectTable<'a> = BTreeMap<&'a ServiceName, &'a ReadValue<RawBackends>>;

fn connects(partner: &ReadValue<RawInternal>) -> ConnectTable<'_> {
    let services = partner.good().into_iter().flat_map(|partner| &partner.services);
    services.map(|service| (&service.name, &service.connect)).collect()
}

/// What a service reaches through its own `connect`, or its partner's.
fn reached<'a>(service: &'a RawDmzService, inside: &ConnectTable<'a>) -> &'a ReadValue<RawBackends> {
    match &service.connect {
        ReadValue::Absent => inside.get(&service.name).copied().unwrap_or(&ReadValue::Absent),
        own @ (ReadValue::Bad | ReadValue::Good(_)) => own,
    }
}

/// In direct mode, a service reaches its own `connect`, or its partner's.
fn backends(
    raw: &RawDmz,
    partner: &ReadValue<RawInternal>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<ServiceName, BackendSet> {
    let inside = connects(partner);
    let mut backends = BTreeMap::new();
    for service in &raw.services {
        match reached(service, &inside) {
            ReadValue::Good(connect) => {
                backends.insert(service.name.clone(), connect.resolve());
            }
            ReadValue::Bad => {}
            ReadValue::Absent => {
                let key = format!("{}.connect", service.location.key);
                let fault = ValueProblem::new(
                    "mode `direct` needs what this service reaches",
                    "write `connect:` here, or under `internal.services`",
                );
                problems.push(fault.at(ProfileLocation { key, ..service.location.clone() }));
            }
        }
    }
    backends
}

/// The DMZ half must not contain any backend's name or address.
fn backends_stay_inside(raw: &RawDmz, mode: Mode, problems: &mut Vec<Problem>) {
    for service in &raw.services {
        let Some(connect) = service.connect.good() else { continue };
        let what = format!("in mode `{}` only the inside knows what a service reaches", mode_name(mode));
        let advice = format!("move it to `internal.services.{}`", service.name);
        problems.push(ValueProblem::new(what, advice).at(connect.first.location.clone()));
    }
}

/// A half's link, which every mode except direct needs.
fn link<'a, L>(
    link: &'a ReadValue<L>,
    half: &ProfileLocation,
    key: &str,
    mode: Mode,
    problems: &mut Vec<Problem>,
) -> Option<&'a L> {
    if link.is_absent() {
        let fault = ValueProblem::new(
            format!("mode `{}` needs a link, and this half has none", mode_name(mode)),
            "write `link:` with `listen:` or `connect:` under it",
        );
        problems.push(fault.at(ProfileLocation { key: key.to_owned(), ..half.clone() }));
    }
    link.good()
}

/// The end of the link that the mode uses.
fn needed<'a, T>(
    end: &'a ReadValue<T>,
    key: &str,
    ends: &LinkEnds,
    mode: Mode,
    problems: &mut Vec<Problem>,
) -> Option<&'a T> {
    if end.is_absent() {
        let fault = ValueProblem::new(
            format!("mode `{}` needs `{key}`, and the link has none", mode_name(mode)),
            format!("write `{key}: socks+tls://HOST:PORT`"),
        );
        problems.push(
            fault
                .at(ProfileLocation { key: format!("{}.{key}", ends.location.key), ..ends.location.clone() }),
        );
    }
    end.good()
}

fn with_tls(connect: &[Located<LinkAddress>], ends: &LinkEnds) -> (Vec<LinkAddress>, Option<LinkTls>) {
    let connect: Vec<_> = connect.iter().map(|address| address.value.clone()).collect();
    let tls = ends.tls.good().filter(|_| connect.iter().any(|address| address.tls)).cloned();
    (connect, tls)
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Direct => "direct",
        Mode::Forward => "forward",
        Mode::Reverse => "reverse",
    }
}
