//! The verdict about a gateway and its services, as plain data in a snapshot. How it is reached is in `health`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::profile::Half;

/// Whether clients can connect now; ordered from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Healthy,
    /// A service is not served, or something is short or about to fail.
    Degraded,
    /// A limit refuses clients.
    Full,
    /// Nobody is served.
    Down,
}

impl Health {
    pub fn label(self) -> &'static str {
        match self {
            Self::Healthy => "HEALTHY",
            Self::Degraded => "DEGRADED",
            Self::Full => "FULL",
            Self::Down => "DOWN",
        }
    }
}

/// How bad something is, for ordering rows and alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Fine,
    /// Clients would feel it soon.
    Short,
    /// Clients wait or are refused.
    Starved,
    /// Nothing gets through.
    Lost,
}

/// The kind of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlertKind {
    /// A gateway of a fleet cannot be reached; only the screen of a fleet has this.
    Unreachable,
    /// A gateway that was linked is gone without a goodbye.
    PeerLost,
    /// A dialled gateway was never reached, or nobody offers a service.
    NoLink,
    /// A service cannot be served at all, because of a fault of its own.
    ServiceDown,
    /// A limit refuses clients.
    Full,
    /// Clients wait for a link.
    Starved,
    /// Sessions fail at their backend.
    Backend,
    /// Clients were recently refused for another reason.
    Refused,
    /// A service or the gateway has a fault of its own, but clients are still served.
    Fault,
    /// A certificate has expired.
    Expired,
    Descriptors,
    /// Fewer links than a burst of clients may need.
    Short,
    /// An operator has drained a service.
    Drained,
    /// The inside has locked it.
    Lockdown,
    /// It is outside its hours.
    Closed,
    /// A certificate expires soon.
    Certificate,
    /// A list of revoked certificates has expired, but is still accepted.
    ExpiredList,
    /// Lines of the log were lost.
    Log,
}

impl AlertKind {
    pub fn severity(self) -> Severity {
        match self {
            Self::Unreachable | Self::PeerLost | Self::NoLink | Self::ServiceDown => Severity::Lost,
            Self::Full | Self::Starved | Self::Backend | Self::Refused => Severity::Starved,
            Self::Expired | Self::Descriptors => Severity::Starved,
            Self::Fault | Self::Short | Self::Drained | Self::Lockdown | Self::Closed => Severity::Short,
            Self::Certificate | Self::ExpiredList | Self::Log => Severity::Short,
        }
    }

    pub(super) fn health(self) -> Health {
        match self {
            Self::Full => Health::Full,
            Self::Unreachable
            | Self::PeerLost
            | Self::NoLink
            | Self::ServiceDown
            | Self::Starved
            | Self::Backend
            | Self::Refused
            | Self::Fault
            | Self::Expired
            | Self::Descriptors
            | Self::Short
            | Self::Drained
            | Self::Lockdown
            | Self::Closed
            | Self::Certificate
            | Self::ExpiredList
            | Self::Log => Health::Degraded,
        }
    }

    /// The word for a service that has this problem.
    pub fn label(self) -> &'static str {
        match self {
            Self::PeerLost | Self::NoLink => "NO LINK",
            Self::ServiceDown => "DOWN",
            Self::Fault => "FAULT",
            Self::Full => "FULL",
            Self::Starved => "STARVED",
            Self::Backend => "FAILING",
            Self::Refused => "REFUSING",
            Self::Short => "short",
            Self::Drained => "DRAINED",
            Self::Lockdown => "LOCKED",
            Self::Closed => "closed",
            Self::Expired | Self::Certificate | Self::ExpiredList => "CERT",
            Self::Unreachable | Self::Descriptors | Self::Log => "ALERT",
        }
    }
}

/// A thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Its gateway in a fleet; `None` in a snapshot of a single gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    pub kind: AlertKind,
    /// What it is about: services, a gateway, a certificate.
    pub object: String,
    /// The address of the gateway that it is about, since several may share a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// UTC, RFC 3339.
    pub since: String,
    pub text: String,
}

impl Alert {
    /// The name and the address; a plain link's peer is known only by its address.
    pub(super) fn ended_by(&self) -> String {
        match &self.address {
            Some(address) if *address != self.object => format!("{} at {address}", self.object),
            _ => self.object.clone(),
        }
    }
}

/// A problem that the clients of one service have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceProblem {
    pub kind: AlertKind,
    pub why: String,
}

/// Clients of a service that were recently refused for one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefusalRow {
    /// Two letters, see `telemetry::end`.
    pub code: String,
    /// Counted since the first one that was not followed by a minute without any.
    pub count: u64,
    pub reason: String,
    /// It is a limit for single clients, and keeps nobody else out.
    #[serde(default)]
    pub is_of_one_client: bool,
    /// Seconds since the last one.
    pub ago_seconds: f64,
}

/// A drain of a service: who requested it, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRequest {
    /// UTC, RFC 3339.
    pub since: String,
    pub by: String,
}

/// A certificate that this gateway shows, or uses to judge others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRow {
    #[serde(rename = "role")]
    pub half: Half,
    /// `link`, `accept` or `connect`.
    #[serde(rename = "use")]
    pub used: String,
    /// The file, or where it comes from.
    pub object: String,
    /// UTC, RFC 3339.
    pub ends: String,
    /// Whole days until then; negative once it has ended.
    pub days: i64,
}

/// A list of revoked certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationListRow {
    /// The file.
    pub object: String,
    /// UTC, RFC 3339.
    pub ends: String,
    pub has_expired: bool,
    /// Whether certificates of its issuer are refused once the list has expired.
    pub refuses: bool,
}

/// Lines of the log that did not get to where they should be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLossRow {
    /// A file, or standard error.
    pub target: String,
    /// Counted since the first one that was not followed by a minute without any.
    pub lost: u64,
    pub cause: String,
}

/// Files that the gateway as a whole uses, and cannot read as they are now; what it read before is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFaultRow {
    /// The key that names the files, or what they are.
    pub object: String,
    pub what: String,
}

/// The answer to whether a gateway is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    /// What is not ready, one line each; for a gateway that is ready, the services that it lacks.
    pub reasons: Vec<String>,
    /// Gateways without a link, for those who ask strictly.
    pub unlinked: Vec<String>,
}
