//! The conversations that `fuzz/corpus/link` holds, a file each, and what each comes to.

use portcullis::{
    profile::{Carries, ServiceName},
    proto::{
        Refusal,
        multiplex::{
            fields::push_field,
            frame::{CutCause, FrameHead, FrameType, LinkFrame},
            hello::{HelloAbout, InstanceId, OfferState, OpenerHello, ServerHello, ServiceOffer},
            open::{ClientOrigin, OpenRequest, ProvenUser},
            state::LinkEnd::{self, Opener, Server},
        },
    },
};

use crate::driver::{HANDSHAKE_DONE, Outcome, SERVER_RECEIVES};

pub struct Conversation {
    pub name: &'static str,
    pub input: Vec<u8>,
    /// Where the link and its sessions are in the end, or how the words of the violation end.
    pub comes_to: &'static str,
}

pub fn conversations() -> Vec<Conversation> {
    let all = [greetings(), opens(), sessions(), moves(), hostile(), links(), headers()].concat();
    all.into_iter().map(|(name, input, comes_to)| Conversation { name, input, comes_to }).collect()
}

/// An outcome in words.
pub fn describe(outcome: &Outcome) -> String {
    let Outcome { stage, sessions, violation, is_within, .. } = outcome;
    if let Some(violation) = violation {
        return violation.to_string();
    }
    let sessions: String = sessions.iter().map(|(number, stage)| format!(", {number} {stage}")).collect();
    format!("{stage}{sessions}{}", if *is_within { ", within a frame" } else { "" })
}

type Row = (&'static str, Vec<u8>, &'static str);

fn greetings() -> Vec<Row> {
    let opener = |body: &[u8]| input(Opener, false, &[turn(3, None)], &raw(FrameType::Hello, 0, body));
    // The server's own `hello` goes out while the grant's first byte is there.
    let greets = [turn(0, Some(FrameType::Hello)), turn(4, None)];
    let server = |body: &[u8]| input(Server, false, &greets, &raw(FrameType::Hello, 0, body));
    let offer_of = |carries: Carries, names: &[&str]| {
        let services = services(names).into_iter();
        let services = services.map(|name| ServiceOffer { name, carries, state: OfferState::Open }).collect();
        ServerHello { about: about(), links_kept: 2, links_max: 8, sessions_per_link: 256, services }.body()
    };
    let offer = |names: &[&str]| offer_of(Carries::Bytes, names);
    let with = |tag: u8, value: &[u8]| {
        let mut body = offer(&["web"]);
        push_field(&mut body, tag, value);
        body
    };
    let grant =
        OpenerHello { about: about(), links_kept: 0, links_max: 4, granted: services(&["web"]) }.body();
    let twice = raw(FrameType::Hello, 0, &offer(&["web"])).repeat(2);
    let other_version = [&[1, 0, 2, 0, 3][..], &offer(&["web"])[5..]].concat();
    let cut = offer(&["web"]);
    vec![
        ("hello-offer", opener(&offer(&["orders", "web"])), "awaiting grant"),
        ("hello-offer-of-http", opener(&offer_of(Carries::Http, &["web", "orders"])), "awaiting grant"),
        ("hello-offer-of-nothing", opener(&offer(&[])), "awaiting grant"),
        ("hello-offer-of-many", opener(&offer(&["web"; 200])), "awaiting grant"),
        ("hello-offer-of-a-later-version", opener(&with(99, b"whatever")), "awaiting grant"),
        ("hello-offer-twice", input(Opener, false, &[], &twice), "`hello` while the link is awaiting grant"),
        (
            "hello-offer-to-server",
            input(Server, false, &[], &twice),
            "`hello` while the link is awaiting offer",
        ),
        ("hello-other-version", opener(&other_version), "another protocol than was agreed on"),
        ("hello-without-version", opener(&cut[5..]), "a field is missing"),
        ("hello-field-twice", opener(&with(4, &[0, 1])), "a field that comes twice"),
        (
            "hello-number-too-long",
            opener(&[&[4, 0, 3, 0, 0, 0], &cut[..]].concat()),
            "that is not two bytes long",
        ),
        ("hello-field-cut", opener(&cut[..cut.len() - 1]), "it ends within a field"),
        (
            "hello-name-of-no-service",
            opener(&with(7, b"\0\0a b")),
            "a service's name that no profile could hold",
        ),
        ("hello-carries-nothing-known", opener(&with(7, b"\x02\0web")), "carries what is not known"),
        ("hello-state-that-is-not-known", opener(&with(7, b"\0\x05web")), "in a state that is not known"),
        ("hello-grant", server(&grant), "running"),
        (
            "hello-then-bytes-at-once",
            input(Opener, false, &[], &[&twice[..twice.len() / 2], b"\x03\0"].concat()),
            "awaiting grant, within a frame",
        ),
    ]
}

