//! Which frame may come when: the state of a link, the same table for both of its ends.
//!
//! ```text
//! greeting ─offer─► greeted ─grant─► ready ─open─► opening ─opened─► carrying ─► … ─► ready
//!                                      ▲              │ └─refused─► refused ─open─► opening
//!                                      └── both have ended ──┘
//! ```
//!
//! Each end steps through it by what it sends and what it hears, in its own order; the table holds
//! for both, since it names who speaks and not who listens. After a refusal, what the opener had
//! sent before it heard of it still comes, and means nothing.

use std::fmt;

use super::{ProtocolViolation, frame::FrameKind};

/// The two ends of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkRole {
    /// Sends `open`: the DMZ half.
    Opener,
    /// Hears it: the internal half.
    Server,
}

impl LinkRole {
    pub fn opposite(self) -> Self {
        match self {
            Self::Opener => Self::Server,
            Self::Server => Self::Opener,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkProtocolState {
    /// Nothing was said yet.
    Greeting,
    /// The server has told what it offers.
    Greeted,
    /// No session.
    Ready,
    /// Opened, and not answered yet; the client's bytes may follow.
    Opening,
    /// The same, and the client has ended its direction.
    OpeningEnded,
    /// Refused: no byte has reached a backend.
    Refused,
    /// Both directions run.
    Carrying,
    /// The opener has ended its direction.
    OpenerEnded,
    /// The server has ended its direction.
    ServerEnded,
    /// A session was cut; the link ends.
    Closed,
}

impl LinkProtocolState {
    pub const ALL: [Self; 10] = [
        Self::Greeting,
        Self::Greeted,
        Self::Ready,
        Self::Opening,
        Self::OpeningEnded,
        Self::Refused,
        Self::Carrying,
        Self::OpenerEnded,
        Self::ServerEnded,
        Self::Closed,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Greeted => "greeted",
            Self::Ready => "ready",
            Self::Opening => "opening",
            Self::OpeningEnded => "opening, opener ended",
            Self::Refused => "refused",
            Self::Carrying => "carrying",
            Self::OpenerEnded => "opener ended",
            Self::ServerEnded => "server ended",
            Self::Closed => "closed",
        }
    }

    /// The state after a frame, or `None` where it may not come.
    pub fn after(self, from: LinkRole, kind: FrameKind) -> Option<Self> {
        use LinkProtocolState::{
            Carrying, Closed, Greeted, Greeting, OpenerEnded, Opening, OpeningEnded, Ready, Refused,
            ServerEnded,
        };
        use LinkRole::{Opener, Server};
        Some(match (self, from, kind) {
            (Greeting, Server, FrameKind::Hello) => Greeted,
            (Greeted, Opener, FrameKind::Hello) => Ready,
            (Greeting | Greeted | Closed, _, _) => return None,
            (state, _, FrameKind::Ping | FrameKind::Pong | FrameKind::Drain | FrameKind::Retire) => state,
            (_, _, FrameKind::Reset) => Closed,
            (Ready | Refused, Opener, FrameKind::Open) => Opening,
            (Refused, Opener, FrameKind::Data | FrameKind::End) => Refused,
            (Opening, Opener, FrameKind::Data) => Opening,
            (Opening, Opener, FrameKind::End) => OpeningEnded,
            (Opening, Server, FrameKind::Opened) => Carrying,
            (OpeningEnded, Server, FrameKind::Opened) => OpenerEnded,
            (Opening | OpeningEnded, Server, FrameKind::Refused) => Refused,
            (Carrying, _, FrameKind::Data) => Carrying,
            (Carrying, Opener, FrameKind::End) => OpenerEnded,
            (Carrying, Server, FrameKind::End) => ServerEnded,
            (OpenerEnded, Server, FrameKind::Data) => OpenerEnded,
            (OpenerEnded, Server, FrameKind::End) => Ready,
            (ServerEnded, Opener, FrameKind::Data) => ServerEnded,
            (ServerEnded, Opener, FrameKind::End) => Ready,
            _ => return None,
        })
    }

    /// No session is on the link: another may be opened.
    pub fn is_free(self) -> bool {
        matches!(self, Self::Ready | Self::Refused)
    }

    /// Whether an end has said that no more of its bytes come.
    pub fn has_ended(self, end: LinkRole) -> bool {
        match self {
            Self::Ready | Self::Refused | Self::Closed => true,
            Self::OpeningEnded | Self::OpenerEnded => end == LinkRole::Opener,
            Self::ServerEnded => end == LinkRole::Server,
            Self::Greeting | Self::Greeted | Self::Opening | Self::Carrying => false,
        }
    }

    /// Whether the session has yet to be answered.
    pub fn is_opening(self) -> bool {
        matches!(self, Self::Opening | Self::OpeningEnded)
    }
}

impl fmt::Display for LinkProtocolState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// Where one end is, and in which of the link's sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateMachine {
    end: LinkRole,
    state: LinkProtocolState,
    session: u32,
}

impl StateMachine {
    pub fn new(end: LinkRole) -> Self {
        Self { end, state: LinkProtocolState::Greeting, session: 0 }
    }

