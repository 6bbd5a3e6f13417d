//! The frames of a WebSocket (RFC 6455, section 5), of a client or of a link: decoding and encoding.
//!
//! The contents of data frames are passed on as they arrive, in place: no message is stored, whatever its
//! length. Only a frame's header, the body of a control frame, and an incomplete character of a text are kept.

use thiserror::Error;

/// A frame's header: two bytes, a length of up to eight, a mask.
const HEAD_MAX: usize = 14;
/// The longest body of a control frame.
const CONTROL_MAX: usize = 125;

/// The type of a frame, from its first byte.
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

/// Whose frames are decoded, and what they may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameSource {
    /// A client: masked, in messages of any type, none longer than this.
    Client { message_max: usize },
    /// The dialling end of a link: masked, and binary.
    DialledLink,
    /// The listening end of a link: not masked, and binary.
    AcceptedLink,
}

impl FrameSource {
    fn message_max(self) -> usize {
        match self {
            Self::Client { message_max } => message_max,
            // Nothing of a message is stored, so its length costs nothing.
            Self::DialledLink | Self::AcceptedLink => usize::MAX,
        }
    }

    fn masks(self) -> bool {
        match self {
            Self::Client { .. } | Self::DialledLink => true,
            Self::AcceptedLink => false,
        }
    }
}

/// Whether our frames are masked; those of the dialling end are (section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masking {
    None,
    Fresh,
}

/// How the other end broke the rules, for which its connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WebSocketError {
    #[error("a frame with a reserved bit")]
    Reserved,
    #[error("a frame of unknown kind {0:#x}")]
    Kind(u8),
    #[error("an unmasked frame")]
    Unmasked,
    #[error("a masked frame")]
    Masked,
    #[error("a frame with an invalid length")]
    Length,
    #[error("a text message, where all are binary")]
    TextMessage,
    #[error("a fragmented control frame")]
    Pieces,
    #[error("a control frame of {0} bytes")]
    Control(u64),
    #[error("a continuation frame without a message")]
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
    /// The code that the client is sent (RFC 6455, section 7.4.1).
    pub fn code(self) -> u16 {
        match self {
            Self::Long(_) => 1009,
            Self::Text => 1007,
            Self::TextMessage => 1003,
            Self::Reserved
            | Self::Kind(_)
            | Self::Unmasked
            | Self::Masked
            | Self::Length
            | Self::Pieces
            | Self::Control(_)
            | Self::Stray
            | Self::Within
            | Self::ShortClose
            | Self::Code(_) => 1002,
        }
    }
}

/// Why nothing more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebSocketEnd {
    /// A close frame, perhaps with a code.
    Closed(Option<u16>),
    Broken(WebSocketError),
}

/// Decodes the frames of one connection.
#[derive(Debug)]
pub struct WebSocketDecoder {
    source: FrameSource,
    head: [u8; HEAD_MAX],
    head_len: usize,
    frame: Option<WebSocketFrame>,
    message: Option<OpenMessage>,
    /// The received part of a control frame's body.
    control: Vec<u8>,
    end: Option<WebSocketEnd>,
}

/// A frame whose header is known.
#[derive(Debug)]
struct WebSocketFrame {
    kind: Opcode,
    is_last: bool,
    left: usize,
    mask: FrameMask,
}

/// The mask of a frame, rotated to its next byte.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameMask([u8; 4]);

/// A message that has begun.
#[derive(Debug)]
struct OpenMessage {
    length: usize,
    text: Option<Utf8Check>,
}

/// Checks a text as it arrives.
#[derive(Debug, Clone, Default)]
pub struct Utf8Check {
    /// The first bytes of a character whose rest is still to come.
    cut: Vec<u8>,
}

impl WebSocketDecoder {
    pub fn new(source: FrameSource) -> Self {
        let (frame, message, control) = (None, None, Vec::new());
        Self { source, head: [0; HEAD_MAX], head_len: 0, frame, message, control, end: None }
    }

    pub fn end(&self) -> Option<WebSocketEnd> {
        self.end
    }

