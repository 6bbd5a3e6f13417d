//! Two ends of a link without sockets: each sends any frame that the state allows, for many sessions; bytes
//! arrive in order and in random pieces, and every byte identifies its session.
//!
//! ```text
//! opener ── bytes ──► server      a side speaks at any time, whatever has reached it so far;
//!        ◄── bytes ──             so the two are in different states until all has arrived
//! ```

use std::collections::{HashMap, VecDeque};

use fastrand::Rng;
use portcullis::{
    link::multiplex::{
        credit::{LINK_BUDGET_BYTES, WINDOW_BYTES, WINDOW_BYTES_MAX, WindowBudget},
        table::{SessionTable, TableEntry},
    },
    profile::{Carries, ServiceName},
    proto::{
        Refusal,
        multiplex::{
            PeerViolation,
            decoder::{DecodedPiece, FrameReader},
            frame::{CutCause, DATA_BYTES_MAX, FrameHead, FrameType, HEAVY_SESSION, LinkFrame, PING_BYTES},
            hello::{HelloAbout, InstanceId, OfferState, OpenerHello, ServerHello, ServiceOffer},
            open::OpenRequest,
            permitted::TurnFrame,
            state::{LinkEnd, LinkStage, SessionStage},
        },
    },
};

use crate::{
    seed,
    tally::{ENDS, Tally},
};

const LINKS_MIN: usize = 60;
/// By then every cell of the tables has been come by, or never will be.
const LINKS_MAX: usize = 5_000;
/// Sessions at once.
const OPEN_MAX: usize = 12;
/// Beyond this an end that may send more data does not.
const QUEUE_MAX: usize = 128 * 1024;
/// Steps after which a link that has not come to its end is a failure.
const STEPS_MAX: usize = 400_000;
const BLOCK: u64 = 16;

#[test]
fn sessions_share_a_link_and_never_a_byte() {
    let mut rng = Rng::with_seed(seed());
    let mut tally = Tally::default();
    for links in 0..LINKS_MAX {
        LinkModel::new(&mut rng, &mut tally).run();
        if links >= LINKS_MIN && tally.missing().is_empty() {
            break;
        }
    }
    assert_eq!(tally.missing(), Vec::<String>::new(), "never sent, or never heard");
    let Tally { sessions, first_ends, late, grown, used_up, regrown, resumed, .. } = tally;
    assert!(first_ends.iter().all(|count| *count > 100), "{first_ends:?}");
    assert!(
        sessions > 800 && late > 400 && grown > 10 && used_up > 100 && regrown > 0 && resumed > 100,
        "{sessions}, {late}, {grown}, {used_up}, {resumed}"
    );
}

/// What an end keeps of a session.
#[derive(Debug, Default)]
struct Row {
    /// Bytes of it, by this end and to it.
    sent: u64,
    received: u64,
    /// Heard, and not taken by its receiver yet.
    held: usize,
}

struct Side {
    end: LinkEnd,
    stage: LinkStage,
    reader: FrameReader,
    table: SessionTable<Row>,
    /// Sessions that have left the link, and not come back yet.
    parked: HashMap<u32, Box<TableEntry<Row>>>,
    /// Bytes on the way to it.
    inbox: VecDeque<u8>,
    asked: VecDeque<[u8; PING_BYTES]>,
    unanswered: VecDeque<[u8; PING_BYTES]>,
}

/// What each end of a session has sent before it ended, and heard, as both know in the end.
#[derive(Debug, Clone, Copy, Default)]
struct SessionTotals {
    ended: [Option<u64>; 2],
    received: [Option<u64>; 2],
    is_cut: bool,
}

struct LinkModel<'a> {
    rng: &'a mut Rng,
    tally: &'a mut Tally,
    sides: [Side; 2],
    totals: HashMap<u32, SessionTotals>,
    number: u32,
    sessions_max: usize,
}

impl<'a> LinkModel<'a> {
    fn new(rng: &'a mut Rng, tally: &'a mut Tally) -> Self {
        let sides = ENDS.map(|end| Side {
            end,
            stage: LinkStage::AwaitingOffer,
            reader: FrameReader::new(end.other()),
            table: SessionTable::new(end, WindowBudget::new(LINK_BUDGET_BYTES)),
            parked: HashMap::new(),
            inbox: VecDeque::new(),
            asked: VecDeque::new(),
            unanswered: VecDeque::new(),
        });
        let sessions_max = rng.usize(1..40);
        // Numbers wrap.
        let number = if rng.bool() { 0 } else { u32::MAX - rng.u32(0..20) };
        Self { rng, tally, sides, totals: HashMap::new(), number, sessions_max }
    }

