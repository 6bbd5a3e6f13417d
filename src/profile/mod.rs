//! What the operator wrote, turned into values that cannot be wrong.
//!
//! [`load`] reads one file with everything it extends, checks all of it and returns either a
//! [`Profile`], resolved for exactly one mode, or every [`Problem`] found. Nothing here opens a
//! socket; certificates are opened by `tls`, which reports its problems in the same form.
//!
//! The files here use each other: a value of the profile contains values of other kinds, and each is read beside
//! its type.

mod auth;
mod backend;
mod backends;
mod carries;
mod chain;
mod cross_checks;
pub mod defaults;
mod duration;
mod edge;
mod effective;
mod endpoint;
mod fields;
mod find;
mod gateways;
mod guards;
mod health;
mod hours;
mod keys;
mod link;
mod link_address;
mod link_ports;
mod logs;
mod loops;
mod materials;
mod network;
mod pair_checks;
mod positions;
mod problem;
mod raw;
mod reference;
mod resolve;
mod revoked;
mod schema;
mod server_address;
mod size;
mod source;
mod spelling;
mod text_map;
mod via;
mod warnings;
mod web;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{Hash, Hasher},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use auth::{
    AuthSource, ClaimValue, ClientAuth, CredentialPolicy, ExpiryPolicy, PreflightPolicy, TokenLocation,
    TokenRules, is_user_name,
};
pub use backend::{Backend, ConnectTls, HttpRemote, ProxyVersion, RemoteServer};
pub use backends::{BackendCheck, BackendSet, Balance, CheckRequest, ListedBackend};
pub use carries::Carries;
pub use chain::files as profile_files;
pub use edge::{Accept, AcceptTls, ClientCertificates, ClientCheck, KeyPair, TlsVersion, WEB_ALPN};
pub use effective::effective_text;
pub use endpoint::{AcceptAddress, BindPolicy, EdgeScheme, HostPort};
pub use find::{find, list};
pub use gateways::GatewaysOfName;
pub use guards::{
    ByteRate, ByteRates, ClientFilter, ClientLimits, ClientRules, ClientScope, FilterRefusal, NewSessionRate,
    SessionLimits,
};
pub use hours::OpeningHours;
pub use link::DemoTls;
pub use link_address::{LinkAddress, LinkCarrier, LinkWebSocket, OuterTls};
pub use logs::{AccessLogFormat, AccessLogOptions, AccessLogTarget};
pub use network::Network;
pub use pair_checks::compare_files;
pub use problem::{Problem, ProfileLocation};
pub use raw::is_gateway_name;
pub use reference::reference;
pub use resolve::{DEMO_TEXT, DemoPorts, ProfileOverrides, builtin_demo, load, load_with, parse};
pub use schema::schema;
pub use server_address::ServerAddress;
pub use text_map::{NamedText, read_text_map};
pub use via::{ProxyKind, ProxyLogin, ViaProxy};
pub use warnings::warnings;
pub use web::{MessageKind, WebOptions};

/// The mode, which says who dials the link between the two gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No link: one gateway accepts and reaches the backend itself.
    Direct,
    /// The DMZ gateway dials the internal gateway.
    Forward,
    /// The internal gateway dials the DMZ gateway and keeps links ready.
    Reverse,
}

impl Mode {
    /// As written in profiles and on command lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

/// The side of the border that a half is on.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    Dmz,
    Internal,
}

