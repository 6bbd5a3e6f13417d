//! Refuses what hyper tolerates but another parser may read differently: line ends without CR, a length that is
//! given twice or in two ways. A byte of such a line is replaced before hyper sees it, so that hyper rejects
//! the request. hyper alone decides what a request is. Nothing after that byte is read, so whatever hyper makes
//! of it, the request stays incomplete and is the last one.
//!
//! To know where heads begin, bodies are skipped by their length. What follows a request that asks for an
//! upgrade is not read until the upgrade is decided, because only then is it known what those bytes are.

use super::{HEAD_BYTES_MAX, fields::split_members, request::is_passable_upgrade};

/// Checks everything that a client sends, in order.
#[derive(Debug, Default)]
pub struct RequestChecker {
    state: CheckerState,
    /// The beginning of an unfinished line.
    line: Vec<u8>,
    head: HeadFraming,
    target: TargetCheck,
    /// See [`Self::refused_rest`].
    refused_rest: &'static [u8],
}

/// first line → head → body or chunks → first line
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum CheckerState {
    #[default]
    FirstLine,
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    /// The CR, then the LF, after a chunk.
    ChunkEnd(u8),
    Trailers,
    /// What follows is either the next request, or what the connection has become.
    Undecided,
    /// A request was made invalid, and nothing after it is read.
    Refused,
}

/// The findings about targets of requests.
#[derive(Debug, Default)]
struct TargetCheck {
    is_query: bool,
    /// The number of complete first lines.
    lines: u64,
    /// The first request whose target has a forbidden character.
    refused: Option<u64>,
}

/// The framing that a head declares for the bytes after it.
#[derive(Debug, Default)]
struct HeadFraming {
    length: Option<u64>,
    is_chunked: bool,
    /// The connection may be upgraded.
    upgrades: bool,
}

/// A line that must be rejected.
struct InvalidLine;

/// Replaces a forbidden character in a target.
pub const REPLACEMENT_BYTE: u8 = b'_';

