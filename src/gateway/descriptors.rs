//! Divides the file descriptors of the process: a share for clients, one for links, and a reserve for the
//! admin socket and files, so that no use can starve another.

use rustix::process::{Resource, getrlimit};

use crate::{
    link::pool::LINKS_MAX,
    monitor,
    profile::{DmzMode, InternalMode, Profile},
    telemetry::snapshot::DescriptorUsage,
};

/// The reserve: an eighth, within these bounds. A status takes two, a reload a few more.
const KEPT_BACK: std::ops::RangeInclusive<usize> = 4..=125;
/// A handshake costs up to some 10 KiB of memory, and lasts for 5 s at most.
const HANDSHAKES_MAX: usize = 16_384;

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
    /// The same for the internal half, which needs a backend connection for each link.
    pub internal_links: usize,
    pub internal_handshakes: usize,
}

impl DescriptorBudget {
    /// To be called before the first port is opened.
    pub fn measure() -> Self {
        let DescriptorUsage { used, limit } = usage_now();
        let bounded = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Self { limit: bounded(limit), open: bounded(used) }
    }

    /// Divides what remains after the profile's own ports.
    pub fn divide(&self, profile: &Profile) -> DescriptorShares {
        let ports = count_ports(profile);
        let left = self.limit.saturating_sub(self.open + ports);
        // Each port holds one that it has accepted before there is a place for it.
        let kept_back = (left / 8).clamp(*KEPT_BACK.start(), *KEPT_BACK.end()) + ports;
        let halves = usize::from(profile.dmz.is_some()) + usize::from(profile.internal.is_some());
        let of_half = left.saturating_sub(kept_back) / halves.max(1);
        let mut shares = DescriptorShares::default();
        if let Some(half) = &profile.dmz {
            // Half for clients; for the other half of a session a link, or in direct mode a back-end.
            shares.clients = of_half.div_ceil(2).max(1);
            shares.client_handshakes = bounded_handshakes(shares.clients / 2);
            let links = of_half.saturating_sub(shares.clients);
            if let DmzMode::Reverse { .. } = half.way {
                shares.dmz_handshakes = bounded_handshakes(links / 4);
            }
            shares.dmz_links = links.saturating_sub(shares.dmz_handshakes).clamp(1, LINKS_MAX);
        }
        if let Some(half) = &profile.internal {
            if let InternalMode::Forward { .. } = half.way {
                shares.internal_handshakes = bounded_handshakes(of_half / 8);
            }
            let links = of_half.saturating_sub(shares.internal_handshakes) / 2;
            shares.internal_links = links.clamp(1, half.maximum);
        }
        shares
    }

    /// What in the profile does not fit the limit, as one line for the operator.
    pub fn describe_shortage(&self, profile: &Profile) -> Option<String> {
        let shares = self.divide(profile);
        let mut short = Vec::new();
        let mut wanted = 0;
        if let Some(half) = &profile.dmz {
            let sessions = half.services.iter().map(|service| service.sessions).sum::<usize>();
            let is_direct = matches!(half.way, DmzMode::Direct(_));
            let links = if is_direct { shares.clients } else { shares.dmz_links };
            let room = shares.clients.min(links);
            if room < sessions.min(LINKS_MAX) {
                short.push(format!("{room} of the {sessions} sessions that all `sessions` allow together"));
            }
            wanted += if is_direct { 2 * sessions } else { sessions * 8 / 3 };
        }
        if let Some(half) = &profile.internal {
            if shares.internal_links < half.maximum {
                short.push(format!("{} of {} links (`maximum`)", shares.internal_links, half.maximum));
            }
            wanted += half.maximum * 5 / 2;
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
    let of_dmz = profile.dmz.as_ref().is_some_and(|half| matches!(half.way, DmzMode::Reverse { .. }));
    let of_internal =
        profile.internal.as_ref().is_some_and(|half| matches!(half.way, InternalMode::Forward { .. }));
    let of_monitors = profile.health.address().map_or(0, |_| monitor::DESCRIPTORS_MAX);
    of_clients.sum::<usize>() + usize::from(of_dmz) + usize::from(of_internal) + of_monitors
}

/// Open files against the soft limit.
pub fn usage_now() -> DescriptorUsage {
    let limit = getrlimit(Resource::Nofile).current;
    // But for the one that lists them.
    let count = |entries: std::fs::ReadDir| (entries.count() as u64).saturating_sub(1);
    let used = std::fs::read_dir("/proc/self/fd").map_or(0, count);
    DescriptorUsage { used, limit: limit.unwrap_or(u64::MAX) }
}
