//! Filters as an operator types them: what they match, and what is said of those that cannot be read.

use super::*;

fn row() -> SessionRow {
    SessionRow {
        gateway: None,
        id: "0049ad".into(),
        half: Half::Dmz,
        service: "Orders".into(),
        client: "203.0.113.7:51220".into(),
        peer: Some("internal-2".into()),
        phase: SessionPhase::Relaying,
        age_seconds: 400.0,
        idle_seconds: 2.0,
        last_byte_seconds: None,
        bytes_up: 5_000_000,
        bytes_down: 10,
        rate_up: 1_500_000,
        rate_down: 0,
        waited_ms: Some(212.0),
        connected_ms: None,
        via: None,
        user: Some("Alice".into()),
        requests: 0,
        backend: None,
    }
}

fn ended() -> EndedRow {
    EndedRow {
        gateway: None,
        id: "0049ae".into(),
        half: Half::Dmz,
        service: "Orders".into(),
        client: "203.0.113.9:51221".into(),
        peer: None,
        end: "TW".into(),
        reason: "no link within 3 s".into(),
        seconds: 3.0,
        ago_seconds: 1.0,
        bytes_up: 0,
        bytes_down: 0,
        user: None,
        requests: 0,
        backend: None,
    }
}

fn snapshot() -> Snapshot {
    let service = ServiceRow {
        accept: vec!["ws://0.0.0.0:8001/chat".into()],
        connect: Some("app-1.corp:8443".into()),
        ..ServiceRow::new(Half::Dmz, "Orders")
    };
    Snapshot { services: vec![service], ..Snapshot::new("edge", Mode::Reverse) }
}

#[test]
fn words_fields_amounts_and_their_opposites() {
    let row = row();
    for (text, expected) in [
        ("", true),
        ("orders", true),
        ("ORDERS 203.0", true),
        ("orders chat", false),
        ("!chat", true),
        ("!orders", false),
        ("service:ord", true),
        ("user:alice", true),
        ("user:bob", false),
        ("client:orders", false),
        ("via:internal-2 peer:internal", true),
        ("!via:internal-2", false),
        ("state:relaying half:dmz", true),
        ("state:waiting", false),
        ("up>1M age>5m idle<10s", true),
        ("up>2M", false),
        ("up>1.4M !down>0", true),
        ("total>5m", true),
        ("203.0.113.7:51220", true),
        ("age>1h", false),
        ("in>1M out<1 wait>100ms wait<1s", true),
        ("wait>1s", false),
        ("target:app-1 mode:reverse", true),
        ("mode:forward", false),
        ("port:51220 port:8001 port:8443", true),
        ("port:5122", false),
        ("code:TW", false),
        ("!code:TW !reason:link", true),
        ("/app-[12]/ client:/^203[.]0/", true),
        ("/ORDERS/ !/chat|mail/", true),
        ("/2[.]7 x/", false),
        ("service:/^o.*s$/ orders", true),
        ("app-1.corp:8443", true),
    ] {
        assert_eq!(
            SessionFilter::parse(text).unwrap().matches(&snapshot(), ListedSession::Open(&row)),
            expected,
            "{text}"
        );
    }
}

#[test]
fn ended_sessions_are_found_by_their_end() {
    for (text, expected) in [
        ("code:TW", true),
        ("code:t state:ended", true),
        ("code:W", false),
        ("reason:link", true),
        ("/no link within [0-9] s/", true),
        ("in>0", false),
        ("!in>0", true),
    ] {
        let filter = SessionFilter::parse(text).unwrap();
        assert_eq!(filter.matches(&snapshot(), ListedSession::Ended(&ended())), expected, "{text}");
    }
}

#[test]
fn an_invalid_filter_has_its_reason() {
    for (text, expected) in [
        ("!", "`!` stands alone"),
        ("colour:red", "no field `colour`; there are client, user, service"),
        ("client:", "`client:` lacks a value"),
        ("size>1M", "no amount `size`; there are in, out"),
        ("age>5", "`5` is not an amount; write 100ms, 30s"),
        ("/app", "a pattern ends in `/`"),
        ("/app(/", "`/app(/` is not a valid pattern: unclosed group"),
        ("/a{1000}{1000}/", "`/a{1000}{1000}/` is not a valid pattern: Compiled regex exceeds size limit"),
        ("port:/80/", "a port is a number"),
        ("port:http", "`http` is not a port"),
        ("up>fast", "`fast` is not an amount; write 500"),
    ] {
        let wrong = SessionFilter::parse(text).unwrap_err();
        assert!(wrong.starts_with(expected), "{text}: {wrong}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_brings_it_down(text: String) {
        if let Ok(filter) = SessionFilter::parse(&text) {
            filter.matches(&snapshot(), ListedSession::Open(&row()));
        }
    }
}
