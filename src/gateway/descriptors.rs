//! Divides the file descriptors of the process: a share for clients, one for links, and a reserve for the admin socket
//! and files, so that no use can starve another. A share is a bound and no reservation: what one use leaves is not
//! lent to another.

use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::{
    link::pool::LINKS_MAX,
    monitor,
    profile::{DmzMode, Half, InternalMode, Profile},
    proto::socks5,
    telemetry::snapshot::{DescriptorUsage, PoolRow},
};

/// The open files of this process.
const OPEN_FILES: &str = "/proc/self/fd";

/// The reserve: an eighth, within these bounds. A status takes two, a reload a few more.
const KEPT_BACK: std::ops::RangeInclusive<usize> = 4..=125;
/// A handshake costs up to some 10 KiB of memory, and lasts for 5 s at most.
const HANDSHAKES_MAX: usize = 16_384;

/// This many links are enough for many sessions, where sessions share links.
const SHARED_LINKS_ENOUGH: usize = 16;

/// The descriptor limit and the open descriptors when the process started.
#[derive(Debug, Clone, Copy)]
pub struct DescriptorBudget {
    limit: usize,
    open: usize,
}

/// How many descriptors each use may have at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DescriptorShares {
    /// All clients, and how many of them may still be in their handshake.
    pub clients: usize,
    pub client_handshakes: usize,
    /// Links of the DMZ half, and further ones that are still in their handshake.
    pub dmz_links: usize,
    pub dmz_handshakes: usize,
    /// The internal half's links, their handshakes, and its connections to backends.
    pub internal_links: usize,
    pub internal_handshakes: usize,
    pub backends: usize,
}

/// Whether the links of a half carry one session each, as over SOCKS5, or are shared by sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OneSessionLinks {
    pub dmz: bool,
    pub internal: bool,
}

impl OneSessionLinks {
    /// As far as existing links show, or those that existed last.
    pub fn seen_in(pools: &[PoolRow]) -> Self {
        let uses_socks =
            |row: &&PoolRow| row.protocol.as_deref() == Some(socks5::PROTOCOL_NAME) && !row.is_gone();
        let any = |half| pools.iter().filter(uses_socks).any(|row| row.half == half);
        Self { dmz: any(Half::Dmz), internal: any(Half::Internal) }
    }

    /// Adds what the profile says: a plain link can only speak SOCKS5.
    fn with_plain(self, profile: &Profile) -> Self {
        let dmz_is_plain = profile.dmz.as_ref().is_some_and(|half| half.link_tls().is_none());
        let internal_is_plain = profile.internal.as_ref().is_some_and(|half| half.link_tls().is_none());
        Self { dmz: self.dmz || dmz_is_plain, internal: self.internal || internal_is_plain }
    }
}

/// The shares of one half.
struct HalfShares {
    /// Clients or backends: one for each session.
    ends: usize,
    links: usize,
    handshakes: usize,
}

/// How many sessions one link of a half carries; in direct mode, one connection to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionsPerLink {
    One,
    Many,
}

/// Who opens the links of a half: only those that come in need handshakes that others begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkOrigin {
    Dialled,
    Accepted,
}

fn divide_half(of_half: usize, sessions: SessionsPerLink, links: LinkOrigin) -> HalfShares {
    let handshakes = |whole: usize| match links {
        LinkOrigin::Dialled => 0,
        LinkOrigin::Accepted => bounded_handshakes(whole),
    };
    if sessions == SessionsPerLink::One {
        // A session whose client got in needs a link, which this half may have to dial for it.
        let ends = match links {
            LinkOrigin::Dialled => of_half / 2,
            LinkOrigin::Accepted => of_half.div_ceil(2),
        };
        let ends = ends.max(1);
        let links = of_half.saturating_sub(ends);
        let handshakes = handshakes(links / 4);
        return HalfShares { ends, links: links.saturating_sub(handshakes).max(1), handshakes };
    }
    // Many sessions share few links; where descriptors are scarce, a quarter has to be enough.
    let links = (of_half / 32).max(SHARED_LINKS_ENOUGH.min(of_half / 4)).max(1);
    let handshakes = handshakes(of_half / 32);
    HalfShares { ends: of_half.saturating_sub(links + handshakes).max(1), links, handshakes }
}

