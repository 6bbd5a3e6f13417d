//! Backends while clients keep coming: one that dies costs the sessions that it carries and no others, and it comes
//! back without a rush.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portcullis::{
    profile::Mode,
    tasks::Tasks,
    telemetry::snapshot::{BackendRowState, Snapshot},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::support::{gateway::PATIENCE, mode_pair::Plan, peers::Reserved};

/// Each has one session at a time.
const CLIENTS: usize = 8;
/// Sessions that are counted together; an even share of them is 100.
const ROUND: usize = 300;

/// A server that sends its number to each client, and then echoes.
#[derive(Default)]
struct Server {
    listening: (CancellationToken, Tasks),
    sessions: (CancellationToken, Tasks),
}

impl Server {
    async fn start(number: u8, at: SocketAddr) -> Self {
        let (server, listener) = (Self::default(), TcpListener::bind(at).await.unwrap());
        let (cut, sessions) = server.sessions.clone();
        let accepting = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let cut = cut.clone();
                sessions.spawn("session", async move {
                    // The other side may go at any time.
                    let _ = cut.run_until_cancelled(answer(stream, number)).await;
                });
            }
        };
        let (stop, tasks) = server.listening.clone();
        tasks.spawn("server", async move {
            stop.run_until_cancelled(accepting).await;
        });
        server
    }

    /// Closes the port, then cuts every open connection.
    async fn kill(self) {
        for (stop, tasks) in [self.listening, self.sessions] {
            stop.cancel();
            tasks.all_ended().await;
        }
    }
}

async fn answer(mut stream: TcpStream, number: u8) -> io::Result<()> {
    let mut words = [0; 4];
    stream.write_u8(number).await?;
    stream.read_exact(&mut words).await?;
    stream.write_all(&words).await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// A whole session; the number of its server.
async fn session(at: SocketAddr) -> io::Result<u8> {
    let mut stream = TcpStream::connect(at).await?;
    let number = stream.read_u8().await?;
    stream.write_all(b"ping").await?;
    let mut words = [0; 4];
    stream.read_exact(&mut words).await?;
    if words != *b"ping" {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(number)
}

/// What has become of the sessions.
#[derive(Default)]
struct Counts {
    /// Those that went well, by their server.
    served: [AtomicUsize; 3],
    /// Those that did not, by their client.
    failed: [AtomicUsize; CLIENTS],
}

impl Counts {
    fn by_server(&self) -> [usize; 3] {
        self.served.each_ref().map(|count| count.load(Ordering::SeqCst))
    }

    fn failed(&self) -> [usize; CLIENTS] {
        self.failed.each_ref().map(|count| count.load(Ordering::SeqCst))
    }

    /// How many of the next sessions each server has.
    async fn round(&self) -> [usize; 3] {
        let before = self.by_server();
        let counting = async {
            let mut looks = interval(Duration::from_millis(5));
            loop {
                looks.tick().await;
                let now = self.by_server();
                let new = [0, 1, 2].map(|at: usize| now[at] - before[at]);
                if new.iter().sum::<usize>() >= ROUND {
                    return new;
                }
            }
        };
        timeout(5 * PATIENCE, counting).await.expect("clients are served")
    }
}

/// A client that comes again and again.
async fn keep_coming(client: usize, at: SocketAddr, counts: Arc<Counts>) {
    loop {
        let count = match timeout(PATIENCE, session(at)).await {
            Ok(Ok(number)) => &counts.served[usize::from(number)],
            Ok(Err(_)) | Err(_) => &counts.failed[client],
        };
        count.fetch_add(1, Ordering::SeqCst);
        // The ports of sessions that are over stay in use for a minute.
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_backend_that_dies_costs_what_it_carries_and_comes_back_slowly() {
    let ports = [Reserved::new(), Reserved::new(), Reserved::new()];
    let start = async |number: u8| Server::start(number, ports[usize::from(number)].at()).await;
    let (first, _second, _third) = (start(0).await, start(1).await, start(2).await);
    let list = ports.each_ref().map(|port| format!("'tcp://{}'", port.at())).join(", ");
    let backends = format!("[{list}], rest: 300ms");
    let pair = Plan::new(Mode::Reverse, &backends).start().await;
    let at = pair.dmz.client_port("orders").await;
    let (counts, clients) = (Arc::<Counts>::default(), Tasks::default());
    for client in 0..CLIENTS {
        clients.spawn("client", keep_coming(client, at, counts.clone()));
    }
    let even = counts.round().await;
    assert!(even.iter().all(|count| *count >= 80), "{even:?}");
    assert_eq!(counts.failed(), [0; CLIENTS]);

    first.kill().await;
    let rests = |now: &Snapshot| now.services[0].backends[0].state == BackendRowState::Resting;
    pair.inner().until("the dead one rests", rests).await;
    assert_eq!(counts.round().await[0], 0);
    // What it carried was one session of a client at most: whoever has lost that has lost no other.
    let lost = counts.failed();
    assert!(lost.iter().all(|count| *count <= 1), "{lost:?}");

    let _again = start(0).await;
    pair.inner().until_notice("is up again").await;
    let back = counts.round().await;
    assert!((1..75).contains(&back[0]), "{back:?}");
    let grown = async { while counts.round().await[0] < 80 {} };
    timeout(Duration::from_secs(30), grown).await.expect("its whole share again");
    assert_eq!(counts.failed(), lost, "nothing was lost on the way back");
}
