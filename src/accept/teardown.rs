//! How a client connection, and what belongs to it, ends: an upstream session together with its session, a
//! session that could not serve a request, or the connection itself.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hyper::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::SessionOutcome;
use crate::{
    http::{
        LINGER_IDLE_TIMEOUT, LINGER_TIMEOUT,
        checked_stream::CheckedStream,
        driver::{ConnectionDriver, ConnectionDrivers},
        error_response::{self, ErrorResponse},
        keep_alive::ConnectionPhase,
    },
    net::{stream::NetStream, tcp, timeout::STALLED_MAX},
    proto::Refusal,
    telemetry::{end::EndedBy, rate_limited::RateLimitedLog},
};

/// Size of the buffer for bytes that are discarded. Usually none arrive, so it is small.
const DISCARD_BUFFER_BYTES: usize = 8 * 1024;

/// Drives both ends of an upstream session. Requests that are written into its pipe are read by the session in
/// the same turn, and what the session has produced is read as well. If a client leaves in the middle of an
/// exchange, the session sees a cut.
pub(super) fn drive_until_closed(
    going: ConnectionDriver,
    session: ConnectionDriver,
    is_cut: Arc<AtomicBool>,
) -> ConnectionDriver {
    let sides = ConnectionDrivers::default();
    let going = sides.add(going);
    sides.add(session);
    Box::pin(poll_fn(move |cx| {
        if is_cut.load(Ordering::Relaxed) {
            drop(sides.take(going));
        }
        let _ = sides.poll(cx);
        sides.poll(cx)
    }))
}

/// The response that tells a client how its session ended.
pub(super) fn error_response_for(answer: &SessionOutcome) -> ErrorResponse {
    let (status, words) = match (answer.refusal, answer.end.ended_by) {
        (Some(Refusal::BackendRefused | Refusal::BackendUnreachable), _) => {
            (StatusCode::BAD_GATEWAY, "the service cannot be reached")
        }
        (Some(Refusal::BackendLate), _) | (None, EndedBy::Time) => {
            (StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time")
        }
        (Some(Refusal::ServiceDown), _) => (StatusCode::SERVICE_UNAVAILABLE, "the service is down"),
        (Some(Refusal::Full), _) => (StatusCode::SERVICE_UNAVAILABLE, "the service is full"),
        (Some(Refusal::Draining), _) | (None, EndedBy::Operator) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the service is closing")
        }
        (
            Some(Refusal::Unavailable | Refusal::OtherLink | Refusal::UnknownService | Refusal::NotAllowed),
            _,
        ) => (StatusCode::SERVICE_UNAVAILABLE, "the service is not available now"),
        (
            None,
            EndedBy::Nobody
            | EndedBy::Client
            | EndedBy::Backend
            | EndedBy::Peer
            | EndedBy::Limit
            | EndedBy::ClientLimit
            | EndedBy::Policy
            | EndedBy::Internal,
        ) => (StatusCode::BAD_GATEWAY, "the service ended before it had answered"),
    };
    ErrorResponse::new(status, words)
}

/// Reports what went wrong with a connection that has ended, and closes what hyper has left of it.
pub(super) async fn close_connection(
    left: Option<CheckedStream>,
    ended: hyper::Result<()>,
    timed_out: Option<ConnectionPhase>,
    (client, log): (SocketAddr, &RateLimitedLog),
) {
    let left = left.map(CheckedStream::into_inner);
    let is_cut = ended.as_ref().is_err_and(|error| !error.is_parse());
    match (&ended, timed_out) {
        (Err(error), _) => log.reject_client(client, &error.to_string()),
        (Ok(()), Some(ConnectionPhase::Head)) => {
            log.reject_client(client, "its request was not complete in time");
        }
        (Ok(()), Some(ConnectionPhase::Idle | ConnectionPhase::Exchange) | None) => {}
    }
    if let Some(left) = &left
        && ended.as_ref().is_err_and(hyper::Error::is_user)
        && let Some(socket) = left.stream.tcp()
    {
        // An answer has failed, and the reset must not overtake the part of it that was sent.
        tcp::await_acknowledged(socket, STALLED_MAX).await;
    }
    if let Some(left) = left
        && !is_cut
    {
        let last = if timed_out == Some(ConnectionPhase::Head) { error_response::LATE_HEAD } else { b"" };
        close_lingering(left.stream, last).await;
    }
}

/// Reads and discards, so that no reset overtakes the last answer.
pub(super) async fn close_lingering(mut stream: NetStream, last: &[u8]) {
    let received = async {
        // A client that has already left receives nothing.
        let _ = stream.write_all(last).await;
        let _ = stream.shutdown().await;
        let mut discard_buffer = Vec::with_capacity(DISCARD_BUFFER_BYTES);
        while matches!(timeout(LINGER_IDLE_TIMEOUT, stream.read_buf(&mut discard_buffer)).await, Ok(Ok(1..)))
        {
            discard_buffer.clear();
        }
    };
    let _ = timeout(LINGER_TIMEOUT, received).await;
    stream.let_close_cleanly();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{net::pipe::pipe, tests::happens_after};

    /// Closes a silent client at once. One that keeps sending is read until the limit.
    #[tokio::test(start_paused = true)]
    async fn a_refused_client_is_read_until_it_stops_or_the_limit() {
        for (every, expected) in [(None, LINGER_IDLE_TIMEOUT), (Some(Duration::from_secs(1)), LINGER_TIMEOUT)]
        {
            let (ours, theirs) = pipe();
            let (mut reader, mut writer) = tokio::io::split(theirs);
            let continues = async {
                let Some(every) = every else { return std::future::pending().await };
                // Until the other end is closed.
                while writer.write_all(b"more").await.is_ok() {
                    tokio::time::sleep(every).await;
                }
            };
            let answer = async {
                let mut answer = Vec::new();
                let _ = reader.read_to_end(&mut answer).await;
                assert_eq!(answer, b"no");
                std::future::pending().await
            };
            tokio::select! {
                () = happens_after(expected, close_lingering(NetStream::Pipe(Box::new(ours)), b"no")) => {}
                () = continues => panic!("it is not heard any more"),
                () = answer => {}
            }
        }
    }
}
