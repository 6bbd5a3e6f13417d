//! What a walk of the checklist proves of the edges: the TLS of clients, and that of backends.

use std::sync::Arc;

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    profile::Mode,
    telemetry::checklist::{CheckStep, StepReport, StepResult},
    tls::probe_tls,
};
use rustls::ServerConfig;
use tokio::{io::AsyncReadExt, time::timeout};
use tokio_rustls::TlsAcceptor;

use crate::support::{
    gateway::{Gateway, PATIENCE, TestFolder},
    mode_pair::Plan,
    peers::{Backend, dial, read_all},
    tls::{chain, key},
};

async fn run_step(gateway: &Gateway, step: CheckStep) -> StepReport {
    match gateway.handle.send_and_wait(Command::Verify { steps: vec![step] }).await {
        CommandAnswer::Verified(report) => report.steps[0].clone(),
        other => panic!("{other:?}"),
    }
}

fn folder() -> TestFolder {
    TestFolder::with(&["dmz", "internal", "www", "shop"])
}

/// Whoever clients have to be, and whichever name means the service.
#[tokio::test]
async fn a_probe_goes_through_the_tls_of_its_accept() {
    let pair = "certificate: pki/www.pem, key: pki/www.key";
    for accept in [
        format!("{{ address: 'tls://127.0.0.1:0', tls: {{ {pair} }} }}"),
        format!("{{ address: 'tls://127.0.0.1:0', tls: {{ {pair}, ca: pki/ca.pem, names: [nobody] }} }}"),
        format!("{{ address: 'tls://127.0.0.1:0', sni: ['*.example.com', b.example], tls: {{ {pair} }} }}"),
        format!("{{ address: 'wss://127.0.0.1:0/live', tls: {{ {pair} }}, hosts: [b.example] }}"),
        format!("{{ address: 'https://127.0.0.1:0/live', tls: {{ {pair} }}, hosts: [b.example] }}"),
        format!("{{ address: 'tls://127.0.0.1:0', tls: {{ {pair} }}, proxy: {{ from: [192.0.2.1] }} }}"),
    ] {
        let backend = Backend::new().await;
        let connect = match accept.contains("https:") {
            true => backend.address().replace("tcp:", "http:"),
            false => backend.address(),
        };
        let pair = Plan { accept: &accept, ..Plan::new(Mode::Reverse, &connect) }.start_in(folder()).await;
        let walked = run_step(&pair.dmz, CheckStep::Reverse).await;
        assert_eq!(walked.result, StepResult::Pass, "{accept}: {}", walked.seen);
        assert!(walked.seen.contains(" within the TLS of 127.0.0.1:"), "{}", walked.seen);
        let snapshot = pair.dmz.now().await;
        assert_eq!((snapshot.totals.sessions, snapshot.totals.refused), (0, 0), "{accept}");
        assert_eq!(read_all(&mut backend.accept().await).await, b"", "it is asked nothing");
    }
}

/// Each kind of TLS that clients of a service speak is tried, and plain ports only where there is none.
#[tokio::test]
async fn a_probe_goes_in_by_each_certificate_of_its_service() {
    let tls = |name: &str| {
        format!(
            "{{ address: 'tls://127.0.0.1:0', tls: {{ certificate: pki/{name}.pem, key: pki/{name}.key }} }}"
        )
    };
    let (www, shop) = (tls("www"), tls("shop"));
    let of_both = ", tls: { certificate: pki/www.pem, key: pki/www.key }";
    for (accept, dmz_service, expected) in [
        (format!("{www}, {shop}, 'tcp://127.0.0.1:0'"), "", 2),
        ("{ address: 'tls://127.0.0.1:0' }, 'tls://127.0.0.1:0'".into(), of_both, 1),
        (format!("{{ address: 'tcp://127.0.0.1:0' }}, {www}"), "", 1),
        ("{ address: 'tcp://127.0.0.1:0' }, 'tcp://127.0.0.1:0'".into(), "", 0),
    ] {
        let plan = Plan { accept: &accept, dmz_service, ..Plan::new(Mode::Reverse, "echo://") };
        let pair = plan.start_in(folder()).await;
        let walked = run_step(&pair.dmz, CheckStep::Reverse).await;
        assert_eq!(walked.result, StepResult::Pass, "{}", walked.seen);
        assert_eq!(walked.seen.matches("within the TLS").count(), expected, "{}", walked.seen);
        assert_eq!(walked.seen.matches("orders in ").count(), expected.max(1), "{}", walked.seen);
    }
}

#[tokio::test]
async fn a_probe_takes_no_other_certificate() {
    let folder = folder();
    let accept = "{ address: 'tls://127.0.0.1:0', tls: { certificate: pki/www.pem, key: pki/www.key } }";
    let gateway = folder.start("direct", &Plan { accept, ..Plan::new(Mode::Direct, "echo://") }.direct());
    let at = gateway.client_port("orders").await;
    for (name, is_taken) in [("www", true), ("shop", false)] {
        let leaf = chain(&folder, &format!("{name}.pem")).remove(0);
        let caller = probe_tls::probe_client(leaf, &[], at.ip()).unwrap();
        let called = timeout(PATIENCE, caller.connect(dial(at).await, b"")).await.expect("an answer in time");
        match called {
            Ok(_) => assert!(is_taken, "{name}"),
            Err(error) => {
                let why = error.to_string();
                assert!(!is_taken && why.contains("another certificate than this accept's"), "{why}");
            }
        }
    }
}

/// Whatever the protocol inside; a backend receives no byte but those of TLS.
#[tokio::test]
async fn basic_shakes_hands_with_backends() {
    let folder = folder();
    for (scheme, accept) in [("tls", "tcp"), ("https", "http"), ("wss", "http")] {
        for (name, expected) in [("www", StepResult::Pass), ("shop", StepResult::Fail)] {
            let backend = Backend::new().await;
            let address = backend.address().replace("tcp:", &format!("{scheme}:"));
            let connect = format!("{{ address: '{address}', tls: {{ ca: pki/ca.pem, name: www }} }}");
            let accept = format!("{accept}://127.0.0.1:0");
            let plan = Plan { accept: &accept, ..Plan::new(Mode::Direct, &connect) };
            let gateway = folder.start("direct", &plan.direct());
            let config = ServerConfig::builder().with_no_client_auth().with_single_cert(
                chain(&folder, &format!("{name}.pem")),
                key(&folder, &format!("{name}.key")),
            );
            let shaking = async {
                let stream = backend.accept().await;
                let mut stream = TlsAcceptor::from(Arc::new(config.unwrap())).accept(stream).await?;
                let mut received = Vec::new();
                // Its end may come without a farewell of TLS.
                let _ = timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("it ends in time");
                assert_eq!(received, b"");
                Ok::<_, std::io::Error>(())
            };
            let (walked, shaken) = tokio::join!(run_step(&gateway, CheckStep::Basic), shaking);
            assert_eq!(walked.result, expected, "{scheme} {name}: {}", walked.seen);
            assert_eq!(shaken.is_ok(), expected == StepResult::Pass, "{shaken:?}");
            let word = if expected == StepResult::Pass { "its TLS included" } else { "TLS: " };
            assert!(walked.seen.contains(word), "{}", walked.seen);
        }
    }
}
