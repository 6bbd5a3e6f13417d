//! Two ends of a link without sockets: each sends whatever it may, the bytes arrive in order and in
//! pieces of any size, and every byte of a session says whose it is.
//!
//! ```text
//! opener ── bytes ──► server      a side speaks at any time, whatever has reached it so far;
//!        ◄── bytes ──             so the two are in different states until all has arrived
//! ```

use std::{
    collections::{HashSet, VecDeque},
    net::SocketAddr,
};

use fastrand::Rng;
use portcullis::{
    profile::{Carries, ServiceName},
    proto::{
        Refusal,
        link::{
            decoder::{DecoderNeed, FrameDecoder},
            frame::{self, DATA_MAX, Frame, FrameKind, ResetCause, ResetFrame, TOKEN},
            hello::{GrantHello, OfferHello},
            open::OpenFrame,
            state::{LinkProtocolState, LinkRole, StateMachine},
        },
    },
};

use crate::seed;

const SESSIONS_MIN: usize = 8_000;
/// By then every cell of the table has been come by, or never will be.
const SESSIONS_MAX: usize = 100_000;
/// Beyond this an end that may send more data does not.
const QUEUE_MAX: usize = 64 * 1024;
/// Steps after which a link that has not come to its end as planned is a failure.
const STEPS_MAX: usize = 200_000;
const BLOCK: u64 = 16;
const ENDS: [LinkRole; 2] = [LinkRole::Opener, LinkRole::Server];

#[test]
fn sessions_share_a_link_and_never_a_byte() {
    let mut rng = Rng::with_seed(seed());
    let mut tally = Tally::default();
    let endings = endings();
    let missing = |seen: &HashSet<_>| cells().filter(|cell| !seen.contains(cell)).collect::<Vec<_>>();
    for ending in endings.iter().cycle() {
        World::new(&mut rng, &mut tally).run(ending);
        let has_seen_all = missing(&tally.sent).is_empty() && missing(&tally.heard).is_empty();
        if tally.sessions >= SESSIONS_MAX || (tally.sessions >= SESSIONS_MIN && has_seen_all) {
            break;
        }
    }
    assert_eq!(missing(&tally.sent), [], "never sent");
    assert_eq!(missing(&tally.heard), [], "never heard");
    let Tally { first_ends, opens_behind_ends, late_bytes, .. } = tally;
    assert!(first_ends.iter().all(|count| *count > 100), "{first_ends:?}");
    assert!(opens_behind_ends > 100 && late_bytes > 1000, "{opens_behind_ends}, {late_bytes}");
}

/// Every cell of the table that is not empty.
fn cells() -> impl Iterator<Item = (LinkProtocolState, LinkRole, FrameKind)> {
    let ends = LinkProtocolState::ALL.into_iter().flat_map(|state| ENDS.map(|end| (state, end)));
    let all = ends.flat_map(|(state, end)| FrameKind::ALL.map(|kind| (state, end, kind)));
    all.filter(|(state, end, kind)| state.after(*end, *kind).is_some())
}

/// How a link ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// Both ends are free, and all has arrived.
    Free,
    /// An end cuts the session in this state, with bytes on the way.
    Cut(LinkRole, LinkProtocolState),
    /// The same once all has arrived.
    CutWhenStill(LinkRole, LinkProtocolState),
}

fn endings() -> Vec<Ending> {
    let resets = cells().filter(|(.., kind)| *kind == FrameKind::Reset);
    let cuts = resets.flat_map(|(state, end, _)| [Ending::Cut(end, state), Ending::CutWhenStill(end, state)]);
    cuts.chain([Ending::Free; 8]).collect()
}

/// What a run has come by.
#[derive(Default)]
struct Tally {
    links: usize,
    sessions: usize,
    sent: HashSet<(LinkProtocolState, LinkRole, FrameKind)>,
    heard: HashSet<(LinkProtocolState, LinkRole, FrameKind)>,
    /// Sessions whose first end came from the opener, and from the server.
    first_ends: [usize; 2],
    /// Reads that brought the last end of a session and the `open` of the next one.
    opens_behind_ends: usize,
    late_bytes: usize,
}

