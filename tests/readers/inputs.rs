//! The inputs that `fuzz/corpus` holds for each reader, and how what they come to ends.

type Rows = Vec<(&'static str, Vec<u8>, &'static str)>;

pub fn proxy() -> Rows {
    let v2 = |rest: &[u8]| [b"\r\n\r\n\0\r\nQUIT\n", rest].concat();
    let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 195, 80, 1, 187];
    let line = |line: &str| format!("PROXY {line}\r\n").into_bytes();
    vec![
        ("nothing", vec![], "more"),
        ("line-v4", line("TCP4 192.0.2.7 198.51.100.1 50000 443"), "192.0.2.7:50000, 45 bytes"),
        ("line-v6", line("TCP6 2001:db8::7 2001:db8::1 50000 443"), "[2001:db8::7]:50000, 46 bytes"),
        ("line-unknown", line("UNKNOWN"), "no client, 15 bytes"),
        ("line-unknown-and-more", line("UNKNOWN ffff::1 ffff::2 1 2"), "no client, 35 bytes"),
        ("line-longest", line(&format!("UNKNOWN {}", "x".repeat(91))), "no client, 107 bytes"),
        ("line-too-long", line(&format!("UNKNOWN {}", "x".repeat(92))), "no end within 107 bytes"),
        ("line-cut", b"PROXY TCP4 192.0.2.7 198".to_vec(), "more"),
        ("line-lf", b"PROXY UNKNOWN\n".to_vec(), "in LF instead of CR LF"),
        ("line-other-family", line("UDP4 192.0.2.7 198.51.100.1 1 2"), "neither TCP4, TCP6 nor UNKNOWN"),
        (
            "line-large-port",
            line("TCP4 192.0.2.7 198.51.100.1 65536 443"),
            "field 5 of its PROXY line is not a port",
        ),
        ("line-no-sign", b"PROXY TCP4 \xc3\xa9".to_vec(), "more"),
        ("http", b"GET / HTTP/1.1\r\n".to_vec(), "or leave out `proxy`"),
        ("block-v4", v2(&[&b"\x21\x11\0\x0c"[..], &v4, b"behind"].concat()), "192.0.2.7:50000, 28 bytes"),
        ("block-v4-and-more", v2(&[&b"\x21\x11\0\x10"[..], &v4, b"\x04\0\x01\0"].concat()), ", 32 bytes"),
        ("block-v6", v2(&[&b"\x21\x21\0\x24"[..], &[7; 36]].concat()), "]:1799, 52 bytes"),
        ("block-udp", v2(&[&b"\x21\x12\0\x0c"[..], &v4].concat()), "no client, 28 bytes"),
        ("block-local", v2(b"\x20\0\0\0"), "no client, 16 bytes"),
        ("block-longest", v2(&[&b"\x20\0\x0f\xf0"[..], &[7; 4080]].concat()), "no client, 4096 bytes"),
        ("block-cut", v2(&[&b"\x21\x11\0\x0c"[..], &v4[..11]].concat()), "more"),
        ("block-too-short", v2(b"\x21\x11\0\x04abcd"), "say that 4 bytes follow, where 12 have to"),
        ("block-other-version", v2(b"\x31\x11\0\0"), "of version 2"),
        ("block-other-family", v2(b"\x21\x41\0\0"), "not a known address family"),
    ]
}

