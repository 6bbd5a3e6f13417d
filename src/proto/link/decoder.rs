//! Bytes as they come, in any pieces, into frames; the body of `data` passes through untouched.

use super::{
    Violation,
    frame::{Frame, HEADER, Header, Kind, Reset, TOKEN, parse_refusal},
    hello::{Grant, Offer},
    open::Open,
    state::{End, Machine},
};

/// What the decoder needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// So many bytes at most, for [`Decoder::feed`].
    Bytes(usize),
    /// So many bytes at most that belong to the session, told by [`Decoder::passed`].
    Data(usize),
}

/// Where one end's reading is within a frame.
#[derive(Debug, Default)]
pub struct Decoder {
    header: [u8; HEADER],
    have: usize,
    body: Body,
}

#[derive(Debug, Default)]
enum Body {
    /// The header is not whole yet.
    #[default]
    None,
    /// Gathered until it is whole.
    Gathered { kind: Kind, bytes: Vec<u8>, length: usize },
    /// The rest of a `data` frame.
    Data(usize),
}

impl Decoder {
    pub fn want(&self) -> Want {
        match &self.body {
            Body::None => Want::Bytes(HEADER - self.have),
            Body::Gathered { bytes, length, .. } => Want::Bytes(length - bytes.len()),
            Body::Data(left) => Want::Data(*left),
        }
    }

    /// Whether a frame has begun and is not whole.
    pub fn is_within(&self) -> bool {
        self.have > 0 || !matches!(self.body, Body::None)
    }

    /// Takes bytes, at most as many as it wants. A frame is checked against the state when its
    /// header is whole, before its body is looked at.
    pub fn feed(&mut self, bytes: &[u8], machine: &mut Machine) -> Result<Option<Frame>, Violation> {
        match &mut self.body {
            Body::None => {
                self.header[self.have..self.have + bytes.len()].copy_from_slice(bytes);
                self.have += bytes.len();
                if self.have < HEADER {
                    return Ok(None);
                }
                self.have = 0;
                self.begin(Header::parse(self.header)?, machine)
            }
            Body::Gathered { bytes: gathered, length, kind } => {
                gathered.extend_from_slice(bytes);
                if gathered.len() < *length {
                    return Ok(None);
                }
                let (kind, body) = (*kind, std::mem::take(gathered));
                self.body = Body::None;
                whole(kind, &body, machine).map(Some)
            }
            Body::Data(_) => unreachable!("`data` is told by `passed`"),
        }
    }

    fn begin(&mut self, header: Header, machine: &mut Machine) -> Result<Option<Frame>, Violation> {
        let Header { kind, length } = header;
        machine.may_hear(kind)?;
        if kind == Kind::Data {
            machine.hear(kind)?;
            self.body = Body::Data(length);
            return Ok(Some(Frame::Data));
        }
        if length == 0 {
            return whole(kind, &[], machine).map(Some);
        }
        // Grown as the bytes come: a length alone costs us nothing.
        self.body = Body::Gathered { kind, bytes: Vec::new(), length };
        Ok(None)
    }

    /// So many bytes of a `data` frame have passed.
    pub fn passed(&mut self, count: usize) {
        if let Body::Data(left) = &mut self.body {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.body = Body::None;
            }
        }
    }
}

fn whole(kind: Kind, body: &[u8], machine: &mut Machine) -> Result<Frame, Violation> {
    let token = |body: &[u8]| -> Result<[u8; TOKEN], Violation> {
        body.try_into().map_err(|_| Violation::Length(kind, body.len()))
    };
    let frame = match kind {
        Kind::Hello if machine.end() == End::Opener => Frame::Offer(Offer::parse(body)?),
        Kind::Hello => Frame::Grant(Grant::parse(body)?),
        Kind::Open => Frame::Open(Open::parse(body)?),
        Kind::Opened => Frame::Opened,
        Kind::Refused => Frame::Refused(parse_refusal(body)?),
        Kind::Data => Frame::Data,
        Kind::End => Frame::End,
        Kind::Reset => Frame::Reset(Reset::parse(body)?),
        Kind::Ping => Frame::Ping(token(body)?),
        Kind::Pong => Frame::Pong(token(body)?),
        Kind::Drain => Frame::Drain,
        Kind::Retire => Frame::Retire,
    };
    // Only now: a body that is not whole or means nothing moves nothing.
    machine.hear(kind)?;
    Ok(frame)
}