struct Side {
    machine: StateMachine,
    decoder: FrameDecoder,
    /// Bytes on the way to it.
    inbox: VecDeque<u8>,
    /// Bytes of this session, by it and to it.
    sent: u64,
    heard: u64,
    asked: VecDeque<[u8; TOKEN]>,
    unanswered: VecDeque<[u8; TOKEN]>,
}

/// What each end of a session has sent before it ended, as both know in the end.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    ended: [Option<u64>; 2],
    heard: [Option<u64>; 2],
    refused: bool,
}

struct World<'a> {
    rng: &'a mut Rng,
    tally: &'a mut Tally,
    sides: [Side; 2],
    /// By a session's number, from 1.
    told: Vec<Told>,
}

impl<'a> World<'a> {
    fn new(rng: &'a mut Rng, tally: &'a mut Tally) -> Self {
        let sides = ENDS.map(|end| Side {
            machine: StateMachine::new(end),
            decoder: FrameDecoder::default(),
            inbox: VecDeque::new(),
            sent: 0,
            heard: 0,
            asked: VecDeque::new(),
            unanswered: VecDeque::new(),
        });
        Self { rng, tally, sides, told: vec![Told::default()] }
    }

    fn run(&mut self, ending: &Ending) {
        let sessions = self.rng.usize(1..60);
        for _ in 0..STEPS_MAX {
            let is_done = self.told.len() > sessions;
            let at = self.rng.usize(0..2);
            match *ending {
                Ending::Free if is_done && self.is_over() => return self.close(),
                Ending::Cut(end, state) if is_done && self.state(end) == state => return self.cut(end),
                Ending::CutWhenStill(end, state) if is_done && self.state(end) == state => {
                    self.settle();
                    if self.state(end) == state {
                        self.say(end as usize, FrameKind::Reset);
                        self.settle();
                        return self.count();
                    }
                }
                Ending::Free | Ending::Cut(..) | Ending::CutWhenStill(..) => {}
            }
            if self.rng.bool() {
                self.deliver(at);
            } else {
                let may_open = !is_done || !matches!(ending, Ending::Free);
                self.speak(at, may_open);
            }
            self.agree_if_still();
        }
        panic!("{ending:?} after {sessions} sessions never came");
    }

    fn state(&self, end: LinkRole) -> LinkProtocolState {
        self.sides[end as usize].machine.state()
    }

    fn is_still(&self) -> bool {
        self.sides.iter().all(|side| side.inbox.is_empty() && !side.decoder.is_within())
    }

    fn is_over(&self) -> bool {
        self.is_still() && ENDS.iter().all(|end| self.state(*end).is_free())
    }

    /// Where nothing is on the way, the two know the same.
    fn agree_if_still(&self) {
        if self.is_still() {
            let known = self.sides.each_ref().map(|side| (side.machine.state(), side.machine.session()));
            assert_eq!(known[0], known[1]);
        }
    }

    fn settle(&mut self) {
        while !self.is_still() {
            self.deliver(0);
            self.deliver(1);
        }
        self.agree_if_still();
    }

    /// All sessions but a refused one have ended on both sides, and every byte has come.
    fn close(&mut self) {
        for (number, told) in self.told.iter().enumerate().skip(1) {
            let is_whole = told.ended == told.heard && told.ended.iter().all(Option::is_some);
            assert!(told.refused || is_whole, "session {number}: {told:?}");
        }
        assert!(self.sides.iter().all(|side| side.unanswered.len() == self.other(side).asked.len()));
        self.count();
    }

    fn count(&mut self) {
        self.tally.links += 1;
        self.tally.sessions += self.told.len() - 1;
    }

    fn other(&self, side: &Side) -> &Side {
        &self.sides[side.machine.end().opposite() as usize]
    }

    /// One end resets and reads no more; the other may go on until it hears of it.
    fn cut(&mut self, end: LinkRole) {
        let (at, other) = (end as usize, end.opposite() as usize);
        self.say(at, FrameKind::Reset);
        let closed = &self.sides[at].machine;
        assert!(FrameKind::ALL.iter().all(|kind| closed.may_send(*kind).is_err()), "a frame after a reset");
        while self.sides[other].machine.state() != LinkProtocolState::Closed {
            if self.rng.bool() {
                self.deliver(other);
            } else {
                self.speak(other, true);
            }
        }
        assert!(self.sides[other].inbox.is_empty(), "bytes behind a reset");
        self.count();
    }

