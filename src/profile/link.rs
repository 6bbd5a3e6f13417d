//! The `link` of a half as written: both ends, TLS, and how many links there are. What both halves of a pair must
//! agree on is checked in [`super::pair_checks`].

use std::{sync::Arc, time::Duration};

use super::{
    BindPolicy, KeyExchangePolicy, LinkAddress, LinkTls, PemSource, PoolLimits, RetryPolicy, defaults,
    duration,
    endpoint::PortUse,
    fields::{Located, MapReader, ReadValue, ValueReader},
    gateways,
    keys::{self, AnyKey},
    link_address::OuterOptions,
    problem::{Problem, ProfileLocation, ValueProblem, quote_for_problem},
    raw::{self, address, distinct},
    revoked, source, via,
};

/// Replaces the `tls` of the built-in profile's links; made in memory by the caller.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoTls {
    pub dmz: LinkTls,
    pub internal: LinkTls,
}

pub(super) struct DmzLink {
    pub ends: LinkEnds,
    pub pool: PoolLimits,
}

pub(super) struct InternalLink {
    pub ends: LinkEnds,
    pub prepared: usize,
    pub maximum: usize,
    pub retry: RetryPolicy,
    pub retire: Duration,
    pub sessions_per_link: usize,
}

/// The keys of a link that both halves have.
pub(super) struct LinkEnds {
    pub location: ProfileLocation,
    pub listen: ReadValue<Located<LinkAddress>>,
    pub bind: BindPolicy,
    pub connect: ReadValue<Vec<Located<LinkAddress>>>,
    pub tls: ReadValue<LinkTls>,
}

impl DmzLink {
    pub fn read(
        field: &ValueReader<'_>,
        demo: Option<&LinkTls>,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let fields = field.map(&keys::DMZ_LINK, problems)?;
        let pool = PoolLimits {
            prepared: keys::DMZ_PREPARED.read(&fields, problems),
            wait: keys::WAIT.read(&fields, problems),
            waiters: keys::WAITERS.read(&fields, problems),
            retire: retire(&fields, problems),
            links_per_peer: links_per_peer(&fields, problems),
        };
        let ends = LinkEnds::read(&fields, (&keys::DMZ_LISTEN, &keys::DMZ_CONNECT), demo, problems);
        Some(Self { ends, pool })
    }
}

impl InternalLink {
    pub fn read(
        field: &ValueReader<'_>,
        demo: Option<&LinkTls>,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let fields = field.map(&keys::INTERNAL_LINK, problems)?;
        let maximum = keys::MAXIMUM.read(&fields, problems);
        let prepared = fields.take(&keys::INTERNAL_PREPARED).and_then(|field| {
            let number = keys::INTERNAL_PREPARED.read_field(&field, problems)?;
            let fault = || {
                let what = format!("{number} prepared links are more than all links, {maximum}");
                ValueProblem::new(what, "lower `prepared`, or raise `maximum`")
            };
            if number > maximum { field.refuse(fault(), problems) } else { Some(number) }
        });
        let retry = fields.take(&keys::RETRY_KEY).and_then(|field| retry(&field, problems));
        let ends = LinkEnds::read(&fields, (&keys::INTERNAL_LISTEN, &keys::INTERNAL_CONNECT), demo, problems);
        if let Some(listen) = ends.listen.good().filter(|listen| listen.value.at.passed_name().is_some()) {
            let what = "the internal half takes no socket that is passed in";
            problems.push(ValueProblem::new(what, "write HOST:PORT").at(listen.location.clone()));
        }
        Some(Self {
            ends,
            // A small maximum alone does not contradict it: the default gives way.
            prepared: prepared.unwrap_or(defaults::INTERNAL_PREPARED.min(maximum)),
            maximum,
            retire: retire(&fields, problems),
            sessions_per_link: keys::SESSIONS_PER_LINK.read(&fields, problems),
            retry: retry
                .unwrap_or(RetryPolicy { first: defaults::RETRY_FIRST, maximum: defaults::RETRY_MAXIMUM }),
        })
    }
}

