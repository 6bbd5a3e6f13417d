//! What an operator should do about a failed check: one line of advice for each known cause.
//!
//! Causes arrive as text from the log and from the other gateway's alerts, so the table is searched by
//! words. A cause that is not in the table is answered with "see the log".

/// What to do about trouble with a link.
pub fn advise_on_link(seen: &str) -> String {
    first_match(LINK, seen).unwrap_or("look at the logs of both gateways").into()
}

/// What to do about a probe of a service that failed.
pub fn advise_on_probe(service: &str, seen: &str) -> String {
    first_match(PROBE, seen).map_or_else(|| advise_on_link(seen), |advice| advice.replace("SERVICE", service))
}

fn first_match(table: &[(&str, &'static str)], seen: &str) -> Option<&'static str> {
    table.iter().find(|(words, _)| seen.contains(words)).map(|(_, advice)| *advice)
}

const LINK: &[(&str, &str)] = &[
    // Some links stand: what the others meet is a bound, not a fault of the set-up.
    (
        "only ",
        "find what bounds the links, a firewall's limit or `internal.link.maximum`, or lower `prepared`",
    ),
    (
        "among this link's peers",
        "add that name to `peers` of the half that says so, or issue a certificate for one that is there",
    ),
    ("not valid yet", CLOCKS),
    ("expired", CLOCKS),
    ("another CA", CAS),
    ("refuses this one's certificate", "look at the other gateway's log, then at its `peers` and its `ca`"),
    ("CertificateRequired", "write `socks+tls` on both halves: the other end shows no certificate"),
    ("InvalidContentType", "write `socks+tls` on both halves: the other end does not speak TLS"),
    ("the port is taken", "stop the program that holds it, or choose another port"),
    ("may not bind", "choose a port above 1023, or give the gateway CAP_NET_BIND_SERVICE"),
    ("connection refused", "start the other gateway in this mode, or correct the address"),
    // Before its deadline, which may be told behind it.
    ("does not resolve", "correct the name, or the resolver of this host"),
    (
        "no answer within",
        "let the link's port through the firewall between the two hosts, or correct the address",
    ),
    ("unreachable", "mend the route to that host, or correct the address"),
    ("`maximum`", "raise `internal.link.maximum`, or lower `prepared`"),
    (
        "no service that is known",
        "give the service one name in both halves, and allow the peer in its `peers`",
    ),
    ("no internal gateway", "start the internal gateway in reverse mode; if it runs, look at its log"),
    ("no DMZ gateway", "start the DMZ gateway in forward mode; if it runs, look at its log"),
];

const PROBE: &[(&str, &str)] = &[
    (
        "its clients' TLS",
        "look for the name and the certificate of this accept in `dmz.services.SERVICE`, then run `portcullis reload`",
    ),
    (
        "does not know the service",
        "write `SERVICE` under `internal.services` on the other half, spelled as here",
    ),
    ("unknown service", "write `SERVICE` under `internal.services` on the other half, spelled as here"),
    ("does not allow this gateway", "add this gateway's name to `internal.services.SERVICE.peers` there"),
    ("the service's `peers`", "add the other gateway's name to `dmz.services.SERVICE.peers`"),
    ("backend", "start the backend of `SERVICE`, or correct `internal.services.SERVICE.connect`"),
    ("the service is draining", "run `portcullis reload` to end the drain"),
    ("it drains", "run `portcullis reload` there to end the drain"),
    ("`sessions` is", "raise `sessions` of `SERVICE`, or wait until some have ended"),
    ("a limit is reached", "raise `internal.link.maximum` there, or wait until sessions have ended"),
    ("client port", "let this host reach its own client port; a firewall rule for `lo` is in the way"),
];

const CLOCKS: &str =
    "compare the clocks of both hosts with the dates of the certificates (`date`, `openssl x509 -dates`)";
const CAS: &str =
    "give both halves certificates of one CA: copy the same `ca.pem` to both and issue both pairs from it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_its_own_advice() {
        for (seen, expected) in [
            ("link to 192.0.2.2:1444: no answer within 3s", "firewall"),
            ("link to dmz:1444: the name does not resolve: no answer within 3s", "the resolver of this host"),
            ("link to 192.0.2.2:1444: connection refused", "start the other gateway"),
            ("TLS: its certificate comes from another CA than this link's `ca`", "one CA"),
            ("only 3 of 8 links ready, dmz: 192.0.2.2:1444: connection refused", "lower `prepared`"),
        ] {
            assert!(advise_on_link(seen).contains(expected), "{seen}: {}", advise_on_link(seen));
        }
        let backend = advise_on_probe("web", "internal: the backend refused the connection");
        assert_eq!(backend, "start the backend of `web`, or correct `internal.services.web.connect`");
        assert!(advise_on_probe("web", "link to x:1: no answer within 3s").contains("firewall"));
    }
}
