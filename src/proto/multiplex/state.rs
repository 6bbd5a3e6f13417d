//! Which frame may come when: one table for a link, one for each session on it, the same for both ends.
//!
//! ```text
//! link:    awaiting offer ─hello─► awaiting grant ─hello─► running ─opener's drain, retire─► leaving
//! session: (open) ─► opening ─opened─► carrying ─end─► … ─end─► closed
//!                                      carrying … ─opener's move─► moving … ─server's move─► closed here
//!                                                                 moving … ─server's opened─► carrying …
//! ```
//!
//! Each end follows them for what it sends and what it receives, in its own order. The tables apply to both,
//! since they name the sender and not the receiver. When one end has closed something, the other may still be
//! sending for it: such frames are late, they mean nothing, and their number is limited.
//!
//! What is sent is a [`PermittedFrame`] or begins with a [`PermittedHead`], which only a stage makes.

use std::fmt;

use super::{
    PeerViolation,
    frame::{DATA_BYTES_MAX, FrameHead, FrameType, LinkFrame, MoveTicket},
    open::OpenRequest,
    permitted::{PermittedFrame, PermittedHead, TurnFrame},
};

/// The two ends of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkEnd {
    /// Sends `open`: the DMZ half.
    Opener,
    /// Receives it: the internal half.
    Server,
}

impl LinkEnd {
    pub fn other(self) -> Self {
        match self {
            Self::Opener => Self::Server,
            Self::Server => Self::Opener,
        }
    }
}

/// The stage of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkStage {
    /// Nothing was sent yet.
    AwaitingOffer,
    /// The server has sent its offer.
    AwaitingGrant,
    Running,
    /// The opener opens no more sessions on it; open ones go on.
    Leaving,
}

impl LinkStage {
    pub const ALL: [Self; 4] = [Self::AwaitingOffer, Self::AwaitingGrant, Self::Running, Self::Leaving];

    /// The stage after a frame, or `None` where it may not come.
    pub fn after(self, from: LinkEnd, kind: FrameType) -> Option<Self> {
        use LinkEnd::{Opener, Server};
        Some(match (self, from, kind) {
            (Self::AwaitingOffer, Server, FrameType::Hello) => Self::AwaitingGrant,
            (Self::AwaitingGrant, Opener, FrameType::Hello) => Self::Running,
            (Self::AwaitingOffer | Self::AwaitingGrant, _, _) | (_, _, FrameType::Hello) => return None,
            (Self::Running, Opener, FrameType::Drain | FrameType::Retire) => Self::Leaving,
            (Self::Leaving, Opener, FrameType::Open) => return None,
            (_, Server, FrameType::Open | FrameType::Resume) => return None,
            (_, Opener, FrameType::Services) => return None,
            (stage, _, _) => stage,
        })
    }

    /// An end sends a frame about the link.
    pub fn permit(&mut self, from: LinkEnd, frame: LinkFrame) -> Result<PermittedFrame, PeerViolation> {
        match frame.kind() {
            kind if kind.is_about_session() => Err(PeerViolation::BadSession(kind, 0)),
            _ => self.step(from, frame, 0),
        }
    }

    /// The opener opens a session.
    pub fn permit_open(
        &mut self,
        session: u32,
        request: OpenRequest,
    ) -> Result<PermittedFrame, PeerViolation> {
        self.step(LinkEnd::Opener, LinkFrame::Open(Box::new(request)), session)
    }

    /// The opener goes on with a session that has left another link.
    pub fn permit_resume(
        &mut self,
        (session, ticket): (u32, MoveTicket),
        received: u64,
        credit: u32,
    ) -> Result<PermittedFrame, PeerViolation> {
        self.step(LinkEnd::Opener, LinkFrame::Resume { received, credit, ticket }, session)
    }

    fn step(
        &mut self,
        from: LinkEnd,
        frame: LinkFrame,
        session: u32,
    ) -> Result<PermittedFrame, PeerViolation> {
        let kind = frame.kind();
        *self = self.after(from, kind).ok_or(PeerViolation::LinkState(kind, *self))?;
        Ok(PermittedFrame::new(frame, session))
    }

