//! The conversations that `fuzz/corpus/link` holds, a file each, and what each comes to.

use portcullis::{
    profile::{Carries, ServiceName},
    proto::link::{
        frame::{self, DATA_MAX, FrameKind, ResetCause, ResetFrame},
        hello::{GrantHello, OfferHello},
        open::OpenFrame,
        state::LinkRole::{self, Opener, Server},
    },
};

use crate::driver::{IS_GREETED, SERVER_HEARS};

pub struct Conversation {
    pub name: &'static str,
    pub input: Vec<u8>,
    /// The state in the end, or how the words of the violation end.
    pub comes_to: &'static str,
}

pub fn conversations() -> Vec<Conversation> {
    let all = [greetings(), opens(), sessions(), cuts(), links(), headers()].concat();
    all.into_iter().map(|(name, input, comes_to)| Conversation { name, input, comes_to }).collect()
}

type Row = (&'static str, Vec<u8>, &'static str);

fn greetings() -> Vec<Row> {
    let opener = |body: &[u8]| input(Opener, false, &[turn(3, None)], &push(FrameKind::Hello, body));
    // The server's own `hello` goes out while the grant's first byte is there.
    let greets = [turn(0, Some(FrameKind::Hello)), turn(4, None)];
    let server = |body: &[u8]| input(Server, false, &greets, &push(FrameKind::Hello, body));
    let offer_of = |carries: Carries, names: &[&str]| {
        let services = services(names).into_iter().map(|name| (name, carries)).collect();
        OfferHello { services, target: 2, maximum: 8 }.body()
    };
    let offer = |names: &[&str]| offer_of(Carries::Bytes, names);
    let grant = |data| GrantHello { services: services(&["web"]), links: 4, data }.body();
    let told = |count: u8, names: &[u8]| [b"\x01\0\x02\0\x08\0", &[count][..], names].concat();
    let twice = push(FrameKind::Hello, &offer(&["web"])).repeat(2);
    let other_version = [&[2][..], &offer(&["web"])[1..]].concat();
    vec![
        ("hello-offer", opener(&offer(&["orders", "web"])), "greeted"),
        ("hello-offer-of-http", opener(&offer_of(Carries::Http, &["web", "orders"])), "greeted"),
        ("hello-offer-of-nothing", opener(&offer(&[])), "greeted"),
        ("hello-offer-of-many", opener(&offer(&["web"; 200])), "greeted"),
        ("hello-offer-twice", input(Opener, false, &[], &twice), "a frame `hello` while the link is greeted"),
        (
            "hello-offer-to-server",
            input(Server, false, &[], &twice),
            "a frame `hello` while the link is greeting",
        ),
        ("hello-other-version", opener(&other_version), "an unknown version"),
        (
            "hello-name-of-no-service",
            opener(&told(1, b"\0\x03a b")),
            "a service's name that no profile could hold",
        ),
        ("hello-name-empty", opener(&told(1, b"\0\0")), "a service's name that no profile could hold"),
        ("hello-name-too-long", opener(&told(1, b"\0\xffweb")), "it ends too early"),
        (
            "hello-more-names-than-told",
            opener(&told(1, b"\0\x03web\0\x03web")),
            "it goes on behind its last name",
        ),
        ("hello-fewer-names-than-told", opener(&told(3, b"\x01\x03web")), "it ends too early"),
        (
            "hello-carries-nothing-known",
            opener(&told(1, b"\x02\x03web")),
            "a service that carries nothing known",
        ),
        ("hello-grant", server(&grant(DATA_MAX)), "ready"),
        ("hello-grant-of-no-data", server(&grant(0)), "it takes no data"),
        (
            "hello-then-bytes-at-once",
            input(Opener, false, &[], &[&twice[..twice.len() / 2], b"\x02\0"].concat()),
            "greeted, within a frame",
        ),
    ]
}

fn opens() -> Vec<Row> {
    let hears = |body: &[u8]| input(Server, true, &[turn(2, None)], &push(FrameKind::Open, body));
    let open =
        |client: Option<&str>| OpenFrame { client: client.map(|at| at.parse().unwrap()), ..plain("7f-1") };
    let probe = OpenFrame { probe: true, ..plain("0") };
    vec![
        ("open", hears(&open(None).body()), "opening"),
        ("open-client-v4", hears(&open(Some("192.0.2.7:258")).body()), "opening"),
        ("open-client-v6", hears(&open(Some("[2001:db8::7]:50000")).body()), "opening"),
        ("open-probe", hears(&probe.body()), "opening"),
        ("open-longest", hears(&longest().body()), "opening"),
        ("open-odd-id", hears(b"\0\x03a\n1\0\x03web"), "no session's id"),
        ("open-no-id", hears(b"\0\0\0\x03web"), "no session's id"),
        (
            "open-id-too-long",
            hears(&[&b"\0\x21"[..], &[b'a'; 33][..], b"\0\x03web"].concat()),
            "no session's id",
        ),
        ("open-odd-flags", hears(b"\x82\x01a\0\x03web"), "unknown flags"),
        ("open-odd-family", hears(b"\0\x01a\x05\x03web"), "an unknown family of addresses"),
        ("open-client-cut", hears(b"\0\x01a\x06\x01\x01"), "it ends too early"),
        ("open-goes-on", hears(b"\0\x01a\0\x03webs"), "it goes on behind its service"),
        (
            "open-heard-by-opener",
            input(Opener, true, &[], &push(FrameKind::Open, &plain("1").body())),
            "a frame `open` while the link is ready",
        ),
        (
            "open-before-hello",
            input(Server, false, &[], &push(FrameKind::Open, &plain("1").body())),
            "a frame `open` while the link is greeting",
        ),
    ]
}

