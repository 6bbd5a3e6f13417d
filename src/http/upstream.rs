//! A connection on which requests are sent, one after another. It knows whether it can be used again; which
//! connection a request gets is decided in `connect`.

use std::{
    future::{poll_fn, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    ANSWER_FIELDS_MAX, HeadSource, READ_BYTES_MAX,
    body::{BodyError, MessageBody},
    driver::ConnectionDriver,
    early_response::{EarlyResponseStream, ResponseCapture, UnreadBytes},
    parse_error::ResponseParseError,
};

/// Sends requests on a connection, which is itself driven by [`super::driver`].
#[derive(Debug)]
pub struct UpstreamConnection {
    sender: SendRequest<MessageBody>,
    /// Cancelled to end the connection at once.
    cut: CancellationToken,
    capture: Arc<ResponseCapture>,
    answer: Option<Duration>,
}

/// Why a request has no response.
#[derive(Debug)]
pub enum ResponseFailure {
    /// Not a byte of it was sent.
    Unsent(Box<Request<MessageBody>>),
    /// The request's own body has stalled.
    BodyStalled,
    /// No head arrived in time.
    TimedOut,
    /// The request's own body was cut.
    BodyCut,
    /// It was closed before a byte came back.
    Unanswered,
    Invalid(ResponseParseError),
}

impl UpstreamConnection {
    /// Opens HTTP on a fresh connection; returns it with its driver. The head of an answer must arrive within
    /// `answer` of the request's end, if this is checked here.
    pub async fn handshake<T>(
        connection: T,
        from: HeadSource,
        answer: Option<Duration>,
    ) -> Result<(Self, ConnectionDriver), hyper::Error>
    where
        T: AsyncRead + AsyncWrite + UnreadBytes + Unpin + Send + 'static,
    {
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(READ_BYTES_MAX)
            .max_header_size(from.head_bytes_max())
            .max_headers(from.fields_max(ANSWER_FIELDS_MAX));
        let capture = Arc::<ResponseCapture>::default();
        let connection = EarlyResponseStream::new(connection, capture.clone());
        let (sender, connection) = builder.handshake(TokioIo::new(connection)).await?;
        let cut = CancellationToken::new();
        let until = cut.clone();
        let going = async move {
            tokio::select! {
                // Checked first: with nobody left to send requests, the connection would seem to have ended
                // normally.
                biased;
                () = until.cancelled() => {}
                ended = connection.with_upgrades() => {
                    if let Err(error) = ended {
                        tracing::debug!(event = "exchange_cut", "an exchange was cut: {error}");
                    }
                }
            }
        };
        let mut driver: ConnectionDriver = Box::pin(going);
        // Hyper takes no request before that. Whoever sends one now finds it written with the next turn of the
        // driver, before a session is opened for it: so it goes out together with `open`.
        let has_ended = poll_fn(|cx| Poll::Ready(driver.as_mut().poll(cx).is_ready())).await;
        if has_ended {
            driver = Box::pin(ready(()));
        }
        Ok((Self { sender, cut, capture, answer }, driver))
    }

    /// The connection itself after an upgrade, with the bytes that were already read from it.
    pub async fn into_upgraded<T>(upgraded: OnUpgrade) -> Result<(T, Bytes), BodyError>
    where
        T: AsyncRead + AsyncWrite + UnreadBytes + Unpin + Send + 'static,
    {
        let parts = upgraded
            .await?
            .downcast::<TokioIo<EarlyResponseStream<T>>>()
            .map_err(|_| "its connection was lost")?;
        Ok((parts.io.into_inner().into_inner(), parts.read_buf))
    }

    pub fn is_open(&self) -> bool {
        !self.sender.is_closed() && !self.capture.has_peer_stopped_reading()
    }

    /// Whether the last exchange is over on both sides.
    pub fn is_idle(&self) -> bool {
        self.is_open() && self.sender.is_ready()
    }

    /// Whether a connection that has been waiting can be used: nothing may have arrived on it. If
    /// something did, nobody requested it, and it would be taken for the answer to the next request.
    pub fn poll_unused(&self, driver: &mut ConnectionDriver, cx: &mut Context<'_>) -> bool {
        let polled = self.capture.during_silence(|| driver.as_mut().poll(cx));
        polled.is_pending() && self.is_idle()
    }

    /// Sends a request; returns the head of its response. If there is none, the connection is cut, even if
    /// nobody is waiting any more.
    pub async fn send(
        &mut self,
        request: Request<MessageBody>,
    ) -> Result<Response<Incoming>, ResponseFailure> {
        let cutting = self.cut.clone().drop_guard();
        self.capture.start();
        let response = self.try_send(request).await;
        self.capture.take();
        let response = response?;
        cutting.disarm();
        Ok(response)
    }

    async fn try_send(
        &mut self,
        request: Request<MessageBody>,
    ) -> Result<Response<Incoming>, ResponseFailure> {
        let progress = request.body().progress();
        let (sender, capture) = (&mut self.sender, &self.capture);
        let sending = async {
            match sender.ready().await {
                Ok(()) => {
                    sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
                        Some(unsent) => ResponseFailure::Unsent(Box::new(unsent)),
                        None => response_failure(&error.into_error(), capture),
                    })
                }
                Err(_) => Err(ResponseFailure::Unsent(Box::new(request))),
            }
        };
        tokio::pin!(sending);
        let began = Instant::now();
        loop {
            let due = match &progress {
                None => Some(began),
                Some(progress) => progress.state().given,
            };
            // While more of the request is to come, no answer is due. The time starts with the next part, which
            // may have arrived by the end of this one.
            let due = self.answer.map(|answer| due.unwrap_or_else(Instant::now) + answer);
            let sending = match due {
                Some(due) => timeout_at(due, &mut sending).await,
                None => Ok(sending.as_mut().await),
            };
            let body_state = progress.as_ref().map(|progress| progress.state());
            match sending {
                Ok(Err(
                    ResponseFailure::BodyCut | ResponseFailure::Unanswered | ResponseFailure::Invalid(_),
                )) if body_state.is_some_and(|body_state| body_state.has_stopped) => {
                    return Err(ResponseFailure::BodyStalled);
                }
                Ok(sending) => return sending,
                Err(_) => {
                    let given = body_state.map_or(Some(began), |body_state| body_state.given);
                    let answer = self.answer.unwrap_or_default();
                    if given.is_some_and(|given| given.elapsed() >= answer) {
                        return Err(ResponseFailure::TimedOut);
                    }
                }
            }
        }
    }
}

