//! A client's connection whose bytes are checked before hyper reads requests from them. hyper accepts more than other
//! servers do, and a difference between two servers is how requests are smuggled.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{keep_alive::KeepAliveTracker, strict_framing::RequestChecker, unreadable_head};
use crate::net::prefixed::PrefixedStream;

/// The most that is read ahead before a decision.
const HELD_MAX: usize = 64 * 1024;

/// A client's connection whose bytes are checked before hyper reads them, and whose activity is recorded.
pub struct CheckedStream {
    stream: PrefixedStream,
    tracker: Arc<KeepAliveTracker>,
    checker: RequestChecker,
    /// Bytes that have come and may not be read yet.
    held: Vec<u8>,
    /// What is still read after a refused request, in place of what the client sends.
    refused_rest: Option<&'static [u8]>,
    /// The unwritten rest of the answer to an unreadable head.
    refusal: Vec<u8>,
}

impl CheckedStream {
    pub fn new(stream: PrefixedStream, tracker: Arc<KeepAliveTracker>) -> Self {
        let checker = RequestChecker::default();
        Self { stream, tracker, checker, held: Vec::new(), refused_rest: None, refusal: Vec::new() }
    }

    /// Puts bytes in front that were already read from it and not used.
    pub fn with_prefix(mut self, read: &[u8]) -> Self {
        self.stream.prefix = [read, &std::mem::take(&mut self.held), &self.stream.prefix].concat().into();
        self
    }

    pub fn into_inner(self) -> PrefixedStream {
        self.with_prefix(&[]).stream
    }

