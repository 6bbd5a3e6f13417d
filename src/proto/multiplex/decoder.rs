//! Turns bytes, arriving in any pieces, into frames; the body of `data` is not copied. A length is refused before
//! anything is kept for it, so that a peer cannot fill the memory.

use super::{
    PeerViolation,
    frame::{FrameHead, FrameType, HEADER_BYTES, LinkFrame},
    hello::{OpenerHello, ServerHello},
    state::LinkEnd,
};

/// How far one end has read into a frame.
#[derive(Debug)]
pub struct FrameReader {
    /// The sender of the frames.
    from: LinkEnd,
    header: [u8; HEADER_BYTES],
    have: usize,
    current: Option<FrameInProgress>,
}

/// A frame whose header is complete.
#[derive(Debug)]
struct FrameInProgress {
    header: FrameHead,
    /// Grown as the bytes come: a length alone costs us nothing.
    body: Vec<u8>,
    /// Bytes of `data` that are still missing.
    left: usize,
}

/// One piece of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum DecodedPiece<'a> {
    Frame {
        session: u32,
        frame: LinkFrame,
    },
    /// Bytes of a session: a part of a `data` frame, or all of it.
    Data {
        session: u32,
        bytes: &'a [u8],
    },
}

impl FrameReader {
    pub fn new(from: LinkEnd) -> Self {
        Self { from, header: [0; HEADER_BYTES], have: 0, current: None }
    }

    /// Whether a frame has begun and is not complete.
    pub fn is_within_frame(&self) -> bool {
        self.have > 0 || self.current.is_some()
    }

    /// The missing bytes of what has begun.
    pub fn missing(&self) -> usize {
        match &self.current {
            None => HEADER_BYTES - self.have,
            Some(current) if current.header.kind == FrameType::Data => current.left,
            Some(current) => current.header.length - current.body.len(),
        }
    }

