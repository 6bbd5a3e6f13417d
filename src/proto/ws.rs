//! The frames of a client's WebSocket (RFC 6455, section 5), taken off and put on.
//!
//! What data frames hold is passed on as it comes, where it lies: no message is kept, whatever its
//! length. Kept is a frame's head, the body of a control frame, and the letter that a text is cut in.

use thiserror::Error;

/// A frame's head: two bytes, a length of up to eight, a mask.
const HEAD_MAX: usize = 14;
/// The longest body of a control frame.
const CONTROL_MAX: usize = 125;

/// What a frame is, as its first byte says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    More = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    const ALL: [Self; 6] = [Self::More, Self::Text, Self::Binary, Self::Close, Self::Ping, Self::Pong];

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// How a client broke the rules; it costs it the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WebSocketError {
    #[error("a frame with a reserved bit")]
    Reserved,
    #[error("a frame of unknown kind {0:#x}")]
    Kind(u8),
    #[error("a frame without a mask")]
    Unmasked,
    #[error("a control frame in pieces")]
    Pieces,
    #[error("a control frame of {0} bytes")]
    Control(u64),
    #[error("a piece of no message")]
    Stray,
    #[error("a message within another")]
    Within,
    #[error("a message of more than {0} bytes, which is the `message_limit`")]
    Long(usize),
    #[error("a text that is not UTF-8")]
    Text,
    #[error("a close frame of one byte")]
    ShortClose,
    #[error("a close frame with the code {0}")]
    Code(u16),
}

impl WebSocketError {
    /// What the client is told (RFC 6455, section 7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Self::Long(_) => 1009,
            Self::Text => 1007,
            Self::Reserved
            | Self::Kind(_)
            | Self::Unmasked
            | Self::Pieces
            | Self::Control(_)
            | Self::Stray
            | Self::Within
            | Self::ShortClose
            | Self::Code(_) => 1002,
        }
    }
}

/// Why nothing more is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebSocketEnd {
    /// A close frame, perhaps with a code.
    Closed(Option<u16>),
    Broken(WebSocketError),
}

/// Takes the frames of one client off.
#[derive(Debug)]
pub struct WebSocketDecoder {
    message_max: usize,
    head: [u8; HEAD_MAX],
    head_len: usize,
    frame: Option<WebSocketFrame>,
    message: Option<OpenMessage>,
    /// The body of a control frame, as far as it has come.
    control: Vec<u8>,
    end: Option<WebSocketEnd>,
}

/// A frame whose head is known.
#[derive(Debug)]
struct WebSocketFrame {
    kind: Opcode,
    is_last: bool,
    left: usize,
    mask: [u8; 4],
}

/// A message that has begun.
#[derive(Debug)]
struct OpenMessage {
    length: usize,
    text: Option<Utf8Check>,
}

/// A text, as far as it has come.
#[derive(Debug, Clone, Default)]
pub struct Utf8Check {
    /// The first bytes of a letter whose rest has yet to come.
    cut: Vec<u8>,
}

impl WebSocketDecoder {
    pub fn new(message_max: usize) -> Self {
        let (frame, message, control) = (None, None, Vec::new());
        Self { message_max, head: [0; HEAD_MAX], head_len: 0, frame, message, control, end: None }
    }

    pub fn end(&self) -> Option<WebSocketEnd> {
        self.end
    }

    /// Hears what has come. What messages hold is moved to the front, and its length returned; the
    /// answers to pings are put behind `answers`. Behind an end nothing is heard.
    pub fn decode(&mut self, wire: &mut [u8], answers: &mut Vec<u8>) -> usize {
        let (mut at, mut kept) = (0, 0);
        while at < wire.len() && self.end.is_none() {
            let result = match &mut self.frame {
                None => {
                    self.head[self.head_len] = wire[at];
                    (self.head_len, at) = (self.head_len + 1, at + 1);
                    self.begin()
                }
                Some(frame) => {
                    let until = at + frame.left.min(wire.len() - at);
                    frame.unmask(&mut wire[at..until]);
                    let heard = match frame.kind.is_control() {
                        true => {
                            self.control.extend_from_slice(&wire[at..until]);
                            Ok(())
                        }
                        false => {
                            self.message.as_mut().map_or(Ok(()), |message| message.feed(&wire[at..until]))
                        }
                    };
                    if !frame.kind.is_control() && heard.is_ok() {
                        wire.copy_within(at..until, kept);
                        kept += until - at;
                    }
                    at = until;
                    heard
                }
            };
            if let Err(breach) = result.and_then(|()| self.finish(answers)) {
                self.end = Some(WebSocketEnd::Broken(breach));
            }
        }
        kept
    }