impl RequestChecker {
    /// Checks the bytes that have arrived; returns how many of them may be read now. After a refusal that is 0,
    /// ever.
    pub fn check(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let left = &mut bytes[at..];
            at += match &mut self.state {
                CheckerState::Undecided | CheckerState::Refused => return at,
                CheckerState::Body(length) | CheckerState::Chunk(length) => {
                    let count = left.len().min(usize::try_from(*length).unwrap_or(usize::MAX));
                    *length -= count as u64;
                    if *length == 0 {
                        self.state = match self.state {
                            CheckerState::Chunk(_) => CheckerState::ChunkEnd(b'\r'),
                            CheckerState::FirstLine
                            | CheckerState::Head
                            | CheckerState::Body(_)
                            | CheckerState::ChunkSize
                            | CheckerState::ChunkEnd(_)
                            | CheckerState::Trailers
                            | CheckerState::Undecided
                            | CheckerState::Refused => CheckerState::FirstLine,
                        };
                    }
                    count
                }
                CheckerState::ChunkEnd(expected) => {
                    match (*expected == left[0], *expected) {
                        (true, b'\r') => self.state = CheckerState::ChunkEnd(b'\n'),
                        (true, _) => self.state = CheckerState::ChunkSize,
                        (false, _) => {
                            left[0] = 0;
                            self.refuse();
                        }
                    }
                    1
                }
                CheckerState::FirstLine
                | CheckerState::Head
                | CheckerState::ChunkSize
                | CheckerState::Trailers => self.take_line(left),
            };
        }
        at
    }

    /// Whether the next bytes wait until it is known what the connection becomes.
    pub fn is_undecided(&self) -> bool {
        self.state == CheckerState::Undecided
    }

    /// The connection was not upgraded, so the next bytes are another request.
    pub fn resume_requests(&mut self) {
        self.state = CheckerState::FirstLine;
    }

    /// Whether no request is incomplete.
    pub fn is_between_requests(&self) -> bool {
        self.state == CheckerState::Undecided
            || (self.state == CheckerState::FirstLine && self.line.is_empty())
    }

    /// The number of requests whose first lines have arrived.
    pub fn requests(&self) -> u64 {
        self.target.lines
    }

    /// Which request has characters in its target that must be percent-encoded. hyper would refuse them without
    /// a reason, or take them for the target's end. So they are overwritten here, and the reader refuses the
    /// request.
    pub fn refused_request(&self) -> Option<u64> {
        self.target.refused
    }

    /// After a refusal, what hyper reads in place of everything else that the client sends. hyper refuses a head
    /// only when it is complete, if it has seen a part of it before.
    pub fn refused_rest(&self) -> Option<&'static [u8]> {
        (self.state == CheckerState::Refused).then_some(self.refused_rest)
    }

    /// Takes the available part of a line; returns its length.
    fn take_line(&mut self, bytes: &mut [u8]) -> usize {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        if self.state == CheckerState::FirstLine {
            let length = end.unwrap_or(bytes.len());
            self.target.check(&mut bytes[..length]);
        }
        let Some(end) = end else {
            let is_full = self.line.len() > HEAD_BYTES_MAX;
            match (self.line.last_mut(), bytes.last()) {
                // A longer line is refused for its length. Its last byte is kept, which may be the CR.
                (Some(last), Some(byte)) if is_full => *last = *byte,
                _ => self.line.extend_from_slice(bytes),
            }
            return bytes.len();
        };
        let mut line = std::mem::take(&mut self.line);
        let line: &[u8] = if line.is_empty() {
            &bytes[..end]
        } else {
            line.extend_from_slice(&bytes[..end]);
            &line
        };
        if self.end_line(line).is_err() {
            // hyper takes a NUL in the extension of a chunk, but no LF without CR.
            let is_refused_as_it_is = self.state == CheckerState::ChunkSize && !line.ends_with(b"\r");
            if !is_refused_as_it_is {
                bytes[end] = 0;
            }
            self.refuse();
        }
        end + 1
    }

    fn refuse(&mut self) {
        self.refused_rest = match self.state {
            CheckerState::FirstLine | CheckerState::Head | CheckerState::Trailers => b"\r\n\r\n",
            CheckerState::Body(_)
            | CheckerState::ChunkSize
            | CheckerState::Chunk(_)
            | CheckerState::ChunkEnd(_)
            | CheckerState::Undecided
            | CheckerState::Refused => b"",
        };
        self.state = CheckerState::Refused;
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), InvalidLine> {
        let line = line.strip_suffix(b"\r").ok_or(InvalidLine)?;
        self.state = match self.state {
            // Empty lines before a request mean nothing (RFC 9112, section 2.2).
            CheckerState::FirstLine if line.is_empty() => CheckerState::FirstLine,
            CheckerState::FirstLine => {
                self.target.end_line();
                CheckerState::Head
            }
            CheckerState::Head if line.is_empty() => std::mem::take(&mut self.head).next_state(),
            CheckerState::Head => {
                self.head.take_field(line)?;
                CheckerState::Head
            }
            CheckerState::ChunkSize => match chunk_size(line)? {
                0 => CheckerState::Trailers,
                size => CheckerState::Chunk(size),
            },
            CheckerState::Trailers if line.is_empty() => CheckerState::FirstLine,
            step @ (CheckerState::Body(_)
            | CheckerState::Chunk(_)
            | CheckerState::ChunkEnd(_)
            | CheckerState::Trailers
            | CheckerState::Undecided
            | CheckerState::Refused) => step,
        };
        Ok(())
    }
}

impl TargetCheck {
    fn check(&mut self, piece: &mut [u8]) {
        for byte in piece {
            self.is_query |= *byte == b'?';
            let is_refused = match *byte {
                b'#' | b'<' | b'>' => true,
                b'"' => self.is_query,
                b'`' => !self.is_query,
                _ => false,
            };
            if is_refused {
                *byte = REPLACEMENT_BYTE;
                self.refused.get_or_insert(self.lines + 1);
            }
        }
    }

    fn end_line(&mut self) {
        self.is_query = false;
        self.lines += 1;
    }
}

impl HeadFraming {
    fn take_field(&mut self, line: &[u8]) -> Result<(), InvalidLine> {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Ok(()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let has_framing = self.is_chunked || self.length.is_some();
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = Some(number(value, 10, 18).filter(|_| !has_framing).ok_or(InvalidLine)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if has_framing || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(InvalidLine);
            }
            self.is_chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrades |= split_members(value).any(is_passable_upgrade);
        }
        Ok(())
    }

