//! What a service reaches: one backend, or several that stand in for each other. How a session chooses among them is
//! `connect::balance`; what is in force now is `connect::backend_group`.

use std::{collections::HashSet, fmt, time::Duration};

use super::{
    Backend, HttpRemote, OpeningHours,
    backend::{BackendUsage, backend},
    defaults,
    fields::{Located, MapReader, ReadValue, ValueReader},
    hours,
    keys::{self, AnyKey},
    problem::{Problem, ValueProblem, quote_for_problem},
    web,
};

/// The backends of a service; at least one.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendSet {
    pub list: Vec<ListedBackend>,
    pub balance: Balance,
    pub check: Option<BackendCheck>,
    /// How long a backend that refused, or was late, gets no sessions.
    pub rest: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListedBackend {
    pub backend: Backend,
    /// It gets sessions only while all others are down or rest.
    pub is_standby: bool,
    /// Each address of its name is a backend of its own.
    pub is_each: bool,
}

/// The rule by which a session gets its backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    #[default]
    Turn,
    /// The one with the fewest open sessions.
    Least,
    /// A client always gets the same backend.
    Client,
}

/// How a backend is checked.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendCheck {
    pub every: Duration,
    pub timeout: Duration,
    /// This many failures in a row take it down.
    pub falls: u32,
    /// This many successes in a row bring it back.
    pub rises: u32,
    /// `None` means that a connection is enough.
    pub request: Option<CheckRequest>,
}

/// A request, and the answers that count as good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRequest {
    pub method: &'static str,
    pub target: String,
    pub expect: Vec<u16>,
}

impl From<Backend> for BackendSet {
    fn from(backend: Backend) -> Self {
        let list = vec![ListedBackend { backend, is_standby: false, is_each: false }];
        Self { list, balance: Balance::default(), check: None, rest: defaults::REST }
    }
}

impl BackendSet {
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.list.iter().map(|listed| &listed.backend)
    }
}

