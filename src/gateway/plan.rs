//! The plan of a switch, worked out before anything is opened. It is shown to the operator, and the switch
//! then follows the same plan.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    Engine,
    link_changes::link_changes,
    ports,
    service_changes::{self, ServiceChange},
};
use crate::{
    confine::{LockRefusal, folders::FolderLock},
    profile::{DmzMode, Half, HostPort, InternalMode, Mode, Problem, Profile},
    source::LoadedProfile,
    telemetry::{audit::AuditFileInUse, format},
};

/// The plan of a switch from the running profile to another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchPlan {
    /// As the operator named it: a name or a file.
    pub profile: String,
    pub from: String,
    pub from_mode: Mode,
    pub to: String,
    pub to_mode: Mode,
    pub dmz: HalfChange,
    pub internal: HalfChange,
    /// The services that change.
    #[serde(default)]
    pub services: Vec<ServiceChange>,
    /// New limits that are already exceeded: there are no new sessions until enough have ended.
    #[serde(default)]
    pub over: Vec<String>,
    /// Open sessions whose peer may no longer carry their service, and which go on.
    #[serde(default)]
    pub lost_grants: Vec<String>,
    /// Peers and clients that are connected, and that it would not let in again; and services that it closes.
    #[serde(default)]
    pub loses: Vec<String>,
    /// Listeners, for clients and for links.
    pub opens: Vec<String>,
    /// Closed as soon as new sessions use the new parts.
    pub closes: Vec<String>,
    /// How links are established under the new profile, and what changes for them.
    pub links: Vec<String>,
    /// Ready links of the old parts, retired a moment later.
    pub retires: usize,
    /// Open sessions that are not affected.
    pub stay: usize,
    /// Sessions of services that the profile lacks: they have `drain` to end.
    pub end: Vec<EndingSessions>,
    /// What it does to the lock of this process, or why the lock forbids it.
    #[serde(default)]
    pub lock: Option<String>,
    /// Whether the switch would be refused for the lock.
    #[serde(default)]
    pub outlook: SwitchVerdict,
}

/// Whether a switch requested now would be refused by this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SwitchVerdict {
    #[default]
    Possible,
    Refused,
}

/// Open sessions of a service that the profile lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndingSessions {
    pub service: String,
    pub sessions: usize,
    pub drain_seconds: u64,
}

/// The change that a switch makes to one half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HalfChange {
    /// It does not run, before or after.
    None,
    /// It keeps running, with the settings of the new profile.
    Stays,
    Opens,
    /// A new one opens beside it, then the old one closes.
    Replaced,
    Closes,
}

impl HalfChange {
    pub(super) fn between<R, W>(
        running: Option<&R>,
        wanted: Option<&W>,
        fits: impl Fn(&R, &W) -> bool,
    ) -> Self {
        match (running, wanted) {
            (None, None) => Self::None,
            (None, Some(_)) => Self::Opens,
            (Some(_), None) => Self::Closes,
            (Some(running), Some(wanted)) if fits(running, wanted) => Self::Stays,
            (Some(_), Some(_)) => Self::Replaced,
        }
    }

    pub fn opens(self) -> bool {
        matches!(self, Self::Opens | Self::Replaced)
    }

    pub fn closes(self) -> bool {
        matches!(self, Self::Closes | Self::Replaced)
    }
}

impl SwitchPlan {
    /// Whether the internal half begins to dial instead of being dialled.
    pub fn reverses(&self) -> bool {
        self.to_mode == Mode::Reverse && self.from_mode != Mode::Reverse
    }

    fn has_both_halves(&self) -> bool {
        self.dmz != HalfChange::None && self.internal != HalfChange::None
    }
}

impl Engine {
    /// The plan, with what the certificates and files of the profile take from those who are connected.
    pub(super) fn plan_loaded(&self, loaded: &LoadedProfile) -> SwitchPlan {
        SwitchPlan { loses: self.lost_access(loaded), ..self.plan_switch(&loaded.profile) }
    }

