//! The default of each key and the range of each number, with the reasons.

use std::{ops::RangeInclusive, time::Duration};

/// What counts as healthy on the DMZ half: the default of the internal half, so that the two agree if neither
/// profile says anything.
pub const DMZ_PREPARED: usize = 8;

/// A link is dialled in well under a second; waiting longer than three does not help a client.
pub const WAIT: Duration = Duration::from_secs(3);

/// A waiting client is a socket and a few hundred bytes: this many cost less than 1 MiB.
pub const WAITERS: usize = 1024;

/// Two descriptors a session and room for links stay below a limit of 4096 open files.
pub const SESSIONS: usize = 1000;

/// Few enough that messages of many sessions go out together, and enough to survive the loss of some; one
/// TLS link costs about 40 KiB.
pub const INTERNAL_PREPARED: usize = 8;

/// With the sessions that each may carry, more than a process has descriptors; over SOCKS5, as many as the
/// sessions of one service, and its ready links.
pub const MAXIMUM: usize = 1024;

/// Shorter than most firewalls and proxies keep a connection, and rare enough to cost nothing.
pub const RETIRE: Duration = Duration::from_secs(60 * 60);

/// A lost link takes only a few sessions with it, and eight links carry 2,000.
pub const SESSIONS_PER_LINK: usize = 256;

/// Short enough that a DMZ gateway that restarts is found again within its clients' wait.
pub const RETRY_FIRST: Duration = Duration::from_millis(500);

/// How often to try a DMZ gateway that is away for long.
pub const RETRY_MAXIMUM: Duration = Duration::from_secs(2);

/// Less than service managers wait (90 s) before they kill.
pub const DRAIN: Duration = Duration::from_secs(30);

/// More than could be dialled from the ports of one address.
pub const PREPARED_RANGE: RangeInclusive<usize> = 1..=65_535;

/// If they were replaced more often, links would do little else.
pub const RETIRE_RANGE: RangeInclusive<Duration> =
    RangeInclusive::new(Duration::from_secs(60), Duration::from_secs(24 * 60 * 60));

/// With one, a link carries one session, as over SOCKS5. The maximum is what one task handles well; it fits into the two
/// bytes of `hello`.
pub const SESSIONS_PER_LINK_RANGE: RangeInclusive<usize> = 1..=16_384;

/// With zero, a client without a ready link is refused at once.
pub const WAITERS_RANGE: RangeInclusive<usize> = 0..=1_000_000;

pub const SESSIONS_RANGE: RangeInclusive<usize> = 1..=1_000_000;

pub const MAXIMUM_RANGE: RangeInclusive<usize> = 1..=65_535;

/// Each has a listener and a row on the screen.
pub const SERVICES_MAX: usize = 1024;

pub const ACCEPTS_MAX: usize = 64;

pub const PEERS_MAX: usize = 256;

/// A week fits whose days have nine opening times each.
pub const HOURS_MAX: usize = 64;

/// Files with lists of revoked certificates.
pub const REVOKED_MAX: usize = 32;

/// Names of one accept, and of its clients.
pub const NAMES_MAX: usize = 256;

/// Users that one service names.
pub const USERS_MAX: usize = 10_000;

/// As long as a link carries a user's name.
pub const USER_BYTES_MAX: usize = 255;

/// Claims of one token, and sources that it may come from.
pub const CLAIMS_MAX: usize = 16;
pub const TOKEN_PLACES_MAX: usize = 8;

/// Longer than any browser shows.
pub const REALM_BYTES_MAX: usize = 64;

/// Protocols that one TLS handshake offers or takes.
pub const ALPN_NAMES_MAX: usize = 16;

/// As large as what a link carries at once: a stream of bytes comes in smaller messages.
pub const MESSAGE_LIMIT: usize = 128 * 1024;

/// A message is held in memory until it is complete.
pub const MESSAGE_LIMIT_RANGE: RangeInclusive<usize> = 1024..=64 * 1024 * 1024;

/// The value that users of nginx and HAProxy are used to: longer than any page takes, shorter than people wait.
pub const ANSWER: Duration = Duration::from_secs(60);

/// A body without data for this long has stalled.
pub const BODY: Duration = Duration::from_secs(60);

/// Longer than browsers keep an unused connection.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Networks of the proxies before one accept.
pub const NETWORKS_MAX: usize = 256;

/// Networks of clients in one list: enough for a whole country, though looked up one by one for each client.
pub const CLIENT_NETWORKS_MAX: usize = 4096;

/// Gateways of one link: each has a pool for each service.
pub const GATEWAYS_MAX: usize = 64;
/// Name servers of a profile; each silent one costs two seconds.
pub const NAME_SERVERS_MAX: usize = 8;

/// Backends of one service.
pub const BACKENDS_MAX: usize = 64;
/// When a backend that refused is tried again: so seldom that a dead one costs next to nothing.
pub const REST: Duration = Duration::from_secs(10);
pub const CHECK_EVERY: Duration = Duration::from_secs(5);
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
pub const CHECKS_RANGE: RangeInclusive<usize> = 1..=100;
pub const CHECK_FALLS: usize = 3;
pub const CHECK_RISES: usize = 2;
