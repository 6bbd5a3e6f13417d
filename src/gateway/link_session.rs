//! A session whose other side is on a link: its stream is given to the link's task, whose answer says how the
//! session ended.
//!
//! Bytes that were received but not yet taken by then are delivered here, so that a link is finished with a
//! session as soon as it is over on the wire.

use std::{io, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    link::multiplex::handle::Undelivered,
    net::{
        exhausted::ExhaustedResource,
        stream::NetStream,
        tcp,
        timeout::{STALLED_MAX, TimeoutError},
        ws::NotUtf8,
    },
    proto::multiplex::frame::CutCause,
    telemetry::registry::SessionCounters,
};

/// The direction in which bytes for a stream are counted.
#[derive(Debug, Clone, Copy)]
pub enum CountedDirection {
    Client,
    Backend,
}

/// The cause to report to the other gateway when a client's stream fails.
pub fn cause_of_client(stream: &NetStream, error: &io::Error) -> CutCause {
    if let Some(failure) = stream.pipe().and_then(|pipe| pipe.failure()) {
        return match failure.party {
            crate::net::pipe::FailureOrigin::Backend => CutCause::Backend,
            crate::net::pipe::FailureOrigin::Timeout => CutCause::Time,
        };
    }
    match () {
        () if ExhaustedResource::of(error).is_some() => CutCause::Other,
        () if TimeoutError::is_cause_of(error) => CutCause::Time,
        () if NotUtf8::is_cause_of(error) => CutCause::Backend,
        () => CutCause::Client,
    }
}

/// The cause to report to the other gateway when a backend's stream fails.
pub fn cause_of_backend(_: &NetStream, error: &io::Error) -> CutCause {
    if ExhaustedResource::of(error).is_some() { CutCause::Other } else { CutCause::Backend }
}

/// Gives a stream the bytes it has yet to take; `stalled` limits how long it may take nothing.
pub async fn deliver(
    stream: &mut NetStream,
    rest: &Undelivered,
    toward: CountedDirection,
    counters: &SessionCounters,
    stalled: Option<Duration>,
) -> io::Result<()> {
    for mut left in rest.bytes.pieces() {
        while !left.is_empty() {
            let written = stream.write(left);
            let count = match stalled {
                Some(stalled) => timeout(stalled, written).await.map_err(|_| io::ErrorKind::TimedOut)??,
                None => written.await?,
            };
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            match toward {
                CountedDirection::Client => counters.add_down(count),
                CountedDirection::Backend => counters.add_up(count),
            }
            left = &left[count..];
        }
    }
    stream.flush().await?;
    if rest.has_end {
        stream.shutdown().await?;
    }
    Ok(())
}

/// Delivers what came before a cut, and then passes the cut on.
pub async fn deliver_before_cut(
    stream: &mut NetStream,
    rest: &Undelivered,
    toward: CountedDirection,
    counters: &SessionCounters,
) {
    let delivered = deliver(stream, rest, toward, counters, Some(STALLED_MAX)).await;
    if delivered.is_ok()
        && let Some(socket) = stream.tcp()
    {
        tcp::await_acknowledged(socket, STALLED_MAX).await;
    }
}