/// A profile: what one gateway should be, resolved for one mode.
///
/// ```
/// use portcullis::profile::{Mode, Profile, ProfileOverrides, parse};
///
/// let text = "{ mode: direct, dmz: { services: { echo: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' } } } }";
/// let profile: Profile = parse(text, "echo.yaml".as_ref(), &ProfileOverrides::default()).expect("it is right");
/// assert_eq!(profile.mode, Mode::Direct);
/// ```
///
/// Without a look at the whole of it there is none:
///
/// ```compile_fail,E0451
/// use portcullis::profile::{Mode, Profile};
///
/// fn in_another_mode(profile: Profile) -> Profile {
///     Profile { mode: Mode::Direct, ..profile }
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    pub name: String,
    /// The file it was read from; `None` for the built-in one.
    pub file: Option<PathBuf>,
    pub mode: Mode,
    pub dmz: Option<DmzHalf>,
    /// Always `None` in direct mode: the DMZ half reaches the backends itself.
    pub internal: Option<InternalHalf>,
    /// On stop, sessions get this long to end.
    pub drain: Duration,
    /// Before that, it reports that it is not ready for this long, and serves as before.
    pub drain_delay: Duration,
    pub health: HealthPort,
    pub ready: ReadyWhen,
    /// The names of sockets that are passed in, in any mode.
    pub passed: BTreeSet<String>,
    /// A file for the log, in addition to standard error.
    pub log: Option<PathBuf>,
    /// Where the requests of clients are logged.
    pub access_log: Option<AccessLogOptions>,
    /// The file that records who has made this gateway do what.
    pub audit: Option<PathBuf>,
    pub confine: ConfinePolicy,
    /// The name servers that we query ourselves; if empty, those of the system.
    pub resolver: Vec<SocketAddr>,
    _checked: ProfileChecked,
}

/// Nothing outside of this module makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProfileChecked;

/// Whether the kernel refuses a gateway what it never does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ConfinePolicy {
    /// As much as the kernel offers.
    #[default]
    On,
    Off,
    /// All of it, or the gateway does not start.
    Required,
}

/// When readiness is reported to a service manager.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadyWhen {
    /// Its ports are open.
    #[default]
    Ports,
    /// And clients can be served.
    Links,
}

/// The port for monitors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HealthPort {
    #[default]
    Closed,
    Open(HostPort),
    /// The profile has one, but for the other half.
    LeftOut,
}

impl HealthPort {
    pub fn address(&self) -> Option<&HostPort> {
        match self {
            Self::Open(at) => Some(at),
            Self::Closed | Self::LeftOut => None,
        }
    }
}

impl Profile {
    /// The names of the services of both halves.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        let dmz = self.dmz.iter().flat_map(|half| &half.services).map(|service| &service.name);
        dmz.chain(self.internal.iter().flat_map(|half| &half.services).map(|service| &service.name))
    }
}

/// The half that clients connect to.
#[derive(Debug, Clone, PartialEq)]
pub struct DmzHalf {
    pub mode: DmzMode,
    pub services: Vec<DmzService>,
}

/// The mode of the DMZ half: where it takes its sessions.
#[derive(Debug, Clone, PartialEq)]
pub enum DmzMode {
    /// Straight to the backend of the service.
    Direct(BTreeMap<ServiceName, BackendSet>),
    /// Over a link that this half dials, to one of these internal gateways.
    Forward { connect: Vec<LinkAddress>, tls: Option<LinkTls>, pool: PoolLimits },
    /// Over a ready link that the other half dialled.
    Reverse { listen: LinkAddress, bind: BindPolicy, tls: Option<LinkTls>, pool: PoolLimits },
}

/// How many ready links count as healthy, and how clients wait for one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolLimits {
    pub prepared: usize,
    pub wait: Duration,
    pub waiters: usize,
    /// The age at which a link is replaced.
    pub retire: Duration,
    /// Links of one peer; `None` means what it says that it keeps, as far as there is room.
    pub links_per_peer: Option<usize>,
}

/// A service as clients see it.
#[derive(Debug, Clone, PartialEq)]
pub struct DmzService {
    pub name: ServiceName,
    pub accept: Vec<Accept>,
    /// Concurrent sessions; more are refused.
    pub sessions: usize,
    /// A session ends after this long without a byte in either direction.
    pub idle: Option<Duration>,
    /// Which of the link's peers may offer it; `None` means all of them.
    pub peers: Option<Vec<String>>,
    pub carries: Carries,
    pub unready: UnreadyPolicy,
    /// When it takes new sessions, if this half reaches the backends itself; `None` means always.
    pub hours: Option<OpeningHours>,
    /// Which clients may come in, and how much one client gets.
    pub clients: ClientRules,
}

