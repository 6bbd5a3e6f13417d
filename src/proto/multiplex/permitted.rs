//! What may be sent on a link now. Only the state tables (`state`) make these, for the frame that they were asked about.

use super::frame::{FrameHead, FrameType, HEADER_BYTES, LinkFrame};

/// A frame that may be sent now: a stage has taken the frame, and moved.
///
/// ```
/// use portcullis::proto::multiplex::{frame::*, permitted::*, state::*};
///
/// let (mut stage, mut out) = (SessionStage::Opening, Vec::new());
/// let opened: PermittedFrame = stage.permit(LinkEnd::Server, LinkFrame::Opened, 1).expect("it is asked for");
/// opened.push(&mut out);
/// assert!(stage.permit(LinkEnd::Server, LinkFrame::Opened, 1).is_err(), "it is answered once");
/// ```
///
/// It is the frame that was asked about, and no other one:
///
/// ```compile_fail,E0061
/// use portcullis::proto::multiplex::{frame::*, permitted::*, state::*};
///
/// let (mut stage, mut out) = (SessionStage::Opening, Vec::new());
/// let opened: PermittedFrame = stage.permit(LinkEnd::Server, LinkFrame::Opened, 1).expect("it is asked for");
/// opened.push(&LinkFrame::End, &mut out);
/// ```
///
/// No other place can make one:
///
/// ```compile_fail,E0451
/// use portcullis::proto::multiplex::{frame::*, permitted::*, state::*};
///
/// let opened: PermittedFrame = PermittedFrame { frame: LinkFrame::Opened, session: 1 };
/// ```
///
/// It is sent once:
///
/// ```compile_fail,E0382
/// use portcullis::proto::multiplex::{frame::*, permitted::*, state::*};
///
/// let (mut stage, mut out) = (SessionStage::Opening, Vec::new());
/// let opened: PermittedFrame = stage.permit(LinkEnd::Server, LinkFrame::Opened, 1).expect("it is asked for");
/// opened.push(&mut out);
/// opened.push(&mut out);
/// ```
#[derive(Debug)]
#[must_use]
pub struct PermittedFrame {
    frame: LinkFrame,
    session: u32,
}

impl PermittedFrame {
    /// For the state tables, which have judged it.
    pub(super) fn new(frame: LinkFrame, session: u32) -> Self {
        Self { frame, session }
    }

    /// Appends it to what is to be sent.
    pub fn push(self, out: &mut Vec<u8>) {
        self.frame.push(out, self.session);
    }
}

/// A frame that a session's turn sends: a header, and the bytes that were read behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnFrame {
    Opened,
    /// This many bytes follow.
    Data(usize),
    End,
}

impl TurnFrame {
    pub(super) fn kind(self) -> FrameType {
        match self {
            Self::Opened => FrameType::Opened,
            Self::Data(_) => FrameType::Data,
            Self::End => FrameType::End,
        }
    }
}

/// The header of a frame that may be sent now, for the kind and length that were asked about.
///
/// ```
/// use portcullis::proto::multiplex::{permitted::*, state::*};
///
/// let mut stage = SessionStage::Carrying;
/// let head: PermittedHead = stage.permit_turn(LinkEnd::Opener, TurnFrame::Data(3), 1).expect("it is open");
/// assert_eq!(head.bytes(), [6, 0, 0, 3, 0, 0, 0, 1]);
/// assert!(stage.permit_turn(LinkEnd::Opener, TurnFrame::Data(0), 1).is_err(), "no such frame");
/// ```
///
/// ```compile_fail,E0423
/// use portcullis::proto::multiplex::{frame::*, permitted::*, state::*};
///
/// PermittedHead(FrameHead { kind: FrameType::Data, length: 3, session: 1 });
/// ```
#[derive(Debug)]
#[must_use]
pub struct PermittedHead(FrameHead);

impl PermittedHead {
    /// For the state tables, which have judged it.
    pub(super) fn new(head: FrameHead) -> Self {
        Self(head)
    }

    pub fn bytes(self) -> [u8; HEADER_BYTES] {
        self.0.bytes()
    }
}
