//! One side of a session: a client's or backend's stream, a SOCKS5 link, or a place on a link that
//! others share.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::{
    load::SessionPlace,
    multiplex::handle::{IncomingSession, LinkHandle},
    peer_record::PeerRecord,
};
use crate::{
    net::{certificate_watch::RevocationSignal, stream::NetStream},
    proto::multiplex::{frame::CutCause, open::OpenRequest},
};

#[derive(Debug)]
pub enum SessionSide {
    Stream(NetStream),
    /// A place on a link, on which the session has yet to be opened.
    Shared(Box<LinkSlot>),
    /// The other gateway has opened the session on a link.
    Incoming(Box<IncomingSession>),
    /// It was given away.
    Gone,
}

/// A place on a link, and what is to be said when the session is opened there.
#[derive(Debug)]
pub struct LinkSlot {
    pub handle: LinkHandle,
    pub place: SessionPlace,
    pub record: Arc<PeerRecord>,
    pub request: Option<OpenRequest>,
}

impl SessionSide {
    /// The socket below, where there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Stream(stream) => stream.tcp(),
            Self::Shared(_) | Self::Incoming(_) | Self::Gone => None,
        }
    }

    /// Tells when what was shown on it is revoked; of a link that others share, the link's task knows.
    pub fn revocation(&self) -> RevocationSignal {
        match self {
            Self::Stream(stream) => stream.revocation(),
            Self::Shared(_) | Self::Incoming(_) | Self::Gone => RevocationSignal::default(),
        }
    }

    /// The session is cut: a socket is dropped with linger 0 armed, a link is told why.
    pub fn cut(self, cause: CutCause) {
        if let Self::Incoming(session) = self {
            session.cut(cause);
        }
    }
}
