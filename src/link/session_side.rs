//! The two sides of a session. State that only one kind of side has is inside that variant: a SOCKS5 link has
//! its pending reply and its guard, a shared link has a slot, and a session opened by the other gateway is
//! answered on its link.

use std::{io, sync::Arc};

use super::{
    handshake,
    link_guard::LinkGuard,
    load::SessionSlot,
    multiplex::handle::{IncomingSession, LinkHandle},
    peer_record::PeerRecord,
};
use crate::{
    net::{certificate_watch::RevocationSignal, stream::NetStream},
    proto::{
        Refusal,
        multiplex::{frame::CutCause, open::OpenRequest},
        socks5,
    },
};

/// The side a session came from, with the answer that is waited for there.
///
/// ```
/// use portcullis::link::{link_guard::LinkGuard, multiplex::handle::IncomingSession, session_side::Downstream};
/// use portcullis::net::stream::NetStream;
///
/// fn asked_over_socks(link: NetStream, guard: LinkGuard) -> Downstream {
///     Downstream::requested(link, guard)
/// }
///
/// fn opened_on_a_link(session: IncomingSession) -> Downstream {
///     Downstream::Opened(Box::new(session))
/// }
/// ```
///
/// A SOCKS5 reply is for a SOCKS5 link, and for no link of our own:
///
/// ```compile_fail,E0308
/// use portcullis::link::{link_guard::LinkGuard, multiplex::handle::IncomingSession, session_side::Downstream};
///
/// fn asked_over_socks(session: IncomingSession, guard: LinkGuard) -> Downstream {
///     Downstream::requested(session, guard)
/// }
/// ```
#[derive(Debug)]
pub enum Downstream {
    /// A client's connection: it gets no message, and a refusal is a reset.
    Client(NetStream),
    /// A SOCKS5 link, which carries this session alone.
    Socks(SocksDownstream),
    /// The other gateway has opened the session on a link of our own.
    Opened(Box<IncomingSession>),
}

/// A SOCKS5 link that a session has come over.
#[derive(Debug)]
pub struct SocksDownstream {
    stream: NetStream,
    reply: SocksReply,
    /// Its guard, held for as long as the session lives.
    _guard: LinkGuard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SocksReply {
    /// CONNECT was asked for, and is not answered yet.
    Pending,
    /// It was sent, or the link was parked, in which case BIND has no reply to refuse with.
    Sent,
}

impl Downstream {
    /// A SOCKS5 link whose other end waits for the reply to CONNECT.
    pub fn requested(stream: NetStream, guard: LinkGuard) -> Self {
        Self::Socks(SocksDownstream { stream, reply: SocksReply::Pending, _guard: guard })
    }

    /// A SOCKS5 link that was parked, and taken.
    pub fn parked(stream: NetStream, guard: LinkGuard) -> Self {
        Self::Socks(SocksDownstream { stream, reply: SocksReply::Sent, _guard: guard })
    }

    /// The stream of its bytes, unless the session must first be attached to a link.
    pub fn stream(&self) -> Option<&NetStream> {
        match self {
            Self::Client(stream) | Self::Socks(SocksDownstream { stream, .. }) => Some(stream),
            Self::Opened(_) => None,
        }
    }

    pub fn stream_mut(&mut self) -> Option<&mut NetStream> {
        match self {
            Self::Client(stream) | Self::Socks(SocksDownstream { stream, .. }) => Some(stream),
            Self::Opened(_) => None,
        }
    }

    /// Signals when a certificate shown on it is revoked. For a shared link, the link's task watches for that.
    pub fn revocation(&self) -> RevocationSignal {
        self.stream().map(NetStream::revocation).unwrap_or_default()
    }

    pub async fn refuse(self, refusal: Refusal) {
        match self {
            Self::Socks(SocksDownstream { stream, reply: SocksReply::Pending, _guard }) => {
                handshake::refuse(stream, refusal).await;
            }
            Self::Opened(session) => session.refuse(refusal).await,
            // Dropped with linger 0 set, the socket is reset.
            Self::Client(_) | Self::Socks(_) => {}
        }
    }

    /// Cuts the session: a socket is dropped with linger 0 set, a link gets the cause.
    pub fn cut(self, cause: CutCause) {
        if let Self::Opened(session) = self {
            session.cut(cause);
        }
    }
}

impl SocksDownstream {
    /// The stream of its bytes.
    pub fn stream_mut(&mut self) -> &mut NetStream {
        &mut self.stream
    }

    /// From here on it carries the session's bytes: answers CONNECT, if that was asked for.
    pub async fn grant(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.reply, SocksReply::Sent) {
            SocksReply::Sent => Ok(()),
            SocksReply::Pending => {
                let sent = socks5::send_reply(&mut self.stream, socks5_proto::Reply::Succeeded);
                sent.await.map_err(io::Error::other)
            }
        }
    }
}

/// The side that a session goes to: connected, or to be opened.
#[derive(Debug)]
pub enum Upstream {
    Backend(NetStream),
    /// A SOCKS5 link, with its guard.
    Socks(NetStream, LinkGuard),
    /// A link that others share.
    Shared(Box<SessionOpening>),
}

/// A session to open on a shared link, with the request to send.
#[derive(Debug)]
pub struct SessionOpening {
    pub slot: LinkSlot,
    pub request: OpenRequest,
}

/// A link, with a slot on it for one session.
#[derive(Debug)]
pub struct LinkSlot {
    pub handle: LinkHandle,
    pub slot: SessionSlot,
    pub record: Arc<PeerRecord>,
}