    fn label(self) -> &'static str {
        match self {
            Self::AwaitingOffer => "awaiting offer",
            Self::AwaitingGrant => "awaiting grant",
            Self::Running => "running",
            Self::Leaving => "leaving",
        }
    }
}

impl fmt::Display for LinkStage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.label())
    }
}

/// The stage of a session on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionStage {
    /// Opened, and not answered yet; the client's bytes may follow.
    Opening,
    /// As before, and the client has ended its direction.
    OpeningEnded,
    /// Both directions run.
    Carrying,
    /// The opener has ended its direction.
    OpenerEnded,
    /// The server has ended its direction.
    ServerEnded,
    /// The opener has sent all that it sends here, and the session goes on over another link once the server has
    /// too. Until then only a reset or credit comes from the opener. With another `opened` the server keeps the session
    /// here.
    Moving,
    MovingOpenerEnded,
    MovingServerEnded,
    /// Both have ended, or it was refused or reset, or it has left this link. Whatever still comes is late.
    Closed,
}

impl SessionStage {
    pub const ALL: [Self; 9] = [
        Self::Opening,
        Self::OpeningEnded,
        Self::Carrying,
        Self::OpenerEnded,
        Self::ServerEnded,
        Self::Moving,
        Self::MovingOpenerEnded,
        Self::MovingServerEnded,
        Self::Closed,
    ];

    /// The stage after a frame, or `None` where it may not come.
    pub fn after(self, from: LinkEnd, kind: FrameType) -> Option<Self> {
        use LinkEnd::{Opener, Server};
        Some(match (self, from, kind) {
            (_, _, FrameType::Open | FrameType::Resume) => return None,
            (Self::Closed, _, _) | (_, _, FrameType::Reset) => Self::Closed,
            (Self::Opening, Server, FrameType::Opened) => Self::Carrying,
            (Self::OpeningEnded, Server, FrameType::Opened) => Self::OpenerEnded,
            (Self::Opening | Self::OpeningEnded, Server, FrameType::Refused) => Self::Closed,
            (Self::Opening, Opener, FrameType::Data) => Self::Opening,
            (Self::Opening, Opener, FrameType::End) => Self::OpeningEnded,
            (Self::Opening | Self::OpeningEnded, _, _) => return None,
            (stage, _, FrameType::Credit) => stage,
            (Self::Carrying, _, FrameType::Data) => Self::Carrying,
            (Self::Carrying, Opener, FrameType::End) => Self::OpenerEnded,
            (Self::Carrying, Server, FrameType::End) => Self::ServerEnded,
            (Self::OpenerEnded, Server, FrameType::Data) => Self::OpenerEnded,
            (Self::OpenerEnded, Server, FrameType::End) => Self::Closed,
            (Self::ServerEnded, Opener, FrameType::Data) => Self::ServerEnded,
            (Self::ServerEnded, Opener, FrameType::End) => Self::Closed,
            (Self::Carrying, Opener, FrameType::Move) => Self::Moving,
            (Self::OpenerEnded, Opener, FrameType::Move) => Self::MovingOpenerEnded,
            (Self::ServerEnded, Opener, FrameType::Move) => Self::MovingServerEnded,
            (Self::Carrying | Self::OpenerEnded | Self::ServerEnded, _, _) => return None,
            (Self::Moving, Server, FrameType::Data) => Self::Moving,
            (Self::Moving, Server, FrameType::End) => Self::MovingServerEnded,
            (Self::MovingOpenerEnded, Server, FrameType::Data) => Self::MovingOpenerEnded,
            (Self::MovingOpenerEnded, Server, FrameType::End) => Self::Closed,
            (Self::Moving | Self::MovingOpenerEnded | Self::MovingServerEnded, Server, FrameType::Move) => {
                Self::Closed
            }
            (Self::Moving, Server, FrameType::Opened) => Self::Carrying,
            (Self::MovingOpenerEnded, Server, FrameType::Opened) => Self::OpenerEnded,
            (Self::MovingServerEnded, Server, FrameType::Opened) => Self::ServerEnded,
            (Self::Moving | Self::MovingOpenerEnded | Self::MovingServerEnded, _, _) => return None,
        })
    }