impl LinkEnds {
    fn read(
        link: &MapReader<'_>,
        (listen, connect): (&dyn AnyKey, &dyn AnyKey),
        demo: Option<&LinkTls>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut bind = BindPolicy::default();
        let mut listen = ReadValue::read(link.take(listen), |field| {
            let parse = |text: &str| LinkAddress::parse(text, PortUse::Listening);
            let (address, options) =
                address(&field, &keys::LINK_LISTEN, &keys::LINK_ADDRESS_KEY, parse, problems)?;
            bind = raw::bind(options.as_ref(), problems)?;
            Some(address)
        });
        let mut connect = ReadValue::read(link.take(connect), |field| link_addresses(&field, problems));
        let via = via::read(link, problems);
        if let (ReadValue::Good(connect), ReadValue::Good(via)) = (&mut connect, via) {
            let via = Arc::new(via);
            connect.iter_mut().for_each(|address| address.value.via = Some(via.clone()));
        }
        let mut tls = match (link.take(&keys::LINK_TLS_KEY), demo) {
            (None, Some(demo)) => ReadValue::Good(demo.clone()),
            (field, _) => ReadValue::read(field, |field| link_tls(&field, problems)),
        };
        if let ReadValue::Good(listen) = &mut listen {
            listen.value.follow_tls(!tls.is_absent());
        }
        if let ReadValue::Good(connect) = &mut connect {
            connect.iter_mut().for_each(|address| address.value.follow_tls(!tls.is_absent()));
        }
        if let ReadValue::Good(outer) = OuterOptions::read(link, problems) {
            outer.apply(&mut listen, &mut connect, problems);
        }
        post_quantum(link, &mut tls, problems);
        let insecure = keys::INSECURE.read(link, problems);
        let ends = Self { location: link.location.clone(), listen, bind, connect, tls };
        if !insecure {
            ends.refuse_plain(problems);
        }
        ends.require_tls_options(problems);
        ends
    }

    /// Both addresses, whichever of them the mode uses.
    pub fn addresses(&self) -> impl Iterator<Item = &Located<LinkAddress>> {
        self.listen.good().into_iter().chain(self.connect.good().into_iter().flatten())
    }

    /// Refuses links without TLS, except those that nobody else can listen to.
    fn refuse_plain(&self, problems: &mut Vec<Problem>) {
        let plain = |address: &&Located<LinkAddress>| !address.value.tls && !address.value.at.is_loopback();
        let fault = |address: &Located<LinkAddress>| {
            let advice = match address.value.web_socket() {
                None => "use `socks+tls`, a loopback address, or say `insecure: true` under `link`",
                Some(_) => {
                    "write `tls: { certificate: FILE, key: FILE, ca: FILE, peers: [NAME] }`: the outer TLS \
                     proves nothing of the other gateway; or use a loopback address, or say `insecure: true`"
                }
            };
            ValueProblem::new("a link without TLS leaves this machine", advice).at(address.location.clone())
        };
        problems.extend(self.addresses().filter(plain).map(fault));
    }

    /// An address with TLS needs certificates.
    fn require_tls_options(&self, problems: &mut Vec<Problem>) {
        let needing = self.addresses().find(|address| address.value.tls);
        if let (Some(address), ReadValue::Absent) = (needing, &self.tls) {
            let fault = ValueProblem::new(
                format!("`{}` needs `tls`, and the link has none", address.value),
                "write `tls: { certificate: FILE, key: FILE, ca: FILE, peers: [NAME] }`",
            );
            let key = format!("{}.tls", self.location.key);
            problems.push(fault.at(ProfileLocation { key, ..self.location.clone() }));
        }
    }
}

