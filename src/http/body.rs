//! The body of a message: one that is forwarded as it comes, or a line of text of our own. Its progress is shared
//! with what watches it: timeouts, and the access log.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::HeaderMap,
};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    fields::{self, HeadOrigin},
    flushed::FlushTracker,
};
use crate::net::timeout::STALLED_MAX;

/// Held for as long as an exchange lasts.
pub type BodyGuard = Box<dyn Send + Sync>;

pub struct MessageBody {
    body: BodyContent,
    /// The progress of a request's body; a response's has no deadline here.
    progress: Option<Arc<BodyProgress>>,
    /// For a response: its failure waits for the bytes that came before it.
    failed: Option<DelayedFailure>,
    /// The longest pause, if it is checked here.
    pause: Option<Duration>,
    stalled: Option<Pin<Box<Sleep>>>,
    tally: Option<Arc<BodyTally>>,
    /// The last field, since it may read the tally when dropped.
    held: Vec<BodyGuard>,
}

enum BodyContent {
    Text(Option<Bytes>),
    Passed(Incoming, HeadOrigin),
}

/// A failure that is reported only after the bytes before it have been written.
struct DelayedFailure {
    flushes: FlushTracker,
    error: Option<BodyError>,
    /// Until when something has to be written, and how much had been written when this began.
    stalled: Option<(Pin<Box<Sleep>>, u64)>,
}

impl DelayedFailure {
    fn new(flushes: FlushTracker) -> Self {
        Self { flushes, error: None, stalled: None }
    }

    fn hold(&mut self, error: BodyError) {
        self.flushes.expect();
        self.stalled = Some((Box::pin(sleep(STALLED_MAX)), self.flushes.written()));
        self.error = Some(error);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if self.flushes.poll(cx).is_pending()
            && let Some((due, written)) = &mut self.stalled
        {
            while due.as_mut().poll(cx).is_ready() && *written != self.flushes.written() {
                *written = self.flushes.written();
                due.as_mut().reset(Instant::now() + STALLED_MAX);
            }
            if !due.is_elapsed() {
                return Poll::Pending;
            }
        }
        self.stalled = None;
        Poll::Ready(self.error.take().unwrap_or_else(|| "the body has failed".into()))
    }
}

/// The progress of a request's body that another task forwards.
#[derive(Debug)]
pub struct BodyProgress(Mutex<BodyProgressState>);

#[derive(Debug, Default, Clone, Copy)]
pub struct BodyProgressState {
    /// Since when the receiver has been delaying the body; `None` while we wait for the sender.
    pub given: Option<Instant>,
    pub has_ended: bool,
    /// The sender has paused for too long.
    pub has_stopped: bool,
}

impl BodyProgress {
    pub fn state(&self) -> BodyProgressState {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, BodyProgressState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the bytes of a body as they pass.
#[derive(Debug, Default)]
pub struct BodyTally {
    bytes: AtomicU64,
    is_whole: AtomicBool,
    has_failed: AtomicBool,
}

impl BodyTally {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether its end was reached.
    pub fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed)
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    fn note(&self, frame: Option<&Result<Frame<Bytes>, BodyError>>, has_ended: bool) {
        match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Some(Err(_)) => return self.has_failed.store(true, Ordering::Relaxed),
            None => {}
        }
        if has_ended || frame.is_none() {
            self.is_whole.store(true, Ordering::Relaxed);
        }
    }
}

pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl MessageBody {
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self {
            body: BodyContent::Text(Some(text.into())),
            progress: None,
            pause: None,
            stalled: None,
            failed: None,
            tally: None,
            held: Vec::new(),
        }
    }

    pub fn empty() -> Self {
        Self {
            body: BodyContent::Text(None),
            progress: None,
            pause: None,
            stalled: None,
            failed: None,
            tally: None,
            held: Vec::new(),
        }
    }

    /// A request's body, with the longest pause if this half checks it.
    pub fn request(body: Incoming, of: HeadOrigin, pause: Option<Duration>) -> Self {
        let progress = (!body.is_end_stream()).then(|| {
            let begun = BodyProgressState { given: Some(Instant::now()), ..BodyProgressState::default() };
            Arc::new(BodyProgress(Mutex::new(begun)))
        });
        Self { progress, pause, ..Self::passed(body, of) }
    }

    /// A response's body.
    pub fn response(body: Incoming, flushes: FlushTracker) -> Self {
        Self { failed: Some(DelayedFailure::new(flushes)), ..Self::passed(body, HeadOrigin::Response) }
    }

    fn passed(body: Incoming, of: HeadOrigin) -> Self {
        let body = BodyContent::Passed(body, of);
        Self { body, progress: None, pause: None, stalled: None, failed: None, tally: None, held: Vec::new() }
    }

    /// Drops something when the last of the body has been taken.
    pub fn with_guard(mut self, held: BodyGuard) -> Self {
        self.held.push(held);
        self
    }

    /// Counts the bytes that pass in this tally.
    pub fn with_tally(self, tally: Arc<BodyTally>) -> Self {
        tally.is_whole.store(self.is_end_stream(), Ordering::Relaxed);
        Self { tally: Some(tally), ..self }
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (body, of) = match &mut self.body {
            BodyContent::Text(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            BodyContent::Passed(body, of) => (body, *of),
        };
        if let Some(failed) = self.failed.as_mut().filter(|failed| failed.error.is_some()) {
            return failed.poll(cx).map(|error| Some(Err(error)));
        }
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) if let Some(failed) = &mut self.failed => {
                failed.hold(error.into());
                failed.poll(cx).map(|error| Some(Err(error)))
            }
            Poll::Pending => {
                let Some(progress) = &self.progress else { return Poll::Pending };
                progress.lock().given = None;
                let Some(pause) = self.pause else { return Poll::Pending };
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(pause)));
                if stalled.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                progress.lock().has_stopped = true;
                Poll::Ready(Some(Err("the body of the request has stopped".into())))
            }
            Poll::Ready(frame) => {
                self.stalled = None;
                if let Some(progress) = &self.progress {
                    // A body of a known length is never polled for its end.
                    let has_ended = frame.is_none() || self.is_end_stream();
                    let mut progress = progress.lock();
                    progress.given = Some(Instant::now());
                    progress.has_ended = has_ended;
                }
                let cleaned =
                    frame.map(|frame| frame.map(|frame| clean_trailers(frame, of)).map_err(BodyError::from));
                Poll::Ready(cleaned)
            }
        }
    }

    pub fn progress(&self) -> Option<Arc<BodyProgress>> {
        self.progress.clone()
    }
}

impl fmt::Debug for MessageBody {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("MessageBody").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl Body for MessageBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = this.poll_content(cx);
        if let (Poll::Ready(frame), Some(tally)) = (&polled, &this.tally) {
            tally.note(frame.as_ref(), this.is_end_stream());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            BodyContent::Text(text) => text.is_none(),
            BodyContent::Passed(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            BodyContent::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            BodyContent::Passed(body, _) => body.size_hint(),
        }
    }
}

/// Whether an answer is the last on its connection: it came before the end of the request's body, and says that
/// no more is wanted.
pub fn ends_connection(headers: &HeaderMap, progress: Option<&BodyProgress>) -> bool {
    fields::wants_close(headers) && progress.is_some_and(|progress| !progress.state().has_ended)
}

/// Cleans trailers like heads, since some parsers take them for header fields.
fn clean_trailers(frame: Frame<Bytes>, of: HeadOrigin) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            let _: &mut HeaderMap = &mut trailers;
            fields::clean_headers(&mut trailers, of);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