    /// An end sends a frame of the session.
    pub fn permit(
        &mut self,
        from: LinkEnd,
        frame: LinkFrame,
        session: u32,
    ) -> Result<PermittedFrame, PeerViolation> {
        self.step(from, frame.kind(), session)?;
        Ok(PermittedFrame::new(frame, session))
    }

    /// An end sends the header of a frame in the session's turn.
    pub fn permit_turn(
        &mut self,
        from: LinkEnd,
        frame: TurnFrame,
        session: u32,
    ) -> Result<PermittedHead, PeerViolation> {
        let kind = frame.kind();
        let length = match frame {
            TurnFrame::Opened | TurnFrame::End => 0,
            TurnFrame::Data(bytes) if (1..=DATA_BYTES_MAX).contains(&bytes) => bytes,
            TurnFrame::Data(bytes) => return Err(PeerViolation::BadLength(kind, bytes)),
        };
        self.step(from, kind, session)?;
        Ok(PermittedHead::new(FrameHead { kind, length, session }))
    }

    fn step(&mut self, from: LinkEnd, kind: FrameType, session: u32) -> Result<(), PeerViolation> {
        if !kind.is_about_session() {
            return Err(PeerViolation::BadSession(kind, session));
        }
        *self = self.after(from, kind).ok_or(PeerViolation::SessionState(kind, session, *self))?;
        Ok(())
    }

    /// Whether an end has said that no more of its bytes come.
    pub fn has_ended(self, end: LinkEnd) -> bool {
        match self {
            Self::Opening | Self::Carrying | Self::Moving => false,
            Self::OpeningEnded | Self::OpenerEnded | Self::MovingOpenerEnded => end == LinkEnd::Opener,
            Self::ServerEnded | Self::MovingServerEnded => end == LinkEnd::Server,
            Self::Closed => true,
        }
    }

    /// Whether it has not been answered yet.
    pub fn is_opening(self) -> bool {
        matches!(self, Self::Opening | Self::OpeningEnded)
    }

    /// Of a session on its way to another link: its stage there.
    pub fn resumed(self) -> Option<Self> {
        match self {
            Self::Moving => Some(Self::Carrying),
            Self::MovingOpenerEnded => Some(Self::OpenerEnded),
            Self::MovingServerEnded => Some(Self::ServerEnded),
            Self::Opening
            | Self::OpeningEnded
            | Self::Carrying
            | Self::OpenerEnded
            | Self::ServerEnded
            | Self::Closed => None,
        }
    }

    /// Whether this end has sent `move`, and sends no more bytes on this link.
    pub fn is_held_back(self, end: LinkEnd) -> bool {
        end == LinkEnd::Opener && self.resumed().is_some()
    }

    fn label(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::OpeningEnded => "opening, opener ended",
            Self::Carrying => "carrying",
            Self::OpenerEnded => "opener ended",
            Self::ServerEnded => "server ended",
            Self::Moving => "moving",
            Self::MovingOpenerEnded => "moving, opener ended",
            Self::MovingServerEnded => "moving, server ended",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for SessionStage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.label())
    }
}

/// The table of links as in `docs/link-protocol.md`: a row for each stage, a column for each frame and its
/// sender; an empty cell is a violation.
pub fn link_table() -> String {
    use FrameType::{Data, Hello, Open, Ping, Resume, Retire, Services};
    let columns = [
        (Hello, ""),
        (Services, ""),
        (Open, ""),
        (Resume, ""),
        (Data, "of a session"),
        (Ping, "ping pong"),
        (Retire, "drain retire"),
    ];
    table(&LinkStage::ALL, LinkStage::after, &columns)
}

/// The table of sessions, in the form of that of links.
pub fn session_table() -> String {
    use FrameType::{Credit, Data, End, Move, Opened, Refused, Reset};
    let columns = [(Opened, ""), (Refused, ""), (Data, ""), (End, ""), (Reset, ""), (Credit, ""), (Move, "")];
    table(&SessionStage::ALL, SessionStage::after, &columns)
}