    /// An end says something that it may say.
    fn speak(&mut self, at: usize, may_open: bool) {
        let side = &self.sides[at];
        let is_crowded = self.sides[1 - at].inbox.len() > QUEUE_MAX;
        let weight = |kind: FrameKind| match kind {
            FrameKind::Hello | FrameKind::Opened | FrameKind::End => 4,
            FrameKind::Open => 16 * usize::from(may_open),
            FrameKind::Data => 8 * usize::from(!is_crowded),
            FrameKind::Refused => 1,
            FrameKind::Ping | FrameKind::Drain | FrameKind::Retire => 1,
            FrameKind::Pong => 2 * usize::from(!side.asked.is_empty()),
            FrameKind::Reset => 0,
        };
        let mut bag = Vec::new();
        for kind in FrameKind::ALL {
            let may = side.machine.state().after(side.machine.end(), kind).is_some();
            assert_eq!(side.machine.may_send(kind).is_ok(), may, "{kind}");
            bag.extend(std::iter::repeat_n(kind, if may { weight(kind) } else { 0 }));
        }
        let Some(kind) = self.rng.choice(bag) else { return };
        let was_last_end = kind == FrameKind::End;
        self.say(at, kind);
        // Often in the same write.
        if was_last_end
            && may_open
            && at == 0
            && self.state(LinkRole::Opener) == LinkProtocolState::Ready
            && self.rng.bool()
        {
            self.say(at, FrameKind::Open);
        }
    }

    fn say(&mut self, at: usize, kind: FrameKind) {
        let side = &mut self.sides[at];
        let (before, end) = (side.machine.state(), side.machine.end());
        side.machine.send(kind).unwrap();
        self.tally.sent.insert((before, end, kind));
        let session = side.machine.session();
        let body = match kind {
            FrameKind::Hello if end == LinkRole::Server => offer().body(),
            FrameKind::Hello => grant().body(),
            FrameKind::Open => {
                (side.sent, side.heard) = (0, 0);
                self.told.push(Told::default());
                open(session, self.rng).body()
            }
            FrameKind::Refused => {
                self.told[session as usize].refused = true;
                vec![frame::refusal_byte(Refusal::BackendRefused)]
            }
            FrameKind::Data => {
                let length = match self.rng.u32(0..1000) {
                    0 => DATA_MAX,
                    1..20 => self.rng.usize(1..4000),
                    _ => self.rng.usize(1..60),
                };
                let from = side.sent;
                side.sent += length as u64;
                (from..side.sent).map(|offset| byte(session, end, offset)).collect()
            }
            FrameKind::End => {
                let told = &mut self.told[session as usize];
                if before == LinkProtocolState::Carrying {
                    self.tally.first_ends[at] += 1;
                }
                told.ended[at] = Some(side.sent);
                vec![]
            }
            FrameKind::Reset => ResetFrame { session, cause: ResetCause::Client }.body().to_vec(),
            FrameKind::Ping => {
                let token = self.rng.u64(..).to_be_bytes();
                side.unanswered.push_back(token);
                token.to_vec()
            }
            FrameKind::Pong => side.asked.pop_front().unwrap().to_vec(),
            FrameKind::Opened | FrameKind::Drain | FrameKind::Retire => vec![],
        };
        let mut bytes = Vec::new();
        frame::push(&mut bytes, kind, &body);
        self.sides[1 - at].inbox.extend(bytes);
    }

    /// A piece of what is on the way arrives.
    fn deliver(&mut self, at: usize) {
        let waiting = self.sides[at].inbox.len();
        let most = match self.rng.u8(0..4) {
            0 => 1,
            1 => 16,
            2 => 600,
            _ => waiting,
        };
        let count = self.rng.usize(..=most.min(waiting));
        let piece: Vec<u8> = self.sides[at].inbox.drain(..count).collect();
        let mut rest = &piece[..];
        let mut has_seen_last_end = false;
        while !rest.is_empty() {
            let side = &mut self.sides[at];
            match side.decoder.want() {
                DecoderNeed::Data(left) => {
                    let (bytes, behind) = rest.split_at(left.min(rest.len()));
                    side.decoder.note_passed(bytes.len());
                    self.hear_data(at, bytes);
                    rest = behind;
                }
                DecoderNeed::Bytes(wanted) => {
                    let (bytes, behind) = rest.split_at(wanted.min(rest.len()));
                    let before = side.machine.state();
                    let frame = side.decoder.feed(bytes, &mut side.machine);
                    rest = behind;
                    let Some(frame) = frame.unwrap_or_else(|error| panic!("{:?}: {error}", side.machine))
                    else {
                        continue;
                    };
                    let is_open = matches!(frame, Frame::Open(_));
                    self.tally.opens_behind_ends += usize::from(is_open && has_seen_last_end);
                    has_seen_last_end =
                        frame == Frame::End && self.sides[at].machine.state() == LinkProtocolState::Ready;
                    self.hear(at, before, frame);
                }
            }
        }
    }

