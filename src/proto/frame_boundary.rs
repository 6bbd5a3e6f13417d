//! Where the frames of a WebSocket begin and end (RFC 6455, section 5.2), for whoever passes them on undecoded and
//! has to put one between two of them.

/// Follows the frames of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameBoundary {
    /// How many bytes of the present frame's head have come.
    head: usize,
    /// The second of them: the mask's bit and the length, or how long the length is.
    second: u8,
    /// The bytes of its body that are still to come.
    left: u64,
    is_close: bool,
    has_closed: bool,
}

impl FrameBoundary {
    /// Whether the last frame is complete and no other has begun.
    pub fn is_between(&self) -> bool {
        self.head == 0
    }

    /// Whether a close frame has gone by, after which nothing may be sent (section 5.5.1).
    pub fn has_closed(&self) -> bool {
        self.has_closed
    }

    /// Notes these bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.advance(bytes)..];
        }
    }

    /// Notes these bytes up to the end of the frame under way, or of the next one; returns how many there are.
    pub fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.head < self.head_bytes() {
                self.note_head(bytes[at]);
                at += 1;
            } else {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= count as u64;
                at += count;
            }
            if self.head == self.head_bytes() && self.left == 0 {
                self.has_closed |= self.is_close;
                self.head = 0;
                break;
            }
        }
        at
    }

    fn note_head(&mut self, byte: u8) {
        match self.head {
            0 => (self.is_close, self.left) = (byte & 0x0f == 8, 0),
            1 => {
                self.second = byte;
                self.left = Some(u64::from(byte & 0x7f)).filter(|length| *length < 126).unwrap_or_default();
            }
            at if at < 2 + self.length_bytes() => self.left = self.left << 8 | u64::from(byte),
            // The mask.
            _ => {}
        }
        self.head += 1;
    }

    fn head_bytes(&self) -> usize {
        match self.head {
            0 | 1 => 2,
            _ => 2 + self.length_bytes() + if self.second & 0x80 == 0 { 0 } else { 4 },
        }
    }

    fn length_bytes(&self) -> usize {
        match self.second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(head: &[u8], body: usize) -> Vec<u8> {
        [head, &vec![0xff; body]].concat()
    }

    #[test]
    fn each_frame_ends_where_it_does_however_its_bytes_come() {
        let frames = [
            frame(&[0x82, 0], 0),
            frame(&[0x01, 5], 5),
            frame(&[0x80, 0x85, 1, 2, 3, 4], 5),
            frame(&[0x89, 125], 125),
            frame(&[0x82, 126, 0, 0], 0),
            frame(&[0xc2, 126, 1, 0], 256),
            frame(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], 65_536),
            frame(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 3, 9, 9, 9, 9], 3),
            frame(&[0x88, 2], 2),
        ];
        let all = frames.concat();
        let ends: Vec<_> = frames
            .iter()
            .scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            })
            .collect();
        let mut by_byte = FrameBoundary::default();
        for (at, byte) in all.iter().enumerate() {
            assert_eq!(by_byte.advance(&[*byte]), 1);
            assert_eq!(by_byte.is_between(), ends.contains(&(at + 1)), "behind byte {at}");
            assert_eq!(by_byte.has_closed(), at + 1 == all.len(), "behind byte {at}");
        }
        let (mut by_frame, mut at) = (FrameBoundary::default(), 0);
        for end in &ends {
            at += by_frame.advance(&all[at..]);
            assert_eq!((at, by_frame.is_between()), (*end, true));
        }
        let mut at_once = FrameBoundary::default();
        at_once.feed(&all[..all.len() - 1]);
        assert!(!at_once.is_between() && !at_once.has_closed());
        at_once.feed(&all[all.len() - 1..]);
        assert!(at_once.is_between() && at_once.has_closed());
    }
}
