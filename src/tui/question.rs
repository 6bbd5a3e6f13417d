//! What is asked before something is destroyed: it names the thing, and is answered by `y` alone.

use crate::{gateway::handle::Command, tui::privacy::Addresses};

/// Kept by value: the row it is about may end while the question stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    Close { id: String, service: String, client: String },
    Drain { service: String, sessions_open: u64 },
    Switch { profile: String, from: String },
    Stop { sessions_open: u64 },
}

impl Question {
    pub fn text(&self, addresses: Addresses) -> String {
        match self {
            Self::Close { id, service, client } => {
                format!("Close session {id} of {} to {service}?", addresses.client(client))
            }
            Self::Drain { service, sessions_open } => {
                format!(
                    "Drain {service}? No new sessions; {sessions_open} open ones go on. Reload undoes it."
                )
            }
            Self::Switch { profile, from } => {
                format!("Switch from {from} to {profile}? Open sessions go on.")
            }
            Self::Stop { sessions_open } => {
                format!("Stop the gateway? {sessions_open} open sessions get its `drain` time to end.")
            }
        }
    }

    pub fn command(self) -> Command {
        match self {
            Self::Close { id, .. } => Command::Kill { session: id },
            Self::Drain { service, .. } => Command::Drain { service: Some(service) },
            Self::Switch { profile, .. } => Command::Switch { profile },
            Self::Stop { .. } => Command::Stop,
        }
    }
}