pub fn socks() -> Rows {
    let ask = |ended_by: u8, request: &[u8]| [&[ended_by, 5, 1, 0], request].concat();
    let orders = |command: u8| [&[5, command, 0, 3, 6], &b"orders"[..], &[0, 0]].concat();
    let granted = |address: &[u8]| [&[2, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0, 5, 0, 0], address].concat();
    vec![
        ("nothing", vec![], "more"),
        ("connect", ask(0, &orders(1)), "asks for `orders`"),
        ("connect-and-more", ask(0, &[orders(1), b"of the session".to_vec()].concat()), "asks for `orders`"),
        ("bind", ask(1, &orders(2)), "asks for `orders`"),
        ("bind-of-who-serves-connect", ask(0, &orders(2)), "which this side does not serve"),
        ("associate", ask(1, &orders(3)), "which this side does not serve"),
        ("command-9", ask(0, &orders(9)), "an unknown command, which this side does not serve"),
        ("an-address", ask(0, &[5, 1, 0, 1, 127, 0, 0, 1, 0, 80]), "only names of services are served"),
        ("an-address-type-9", ask(0, &[5, 1, 0, 9, 0, 0]), "only names of services are served"),
        ("no-name", ask(0, &[5, 1, 0, 3, 0, 0, 0]), "of 0 bytes, which is not a valid name"),
        ("no-utf-8", ask(0, &[5, 1, 0, 3, 2, 0xff, 0xfe, 0, 0]), "of 2 bytes, which is not a valid name"),
        ("cut", ask(0, &orders(1)[..6]), "before the method was chosen"),
        ("method-alone", ask(0, &[]), "it chose the method and closed"),
        ("no-method", vec![0, 5, 0], "`no authentication`"),
        ("password-alone", vec![0, 5, 1, 2], "`no authentication`"),
        ("socks-4", vec![0, 4, 1, 0, 80], "0x04 (SOCKS4 is not supported)"),
        ("http", [&[0], &b"GET / HTTP/1.1"[..]].concat(), "(HTTP?)"),
        ("client-v4", granted(&[1, 192, 0, 2, 7, 195, 80]), "client at SocketAddress(192.0.2.7:50000)"),
        ("client-v6", granted(&[&[4][..], &[7; 16], &[195, 80]].concat()), "7]:50000)"),
        ("refused", vec![2, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0], "unknown there or not allowed for this gateway"),
        ("reply-99", vec![2, 5, 99, 0, 1, 0, 0, 0, 0, 0, 0], ""),
    ]
}

pub fn request() -> Rows {
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes();
    let post = |fields: &str, body: &str| format!("POST / HTTP/1.1\r\n{fields}\r\n{body}").into_bytes();
    vec![
        ("nothing", vec![], "as it was"),
        ("two", [get(""), get("")].concat(), "as it was"),
        ("cut", b"GET / HTTP/1.1\r\nHo".to_vec(), "as it was"),
        ("length", [post("Content-Length: 3\r\n", "a\nb"), get("")].concat(), "as it was"),
        (
            "length-then-lf",
            [post("Content-Length: 1\r\n", "a"), b"GET /\n".to_vec()].concat(),
            "damaged at 44",
        ),
        ("chunks", post("Transfer-Encoding: chunked\r\n", "2\r\n\n\n\r\n0\r\n\r\n"), "as it was"),
        (
            "chunk-lf",
            post("Transfer-Encoding: chunked\r\n", "2\nab\r\n"),
            "nothing is read from 49 on, as it was",
        ),
        (
            "extension-lf",
            post("Transfer-Encoding: chunked\r\n", "2;\n\r\nab\r\n"),
            "nothing is read from 50 on, as it was",
        ),
        ("lf", b"GET / HTTP/1.1\nHost: h\n\n".to_vec(), "damaged at 14"),
        ("both", post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "abc"), "damaged at 63"),
        ("twice", post("Content-Length: 3\r\nContent-Length: 4\r\n", "abc"), "damaged at 54"),
        ("upgrade", [get("Upgrade: own\r\n"), get("")].concat(), "waits at 41, as it was"),
        ("target", b"GET /?\"<b>\" HTTP/1.1\r\n\r\n".to_vec(), "the target of request 1 is refused"),
    ]
}

