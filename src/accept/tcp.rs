//! Clients on a TCP port.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;

use super::{
    Negotiated, Reply, Serve,
    door::{self, Doors, Entered, Front},
};
use crate::{
    link::{
        leg::Leg,
        listener::{EVICTED, Greetings},
        turned::Turned,
    },
    net::{listen::Listener, stream::Stream},
    profile::{Role, ServiceName},
    tasks::Tasks,
    telemetry::notices::Notices,
};

/// The service that a probe of our own asks for, if it is one that comes from there: it speaks neither
/// TLS nor the PROXY protocol.
pub type ProbeDoor = Arc<dyn Fn(SocketAddr) -> Option<ServiceName> + Send + Sync>;

/// Accepts clients until the port is closed; who serves them may change while it runs.
pub async fn run(
    listener: Arc<Listener>,
    front: Arc<ArcSwap<Front>>,
    serve: Serve,
    tasks: Tasks,
    notices: Arc<Notices>,
    probes: ProbeDoor,
) {
    let greetings = Arc::new(Greetings::default());
    let write = |more, client: SocketAddr, why: &str| match more {
        0 => tracing::info!(%client, "client turned away: {why}"),
        _ => tracing::info!(more, %client, "clients turned away within a second, of the last: {why}"),
    };
    let turned = Turned::new(tasks.clone(), Arc::new(write));
    let accepted = |stream, client: SocketAddr| {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        if let Some(service) = probes(client) {
            let entered = Entered { client, service, stream: Stream::Tcp(stream), said: Vec::new() };
            return tasks.spawn("probe", serve(negotiated(entered)));
        }
        match &**front.load() {
            Front { proxy: None, doors: Doors::One(service) } => {
                let (service, stream) = (service.clone(), Stream::Tcp(stream));
                let entered = Entered { client, service, stream, said: Vec::new() };
                tasks.spawn("session", serve(negotiated(entered)));
            }
            Front { proxy: Some(_), .. } | Front { doors: Doors::Named(_) | Doors::Web(_), .. } => {
                let (front, serve, greetings) = (front.clone(), serve.clone(), greetings.clone());
                let turned = turned.clone();
                tasks.spawn("session", async move {
                    match greet(stream, client, &front, &greetings).await {
                        Ok(entered) => serve(negotiated(entered)).await,
                        Err(why) => turned.tell(client, why),
                    }
                });
            }
        }
    };
    let trouble = |error: &std::io::Error| {
        notices.error(format!("client port: accept: {error}; accepting pauses until descriptors are free"));
    };
    listener.accept(accepted, trouble).await;
}

/// Lets a client through one of the doors.
async fn greet(
    stream: TcpStream,
    client: SocketAddr,
    front: &ArcSwap<Front>,
    greetings: &Greetings,
) -> Result<Entered, String> {
    let front = front.load_full();
    let (place, evicted) = greetings.begin(client.ip());
    // Boxed: an open session holds no memory for how it came.
    let entered = Box::pin(evicted.run_until_cancelled(door::enter(stream, client, &front))).await;
    greetings.end(place);
    entered.unwrap_or_else(|| Err(EVICTED.into()))
}

fn negotiated(entered: Entered) -> Negotiated {
    let Entered { client, service, stream, said } = entered;
    Negotiated {
        role: Role::Dmz,
        leg: Leg::Stream(stream),
        service,
        id: None,
        client: Some(client),
        peer: None,
        reply: Reply::Silent,
        said,
        seat: None,
        probe: false,
    }
}