fn sessions() -> Vec<Row> {
    let open = push(FrameKind::Open, &plain("1").body());
    let (opened, end) = (push(FrameKind::Opened, b""), push(FrameKind::End, b""));
    let (data, refused) = (push(FrameKind::Data, b"some bytes"), push(FrameKind::Refused, &[3]));
    let after_open = |sends: &[FrameKind]| -> Vec<u8> {
        // 16 bytes are `open`; each frame of ours goes out a little later.
        let small = sends.iter().map(|kind| turn(0, Some(*kind)));
        [turn(3, None), turn(3, None)].into_iter().chain(small).chain([turn(7, None)]).collect()
    };
    let server =
        |sends: &[FrameKind], wire: &[&[u8]]| input(Server, true, &after_open(sends), &wire.concat());
    // The opener opens behind the first byte that it hears, of a ping.
    let ping = push(FrameKind::Ping, b"12345678");
    let opener = |sends: &[FrameKind], wire: &[&[u8]]| {
        let turns: Vec<_> = sends.iter().map(|kind| turn(0, Some(*kind))).chain([turn(7, None)]).collect();
        input(Opener, true, &turns, &[&ping[..], &wire.concat()].concat())
    };
    let late = push(FrameKind::Data, &[b'l'; 300]);
    vec![
        ("session-ended-before-answer", server(&[], &[&open, &data, &end]), "opening, opener ended"),
        (
            "session-opener-ends-first",
            server(&[FrameKind::Opened], &[&open, &data, &data, &end]),
            "opener ended",
        ),
        (
            "session-server-ends-first",
            server(&[FrameKind::Opened, FrameKind::End], &[&open, &data, &data, &end]),
            "ready",
        ),
        (
            "session-and-the-next",
            server(&[FrameKind::Opened, FrameKind::End], &[&open, &data, &end, &open, &data]),
            "opening",
        ),
        (
            "session-refused-late-data",
            server(&[FrameKind::Refused], &[&open, &data, &late, &end, &open]),
            "opening",
        ),
        ("session-two-opens", server(&[], &[&open, &open]), "a frame `open` while the link is opening"),
        (
            "session-data-behind-end",
            server(&[FrameKind::Opened], &[&open, &end, &data]),
            "a frame `data` while the link is opener ended",
        ),
        (
            "session-end-twice",
            server(&[FrameKind::Opened], &[&open, &end, &end]),
            "a frame `end` while the link is opener ended",
        ),
        (
            "session-of-the-opener",
            opener(&[FrameKind::Open, FrameKind::End], &[&opened, &data, &end]),
            "ready",
        ),
        ("session-refused", opener(&[FrameKind::Open, FrameKind::Data], &[&refused, &ping]), "refused"),
        (
            "session-refused-for-no-reason",
            opener(&[FrameKind::Open], &[&push(FrameKind::Refused, &[0])]),
            "no such reason",
        ),
        (
            "session-opened-twice",
            opener(&[FrameKind::Open], &[&opened, &opened]),
            "a frame `opened` while the link is carrying",
        ),
        (
            "session-data-before-opened",
            opener(&[FrameKind::Open], &[&data]),
            "a frame `data` while the link is opening",
        ),
        ("session-answered-unasked", opener(&[], &[&opened]), "a frame `opened` while the link is ready"),
        ("session-data-of-no-session", opener(&[], &[&data]), "a frame `data` while the link is ready"),
    ]
}