    /// Until as many sessions were opened as planned, the opener has said that it leaves, and all are over.
    fn run(&mut self) {
        for _ in 0..STEPS_MAX {
            let at = self.rng.usize(0..2);
            if self.rng.bool() {
                self.deliver(at);
            } else {
                self.act(at);
            }
            if self.is_drained() {
                self.agree();
                let is_over = self.totals.len() >= self.sessions_max
                    && self.sides.iter().all(|side| side.table.is_empty() && side.parked.is_empty())
                    && self.sides[0].stage == LinkStage::Leaving;
                if is_over && self.rng.u8(0..8) == 0 {
                    return self.close();
                }
            }
        }
        panic!("{} sessions never came to an end", self.sessions_max);
    }

    fn is_drained(&self) -> bool {
        self.sides.iter().all(|side| side.inbox.is_empty() && !side.reader.is_within_frame())
    }

    /// Where nothing is on the way, the two know the same.
    fn agree(&mut self) {
        let known = self.sides.each_mut().map(|side| {
            let mut numbers = side.table.numbers();
            numbers.sort_unstable();
            let mut stage = |number| side.table.entry(number).map(|entry| entry.channel.stage());
            (side.stage, numbers.iter().map(|number| (*number, stage(*number))).collect::<Vec<_>>())
        });
        assert_eq!(known[0], known[1]);
        for number in self.sides[0].table.numbers() {
            for at in [0, 1] {
                let sends = self.sides[at].table.entry(number).unwrap().channel.send.left();
                let receives = self.sides[1 - at].table.entry(number).unwrap().channel.receive.open();
                assert_eq!(sends, receives, "session {number}: both keep the same account");
            }
        }
    }

    /// All sessions that nobody has cut have ended on both sides, and every byte has come.
    fn close(&mut self) {
        for (number, totals) in &self.totals {
            let is_whole = totals.ended == totals.received && totals.ended.iter().all(Option::is_some);
            assert!(totals.is_cut || is_whole, "session {number}: {totals:?}");
        }
        let [one, other] = &self.sides;
        assert_eq!((one.unanswered.len(), other.unanswered.len()), (other.asked.len(), one.asked.len()));
        self.tally.sessions += self.totals.len();
    }

    /// An end says something that it may say.
    fn act(&mut self, at: usize) {
        let side = &mut self.sides[at];
        if !matches!(side.stage, LinkStage::Running | LinkStage::Leaving) {
            if side.stage.after(side.end, FrameType::Hello).is_some() {
                let hello = if at == 0 { grant() } else { offer() };
                self.send(at, 0, hello);
            }
            return;
        }
        let may_open = self.totals.len() < self.sessions_max && side.table.len() < OPEN_MAX;
        match self.rng.u8(0..40) {
            0..4 if at == 0 && may_open && side.stage == LinkStage::Running => return self.open(),
            4 => return self.ask(at),
            5 => {
                if let Some(token) = side.asked.pop_front() {
                    self.send(at, 0, LinkFrame::Pong(token));
                }
                return;
            }
            // Before its time, a link that leaves has no more sessions to open.
            6 if at == 1 || self.totals.len() >= self.sessions_max => {
                let leaves = if self.rng.bool() { LinkFrame::Drain } else { LinkFrame::Retire };
                return self.send(at, 0, leaves);
            }
            7 if at == 1 => return self.send(at, 0, services()),
            8..12 if at == 0 && !side.parked.is_empty() => return self.resume(),
            _ => {}
        }
        let numbers = side.table.numbers();
        if let Some(number) = self.rng.choice(numbers) {
            self.act_on_session(at, number);
        }
    }

    fn open(&mut self) {
        self.number = match self.number.wrapping_add(self.rng.u32(1..4)) {
            0 => 1,
            number => number,
        };
        let number = self.number;
        self.totals.insert(number, SessionTotals::default());
        self.sides[0].table.open(number, Row::default()).unwrap();
        self.send(0, number, LinkFrame::Open(request(number).into()));
    }

    fn ask(&mut self, at: usize) {
        let token = self.rng.u64(..).to_be_bytes();
        self.sides[at].unanswered.push_back(token);
        self.send(at, 0, LinkFrame::Ping(token));
    }

