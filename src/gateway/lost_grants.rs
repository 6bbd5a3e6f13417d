//! Open sessions whose peer may no longer carry their service under a new profile. They go on, as all open
//! sessions do; only a revocation, a lockdown or a kill cuts. The plan of a switch names them, and so does the
//! answer of the switch or reload.

use super::Engine;
use crate::{
    profile::{DmzMode, Half, InternalMode, LinkTls, Profile, ServiceName},
    proto::certificate::is_same_name,
    telemetry::format,
};

impl Engine {
    /// A line for each service and peer: how many sessions go on, and what ends them.
    pub(super) fn lost_grants(&self, profile: &Profile) -> Vec<String> {
        let mut lines = Vec::new();
        for ((half, service, peer), sessions) in self.shared.sessions.registry.open_by_peer() {
            let Some(allowed) = allowed_peers(profile, half, &service) else { continue };
            let may = |list: &[String]| list.iter().any(|name| is_same_name(name, &peer));
            if allowed.iter().all(|list| may(list)) {
                continue;
            }
            let does = match half {
                Half::Dmz => "serve",
                Half::Internal => "use",
            };
            let (open, go) =
                (format::count(sessions as u64, "open session"), if sessions == 1 { "goes" } else { "go" });
            lines.push(format!(
                "{service}: {open} of {peer} {go} on, though it may no longer {does} it; \
                 `kill --peer {peer} --service {service}` ends them"
            ));
        }
        lines
    }
}

/// The lists that must hold a peer's name: its link's and its service's. `None` if the profile has no links for
/// this service.
fn allowed_peers<'a>(profile: &'a Profile, half: Half, service: &ServiceName) -> Option<Vec<&'a [String]>> {
    let (tls, own): (Option<&LinkTls>, Option<&Vec<String>>) = match half {
        Half::Dmz => {
            let half = profile.dmz.as_ref()?;
            let tls = match &half.mode {
                DmzMode::Direct(_) => return None,
                DmzMode::Forward { tls, .. } | DmzMode::Reverse { tls, .. } => tls.as_ref(),
            };
            (tls, half.services.iter().find(|of| of.name == *service)?.peers.as_ref())
        }
        Half::Internal => {
            let half = profile.internal.as_ref()?;
            let (InternalMode::Forward { tls, .. } | InternalMode::Reverse { tls, .. }) = &half.mode;
            (tls.as_ref(), half.services.iter().find(|of| of.name == *service)?.peers.as_ref())
        }
    };
    let of_link = tls.map(|tls| tls.peers.as_slice());
    Some(of_link.into_iter().chain(own.map(Vec::as_slice)).collect())
}
