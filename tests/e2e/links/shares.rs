//! Who gets what share: turns, patience and links go by a peer's certificate, not by where it dials from.

use tokio::io::AsyncReadExt;

use crate::support::{
    frames::{self, END, HELLO, OPEN, OURS, Wire},
    gateway::{Gateway, Place},
};

/// An internal half in forward mode that two DMZ gateways may dial.
fn inside(place: &Place) -> Gateway {
    let tls = "{ certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz, dmz2] }";
    let text = format!(
        "mode: forward\ninternal:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', maximum: 8, tls: {tls} }}\n  \
         services: {{ echo: {{ connect: 'echo://' }} }}\n"
    );
    place.start("internal", &text)
}

#[tokio::test]
async fn services_that_are_unknown_are_told_at_a_bounded_rate() {
    let place = Place::with(&["dmz", "dmz2", "internal"]);
    let gateway = inside(&place);
    let at = gateway.link_port().await;
    for _ in 0..8 {
        let mut link = Wire::dial(&place, "dmz", at, "internal", &[OURS]).await;
        let offer = link.hear_kind(HELLO).await;
        link.say_frame(HELLO, &frames::grant_of(64, 4096, &offer)).await;
        for number in 0..30 {
            let open = frames::open("s-1", None, &format!("unknown-{number}"));
            link.say_frame(OPEN, &open).await;
            link.hear_kind(frames::REFUSED).await;
        }
        link.say_frame(END, &[]).await;
        let _ = link.stream.read(&mut [0]).await;
    }
    let told = gateway.until_told("unknown service").await;
    let snapshot = gateway.now().await;
    let lines = snapshot.notices.iter().filter(|line| line.text.contains("unknown service")).count();
    assert!(lines < 100, "{lines} lines for 240 opens, such as {told}");
}