    /// Begins a frame, if its head is there; what it can not be is known before its body comes.
    fn begin(&mut self) -> Result<(), WebSocketError> {
        let &[first, second] = self.head.first_chunk().expect("a head has room for two bytes");
        if self.head_len < 2 {
            return Ok(());
        }
        if first & 0x70 != 0 {
            return Err(WebSocketError::Reserved);
        }
        let known = Opcode::ALL.into_iter().find(|kind| *kind as u8 == first & 0x0f);
        let kind = known.ok_or(WebSocketError::Kind(first & 0x0f))?;
        if second & 0x80 == 0 {
            return Err(WebSocketError::Unmasked);
        }
        let is_last = first & 0x80 != 0;
        if kind.is_control() && !is_last {
            return Err(WebSocketError::Pieces);
        }
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if self.head_len < 2 + extended {
            return Ok(());
        }
        let length = match &self.head[2..2 + extended] {
            [] => u64::from(second & 0x7f),
            bytes => bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let left = self.admit(kind, length)?;
        if self.head_len == 2 + extended + 4 {
            let mask = *self.head[2 + extended..].first_chunk().expect("a head has room for a mask");
            self.frame = Some(WebSocketFrame { kind, is_last, left, mask });
            self.begin_message(kind, left);
            self.head_len = 0;
        }
        Ok(())
    }

    /// Whether a frame of this kind and length may come now.
    fn admit(&self, kind: Opcode, length: u64) -> Result<usize, WebSocketError> {
        let before = match (kind, &self.message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) if length > CONTROL_MAX as u64 => {
                return Err(WebSocketError::Control(length));
            }
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(length as usize),
            (Opcode::More, None) => return Err(WebSocketError::Stray),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(WebSocketError::Within),
            (Opcode::More, Some(message)) => message.length,
            (Opcode::Text | Opcode::Binary, None) => 0,
        };
        let room = (self.message_max - before) as u64;
        if length > room { Err(WebSocketError::Long(self.message_max)) } else { Ok(length as usize) }
    }

    /// Begins a message, or goes on with it, where the frame is of one.
    fn begin_message(&mut self, kind: Opcode, more: usize) {
        let text = (kind == Opcode::Text).then(Utf8Check::default);
        match kind {
            Opcode::Close | Opcode::Ping | Opcode::Pong => {}
            Opcode::More | Opcode::Text | Opcode::Binary => {
                self.message.get_or_insert(OpenMessage { length: 0, text }).length += more;
            }
        }
    }

    /// Does what the frame asks for, once all of it is there.
    fn finish(&mut self, answers: &mut Vec<u8>) -> Result<(), WebSocketError> {
        let Some(WebSocketFrame { kind, is_last, left: 0, .. }) = self.frame else { return Ok(()) };
        self.frame = None;
        let control = std::mem::take(&mut self.control);
        match kind {
            Opcode::Close => self.end = Some(WebSocketEnd::Closed(parse_close(&control)?)),
            Opcode::Ping => push_frame(answers, Opcode::Pong, &control),
            Opcode::Pong => {}
            Opcode::More | Opcode::Text | Opcode::Binary if is_last => {
                let message = self.message.take();
                let cut = message.and_then(|message| message.text).is_some_and(|text| text.is_cut());
                return if cut { Err(WebSocketError::Text) } else { Ok(()) };
            }
            Opcode::More | Opcode::Text | Opcode::Binary => {}
        }
        Ok(())
    }
}

impl WebSocketFrame {
    /// Takes the mask off the next bytes, and turns it to where they end.
    fn unmask(&mut self, bytes: &mut [u8]) {
        let mask = u64::from(u32::from_ne_bytes(self.mask));
        let word = mask << 32 | mask;
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for bytes in words {
            *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
        }
        for (byte, mask) in rest.iter_mut().zip(self.mask.iter().cycle()) {
            *byte ^= mask;
        }
        self.left -= bytes.len();
        self.mask.rotate_left(bytes.len() % 4);
    }
}

impl OpenMessage {
    /// The next bytes of it; a text is checked as far as it has come.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), WebSocketError> {
        self.text.as_mut().map_or(Ok(()), |text| text.feed(bytes))
    }
}

impl Utf8Check {
    /// Whether it ends within a letter.
    pub fn is_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    /// The next bytes of it.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), WebSocketError> {
        let cut = &mut self.cut;
        while !cut.is_empty()
            && let Some((first, rest)) = bytes.split_first()
        {
            cut.push(*first);
            bytes = rest;
            match unfinished_bytes(cut)? {
                0 => cut.clear(),
                _ => continue,
            }
        }
        let left = unfinished_bytes(bytes)?;
        cut.extend_from_slice(&bytes[bytes.len() - left..]);
        Ok(())
    }
}

/// How many bytes at the end of a text begin a letter whose rest is not there.
fn unfinished_bytes(text: &[u8]) -> Result<usize, WebSocketError> {
    match std::str::from_utf8(text) {
        Ok(_) => Ok(0),
        Err(error) if error.error_len().is_none() => Ok(text.len() - error.valid_up_to()),
        Err(_) => Err(WebSocketError::Text),
    }
}

/// What a close frame says (RFC 6455, sections 5.5.1 and 7.4).
fn parse_close(body: &[u8]) -> Result<Option<u16>, WebSocketError> {
    let code = match body {
        [] => return Ok(None),
        [_] => return Err(WebSocketError::ShortClose),
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(WebSocketError::Code(code));
    }
    std::str::from_utf8(&body[2..]).map_err(|_| WebSocketError::Text)?;
    Ok(Some(code))
}

/// The head of a frame of ours, which has no mask, and is the last of its message or not: its bytes, how many count.
pub fn frame_head(kind: Opcode, is_last: bool, length: usize) -> ([u8; 10], usize) {
    let mut head = [0; 10];
    head[0] = u8::from(is_last) << 7 | kind as u8;
    let length = length as u64;
    let long = length.to_be_bytes();
    match length {
        0..=125 => head[1] = long[7],
        126..=0xffff => {
            head[1] = 126;
            head[2..4].copy_from_slice(&long[6..]);
            return (head, 4);
        }
        _ => {
            head[1] = 127;
            head[2..].copy_from_slice(&long);
            return (head, 10);
        }
    }
    (head, 2)
}

/// Puts a whole frame of ours behind others.
pub fn push_frame(out: &mut Vec<u8>, kind: Opcode, body: &[u8]) {
    let (head, count) = frame_head(kind, true, body.len());
    out.extend_from_slice(&head[..count]);
    out.extend_from_slice(body);
}