    fn act_on_session(&mut self, at: usize, number: u32) {
        let is_crowded = self.sides[1 - at].inbox.len() > QUEUE_MAX;
        let side = &mut self.sides[at];
        let entry = side.table.entry(number).unwrap();
        let (stage, left, held) = (entry.channel.stage(), entry.channel.send.left(), entry.row.held);
        self.tally.used_up += usize::from(left == 0);
        let weight = |kind: FrameType| match kind {
            FrameType::Opened => 6,
            FrameType::Data => 8 * usize::from(!is_crowded && left > 0),
            FrameType::End => 2,
            FrameType::Refused | FrameType::Reset => usize::from(number.is_multiple_of(4)),
            FrameType::Credit => 8 * usize::from(held > 0),
            FrameType::Move if at == 0 => 1,
            FrameType::Move => 3 * usize::from(held <= WINDOW_BYTES),
            _ => 0,
        };
        let mut bag = Vec::new();
        for kind in FrameType::ALL {
            let may = stage.after(side.end, kind).is_some();
            bag.extend(std::iter::repeat_n(kind, if may { weight(kind) } else { 0 }));
        }
        match self.rng.choice(bag) {
            None => {}
            Some(FrameType::Opened) => self.send(at, number, LinkFrame::Opened),
            Some(FrameType::End) => {
                let totals = self.totals.entry(number).or_default();
                if totals.ended == [None, None] {
                    self.tally.first_ends[at] += 1;
                }
                totals.ended[at] = Some(side.table.entry(number).unwrap().row.sent);
                self.send(at, number, LinkFrame::End);
            }
            Some(FrameType::Refused) => self.send(at, number, LinkFrame::Refused(Refusal::BackendRefused)),
            Some(FrameType::Reset) => self.send(at, number, LinkFrame::Reset(CutCause::Client)),
            Some(FrameType::Credit) => self.take(at, number, held),
            Some(FrameType::Move) => self.move_out(at, number),
            Some(_) => self.send_data(at, number, left),
        }
    }

    /// The session's receiver takes bytes, and credit is given when it is due.
    fn take(&mut self, at: usize, number: u32, held: usize) {
        let count = if self.rng.bool() { held } else { self.rng.usize(1..=held) };
        let entry = self.sides[at].table.entry(number).unwrap();
        entry.row.held -= count;
        if let Some(credit) = entry.channel.receive.take(count, entry.row.held, tokio::time::Instant::now) {
            self.tally.grown += usize::from(credit as usize > count + 64 * 1024);
            assert!(entry.channel.receive.open() + entry.row.held <= WINDOW_BYTES_MAX);
            self.send(at, number, LinkFrame::Credit(credit));
        }
    }

    /// An end has sent all that it sends of a session before it goes on; the server's answer takes it from the link.
    fn move_out(&mut self, at: usize, number: u32) {
        let entry = self.sides[at].table.entry(number).unwrap();
        let sent = entry.row.sent;
        if at == 0 {
            let ticket = if self.rng.bool() { HEAVY_SESSION } else { [0; 16] };
            return self.send(at, number, LinkFrame::Move { sent, credit: 0, ticket });
        }
        entry.channel.receive.restart(entry.row.held);
        let (stage, credit) = (entry.channel.stage(), entry.channel.receive.open() as u32);
        self.send(at, number, LinkFrame::Move { sent, credit, ticket: [7; 16] });
        self.park(at, number, stage);
    }

    fn park(&mut self, at: usize, number: u32, stage: SessionStage) {
        let side = &mut self.sides[at];
        let entry = side.table.move_out(number, stage.resumed().unwrap()).unwrap();
        assert!(side.parked.insert(number, entry).is_none());
    }

    /// The opener goes on with one that has left.
    fn resume(&mut self) {
        let numbers: Vec<_> = self.sides[0].parked.keys().copied().collect();
        let Some(number) = self.rng.choice(numbers) else { return };
        let mut entry = self.sides[0].parked.remove(&number).unwrap();
        self.tally.regrown += usize::from(entry.channel.receive.regrow() > 0);
        let (received, credit) = (entry.row.received, entry.channel.receive.open() as u32);
        self.sides[0].table.move_in(number, entry).unwrap();
        self.note_link(0, FrameType::Resume);
        self.put(0, number, LinkFrame::Resume { received, credit, ticket: [7; 16] });
        self.tally.resumed += 1;
    }

