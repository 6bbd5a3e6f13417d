//! One end of a link inside a WebSocket (RFC 6455), as a stream of bytes: binary messages contain exactly what
//! a TCP connection would carry.
//!
//! A frame is as long as one write. Its header is the first part of a vectored write, and whatever the kernel
//! does not take stays with the writer, who continues with it. So nothing is copied, except for the masking
//! that the dialling end has to do. A close frame ends sending in its direction. A stream that ends without one
//! was cut.

use std::{
    cell::RefCell,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use super::prefixed::PrefixedStream;
use crate::proto::ws::{
    FrameMask, FramePosition, FrameSource, Masking, Opcode, WebSocketDecoder, WebSocketEnd,
    WebSocketFrameHead, push_frame,
};

/// A ping is sent this often, so that no device on the way takes the link for dead.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// This many pings in a row without a sign of the other end are silence. It is judged only where nothing keeps the other
/// end from reading.
const SILENT_PINGS: u8 = 3;
/// The longest message: a link's largest batch, encrypted.
const FRAME_BYTES_MAX: usize = 288 * 1024;
/// The most that is masked for one write. What the kernel does not take would be masked again.
const MASKED_BYTES_MAX: usize = 64 * 1024;
/// The most parts of one write.
const PIECES_MAX: usize = 64;
/// While this many bytes of answers wait for the other end, nothing is read that might need one.
const CONTROL_BYTES_MAX: usize = 16 * 1024;
/// The close code for a normal end.
const NORMAL: u16 = 1000;

thread_local! {
    /// The worker thread's buffer for masked bytes, borrowed within one poll and never across polls.
    static MASKED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The end of the WebSocket that this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FramedEnd {
    Dialled,
    Accepted,
}

#[derive(Debug)]
pub struct FramedSocket {
    stream: PrefixedStream,
    end: FramedEnd,
    decoder: WebSocketDecoder,
    state: CloseState,
    sending: DataFrame,
    /// Control frames that wait until no data frame is under way, and how many of their bytes have been sent.
    control: Vec<u8>,
    control_sent: usize,
    /// `None` if the link has pings of its own.
    pings: Option<Pin<Box<Sleep>>>,
    /// Pings that were due since anything came in.
    unanswered_pings: u8,
    /// Whether the last read filled the buffer.
    was_full: bool,
}

/// ```text
/// open ─► we closed ─────► both closed
///      └► they closed ─┘
/// any  ─► broken
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseState {
    Open,
    WeClosed,
    /// With the code from their close frame.
    TheyClosed(Option<u16>),
    BothClosed,
    Broken,
}

/// The data frame under way: what is left of its header and of its bytes.
#[derive(Debug, Default)]
struct DataFrame {
    head: Option<WebSocketFrameHead>,
    head_sent: usize,
    left: usize,
    mask: FrameMask,
}

impl DataFrame {
    fn begin(length: usize, masking: Masking) -> Self {
        let head = WebSocketFrameHead::new(Opcode::Binary, FramePosition::Last, length, masking);
        Self { mask: head.mask, head: Some(head), head_sent: 0, left: length }
    }

    fn head_left(&self) -> &[u8] {
        self.head.as_ref().map_or(&[], |head| &head.as_bytes()[self.head_sent..])
    }

    /// Notes that `count` bytes were sent, the header's first; returns how many were data.
    fn note_sent(&mut self, count: usize) -> usize {
        let of_head = count.min(self.head_left().len());
        self.head_sent += of_head;
        let sent = count - of_head;
        self.left -= sent;
        self.mask.turn(sent);
        if self.left == 0 {
            self.head = None;
        }
        sent
    }
}

impl FramedSocket {
    /// Takes over a connection that has become a WebSocket, with the bytes that were read after that.
    pub fn new(stream: PrefixedStream, end: FramedEnd) -> Self {
        let source = match end {
            FramedEnd::Dialled => FrameSource::AcceptedLink,
            FramedEnd::Accepted => FrameSource::DialledLink,
        };
        Self {
            stream,
            end,
            decoder: WebSocketDecoder::new(source),
            state: CloseState::Open,
            sending: DataFrame::default(),
            control: Vec::new(),
            control_sent: 0,
            pings: Some(Box::pin(sleep(PING_INTERVAL))),
            unanswered_pings: 0,
            was_full: false,
        }
    }

    /// The socket below, if there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        self.stream.stream.tcp()
    }

    /// The TLS around it accepts writes of any size.
    pub fn take_whole_writes(&mut self) {
        self.stream.stream.take_whole_writes();
    }

    /// Stops its pings, because what it carries has its own.
    pub fn stop_pings(&mut self) {
        self.pings = None;
    }

    /// Whether its pings have not been answered for long, judged after a read that had to wait.
    pub fn is_silent(&self) -> bool {
        self.unanswered_pings >= SILENT_PINGS
    }

    /// Whether the last read may have left something behind.
    pub fn was_full(&self) -> bool {
        self.was_full
    }

    /// Continues its work while nobody reads it.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) {
        self.poll_pings(cx);
        // An error here also appears at the next read or write.
        let _ = self.poll_control(cx);
    }

    /// Reads and discards until the other end has closed as well: closing earlier would reset what is still on
    /// its way there.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut discard_buffer = [0; 512];
        while self.state == CloseState::WeClosed {
            let mut buf = ReadBuf::new(&mut discard_buffer);
            match ready!(self.poll_messages(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => break,
                Ok(()) => {}
                Err(_) => break,
            }
        }
        Poll::Ready(())
    }

    fn masking(&self) -> Masking {
        match self.end {
            FramedEnd::Dialled => Masking::Fresh,
            FramedEnd::Accepted => Masking::None,
        }
    }

    fn push_control(&mut self, kind: Opcode, body: &[u8]) {
        let masking = self.masking();
        push_frame(&mut self.control, kind, body, masking);
    }

    fn poll_pings(&mut self, cx: &mut Context<'_>) {
        // After our close frame, nothing more is sent.
        if !matches!(self.state, CloseState::Open | CloseState::TheyClosed(_)) {
            return;
        }
        while let Some(timer) = &mut self.pings
            && timer.as_mut().poll(cx).is_ready()
        {
            timer.as_mut().reset(Instant::now() + PING_INTERVAL);
            self.unanswered_pings = self.unanswered_pings.saturating_add(1);
            if self.control.is_empty() {
                self.push_control(Opcode::Ping, b"");
            }
        }
    }

    /// Writes control frames, but not within a data frame, whose writer has to finish it.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sending.head.is_some() {
            return Poll::Pending;
        }
        if self.control.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.control_sent < self.control.len() {
            let left = &self.control[self.control_sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.control_sent += count,
            }
        }
        (self.control, self.control_sent) = (Vec::new(), 0);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Reads until messages have produced bytes; if none, the other end has closed.
    fn poll_messages(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            match self.state {
                CloseState::TheyClosed(_) | CloseState::BothClosed => return Poll::Ready(Ok(())),
                CloseState::Broken => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                CloseState::Open | CloseState::WeClosed => {}
            }
            self.poll_pings(cx);
            if !self.control.is_empty() {
                // An error here also appears at the next write, and after everything there is to read.
                let is_pending = self.poll_control(cx).is_pending();
                if is_pending && self.control.len() >= CONTROL_BYTES_MAX {
                    return Poll::Pending;
                }
            }
            let space = buf.remaining();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            let read = buf.filled().len() - before;
            self.was_full = space > 0 && read == space;
            if read == 0 {
                return Poll::Ready(Err(without_close()));
            }
            self.unanswered_pings = 0;
            let received = self.decoder.decode(&mut buf.filled_mut()[before..], &mut self.control);
            buf.set_filled(before + received);
            self.note_end(cx)?;
            if received > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn note_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.decoder.end() {
            None => Ok(()),
            Some(WebSocketEnd::Closed(code)) => {
                self.state = match self.state {
                    CloseState::WeClosed => CloseState::BothClosed,
                    CloseState::Open
                    | CloseState::TheyClosed(_)
                    | CloseState::BothClosed
                    | CloseState::Broken => CloseState::TheyClosed(code),
                };
                if self.state == CloseState::BothClosed {
                    // Ends TLS and TCP; whether the other end notices is up to it.
                    let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
                }
                Ok(())
            }
            Some(WebSocketEnd::Broken(breach)) => {
                self.push_control(Opcode::Close, &breach.code().to_be_bytes());
                // The other end gets a close frame, if that can be sent at once.
                let _ = self.poll_control(cx);
                self.state = CloseState::Broken;
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {breach}")))
            }
        }
    }

    fn poll_write_pieces(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.state {
            CloseState::Open | CloseState::TheyClosed(_) => {}
            CloseState::WeClosed | CloseState::BothClosed | CloseState::Broken => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        let all: usize = pieces.iter().map(|piece| piece.len()).sum();
        if all == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.sending.head.is_none() {
            ready!(self.poll_control(cx))?;
            self.sending = DataFrame::begin(all.min(FRAME_BYTES_MAX), self.masking());
        }
        loop {
            let count = match self.end {
                FramedEnd::Accepted => ready!(self.poll_write_plain(cx, pieces)),
                FramedEnd::Dialled => ready!(self.poll_write_masked(cx, pieces)),
            }?;
            match (count, self.sending.note_sent(count)) {
                (0, _) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                // This was only a part of the header.
                (_, 0) => {}
                (_, sent) => return Poll::Ready(Ok(sent)),
            }
        }
    }

    fn poll_write_plain(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut all = [IoSlice::new(&[]); PIECES_MAX + 1];
        let (mut count, mut left) = (0, self.sending.left);
        let head = self.sending.head_left();
        if !head.is_empty() {
            all[0] = IoSlice::new(head);
            count = 1;
        }
        for piece in pieces.iter().filter(|piece| !piece.is_empty()).take(PIECES_MAX) {
            if left == 0 {
                break;
            }
            let bytes = &piece[..piece.len().min(left)];
            all[count] = IoSlice::new(bytes);
            (count, left) = (count + 1, left - bytes.len());
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, &all[..count])
    }

    fn poll_write_masked(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        MASKED.with_borrow_mut(|masked| {
            masked.clear();
            masked.extend_from_slice(self.sending.head_left());
            let (mut mask, mut left) = (self.sending.mask, self.sending.left.min(MASKED_BYTES_MAX));
            for piece in pieces {
                let bytes = &piece[..piece.len().min(left)];
                mask.push(bytes, masked);
                left -= bytes.len();
            }
            Pin::new(&mut self.stream).poll_write(cx, masked)
        })
    }
}

fn without_close() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "its WebSocket ended without a close frame")
}

impl AsyncRead for FramedSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_messages(cx, buf)
    }
}

impl AsyncWrite for FramedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_pieces(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_pieces(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.sending.head.is_none() {
            ready!(this.poll_control(cx))?;
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.sending.head.is_some() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame has only begun")));
        }
        match this.state {
            CloseState::Open => {
                this.push_control(Opcode::Close, &NORMAL.to_be_bytes());
                this.state = CloseState::WeClosed;
            }
            CloseState::TheyClosed(code) => {
                let body = code.map(u16::to_be_bytes);
                this.push_control(Opcode::Close, body.as_ref().map_or(&[], |code| code));
                this.state = CloseState::BothClosed;
            }
            CloseState::Broken => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            CloseState::WeClosed | CloseState::BothClosed => {}
        }
        ready!(this.poll_control(cx))?;
        match this.state {
            CloseState::BothClosed => Pin::new(&mut this.stream).poll_shutdown(cx),
            CloseState::Open | CloseState::WeClosed | CloseState::TheyClosed(_) | CloseState::Broken => {
                Poll::Ready(Ok(()))
            }
        }
    }
}

#[cfg(test)]
mod tests;