    /// Keeps reading, so that a client that has left is noticed, until it is known what the bytes are.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tracker.register_reader(cx);
        let mut piece = [0; 4096];
        while self.held.len() < HELD_MAX {
            let mut buf = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                break;
            }
            self.held.extend_from_slice(buf.filled());
        }
        Poll::Pending
    }

    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.refusal.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.refusal))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.refusal.drain(..count);
        }
        Poll::Ready(Ok(()))
    }

    /// Returns bytes that may be read now, held or newly arrived.
    fn poll_fresh(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = self.held.len().min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for CheckedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(rest) = &mut this.refused_rest {
            let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
            buf.put_slice(now);
            *rest = later;
            return Poll::Ready(Ok(()));
        }
        if this.checker.is_undecided() {
            if !this.tracker.is_not_upgraded() {
                return this.poll_held(cx);
            }
            this.checker.resume_requests();
        }
        let before = buf.filled().len();
        ready!(this.poll_fresh(cx, buf))?;
        let fresh = &mut buf.filled_mut()[before..];
        if fresh.is_empty() {
            // A client that has finished sending still gets its answer (RFC 9112, section 9.6).
            if this.checker.is_between_requests() && this.tracker.has_pending(this.checker.requests()) {
                this.tracker.register_reader(cx);
                return Poll::Pending;
            }
            return Poll::Ready(Ok(()));
        }
        let good = this.checker.check(fresh);
        this.refused_rest = this.checker.refused_rest();
        if this.refused_rest.is_some() {
            this.held.clear();
            buf.set_filled(before + good);
        } else if good < fresh.len() {
            this.held.splice(..0, fresh[good..].iter().copied());
            buf.set_filled(before + good);
        }
        if this.checker.is_undecided() {
            this.tracker.note_upgrade_request();
        }
        if let Some(number) = this.checker.refused_request() {
            this.tracker.refuse_request(number);
        }
        this.tracker.note_received();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CheckedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        if this.tracker.is_answering() {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        }
        match unreadable_head::with_text(bytes) {
            Some(refusal) => this.refusal = refusal,
            None => return Pin::new(&mut this.stream).poll_write(cx, bytes),
        }
        // What is not taken at once is written at the next flush.
        if let Poll::Ready(written) = this.poll_refusal(cx) {
            written?;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
        match (filled.next(), filled.next()) {
            (Some(only), None) => self.poll_write(cx, only),
            _ => {
                let this = self.get_mut();
                ready!(this.poll_refusal(cx))?;
                Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.tracker.note_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{convert::Infallible, future::poll_fn, sync::Mutex};

    use hyper::{
        Request, Response,
        body::{Body, Incoming},
        service::service_fn,
    };
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        http::{HeadSource, driver},
        net::{pipe::pipe, stream::NetStream},
    };

    async fn is_complete(mut body: Incoming) -> bool {
        loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
                None => return true,
            }
        }
    }

    /// What hyper makes of what a client sends in such pieces: the paths of complete requests, and the answers.
    async fn serve(sent: &[u8], piece: usize) -> (Vec<String>, String) {
        let (ours, theirs) = pipe();
        let (mut answers, mut client) = tokio::io::split(theirs);
        let tracker = Arc::new(KeepAliveTracker::default());
        let stream = PrefixedStream { prefix: Vec::new().into(), stream: NetStream::Pipe(Box::new(ours)) };
        let checked = CheckedStream::new(stream, tracker.clone());
        let complete = Arc::new(Mutex::new(Vec::new()));
        let service = service_fn(|request: Request<Incoming>| {
            let (exchange, complete) = (tracker.begin_exchange(), complete.clone());
            async move {
                let path = request.uri().path().to_owned();
                let is_complete = is_complete(request.into_body()).await;
                if is_complete {
                    complete.lock().unwrap().push(path);
                }
                drop(exchange);
                let status = if is_complete { 200 } else { 400 };
                Ok::<_, Infallible>(Response::builder().status(status).body(String::new()).unwrap())
            }
        });
        let served =
            driver::server_builder(HeadSource::Outside).serve_connection(TokioIo::new(checked), service);
        let sending = async {
            for piece in sent.chunks(piece) {
                // It may be closed already.
                let _ = client.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            let _ = client.shutdown().await;
            let mut read = Vec::new();
            let _ = answers.read_to_end(&mut read).await;
            String::from_utf8(read).unwrap()
        };
        let (_, read) = tokio::join!(served, sending);
        let complete = complete.lock().unwrap().clone();
        (complete, read)
    }

    #[tokio::test]
    async fn after_a_refused_request_hyper_reads_no_other() {
        let chunked = "POST /bad HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let good = "GET /good HTTP/1.1\r\nHost: h\r\n\r\n";
        for bad in [
            format!("{chunked}3;\n\r\nabc\r\n0\r\n\r\n"),
            format!("{chunked}3;a=b\nc\r\nabc\r\n0\r\n\r\n"),
            format!("{chunked}3 \t;\n\r\nabc\r\n0\r\n\r\n"),
            format!("{chunked}3\r\nabc\r\n0;\n\r\n\r\n"),
            format!("{chunked}3;\r\n\nabc\r\n0\r\n\r\n"),
            format!("{chunked}3\nabc\r\n0\r\n\r\n"),
            format!("{chunked}3\r\nabc\n0\r\n\r\n"),
            format!("{chunked}3\r\nabcd\r\n0\r\n\r\n"),
            format!("{chunked}0\r\nSum: 1\n\r\n\r\n"),
            format!("{chunked}0\r\nSum: 1\n\n"),
            format!("{chunked}0\r\n\n"),
            format!("{chunked}0x3\r\nabc\r\n0\r\n\r\n"),
            format!("{chunked}0000000000000003\r\nabc\r\n0\r\n\r\n"),
            "GET /bad HTTP/1.1\nHost: h\r\n\r\n".into(),
            "GET /bad HTTP/1.1\r\nHost: h\n\r\n".into(),
            "GET /bad HTTP/1.1\r\nHost: h\r\nX: y\n\n".into(),
            "GET /bad HTTP/1.1\r\nHost: h\r\n\n".into(),
            "\nGET /bad HTTP/1.1\r\nHost: h\r\n\r\n".into(),
            "POST /bad HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc".into(),
        ] {
            for piece in [1, 7, 1000] {
                let (complete, answers) = serve(format!("{good}{bad}{good}{good}").as_bytes(), piece).await;
                assert_eq!(complete, ["/good"], "{bad:?} by {piece}: {answers}");
                let statuses: Vec<_> =
                    answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
                assert_eq!(statuses, ["200", "400"], "{bad:?} by {piece}: {answers}");
            }
        }
        let (complete, _) =
            serve(format!("{good}{chunked}3;a\r\na\nc\r\n0\r\n\r\n{good}").as_bytes(), 1).await;
        assert_eq!(complete, ["/good", "/bad", "/good"]);
    }
}