fn cuts() -> Vec<Row> {
    let reset = |session, cause| push(FrameKind::Reset, &ResetFrame { session, cause }.body());
    let open = push(FrameKind::Open, &plain("1").body());
    let data = push(FrameKind::Data, b"half of");
    vec![
        (
            "reset-of-a-session",
            input(Server, true, &[], &[open.clone(), reset(1, ResetCause::Client)].concat()),
            "closed",
        ),
        ("reset-of-no-session", input(Opener, true, &[], &reset(0, ResetCause::Other)), "closed"),
        (
            "reset-and-more",
            input(Server, true, &[], &[open.clone(), reset(1, ResetCause::Time), data.clone()].concat()),
            "a frame `data` while the link is closed",
        ),
        (
            "reset-for-no-cause",
            input(Opener, true, &[], &push(FrameKind::Reset, &[0, 0, 0, 1, 9])),
            "no such cause",
        ),
        (
            "reset-before-hello",
            input(Opener, false, &[], &reset(1, ResetCause::Backend)),
            "a frame `reset` while the link is greeting",
        ),
        (
            "cut-within-data",
            input(Server, true, &[turn(1, None)], &[&open[..], &data[..9]].concat()),
            "opening, within a frame",
        ),
        (
            "cut-within-a-header",
            input(Server, true, &[turn(0, None)], &[&open[..], &data[..3]].concat()),
            "opening, within a frame",
        ),
    ]
}

fn links() -> Vec<Row> {
    let ping = push(FrameKind::Ping, b"\0\0\0\0\0\0\0\x01");
    let pong = push(FrameKind::Pong, b"\0\0\0\0\0\0\0\x01");
    let (drain, retire) = (push(FrameKind::Drain, b""), push(FrameKind::Retire, b""));
    let answers = [turn(4, Some(FrameKind::Pong)), turn(2, Some(FrameKind::Ping))];
    vec![
        ("ping", input(Server, true, &answers, &ping), "ready"),
        ("ping-again-and-again", input(Opener, true, &answers, &ping.repeat(100)), "ready"),
        ("ping-before-hello", input(Server, false, &[], &ping), "a frame `ping` while the link is greeting"),
        ("pong-unasked", input(Opener, true, &[turn(0, None)], &pong), "ready"),
        ("drain", input(Opener, true, &[], &drain), "ready"),
        ("retire", input(Server, true, &[], &[retire, drain.clone(), ping].concat()), "ready"),
        (
            "drain-with-a-body",
            input(Server, true, &[], &[&drain[..3], b"\x01x"].concat()),
            "a frame `drain` of 1 bytes",
        ),
    ]
}

/// Headers that lie.
fn headers() -> Vec<Row> {
    let hears = |end: LinkRole, is_greeted, wire: &[u8]| input(end, is_greeted, &[turn(1, None)], wire);
    vec![
        ("header-type-0", hears(Server, true, &[0, 0, 0, 0]), "a frame of unknown type 0x00"),
        ("header-type-12", hears(Server, true, &[12, 0, 0, 0]), "a frame of unknown type 0x0c"),
        ("header-data-of-nothing", hears(Server, true, &[5, 0, 0, 0]), "a frame `data` of 0 bytes"),
        ("header-data-too-long", hears(Server, true, &[5, 2, 0, 1]), "a frame `data` of 131073 bytes"),
        ("header-longest-hello", hears(Opener, false, &[1, 4, 0, 9, 1, 0, 1]), "greeting, within a frame"),
        (
            "header-hello-too-long",
            hears(Opener, false, &[1, 255, 255, 255, 1]),
            "a frame `hello` of 16777215 bytes",
        ),
        ("header-open-too-short", hears(Server, true, &[2, 0, 0, 5, 0]), "a frame `open` of 5 bytes"),
        ("header-ping-too-short", hears(Server, true, &[8, 0, 0, 7]), "a frame `ping` of 7 bytes"),
        ("nothing", vec![], "greeting"),
    ]
}

/// What the driver takes: who hears, in which turns, and the bytes.
fn input(hears: LinkRole, is_greeted: bool, turns: &[u8], wire: &[u8]) -> Vec<u8> {
    let server = if hears == Server { SERVER_HEARS } else { 0 };
    let greeted = if is_greeted { IS_GREETED } else { 0 };
    [&[server | greeted, turns.len() as u8], turns, wire].concat()
}

/// A turn: the size of a piece, as a power of two, and the frame sent behind it.
fn turn(size: u8, sends: Option<FrameKind>) -> u8 {
    size | sends.map_or(0, |kind| kind as u8) << 4
}

fn push(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::push(&mut out, kind, body);
    out
}

fn plain(id: &str) -> OpenFrame {
    let [service] = services(&["web"]).try_into().unwrap();
    OpenFrame { service, id: id.into(), client: None, probe: false }
}

fn longest() -> OpenFrame {
    let [service] = services(&[&"s".repeat(255)]).try_into().unwrap();
    let client = "[2001:db8::7]:50000".parse().unwrap();
    OpenFrame { service, client: Some(client), ..plain(&"f".repeat(32)) }
}

fn services(names: &[&str]) -> Vec<ServiceName> {
    names.iter().map(|name| ServiceName::parse(name).unwrap()).collect()
}
