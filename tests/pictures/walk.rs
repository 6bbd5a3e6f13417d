//! Makes the recording of a walk: a pair at work in forward mode, which is switched to reverse mode under its clients.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    ports::free_ports,
    process::{Gateway, TestFolder},
    shop::{CLIENTS, SERVICES, backend, keep_end, work},
};

/// Seconds of forward mode that are seen, and of reverse mode.
const BEFORE: Duration = Duration::from_secs(8);
const AFTER: Duration = Duration::from_secs(9);
/// What is kept, at the end.
const KEPT_PICTURES: usize = 20;

/// Writes the end of a recording of the DMZ gateway to `file`.
pub fn record(file: &Path) {
    let folder = TestFolder::with_certificates();
    let ports = free_ports::<5>();
    folder.write("edge.yaml", &outer(&ports));
    folder.write("inside.yaml", &inner(&ports));
    for half in ["edge", "inside"] {
        folder.write(&format!("{half}-reverse.yaml"), &format!("extends: {half}.yaml\nmode: reverse\n"));
    }
    let inside = folder.start_as("inside", &[], &["--no-ui", "--profile", "inside.yaml"]);
    let args = ["--no-ui", "--profile", "edge.yaml", "--record", "walk.jsonl"];
    let edge = folder.start_as("edge", &[], &args);
    edge.wait_healthy();
    let over = Arc::new(AtomicBool::new(false));
    let clients = CLIENTS.map(|(service, from, rate)| {
        let number = SERVICES.iter().position(|(name, _)| *name == service).unwrap();
        let (to, over) = (([127, 0, 0, 1], ports[2 + number]).into(), over.clone());
        thread::spawn(move || work(from, to, rate, &over))
    });
    thread::sleep(BEFORE);
    thread::scope(|scope| {
        for (half, gateway) in [("inside", &inside), ("edge", &edge)] {
            scope.spawn(|| switch(&folder, half, gateway));
        }
    });
    thread::sleep(AFTER);
    let ended = edge.status()["ended"].as_array().map_or(0, Vec::len);
    assert_eq!(ended, 0, "no session was cut by the switch");
    over.store(true, Ordering::Relaxed);
    drop((edge, inside));
    clients.into_iter().for_each(|client| client.join().unwrap());
    keep_end(&folder.path("walk.jsonl"), file, KEPT_PICTURES);
    // The temporary paths are removed, since they mean nothing to a reader.
    let own = folder.path("").display().to_string();
    let kept = fs::read_to_string(file).unwrap();
    fs::write(file, kept.replace(&format!("{own}run/"), "/run/portcullis/").replace(&own, "")).unwrap();
}

fn switch(folder: &TestFolder, half: &str, gateway: &Gateway<'_>) {
    let admin = format!("run/{half}.sock");
    let output = folder.command(&["switch", &format!("{half}-reverse.yaml"), "--admin", &admin]).output();
    assert!(output.unwrap().status.success(), "{}", gateway.log());
}

fn outer([listen, connect, accepts @ ..]: &[u16; 5]) -> String {
    let services: String = SERVICES
        .iter()
        .zip(accepts)
        .map(|((name, _), port)| format!("    {name}: {{ accept: [\"tcp://127.0.0.1:{port}\"] }}\n"))
        .collect();
    format!(
        "name: shop\nmode: forward\ndmz:\n  link:\n    listen: socks+tls://127.0.0.1:{listen}\n    connect: \
         socks+tls://127.0.0.1:{connect}\n    tls: {{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, \
         peers: [internal] }}\n  services:\n{services}"
    )
}

fn inner([connect, listen, ..]: &[u16; 5]) -> String {
    let services: String = SERVICES
        .iter()
        .map(|(name, tenths)| format!("    {name}: {{ connect: \"tcp://{}\" }}\n", backend(*tenths)))
        .collect();
    format!(
        "name: inside\nmode: forward\ninternal:\n  link:\n    listen: socks+tls://127.0.0.1:{listen}\n    connect: \
         socks+tls://127.0.0.1:{connect}\n    tls: {{ certificate: pki/internal.pem, key: pki/internal.key, ca: \
         pki/ca.pem, peers: [dmz] }}\n  services:\n{services}"
    )
}