    /// Compares what runs with what `profile` wants.
    fn plan_switch(&self, profile: &Profile) -> SwitchPlan {
        let dmz = HalfChange::between(self.dmz.as_ref(), profile.dmz.as_ref(), |side, half| side.fits(half));
        let internal =
            HalfChange::between(self.internal.as_ref(), profile.internal.as_ref(), |side, half| {
                side.fits(half)
            });
        let (mut opens, mut closes) = ports::port_changes(profile, &self.ports);
        let (mut links, mut retires) = (Vec::new(), 0);
        if dmz.opens() {
            match profile.dmz.as_ref().map(|half| &half.mode) {
                Some(DmzMode::Reverse { listen, .. }) => opens.push(format!("{listen} for links")),
                Some(DmzMode::Forward { connect, pool, .. }) => {
                    links.extend(connect.iter().map(|at| describe_dialling("dmz", pool.prepared, at)));
                }
                Some(DmzMode::Direct(_)) | None => {}
            }
        }
        if internal.opens() {
            match profile.internal.as_ref().map(|half| &half.mode) {
                Some(InternalMode::Forward { listen, .. }) => opens.push(format!("{listen} for links")),
                Some(InternalMode::Reverse { connect, prepared, .. }) => {
                    links.extend(connect.iter().map(|at| describe_dialling("internal", *prepared, at)));
                }
                None => {}
            }
        }
        if let Some(side) = self.dmz.as_ref().filter(|_| dmz.closes()) {
            closes.extend(side.listening().iter().map(|at| format!("{at} for links")));
            retires += side.rows().iter().map(|row| row.ready).sum::<usize>();
        } else if let Some(side) = self.internal.as_ref().filter(|_| internal.closes()) {
            // In a pair, both ends of each link are here, so they are counted once.
            retires += side.rows().iter().map(|row| row.ready).sum::<usize>();
        }
        if let Some(side) = self.internal.as_ref().filter(|_| internal.closes()) {
            closes.extend(side.listening().iter().map(|at| format!("{at} for links")));
        }
        let (opens_health, closes_health) = self.health_changes(profile);
        opens.extend(opens_health);
        closes.extend(closes_health);
        let (stay, end) = self.sessions_after_switch(profile);
        links.extend(link_changes(&self.profile, profile));
        let services = service_changes::compare_services(&self.profile, profile);
        let over = self.limits_exceeded(profile);
        let lost_grants = self.lost_grants(profile);
        SwitchPlan {
            profile: profile.name.clone(),
            from: self.profile.name.clone(),
            from_mode: self.profile.mode,
            to: profile.name.clone(),
            to_mode: profile.mode,
            dmz,
            internal,
            services,
            over,
            lost_grants,
            loses: Vec::new(),
            opens,
            closes,
            links,
            retires,
            stay,
            end,
            lock: match self.inherited.refusal(profile) {
                Some(why) => Some(format!("refused: {why}")),
                None => self.lock.forecast(profile),
            },
            outlook: match self.process_refusal(profile) {
                Some(_) => SwitchVerdict::Refused,
                None => SwitchVerdict::Possible,
            },
        }
    }

    /// The addresses that `profile` listens on and the running parts do not.
    pub(super) fn addresses_to_bind(&self, profile: &Profile) -> Vec<HostPort> {
        let plan = self.plan_switch(profile);
        let of_dmz = profile.dmz.as_ref().filter(|_| plan.dmz.opens()).and_then(|half| match &half.mode {
            DmzMode::Reverse { listen, .. } => Some(listen),
            DmzMode::Direct(_) | DmzMode::Forward { .. } => None,
        });
        let of_internal =
            profile.internal.as_ref().filter(|_| plan.internal.opens()).and_then(|half| match &half.mode {
                InternalMode::Forward { listen, .. } => Some(listen),
                InternalMode::Reverse { .. } => None,
            });
        // Links inside WebSockets come in at client ports.
        let bare = [of_dmz, of_internal].into_iter().flatten().filter(|listen| listen.web_socket().is_none());
        let of_clients = ports::missing_addresses(profile, &self.ports);
        let of_monitors = self.missing_health(profile).cloned();
        of_clients.into_iter().chain(bare.map(|listen| listen.at.clone())).chain(of_monitors).collect()
    }

