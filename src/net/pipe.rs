//! An in-process stream with two ends, each of which reads what the other has written.
//!
//! A session holds one end; HTTP is spoken at the other. After an upgrade, the stream behind the other end is
//! handed over, and this end continues as that very stream. An end that is dropped before it was shut down is a
//! cut, as with sockets, unless the other end has already finished and was read completely: then nobody is
//! waiting for more.
//!
//! Each read and write takes a lock, since different tasks hold the two ends. Only heads and bodies of HTTP
//! pass through here, a chunk at a time; the bytes of an upgraded connection go through the stream that this
//! end has become.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_util::future::BoxFuture;
use hyper::body::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    task::yield_now,
    time::timeout,
};

use super::{
    certificate_watch::RevocationSignal,
    expiring::ExpiringStream,
    stream::NetStream,
    tcp,
    timeout::{STALLED_MAX, TimeoutError},
    woken::WokenFuture,
};

/// The most that one end may have written ahead of the other.
const HELD_MAX: usize = 64 * 1024;
/// How much of what nobody needs is read at once.
const DISCARDED_BYTES: usize = 8 * 1024;
/// How much memory of an emptied direction is kept for the next bytes.
const KEPT_MAX: usize = 1024;

/// An end. Both ends share a lock without contention, since they usually run in one task.
pub struct PipeEnd {
    shared: Arc<Mutex<PipeState>>,
    side: usize,
    /// The future that drives the other end, if that has no task of its own. It is in a lock that is never
    /// locked: a stream may be shared between threads, and a future may not.
    driver: Option<Mutex<WokenFuture>>,
    /// The stream that this end has become.
    stream: Option<Box<ExpiringStream>>,
    /// Signals that the certificate of the client behind the other end is revoked.
    revocation: RevocationSignal,
}

#[derive(Default)]
struct PipeState {
    /// What each end has written.
    directions: [PipeDirection; 2],
    /// The stream that the other end has handed over to this one.
    left: [Option<Box<ExpiringStream>>; 2],
    failure: Option<PipeFailure>,
}

/// Why the protocol spoken in a pipe has failed, as reported by the end that speaks it. The session ends for
/// this reason, however its bytes end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipeFailure {
    pub party: FailureOrigin,
    pub reason: String,
}

/// The side that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureOrigin {
    Backend,
    /// A timeout of ours.
    Timeout,
}

#[derive(Default)]
struct PipeDirection {
    held: Vec<u8>,
    taken: usize,
    state: PipeDirectionState,
    /// The cut comes from a deadline.
    is_late: bool,
    /// Nobody reads it any more.
    is_reader_gone: bool,
    reader: Option<Waker>,
    /// The reader is woken only when nobody else is ready.
    is_gathered: bool,
    writer: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum PipeDirectionState {
    #[default]
    Open,
    /// No more bytes come.
    Ended,
    Cut,
}

/// Reports, from anywhere, that a deadline cuts an end of a pipe, or what has failed.
#[derive(Clone)]
pub struct PipeFailureSender {
    shared: Arc<Mutex<PipeState>>,
    side: usize,
}

impl PipeFailureSender {
    pub fn report_timeout(&self) {
        lock(&self.shared).directions[self.side].is_late = true;
    }

    /// The first failure counts, because the later ones follow from it.
    pub fn report_failure(&self, failure: PipeFailure) {
        lock(&self.shared).failure.get_or_insert(failure);
    }
}

/// A pipe's two ends.
pub fn pipe() -> (PipeEnd, PipeEnd) {
    let shared = Arc::new(Mutex::new(PipeState::default()));
    let end = |side| PipeEnd {
        shared: shared.clone(),
        side,
        driver: None,
        stream: None,
        revocation: RevocationSignal::default(),
    };
    (end(0), end(1))
}

impl PipeDirection {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = &self.held[self.taken..];
        if left.is_empty() {
            return match self.state {
                PipeDirectionState::Open => {
                    keep_waker(&mut self.reader, cx);
                    Poll::Pending
                }
                PipeDirectionState::Ended => Poll::Ready(Ok(())),
                PipeDirectionState::Cut if self.is_late => Poll::Ready(Err(TimeoutError::Exchange.into())),
                PipeDirectionState::Cut => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            };
        }
        let count = left.len().min(buf.remaining());
        buf.put_slice(&left[..count]);
        self.taken += count;
        if self.taken == self.held.len() {
            self.discard();
        }
        wake(&mut self.writer);
        Poll::Ready(Ok(()))
    }

