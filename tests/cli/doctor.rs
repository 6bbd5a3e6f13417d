//! `doctor` on a gateway that lacks nothing, and on one that has lost its peer.

use std::time::Duration;

use serde_json::Value;

use crate::{
    process::{Place, SOON},
    run,
    setup::Pair,
};

/// Links may be away for a second before they count as lost.
const GONE: Duration = Duration::from_secs(1);

#[test]
fn doctor_exits_1_when_the_peer_is_gone_and_0_while_it_is_there() {
    let place = Place::with_certificates();
    let Pair { dmz, internal } = Pair::reverse(&place, &[("echo", "echo://")]);
    for half in ["dmz", "internal"] {
        let said = run(&place, &["doctor", "--json", "--admin", &format!("run/{half}.sock")]);
        assert_eq!(said.code, Some(0), "{half}: {}{}", said.out, said.err);
        let findings: Vec<Value> = serde_json::from_str(&said.out).expect("a list");
        assert!(findings.iter().all(|finding| finding["severity"] == "should"), "{}", said.out);
    }

    drop(internal);
    dmz.wait("the peer is gone", SOON, |status| {
        status["pools"][0]["gone_seconds"].as_f64().is_some_and(|gone| gone > GONE.as_secs_f64())
    });
    let said = run(&place, &["doctor", "--json", "--admin", "run/dmz.sock"]);
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    let findings: Vec<Value> = serde_json::from_str(&said.out).expect("a list");
    let first = findings.first().expect("the most urgent");
    assert_eq!((&first["id"], &first["severity"]), (&"links-missing".into(), &"must".into()));
    assert_eq!(first["figure"], "0 of 2 links up");
    for field in ["reason", "advice"] {
        assert!(first[field].as_str().is_some_and(|text| !text.is_empty()), "{first}");
    }
    let said = run(&place, &["doctor", "--admin", "run/dmz.sock"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.out.starts_with("must    links-missing  any service, from internal at 127.0.0.1:"),
        "{}",
        said.out
    );

    drop(dmz);
    let nobody = run(&place, &["doctor", "--admin", "run/dmz.sock"]);
    assert_eq!(nobody.code, Some(1), "{}", nobody.out);
    assert!(nobody.out.is_empty() && !nobody.err.is_empty(), "{}", nobody.out);
}