    fn hear_data(&mut self, at: usize, bytes: &[u8]) {
        let side = &mut self.sides[at];
        let (session, from) = (side.machine.session(), side.machine.end().opposite());
        for (offset, heard) in (side.heard..).zip(bytes) {
            let meant = byte(session, from, offset);
            assert_eq!(*heard, meant, "byte {offset} of session {session} to {:?}", side.machine);
        }
        side.heard += bytes.len() as u64;
        if side.machine.state() == LinkProtocolState::Refused {
            self.tally.late_bytes += bytes.len();
        }
    }

    fn hear(&mut self, at: usize, before: LinkProtocolState, frame: Frame) {
        let side = &mut self.sides[at];
        let (end, session) = (side.machine.end(), side.machine.session());
        let kind = match frame {
            Frame::Offer(heard) => {
                assert_eq!(heard, offer());
                FrameKind::Hello
            }
            Frame::Grant(heard) => {
                assert_eq!(heard, grant());
                FrameKind::Hello
            }
            Frame::Open(open) => {
                assert_eq!(open.id, format!("{session:x}-0"));
                (side.sent, side.heard) = (0, 0);
                FrameKind::Open
            }
            Frame::Refused(why) => {
                assert_eq!(why, Refusal::BackendRefused);
                assert_eq!(side.heard, 0, "bytes came from a session that was refused");
                FrameKind::Refused
            }
            Frame::End => {
                let told = &mut self.told[session as usize];
                told.heard[1 - at] = Some(side.heard);
                // A refused session may end again and again; what it sent is in order all the same.
                assert!(
                    before == LinkProtocolState::Refused || told.heard[1 - at] == told.ended[1 - at],
                    "{told:?}"
                );
                FrameKind::End
            }
            Frame::Reset(reset) => {
                // The server may speak of the session before; it has heard all that the opener said.
                let behind = session - reset.session;
                assert!(behind == 0 || (end == LinkRole::Opener && behind == 1), "{reset:?} in {session}");
                FrameKind::Reset
            }
            Frame::Ping(token) => {
                side.asked.push_back(token);
                FrameKind::Ping
            }
            Frame::Pong(token) => {
                assert_eq!(side.unanswered.pop_front(), Some(token));
                FrameKind::Pong
            }
            Frame::Opened => FrameKind::Opened,
            Frame::Data => FrameKind::Data,
            Frame::Drain => FrameKind::Drain,
            Frame::Retire => FrameKind::Retire,
        };
        self.tally.heard.insert((before, end.opposite(), kind));
    }
}

/// A session's bytes are blocks that say which session, which direction and which place.
fn byte(session: u32, from: LinkRole, offset: u64) -> u8 {
    let (block, place) = (offset / BLOCK, (offset % BLOCK) as usize);
    match place {
        0..4 => session.to_be_bytes()[place],
        4 => from as u8,
        5..13 => block.to_be_bytes()[place - 5],
        _ => place as u8 ^ block as u8 ^ session as u8,
    }
}

fn offer() -> OfferHello {
    OfferHello { services: vec![(service(), Carries::Bytes)], target: 2, maximum: 8 }
}

fn grant() -> GrantHello {
    GrantHello { services: vec![service()], links: 8, data: DATA_MAX }
}

fn open(session: u32, rng: &mut Rng) -> OpenFrame {
    let v4 = SocketAddr::from(([192, 0, 2, 1], rng.u16(..)));
    let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], rng.u16(..)));
    let client = rng.choice([None, Some(v4), Some(v6)]).flatten();
    OpenFrame { service: service(), id: format!("{session:x}-0"), client, probe: rng.bool() }
}

fn service() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}