    pub fn end(&self) -> LinkRole {
        self.end
    }

    pub fn state(&self) -> LinkProtocolState {
        self.state
    }

    /// Sessions opened so far: the number of the one that runs, or ran last.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Whether the other end may send this now.
    pub fn may_hear(&self, kind: FrameKind) -> Result<(), ProtocolViolation> {
        match self.state.after(self.end.opposite(), kind) {
            Some(_) => Ok(()),
            None => Err(ProtocolViolation::State(kind, self.state)),
        }
    }

    /// Whether this end may send it now; where it may not, that is a bug of ours.
    pub fn may_send(&self, kind: FrameKind) -> Result<(), ProtocolViolation> {
        self.state.after(self.end, kind).map(|_| ()).ok_or(ProtocolViolation::State(kind, self.state))
    }

    /// The other end has sent this.
    pub fn hear(&mut self, kind: FrameKind) -> Result<(), ProtocolViolation> {
        self.step(self.end.opposite(), kind)
    }

    /// This end sends it; an error is a bug of ours, and nothing was sent.
    pub fn send(&mut self, kind: FrameKind) -> Result<(), ProtocolViolation> {
        self.step(self.end, kind)
    }

    fn step(&mut self, from: LinkRole, kind: FrameKind) -> Result<(), ProtocolViolation> {
        self.state = self.state.after(from, kind).ok_or(ProtocolViolation::State(kind, self.state))?;
        self.session = self.session.wrapping_add(u32::from(kind == FrameKind::Open));
        Ok(())
    }
}

/// The table as `docs/link-protocol.md` has it: a row for each state, a column for each frame that moves
/// it; an empty cell is a violation.
pub fn table() -> String {
    use LinkRole::{Opener, Server};
    let columns = [
        (Opener, FrameKind::Hello),
        (Server, FrameKind::Hello),
        (Opener, FrameKind::Open),
        (Server, FrameKind::Opened),
        (Server, FrameKind::Refused),
        (Opener, FrameKind::Data),
        (Server, FrameKind::Data),
        (Opener, FrameKind::End),
        (Server, FrameKind::End),
        (Opener, FrameKind::Reset),
        (Server, FrameKind::Reset),
        (Opener, FrameKind::Ping),
        (Server, FrameKind::Ping),
    ];
    let mark = |end| if end == Opener { "→" } else { "←" };
    let head = columns.map(|(from, kind)| match kind {
        FrameKind::Ping => format!("{} ping pong drain retire", mark(from)),
        _ => format!("{} {kind}", mark(from)),
    });
    let mut lines = vec![format!("| | {} |", head.join(" | "))];
    lines.push(format!("|{}", "---|".repeat(columns.len() + 1)));
    for state in LinkProtocolState::ALL {
        let cells = columns.map(|(from, kind)| match state.after(from, kind) {
            Some(next) if next == state => "stays",
            Some(next) => next.word(),
            None => "",
        });
        lines.push(format!("| **{state}** | {} |", cells.join(" | ")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_of_one_column_move_alike() {
        for state in LinkProtocolState::ALL {
            for end in [LinkRole::Opener, LinkRole::Server] {
                let next = |kind| state.after(end, kind);
                for kind in [FrameKind::Pong, FrameKind::Drain, FrameKind::Retire] {
                    assert_eq!(next(kind), next(FrameKind::Ping), "{state}");
                }
            }
        }
    }

    #[test]
    fn the_protocols_page_shows_this_table() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/link-protocol.md"));
        let page = page.expect("the page is there");
        assert!(page.contains(&table()), "docs/link-protocol.md lacks this table:\n\n{}\n", table());
    }

    #[test]
    fn a_session_ends_only_when_both_have_ended() {
        for first in [LinkRole::Opener, LinkRole::Server] {
            let mut machine =
                StateMachine { end: LinkRole::Server, state: LinkProtocolState::Carrying, session: 1 };
            machine.step(first, FrameKind::End).expect("it may end");
            assert!(!machine.state().is_free() && machine.state().has_ended(first));
            assert!(
                machine.step(first, FrameKind::Data).is_err() && machine.step(first, FrameKind::End).is_err()
            );
            machine.step(first.opposite(), FrameKind::Data).expect("the other direction runs");
            machine.step(first.opposite(), FrameKind::End).expect("it may end");
            assert_eq!(machine.state(), LinkProtocolState::Ready);
        }
    }
}