pub fn answer() -> Rows {
    let get = |answer: &str| [b"\0", answer.as_bytes()].concat();
    let head = |answer: &str| [b"\x01", answer.as_bytes()].concat();
    let ok = "HTTP/1.1 200 OK\r\n";
    let chunked = format!("{ok}Transfer-Encoding: chunked\r\n");
    vec![
        ("nothing", get(""), "the backend ended before it had answered"),
        ("length", get(&format!("{ok}Content-Length: 5\r\n\r\nhello")), "200, 5 bytes"),
        ("length-and-more", get(&format!("{ok}Content-Length: 5\r\n\r\nhello, you")), "200, 5 bytes"),
        ("length-cut", get(&format!("{ok}Content-Length: 5\r\n\r\nhell")), "200, cut"),
        ("to-its-end", get(&format!("{ok}\r\nhello, you")), "200, 10 bytes"),
        ("chunks", get(&format!("{chunked}\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n")), "200, 5 bytes"),
        ("chunks-cut", get(&format!("{chunked}\r\n5\r\nhello\r\n")), "200, cut"),
        ("chunks-bad", get(&format!("{chunked}\r\n5\r\nhello\r\nx\r\n")), "200, cut"),
        ("both", get(&format!("{chunked}Content-Length: 5\r\n\r\n6\r\nhello!\r\n0\r\n\r\n")), "200, 6 bytes"),
        ("list", get(&format!("{ok}Content-Length: 5, 5\r\n\r\nhello")), "200, 5 bytes"),
        (
            "lengths",
            get(&format!("{ok}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello")),
            "a malformed Content-Length",
        ),
        ("coded", get(&format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")), "a coding"),
        ("head", head(&format!("{ok}Content-Length: 5\r\n\r\n")), "200, 0 bytes"),
        (
            "early",
            get(&format!("HTTP/1.1 103 Early Hints\r\n\r\n{ok}Content-Length: 0\r\n\r\n")),
            "200, 0 bytes",
        ),
        ("old", get("HTTP/1.0 200 OK\r\n\r\nhello"), "200, 5 bytes"),
        ("field", get(&format!("{ok}X-A : 1\r\n\r\n")), "a malformed field line"),
        ("version", get("HTTP/2.0 200 OK\r\n\r\n"), "speaks HTTP/2.0"),
        ("long", get(&format!("{ok}X: {}\r\n\r\n", "x".repeat(32 * 1024))), "a head over 32768 bytes"),
        ("many", get(&format!("{ok}{}\r\n", "X: y\r\n".repeat(201))), "over 200 fields"),
    ]
}

pub fn web_socket() -> Rows {
    /// A limit of 32 KiB.
    const WHOLE: [u8; 2] = [15, 0];
    let of = |frames: &[Vec<u8>]| [&WHOLE[..], &frames.concat()].concat();
    let binary = |body: &[u8]| frame(0x82, body);
    let rules = |frame: &[u8]| [&WHOLE[..], frame].concat();
    vec![
        ("nothing", of(&[]), "0 bytes, 0 of answers, more"),
        ("binary", of(&[binary(b"some"), binary(b"more")]), "8 bytes, 0 of answers, more"),
        ("text", of(&[frame(0x81, "é€𝄞".as_bytes())]), "9 bytes, 0 of answers, more"),
        ("empty", of(&[binary(b""), frame(0x81, b"")]), "0 bytes, 0 of answers, more"),
        ("length-of-two", of(&[binary(&[7; 200])]), "200 bytes, 0 of answers, more"),
        (
            "length-of-eight",
            [&[15, 7][..], &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3, 4, b'a', b'b', b'c']].concat(),
            "3 bytes, 0 of answers, more",
        ),
        (
            "pieces-with-a-ping",
            of(&[frame(0x01, b"\xe2\x82"), frame(0x89, b"there?"), frame(0x00, b"\xac"), frame(0x80, b"")]),
            "3 bytes, 8 of answers, more",
        ),
        (
            "pings-and-pong",
            of(&[frame(0x89, b""), frame(0x8a, b"no"), frame(0x89, &[7; 125])]),
            "0 bytes, 129 of answers, more",
        ),
        (
            "close",
            of(&[binary(b"a"), frame(0x88, b"\x03\xe8bye"), binary(b"b")]),
            "1 bytes, 0 of answers, closed Some(1000)",
        ),
        ("close-of-nothing", of(&[frame(0x88, b"")]), "closed None"),
        ("close-own-code", of(&[frame(0x88, b"\x0f\xa1")]), "closed Some(4001)"),
        ("close-of-a-gateway", of(&[frame(0x88, b"\x03\xf6")]), "closed Some(1014)"),
        ("close-of-one", of(&[frame(0x88, b"\x03")]), "a close frame of one byte"),
        ("close-reserved-code", of(&[frame(0x88, b"\x03\xee")]), "a close frame with the code 1006"),
        ("close-no-text", of(&[frame(0x88, b"\x03\xe8\xff")]), "a text that is not UTF-8"),
        ("cut-in-head", rules(b"\x82\xfe\x01"), "0 bytes, 0 of answers, more"),
        ("cut-in-body", rules(b"\x82\x84\0\0\0\0ab"), "2 bytes, 0 of answers, more"),
        ("reserved", of(&[frame(0xc2, b"a")]), "a frame with a reserved bit"),
        ("kind-3", of(&[frame(0x83, b"a")]), "a frame of unknown kind 0x3"),
        ("unmasked", rules(b"\x82\x01a"), "an unmasked frame"),
        ("control-in-pieces", of(&[frame(0x09, b"a")]), "a fragmented control frame"),
        ("control-too-long", of(&[frame(0x89, &[7; 126])]), "a control frame of 126 bytes"),
        ("stray", of(&[frame(0x80, b"a")]), "a continuation frame without a message"),
        ("within", of(&[frame(0x01, b"a"), binary(b"b")]), "a message within another"),
        ("no-text", of(&[frame(0x81, b"a\xc3\x28")]), "a text that is not UTF-8"),
        ("text-cut-in-a-letter", of(&[frame(0x81, b"a\xe2\x82")]), "a text that is not UTF-8"),
        (
            "long",
            [&[4, 0][..], &binary(&[7; 17])].concat(),
            "0 bytes, 0 of answers, a message of more than 16 bytes, which is the `message_limit`",
        ),
        (
            "long-in-pieces",
            [&[4, 3][..], &frame(0x02, &[7; 9]), &frame(0x80, &[7; 8])].concat(),
            "9 bytes, 0 of answers, a message of more than 16 bytes, which is the `message_limit`",
        ),
    ]
}

pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let key = [1, 2, 3, 4];
    let masked: Vec<u8> = body.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    let length = match body.len() {
        short @ 0..=125 => vec![0x80 | short as u8],
        long => [&[0xfe][..], &(long as u16).to_be_bytes()].concat(),
    };
    [&[first][..], &length, &key, &masked].concat()
}

