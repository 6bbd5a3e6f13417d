//! Any bytes, heard by one end of a link: what the fuzz target and the test of mutations both run.
//!
//! ```text
//! flags (1: bit 0 the server hears, bit 1 the greeting is over), turns: count (1), then each (1),
//! the rest is what the other end sends
//! turn: low half the size of a piece, high half the frame that this end sends after it, if it may
//! ```
//!
//! The bytes are heard twice, in those pieces and one by one; both have to come to the same. What
//! was heard is written again as frames and has to be the bytes that were given.

use portcullis::proto::link::{
    ProtocolViolation,
    decoder::{DecoderNeed, FrameDecoder},
    frame::{self, DATA_MAX, Frame, FrameHeader, FrameKind, HEADER},
    hello, open,
    state::{LinkProtocolState, LinkRole, StateMachine},
};

pub const SERVER_HEARS: u8 = 1;
pub const IS_GREETED: u8 = 2;
/// Turns of one input at most; they are taken again from the first when they run out.
const TURNS_MAX: usize = 32;

/// What an input comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub state: LinkProtocolState,
    pub session: u32,
    /// Frames that were heard.
    pub frames: usize,
    pub violation: Option<ProtocolViolation>,
    /// A frame has begun.
    pub is_within: bool,
}

/// Hears an input and panics where anything is wrong with what comes of it.
pub fn drive(input: &[u8]) -> Outcome {
    let plan = Plan::of(input);
    let (outcome, sends) = plan.hear_in_pieces();
    let (again, _) = plan.hear(&sends, |_| 1);
    assert_eq!(outcome, again, "in pieces, and byte by byte");
    outcome
}

struct Plan<'a> {
    hears: LinkRole,
    is_greeted: bool,
    turns: &'a [u8],
    wire: &'a [u8],
}

/// After so many bytes heard, this end sends a frame.
type Sends = Vec<(usize, FrameKind)>;

impl<'a> Plan<'a> {
    fn of(input: &'a [u8]) -> Self {
        let (flags, rest) = input.split_first().unwrap_or((&0, &[]));
        let (count, rest) = rest.split_first().unwrap_or((&0, &[]));
        let (turns, wire) = rest.split_at(usize::from(*count).min(TURNS_MAX).min(rest.len()));
        let hears = if flags & SERVER_HEARS != 0 { LinkRole::Server } else { LinkRole::Opener };
        Self { hears, is_greeted: flags & IS_GREETED != 0, turns, wire }
    }

    fn hear_in_pieces(&self) -> (Outcome, Sends) {
        let mut sends = Vec::new();
        let mut at = 0;
        for turn in self.turns.iter().cycle() {
            at += 1 << (turn & 0x0f);
            let kind = FrameKind::ALL.into_iter().find(|kind| *kind as u8 == turn >> 4);
            sends.extend(kind.map(|kind| (at.min(self.wire.len()), kind)));
            if at >= self.wire.len() {
                break;
            }
        }
        let sizes: Vec<_> = self.turns.iter().map(|turn| 1 << (turn & 0x0f)).collect();
        self.hear(&sends, |piece| sizes.get(piece % sizes.len().max(1)).copied().unwrap_or(usize::MAX))
    }

    fn hear(&self, sends: &Sends, size_of: impl Fn(usize) -> usize) -> (Outcome, Sends) {
        let mut ear = Ear::new(self.hears, self.is_greeted);
        let mut sends_left = sends.iter().peekable();
        let (mut at, mut piece) = (0, 0);
        while at < self.wire.len() && ear.violation.is_none() {
            // A piece ends where this end says something, so that both ways of hearing agree on when.
            let next_send = sends_left.peek().map_or(usize::MAX, |(at, _)| *at);
            let end = at.saturating_add(size_of(piece)).min(self.wire.len()).min(next_send.max(at + 1));
            ear.hear(&self.wire[at..end]);
            (at, piece) = (end, piece + 1);
            while let Some((_, kind)) = sends_left.next_if(|(due, _)| *due <= at) {
                ear.send(*kind);
            }
        }
        ear.check(self.wire);
        (ear.outcome(), sends.clone())
    }
}

/// One end, and all that it has heard, written again.
struct Ear {
    machine: StateMachine,
    decoder: FrameDecoder,
    /// Bytes given to it.
    given: usize,
    frames: usize,
    again: Vec<u8>,
    violation: Option<ProtocolViolation>,
}