fn about() -> HelloAbout {
    HelloAbout { software: "portcullis".into(), instance: InstanceId([7; 16]) }
}

fn opens() -> Vec<Row> {
    let opens_with = |body: &[u8]| input(Server, true, &[turn(2, None)], &raw(FrameType::Open, 1, body));
    let of = |request: OpenRequest| opens_with(&request.body());
    let with = |tag: u8, value: &[u8]| {
        let mut body = plain("7f-1").body();
        push_field(&mut body, tag, value);
        opens_with(&body)
    };
    let client = |at: &str| OpenRequest { client: at.parse().ok(), ..plain("7f-1") };
    let open = push(&LinkFrame::Open(plain("1").into()), 1);
    vec![
        ("open", of(plain("7f-1")), "running, 1 opening"),
        ("open-client-v4", of(client("192.0.2.7:258")), "running, 1 opening"),
        ("open-client-v6", of(client("[2001:db8::7]:50000")), "running, 1 opening"),
        ("open-probe", of(OpenRequest { is_probe: true, ..plain("0") }), "running, 1 opening"),
        ("open-with-all", of(full()), "running, 1 opening"),
        ("open-of-a-later-version", with(99, b"whatever"), "running, 1 opening"),
        ("open-odd-id", opens_with(b"\x01\0\x03web\x02\0\x03a\n1"), "an invalid session id"),
        ("open-no-id", opens_with(b"\x01\0\x03web"), "a field is missing"),
        ("open-no-service", opens_with(b"\x02\0\x011"), "a field is missing"),
        ("open-service-twice", with(1, b"web"), "a field that comes twice"),
        ("open-client-cut", with(4, b"12345"), "an invalid address"),
        ("open-user-cut", with(6, b"\x09user"), "an invalid user"),
        ("open-goes-on", opens_with(&[&plain("1").body()[..], b"s"].concat()), "it ends within a field"),
        ("open-heard-by-opener", input(Opener, true, &[], &open), "`open` while the link is running"),
        ("open-before-hello", input(Server, false, &[], &open), "`open` while the link is awaiting offer"),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table, which its closures keep legible")]
fn sessions() -> Vec<Row> {
    use FrameType::{Data, End, Open, Opened, Refused, Reset};
    let of = |number, frame: LinkFrame| push(&frame, number);
    let open = |number| of(number, LinkFrame::Open(plain("1").into()));
    let data = |number| raw(Data, number, b"some bytes");
    let end = |number| of(number, LinkFrame::End);
    // 18 bytes are `open`; each frame of ours goes out a little later.
    let server = |sends: &[FrameType], wire: &[Vec<u8>]| {
        let first = [turn(4, None), turn(0, None)];
        let turns = first.into_iter().chain(sends.iter().map(|kind| turn(0, Some(*kind))));
        input(Server, true, &turns.chain([turn(9, None)]).collect::<Vec<_>>(), &wire.concat())
    };
    // The opener opens after the first byte that it receives, of a ping.
    let ping = of(0, LinkFrame::Ping(*b"12345678"));
    let opener = |sends: &[FrameType], wire: &[Vec<u8>]| {
        let turns: Vec<_> = sends.iter().map(|kind| turn(0, Some(*kind))).chain([turn(9, None)]).collect();
        input(Opener, true, &turns, &[&ping[..], &wire.concat()].concat())
    };
    let (opened, refused) = (of(1, LinkFrame::Opened), of(1, LinkFrame::Refused(Refusal::Full)));
    let reset = |number| of(number, LinkFrame::Reset(CutCause::Client));
    vec![
        ("session-ended-before-answer", server(&[], &[open(1), data(1), end(1)]), "1 opening, opener ended"),
        (
            "session-opener-ends-first",
            server(&[Opened], &[open(1), data(1), data(1), end(1)]),
            "1 opener ended",
        ),
        (
            "session-server-ends-first",
            server(&[Opened, End], &[open(1), data(1), data(1), end(1)]),
            "running",
        ),
        (
            "session-beside-another",
            server(&[Opened], &[open(1), data(1), open(2), data(2), end(1)]),
            "2 opening",
        ),
        (
            "session-refused-late-data",
            server(&[Refused], &[open(1), data(1), data(1), end(1), open(2)]),
            "2 opening",
        ),
        (
            "session-reset-late-data",
            server(&[Opened, Reset], &[open(1), data(1), data(1), end(1)]),
            "running",
        ),
        ("session-reset-by-opener", server(&[Opened], &[open(1), data(1), reset(1), open(2)]), "2 opening"),
        (
            "session-two-opens",
            server(&[], &[open(1), open(1)]),
            "session 1 was opened twice, or out of order",
        ),
        (
            "session-out-of-order",
            server(&[], &[open(7), open(6)]),
            "session 6 was opened twice, or out of order",
        ),
        ("session-numbers-wrap", server(&[], &[open(u32::MAX), open(3)]), "4294967295 opening"),
        (
            "session-data-behind-end",
            server(&[Opened], &[open(1), end(1), data(1)]),
            "`data` while session 1 is opener ended",
        ),
        (
            "session-end-twice",
            server(&[Opened], &[open(1), data(1), end(1), end(1)]),
            "`end` while session 1 is opener ended",
        ),
        ("session-that-never-was", server(&[], &[open(1), data(2)]), "session 2, which was never opened"),
        ("session-of-the-opener", opener(&[Open, End], &[opened.clone(), data(1), end(1)]), "running"),
        ("session-refused", opener(&[Open, Data], &[refused, ping.clone()]), "running"),
        ("session-refused-for-no-reason", opener(&[Open], &[raw(Refused, 1, &[0])]), "no such reason"),
        ("session-reset-for-no-cause", opener(&[Open], &[raw(Reset, 1, &[9])]), "no such cause"),
        (
            "session-opened-twice",
            opener(&[Open], &[opened.clone(), opened.clone()]),
            "`opened` while session 1 is carrying",
        ),
        ("session-data-before-opened", opener(&[Open], &[data(1)]), "`data` while session 1 is opening"),
        ("session-answered-unasked", opener(&[], &[opened]), "session 1, which was never opened"),
        ("cut-within-data", server(&[], &[open(1), data(1)[..12].to_vec()]), "1 opening, within a frame"),
        ("cut-within-a-header", server(&[], &[open(1), data(1)[..3].to_vec()]), "1 opening, within a frame"),
    ]
}

fn moves() -> Vec<Row> {
    use FrameType::{Data, Move, Open, Opened, Resume};
    let open = push(&LinkFrame::Open(plain("1").into()), 1);
    let moves = |sent| push(&LinkFrame::Move { sent, credit: 5, ticket: [6; 16] }, 1);
    let resumes = |number| push(&LinkFrame::Resume { received: 0, credit: 5, ticket: [6; 16] }, number);
    let data = raw(Data, 1, b"some bytes");
    let (ping, opened) = (push(&LinkFrame::Ping(*b"12345678"), 0), push(&LinkFrame::Opened, 1));
    // `opened` goes out behind the 18 bytes of `open`, and the answer behind the 36 of `move`.
    let begins = [turn(4, None), turn(0, None), turn(0, Some(Opened))];
    let unanswered = |wire: &[&[u8]]| {
        input(
            Server,
            true,
            &[&begins[..], &[turn(9, None)]].concat(),
            &[&[&open[..]], wire].concat().concat(),
        )
    };
    let answered = |wire: &[&[u8]]| {
        let turns = [&begins[..], &[turn(5, None), turn(2, Some(Move)), turn(9, None)]].concat();
        input(Server, true, &turns, &[&[&open[..]], wire].concat().concat())
    };
    // The opener opens after a byte of the first ping, moves behind `opened`, and resumes behind the answer.
    let opener = |wire: &[&[u8]]| {
        let sends = [turn(0, Some(Open)), turn(4, None), turn(3, Some(Move))];
        let turns = [&sends[..], &[turn(5, None), turn(2, Some(Resume)), turn(9, None)]].concat();
        input(Opener, true, &turns, &[&[&ping[..], &opened], wire, &[&ping]].concat().concat())
    };
    let not_moving = "session 1, which is not on its way to another link";
    vec![
        ("move", unanswered(&[&moves(0)]), "running, 1 moving"),
        ("move-and-resume", answered(&[&moves(0), &resumes(1), &data]), "running, 1 carrying"),
        ("move-of-the-opener", opener(&[&moves(0)]), "running, 1 carrying"),
        ("move-of-the-opener-unanswered", opener(&[&data]), "running, 1 moving"),
        ("move-of-other-bytes", unanswered(&[&moves(5)]), "of which not all bytes have come that were sent"),
        (
            "move-answered-with-other-bytes",
            opener(&[&moves(5)]),
            "of which not all bytes have come that were sent",
        ),
        ("move-before-opened", input(Server, true, &[], &[open.clone(), moves(0)].concat()), "1 is opening"),
        ("move-then-data", unanswered(&[&moves(0), &data]), "`data` while session 1 is moving"),
        ("move-then-late-data", answered(&[&moves(0), &data]), "bytes for sessions that have ended"),
        (
            "move-by-the-server-unasked",
            input(Opener, true, &[turn(0, Some(Open))], &[&ping[..], &opened, &moves(0)].concat()),
            "`move` while session 1 is carrying",
        ),
        ("resume-of-nothing", unanswered(&[&resumes(1)]), not_moving),
        ("resume-twice", answered(&[&moves(0), &resumes(1), &resumes(1)]), not_moving),
        ("resume-by-the-server", input(Opener, true, &[], &resumes(1)), "`resume` while the link is running"),
    ]
}

fn hostile() -> Vec<Row> {
    let open = |number| push(&LinkFrame::Open(plain("1").into()), number);
    let opens_with = |wire: &[Vec<u8>]| input(Server, true, &[turn(10, None)], &wire.concat());
    let answers = |wire: &[Vec<u8>]| {
        let turns = [turn(4, None), turn(1, Some(FrameType::Opened)), turn(14, None)];
        input(Server, true, &turns, &wire.concat())
    };
    let credit = |bytes| push(&LinkFrame::Credit(bytes), 1);
    let reset = |number| push(&LinkFrame::Reset(CutCause::Client), number);
    let large = raw(FrameType::Data, 1, &[7; 40_000]);
    let rapid: Vec<_> = (1..400).map(|number| [open(number), reset(number)].concat()).collect();
    vec![
        ("credit", answers(&[open(1), credit(5)]), "running, 1 carrying"),
        ("credit-of-nothing", opens_with(&[open(1), raw(FrameType::Credit, 1, &[0; 4])]), "no credit at all"),
        (
            "credit-that-overflows",
            answers(&[open(1), credit(u32::MAX - 1), credit(u32::MAX - 1)]),
            "more credit than a number holds",
        ),
        (
            "data-beyond-credit",
            answers(&[open(1), large.clone(), large.clone()]),
            "more than it has credit for",
        ),
        (
            "late-data-beyond-its-bound",
            opens_with(&[open(1), reset(1), large.clone(), large]),
            "bytes for sessions that have ended",
        ),
        (
            "late-frames-without-end",
            opens_with(&[open(1), reset(1).repeat(30)]),
            "frames for sessions that have ended",
        ),
        ("opened-and-reset-at-once", opens_with(&rapid), "running"),
    ]
}

fn links() -> Vec<Row> {
    let ping = push(&LinkFrame::Ping(*b"\0\0\0\0\0\0\0\x01"), 0);
    let pong = push(&LinkFrame::Pong(*b"\0\0\0\0\0\0\0\x01"), 0);
    let (drain, retire) = (push(&LinkFrame::Drain, 0), push(&LinkFrame::Retire, 0));
    let open = push(&LinkFrame::Open(plain("1").into()), 1);
    let name = services(&["web"]).remove(0);
    let offers = vec![ServiceOffer { name, carries: Carries::Http, state: OfferState::Closed }];
    let offers = push(&LinkFrame::Services(offers), 0);
    let answers = [turn(4, Some(FrameType::Pong)), turn(2, Some(FrameType::Ping))];
    vec![
        ("ping", input(Server, true, &answers, &ping), "running"),
        ("ping-again-and-again", input(Opener, true, &answers, &ping.repeat(100)), "running"),
        ("ping-before-hello", input(Server, false, &[], &ping), "`ping` while the link is awaiting offer"),
        ("pong-unasked", input(Opener, true, &[turn(0, None)], &pong), "running"),
        ("drain-by-the-server", input(Opener, true, &[], &drain), "running"),
        ("drain", input(Server, true, &[], &[drain.clone(), ping.clone()].concat()), "leaving"),
        ("retire", input(Server, true, &[], &[retire.clone(), drain, ping].concat()), "leaving"),
        (
            "retire-and-open",
            input(Server, true, &[], &[retire, open].concat()),
            "`open` while the link is leaving",
        ),
        ("services", input(Opener, true, &[turn(3, None)], &offers), "running"),
        ("services-of-an-opener", input(Server, true, &[], &offers), "`services` while the link is running"),
        ("services-of-nothing", input(Opener, true, &[], &raw(FrameType::Services, 0, b"")), "running"),
    ]
}

/// Headers that lie.
fn headers() -> Vec<Row> {
    let opens_with = |end: LinkEnd, is_running, wire: &[u8]| input(end, is_running, &[turn(1, None)], wire);
    let header = |kind: u8, length: u32, session: u8| {
        let [_, a, b, c] = length.to_be_bytes();
        vec![kind, a, b, c, 0, 0, 0, session]
    };
    vec![
        ("header-type-0", opens_with(Server, true, &header(0, 0, 0)), "a frame of unknown type 0x00"),
        ("header-type-16", opens_with(Server, true, &header(16, 0, 1)), "a frame of unknown type 0x10"),
        ("header-move-too-short", opens_with(Server, true, &header(14, 27, 1)), "a frame `move` of 27 bytes"),
        ("header-data-of-nothing", opens_with(Server, true, &header(6, 0, 1)), "a frame `data` of 0 bytes"),
        (
            "header-data-too-long",
            opens_with(Server, true, &header(6, 65_537, 1)),
            "a frame `data` of 65537 bytes",
        ),
        (
            "header-longest-hello",
            opens_with(Opener, false, &header(1, 267_264, 0)),
            "awaiting offer, within a frame",
        ),
        (
            "header-hello-too-long",
            opens_with(Opener, false, &header(1, 0xff_ffff, 0)),
            "`hello` of 16777215 bytes",
        ),
        (
            "header-open-too-long",
            opens_with(Server, true, &header(3, 10_241, 1)),
            "a frame `open` of 10241 bytes",
        ),
        ("header-ping-too-short", opens_with(Server, true, &header(10, 7, 0)), "a frame `ping` of 7 bytes"),
        (
            "header-ping-of-a-session",
            opens_with(Server, true, &header(10, 8, 5)),
            "a frame `ping` for session 5",
        ),
        (
            "header-end-of-no-session",
            opens_with(Server, true, &header(7, 0, 0)),
            "a frame `end` for session 0",
        ),
        ("nothing", vec![], "awaiting offer"),
    ]
}

/// The driver's input: which end receives, in which turns, and the bytes.
fn input(opens_with: LinkEnd, is_running: bool, turns: &[u8], wire: &[u8]) -> Vec<u8> {
    let server = if opens_with == Server { SERVER_RECEIVES } else { 0 };
    let flag = if is_running { HANDSHAKE_DONE } else { 0 };
    [&[server | flag, turns.len() as u8], turns, wire].concat()
}

/// A turn: the size of a piece, as a power of two, and the frame sent behind it.
fn turn(size: u8, sends: Option<FrameType>) -> u8 {
    size | sends.map_or(0, |kind| kind as u8) << 4
}

/// A frame with any body.
fn raw(kind: FrameType, session: u32, body: &[u8]) -> Vec<u8> {
    [&FrameHead { kind, length: body.len(), session }.bytes()[..], body].concat()
}

fn push(frame: &LinkFrame, session: u32) -> Vec<u8> {
    let mut out = Vec::new();
    frame.push(&mut out, session);
    out
}

fn plain(id: &str) -> OpenRequest {
    OpenRequest::new(services(&["web"]).remove(0), id.into())
}

fn full() -> OpenRequest {
    OpenRequest {
        is_probe: true,
        client: "[2001:db8::7]:50000".parse().ok(),
        origin: ClientOrigin {
            destination: "192.0.2.9:443".parse().ok(),
            user: Some(ProvenUser { method: "certificate".into(), name: "alice".into() }),
            alpn: b"h2".to_vec(),
            proxy_tlvs: vec![5; 100],
        },
        ..OpenRequest::new(services(&[&"s".repeat(255)]).remove(0), "f".repeat(32))
    }
}

fn services(names: &[&str]) -> Vec<ServiceName> {
    names.iter().map(|name| ServiceName::parse(name).unwrap()).collect()
}