pub fn client_hello() -> Rows {
    let named = hello(&[server_name("Shop.Example"), algorithms()]);
    let (first, rest) = named.split_at(40);
    let twice = [server_name("a.example"), server_name("b.example"), algorithms()];
    vec![
        ("nothing", vec![], "more"),
        ("named", record(22, &named), "`shop.example`"),
        ("named-and-more", [record(22, &named), record(23, b"behind")].concat(), "`shop.example`"),
        ("unnamed", record(22, &hello(&[algorithms()])), "no name"),
        ("in-two-records", [record(22, first), record(22, rest)].concat(), "`shop.example`"),
        ("cut", record(22, &named)[..60].to_vec(), "more"),
        ("of-an-address", record(22, &hello(&[server_name("192.0.2.7"), algorithms()])), "no name"),
        (
            "http",
            b"GET / HTTP/1.1\r\nHost: www\r\n\r\n".to_vec(),
            "it does not speak TLS: its first byte is 0x47",
        ),
        ("alert", record(21, &[2, 40]), "it does not speak TLS: its first byte is 0x15"),
        (
            "other-message",
            record(22, &[[14, 0, 0, 0]].concat()),
            "its first message is of kind 14, and no hello",
        ),
        ("two-names", record(22, &hello(&twice)), "its hello asks for two names"),
        (
            "longest-record",
            [&[22, 3, 1, 0xff, 0xff][..], &[1; 60]].concat(),
            "the record of its hello has 65535 bytes",
        ),
    ]
}