    /// How many open sessions stay, and those that will have to end.
    fn sessions_after_switch(&self, profile: &Profile) -> (usize, Vec<EndingSessions>) {
        let first = self.first_half();
        let services = self.shared.sessions.services.load();
        let of_first = services.iter().filter(|((half, _), _)| *half == first);
        let (kept, lacking): (Vec<_>, Vec<_>) =
            of_first.partition(|((_, name), _)| profile.services().any(|kept| kept == name));
        let ending = lacking.iter().filter(|(_, service)| service.open_sessions() > 0);
        let mut end: Vec<_> = ending
            .map(|((_, name), service)| EndingSessions {
                service: name.to_string(),
                sessions: service.open_sessions(),
                drain_seconds: profile.drain.as_secs(),
            })
            .collect();
        end.sort_unstable_by(|one, other| one.service.cmp(&other.service));
        (kept.iter().map(|(_, service)| service.open_sessions()).sum(), end)
    }
}

fn half_word(half: Half) -> &'static str {
    match half {
        Half::Dmz => "dmz",
        Half::Internal => "internal",
    }
}

fn describe_dialling(half: &str, prepared: usize, at: &crate::profile::LinkAddress) -> String {
    format!("the {half} half dials {at} and keeps {prepared} ready")
}

impl fmt::Display for SwitchPlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, .. } = self;
        let (from_mode, to_mode) = (self.from_mode.label(), self.to_mode.label());
        writeln!(out, "from `{from}`, mode {from_mode}, to `{to}`, mode {to_mode}")?;
        let mut lines = |word: &str, lines: &[String]| {
            lines.iter().try_for_each(|line| writeln!(out, "  {word:<8} {line}"))
        };
        for change in &self.services {
            let ServiceChange { half, service, becomes, what } = change;
            let of = if self.has_both_halves() { format!(" ({})", half_word(*half)) } else { String::new() };
            let what = if what.is_empty() { String::new() } else { format!(": {}", what.join("; ")) };
            lines(becomes.verb(), &[format!("{service}{of}{what}")])?;
        }
        lines("over", &self.over)?;
        lines("opens", &self.opens)?;
        lines("closes", &self.closes)?;
        lines("links", &self.links)?;
        if self.retires > 0 {
            lines("retires", &[format!("{} ready links of the old mode", self.retires)])?;
        }
        if self.opens.is_empty() && self.closes.is_empty() && self.links.is_empty() {
            let also = if self.services.is_empty() { "; no service changes" } else { "" };
            lines("opens", &[format!("no port and no link, and closes none{also}")])?;
        }
        lines("lock", self.lock.as_slice())?;
        lines("stay", &[format::count(self.stay as u64, "open session")])?;
        lines("stay", &self.lost_grants)?;
        lines("loses", &self.loses)?;
        let ending = |end: &EndingSessions| {
            format!(
                "{} of `{}`, which the profile lacks, within {}s",
                end.sessions, end.service, end.drain_seconds
            )
        };
        match self.end.is_empty() {
            true => write!(out, "  {:<8} no session", "end"),
            false => {
                let all: Vec<_> = self.end.iter().map(ending).collect();
                write!(out, "  {:<8} {}", "end", all.join(", "))
            }
        }
    }
}

/// Why a profile cannot be switched to, found before anything is opened for it.
#[derive(Debug, thiserror::Error)]
pub enum SwitchRefusal {
    #[error("{}", problem_lines(.0))]
    Profile(Vec<Problem>),
    #[error(transparent)]
    Locked(#[from] LockRefusal),
    #[error(transparent)]
    Audit(#[from] AuditFileInUse),
}

impl SwitchRefusal {
    /// Must be called before a file is opened that could not be written.
    pub fn check_lock(folders: Option<&FolderLock>, profile: &Profile) -> Result<(), Self> {
        match folders.and_then(|folders| folders.refusal(profile)) {
            Some(why) => Err(why.into()),
            None => Ok(()),
        }
    }
}

impl From<Vec<Problem>> for SwitchRefusal {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Profile(problems)
    }
}

pub(super) fn problem_lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
