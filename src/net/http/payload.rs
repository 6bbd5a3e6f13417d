//! What follows a head: a body that is passed on as it comes, or a line of our own.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use hyper::{
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::HeaderMap,
};
use tokio::time::{Sleep, sleep};

use super::{
    PATIENCE,
    fields::{self, Of},
};

/// Held while an exchange lasts.
pub type Held = Box<dyn Send + Sync>;

pub struct Payload {
    body: Inner,
    /// How a request's body fares; a response's has no deadline here.
    fares: Option<Arc<Fares>>,
    stalled: Option<Pin<Box<Sleep>>>,
    _held: Option<Held>,
}

enum Inner {
    Text(Option<Bytes>),
    Passed(Incoming, Of),
}

/// How a body fares that somebody else sends on.
#[derive(Debug, Default)]
pub struct Fares {
    pub has_moved: AtomicBool,
    pub has_ended: AtomicBool,
    pub has_stopped: AtomicBool,
}

pub type Error = Box<dyn std::error::Error + Send + Sync>;

impl Payload {
    pub fn text(text: String) -> Self {
        Self { body: Inner::Text(Some(text.into())), fares: None, stalled: None, _held: None }
    }

    pub fn empty() -> Self {
        Self { body: Inner::Text(None), fares: None, stalled: None, _held: None }
    }

    /// A request's body.
    pub fn up(body: Incoming, of: Of) -> Self {
        let fares = (!body.is_end_stream()).then(Arc::<Fares>::default);
        Self { body: Inner::Passed(body, of), fares, stalled: None, _held: None }
    }

    /// A response's body.
    pub fn down(body: Incoming) -> Self {
        Self { body: Inner::Passed(body, Of::Response), fares: None, stalled: None, _held: None }
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
                let stalled = this.stalled.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                if stalled.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                fares.has_stopped.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err("the body of the request has stopped".into())))
            }
            Poll::Ready(frame) => {
                this.stalled = None;
                if let Some(fares) = &this.fares {
                    fares.has_moved.store(true, Ordering::Relaxed);
                    // A body of a known length is asked for no end.
                    let has_ended = frame.is_none() || this.is_end_stream();
                    fares.has_ended.store(has_ended, Ordering::Relaxed);
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
