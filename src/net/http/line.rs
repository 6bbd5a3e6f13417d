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
use tokio_util::sync::CancellationToken;

use super::{FIELDS_MAX, HEAD_BYTES_MAX, PATIENCE, READ_BYTES_MAX, payload::Payload, serving::Side};

/// Requests are sent here; the connection itself is kept going by [`super::serving`].
#[derive(Debug)]
pub struct Line {
    sender: SendRequest<Payload>,
    /// Ends the connection at once.
    cut: CancellationToken,
}

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
        let cut = CancellationToken::new();
        let until = cut.clone();
        let going = async move {
            tokio::select! {
                // First: with nobody left to ask, the connection would end as if all were said.
                biased;
                () = until.cancelled() => {}
                ended = connection.with_upgrades() => {
                    if let Err(error) = ended {
                        tracing::debug!("an exchange was cut: {error}");
                    }
                }
            }
        };
        Ok((Self { sender, cut }, Box::pin(going)))
    }

    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request; the head of its response. Without one the line is cut, also where nobody waits for
    /// it any more.
    pub async fn ask(&mut self, request: Request<Payload>) -> Result<Response<Incoming>, Lost> {
        let cutting = self.cut.clone().drop_guard();
        let response = self.asked(request).await?;
        cutting.disarm();
        Ok(response)
    }

    async fn asked(&mut self, request: Request<Payload>) -> Result<Response<Incoming>, Lost> {
        let fares = request.body().fares();
        let sender = &mut self.sender;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::{server::conn::http1 as server, service::service_fn};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::sleep,
    };

    use super::*;
    use crate::net::{
        http::{fields::Of, serving::Sides},
        pipe::{PipeEnd, pipe},
    };

    /// Asks over a line while `other` plays its other end.
    async fn asked(request: Request<Payload>, other: impl AsyncFnOnce(PipeEnd)) -> Result<u16, Lost> {
        let (ours, theirs) = pipe();
        let (mut line, going) = Line::over(ours).await.expect("a fresh pipe");
        let sides = Sides::default();
        sides.add(going);
        let (response, (), ()) = tokio::join!(
            async {
                let response = line.ask(request).await.map(|response| response.status().as_u16());
                drop(line);
                response
            },
            sides.ended(),
            other(theirs)
        );
        response
    }

    fn get() -> Request<Payload> {
        Request::new(Payload::empty())
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_does_not_come_is_late() {
        let began = Instant::now();
        let silent = async |mut other: PipeEnd| {
            let error = other.read_to_end(&mut Vec::new()).await.expect_err("a cut, and no end");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        };
        assert!(matches!(asked(get(), silent).await, Err(Lost::Late)));
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
        let in_time = async |mut other: PipeEnd| {
            sleep(PATIENCE - Duration::from_secs(1)).await;
            other.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("it is taken");
            let _ = other.read_to_end(&mut Vec::new()).await;
        };
        assert!(matches!(asked(get(), in_time).await, Ok(204)));
        let gone = async |other: PipeEnd| drop(other);
        assert!(matches!(asked(get(), gone).await, Err(Lost::Broken(_) | Lost::Unsent(_))));
    }

    /// A request whose body comes in `pieces`, each after a pause, is sent on to a silent backend.
    async fn sent(pieces: usize, pause: Duration) -> Option<Lost> {
        let (mut client, served) = pipe();
        let lost = std::sync::Arc::new(std::sync::Mutex::new(None));
        let service = service_fn(async |request: Request<Incoming>| {
            let (parts, body) = request.into_parts();
            let request = Request::from_parts(parts, Payload::up(body, Of::Client));
            let silent = async |mut other: PipeEnd| {
                let _ = other.read_to_end(&mut Vec::new()).await;
            };
            *lost.lock().expect("no panic") = asked(request, silent).await.err();
            Ok::<_, std::convert::Infallible>(Response::new(Payload::empty()))
        });
        let serving =
            server::Builder::new().header_read_timeout(None).serve_connection(TokioIo::new(served), service);
        let asking = async {
            let head = format!(
                "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                pieces.max(4)
            );
            client.write_all(head.as_bytes()).await.expect("it is taken");
            for _ in 0..pieces {
                sleep(pause).await;
                client.write_all(b"x").await.expect("it is taken");
            }
            let _ = client.read_to_end(&mut Vec::new()).await;
        };
        tokio::select! {
            _ = serving => {}
            () = asking => {}
        }
        lost.lock().expect("no panic").take()
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_told_from_a_backend_that_is_late() {
        let began = Instant::now();
        assert!(matches!(sent(2, PATIENCE / 2).await, Some(Lost::Stopped)), "two of four bytes");
        assert_eq!(began.elapsed(), PATIENCE * 2);
        let began = Instant::now();
        assert!(matches!(sent(5, PATIENCE - Duration::from_secs(1)).await, Some(Lost::Late)));
        assert!(began.elapsed() >= PATIENCE * 5, "the time is that after its end");
    }
}
