//! What an operator should do about a failed check: one line of advice for each known cause.
//! What has failed is decided in `steps` and `probe_failure`; a cause without advice here speaks for itself.

use super::probe_failure::ProbeCause;
use crate::telemetry::link_cause::LinkCause;

/// For when fewer links are ready than wanted.
pub const LINKS_ARE_BOUNDED: &str =
    "find what bounds the links, a firewall's limit or `internal.link.maximum`, or lower `prepared`";

/// What to do about links that cannot be opened.
pub fn advise_on_link(cause: LinkCause) -> &'static str {
    match cause {
        LinkCause::PeerNotListed => {
            "add that name to `peers` of the half that says so, or issue a certificate for one that is there"
        }
        LinkCause::CertificateDates => {
            "compare the clocks of both hosts with the dates of the certificates (`date`, `openssl x509 -dates`)"
        }
        LinkCause::OtherCa => {
            "give both halves certificates of one CA: copy the same `ca.pem` to both and issue both pairs from it"
        }
        LinkCause::OuterOtherCa => {
            "take up the CA of the proxy or balancer on the way in the link's `outer`, or that of the other gateway's `outer`"
        }
        LinkCause::CertificateRefused => "look at the other gateway's log, then at its `peers` and its `ca`",
        LinkCause::CertificateMissing => {
            "write `socks+tls` on both halves: the other end shows no certificate"
        }
        LinkCause::NoTls => "write `socks+tls` on both halves: the other end does not speak TLS",
        LinkCause::PortTaken => "stop the program that holds it, or choose another port",
        LinkCause::PortForbidden => "choose a port above 1023, or give the gateway CAP_NET_BIND_SERVICE",
        LinkCause::ProxyAway => "start the proxy, let this host through to it, or correct `via`",
        LinkCause::ConnectionRefused => "start the other gateway in this mode, or correct the address",
        LinkCause::NameUnresolved => "correct the name, or the resolver of this host",
        LinkCause::NoAnswer => {
            "let the link's port through the firewall between the two hosts, or correct the address"
        }
        LinkCause::Unreachable => "mend the route to that host, or correct the address",
        LinkCause::NoDescriptor => "raise the limit of open files (`LimitNOFILE`, `ulimit -n`)",
        LinkCause::AtMaximum => "raise `internal.link.maximum`, or lower `prepared`",
        LinkCause::NoKnownService => {
            "give the service one name in both halves, and allow the peer in its `peers`"
        }
        LinkCause::NoInternalGateway => {
            "start the internal gateway in reverse mode; if it runs, look at its log"
        }
        LinkCause::NoDmzGateway => "start the DMZ gateway in forward mode; if it runs, look at its log",
        LinkCause::GatewayLost => {
            "start that gateway again, if it does not run; if it does, look at its log and at the network between the two hosts"
        }
        LinkCause::SessionsUnanswered => {
            "look at the log of that gateway, and restart it: its links are up, and it answers no session"
        }
        LinkCause::Other => "look at the logs of both gateways",
    }
}

/// What to do about a failed probe of a service.
pub fn advise_on_probe(service: &str, cause: ProbeCause) -> String {
    match cause {
        ProbeCause::ClientTls => format!(
            "look for the name and the certificate of this accept in `dmz.services.{service}`, then run `portcullis reload`"
        ),
        ProbeCause::ClientPort => {
            "let this host reach its own client port; a firewall rule for `lo` is in the way".into()
        }
        ProbeCause::Backend => {
            format!("start the backend of `{service}`, or correct `internal.services.{service}.connect`")
        }
        ProbeCause::ServiceUnknown => {
            format!("write `{service}` under `internal.services` on the other half, spelled as here")
        }
        ProbeCause::GatewayNotAllowed => {
            format!("add this gateway's name to `internal.services.{service}.peers` there")
        }
        ProbeCause::PeerNotAllowed => {
            format!("add the other gateway's name to `dmz.services.{service}.peers`")
        }
        ProbeCause::ServiceDrains => "run `portcullis reload` to end the drain".into(),
        ProbeCause::PeerDrains => "run `portcullis reload` there to end the drain".into(),
        ProbeCause::SessionsFull => {
            format!("raise `sessions` of `{service}`, or wait until some have ended")
        }
        ProbeCause::PeerFull => {
            "raise `internal.link.maximum` there, or wait until sessions have ended".into()
        }
        ProbeCause::Link(cause) => advise_on_link(cause).into(),
    }
}
