//! Two gateways of one name: each is one of its own, and is missed when it goes.

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    process::{Gateway, SOON, TestFolder, until},
    setup::{dmz_half, internal_half},
};

fn rows(status: &Value) -> &[Value] {
    status["pools"].as_array().map_or(&[], Vec::as_slice)
}

/// The instances of the rows that have links, and of those that have none.
fn instances(status: &Value) -> [Vec<&str>; 2] {
    let of = |has_links: bool| {
        let rows =
            rows(status).iter().filter(|row| (row["links"].as_array().map(Vec::len) > Some(0)) == has_links);
        rows.filter_map(|row| row["instance"].as_str()).collect()
    };
    [of(true), of(false)]
}

fn is_missed(status: &Value) -> bool {
    status["alerts"].as_array().is_some_and(|alerts| alerts.iter().any(|alert| alert["kind"] == "peer-lost"))
}

fn instance(gateway: &Gateway<'_>) -> String {
    gateway.status()["instance"].as_str().expect("its instance").to_owned()
}

/// Both stand beside one another for a moment only before one of them is killed.
#[test]
fn of_two_gateways_of_one_name_either_is_missed_until_it_is_back() {
    let place = TestFolder::with_certificates();
    place.write("dmz.yaml", &dmz_half("127.0.0.1:0", &["echo"]));
    let dmz = place.start("dmz");
    let link = format!("127.0.0.1:{}", dmz.link_port());
    for name in ["first", "second"] {
        place.write(&format!("{name}.yaml"), &internal_half(&link, &[("echo", "echo://")]));
    }
    let both =
        |status: &Value| instances(status)[0].len() == 2 && rows(status).len() == 2 && !is_missed(status);
    for killed in ["first", "second"] {
        let (first, second) = (place.start("first"), place.start("second"));
        dmz.wait("both are there", SOON, both);
        let (goes, stays) = if killed == "first" { (&first, &second) } else { (&second, &first) };
        let [gone, left] = [goes, stays].map(instance);
        goes.signal(Signal::KILL);
        let seen = dmz.wait("it is missed", SOON, is_missed);
        assert_eq!(instances(&seen), [vec![&*left], vec![&*gone]], "{killed}: {seen:#}");
        assert_eq!(seen["health"], "degraded", "{killed}");
        // What is over before the next look is no event.
        until("it is told", SOON, || dmz.log().contains("internal at 127.0.0.1: lost").then_some(()));
        // After a restart it is another process, and replaces the lost one.
        let again = place.start(killed);
        let seen = dmz.wait("it is back", SOON, both);
        assert!(!instances(&seen)[0].contains(&&*gone), "{killed}: {seen:#}");
        for gateway in [&first, &second, &again] {
            gateway.signal(Signal::TERM);
        }
        dmz.wait("both have left", SOON, |status| instances(status)[0].is_empty() && !is_missed(status));
    }
}