    /// Decodes received bytes. The contents of messages are moved to the front, and their length is returned;
    /// answers to pings are appended to `answers`. After an end, nothing is decoded.
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
                    if self.source.masks() {
                        frame.mask.apply(&mut wire[at..until]);
                    }
                    frame.left -= until - at;
                    let received = match frame.kind.is_control() {
                        true => {
                            self.control.extend_from_slice(&wire[at..until]);
                            Ok(())
                        }
                        false => {
                            self.message.as_mut().map_or(Ok(()), |message| message.feed(&wire[at..until]))
                        }
                    };
                    if !frame.kind.is_control() && received.is_ok() {
                        wire.copy_within(at..until, kept);
                        kept += until - at;
                    }
                    at = until;
                    received
                }
            };
            if let Err(breach) = result.and_then(|()| self.finish(answers)) {
                self.end = Some(WebSocketEnd::Broken(breach));
            }
        }
        kept
    }

    /// Begins a frame once its header is complete. An invalid frame is detected before its body arrives.
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
        match (second & 0x80 != 0, self.source.masks()) {
            (false, true) => return Err(WebSocketError::Unmasked),
            (true, false) => return Err(WebSocketError::Masked),
            (true, true) | (false, false) => {}
        }
        if kind == Opcode::Text && !matches!(self.source, FrameSource::Client { .. }) {
            return Err(WebSocketError::TextMessage);
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
        if length > i64::MAX as u64 {
            return Err(WebSocketError::Length);
        }
        let left = self.admit(kind, length)?;
        let mask_len = if self.source.masks() { 4 } else { 0 };
        if self.head_len == 2 + extended + mask_len {
            let mask = self.head[2 + extended..self.head_len].first_chunk().copied().unwrap_or_default();
            self.frame = Some(WebSocketFrame { kind, is_last, left, mask: FrameMask(mask) });
            self.begin_message(kind, left);
            self.head_len = 0;
        }
        Ok(())
    }

    /// Whether a frame of this type and length may come now.
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
        let message_max = self.source.message_max();
        let space = (message_max - before) as u64;
        if length > space { Err(WebSocketError::Long(message_max)) } else { Ok(length as usize) }
    }

    /// Begins a message or continues one, if the frame belongs to one.
    fn begin_message(&mut self, kind: Opcode, more: usize) {
        let text = (kind == Opcode::Text).then(Utf8Check::default);
        match kind {
            Opcode::Close | Opcode::Ping | Opcode::Pong => {}
            Opcode::More | Opcode::Text | Opcode::Binary => {
                self.message.get_or_insert(OpenMessage { length: 0, text }).length += more;
            }
        }
    }

    /// Does what the frame asks for, once it is complete.
    fn finish(&mut self, answers: &mut Vec<u8>) -> Result<(), WebSocketError> {
        let Some(WebSocketFrame { kind, is_last, left: 0, .. }) = self.frame else { return Ok(()) };
        self.frame = None;
        let control = std::mem::take(&mut self.control);
        match kind {
            Opcode::Close => self.end = Some(WebSocketEnd::Closed(parse_close(&control)?)),
            Opcode::Ping => {
                let masking = if self.source.masks() { Masking::None } else { Masking::Fresh };
                push_frame(answers, Opcode::Pong, &control, masking);
            }
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

impl FrameMask {
    /// An unpredictable mask (section 10.3).
    pub fn fresh() -> Self {
        let mut mask = [0; 4];
        if aws_lc_rs::rand::fill(&mut mask).is_err() {
            // The library would end the process rather than be without randomness; this is unpredictable
            // enough.
            mask = fastrand::u32(..).to_ne_bytes();
        }
        Self(mask)
    }

    /// Applies or removes the mask on the next bytes.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        let word = self.word();
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for bytes in words {
            *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
        }
        for (byte, mask) in rest.iter_mut().zip(self.0.iter().cycle()) {
            *byte ^= mask;
        }
        self.turn(bytes.len());
    }

    /// Appends the next bytes to others, masked.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(bytes);
        self.apply(&mut out[from..]);
    }

    fn word(self) -> u64 {
        let mask = u64::from(u32::from_ne_bytes(self.0));
        mask << 32 | mask
    }

    /// Rotates the mask past this many bytes.
    pub fn turn(&mut self, bytes: usize) {
        self.0.rotate_left(bytes % 4);
    }
}

impl OpenMessage {
    /// The next bytes of it; a text is checked as it arrives.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), WebSocketError> {
        self.text.as_mut().map_or(Ok(()), |text| text.feed(bytes))
    }
}

impl Utf8Check {
    /// Whether it ends inside a character.
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

/// How many bytes at the end of a text belong to an incomplete character.
fn unfinished_bytes(text: &[u8]) -> Result<usize, WebSocketError> {
    match std::str::from_utf8(text) {
        Ok(_) => Ok(0),
        Err(error) if error.error_len().is_none() => Ok(text.len() - error.valid_up_to()),
        Err(_) => Err(WebSocketError::Text),
    }
}

/// The contents of a close frame (RFC 6455, sections 5.5.1 and 7.4).
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

/// The header of one of our frames, and its mask.
/// Where a frame is in its message, as the FIN bit of its head says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FramePosition {
    Last = 0x80,
    BeforeLast = 0,
}

#[derive(Debug, Clone, Copy)]
pub struct WebSocketFrameHead {
    bytes: [u8; HEAD_MAX],
    len: usize,
    pub mask: FrameMask,
}

impl WebSocketFrameHead {
    pub fn new(kind: Opcode, position: FramePosition, length: usize, masking: Masking) -> Self {
        let mut bytes = [0; HEAD_MAX];
        bytes[0] = position as u8 | kind as u8;
        let length = length as u64;
        let long = length.to_be_bytes();
        let len = match length {
            0..=125 => {
                bytes[1] = long[7];
                2
            }
            126..=0xffff => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&long[6..]);
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..10].copy_from_slice(&long);
                10
            }
        };
        match masking {
            Masking::None => Self { bytes, len, mask: FrameMask::default() },
            Masking::Fresh => {
                let mask = FrameMask::fresh();
                bytes[1] |= 0x80;
                bytes[len..len + 4].copy_from_slice(&mask.0);
                Self { bytes, len: len + 4, mask }
            }
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Appends a complete frame of ours.
pub fn push_frame(out: &mut Vec<u8>, kind: Opcode, body: &[u8], masking: Masking) {
    let mut head = WebSocketFrameHead::new(kind, FramePosition::Last, body.len(), masking);
    out.extend_from_slice(head.as_bytes());
    match masking {
        Masking::None => out.extend_from_slice(body),
        Masking::Fresh => head.mask.push(body, out),
    }
}
