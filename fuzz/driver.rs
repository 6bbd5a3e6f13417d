//! Any bytes, heard by one end of a link: what the fuzz target and the test of mutations both run.
//!
//! ```text
//! flags (1: bit 0 the server hears, bit 1 the greeting is over), turns: count (1), then each (1),
//! the rest is what the other end sends
//! turn: low half the size of a piece, high half the frame that this end sends after it, if it may
//! ```
//!
//! What this end sends of a session is of the one that was opened last. The bytes are heard twice, in those
//! pieces and one by one; both have to come to the same. What was heard is written again as frames and has to
//! be the bytes that were given, or, where a body may hold what is not known, to mean the same.

use portcullis::{
    link::multiplex::{
        credit::{LINK_BUDGET_BYTES, WINDOW_BYTES_MAX, WindowBudget},
        table::SessionTable,
    },
    proto::multiplex::{
        PeerViolation,
        decoder::{FrameReader, HeardPiece},
        frame::{DATA_BYTES_MAX, FrameType, LinkFrame},
        hello,
        state::{LinkEnd, LinkStage, SessionStage},
    },
};

pub const SERVER_HEARS: u8 = 1;
pub const IS_GREETED: u8 = 2;
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

/// Hears an input and panics where anything is wrong with what comes of it.
pub fn drive(input: &[u8]) -> Outcome {
    let plan = Plan::of(input);
    let (outcome, sends) = plan.hear_in_pieces();
    let (again, _) = plan.hear(&sends, |_| 1);
    assert_eq!(outcome, again, "in pieces, and byte by byte");
    outcome
}

struct Plan<'a> {
    hears: LinkEnd,
    is_greeted: bool,
    turns: &'a [u8],
    wire: &'a [u8],
}

/// After so many bytes heard, this end sends a frame.
type Sends = Vec<(usize, FrameType)>;

impl<'a> Plan<'a> {
    fn of(input: &'a [u8]) -> Self {
        let (flags, rest) = input.split_first().unwrap_or((&0, &[]));
        let (count, rest) = rest.split_first().unwrap_or((&0, &[]));
        let (turns, wire) = rest.split_at(usize::from(*count).min(TURNS_MAX).min(rest.len()));
        let hears = if flags & SERVER_HEARS != 0 { LinkEnd::Server } else { LinkEnd::Opener };
        Self { hears, is_greeted: flags & IS_GREETED != 0, turns, wire }
    }

    fn hear_in_pieces(&self) -> (Outcome, Sends) {
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
        (ear.outcome(), sends.clone())
    }
}

/// One end, and all that it has heard.
struct Ear {
    end: LinkEnd,
    stage: LinkStage,
    reader: FrameReader,
    table: SessionTable<()>,
    /// The session that was opened last.
    last: u32,
    heard: Vec<u8>,
    frames: usize,
    violation: Option<PeerViolation>,
}

impl Ear {
    fn new(end: LinkEnd, is_greeted: bool) -> Self {
        Self {
            end,
            stage: if is_greeted { LinkStage::Running } else { LinkStage::AwaitingOffer },
            reader: FrameReader::new(end.other()),
            table: SessionTable::new(end, WindowBudget::new(LINK_BUDGET_BYTES)),
            last: 0,
            heard: Vec::new(),
            frames: 0,
            violation: None,
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let mut input = bytes;
        while self.violation.is_none() {
            let before = input.len();
            let heard = self.reader.decode(&mut input);
            let taken = before - input.len();
            self.heard.extend_from_slice(&bytes[bytes.len() - before..][..taken]);
            let noted = match heard {
                Ok(None) => {
                    assert!(input.is_empty(), "all is taken, or something was heard");
                    return;
                }
                Ok(Some(HeardPiece::Data { session, bytes })) => {
                    assert!((1..=DATA_BYTES_MAX).contains(&bytes.len()) && self.heard.ends_with(bytes));
                    self.receive_data(session, bytes.len())
                }
                Ok(Some(HeardPiece::Frame { session, frame })) => {
                    check_written(&self.heard, self.end.other(), session, &frame);
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
            _ if kind.is_about_session() => {
                let before = self.table.entry(self.last).map(|entry| entry.channel.stage());
                let may = before.is_some_and(|stage| stage.after(self.end, kind).is_some());
                let sent = self.table.send(self.last, kind);
                assert_eq!(sent.is_ok(), may, "{kind} in {before:?}");
                let after = self.table.entry(self.last).map(|entry| entry.channel.stage());
                if sent.is_ok() && after == Some(SessionStage::Closed) {
                    self.table.close(self.last);
                }
            }
            _ => {}
        }
    }

    /// Whatever was said, no session may send more than its window.
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

/// Written again, a frame is what was heard last; or, with fields that are not known, means the same.
fn check_written(heard: &[u8], from: LinkEnd, session: u32, frame: &LinkFrame) {
    let mut again = Vec::new();
    frame.push(&mut again, session);
    let has_fields = matches!(frame.kind(), FrameType::Hello | FrameType::Services | FrameType::Open);
    assert!(has_fields || heard.ends_with(&again), "{frame:?}");
    let mut reader = FrameReader::new(from);
    let same = HeardPiece::Frame { session, frame: frame.clone() };
    assert_eq!(reader.decode(&mut &again[..]), Ok(Some(same)));
}
