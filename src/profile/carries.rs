//! What a service carries: bytes, or HTTP. Its accepts and its `connect` have to agree with that, and so do the
//! two halves.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    Backend, Mode, ServiceName,
    backends::RawBackends,
    edge::Accept,
    endpoint::EdgeScheme,
    fields::{Located, ReadValue, ValueReader},
    keys,
    problem::{Problem, ProfileLocation, ValueProblem, quote_for_problem},
    raw::{RawDmz, RawDmzService, RawInternal, RawInternalService, RawProfile},
};

/// The payload that crosses the link for a service, equally on both halves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carries {
    /// A stream of bytes with any contents.
    #[default]
    Bytes,
    /// Requests and their answers, as cleaned by the DMZ half.
    Http,
}

impl std::fmt::Display for Carries {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Bytes => "bytes",
            Self::Http => "http",
        })
    }
}

/// The declared payload of a service, and its location in the profile; `None` if nothing declares it.
struct DeclaredCarries<'a> {
    carries: Carries,
    declared_at: Option<&'a ProfileLocation>,
}

pub(super) fn read(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Located<Carries>> {
    Some(field.at(keys::CARRIES.read_field(field, problems)?))
}

/// What a service of the DMZ half carries; `connect` is what it reaches, if this file says so.
pub(super) fn dmz_carries(service: &RawDmzService, connect: Option<&Located<Backend>>) -> Carries {
    declared_by_dmz(service, connect).carries
}

/// What a service of the internal half carries.
pub(super) fn internal_carries(carries: &ReadValue<Located<Carries>>, connect: &Located<Backend>) -> Carries {
    declared_by_internal(carries, connect).carries
}

/// Reports accepts, connects and halves that do not go together.
pub(super) fn check(raw: &RawProfile, mode: Option<Mode>, problems: &mut Vec<Problem>) {
    let inside = raw.internal.good().into_iter().flat_map(|half| &half.services);
    let inside: HashMap<&ServiceName, &RawInternalService> =
        inside.map(|service| (&service.name, service)).collect();
    let sound: HashMap<_, _> = inside
        .iter()
        .map(|(name, service)| {
            let declaration = declared_by_internal_service(service);
            let is_sound = declaration
                .as_ref()
                .is_some_and(|declaration| check_connects(declaration, &service.connect, problems));
            (*name, declaration.filter(|_| is_sound))
        })
        .collect();
    for outer in raw.dmz.good().into_iter().flat_map(|half| &half.services) {
        let own = (!outer.connect.is_absent()).then_some(&outer.connect);
        let partner = inside.get(&outer.name);
        let connect = own.or(partner.map(|partner| &partner.connect));
        if matches!(outer.carries, ReadValue::Bad) || matches!(connect, Some(ReadValue::Bad)) {
            continue;
        }
        let declaration =
            declared_by_dmz(outer, connect.and_then(ReadValue::good).map(|connect| &connect.first));
        let before = problems.len();
        check_accepts(outer, &declaration, problems);
        if own.is_some() && mode == Some(Mode::Direct) {
            check_connects(&declaration, &outer.connect, problems);
        } else if let Some(Some(inner)) = sound.get(&outer.name)
            && problems.len() == before
            && inner.carries != declaration.carries
        {
            problems.push(mismatch_problem(
                outer,
                &declaration,
                inner,
                partner.map(|partner| &partner.location),
            ));
        }
    }
}

/// Reports differences between halves in separate files; each file has been checked by itself.
pub(super) fn compare(dmz: &[&RawDmz], internal: &[&RawInternal], problems: &mut Vec<Problem>) {
    for inner in internal.iter().flat_map(|half| &half.services) {
        let outer = dmz.iter().flat_map(|half| &half.services).filter(|outer| outer.name == inner.name);
        for outer in outer {
            let outside = declared_by_dmz(outer, None);
            if let Some(inside) = declared_by_internal_service(inner)
                && inside.carries != outside.carries
            {
                problems.push(mismatch_problem(outer, &outside, &inside, Some(&inner.location)));
            }
        }
    }
}

fn declared_by_dmz<'a>(
    service: &'a RawDmzService,
    connect: Option<&'a Located<Backend>>,
) -> DeclaredCarries<'a> {
    let is_http =
        |accept: &&Located<Accept>| carries_of_scheme(accept.value.address.scheme) == Some(Carries::Http);
    let accept = service.accept.list.iter().find(is_http).map(|accept| (Carries::Http, &accept.location));
    let connect = connect.map(|connect| (carries_of_backend(&connect.value), &connect.location));
    let written = service.carries.good().map(|carries| (carries.value, &carries.location));
    declared(written.or(accept).or(connect))
}

fn declared_by_internal<'a>(
    carries: &'a ReadValue<Located<Carries>>,
    connect: &'a Located<Backend>,
) -> DeclaredCarries<'a> {
    let written = carries.good().map(|carries| (carries.value, &carries.location));
    declared(written.or(Some((carries_of_backend(&connect.value), &connect.location))))
}