    /// Takes bytes from the front of `input` until there is a piece; `None` when all are taken.
    pub fn decode<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<DecodedPiece<'a>>, PeerViolation> {
        let Some(current) = &mut self.current else { return self.decode_header(input) };
        let session = current.header.session;
        if current.header.kind == FrameType::Data {
            if input.is_empty() {
                return Ok(None);
            }
            let bytes = take(input, current.left);
            current.left -= bytes.len();
            if current.left == 0 {
                self.current = None;
            }
            return Ok(Some(DecodedPiece::Data { session, bytes }));
        }
        let missing = current.header.length - current.body.len();
        current.body.extend_from_slice(take(input, missing));
        if current.body.len() < current.header.length {
            return Ok(None);
        }
        let (kind, body) = (current.header.kind, std::mem::take(&mut current.body));
        self.current = None;
        let frame = self.whole(kind, &body)?;
        Ok(Some(DecodedPiece::Frame { session, frame }))
    }

    fn decode_header<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<DecodedPiece<'a>>, PeerViolation> {
        let bytes = take(input, HEADER_BYTES - self.have);
        self.header[self.have..self.have + bytes.len()].copy_from_slice(bytes);
        self.have += bytes.len();
        if self.have < HEADER_BYTES {
            return Ok(None);
        }
        self.have = 0;
        let header = FrameHead::parse(self.header)?;
        if header.length == 0 {
            let frame = self.whole(header.kind, &[])?;
            return Ok(Some(DecodedPiece::Frame { session: header.session, frame }));
        }
        self.current = Some(FrameInProgress { header, body: Vec::new(), left: header.length });
        self.decode(input)
    }

    fn whole(&self, kind: FrameType, body: &[u8]) -> Result<LinkFrame, PeerViolation> {
        if kind != FrameType::Hello {
            return LinkFrame::parse(kind, body);
        }
        match self.from {
            LinkEnd::Server => ServerHello::parse(body).map(LinkFrame::ServerHello),
            LinkEnd::Opener => OpenerHello::parse(body).map(LinkFrame::OpenerHello),
        }
    }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        profile::ServiceName,
        proto::{
            Refusal,
            multiplex::{
                frame::{CutCause, DATA_BYTES_MAX},
                open::OpenRequest,
            },
        },
    };

    /// Frames with bodies of their own, and data between them.
    fn stream() -> Vec<u8> {
        let open = OpenRequest::new(ServiceName::parse("orders").expect("a name"), "a-1".into());
        let mut out = Vec::new();
        LinkFrame::Open(Box::new(open)).push(&mut out, 1);
        for (session, bytes) in [(1, &b"only once"[..]), (2, &[9; 300])] {
            let header = FrameHead { kind: FrameType::Data, length: bytes.len(), session };
            out.extend_from_slice(&header.bytes());
            out.extend_from_slice(bytes);
        }
        LinkFrame::Ping(*b"question").push(&mut out, 0);
        LinkFrame::Refused(Refusal::Full).push(&mut out, 3);
        LinkFrame::Reset(CutCause::Operator).push(&mut out, 2);
        LinkFrame::Credit(65_536).push(&mut out, 1);
        LinkFrame::End.push(&mut out, 1);
        LinkFrame::Retire.push(&mut out, 0);
        LinkFrame::Move { sent: 1 << 40, credit: 0, ticket: [0; 16] }.push(&mut out, 4);
        LinkFrame::Resume { received: 7, credit: 65_536, ticket: [9; 16] }.push(&mut out, 4);
        out
    }

    /// The session, the frame or none for `data`, and the bytes of that.
    type Pieces = Vec<(u32, Option<LinkFrame>, Vec<u8>)>;

    /// Everything decoded from pieces, with the `data` of one frame joined.
    fn decode_pieces(pieces: &[&[u8]]) -> Result<Pieces, PeerViolation> {
        let mut decoder = FrameReader::new(LinkEnd::Opener);
        let mut all = Pieces::new();
        for piece in pieces {
            let mut input = *piece;
            while let Some(received) = decoder.decode(&mut input)? {
                match (received, all.last_mut()) {
                    (DecodedPiece::Frame { session, frame }, _) => {
                        all.push((session, Some(frame), Vec::new()))
                    }
                    (DecodedPiece::Data { session, bytes }, Some((last, None, before)))
                        if *last == session =>
                    {
                        before.extend_from_slice(bytes);
                    }
                    (DecodedPiece::Data { session, bytes }, _) => all.push((session, None, bytes.to_vec())),
                }
            }
            assert!(input.is_empty(), "all is taken");
        }
        Ok(all)
    }

    #[test]
    fn a_cut_at_any_offset_changes_nothing() {
        let stream = stream();
        let whole = decode_pieces(&[&stream]).expect("frames");
        assert_eq!(whole.len(), 11);
        for at in 0..stream.len() {
            assert_eq!(decode_pieces(&[&stream[..at], &stream[at..]]), Ok(whole.clone()), "cut at {at}");
        }
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(decode_pieces(&bytes), Ok(whole));
    }

    #[test]
    fn a_length_alone_costs_no_memory() {
        let mut decoder = FrameReader::new(LinkEnd::Opener);
        let header = FrameHead { kind: FrameType::Hello, length: 200_000, session: 0 }.bytes();
        assert_eq!(decoder.decode(&mut &header[..]), Ok(None));
        let current = decoder.current.as_ref().expect("it has begun");
        assert_eq!(current.body.capacity(), 0);
        assert!(decoder.is_within_frame());
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_refused_alike_in_any_pieces(
            bytes in proptest::collection::vec(any::<u8>(), 0..512),
            cuts in proptest::collection::vec(1_usize..64, 1..16),
        ) {
            let mut pieces = Vec::new();
            let mut rest = bytes.as_slice();
            for size in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                pieces.push(take(&mut rest, *size));
            }
            prop_assert_eq!(decode_pieces(&[&bytes]), decode_pieces(&pieces));
        }

        #[test]
        fn data_of_any_size_comes_whole(size in 1..=DATA_BYTES_MAX, cut in 1_usize..70_000) {
            let mut out = FrameHead { kind: FrameType::Data, length: size, session: 7 }.bytes().to_vec();
            out.extend((0..size).map(|at| at as u8));
            let expected: Vec<_> = (0..size).map(|at| at as u8).collect();
            let pieces: Vec<_> = out.chunks(cut).collect();
            prop_assert_eq!(decode_pieces(&pieces), Ok(vec![(7, None, expected)]));
        }
    }
}