/// Why an answer could not be read.
fn response_failure(error: &hyper::Error, capture: &ResponseCapture) -> ResponseFailure {
    if error.is_user() {
        return ResponseFailure::BodyCut;
    }
    let head = capture.take();
    if head.is_empty() && !error.is_parse() {
        return ResponseFailure::Unanswered;
    }
    ResponseFailure::Invalid(ResponseParseError::diagnose(&head))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use hyper::{server::conn::http1 as server, service::service_fn};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::sleep,
    };

    use super::*;
    use crate::{
        http::{driver::ConnectionDrivers, fields::HeadOrigin},
        net::pipe::{PipeEnd, pipe},
    };

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Sends a request on a connection while `other` plays its other end.
    async fn send_request(
        request: Request<MessageBody>,
        other: impl AsyncFnOnce(PipeEnd),
    ) -> Result<u16, ResponseFailure> {
        let (ours, theirs) = pipe();
        let (mut line, going) = UpstreamConnection::handshake(ours, HeadSource::Outside, Some(PATIENCE))
            .await
            .expect("a fresh pipe");
        let sides = ConnectionDrivers::default();
        sides.add(going);
        let (response, (), ()) = tokio::join!(
            async {
                let response = line.send(request).await.map(|response| response.status().as_u16());
                drop(line);
                response
            },
            sides.all_ended(),
            other(theirs)
        );
        response
    }

    fn get() -> Request<MessageBody> {
        Request::new(MessageBody::empty())
    }

    /// Otherwise the session that is opened for it would go out first, in a record of its own.
    #[tokio::test]
    async fn a_first_request_is_written_with_the_next_turn_of_its_driver() {
        let (ours, mut theirs) = pipe();
        let opened = UpstreamConnection::handshake(ours, HeadSource::Outside, None).await;
        let (mut connection, mut driver) = opened.expect("a fresh pipe");
        let mut sending = std::pin::pin!(connection.send(get()));
        assert!(sending.as_mut().now_or_never().is_none(), "no answer yet");
        assert!(driver.as_mut().now_or_never().is_none());
        let mut bytes = [0; 64];
        let count = theirs.read(&mut bytes).now_or_never().expect("it is there").expect("an open pipe");
        assert!(bytes[..count].starts_with(b"GET / HTTP/1.1\r\n"), "{}", bytes[..count].escape_ascii());
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_does_not_come_is_late() {
        let began = Instant::now();
        let silent = async |mut other: PipeEnd| {
            let error = other.read_to_end(&mut Vec::new()).await.expect_err("a cut, and no end");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        };
        assert!(matches!(send_request(get(), silent).await, Err(ResponseFailure::TimedOut)));
        assert_eq!(began.elapsed().as_secs(), PATIENCE.as_secs());
        let in_time = async |mut other: PipeEnd| {
            sleep(PATIENCE - Duration::from_secs(1)).await;
            other.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("it is taken");
            let _ = other.read_to_end(&mut Vec::new()).await;
        };
        assert!(matches!(send_request(get(), in_time).await, Ok(204)));
        let removed = async |other: PipeEnd| drop(other);
        assert!(matches!(
            send_request(get(), removed).await,
            Err(ResponseFailure::Unanswered | ResponseFailure::Unsent(_))
        ));
    }

    /// Sends a request whose body comes in `pieces`, each after a pause, to a silent backend.
    async fn sent(pieces: usize, pause: Duration) -> Option<ResponseFailure> {
        let (mut client, served) = pipe();
        let lost = std::sync::Arc::new(std::sync::Mutex::new(None));
        let service = service_fn(async |request: Request<Incoming>| {
            let (parts, body) = request.into_parts();
            let request =
                Request::from_parts(parts, MessageBody::request(body, HeadOrigin::Client, Some(PATIENCE)));
            let silent = async |mut other: PipeEnd| {
                let _ = other.read_to_end(&mut Vec::new()).await;
            };
            *lost.lock().expect("no panic") = send_request(request, silent).await.err();
            Ok::<_, std::convert::Infallible>(Response::new(MessageBody::empty()))
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
    async fn a_stalled_request_body_is_not_a_late_backend() {
        let began = Instant::now();
        assert!(
            matches!(sent(2, PATIENCE / 2).await, Some(ResponseFailure::BodyStalled)),
            "two of four bytes"
        );
        assert_eq!(began.elapsed(), PATIENCE * 2);
        let began = Instant::now();
        let pause = PATIENCE - Duration::from_secs(1);
        assert!(matches!(sent(5, pause).await, Some(ResponseFailure::TimedOut)));
        assert_eq!(began.elapsed(), pause * 5 + PATIENCE, "the time is that after its end");
    }
}
