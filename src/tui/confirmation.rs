//! The questions before something is destroyed: they name the thing, and only `y` confirms. What happens after `y` is
//! a command like any other.

use crate::{
    gateway::{
        handle::{Command, LockdownTarget},
        plan::{SwitchPlan, SwitchVerdict},
    },
    telemetry::{
        registry::{KillSelection, ListedSessions},
        snapshot::CheckRow,
    },
    tui::{format, privacy::AddressMasking},
};

/// Kept by value: the row it is about may end while the question is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    Close {
        id: String,
        service: String,
        client: String,
    },
    /// All that passed the filter at the time of the question, or those of one client among them.
    CloseAll {
        sessions: Vec<String>,
        clients: usize,
        client: Option<String>,
        filter: String,
        /// Open sessions for which no list has room; they are not closed.
        not_listed: usize,
    },
    Drain {
        service: String,
        sessions_open: u64,
    },
    Lockdown {
        target: LockdownTarget,
        sessions_open: u64,
        links: u64,
    },
    Unlock {
        target: LockdownTarget,
    },
    Switch(Box<SwitchPlan>),
    /// Reversing when no forward check has passed since the gateway started.
    Unproven(Box<SwitchPlan>),
    Stop {
        sessions_open: u64,
    },
}

impl Confirmation {
    pub fn text(&self, addresses: AddressMasking) -> String {
        match self {
            Self::Close { id, service, client } => {
                format!("Close session {id} of {} to {service}?", addresses.client(client))
            }
            Self::CloseAll { sessions, clients, client, filter, not_listed } => {
                let which = match client {
                    Some(client) => format!("of {}", addresses.client(client)),
                    None => format!("of {}", format::count(*clients as u64, "client")),
                };
                let passing = match filter.is_empty() {
                    true => String::new(),
                    false => format!(" that pass `{}`", addresses.text(filter)),
                };
                let kept = match not_listed {
                    0 => String::new(),
                    _ => format!(" {not_listed} more are not listed, and stay."),
                };
                format!("Close {} {which}{passing}?{kept}", format::count(sessions.len() as u64, "session"))
            }
            Self::Drain { service, sessions_open } => {
                let go_on = match sessions_open {
                    1 => "1 open session continues".to_owned(),
                    count => format!("{count} open sessions continue"),
                };
                format!("Drain {service}? No new sessions; {go_on}. Reload undoes it.")
            }
            Self::Lockdown { target, sessions_open, links } => {
                let sessions = format::count(*sessions_open, "session");
                let links = match (&target.service, links) {
                    (Some(_), _) => "links stay".to_owned(),
                    (None, links) => format!("{} closed", format::count(*links, "link")),
                };
                format!("Lock {target}? {sessions} cut, {links}, and new ones refused until `unlock`.")
            }
            Self::Unlock { target } => format!("Unlock {target}? New sessions are taken again."),
            Self::Switch(plan) if plan.outlook == SwitchVerdict::Refused => format!(
                "Switch from {} to {}? The gateway would refuse it; `lock` below says why.",
                plan.from, plan.to
            ),
            Self::Switch(plan) => format!("Switch from {} to {}?", plan.from, plan.to),
            Self::Unproven(plan) => format!(
                "No forward check of {} has passed since this gateway started; `v` runs it. Reverse {} to {} anyway?",
                plan.from, plan.from, plan.to
            ),
            Self::Stop { sessions_open } => {
                let get = match sessions_open {
                    1 => "1 open session gets".to_owned(),
                    count => format!("{count} open sessions get"),
                };
                format!("Stop the gateway? {get} its `drain` time to end.")
            }
        }
    }

    /// The lines below the question: what a switch would change. Each begins with a word of [`PLAN_WORD_CHARS`].
    pub fn plan(&self) -> Vec<String> {
        match self {
            Self::Switch(plan) => {
                plan.to_string().lines().skip(1).map(|line| line.trim().to_owned()).collect()
            }
            Self::Unproven(_)
            | Self::Close { .. }
            | Self::CloseAll { .. }
            | Self::Drain { .. }
            | Self::Lockdown { .. }
            | Self::Unlock { .. }
            | Self::Stop { .. } => Vec::new(),
        }
    }

    /// The next question after a yes, before the command is sent.
    pub fn next(self, checks: &[CheckRow]) -> Result<Command, Self> {
        match self {
            Self::Switch(plan) if plan.reverses() && !is_proven(checks, &plan) => Err(Self::Unproven(plan)),
            question @ (Self::Close { .. }
            | Self::CloseAll { .. }
            | Self::Drain { .. }
            | Self::Lockdown { .. }
            | Self::Unlock { .. }
            | Self::Switch(_)
            | Self::Unproven(_)
            | Self::Stop { .. }) => Ok(question.command()),
        }
    }

    fn command(self) -> Command {
        match self {
            Self::Close { id, .. } => Command::Kill { session: id },
            Self::CloseAll { sessions, client, filter, .. } => {
                let by = chosen_by(client.as_deref(), &filter);
                Command::KillAll(KillSelection::Listed(ListedSessions { sessions, by }))
            }
            Self::Drain { service, .. } => Command::Drain { service: Some(service) },
            Self::Lockdown { target, .. } => Command::Lockdown(target),
            Self::Unlock { target } => Command::Unlock(target),
            Self::Switch(plan) | Self::Unproven(plan) => Command::Switch { profile: plan.profile },
            Self::Stop { .. } => Command::Stop,
        }
    }
}

/// The first word of a line of a plan, filled up with spaces.
pub const PLAN_WORD_CHARS: usize = 9;

/// For the log: how the sessions of a list were chosen.
fn chosen_by(client: Option<&str>, filter: &str) -> String {
    let client = client.map(|client| format!("of client {client}"));
    let filter = (!filter.is_empty()).then(|| format!("that passed `{filter}`"));
    [client, filter].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// Whether the forward check of the running profile, or of the new one, has passed.
fn is_proven(checks: &[CheckRow], plan: &SwitchPlan) -> bool {
    checks.iter().any(|check| check.passed && (check.profile == plan.from || check.profile == plan.to))
}
