//! Sample clients for the built-in profile, so that its screen has something to show.

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

/// How many clients run at once.
const CLIENTS: usize = 4;
/// A client gives up if there is no answer within this time.
const ECHO_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest message; each is sent and read back as a whole.
const MESSAGE_BYTES_MAX: usize = 48 * 1024;

/// The usual ports of the built-in profile, with a free one in place of each that is taken.
pub fn free_ports() -> DemoPorts {
    let free = |port: u16| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = listener.or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        // If no port is free at all, the start itself reports it.
        listener.and_then(|listener| Ok(listener.local_addr()?.port())).unwrap_or(port)
    };
    DemoPorts(DemoPorts::USUAL.0.map(free))
}

/// The ports that had to be replaced, for the operator; `None` if none had to be.
pub fn replaced_ports(ports: DemoPorts) -> Option<String> {
    let pairs = DemoPorts::USUAL.0.into_iter().zip(ports.0).filter(|(usual, port)| usual != port);
    let moved: Vec<_> = pairs.map(|(usual, port)| format!("{port} instead of {usual}")).collect();
    (!moved.is_empty()).then(|| format!("a port of the demo is taken; it uses {}", moved.join(", ")))
}

/// Starts a few clients that talk to the demo's echo service as long as it runs.
pub fn start_clients(handle: &GatewayHandle, tasks: &Tasks) {
    for _ in 0..CLIENTS {
        let handle = handle.for_actor("sample client");
        tasks.spawn("sample client", async move {
            while let Some(address) = echo_address(&handle) {
                // The gateway shows a lost session; the client simply comes again.
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
        timeout(ECHO_TIMEOUT, stream.read_exact(part)).await??;
        sleep(Duration::from_millis(fastrand::u64(50..800))).await;
    }
    stream.shutdown().await
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{io, sync::Arc};

    use super::*;
    use crate::{
        gateway::handle,
        profile::{Half, Mode},
        telemetry::snapshot::{ServiceRow, Snapshot},
        tests::happens_after,
    };

    #[tokio::test(start_paused = true)]
    async fn a_sample_client_that_gets_no_answer_gives_up() {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let accept = vec![format!("tcp://{address}")];
        let echo = ServiceRow { accept, ..ServiceRow::new(Half::Dmz, "echo") };
        let snapshot = Snapshot {
            phase: GatewayPhase::Running,
            services: vec![echo],
            ..Snapshot::new("demo", Mode::Direct)
        };
        let (handle, _feed) = handle::channel(Arc::new(snapshot), "test");
        let ended = happens_after(ECHO_TIMEOUT, run_client(&address, &handle)).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