    fn discard(&mut self) {
        self.taken = 0;
        match self.held.capacity() {
            0..=KEPT_MAX => self.held.clear(),
            _ => self.held = Vec::new(),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.is_reader_gone || self.state != PipeDirectionState::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut space = HELD_MAX.saturating_sub(self.held.len() - self.taken);
        if space == 0 {
            keep_waker(&mut self.writer, cx);
            return Poll::Pending;
        }
        if self.taken > 0 && self.held.len() + space > HELD_MAX {
            self.held.drain(..self.taken);
            self.taken = 0;
        }
        let mut count = 0;
        for buf in bufs {
            let piece = &buf[..buf.len().min(space)];
            self.held.extend_from_slice(piece);
            (count, space) = (count + piece.len(), space - piece.len());
        }
        match self.is_gathered {
            true => wake_last(&mut self.reader),
            false => wake(&mut self.reader),
        }
        Poll::Ready(Ok(count))
    }

    fn end(&mut self, step: PipeDirectionState) {
        if self.state == PipeDirectionState::Open {
            self.state = step;
        }
        wake(&mut self.reader);
    }
}

fn lock(shared: &Mutex<PipeState>) -> MutexGuard<'_, PipeState> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

fn wake(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        waker.wake();
    }
}

/// Wakes a task after all that are ready now, and after the runtime has looked for more.
fn wake_last(slot: &mut Option<Waker>) {
    if let Some(waker) = slot.take() {
        // That is what the runtime does with a task that gives way: its waker is the only thing that it keeps.
        let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
    }
}

impl PipeEnd {
    /// Whoever reads what is written here is woken after all tasks that are ready, so that it gets what several of
    /// them have written. A link then sends that at once, in one record.
    pub fn gathered(self) -> Self {
        self.lock().directions[self.side].is_gathered = true;
        self
    }

    /// The other end is driven by whoever reads and writes this one.
    pub fn driven_by(mut self, driver: BoxFuture<'static, ()>) -> Self {
        self.driver = Some(Mutex::new(WokenFuture::new(driver, Arc::default())));
        self
    }

    /// The other end acts for a client, and this signal says whether the client's certificate is revoked.
    pub fn with_revocation(mut self, revocation: RevocationSignal) -> Self {
        self.revocation = revocation;
        self
    }

    pub fn revocation(&self) -> RevocationSignal {
        self.revocation.clone()
    }

    /// The stream that this end has become, if any.
    pub fn stream(&self) -> Option<&NetStream> {
        self.stream.as_deref().map(ExpiringStream::inner)
    }

    /// The failure, if either end has reported one.
    pub fn failure(&self) -> Option<PipeFailure> {
        self.lock().failure.clone()
    }

    /// Whether something waits to be read, even if only an end.
    pub fn has_unread(&self) -> bool {
        if let Some(stream) = self.stream() {
            return stream.has_unread();
        }
        let shared = self.lock();
        let incoming = &shared.directions[1 - self.side];
        incoming.taken < incoming.held.len() || incoming.state != PipeDirectionState::Open
    }

    /// Returns when the other end has gone.
    pub async fn other_end_gone(&self) {
        poll_fn(|cx| {
            let mut shared = self.lock();
            let direction = &mut shared.directions[self.side];
            if direction.is_reader_gone {
                return Poll::Ready(());
            }
            keep_waker(&mut direction.writer, cx);
            Poll::Pending
        })
        .await;
    }

