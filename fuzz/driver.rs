//! Feeds arbitrary bytes to one end of a link; shared by the fuzz target and the mutation test.
//!
//! ```text
//! flags (1: bit 0 the server receives, bit 1 the handshake is done), turns: count (1), then each (1),
//! the rest is what the other end sends
//! turn: low half the size of a piece, high half the frame that this end sends after it, if it may
//! ```
//!
//! What this end sends of a session is of the one that was opened last. The bytes are decoded twice, in those
//! pieces and one by one, with the same result. The decoded frames are encoded again, which must give the
//! original bytes, or, where a body may contain unknown fields, equal frames. A session that moves comes back to the
//! same link.

use std::collections::HashMap;

use portcullis::{
    link::multiplex::{
        credit::{LINK_BUDGET_BYTES, WINDOW_BYTES_MAX, WindowBudget},
        table::{SessionTable, TableEntry},
    },
    proto::{
        Refusal,
        multiplex::{
            PeerViolation,
            decoder::{DecodedPiece, FrameReader},
            frame::{CutCause, DATA_BYTES_MAX, FrameType, LinkFrame, MoveTicket},
            hello,
            permitted::TurnFrame,
            state::{LinkEnd, LinkStage, SessionStage},
        },
    },
};

pub const SERVER_RECEIVES: u8 = 1;
pub const HANDSHAKE_DONE: u8 = 2;
/// Turns of one input at most; they are taken again from the first when they run out.
const TURNS_MAX: usize = 32;

/// What an input comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub stage: LinkStage,
    /// Sessions that are open, by their numbers.
    pub sessions: Vec<(u32, SessionStage)>,
    /// Frames that were heard, but for `data`.
    pub frames: usize,
    pub violation: Option<PeerViolation>,
    /// A frame has begun.
    pub is_within: bool,
}

/// Decodes an input, and panics if any invariant is broken.
pub fn drive(input: &[u8]) -> Outcome {
    let plan = Plan::of(input);
    let (outcome, sends) = plan.decode_in_pieces();
    let (again, _) = plan.decode_all(&sends, |_| 1);
    assert_eq!(outcome, again, "in pieces, and byte by byte");
    outcome
}

struct Plan<'a> {
    receiver: LinkEnd,
    is_running: bool,
    turns: &'a [u8],
    wire: &'a [u8],
}

/// After this many received bytes, this end sends a frame.
type Sends = Vec<(usize, FrameType)>;

impl<'a> Plan<'a> {
    fn of(input: &'a [u8]) -> Self {
        let (flags, rest) = input.split_first().unwrap_or((&0, &[]));
        let (count, rest) = rest.split_first().unwrap_or((&0, &[]));
        let (turns, wire) = rest.split_at(usize::from(*count).min(TURNS_MAX).min(rest.len()));
        let receiver = if flags & SERVER_RECEIVES != 0 { LinkEnd::Server } else { LinkEnd::Opener };
        Self { receiver, is_running: flags & HANDSHAKE_DONE != 0, turns, wire }
    }

    fn decode_in_pieces(&self) -> (Outcome, Sends) {
        let mut sends = Vec::new();
        let mut at = 0;
        for turn in self.turns.iter().cycle() {
            at += 1 << (turn & 0x0f);
            let kind = FrameType::ALL.into_iter().find(|kind| *kind as u8 == turn >> 4);
            sends.extend(kind.map(|kind| (at.min(self.wire.len()), kind)));
            if at >= self.wire.len() {
                break;
            }
        }
        let sizes: Vec<_> = self.turns.iter().map(|turn| 1 << (turn & 0x0f)).collect();
        self.decode_all(&sends, |piece| sizes.get(piece % sizes.len().max(1)).copied().unwrap_or(usize::MAX))
    }

    fn decode_all(&self, sends: &Sends, size_of: impl Fn(usize) -> usize) -> (Outcome, Sends) {
        let mut ear = ReceivingEnd::new(self.receiver, self.is_running);
        let mut sends_left = sends.iter().peekable();
        let (mut at, mut piece) = (0, 0);
        while at < self.wire.len() && ear.violation.is_none() {
            // A piece ends where this end says something, so that both ways of hearing agree on when.
            let next_send = sends_left.peek().map_or(usize::MAX, |(at, _)| *at);
            let end = at.saturating_add(size_of(piece)).min(self.wire.len()).min(next_send.max(at + 1));
            ear.decode_all(&self.wire[at..end]);
            (at, piece) = (end, piece + 1);
            while let Some((_, kind)) = sends_left.next_if(|(due, _)| *due <= at) {
                ear.send(*kind);
            }
        }
        (ear.outcome(), sends.clone())
    }
}