    /// What the other end says of a session that it moves, or goes on with.
    fn receive_move(&mut self, at: usize, number: u32, (bytes, credit): (u64, u32), is_resumed: bool) {
        let side = &mut self.sides[at];
        if is_resumed {
            let mut entry = side.parked.remove(&number).unwrap();
            assert_eq!(entry.row.sent, bytes);
            entry.channel.send.restart(credit);
            let has_ended = entry.channel.stage().has_ended(side.end.other());
            let more = if has_ended { 0 } else { entry.channel.receive.regrow() };
            side.table.move_in(number, entry).unwrap();
            if more > 0 {
                self.tally.regrown += 1;
                self.send(at, number, LinkFrame::Credit(more));
            }
            return;
        }
        let entry = side.table.entry(number).unwrap();
        assert_eq!(entry.row.received, bytes, "all that was sent has come");
        if at == 0 {
            entry.channel.send.restart(credit);
            entry.channel.receive.restart(entry.row.held);
        }
    }

    fn send_data(&mut self, at: usize, number: u32, left: usize) {
        let length = match self.rng.u32(0..100) {
            0..6 => DATA_BYTES_MAX,
            6..20 => self.rng.usize(1..4000),
            _ => self.rng.usize(1..60),
        };
        let length = length.min(left);
        let data = |table: &mut SessionTable<Row>| table.send_turn(number, TurnFrame::Data(length)).map(drop);
        self.note_sent(at, number, FrameType::Data, data);
        let side_end = self.sides[at].end;
        let entry = self.sides[at].table.entry(number).unwrap();
        entry.channel.send.spend(length);
        let from = entry.row.sent;
        entry.row.sent += length as u64;
        let inbox = &mut self.sides[1 - at].inbox;
        inbox.extend(FrameHead { kind: FrameType::Data, length, session: number }.bytes());
        inbox.extend((from..from + length as u64).map(|offset| byte(number, side_end, offset)));
    }

    fn send(&mut self, at: usize, number: u32, frame: LinkFrame) {
        let sent = frame.clone();
        self.note_sent(at, number, frame.kind(), |table| table.send(number, sent).map(drop));
        self.put(at, number, frame);
    }

    fn put(&mut self, at: usize, number: u32, frame: LinkFrame) {
        let mut bytes = Vec::new();
        frame.push(&mut bytes, number);
        self.sides[1 - at].inbox.extend(bytes);
    }

    fn note_sent(
        &mut self,
        at: usize,
        number: u32,
        kind: FrameType,
        send: impl FnOnce(&mut SessionTable<Row>) -> Result<(), PeerViolation>,
    ) {
        self.note_link(at, kind);
        let side = &mut self.sides[at];
        if number != 0 && kind != FrameType::Open {
            let before = side.table.entry(number).unwrap().channel.stage();
            self.tally.of_sessions.insert((false, before, side.end, kind));
            send(&mut side.table).unwrap();
            let after = side.table.entry(number).unwrap().channel.stage();
            self.note_stage(at, number, kind, after);
        }
    }

    fn note_link(&mut self, at: usize, kind: FrameType) {
        let side = &mut self.sides[at];
        self.tally.of_links.insert((false, side.stage, side.end, kind));
        side.stage = side.stage.after(side.end, kind).unwrap();
    }

    /// A session that is over is taken out, as a link does; one that moves goes on elsewhere.
    fn note_stage(&mut self, at: usize, number: u32, kind: FrameType, stage: SessionStage) {
        if stage == SessionStage::Closed && kind != FrameType::Move {
            self.sides[at].table.close(number).unwrap();
            if kind != FrameType::End {
                self.totals.entry(number).or_default().is_cut = true;
            }
        }
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
        loop {
            match self.sides[at].reader.decode(&mut rest).unwrap() {
                None => break,
                Some(DecodedPiece::Data { session, bytes }) => {
                    let bytes = bytes.to_vec();
                    self.receive_data(at, session, &bytes);
                }
                Some(DecodedPiece::Frame { session, frame }) => self.receive(at, session, frame),
            }
        }
    }

    fn note_received(&mut self, at: usize, kind: FrameType) {
        let side = &mut self.sides[at];
        let from = side.end.other();
        self.tally.of_links.insert((true, side.stage, from, kind));
        side.stage = side.stage.after(from, kind).unwrap();
    }