    /// Continues the other end as `stream`. That end reads what was written here, then the bytes `received`
    /// already from the stream. The `unsent` bytes were read here already, and are sent first. If the other end
    /// is cut before, the stream still gets what that had written.
    pub async fn hand_over(
        self,
        stream: impl Into<ExpiringStream>,
        received: Bytes,
        unsent: Bytes,
    ) -> io::Result<()> {
        let mut stream = stream.into();
        let (mut output, mut has_ended) = (unsent, false);
        loop {
            let has_left = self.write_to(&mut stream, &output).await?;
            let is_over;
            {
                let mut shared = self.lock();
                let direction = &mut shared.directions[1 - self.side];
                output = direction.held.split_off(direction.taken).into();
                direction.discard();
                wake(&mut direction.writer);
                is_over = direction.state == PipeDirectionState::Ended;
                if output.is_empty() && is_over == has_ended && !has_left {
                    wake(&mut direction.writer);
                    wake(&mut shared.directions[self.side].reader);
                    shared.left[1 - self.side] = Some(Box::new(stream.with_prefix(received)));
                    return Ok(());
                }
            }
            if output.is_empty() && !std::mem::replace(&mut has_ended, is_over) && is_over {
                stream.shutdown().await?;
            } else if output.is_empty() && has_left {
                if let Some(socket) = stream.inner().tcp() {
                    tcp::await_acknowledged(socket, STALLED_MAX).await;
                }
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }

    /// Writes to the stream that follows; returns whether the other end has gone meanwhile.
    async fn write_to(&self, stream: &mut ExpiringStream, bytes: &Bytes) -> io::Result<bool> {
        let writing = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        let mut writing = pin!(writing);
        tokio::select! {
            biased;
            () = self.other_end_gone() => {
                timeout(STALLED_MAX, writing).await.map_err(|_| io::ErrorKind::TimedOut)??;
                Ok(true)
            }
            written = &mut writing => written.map(|()| false),
        }
    }

    /// Reads and discards what still comes. Usually that is nothing, so the buffer is not cleared for it.
    pub async fn drain(mut self) {
        let mut discarded = Vec::with_capacity(DISCARDED_BYTES);
        while matches!(self.read_buf(&mut discarded).await, Ok(1..)) {
            discarded.clear();
        }
    }

    pub fn failure_sender(&self) -> PipeFailureSender {
        PipeFailureSender { shared: self.shared.clone(), side: self.side }
    }

    fn lock(&self) -> MutexGuard<'_, PipeState> {
        lock(&self.shared)
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver {
            let driver = driver.get_mut().unwrap_or_else(PoisonError::into_inner);
            if driver.poll_in(cx).is_ready() {
                self.driver = None;
            }
        }
    }

    /// Becomes the stream that the other side has handed over, with the bytes of its own that are still here.
    fn become_stream(&mut self) {
        let adopted = {
            let mut shared = self.lock();
            let Some(mut left) = shared.left[self.side].take() else { return };
            let direction = &mut shared.directions[1 - self.side];
            let unread = direction.held.split_off(direction.taken);
            if !unread.is_empty() {
                left.add_prefix(&unread);
            }
            left
        };
        self.stream = Some(adopted);
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let (side, mut shared) = (self.side, self.lock());
        let other = &shared.directions[1 - side];
        let is_over = other.state == PipeDirectionState::Ended && other.held.len() == other.taken;
        shared.directions[side].end(if is_over {
            PipeDirectionState::Ended
        } else {
            PipeDirectionState::Cut
        });
        wake(&mut shared.directions[side].writer);
        let incoming = &mut shared.directions[1 - side];
        incoming.is_reader_gone = true;
        incoming.discard();
        wake(&mut incoming.writer);
    }
}

impl fmt::Debug for PipeEnd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PipeEnd").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl AsyncRead for PipeEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.stream.is_none() {
            this.drive(cx);
            this.become_stream();
        }
        if let Some(stream) = &mut this.stream {
            return Pin::new(&mut **stream).poll_read(cx, buf);
        }
        let incoming = 1 - this.side;
        this.lock().directions[incoming].poll_read(cx, buf)
    }
}

impl AsyncWrite for PipeEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        for is_last in [false, true] {
            if this.stream.is_none() {
                this.become_stream();
            }
            if let Some(stream) = &mut this.stream {
                return Pin::new(&mut **stream).poll_write_vectored(cx, bufs);
            }
            let side = this.side;
            let written = this.lock().directions[side].poll_write(cx, bufs);
            if written.is_ready() || is_last || this.driver.is_none() {
                return written;
            }
            // The other end makes room.
            this.drive(cx);
        }
        Poll::Pending
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.stream {
            Some(stream) => Pin::new(&mut **stream).poll_flush(cx),
            None => {
                this.drive(cx);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.become_stream();
        if let Some(stream) = &mut this.stream {
            return Pin::new(&mut **stream).poll_shutdown(cx);
        }
        let side = this.side;
        this.lock().directions[side].end(PipeDirectionState::Ended);
        this.drive(cx);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