/// `None` for a value that was refused: nothing is known about it.
fn declared_by_internal_service(service: &RawInternalService) -> Option<DeclaredCarries<'_>> {
    let is_known = !matches!(service.carries, ReadValue::Bad);
    let connect = service.connect.good().filter(|_| is_known)?;
    Some(declared_by_internal(&service.carries, &connect.first))
}

fn declared(declaration: Option<(Carries, &ProfileLocation)>) -> DeclaredCarries<'_> {
    declaration.map_or(DeclaredCarries { carries: Carries::Bytes, declared_at: None }, |(carries, by)| {
        DeclaredCarries { carries, declared_at: Some(by) }
    })
}

/// What clients with this scheme bring; `None` means either.
fn carries_of_scheme(scheme: EdgeScheme) -> Option<Carries> {
    match scheme {
        EdgeScheme::Tcp | EdgeScheme::Tls => Some(Carries::Bytes),
        EdgeScheme::Ws | EdgeScheme::Wss => None,
        EdgeScheme::Http | EdgeScheme::Https => Some(Carries::Http),
    }
}

pub(super) fn carries_of_backend(backend: &Backend) -> Carries {
    match backend {
        Backend::Echo | Backend::Socket(_) => Carries::Bytes,
        Backend::Http(_) => Carries::Http,
    }
}

fn check_accepts(service: &RawDmzService, declaration: &DeclaredCarries<'_>, problems: &mut Vec<Problem>) {
    for Located { value: Accept { address, .. }, location } in &service.accept.list {
        let Some(brought) =
            carries_of_scheme(address.scheme).filter(|brought| *brought != declaration.carries)
        else {
            continue;
        };
        let what =
            format!("`{address}` brings {brought}, and this service carries {}", declared_where(declaration));
        let advice = match declaration.carries {
            Carries::Http => {
                "write `http://…`, `https://…`, `ws://…` or `wss://…`, or give it a service of its own"
            }
            Carries::Bytes => "write `tcp://…`, `tls://…`, `ws://…` or `wss://…`, or `carries: http`",
        };
        problems.push(ValueProblem::new(what, advice).at(location.clone()));
    }
    if declaration.carries == Carries::Http {
        for location in &service.accept.of_frames {
            let what =
                format!("no frames are taken off: this service carries {}", declared_where(declaration));
            problems
                .push(ValueProblem::new(what, "remove it, or write `carries: bytes`").at(location.clone()));
        }
    }
}

/// Whether everything that a service reaches goes with what it carries; leaves a problem if not.
fn check_connects(
    declaration: &DeclaredCarries<'_>,
    connect: &ReadValue<RawBackends>,
    problems: &mut Vec<Problem>,
) -> bool {
    let backends = connect.good().into_iter().flat_map(RawBackends::iter);
    // Each is checked, so that all problems are reported at once.
    let unsound = backends.filter(|backend| !check_connect(declaration, backend, problems)).count();
    unsound == 0
}

fn check_connect(
    declaration: &DeclaredCarries<'_>,
    Located { value: backend, location }: &Located<Backend>,
    problems: &mut Vec<Problem>,
) -> bool {
    let wanted = carries_of_backend(backend);
    if wanted == declaration.carries {
        return true;
    }
    let what =
        format!("`{backend}` takes {wanted}, and this service carries {}", declared_where(declaration));
    let advice = match wanted {
        Carries::Bytes => {
            "write `http://…`, `https://…`, `ws://…`, `wss://…` or `http+unix://…`, or `carries: bytes`"
        }
        Carries::Http => "write `tcp://…`, `tls://…`, `unix://…` or `echo://`, or `carries: http`",
    };
    problems.push(ValueProblem::new(what, advice).at(location.clone()));
    false
}

fn mismatch_problem(
    outer: &RawDmzService,
    declaration: &DeclaredCarries<'_>,
    inner: &DeclaredCarries<'_>,
    partner: Option<&ProfileLocation>,
) -> Problem {
    let by =
        declaration.declared_at.map(|by| format!(" (by `{}`, line {})", by.key, by.line)).unwrap_or_default();
    let what = format!(
        "`{}` carries {} on the DMZ half{by}, and {} here",
        quote_for_problem(outer.name.as_str()),
        declaration.carries,
        inner.carries
    );
    let advice = match inner.carries {
        Carries::Bytes => "connect to `http://…` or `ws://…` here, or accept by `tcp://…` or `tls://…` there",
        Carries::Http => "connect to `tcp://…` or `tls://…` here, or write `carries: http` there",
    };
    ValueProblem::new(what, advice).at(inner.declared_at.or(partner).unwrap_or(&outer.location).clone())
}

fn declared_where(declaration: &DeclaredCarries<'_>) -> String {
    match declaration.declared_at {
        Some(by) => format!("{} (by `{}`, line {})", declaration.carries, by.key, by.line),
        None => declaration.carries.to_string(),
    }
}
