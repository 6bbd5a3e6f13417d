//! A session whose other side is on a link: its stream is given to the link's task, whose answer says how the
//! session ended.
//!
//! Bytes that were received but not yet taken by then are delivered here, so that a link is finished with a
//! session as soon as it is over on the wire.

use std::{io, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    link::multiplex::{handle::Undelivered, local_party::LocalParty},
    net::{stream::NetStream, tcp, timeout::STALLED_MAX},
    telemetry::registry::SessionCounters,
};

/// How long a stream may take nothing while it is given its last bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryLimit {
    /// As long as it wants: after a clean end nothing else waits for it.
    None,
    /// The other side has failed, and its failure is to be passed on.
    Stalled(Duration),
}

/// Gives a stream the bytes it has yet to take.
pub async fn deliver(
    stream: &mut NetStream,
    undelivered: &Undelivered,
    party: LocalParty,
    counters: &SessionCounters,
    limit: DeliveryLimit,
) -> io::Result<()> {
    for mut left in undelivered.bytes.pieces() {
        while !left.is_empty() {
            let written = stream.write(left);
            let count = match limit {
                DeliveryLimit::None => written.await?,
                DeliveryLimit::Stalled(longest) => {
                    timeout(longest, written).await.map_err(|_| io::ErrorKind::TimedOut)??
                }
            };
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            match party {
                LocalParty::Client => counters.add_down(count),
                LocalParty::Backend => counters.add_up(count),
            }
            left = &left[count..];
        }
    }
    stream.flush().await?;
    if undelivered.has_end {
        stream.shutdown().await?;
    }
    Ok(())
}

/// Delivers what came before a cut, and then passes the cut on.
pub async fn deliver_before_cut(
    stream: &mut NetStream,
    undelivered: &Undelivered,
    party: LocalParty,
    counters: &SessionCounters,
) {
    let limit = DeliveryLimit::Stalled(STALLED_MAX);
    let delivered = deliver(stream, undelivered, party, counters, limit).await;
    if delivered.is_ok()
        && let Some(socket) = stream.tcp()
    {
        tcp::await_acknowledged(socket, STALLED_MAX).await;
    }
}