    fn receive_data(&mut self, at: usize, number: u32, bytes: &[u8]) {
        self.note_received(at, FrameType::Data);
        let side = &mut self.sides[at];
        let from = side.end.other();
        let before = side.table.entry(number).map(|entry| entry.channel.stage());
        let Some(entry) = side.table.receive_data(number, bytes.len()).unwrap() else {
            self.tally.late += 1;
            return;
        };
        self.tally.of_sessions.insert((true, before.unwrap(), from, FrameType::Data));
        for (offset, received) in (entry.row.received..).zip(bytes) {
            assert_eq!(
                *received,
                byte(number, from, offset),
                "byte {offset} of session {number} by {from:?}"
            );
        }
        entry.row.received += bytes.len() as u64;
        entry.row.held += bytes.len();
    }

    fn receive(&mut self, at: usize, number: u32, frame: LinkFrame) {
        let kind = frame.kind();
        self.note_received(at, kind);
        let side = &mut self.sides[at];
        let from = side.end.other();
        match frame {
            LinkFrame::ServerHello(_) => return assert_eq!(frame, offer()),
            LinkFrame::OpenerHello(_) => return assert_eq!(frame, grant()),
            LinkFrame::Services(_) => return assert_eq!(frame, services()),
            LinkFrame::Ping(token) => return side.asked.push_back(token),
            LinkFrame::Pong(token) => return assert_eq!(side.unanswered.pop_front(), Some(token)),
            LinkFrame::Drain | LinkFrame::Retire => return,
            LinkFrame::Open(open) => {
                assert_eq!(*open, request(number));
                return side.table.open(number, Row::default()).unwrap();
            }
            LinkFrame::Resume { received, credit, ticket } => {
                assert_eq!(ticket, [7; 16]);
                return self.receive_move(at, number, (received, credit), true);
            }
            _ => {}
        }
        let before = side.table.entry(number).map(|entry| entry.channel.stage());
        let Some(before) = before else {
            assert!(side.table.receive(number, kind).unwrap().is_none());
            if kind == FrameType::Reset {
                // It has left meanwhile, and is cut where it waits.
                side.parked.remove(&number);
            }
            self.tally.late += 1;
            return;
        };
        self.tally.of_sessions.insert((true, before, from, kind));
        if let LinkFrame::Credit(bytes) = frame {
            side.table.receive_credit(number, bytes).unwrap();
            return;
        }
        let entry = side.table.receive(number, kind).unwrap().unwrap();
        let (after, received) = (entry.channel.stage(), entry.row.received);
        if kind == FrameType::End {
            self.totals.entry(number).or_default().received[1 - at] = Some(received);
        }
        if let LinkFrame::Move { sent, credit, .. } = frame {
            self.receive_move(at, number, (sent, credit), false);
            if at == 0 {
                self.park(at, number, before);
            }
        }
        self.note_stage(at, number, kind, after);
    }
}

/// A byte that says whose it is: of which session, by whom, and which one.
fn byte(session: u32, from: LinkEnd, offset: u64) -> u8 {
    let block = offset / BLOCK;
    let mixed = (u64::from(session) << 1 | u64::from(from == LinkEnd::Server)) ^ block.rotate_left(32);
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[(offset % 8) as usize] ^ (offset % BLOCK) as u8
}

fn request(number: u32) -> OpenRequest {
    OpenRequest {
        client: "192.0.2.7:50000".parse().ok(),
        ..OpenRequest::new(service(), format!("{number:x}-0"))
    }
}

fn offer() -> LinkFrame {
    LinkFrame::ServerHello(ServerHello {
        about: about(),
        links_kept: 1,
        links_max: 4,
        sessions_per_link: 256,
        services: vec![ServiceOffer { name: service(), carries: Carries::Bytes, state: OfferState::Open }],
    })
}

fn grant() -> LinkFrame {
    LinkFrame::OpenerHello(OpenerHello {
        about: about(),
        links_kept: 0,
        links_max: 4,
        granted: vec![service()],
    })
}

fn services() -> LinkFrame {
    let down = ServiceOffer { name: service(), carries: Carries::Bytes, state: OfferState::Down };
    LinkFrame::Services(vec![down])
}

fn about() -> HelloAbout {
    HelloAbout { software: "model".into(), instance: InstanceId([7; 16]) }
}

fn service() -> ServiceName {
    ServiceName::parse("orders").unwrap()
}
