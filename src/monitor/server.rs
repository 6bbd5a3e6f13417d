//! The connections of monitors: each carries one request and one answer, and is limited in every way. A monitor that
//! is silent or endless costs one of few places, and only until its deadline.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    Request, Response,
    body::Incoming,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::{MonitoredGateway, answers};
use crate::{
    admission::handshakes::{HandshakeLimiter, HandshakePermit},
    http::body::MessageBody,
    net::listen::{ListenEvent, Listener},
    tasks::Tasks,
    telemetry::{log::LogEvent, notices::NoticeLog},
};

/// How many monitors and balancers may be connected at once; each is done within milliseconds. Past that, the
/// oldest connection of the address with the most gives way, so that one address cannot keep the others out.
pub const CONNECTIONS_MAX: usize = 16;
/// From the connection to the last byte of the answer: longer than any monitor waits.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest head of a request, and how much is read at once.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const FIELDS_MAX: usize = 64;
/// How long the rest of a client's bytes is read after the answer, so that no reset overtakes the answer.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);

/// Answers until the port is closed.
pub async fn run(listener: Arc<Listener>, watched: MonitoredGateway, tasks: Tasks, notices: Arc<NoticeLog>) {
    let limiter = Arc::new(HandshakeLimiter::new(CONNECTIONS_MAX));
    let accepted = |stream, from: SocketAddr| {
        let (permit, watched) = (HandshakePermit::begin(limiter.clone(), from.ip()), watched.clone());
        tasks.spawn("monitor", async move {
            // A connection that is late or gives way is cut; nothing is owed to a monitor.
            let _ =
                permit.evicted.run_until_cancelled(timeout(EXCHANGE_TIMEOUT, serve(stream, watched))).await;
        });
    };
    let on_event = |reported: ListenEvent<'_>| match reported {
        ListenEvent::Pauses(error) => notices.warn(
            LogEvent::PortPaused.line(format!("the port for monitors cannot accept for the moment: {error}")),
        ),
        ListenEvent::Waits { at, why } => {
            notices.warn(LogEvent::PortWaits.line(format!("{at}: the port for monitors waits: {why}")))
        }
        ListenEvent::Listens(at) => {
            notices.info(LogEvent::PortListens.line(format!("{at}: the port for monitors listens")))
        }
    };
    listener.accept(accepted, on_event).await;
}

async fn serve(mut stream: TcpStream, watched: MonitoredGateway) {
    let answer = service_fn(|request: Request<Incoming>| {
        let watched = &watched;
        async move { Ok::<_, Infallible>(respond(&request, watched).await) }
    });
    let mut server = http1::Builder::new();
    server.keep_alive(false).header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX).max_headers(FIELDS_MAX);
    // A client that breaks off, or sends something that is not a request, has been answered as far as possible.
    let _ = server.serve_connection(TokioIo::new(&mut stream), answer).await;
    let rest = async {
        let mut discard_buffer = [0; 1024];
        while matches!(stream.read(&mut discard_buffer).await, Ok(1..)) {}
    };
    let _ = timeout(LINGER_TIMEOUT, rest).await;
}

async fn respond(request: &Request<Incoming>, watched: &MonitoredGateway) -> Response<MessageBody> {
    let accepted = request.headers().get(ACCEPT).map_or(&b""[..], |accepted| accepted.as_bytes());
    let reported = answers::answer_request(request.method(), request.uri(), accepted, watched).await;
    let mut response = Response::new(MessageBody::text(reported.body));
    *response.status_mut() = reported.status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(reported.content_type));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if reported.status == hyper::StatusCode::METHOD_NOT_ALLOWED {
        fields.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio::{io::AsyncWriteExt, sync::watch};

    use super::*;
    use crate::{
        monitor::LastTurn,
        net::listen,
        profile::{BindPolicy, HostPort, Mode},
        telemetry::snapshot::Snapshot,
        tests::happens_after,
    };

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_does_not_end_its_request_is_cut_in_time() {
        let at = HostPort { host: "127.0.0.1".into(), port: 0 };
        let found = Ok(vec![([127, 0, 0, 1], 0).into()]);
        let listener = listen::bind(&at, found, BindPolicy::Now).unwrap();
        let mut monitor = TcpStream::connect(listener.local_addrs()[0]).await.unwrap();
        monitor.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        let snapshots = watch::channel(Arc::new(Snapshot::new("one", Mode::Direct))).1;
        let watched = MonitoredGateway::new(snapshots, LastTurn::default());
        let mut received = [0; 1];
        let received = tokio::select! {
            received = happens_after(EXCHANGE_TIMEOUT, monitor.read(&mut received)) => received,
            () = run(listener, watched, Tasks::default(), Arc::default()) => unreachable!("it listens"),
        };
        assert!(matches!(received, Ok(0) | Err(_)), "{received:?}");
    }
}
