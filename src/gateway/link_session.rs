//! A session whose other side is on a link: its stream is given to the link's task, and what comes back
//! says how it ended.
//!
//! What was received and not taken by then is delivered here, so that a link is free of a session as soon
//! as that is over on the wire.

use std::{io, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    link::multiplex::handle::Undelivered,
    net::{exhausted::ExhaustedResource, stream::NetStream, tcp, timeout::TimeoutError, ws::NotUtf8},
    proto::multiplex::frame::CutCause,
    telemetry::registry::SessionCounters,
};

/// A receiver that takes nothing for so long gets no more of a session that was cut.
const STALLED_MAX: Duration = Duration::from_secs(5);

/// The direction that bytes for a stream are counted in.
#[derive(Debug, Clone, Copy)]
pub enum Toward {
    Client,
    Backend,
}

/// What a failure of a client's stream is to the other gateway.
pub fn cause_of_client(stream: &NetStream, error: &io::Error) -> CutCause {
    if let Some(failure) = stream.pipe().and_then(|pipe| pipe.failure()) {
        return match failure.of {
            crate::net::pipe::FailedParty::Backend => CutCause::Backend,
            crate::net::pipe::FailedParty::Time => CutCause::Time,
        };
    }
    match () {
        () if ExhaustedResource::of(error).is_some() => CutCause::Other,
        () if TimeoutError::is_cause_of(error) => CutCause::Time,
        () if NotUtf8::is_cause_of(error) => CutCause::Backend,
        () => CutCause::Client,
    }
}

/// The same of a backend's.
pub fn cause_of_backend(_: &NetStream, error: &io::Error) -> CutCause {
    if ExhaustedResource::of(error).is_some() { CutCause::Other } else { CutCause::Backend }
}

/// Gives a stream what it has yet to take; `stalled` bounds how long it may take nothing.
pub async fn deliver(
    stream: &mut NetStream,
    rest: &Undelivered,
    toward: Toward,
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
                Toward::Client => counters.add_down(count),
                Toward::Backend => counters.add_up(count),
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

/// The same of a session that was cut: what came before the cut goes first, and is waited for.
pub async fn deliver_before_cut(
    stream: &mut NetStream,
    rest: &Undelivered,
    toward: Toward,
    counters: &SessionCounters,
) {
    let delivered = deliver(stream, rest, toward, counters, Some(STALLED_MAX)).await;
    if delivered.is_ok()
        && let Some(socket) = stream.tcp()
    {
        tcp::await_acknowledged(socket, STALLED_MAX).await;
    }
}
