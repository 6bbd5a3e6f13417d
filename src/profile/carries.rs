//! What a service carries: bytes, or HTTP. What its accepts and its `connect` speak has to agree with
//! that, and the two halves with each other.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    Backend, Mode, ServiceName,
    edge::Accept,
    endpoint::EdgeScheme,
    fields::{At, Field, Given},
    problem::{Fault, Place, Problem, shown},
    raw::{Raw, RawDmz, RawDmzService, RawInternal, RawInternalService},
};

/// What crosses the link for a service, equally on both halves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carries {
    /// A stream of bytes, whatever is in it.
    #[default]
    Bytes,
    /// Requests and their answers, as the DMZ half has cleaned them.
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

/// What a service carries, and the place that says so; none where nothing does.
struct Told<'a> {
    carries: Carries,
    by: Option<&'a Place>,
}

pub(super) fn read(field: &Field<'_>, problems: &mut Vec<Problem>) -> Option<At<Carries>> {
    match field.text(problems)? {
        "bytes" => Some(field.at(Carries::Bytes)),
        "http" => Some(field.at(Carries::Http)),
        other => {
            let what = format!("`{}` is nothing that a service carries", shown(other));
            field.refuse(Fault::new(what, "write `bytes` or `http`, or remove the key"), problems)
        }
    }
}

/// What a service of the DMZ half carries; `connect` is what it reaches, where this file says so.
pub(super) fn of_dmz(service: &RawDmzService, connect: Option<&At<Backend>>) -> Carries {
    told_by_dmz(service, connect).carries
}

/// What a service of the internal half carries.
pub(super) fn of_internal(carries: &Given<At<Carries>>, connect: &At<Backend>) -> Carries {
    told_by_internal(carries, connect).carries
}

/// Says where accepts, connects and halves do not go together.
pub(super) fn check(raw: &Raw, mode: Option<Mode>, problems: &mut Vec<Problem>) {
    let inside = raw.internal.good().into_iter().flat_map(|half| &half.services);
    let inside: HashMap<&ServiceName, &RawInternalService> =
        inside.map(|service| (&service.name, service)).collect();
    let sound: HashMap<_, _> = inside
        .iter()
        .map(|(name, service)| {
            let told = told_by_inner(service);
            let is_sound = told.as_ref().is_some_and(|told| fits(told, &service.connect, problems));
            (*name, told.filter(|_| is_sound))
        })
        .collect();
    for outer in raw.dmz.good().into_iter().flat_map(|half| &half.services) {
        let own = (!outer.connect.is_absent()).then_some(&outer.connect);
        let partner = inside.get(&outer.name);
        let connect = own.or(partner.map(|partner| &partner.connect));
        if matches!(outer.carries, Given::Bad) || matches!(connect, Some(Given::Bad)) {
            continue;
        }
        let told = told_by_dmz(outer, connect.and_then(Given::good));
        let before = problems.len();
        accepts(outer, &told, problems);
        if own.is_some() && mode == Some(Mode::Direct) {
            fits(&told, &outer.connect, problems);
        } else if let Some(Some(inner)) = sound.get(&outer.name)
            && problems.len() == before
            && inner.carries != told.carries
        {
            problems.push(unlike(outer, &told, inner, partner.map(|partner| &partner.place)));
        }
    }
}

/// Says where halves in files of their own differ; each file has been checked for itself.
pub(super) fn compare(dmz: &[&RawDmz], internal: &[&RawInternal], problems: &mut Vec<Problem>) {
    for inner in internal.iter().flat_map(|half| &half.services) {
        let outer = dmz.iter().flat_map(|half| &half.services).filter(|outer| outer.name == inner.name);
        for outer in outer {
            let outside = told_by_dmz(outer, None);
            if let Some(inside) = told_by_inner(inner)
                && inside.carries != outside.carries
            {
                problems.push(unlike(outer, &outside, &inside, Some(&inner.place)));
            }
        }
    }
}

fn told_by_dmz<'a>(service: &'a RawDmzService, connect: Option<&'a At<Backend>>) -> Told<'a> {
    let is_http = |accept: &&At<Accept>| speaks(accept.value.address.scheme) == Some(Carries::Http);
    let accept = service.accept.list.iter().find(is_http).map(|accept| (Carries::Http, &accept.place));
    let connect = connect.map(|connect| (reached(&connect.value), &connect.place));
    let written = service.carries.good().map(|carries| (carries.value, &carries.place));
    told(written.or(accept).or(connect))
}