fn link_addresses(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Vec<Located<LinkAddress>>> {
    let items = field.one_or_many(defaults::GATEWAYS_MAX, problems)?;
    let before = problems.len();
    let mut read = |item| link_address(item, problems);
    let addresses = items.iter().filter_map(&mut read).collect();
    let addresses = distinct(addresses, LinkAddress::place_in_network, problems);
    (problems.len() == before).then_some(addresses)
}

fn link_address(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Located<LinkAddress>> {
    let parse = |text: &str| LinkAddress::parse(text, PortUse::Dialled);
    let (mut address, options) =
        address(field, &keys::LINK_ADDRESS, &keys::LINK_ADDRESS_KEY, parse, problems)?;
    if let Some(options) = options {
        address.value.gateways = gateways::read(&options, &address.value, problems)?;
        if let Some(field) = options.take(&keys::SOURCE) {
            address.value.source = Some(source::read(&field, Some(&address.value.at), problems)?);
        }
    }
    Some(address)
}

fn link_tls(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<LinkTls> {
    let fields = field.map(&keys::LINK_TLS, problems)?;
    let mut file = |key: &dyn AnyKey, about: &str| match fields.take(key) {
        Some(field) => material(&field, problems),
        None => {
            fields.report_missing(key, format!("write the file with {about}"), problems);
            None
        }
    };
    let certificate = file(&keys::LINK_CERTIFICATE, "this half's certificate");
    let key = file(&keys::LINK_KEY, "the certificate's private key");
    let ca = file(&keys::LINK_CA, "the authority that peers' certificates come from");
    let peers = match fields.take(&keys::LINK_PEERS) {
        Some(field) => field.names(defaults::PEERS_MAX, problems),
        None => {
            fields.report_missing(
                &keys::LINK_PEERS,
                "write the names that peers' certificates may carry",
                problems,
            );
            None
        }
    };
    let revoked = revoked::read(&fields, problems);
    let peers = peers?.into_iter().map(|peer| peer.value).collect();
    let key_exchange = KeyExchangePolicy::default();
    Some(LinkTls { certificate: certificate?, key: key?, ca: ca?, peers, revoked: revoked?, key_exchange })
}

/// Sets in `tls` which key exchanges the link allows.
fn post_quantum(link: &MapReader<'_>, tls: &mut ReadValue<LinkTls>, problems: &mut Vec<Problem>) {
    let Some(field) = link.take(&keys::POST_QUANTUM) else { return };
    let policy = keys::POST_QUANTUM.read_field(&field, problems);
    match tls {
        ReadValue::Good(tls) => tls.key_exchange = policy.unwrap_or_default(),
        ReadValue::Bad => {}
        ReadValue::Absent => {
            let fault =
                ValueProblem::new("a link without `tls` exchanges no keys", "write `tls`, or remove it");
            problems.push(fault.at(field.location()));
        }
    }
}

/// A file, relative to the folder of the profile that names it.
pub(super) fn material(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<PemSource> {
    named_file(field, "write the name of a PEM file", problems)
}

/// A file that is loaded with the certificates.
pub(super) fn named_file(
    field: &ValueReader<'_>,
    advice: &str,
    problems: &mut Vec<Problem>,
) -> Option<PemSource> {
    let text = field.text(problems)?;
    if text.is_empty() || text.contains('\0') {
        let what = format!("`{}` is not a file's name", quote_for_problem(text));
        return field.refuse(ValueProblem::new(what, advice), problems);
    }
    let path = field.node.position.source.folder.join(text);
    Some(PemSource::File { path, location: field.location() })
}

fn links_per_peer(link: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<usize> {
    let field = link.take(&keys::LINKS_PER_PEER)?;
    let before = problems.len();
    let fields = field.map(&keys::PEER_LINKS, problems)?;
    let links = keys::PEER_LINKS_MAX.read(&fields, problems);
    if links.is_none() && problems.len() == before {
        return field.refuse(ValueProblem::new("nothing is bounded here", "write `links: 64`"), problems);
    }
    links
}

fn retire(link: &MapReader<'_>, problems: &mut Vec<Problem>) -> Duration {
    let read = link.take(&keys::RETIRE).and_then(|field| {
        let age = keys::RETIRE.read_field(&field, problems)?;
        if defaults::RETIRE_RANGE.contains(&age) {
            return Some(age);
        }
        let [least, most] = [defaults::RETIRE_RANGE.start(), defaults::RETIRE_RANGE.end()]
            .map(|bound| duration::format_duration(*bound));
        let what = format!("{} is not from {least} to {most}", duration::format_duration(age));
        field.refuse(ValueProblem::new(what, format!("write an age from {least} to {most}")), problems)
    });
    read.unwrap_or(defaults::RETIRE)
}

fn retry(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<RetryPolicy> {
    let fields = field.map(&keys::RETRY, problems)?;
    let first = keys::RETRY_FIRST.read(&fields, problems);
    // A longer first pause alone does not contradict it: the default gives way.
    let maximum_default = defaults::RETRY_MAXIMUM.max(first);
    let maximum = fields.take(&keys::RETRY_MAXIMUM);
    let limit = maximum.as_ref().and_then(|field| keys::RETRY_MAXIMUM.read_field(field, problems));
    let limit = limit.unwrap_or(maximum_default);
    if limit < first {
        let what = format!(
            "{} is shorter than `first`, {}",
            duration::format_duration(limit),
            duration::format_duration(first)
        );
        let location = maximum.map_or_else(|| field.location(), |field| field.location());
        problems.push(ValueProblem::new(what, "raise it, or lower `first`").at(location));
    }
    Some(RetryPolicy { first, maximum: limit })
}