/// One end, with everything it has received.
struct ReceivingEnd {
    end: LinkEnd,
    stage: LinkStage,
    reader: FrameReader,
    table: SessionTable<()>,
    /// Sessions that have left the link, and not come back yet.
    parked: HashMap<u32, Box<TableEntry<()>>>,
    /// The session that was opened last.
    last: u32,
    received: Vec<u8>,
    frames: usize,
    violation: Option<PeerViolation>,
}

impl ReceivingEnd {
    fn new(end: LinkEnd, is_running: bool) -> Self {
        Self {
            end,
            stage: if is_running { LinkStage::Running } else { LinkStage::AwaitingOffer },
            reader: FrameReader::new(end.other()),
            table: SessionTable::new(end, WindowBudget::new(LINK_BUDGET_BYTES)),
            parked: HashMap::new(),
            last: 0,
            received: Vec::new(),
            frames: 0,
            violation: None,
        }
    }

    fn decode_all(&mut self, bytes: &[u8]) {
        let mut input = bytes;
        while self.violation.is_none() {
            let before = input.len();
            let received = self.reader.decode(&mut input);
            let taken = before - input.len();
            self.received.extend_from_slice(&bytes[bytes.len() - before..][..taken]);
            let noted = match received {
                Ok(None) => {
                    assert!(input.is_empty(), "all is taken, or something was heard");
                    return;
                }
                Ok(Some(DecodedPiece::Data { session, bytes })) => {
                    assert!((1..=DATA_BYTES_MAX).contains(&bytes.len()) && self.received.ends_with(bytes));
                    self.receive_data(session, bytes.len())
                }
                Ok(Some(DecodedPiece::Frame { session, frame })) => {
                    check_written(&self.received, self.end.other(), session, &frame);
                    self.frames += 1;
                    self.receive_frame(session, &frame)
                }
                Err(violation) => Err(violation),
            };
            if let Err(violation) = noted {
                assert!(!violation.to_string().is_empty());
                self.violation = Some(violation);
            }
            self.check_bounds();
        }
    }

    fn receive_data(&mut self, session: u32, bytes: usize) -> Result<(), PeerViolation> {
        self.step(self.end.other(), FrameType::Data)?;
        // How much of it came at once is not the same in pieces.
        self.table.receive_data(session, bytes).map(drop).map_err(|violation| match violation {
            PeerViolation::BeyondCredit(session, _) => PeerViolation::BeyondCredit(session, 0),
            other => other,
        })
    }