pub fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1][..], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// A ClientHello (RFC 8446, section 4.1.2) with these extensions.
pub fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &long(&extensions.concat())].concat();
    [&[1, 0][..], &long(&body)].concat()
}

pub fn server_name(name: &str) -> Vec<u8> {
    extension(0, &long(&[&[0][..], &long(name.as_bytes())].concat()))
}

pub fn algorithms() -> Vec<u8> {
    extension(13, &long(&[4, 3, 8, 4]))
}

pub fn extension(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[0, kind][..], &long(body)].concat()
}

/// Bytes behind their length, of two bytes.
fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

pub fn admin() -> Rows {
    let sent = |texts: &[&[u8]]| texts.iter().flat_map(|text| length_prefixed(text)).collect::<Vec<_>>();
    let long = |count: usize| format!("{{\"kill\":{{\"session\":\"{}\"}}}}", "x".repeat(count));
    const END: &str = "it closed without an answer";
    const UNFINISHED: &str = "it closed in the middle of a message, or is not a Portcullis admin socket";
    vec![
        ("nothing", vec![], END),
        ("watch", sent(&[b"\"watch\""]), "Watch, it closed without an answer"),
        (
            "words",
            sent(&[b"\"status\"", b"\"stop\"", b"\"reload\"", b"\"profiles\""]),
            "Command(Status), Command(Stop), Command(Reload), Command(Profiles), it closed without an answer",
        ),
        (
            "with-fields",
            sent(&[
                b"{\"drain\":{\"service\":\"shop\"}}",
                b"{\"drain\":{\"service\":null}}",
                b"{\"switch\":{\"profile\":\"/etc/portcullis/dmz.yaml\"}}",
                b"{\"resize\":{\"prepared\":8}}",
                b"{\"dismiss\":{\"peer\":\"dmz-2\"}}",
                b"{\"plan\":{\"profile\":\"f\"}}",
            ]),
            END,
        ),
        ("unknown", sent(&[b"\"burn\"", b"{}", b"[]", b"7", b"\"watch"]), END),
        ("no-utf-8", sent(&[b"\"\xff\xfe\"", b"\"status\""]), "Command(Status), it closed without an answer"),
        ("control-signs", sent(&[b"\"a\\u001b[2J\\n\""]), END),
        ("negative", sent(&[b"{\"resize\":{\"prepared\":-1}}"]), END),
        ("twice", sent(&[b"{\"resize\":{\"prepared\":1,\"prepared\":2}}"]), END),
        ("deep", sent(&[&[b'['; 40_000]]), END),
        ("long", sent(&[long(60_000).as_bytes()]), END),
        ("too-long", vec![0, 1, 0, 1], "a message is longer than 65536 bytes"),
        ("length-alone", vec![0xff, 0xff, 0xff, 0xff], "a message is longer than 65536 bytes"),
        ("cut-in-length", vec![0, 0], UNFINISHED),
        ("cut", sent(&[b"\"status\""])[..7].to_vec(), UNFINISHED),
    ]
}

/// A request behind its length.
fn length_prefixed(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
}

/// Files of `fuzz/corpus/pem`, and what each comes to.
pub const PEM: [(&str, &str); 19] = [
    ("pair", "loads"),
    ("pinned", "loads"),
    ("bundle", "loads"),
    ("crlf", "loads"),
    ("crl-beside", "loads"),
    ("rsa", "loads"),
    ("rsa-traditional", "loads"),
    ("name-excluded", "exclude"),
    ("issuer-missing", "is issued by `CN=middle`"),
    ("encrypted-key", "it is encrypted"),
    ("ed448", "it cannot be used"),
    ("other-key", "it is not the key of the certificate"),
    ("no-key", "it holds no private key"),
    ("no-certificate", "it holds no certificate"),
    ("nothing", "it holds no certificate"),
    ("damaged", "certificate 2 is damaged"),
    ("der", "it holds no certificate"),
    ("cut", "certificate 1 is damaged"),
    // Pinned: it is believed for its bytes, and its signature proves nothing.
    ("sha1", "loads"),
];
