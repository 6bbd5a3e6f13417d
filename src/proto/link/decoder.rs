//! Bytes as they come, in any pieces, into frames; the body of `data` passes through untouched.

use super::{
    ProtocolViolation,
    frame::{Frame, FrameHeader, FrameKind, HEADER, ResetFrame, TOKEN, parse_refusal},
    hello::{GrantHello, OfferHello},
    open::OpenFrame,
    state::{LinkRole, StateMachine},
};

/// What the decoder needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecoderNeed {
    /// So many bytes at most, for [`FrameDecoder::feed`].
    Bytes(usize),
    /// So many bytes at most that belong to the session, told by [`FrameDecoder::note_passed`].
    Data(usize),
}

/// Where one end's reading is within a frame.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    header: [u8; HEADER],
    have: usize,
    body: BodyState,
}

#[derive(Debug, Default)]
enum BodyState {
    /// The header is not whole yet.
    #[default]
    None,
    /// Gathered until it is whole.
    Gathered { kind: FrameKind, bytes: Vec<u8>, length: usize },
    /// The rest of a `data` frame.
    Data(usize),
}

impl FrameDecoder {
    pub fn want(&self) -> DecoderNeed {
        match &self.body {
            BodyState::None => DecoderNeed::Bytes(HEADER - self.have),
            BodyState::Gathered { bytes, length, .. } => DecoderNeed::Bytes(length - bytes.len()),
            BodyState::Data(left) => DecoderNeed::Data(*left),
        }
    }

    /// Whether a frame has begun and is not whole.
    pub fn is_within(&self) -> bool {
        self.have > 0 || !matches!(self.body, BodyState::None)
    }

    /// Takes bytes, at most as many as it wants. A frame is checked against the state when its
    /// header is whole, before its body is looked at.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        machine: &mut StateMachine,
    ) -> Result<Option<Frame>, ProtocolViolation> {
        match &mut self.body {
            BodyState::None => {
                self.header[self.have..self.have + bytes.len()].copy_from_slice(bytes);
                self.have += bytes.len();
                if self.have < HEADER {
                    return Ok(None);
                }
                self.have = 0;
                self.begin(FrameHeader::parse(self.header)?, machine)
            }
            BodyState::Gathered { bytes: gathered, length, kind } => {
                gathered.extend_from_slice(bytes);
                if gathered.len() < *length {
                    return Ok(None);
                }
                let (kind, body) = (*kind, std::mem::take(gathered));
                self.body = BodyState::None;
                parse_frame(kind, &body, machine).map(Some)
            }
            BodyState::Data(_) => unreachable!("`data` is told by `passed`"),
        }
    }

    fn begin(
        &mut self,
        header: FrameHeader,
        machine: &mut StateMachine,
    ) -> Result<Option<Frame>, ProtocolViolation> {
        let FrameHeader { kind, length } = header;
        machine.may_hear(kind)?;
        if kind == FrameKind::Data {
            machine.hear(kind)?;
            self.body = BodyState::Data(length);
            return Ok(Some(Frame::Data));
        }
        if length == 0 {
            return parse_frame(kind, &[], machine).map(Some);
        }
        // Grown as the bytes come: a length alone costs us nothing.
        self.body = BodyState::Gathered { kind, bytes: Vec::new(), length };
        Ok(None)
    }

    /// So many bytes of a `data` frame have passed.
    pub fn note_passed(&mut self, count: usize) {
        if let BodyState::Data(left) = &mut self.body {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.body = BodyState::None;
            }
        }
    }
}

fn parse_frame(kind: FrameKind, body: &[u8], machine: &mut StateMachine) -> Result<Frame, ProtocolViolation> {
    let token = |body: &[u8]| -> Result<[u8; TOKEN], ProtocolViolation> {
        body.try_into().map_err(|_| ProtocolViolation::Length(kind, body.len()))
    };
    let frame = match kind {
        FrameKind::Hello if machine.end() == LinkRole::Opener => Frame::Offer(OfferHello::parse(body)?),
        FrameKind::Hello => Frame::Grant(GrantHello::parse(body)?),
        FrameKind::Open => Frame::Open(OpenFrame::parse(body)?),
        FrameKind::Opened => Frame::Opened,
        FrameKind::Refused => Frame::Refused(parse_refusal(body)?),
        FrameKind::Data => Frame::Data,
        FrameKind::End => Frame::End,
        FrameKind::Reset => Frame::Reset(ResetFrame::parse(body)?),
        FrameKind::Ping => Frame::Ping(token(body)?),
        FrameKind::Pong => Frame::Pong(token(body)?),
        FrameKind::Drain => Frame::Drain,
        FrameKind::Retire => Frame::Retire,
    };
    // Only now: a body that is not whole or means nothing moves nothing.
    machine.hear(kind)?;
    Ok(frame)
}