    fn next_state(self) -> CheckerState {
        match self {
            // A request with a body is never upgraded.
            Self { is_chunked: true, .. } => CheckerState::ChunkSize,
            Self { length: Some(1..), .. } => CheckerState::Body(self.length.unwrap_or_default()),
            Self { upgrades: true, .. } => CheckerState::Undecided,
            Self { length: Some(0) | None, .. } => CheckerState::FirstLine,
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, InvalidLine> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    number(digits.trim_ascii_end(), 16, 15).ok_or(InvalidLine)
}

fn number(digits: &[u8], radix: u32, digits_max: usize) -> Option<u64> {
    let is_digit = |byte: &u8| (*byte as char).is_digit(radix);
    let good = (1..=digits_max).contains(&digits.len()) && digits.iter().all(is_digit);
    good.then(|| u64::from_str_radix(str::from_utf8(digits).ok()?, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a text is made invalid: the same for all of it at once and for byte by byte.
    fn overwritten(text: &str) -> Option<usize> {
        let mut whole = text.as_bytes().to_vec();
        RequestChecker::default().check(&mut whole);
        let (mut bytewise, mut strict) = (text.as_bytes().to_vec(), RequestChecker::default());
        bytewise.chunks_mut(1).for_each(|byte| _ = strict.check(byte));
        assert_eq!(whole, bytewise, "{text:?}");
        let first = whole.iter().zip(text.as_bytes()).position(|(now, before)| now != before);
        assert!(
            first.is_none_or(|at| whole[at] == 0 && whole[at + 1..] == text.as_bytes()[at + 1..]),
            "{text:?}"
        );
        first
    }

    #[test]
    fn good_requests_stay_as_they_are_whatever_their_bodies_hold() {
        let next = "GET /b HTTP/1.1\r\nHost: h\r\n\r\n";
        for before in [
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\na\nb\n\n",
            "POST / HTTP/1.1\r\nCONTENT-length:0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked \r\n\r\n3\r\n\n\n\n\r\nA;x=\"y\"\r\n0123\n56789\r\n0\r\nSum: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon here\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: h2c, , HTTP/2.0\r\nUpgrade: ,\r\n\r\n",
        ] {
            assert_eq!(overwritten(&format!("{before}{next}")), None, "{before:?}");
            // What follows is checked again.
            let bad = format!("{before}{}", next.replace("h\r\n\r", "h\n\r"));
            assert_eq!(overwritten(&bad), Some(bad.len() - 3), "{before:?}");
        }
        for offered in ["websocket", "h2c, websocket", "h2c\r\nUpgrade: , websocket"] {
            let upgraded = format!("GET / HTTP/1.1\r\nUpgrade: {offered}\r\n\r\n\x01\n\x02\n");
            assert_eq!(overwritten(&upgraded), None, "{offered}");
        }
    }

    #[test]
    fn what_follows_an_upgrade_waits_until_it_is_decided() {
        let head = "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        let mut bytes = format!("{head}GET /b HTTP/1.1\n").into_bytes();
        let mut strict = RequestChecker::default();
        assert_eq!(strict.check(&mut bytes), head.len());
        assert!(strict.is_undecided() && strict.check(&mut bytes[head.len()..]) == 0);
        strict.resume_requests();
        let at = bytes.len() - 1;
        assert_eq!((strict.check(&mut bytes[head.len()..]), bytes[at]), (at + 1 - head.len(), 0));
        // A request with a body is not upgraded, and its body is followed.
        let with_body = "POST / HTTP/1.1\r\nUpgrade: a\r\nContent-Length: 2\r\n\r\n\n\nGET / HTTP/1.1\n";
        assert_eq!(overwritten(with_body), Some(with_body.len() - 1));
    }

    #[test]
    fn nothing_is_read_after_a_refused_line() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        // hyper refuses the LF of an extension as it is, and would take a NUL there.
        for (body, rest) in [
            ("3;\n", ""),
            ("3;a=b\n", ""),
            ("0;\n", ""),
            ("3\n", ""),
            ("0\r\nSum: 1\n", "\r\n\r\n"),
            ("1\r\nab", ""),
        ] {
            let refused = format!("{head}{body}");
            let text = format!("{refused}\r\nabc\r\n0\r\n\r\nGET /b HTTP/1.1\nHost: h\n\n");
            for piece in [1, 1000] {
                let (mut bytes, mut strict) = (text.clone().into_bytes(), RequestChecker::default());
                let read = bytes.chunks_mut(piece).map(|piece| strict.check(piece)).sum::<usize>();
                assert_eq!(read, refused.len(), "{body:?}");
                assert_eq!(strict.refused_rest(), Some(rest.as_bytes()), "{body:?}");
                let is_overwritten = bytes[read - 1] == 0;
                assert_eq!(is_overwritten, !body.starts_with(['3', '0']) || !rest.is_empty(), "{body:?}");
            }
        }
        let mut strict = RequestChecker::default();
        strict.check(&mut head.as_bytes().to_vec());
        // The CR of a line that is too long is not forgotten.
        for piece in [format!("5{}", " ".repeat(2 * HEAD_BYTES_MAX)).as_str(), "\r", "\n", "12345\r\n"] {
            strict.check(&mut piece.as_bytes().to_vec());
        }
        assert_eq!(strict.refused_rest(), None);
    }

    #[test]
    fn signs_that_a_target_may_not_have_are_seen_before_they_are_lost() {
        for (target, seen) in [
            ("/a?b=\"c\"", "/a?b=_c_"),
            ("/<a>?b", "/_a_?b"),
            ("/a?b<c>d#e", "/a?b_c_d_e"),
            ("/a`b?c`d", "/a_b?c`d"),
            ("/a\"{b}?{c|d^e}", "/a\"{b}?{c|d^e}"),
        ] {
            let (before, after) = ("GET / HTTP/1.1\r\n\r\nGET ", " HTTP/1.1\r\nX: #<\"\r\n\r\n");
            for piece in [1, 1000] {
                let mut bytes = format!("{before}{target}{after}").into_bytes();
                let mut strict = RequestChecker::default();
                bytes.chunks_mut(piece).for_each(|piece| _ = strict.check(piece));
                assert_eq!(String::from_utf8_lossy(&bytes), format!("{before}{seen}{after}"));
                assert_eq!(strict.refused_request(), (target != seen).then_some(2), "{target}");
            }
        }
    }

    #[test]
    fn ambiguous_bytes_are_overwritten_where_they_occur() {
        for (before, line) in [
            ("", "GET / HTTP/1.1\n"),
            ("GET / HTTP/1.1\r\n", "Host: h\n"),
            ("GET / HTTP/1.1\r\nHost: h\r\n", "\n"),
            ("GET / HTTP/1.1\r\nContent-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "content-LENGTH: 5\r\n"),
            ("GET / HTTP/1.1\r\nContent-Length: 5\r\n", "Content-Length: 5\r\n"),
            ("GET / HTTP/1.1\r\n", "Content-Length: 5, 5\r\n"),
            ("GET / HTTP/1.1\r\n", "Content-Length: +5\r\n"),
            ("GET / HTTP/1.1\r\n", "Content-Length: \r\n"),
            ("GET / HTTP/1.1\r\n", "Content-Length: 99999999999999999999\r\n"),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\n"),
            ("GET / HTTP/1.1\r\n", "Transfer-Encoding: gzip, chunked\r\n"),
            ("GET / HTTP/1.1\r\n", "Transfer-Encoding: xchunked\r\n"),
            ("GET / HTTP/1.1\r\n", "Transfer-Encoding: identity\r\n"),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "0x5\r\n"),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "\r\n"),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "1234567890123456\r\n"),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", "Sum: 1\n"),
        ] {
            let text = format!("{before}{line}GET /smuggled HTTP/1.1\r\n\r\n");
            assert_eq!(overwritten(&text), Some(before.len() + line.len() - 1), "{text:?}");
        }
        for remainder in ["ab", "a\n", "a\rb"] {
            let head = "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n";
            let at = head.len() + remainder.len() - 1;
            assert_eq!(overwritten(&format!("{head}{remainder}\r\n0\r\n\r\n")), Some(at), "{remainder:?}");
        }
    }
}
