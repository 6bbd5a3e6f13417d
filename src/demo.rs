//! Sample clients of the built-in profile, so that its screen has something to show.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    gateway::handle::GatewayHandle, profile::DemoPorts, tasks::Tasks, telemetry::snapshot::GatewayPhase,
};

/// Clients at once.
const CLIENTS: usize = 4;
/// A client that gets no answer gives up.
const ANSWER: Duration = Duration::from_secs(5);
/// Largest message; each is sent and read back whole.
const MESSAGE_BYTES_MAX: usize = 48 * 1024;

/// The usual ports of the built-in profile, with a free one in place of each that is taken.
pub fn free_ports() -> DemoPorts {
    let free = |port: u16| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = listener.or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        // Without any free port the start itself says so.
        listener.and_then(|listener| Ok(listener.local_addr()?.port())).unwrap_or(port)
    };
    DemoPorts(DemoPorts::USUAL.0.map(free))
}

/// Which ports had to be replaced, for the operator; `None` where all are the usual ones.
pub fn replaced_ports(ports: DemoPorts) -> Option<String> {
    let pairs = DemoPorts::USUAL.0.into_iter().zip(ports.0).filter(|(usual, port)| usual != port);
    let moved: Vec<_> = pairs.map(|(usual, port)| format!("{port} instead of {usual}")).collect();
    (!moved.is_empty()).then(|| format!("a port of the demo is taken; it uses {}", moved.join(", ")))
}

/// Starts a few clients that talk to the demo's echo service for as long as it is in force.
pub fn start_clients(handle: &GatewayHandle, tasks: &Tasks) {
    for _ in 0..CLIENTS {
        let handle = handle.for_asker("sample client");
        tasks.spawn("sample client", async move {
            while let Some(address) = echo_address(&handle) {
                // A lost session is shown by the gateway; the client only comes again.
                let _ = run_client(&address, &handle).await;
                sleep(Duration::from_millis(fastrand::u64(500..3000))).await;
            }
        });
    }
}

fn echo_address(handle: &GatewayHandle) -> Option<String> {
    let snapshot = handle.latest();
    if snapshot.profile != "demo" || snapshot.phase != GatewayPhase::Running {
        return None;
    }
    let service = snapshot.services.iter().find(|service| service.name == "echo")?;
    Some(service.accept.first()?.trim_start_matches("tcp://").to_owned())
}

async fn run_client(address: &str, handle: &GatewayHandle) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let mut message = vec![b'.'; MESSAGE_BYTES_MAX];
    for _ in 0..fastrand::usize(20..200) {
        if echo_address(handle).is_none() {
            break;
        }
        let part = &mut message[..fastrand::usize(1..=MESSAGE_BYTES_MAX)];
        stream.write_all(part).await?;
        timeout(ANSWER, stream.read_exact(part)).await??;
        sleep(Duration::from_millis(fastrand::u64(50..800))).await;
    }
    stream.shutdown().await
}
