//! What follows a head: a body that is passed on as it comes, or a line of our own.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::HeaderMap,
};
use tokio::time::{Instant, Sleep, sleep};

use super::fields::{self, Of};

/// Held while an exchange lasts.
pub type Held = Box<dyn Send + Sync>;

pub struct Payload {
    body: Inner,
    /// How a request's body fares; a response's has no deadline here.
    fares: Option<Arc<Fares>>,
    /// The longest pause, where it is watched here.
    pause: Option<Duration>,
    stalled: Option<Pin<Box<Sleep>>>,
    _held: Option<Held>,
}

enum Inner {
    Text(Option<Bytes>),
    Passed(Incoming, Of),
}

/// How a request's body fares that somebody else sends on.
#[derive(Debug)]
pub struct Fares(Mutex<Faring>);

#[derive(Debug, Default, Clone, Copy)]
pub struct Faring {
    /// Since when the next is up to whoever takes it; `None` while more of it is waited for.
    pub given: Option<Instant>,
    pub has_ended: bool,
    /// It has paused for too long.
    pub has_stopped: bool,
}

impl Fares {
    pub fn now(&self) -> Faring {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Faring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub type Error = Box<dyn std::error::Error + Send + Sync>;

impl Payload {
    pub fn text(text: String) -> Self {
        Self { body: Inner::Text(Some(text.into())), fares: None, pause: None, stalled: None, _held: None }
    }

    pub fn empty() -> Self {
        Self { body: Inner::Text(None), fares: None, pause: None, stalled: None, _held: None }
    }

    /// A request's body, which may pause for so long, if it is for this half to say.
    pub fn up(body: Incoming, of: Of, pause: Option<Duration>) -> Self {
        let fares = (!body.is_end_stream()).then(|| {
            let begun = Faring { given: Some(Instant::now()), ..Faring::default() };
            Arc::new(Fares(Mutex::new(begun)))
        });
        Self { body: Inner::Passed(body, of), fares, pause, stalled: None, _held: None }
    }

    /// A response's body.
    pub fn down(body: Incoming) -> Self {
        Self { body: Inner::Passed(body, Of::Response), fares: None, pause: None, stalled: None, _held: None }
    }

    /// Lets go of something when the last of the body was taken.
    pub fn holding(self, held: Held) -> Self {
        Self { _held: Some(held), ..self }
    }

    pub fn fares(&self) -> Option<Arc<Fares>> {
        self.fares.clone()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Payload").field("fares", &self.fares).finish_non_exhaustive()
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let (body, of) = match &mut this.body {
            Inner::Text(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Inner::Passed(body, of) => (body, *of),
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Pending => {
                let Some(fares) = &this.fares else { return Poll::Pending };
                fares.lock().given = None;
                let Some(pause) = this.pause else { return Poll::Pending };
                let stalled = this.stalled.get_or_insert_with(|| Box::pin(sleep(pause)));
                if stalled.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                fares.lock().has_stopped = true;
                Poll::Ready(Some(Err("the body of the request has stopped".into())))
            }
            Poll::Ready(frame) => {
                this.stalled = None;
                if let Some(fares) = &this.fares {
                    // A body of a known length is asked for no end.
                    let has_ended = frame.is_none() || this.is_end_stream();
                    let mut fares = fares.lock();
                    fares.given = Some(Instant::now());
                    fares.has_ended = has_ended;
                }
                let cleaned = frame.map(|frame| frame.map(|frame| trailers(frame, of)).map_err(Error::from));
                Poll::Ready(cleaned)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Inner::Text(text) => text.is_none(),
            Inner::Passed(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Inner::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Inner::Passed(body, _) => body.size_hint(),
        }
    }
}

/// Whether an answer is the last of its connection: it has come before the end of the request's body, and
/// says that no more is wanted.
pub fn is_last(headers: &HeaderMap, fares: Option<&Fares>) -> bool {
    fields::closes(headers) && fares.is_some_and(|fares| !fares.now().has_ended)
}

/// Trailers are cleaned as heads are: some readers take them for fields of the head.
fn trailers(frame: Frame<Bytes>, of: Of) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            let _: &mut HeaderMap = &mut trailers;
            fields::clean(&mut trailers, of);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