fn told_by_internal<'a>(carries: &'a Given<At<Carries>>, connect: &'a At<Backend>) -> Told<'a> {
    let written = carries.good().map(|carries| (carries.value, &carries.place));
    told(written.or(Some((reached(&connect.value), &connect.place))))
}

/// `None` for what was refused: nothing is known of it.
fn told_by_inner(service: &RawInternalService) -> Option<Told<'_>> {
    let is_known = !matches!(service.carries, Given::Bad);
    service.connect.good().filter(|_| is_known).map(|connect| told_by_internal(&service.carries, connect))
}

fn told(told: Option<(Carries, &Place)>) -> Told<'_> {
    told.map_or(Told { carries: Carries::Bytes, by: None }, |(carries, by)| Told { carries, by: Some(by) })
}

/// What clients that speak so bring; `None`: either.
fn speaks(scheme: EdgeScheme) -> Option<Carries> {
    match scheme {
        EdgeScheme::Tcp | EdgeScheme::Tls => Some(Carries::Bytes),
        EdgeScheme::Ws | EdgeScheme::Wss => None,
        EdgeScheme::Http | EdgeScheme::Https => Some(Carries::Http),
    }
}

fn reached(backend: &Backend) -> Carries {
    match backend {
        Backend::Echo | Backend::Socket(_) => Carries::Bytes,
        Backend::Http(_) => Carries::Http,
    }
}

fn accepts(service: &RawDmzService, told: &Told<'_>, problems: &mut Vec<Problem>) {
    for At { value: Accept { address, .. }, place } in &service.accept.list {
        let Some(brought) = speaks(address.scheme).filter(|brought| *brought != told.carries) else {
            continue;
        };
        let what = format!("`{address}` brings {brought}, and this service carries {}", because(told));
        let advice = match told.carries {
            Carries::Http => {
                "write `http://…`, `https://…`, `ws://…` or `wss://…`, or give it a service of its own"
            }
            Carries::Bytes => "write `tcp://…`, `tls://…`, `ws://…` or `wss://…`, or `carries: http`",
        };
        problems.push(Fault::new(what, advice).at(place.clone()));
    }
    if told.carries == Carries::Http {
        for place in &service.accept.of_frames {
            let what = format!("no frames are taken off: this service carries {}", because(told));
            problems.push(Fault::new(what, "remove it, or write `carries: bytes`").at(place.clone()));
        }
    }
}

/// Whether what a service reaches goes with what it carries; a problem if not.
fn fits(told: &Told<'_>, connect: &Given<At<Backend>>, problems: &mut Vec<Problem>) -> bool {
    let Some(At { value: backend, place }) = connect.good() else { return true };
    let wanted = reached(backend);
    if wanted == told.carries {
        return true;
    }
    let what = format!("`{backend}` takes {wanted}, and this service carries {}", because(told));
    let advice = match wanted {
        Carries::Bytes => "write `http://…`, `https://…`, `ws://…` or `wss://…`, or `carries: bytes`",
        Carries::Http => "write `tcp://…`, `tls://…` or `echo://`, or `carries: http`",
    };
    problems.push(Fault::new(what, advice).at(place.clone()));
    false
}

fn unlike(outer: &RawDmzService, told: &Told<'_>, inner: &Told<'_>, partner: Option<&Place>) -> Problem {
    let by = told.by.map(|by| format!(" (by `{}`, line {})", by.key, by.line)).unwrap_or_default();
    let what = format!(
        "`{}` carries {} on the DMZ half{by}, and {} here",
        shown(outer.name.as_str()),
        told.carries,
        inner.carries
    );
    let advice = match inner.carries {
        Carries::Bytes => "connect to `http://…` or `ws://…` here, or accept by `tcp://…` or `tls://…` there",
        Carries::Http => "connect to `tcp://…` or `tls://…` here, or write `carries: http` there",
    };
    Fault::new(what, advice).at(inner.by.or(partner).unwrap_or(&outer.place).clone())
}

fn because(told: &Told<'_>) -> String {
    match told.by {
        Some(by) => format!("{} (by `{}`, line {})", told.carries, by.key, by.line),
        None => told.carries.to_string(),
    }
}