    fn receive_frame(&mut self, session: u32, frame: &LinkFrame) -> Result<(), PeerViolation> {
        let kind = frame.kind();
        self.step(self.end.other(), kind)?;
        match frame {
            LinkFrame::Open(_) => {
                self.last = session;
                self.table.open(session, ())
            }
            LinkFrame::Move { sent, .. } => self.receive_move(session, *sent),
            LinkFrame::Resume { .. } => {
                let parked = self.parked.remove(&session).ok_or(PeerViolation::NotMoving(session))?;
                self.table.move_in(session, parked)
            }
            LinkFrame::Credit(bytes) => self.table.receive_credit(session, *bytes).map(drop),
            _ if kind.is_about_session() => {
                let entry = self.table.receive(session, kind)?;
                if entry.is_some_and(|entry| entry.channel.stage() == SessionStage::Closed) {
                    self.table.close(session);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn receive_move(&mut self, session: u32, sent: u64) -> Result<(), PeerViolation> {
        let before = self.table.entry(session).map(|entry| entry.channel.stage());
        let Some(entry) = self.table.receive(session, FrameType::Move)? else { return Ok(()) };
        if entry.channel.receive.received() != sent {
            return Err(PeerViolation::MovedBytes(session));
        }
        if self.end == LinkEnd::Opener {
            self.park(session, before);
        }
        Ok(())
    }

    /// A session whose last frame has gone over the link.
    fn park(&mut self, session: u32, before: Option<SessionStage>) {
        let stage = before.and_then(SessionStage::resumed).expect("only one that moves leaves");
        let mut entry = self.table.move_out(session, stage).expect("it is there");
        entry.channel.receive.restart(0);
        self.parked.insert(session, entry);
    }

    fn step(&mut self, from: LinkEnd, kind: FrameType) -> Result<(), PeerViolation> {
        let next = self.stage.after(from, kind);
        self.stage = next.ok_or(PeerViolation::LinkState(kind, self.stage))?;
        Ok(())
    }

    /// This end sends a frame where it may; what may not be sent moves nothing.
    fn send(&mut self, kind: FrameType) {
        if self.violation.is_some() || self.step(self.end, kind).is_err() {
            return;
        }
        match kind {
            FrameType::Open => {
                self.last += 1;
                self.table.open(self.last, ()).expect("its own numbers rise");
            }
            FrameType::Resume => {
                if let Some(parked) = self.parked.remove(&self.last) {
                    self.table.move_in(self.last, parked).expect("its number is free");
                }
            }
            _ if kind.is_about_session() => {
                let before = self.table.entry(self.last).map(|entry| entry.channel.stage());
                let may = before.is_some_and(|stage| stage.after(self.end, kind).is_some());
                let sent = send_sample(&mut self.table, self.last, kind);
                assert_eq!(sent.is_ok(), may, "{kind} in {before:?}");
                let after = self.table.entry(self.last).map(|entry| entry.channel.stage());
                if sent.is_ok() && after == Some(SessionStage::Closed) {
                    match kind {
                        FrameType::Move => self.park(self.last, before),
                        _ => drop(self.table.close(self.last)),
                    }
                }
            }
            _ => {}
        }
    }

    /// No input lets a session send more than its window.
    fn check_bounds(&mut self) {
        assert!(self.reader.missing() <= hello::BODY_BYTES_MAX.max(DATA_BYTES_MAX));
        for number in self.table.numbers() {
            let entry = self.table.entry(number).expect("it is there");
            assert!(entry.channel.receive.open() <= WINDOW_BYTES_MAX);
        }
    }

    fn outcome(mut self) -> Outcome {
        let mut numbers = self.table.numbers();
        numbers.sort_unstable();
        let stage_of = |number| self.table.entry(number).map(|entry| (number, entry.channel.stage()));
        Outcome {
            sessions: numbers.into_iter().filter_map(stage_of).collect(),
            stage: self.stage,
            frames: self.frames,
            // Of a frame that costs the link, more or less may have come.
            is_within: self.violation.is_none() && self.reader.is_within_frame(),
            violation: self.violation,
        }
    }
}

/// Encoding the frame again gives the received bytes; with unknown fields, it gives an equal frame.
fn check_written(received: &[u8], from: LinkEnd, session: u32, frame: &LinkFrame) {
    let mut again = Vec::new();
    frame.push(&mut again, session);
    let has_fields = matches!(frame.kind(), FrameType::Hello | FrameType::Services | FrameType::Open);
    assert!(has_fields || received.ends_with(&again), "{frame:?}");
    let mut reader = FrameReader::new(from);
    let same = DecodedPiece::Frame { session, frame: frame.clone() };
    assert_eq!(reader.decode(&mut &again[..]), Ok(Some(same)));
}

/// Sends some frame of a kind.
fn send_sample(table: &mut SessionTable<()>, number: u32, kind: FrameType) -> Result<(), PeerViolation> {
    let frame = match kind {
        FrameType::Data => return table.send_turn(number, TurnFrame::Data(1)).map(drop),
        FrameType::Opened => LinkFrame::Opened,
        FrameType::Refused => LinkFrame::Refused(Refusal::Full),
        FrameType::End => LinkFrame::End,
        FrameType::Reset => LinkFrame::Reset(CutCause::Other),
        FrameType::Credit => LinkFrame::Credit(1),
        FrameType::Move => LinkFrame::Move { sent: 0, credit: 0, ticket: MoveTicket::default() },
        FrameType::Resume => LinkFrame::Resume { received: 0, credit: 0, ticket: MoveTicket::default() },
        _ => unreachable!("`open` and frames about the link are sent elsewhere"),
    };
    table.send(number, frame).map(drop)
}