impl fmt::Display for BackendSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, backend) in self.backends().enumerate() {
            write!(out, "{}{backend}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The backends of a service as written; at least one.
pub(super) struct RawBackends {
    pub first: Located<Backend>,
    pub others: Vec<Located<Backend>>,
    usages: Vec<BackendUsage>,
    balance: Balance,
    check: Option<BackendCheck>,
    rest: Duration,
    /// When sessions are accepted; a setting of the service, written beside what it reaches.
    pub hours: Option<OpeningHours>,
}

impl RawBackends {
    pub fn iter(&self) -> impl Iterator<Item = &Located<Backend>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Located<Backend>> {
        std::iter::once(&mut self.first).chain(&mut self.others)
    }

    /// The backends that receive requests.
    pub fn http_mut(&mut self) -> impl Iterator<Item = &mut HttpRemote> {
        self.iter_mut().filter_map(|backend| match &mut backend.value {
            Backend::Http(http) => Some(http),
            Backend::Echo | Backend::Socket(_) => None,
        })
    }

    /// Gives backends at Unix sockets that receive requests the first of `hosts` as their name, unless they
    /// have one. Returns whether there are any.
    pub fn name_sockets(&mut self, hosts: &[String]) -> bool {
        let first = hosts.first().map(|host| match host.contains(':') {
            true => format!("[{host}]"),
            false => host.clone(),
        });
        let mut sockets = self.http_mut().filter(|http| http.remote.at.unix().is_some()).peekable();
        let has_any = sockets.peek().is_some();
        sockets.filter(|http| http.host.is_none()).for_each(|http| http.host.clone_from(&first));
        has_any
    }

    pub fn resolve(&self) -> BackendSet {
        let listed = |(backend, usage): (&Located<Backend>, &BackendUsage)| ListedBackend {
            backend: backend.value.clone(),
            is_standby: usage.is_standby,
            is_each: usage.is_each,
        };
        BackendSet {
            list: self.iter().zip(&self.usages).map(listed).collect(),
            balance: self.balance,
            check: self.check.clone(),
            rest: self.rest,
        }
    }
}

/// What a service reaches, with its own settings for that.
pub(super) fn reached(
    fields: &MapReader<'_>,
    connect: &dyn AnyKey,
    problems: &mut Vec<Problem>,
) -> ReadValue<RawBackends> {
    let field = fields.take(connect);
    let location = field.as_ref().map(ValueReader::location);
    let mut backends = ReadValue::read(field, |field| backend_list(&field, problems));
    read_answer(fields, &mut backends, problems);
    let balance = keys::BALANCE.written(fields, problems);
    let rest = keys::REST.written(fields, problems);
    if let Some(field) = fields.take(&keys::OWN_NAMES) {
        own_names(&field, &mut backends, problems);
    }
    let check = fields.take(&keys::CHECK).map(|field| backend_check(&field, problems));
    let hours = hours::read(fields, problems);
    let alone: [&dyn AnyKey; 5] = [&keys::BALANCE, &keys::REST, &keys::CHECK, &keys::HOURS, &keys::OWN_NAMES];
    match &mut backends {
        ReadValue::Good(backends) => {
            backends.balance = balance.unwrap_or_default();
            backends.rest = rest.unwrap_or(defaults::REST);
            backends.check = check.flatten();
            backends.hours = hours;
            let is_echo = |backend: &Located<Backend>| backend.value == Backend::Echo;
            let asks = backends.check.as_ref().is_some_and(|check| check.request.is_some());
            let what = match (backends.iter().all(is_echo), backends.iter().any(is_echo)) {
                (true, _) => Some("the built-in echo is not dialled, so that no check can pass"),
                (false, true) if asks => {
                    Some("the built-in echo answers no request, so that it is always down")
                }
                (false, _) => None,
            };
            if let (Some(field), Some(what)) = (fields.take(&keys::CHECK), what) {
                problems.push(ValueProblem::new(what, "remove it").at(field.location()));
            }
        }
        ReadValue::Absent => {
            for unused in alone.into_iter().filter_map(|key| fields.take(key)) {
                let what = "this service says nothing of what it reaches";
                problems.push(
                    ValueProblem::new(what, "write `connect` here, or remove it").at(unused.location()),
                );
            }
        }
        ReadValue::Bad => {}
    }
    if let (ReadValue::Good(backends), Some(location)) = (&backends, location)
        && backends.usages.iter().all(|usage| usage.is_standby)
    {
        let what = "every backend of this service stands by, for none";
        problems.push(ValueProblem::new(what, "remove `standby` from one of them").at(location));
    }
    backends
}

/// What a backend calls itself, if it answers requests.
fn own_names(field: &ValueReader<'_>, connect: &mut ReadValue<RawBackends>, problems: &mut Vec<Problem>) {
    let names = web::hosts(field, problems);
    let ReadValue::Good(connect) = connect else { return };
    let mut is_used = false;
    for http in connect.http_mut() {
        is_used = true;
        http.own_names = names.clone().unwrap_or_default();
    }
    if !is_used {
        let what = "what this service reaches answers no requests";
        let fault = ValueProblem::new(what, "write `http://…` or `https://…` in `connect`, or remove it");
        problems.push(fault.at(field.location()));
    }
}

fn backend_list(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<RawBackends> {
    let before = problems.len();
    let (mut seen, mut list, mut usages) = (HashSet::new(), Vec::new(), Vec::new());
    for item in field.one_or_many(defaults::BACKENDS_MAX, problems)? {
        let Some((backend, usage)) = backend(&item, problems) else { continue };
        let server = match &backend.value {
            Backend::Echo => None,
            Backend::Socket(remote) => Some((remote.at.clone(), String::new())),
            Backend::Http(http) => Some((http.remote.at.clone(), http.path.clone())),
        };
        if !seen.insert(server) {
            let what = format!("`{}` is listed twice", backend.value);
            problems.push(ValueProblem::new(what, "remove one").at(backend.location));
            continue;
        }
        list.push(backend);
        usages.push(usage);
    }
    if problems.len() > before || list.is_empty() {
        return None;
    }
    let first = list.remove(0);
    let (balance, check, rest) = (Balance::default(), None, defaults::REST);
    Some(RawBackends { first, others: list, usages, balance, check, rest, hours: None })
}

/// How long to wait for an answer, for backends that receive requests.
fn read_answer(fields: &MapReader<'_>, backends: &mut ReadValue<RawBackends>, problems: &mut Vec<Problem>) {
    let Some(field) = fields.take(&keys::ANSWER) else { return };
    let answer = keys::ANSWER.read_field(&field, problems);
    let mut given = 0;
    match backends {
        ReadValue::Bad => return,
        ReadValue::Absent => {}
        ReadValue::Good(backends) => {
            for http in backends.http_mut() {
                given += 1;
                http.answer = answer.unwrap_or(http.answer);
            }
        }
    }
    if given == 0 {
        let what = "this service reaches nothing that answers requests";
        problems.push(
            ValueProblem::new(what, "write `connect: http://…` here, or remove it").at(field.location()),
        );
    }
}

fn backend_check(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<BackendCheck> {
    let fields = field.map(&keys::CHECK_KEYS, problems)?;
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let expect = fields.take(&keys::CHECK_EXPECT);
    let request = fields.take(&keys::CHECK_REQUEST);
    if let (Some(expect), None) = (&expect, &request) {
        let what = "a connection has no status";
        let advice = "write `request: \"GET /healthz\"`, or remove it";
        problems.push(ValueProblem::new(what, advice).at(expect.location()));
    }
    let expect = expect.and_then(|field| keys::CHECK_EXPECT.read_field(&field, problems));
    let request = match request {
        None => None,
        Some(field) => Some(check_request(&field, expect.unwrap_or_else(|| vec![200]), problems)?),
    };
    Some(BackendCheck {
        every: keys::CHECK_EVERY.read(&fields, problems),
        timeout: keys::CHECK_TIMEOUT.read(&fields, problems),
        falls: count(keys::CHECK_FALLS.read(&fields, problems)),
        rises: count(keys::CHECK_RISES.read(&fields, problems)),
        request,
    })
}

/// A method that has no body, and a target.
fn check_request(
    field: &ValueReader<'_>,
    expect: Vec<u16>,
    problems: &mut Vec<Problem>,
) -> Option<CheckRequest> {
    let text = field.text(problems)?;
    let read = text.split_once(' ').and_then(|(method, target)| {
        let method = ["GET", "HEAD", "OPTIONS"].into_iter().find(|known| *known == method)?;
        let is_target = target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic());
        (is_target && !target.contains('#')).then(|| CheckRequest {
            method,
            target: target.to_owned(),
            expect,
        })
    });
    if read.is_none() {
        let what = format!("`{}` is not a request", quote_for_problem(text));
        let advice = "write a method without a body and a path: `GET /healthz`, `HEAD /` or `OPTIONS /`";
        problems.push(ValueProblem::new(what, advice).at(field.location()));
    }
    read
}