/// The policy for a client port while no service on it is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnreadyPolicy {
    /// Clients wait, or are rejected one by one.
    #[default]
    Accept,
    /// It is closed.
    Refuse,
}

/// The half that reaches the backends.
#[derive(Debug, Clone, PartialEq)]
pub struct InternalHalf {
    pub mode: InternalMode,
    pub services: Vec<InternalService>,
    /// The number of links in all.
    pub maximum: usize,
    /// The age at which a link is replaced.
    pub retire: Duration,
    /// The number of concurrent sessions on a link.
    pub sessions_per_link: usize,
}

/// The mode of the internal half: where it gets its sessions from.
#[derive(Debug, Clone, PartialEq)]
pub enum InternalMode {
    /// Links that the DMZ half dials.
    Forward { listen: LinkAddress, bind: BindPolicy, tls: Option<LinkTls> },
    /// Links that this half dials and keeps ready at each DMZ gateway.
    Reverse { connect: Vec<LinkAddress>, tls: Option<LinkTls>, prepared: usize, retry: RetryPolicy },
}

/// Pause between failed dials: `first`, doubling to `maximum`, with full jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    pub first: Duration,
    pub maximum: Duration,
}

/// A service as the inside reaches it.
#[derive(Debug, Clone, PartialEq)]
pub struct InternalService {
    pub name: ServiceName,
    pub connect: BackendSet,
    /// Which of the link's peers may use it; `None` means all of them.
    pub peers: Option<Vec<String>>,
    pub carries: Carries,
    /// When it takes new sessions; `None` means always.
    pub hours: Option<OpeningHours>,
    /// Concurrent sessions of all DMZ gateways; `None` means as many as links carry.
    pub sessions: Option<usize>,
    /// The limits of each DMZ gateway.
    pub per_peer: Option<SessionLimits>,
}

/// A service's name: 1 to 255 of `A-Za-z0-9._-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// `None` unless `text` is 1 to 255 of `A-Za-z0-9._-`.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        ((1..=255).contains(&text.len()) && text.bytes().all(valid)).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The names and keys of one side of a link, not opened yet.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkTls {
    pub certificate: PemSource,
    pub key: PemSource,
    pub ca: PemSource,
    /// A peer's certificate must have one of these names.
    pub peers: Vec<String>,
    pub revoked: RevokedFiles,
    pub key_exchange: KeyExchangePolicy,
}

/// The key exchanges that a link may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyExchangePolicy {
    /// A hybrid one if the other gateway supports it.
    #[default]
    HybridPreferred,
    /// A hybrid one or none: what is recorded today must stay secret from future computers.
    HybridRequired,
}

/// Lists of revoked certificates, not opened yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RevokedFiles {
    pub files: Vec<PemSource>,
    pub expired: ExpiredListPolicy,
}

/// The policy for new handshakes if a list of revoked certificates has expired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ExpiredListPolicy {
    /// Certificates that it covers are refused.
    #[default]
    Refuse,
    /// It is used as it is.
    Accept,
}

/// PEM text, and where it comes from. The same file is the same source, wherever a profile names it.
#[derive(Clone, Eq)]
pub enum PemSource {
    /// A file, and the location in the profile that names it.
    File { path: PathBuf, location: ProfileLocation },
    /// Made at the start, never on disk.
    Memory(Arc<str>),
}

impl PemSource {
    fn identity(&self) -> (Option<&Path>, Option<&str>) {
        match self {
            Self::File { path, .. } => (Some(path), None),
            Self::Memory(text) => (None, Some(text)),
        }
    }
}

/// Shows no text, which may be a key.
impl fmt::Debug for PemSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(out, "PemSource {}", path.display()),
            Self::Memory(_) => out.write_str("PemSource built in"),
        }
    }
}

impl PartialEq for PemSource {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Hash for PemSource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}