impl Ear {
    fn new(end: LinkRole, is_greeted: bool) -> Self {
        let mut machine = StateMachine::new(end);
        if is_greeted {
            let greets = |machine: &mut StateMachine, from: LinkRole| match from == end {
                true => machine.send(FrameKind::Hello),
                false => machine.hear(FrameKind::Hello),
            };
            greets(&mut machine, LinkRole::Server).expect("the server greets first");
            greets(&mut machine, LinkRole::Opener).expect("the opener answers");
        }
        let decoder = FrameDecoder::default();
        Self { machine, decoder, given: 0, frames: 0, again: Vec::new(), violation: None }
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.violation.is_none() {
            match self.decoder.want() {
                DecoderNeed::Data(left) => {
                    assert!((1..=DATA_MAX).contains(&left));
                    let (passed, rest) = bytes.split_at(left.min(bytes.len()));
                    self.decoder.note_passed(passed.len());
                    self.again.extend_from_slice(passed);
                    self.given += passed.len();
                    bytes = rest;
                }
                DecoderNeed::Bytes(wanted) => {
                    assert!(wanted > 0 && wanted <= hello::BODY_MAX, "{wanted}");
                    let (fed, rest) = bytes.split_at(wanted.min(bytes.len()));
                    self.given += fed.len();
                    self.feed(fed);
                    bytes = rest;
                }
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let before = self.machine.clone();
        match self.decoder.feed(bytes, &mut self.machine) {
            Ok(None) => assert_eq!(self.machine, before, "a part of a frame moves nothing"),
            Ok(Some(frame)) => {
                let (kind, body) = written(&frame);
                let meant = before.state().after(before.end().opposite(), kind);
                assert_eq!(Some(self.machine.state()), meant, "{kind} in {before:?}");
                assert_eq!(self.machine.session() - before.session(), u32::from(kind == FrameKind::Open));
                match (&frame, self.decoder.want()) {
                    (Frame::Data, DecoderNeed::Data(length)) => {
                        self.again.extend_from_slice(&FrameHeader { kind, length }.bytes());
                    }
                    (Frame::Data, DecoderNeed::Bytes(_)) => panic!("`data` without a body"),
                    _ => frame::push(&mut self.again, kind, &body),
                }
                self.frames += 1;
            }
            Err(violation) => {
                // It costs the link, so nothing more is heard; and it has moved nothing.
                assert_eq!(self.machine, before, "{violation}");
                assert!(!violation.to_string().is_empty());
                self.violation = Some(violation);
            }
        }
        assert!(LinkProtocolState::ALL.contains(&self.machine.state()));
    }

    /// This end sends a frame where it may; what may not be sent moves nothing.
    fn send(&mut self, kind: FrameKind) {
        if self.violation.is_some() {
            return;
        }
        let before = self.machine.clone();
        let may = before.may_send(kind).is_ok();
        assert_eq!(self.machine.send(kind).is_ok(), may, "{kind} in {before:?}");
        assert!(may || self.machine == before);
    }

    /// What was heard is what was given, but for a frame that is not whole or was refused.
    fn check(&self, wire: &[u8]) {
        assert!(self.again.len() <= self.given && wire.starts_with(&self.again), "other bytes were heard");
        let rest = self.given - self.again.len();
        match &self.violation {
            Some(_) => assert!((HEADER..=HEADER + hello::BODY_MAX).contains(&rest), "{rest}"),
            None => {
                assert_eq!(self.given, wire.len());
                let is_in_data = matches!(self.decoder.want(), DecoderNeed::Data(_));
                assert_eq!(rest > 0 || is_in_data, self.decoder.is_within(), "{rest}");
            }
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            state: self.machine.state(),
            session: self.machine.session(),
            frames: self.frames,
            violation: self.violation.clone(),
            is_within: self.decoder.is_within(),
        }
    }
}

/// A frame as it was on the wire.
fn written(frame: &Frame) -> (FrameKind, Vec<u8>) {
    match frame {
        Frame::Offer(offer) => (FrameKind::Hello, bounded(offer.body(), hello::BODY_MAX)),
        Frame::Grant(grant) => (FrameKind::Hello, bounded(grant.body(), hello::BODY_MAX)),
        Frame::Open(open) => (FrameKind::Open, bounded(open.body(), open::BODY_MAX)),
        Frame::Opened => (FrameKind::Opened, vec![]),
        Frame::Refused(why) => (FrameKind::Refused, vec![frame::refusal_byte(*why)]),
        Frame::Data => (FrameKind::Data, vec![]),
        Frame::End => (FrameKind::End, vec![]),
        Frame::Reset(reset) => (FrameKind::Reset, reset.body().to_vec()),
        Frame::Ping(token) => (FrameKind::Ping, token.to_vec()),
        Frame::Pong(token) => (FrameKind::Pong, token.to_vec()),
        Frame::Drain => (FrameKind::Drain, vec![]),
        Frame::Retire => (FrameKind::Retire, vec![]),
    }
}

fn bounded(body: Vec<u8>, most: usize) -> Vec<u8> {
    assert!(body.len() <= most);
    body
}
