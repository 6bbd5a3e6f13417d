//! A connection that requests go to, one after another.

use std::sync::atomic::Ordering;

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};

use super::{FIELDS_MAX, HEAD_BYTES_MAX, PATIENCE, READ_BYTES_MAX, payload::Payload, serving::Side};

/// Requests are sent here; the connection itself is kept going by [`super::serving`].
#[derive(Debug)]
pub struct Line(SendRequest<Payload>);

/// Why a request has no response.
#[derive(Debug)]
pub enum Lost {
    /// Not a byte of it was sent.
    Unsent(Box<Request<Payload>>),
    /// Its own body has stopped.
    Stopped,
    /// No head has come in time.
    Late,
    Broken(hyper::Error),
}

impl Line {
    /// A line over a fresh connection, and what keeps it going.
    pub async fn over<T>(connection: T) -> Result<(Self, Side), hyper::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(READ_BYTES_MAX).max_header_size(HEAD_BYTES_MAX).max_headers(FIELDS_MAX);
        let (sender, connection) = builder.handshake(TokioIo::new(connection)).await?;
        let going = async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!("an exchange was cut: {error}");
            }
        };
        Ok((Self(sender), Box::pin(going)))
    }

    pub fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    /// Sends a request; the head of its response.
    pub async fn ask(&mut self, request: Request<Payload>) -> Result<Response<Incoming>, Lost> {
        let fares = request.body().fares();
        let sender = &mut self.0;
        let asked = async {
            match sender.ready().await {
                Ok(()) => {
                    sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
                        Some(unsent) => Lost::Unsent(Box::new(unsent)),
                        None => Lost::Broken(error.into_error()),
                    })
                }
                Err(_) => Err(Lost::Unsent(Box::new(request))),
            }
        };
        tokio::pin!(asked);
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            let asked = timeout_at(deadline, &mut asked).await;
            let stopped = fares.as_ref().is_some_and(|fares| fares.has_stopped.load(Ordering::Relaxed));
            match asked {
                Ok(Err(Lost::Broken(_))) if stopped => return Err(Lost::Stopped),
                Ok(asked) => return asked,
                Err(_) => {}
            }
            // The time is that after the last of the request.
            let Some(fares) = &fares else { return Err(Lost::Late) };
            let moved = fares.has_moved.swap(false, Ordering::Relaxed);
            if fares.has_ended.load(Ordering::Relaxed) && !moved {
                return Err(Lost::Late);
            }
            deadline = Instant::now() + PATIENCE;
        }
    }
}