fn sessions_per_link(uses_socks: bool) -> SessionsPerLink {
    if uses_socks { SessionsPerLink::One } else { SessionsPerLink::Many }
}

impl DescriptorBudget {
    /// Must be called before the first port is opened.
    pub fn measure() -> Self {
        let DescriptorUsage { used, limit } = usage_now();
        let bounded = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self { limit: bounded(limit), open: bounded(used) }
    }

    /// Takes up a limit that was changed from outside, as by prlimit(1). Returns the one before.
    pub fn follow_limit(&mut self) -> Option<usize> {
        self.take_up(limit_now().try_into().unwrap_or(usize::MAX))
    }

    fn take_up(&mut self, limit: usize) -> Option<usize> {
        let before = std::mem::replace(&mut self.limit, limit);
        (before != limit).then_some(before)
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Divides what remains after the profile's own ports.
    pub fn divide(&self, profile: &Profile, seen: OneSessionLinks) -> DescriptorShares {
        let seen = seen.with_plain(profile);
        let ports = count_ports(profile);
        let left = self.limit.saturating_sub(self.open + ports);
        // Each port holds one socket that it has accepted before there is a permit for it.
        let kept_back = (left / 8).clamp(*KEPT_BACK.start(), *KEPT_BACK.end()) + ports;
        let halves = usize::from(profile.dmz.is_some()) + usize::from(profile.internal.is_some());
        let of_half = left.saturating_sub(kept_back) / halves.max(1);
        let mut shares = DescriptorShares::default();
        if let Some(half) = &profile.dmz {
            // In direct mode each session has a connection to a backend of its own.
            let (each, links) = match half.mode {
                DmzMode::Direct(_) => (SessionsPerLink::One, LinkOrigin::Dialled),
                DmzMode::Forward { .. } => (sessions_per_link(seen.dmz), LinkOrigin::Dialled),
                DmzMode::Reverse { .. } => (sessions_per_link(seen.dmz), LinkOrigin::Accepted),
            };
            let of = divide_half(of_half, each, links);
            (shares.clients, shares.dmz_links, shares.dmz_handshakes) =
                (of.ends, of.links.min(LINKS_MAX), of.handshakes);
            shares.client_handshakes = bounded_handshakes(shares.clients / 2);
        }
        if let Some(half) = &profile.internal {
            let links = match half.mode {
                InternalMode::Forward { .. } => LinkOrigin::Accepted,
                InternalMode::Reverse { .. } => LinkOrigin::Dialled,
            };
            let of = divide_half(of_half, sessions_per_link(seen.internal), links);
            (shares.backends, shares.internal_links, shares.internal_handshakes) =
                (of.ends, of.links.clamp(1, half.maximum), of.handshakes);
        }
        shares
    }

    /// What in the profile does not fit the limit, as one line for the operator.
    pub fn describe_shortage(&self, profile: &Profile, seen: OneSessionLinks) -> Option<String> {
        let shares = self.divide(profile, seen);
        let seen = seen.with_plain(profile);
        let mut short = Vec::new();
        let mut wanted = 0;
        if let Some(half) = &profile.dmz {
            let sessions = half.services.iter().map(|service| service.sessions).sum::<usize>();
            let is_direct = matches!(half.mode, DmzMode::Direct(_));
            let space =
                if seen.dmz && !is_direct { shares.clients.min(shares.dmz_links) } else { shares.clients };
            if space < sessions.min(LINKS_MAX) {
                short.push(format!("{space} of the {sessions} sessions that all `sessions` allow together"));
            }
            wanted += match (is_direct, seen.dmz) {
                (true, _) => 2 * sessions,
                (false, true) => sessions * 8 / 3,
                (false, false) => sessions * 8 / 7 + SHARED_LINKS_ENOUGH,
            };
        }
        if let Some(half) = &profile.internal {
            let links = match (&half.mode, seen.internal) {
                (InternalMode::Reverse { connect, prepared, .. }, false) => {
                    half.maximum.min(connect.len().saturating_mul(*prepared))
                }
                (InternalMode::Forward { .. }, false) => half.maximum.min(SHARED_LINKS_ENOUGH),
                (_, true) => half.maximum,
            };
            if shares.internal_links < links {
                short.push(format!("{} of {links} links", shares.internal_links));
            }
            wanted += if seen.internal { links * 5 / 2 } else { links * 16 };
        }
        let wanted = self.open + 2 * count_ports(profile) + KEPT_BACK.end() + wanted;
        (!short.is_empty()).then(|| {
            format!(
                "the limit of {} open files has room for {}; raise it to {} (LimitNOFILE, ulimit -n), or lower these",
                self.limit,
                short.join(" and "),
                wanted.next_multiple_of(1024)
            )
        })
    }
}

fn bounded_handshakes(number: usize) -> usize {
    number.clamp(1, HANDSHAKES_MAX)
}

/// The most ports that a profile can open.
fn count_ports(profile: &Profile) -> usize {
    let of_clients = profile.dmz.iter().flat_map(|half| &half.services).map(|service| service.accept.len());
    let of_dmz = profile.dmz.as_ref().is_some_and(|half| matches!(half.mode, DmzMode::Reverse { .. }));
    let of_internal =
        profile.internal.as_ref().is_some_and(|half| matches!(half.mode, InternalMode::Forward { .. }));
    let of_monitors = profile.health.address().map_or(0, |_| monitor::DESCRIPTORS_MAX);
    of_clients.sum::<usize>() + usize::from(of_dmz) + usize::from(of_internal) + of_monitors
}

/// The number of open files, and the soft limit.
pub fn usage_now() -> DescriptorUsage {
    let used = open_count_of_kernel(OPEN_FILES).unwrap_or_else(count_listed);
    DescriptorUsage { used, limit: limit_now() }
}

fn limit_now() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Since 6.2 the number is the length of the folder. Listing thousands takes milliseconds.
fn open_count_of_kernel(folder: &str) -> Option<u64> {
    fs::metadata(folder).ok().map(|folder| folder.len()).filter(|number| *number > 0)
}

fn count_listed() -> u64 {
    // The descriptor that lists them does not count.
    let count = |entries: fs::ReadDir| (entries.count() as u64).saturating_sub(1);
    fs::read_dir(OPEN_FILES).map_or(0, count)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        path::Path,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::profile::{ProfileOverrides, parse};

    const OPEN: usize = 20;
    const LIMITS: [usize; 8] = [64, 80, 128, 256, 1024, 4096, 65_536, 1_048_576];

    /// Each half in each mode, with links that sessions share and with those that carry one each.
    fn profiles() -> Vec<(String, Profile)> {
        let tls = |half: &str, peer: &str| {
            format!("tls: {{ certificate: {half}.pem, key: {half}.key, ca: ca.pem, peers: [{peer}] }}")
        };
        let services =
            "services: { echo: { accept: 'tcp://127.0.0.1:7000' }, web: { accept: 'tcp://127.0.0.1:7001' } }";
        let inside = "services: { echo: { connect: 'echo://' }, web: { connect: 'echo://' } }";
        let mut texts = vec![(
            "direct".to_owned(),
            format!("mode: direct\ndmz:\n  {}\n", services.replace("' }", "', connect: 'echo://' }")),
        )];
        for mode in ["forward", "reverse"] {
            for scheme in ["socks", "socks+tls"] {
                for half in ["dmz", "internal"] {
                    let peer = if half == "dmz" { "internal" } else { "dmz" };
                    let listens = (half == "dmz") == (mode == "reverse");
                    let verb = if listens { "listen" } else { "connect" };
                    let tls = if scheme == "socks" { "insecure: true".to_owned() } else { tls(half, peer) };
                    let services = if half == "dmz" { services } else { inside };
                    texts.push((
                        format!("{mode}, {half}, {scheme}"),
                        format!(
                            "mode: {mode}\n{half}:\n  link: {{ {verb}: '{scheme}://127.0.0.1:7002', {tls} }}\n  {services}\n"
                        ),
                    ));
                }
            }
        }
        let parsed = texts.into_iter().map(|(what, text)| {
            let profile = parse(&text, Path::new("p.yaml"), &ProfileOverrides::default());
            let profile = profile.unwrap_or_else(|problems| panic!("{what}: {problems:?}"));
            (what, profile)
        });
        parsed.collect()
    }

    #[test]
    fn every_use_has_a_share_and_all_of_them_leave_a_reserve() {
        for (what, profile) in profiles() {
            for limit in LIMITS {
                let budget = DescriptorBudget { limit, open: OPEN };
                let of = budget.divide(&profile, OneSessionLinks::default());
                let dmz = [of.clients, of.client_handshakes, of.dmz_links];
                let internal = [of.backends, of.internal_links];
                let (used, unused) = match profile.dmz.is_some() {
                    true => (&dmz[..], &internal[..]),
                    false => (&internal[..], &dmz[..]),
                };
                assert!(used.iter().all(|share| *share > 0), "{what}, {limit}: {of:?}");
                assert!(unused.iter().all(|share| *share == 0), "{what}, {limit}: {of:?}");
                assert!(of.client_handshakes <= of.clients.div_ceil(2), "{what}, {limit}: {of:?}");
                // Those of clients are included.
                let all = of.clients
                    + of.dmz_links
                    + of.dmz_handshakes
                    + of.internal_links
                    + of.internal_handshakes
                    + of.backends;
                let left = limit - OPEN - 2 * count_ports(&profile);
                assert!(all + KEPT_BACK.start() <= left, "{what}, {limit}: {all} of {left}, {of:?}");
            }
        }
    }

    #[test]
    fn a_changed_limit_is_divided_again_and_one_that_stays_is_not() {
        let (_, profile) = profiles().remove(0);
        let mut budget = DescriptorBudget { limit: 1024, open: OPEN };
        let clients = |budget: &DescriptorBudget| budget.divide(&profile, OneSessionLinks::default()).clients;
        let before = clients(&budget);
        assert_eq!(budget.take_up(1024), None);
        assert_eq!((budget.take_up(64), budget.limit()), (Some(1024), 64));
        let fallen = clients(&budget);
        assert!(fallen < before / 10, "{fallen} of {before}");
        assert_eq!((budget.take_up(1024), clients(&budget)), (Some(64), before));
    }

    #[test]
    fn each_client_that_gets_in_may_have_a_link_dialled_for_it() {
        let (_, profile) =
            profiles().into_iter().find(|(what, _)| what == "forward, dmz, socks").expect("it is among them");
        for limit in 40..80 {
            let of = DescriptorBudget { limit, open: OPEN }.divide(&profile, OneSessionLinks::default());
            assert!(of.clients <= of.dmz_links, "{limit}: {of:?}");
        }
    }

    #[test]
    fn the_kernel_reports_the_number_of_open_files() {
        let piped = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process = piped.expect("cat runs");
        let (mut input, mut output) =
            (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        input.write_all(b"x").expect("it reads");
        output.read_exact(&mut [0]).expect("it has begun, and has opened what it needs");
        let folder = format!("/proc/{}/fd", process.id());
        let listed = fs::read_dir(&folder).expect("it runs").count() as u64;
        assert!(listed >= 3);
        // An older kernel does not tell.
        assert_eq!(open_count_of_kernel(&folder).unwrap_or(listed), listed);
        drop(input);
        process.wait().expect("it ends");
    }

    #[test]
    fn a_low_descriptor_limit_is_reported_and_the_advised_one_suffices() {
        let mut short = Vec::new();
        for (what, profile) in profiles() {
            let budget = |limit: usize| DescriptorBudget { limit, open: OPEN };
            let shortage = |limit| budget(limit).describe_shortage(&profile, OneSessionLinks::default());
            let Some(reported) = shortage(64) else { continue };
            assert!(reported.starts_with("the limit of 64 open files has room for "), "{what}: {reported}");
            let advised = reported.split("raise it to ").nth(1).and_then(|rest| rest.split(' ').next());
            let advised = advised.and_then(|number| number.parse().ok()).expect("a number");
            assert_eq!(shortage(advised), None, "{what}: {reported}");
            short.push(what);
        }
        // The half dials a few links that many sessions share, for which 64 are enough.
        assert_eq!(short.len(), 8, "{short:?}");
    }
}
