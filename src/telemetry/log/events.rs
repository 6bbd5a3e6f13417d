//! Every event in the log: a name that never changes, its fields, and its meaning.
//!
//! A log line carries the name as `event`, so that programs need not read the text. `docs/operate.md` has the
//! same table, and tests compare both with the calls in the source.

use std::fmt;

use crate::telemetry::link_cause::LinkCause;

macro_rules! log_events {
    ($($event:ident $name:literal [$($field:literal)*] $about:literal,)*) => {
        /// The event of a log line.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum LogEvent {
            $(#[doc = $about] $event,)*
        }

        impl LogEvent {
            pub const ALL: &[Self] = &[$(Self::$event,)*];

            /// The name for programs.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$event => $name,)*
                }
            }

            /// The fields of a line besides its text.
            pub fn fields(self) -> &'static [&'static str] {
                match self {
                    $(Self::$event => &[$($field,)*],)*
                }
            }

            /// What has happened.
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$event => $about,)*
                }
            }
        }
    };
}

log_events! {
    SessionEnded "session_ended" ["id" "service" "client" "peer" "user" "backend" "end" "seconds" "up" "down" "reason"] "a session has ended",
    ProbeEnded "probe_ended" ["id" "service" "client" "peer" "user" "backend" "end" "seconds" "up" "down" "reason"] "a check of the path has ended",
    SessionFailed "session_failed" [] "a client got no session, and neither the client nor the operator is the cause",
    SessionsRefused "sessions_refused" [] "how many more clients were refused, and why",
    ClientRejected "client_rejected" ["client"] "a client was rejected before it had a session",
    ProbeRejected "probe_rejected" ["client"] "a check of the path was rejected",
    UnknownService "unknown_service" [] "a peer asked for a service that is not known here",
    LinesLeftOut "lines_left_out" ["more" "by"] "too many lines of one kind; the rest were not written",
    RequestFailed "request_failed" ["id"] "a backend gave no answer to a request",
    BackendUnreachable "backend_unreachable" ["id"] "a backend could not be reached for a request",
    RequestResent "request_resent" ["id"] "a request was sent again on a new connection, because the backend had closed the old one",
    RequestsEnded "requests_ended" ["id"] "the requests of a session have ended with an error",
    ExchangeCut "exchange_cut" [] "a request and its answer were cut",
    InterimLeftOut "interim_left_out" [] "a backend sent too many 1xx responses",
    UpgradeLost "upgrade_lost" ["id"] "the backend's side of an upgraded connection was lost",
    ClientUpgradeLost "client_upgrade_lost" ["client"] "the client's side of an upgraded connection was lost",
    OwnNamePassed "own_name_told" [] "an answer names the backend and is passed on unchanged",
    BackendDown "backend_down" [] "one of several backends does not answer, or fails its checks",
    BackendUp "backend_up" [] "a backend works again",
    LinkUp "link_up" ["id" "role" "peer" "address" "protocol" "tls"] "a link is established",
    LinkDown "link_down" ["id" "role" "peer" "address" "sessions"] "a link has ended",
    LinkLost "link_lost" ["peer"] "a ready link has ended while it waited",
    LinkChanged "link_changed" [] "a link that is dialled has failed, or works again",
    LinkFailedAgain "link_failed_again" [] "a link that is dialled has failed once more",
    LinkShared "link_shared" [] "several gateways answer at one dialled address",
    LinkSharerGone "link_sharer_gone" [] "one of several gateways at a dialled address has lost its links",
    LinkProtocol "link_protocol" [] "two gateways fall back to SOCKS5, because they have no protocol version in common",
    PeerRests "peer_rests" [] "a peer leaves sessions unanswered and is tried last for a while",
    LinkRejected "link_rejected" [] "a link that came in was rejected",
    NameChanged "name_changed" [] "the addresses or SRV targets of a followed name changed",
    NameUnanswered "name_unanswered" [] "a look-up of a followed name failed; the last known addresses stay in use",
    NameAnswered "name_answered" [] "a followed name resolves again",
    NameLeftOut "name_left_out" [] "some addresses or targets of a followed name are not dialled",
    NameStale "name_stale" ["name"] "a look-up has failed, and the last answer is used",
    PortListens "port_listens" [] "a port that could not be opened listens now",
    PortWaits "port_waits" [] "a port cannot be opened yet; it is retried",
    PortPaused "port_paused" [] "a port pauses accepting until descriptors are free",
    PortClosed "port_closed" [] "a client port is closed, as no service on it is ready",
    PortOpened "port_opened" [] "a client port is open again",
    PassedClosed "passed_closed" ["name"] "a socket that was passed in is closed, as the profile does not name it",
    HealthLeftOut "health_left_out" [] "this half opens no port for monitors",
    AlertRaised "alert_raised" [] "an alert was raised or changed",
    AlertOver "alert_over" [] "an alert has ended",
    ServiceDown "service_down" [] "a service is down because of its own configuration or files",
    ServiceUp "service_up" [] "a service is served again",
    Hours "hours" [] "a service closes or opens by its hours",
    Operator "operator" ["kind" "by" "asked" "outcome" "seconds" "text"] "an operator's command and its result",
    ProfileInForce "profile_in_force" [] "a profile is in force",
    SwitchBegun "switch_begun" [] "a switch or a reload has begun",
    SwitchRefused "switch_refused" [] "a switch or a reload was not done, and nothing changed",
    SwitchUnready "switch_unready" [] "a switch was done although not everything is ready",
    CertificatesRenewed "certificates_renewed" [] "renewed certificates are in force",
    CertificatesRefused "certificates_refused" [] "renewed certificates are invalid; the previous ones stay in force",
    CertificateEnds "certificate_ends" [] "a certificate of this gateway or of a peer expires in 30, 14, 7 days or 1 day",
    CertificateRevoked "certificate_revoked" [] "links and client connections were cut, because their certificates were revoked",
    CertificatesSilent "certificates_silent" [] "certificate files cannot be read in time, or can be read again",
    Lockdown "lockdown" [] "locks in force at the start",
    HistoryFile "history_file" [] "the hour before a restart cannot be read, or this one cannot be kept for the next",
    Locked "locked" [] "the process is locked, or why it could not be locked fully",
    CallRefused "call_refused" [] "the sandbox refused a system call; reported once for each call",
    DescriptorLimit "descriptor_limit" ["limit"] "how many files may be open",
    DescriptorLimitChanged "descriptor_limit_changed" [] "the limit of open files was changed while the gateway runs",
    DescriptorsShort "descriptors_short" [] "the descriptor limit is lower than the profile may need",
    ServiceManager "service_manager" [] "the service manager cannot be notified",
    Headless "headless" [] "running headless",
    TerminalInput "terminal_input" ["error"] "the input of a lost terminal could not be closed",
    DemoPorts "demo_ports" [] "the built-in profile uses other ports than usual",
    Recording "recording" [] "snapshots cannot be recorded, or are recorded again",
    Summary "summary" ["open" "waiting" "sessions" "refused" "up" "down" "ready" "target"] "the numbers of a gateway at which something has happened, once a minute",
    LevelRefused "level_refused" [] "`PORTCULLIS_LOG` names no level, and `info` is used",
    LogReopened "log_reopened" ["files"] "a signal reopened the log files",
    AuditFile "audit_file" [] "the audit file cannot be written, or is written again",
    LinesLost "lines_lost" ["lines"] "lines that could not be written since the start",
    StartFailed "start_failed" [] "the gateway cannot start",
    Stopping "stopping" [] "a stop has begun",
    SessionsCut "sessions_cut" [] "sessions were cut at the end of `drain`",
    TasksLeft "tasks_left" ["tasks"] "a bug: the gateway stops, and these tasks have not ended",
    Stopped "stopped" [] "the gateway has stopped",
    SignalFailed "signal_failed" [] "a signal could not be handled",
    Hangs "hangs" [] "the engine hangs, or the process does not exit",
    Panic "panic" ["panic"] "a bug: a thread has panicked",
    TaskPanicked "task_panicked" ["task"] "a bug: a task has panicked",
    Notice "notice" [] "anything else that an operator should see",
    Library "library" [] "a log line of a library",
}

impl fmt::Display for LogEvent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl LogEvent {
    /// A line for operators about it.
    pub fn line(self, text: impl Into<String>) -> NoticeLine {
        NoticeLine { event: self, text: text.into(), rejected_link: None }
    }
}

impl<T: Into<String>> From<T> for NoticeLine {
    fn from(text: T) -> Self {
        LogEvent::Notice.line(text)
    }
}

/// A line for operators, and its event.
#[derive(Debug, Clone)]
pub struct NoticeLine {
    pub event: LogEvent,
    pub text: String,
    /// For a rejected link: why.
    pub rejected_link: Option<LinkCause>,
}