fn table<S: fmt::Display + Copy + PartialEq>(
    stages: &[S],
    after: impl Fn(S, LinkEnd, FrameType) -> Option<S>,
    frames: &[(FrameType, &str)],
) -> String {
    let of_end = |end| frames.iter().map(move |(kind, word)| (end, *kind, *word));
    let columns: Vec<_> = of_end(LinkEnd::Opener).chain(of_end(LinkEnd::Server)).collect();
    let mut lines = vec![String::from("|"), String::from("|---|")];
    for (end, kind, word) in &columns {
        let mark = if *end == LinkEnd::Opener { "→" } else { "←" };
        let word = if word.is_empty() { kind.label() } else { word };
        lines[0] += &format!(" | {mark} {word}");
        lines[1] += "---|";
    }
    lines[0] += " |";
    for stage in stages {
        let cells = columns.iter().map(|(end, kind, _)| match after(*stage, *end, *kind) {
            Some(next) if next == *stage => "stays".to_owned(),
            Some(next) => next.to_string(),
            None => String::new(),
        });
        lines.push(format!("| **{stage}** | {} |", cells.collect::<Vec<_>>().join(" | ")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_protocol_shows_these_tables() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/link-protocol.md"));
        let page = page.expect("the page is there");
        for table in [link_table(), session_table()] {
            assert!(page.contains(&table), "docs/link-protocol.md lacks this table:\n\n{table}\n");
        }
    }

    #[test]
    fn the_frames_of_one_column_move_alike() {
        use FrameType::{Credit, Data, Drain, End, Move, Opened, Ping, Pong, Refused, Reset, Retire};
        for stage in LinkStage::ALL {
            for end in [LinkEnd::Opener, LinkEnd::Server] {
                for (shown, others) in [
                    (Data, &[Opened, Refused, End, Reset, Credit, Move][..]),
                    (Ping, &[Pong]),
                    (Retire, &[Drain]),
                ] {
                    let next = |kind| stage.after(end, kind);
                    assert!(others.iter().all(|kind| next(*kind) == next(shown)), "{stage}: {shown}");
                }
            }
        }
    }

    #[test]
    fn a_session_is_closed_only_when_both_have_ended() {
        for first in [LinkEnd::Opener, LinkEnd::Server] {
            let stage = SessionStage::Carrying.after(first, FrameType::End).expect("it may end");
            assert!(stage != SessionStage::Closed && stage.has_ended(first));
            assert_eq!(stage.after(first, FrameType::Data), None, "no byte after the end");
            assert_eq!(stage.after(first, FrameType::End), None);
            let other = first.other();
            assert_eq!(stage.after(other, FrameType::Data), Some(stage));
            assert_eq!(stage.after(other, FrameType::End), Some(SessionStage::Closed));
        }
    }

    #[test]
    fn a_session_moves_once_it_is_answered_and_as_it_is() {
        for stage in SessionStage::ALL {
            let moving = stage.after(LinkEnd::Opener, FrameType::Move);
            let is_movable = matches!(
                stage,
                SessionStage::Carrying | SessionStage::OpenerEnded | SessionStage::ServerEnded
            );
            let resumed = moving.and_then(SessionStage::resumed);
            assert_eq!(resumed, is_movable.then_some(stage), "{stage}");
            let Some(moving) = moving.filter(|_| is_movable) else { continue };
            for kind in [FrameType::Data, FrameType::End, FrameType::Move] {
                assert_eq!(moving.after(LinkEnd::Opener, kind), None, "{stage}: `move` was the last");
            }
            assert_eq!(moving.after(LinkEnd::Server, FrameType::Move), Some(SessionStage::Closed));
            assert_eq!(moving.has_ended(LinkEnd::Server), stage.has_ended(LinkEnd::Server));
            let may_send = |stage: SessionStage| stage.after(LinkEnd::Server, FrameType::Data).is_some();
            assert_eq!(may_send(moving), may_send(stage));
            assert!(moving.is_held_back(LinkEnd::Opener) && !moving.is_held_back(LinkEnd::Server));
        }
    }

    #[test]
    fn no_credit_is_given_before_the_answer() {
        // What is sent before the answer is kept as a copy, which must be limited.
        for stage in [SessionStage::Opening, SessionStage::OpeningEnded] {
            assert_eq!(stage.after(LinkEnd::Server, FrameType::Credit), None);
        }
    }
}
