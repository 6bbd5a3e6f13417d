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

use super::{Violation, frame::Kind};

/// The two ends of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// Sends `open`: the DMZ half.
    Opener,
    /// Hears it: the internal half.
    Server,
}

impl End {
    pub fn other(self) -> Self {
        match self {
            Self::Opener => Self::Server,
            Self::Server => Self::Opener,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
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

impl State {
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
    pub fn after(self, from: End, kind: Kind) -> Option<Self> {
        use End::{Opener, Server};
        use State::{
            Carrying, Closed, Greeted, Greeting, OpenerEnded, Opening, OpeningEnded, Ready, Refused,
            ServerEnded,
        };
        Some(match (self, from, kind) {
            (Greeting, Server, Kind::Hello) => Greeted,
            (Greeted, Opener, Kind::Hello) => Ready,
            (Greeting | Greeted | Closed, _, _) => return None,
            (state, _, Kind::Ping | Kind::Pong | Kind::Drain | Kind::Retire) => state,
            (_, _, Kind::Reset) => Closed,
            (Ready | Refused, Opener, Kind::Open) => Opening,
            (Refused, Opener, Kind::Data | Kind::End) => Refused,
            (Opening, Opener, Kind::Data) => Opening,
            (Opening, Opener, Kind::End) => OpeningEnded,
            (Opening, Server, Kind::Opened) => Carrying,
            (OpeningEnded, Server, Kind::Opened) => OpenerEnded,
            (Opening | OpeningEnded, Server, Kind::Refused) => Refused,
            (Carrying, _, Kind::Data) => Carrying,
            (Carrying, Opener, Kind::End) => OpenerEnded,
            (Carrying, Server, Kind::End) => ServerEnded,
            (OpenerEnded, Server, Kind::Data) => OpenerEnded,
            (OpenerEnded, Server, Kind::End) => Ready,
            (ServerEnded, Opener, Kind::Data) => ServerEnded,
            (ServerEnded, Opener, Kind::End) => Ready,
            _ => return None,
        })
    }

    /// No session is on the link: another may be opened.
    pub fn is_free(self) -> bool {
        matches!(self, Self::Ready | Self::Refused)
    }

    /// Whether an end has said that no more of its bytes come.
    pub fn has_ended(self, end: End) -> bool {
        match self {
            Self::Ready | Self::Refused | Self::Closed => true,
            Self::OpeningEnded | Self::OpenerEnded => end == End::Opener,
            Self::ServerEnded => end == End::Server,
            Self::Greeting | Self::Greeted | Self::Opening | Self::Carrying => false,
        }
    }

    /// Whether the session has yet to be answered.
    pub fn is_opening(self) -> bool {
        matches!(self, Self::Opening | Self::OpeningEnded)
    }
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// Where one end is, and in which of the link's sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    end: End,
    state: State,
    session: u32,
}

impl Machine {
    pub fn new(end: End) -> Self {
        Self { end, state: State::Greeting, session: 0 }
    }

    pub fn end(&self) -> End {
        self.end
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Sessions opened so far: the number of the one that runs, or ran last.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Whether the other end may send this now.
    pub fn may_hear(&self, kind: Kind) -> Result<(), Violation> {
        match self.state.after(self.end.other(), kind) {
            Some(_) => Ok(()),
            None => Err(Violation::State(kind, self.state)),
        }
    }

    /// Whether this end may send it now; where it may not, that is a bug of ours.
    pub fn may_send(&self, kind: Kind) -> Result<(), Violation> {
        self.state.after(self.end, kind).map(|_| ()).ok_or(Violation::State(kind, self.state))
    }

    /// The other end has sent this.
    pub fn hear(&mut self, kind: Kind) -> Result<(), Violation> {
        self.step(self.end.other(), kind)
    }

    /// This end sends it; an error is a bug of ours, and nothing was sent.
    pub fn send(&mut self, kind: Kind) -> Result<(), Violation> {
        self.step(self.end, kind)
    }

    fn step(&mut self, from: End, kind: Kind) -> Result<(), Violation> {
        self.state = self.state.after(from, kind).ok_or(Violation::State(kind, self.state))?;
        self.session = self.session.wrapping_add(u32::from(kind == Kind::Open));
        Ok(())
    }
}

/// The table as `ARCHITECTURE.md` has it: a row for each state, a column for each frame that moves
/// it; an empty cell is a violation.
pub fn table() -> String {
    use End::{Opener, Server};
    let columns = [
        (Opener, Kind::Hello),
        (Server, Kind::Hello),
        (Opener, Kind::Open),
        (Server, Kind::Opened),
        (Server, Kind::Refused),
        (Opener, Kind::Data),
        (Server, Kind::Data),
        (Opener, Kind::End),
        (Server, Kind::End),
        (Opener, Kind::Reset),
        (Server, Kind::Reset),
        (Opener, Kind::Ping),
        (Server, Kind::Ping),
    ];
    let mark = |end| if end == Opener { "→" } else { "←" };
    let head = columns.map(|(from, kind)| match kind {
        Kind::Ping => format!("{} ping pong drain retire", mark(from)),
        _ => format!("{} {kind}", mark(from)),
    });
    let mut lines = vec![format!("| | {} |", head.join(" | "))];
    lines.push(format!("|{}", "---|".repeat(columns.len() + 1)));
    for state in State::ALL {
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
        for state in State::ALL {
            for end in [End::Opener, End::Server] {
                let next = |kind| state.after(end, kind);
                for kind in [Kind::Pong, Kind::Drain, Kind::Retire] {
                    assert_eq!(next(kind), next(Kind::Ping), "{state}");
                }
            }
        }
    }

    #[test]
    fn architecture_shows_this_table() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md"));
        let page = page.expect("the page is there");
        assert!(page.contains(&table()), "ARCHITECTURE.md lacks this table:\n\n{}\n", table());
    }

    #[test]
    fn a_session_ends_only_when_both_have_ended() {
        for first in [End::Opener, End::Server] {
            let mut machine = Machine { end: End::Server, state: State::Carrying, session: 1 };
            machine.step(first, Kind::End).expect("it may end");
            assert!(!machine.state().is_free() && machine.state().has_ended(first));
            assert!(machine.step(first, Kind::Data).is_err() && machine.step(first, Kind::End).is_err());
            machine.step(first.other(), Kind::Data).expect("the other direction runs");
            machine.step(first.other(), Kind::End).expect("it may end");
            assert_eq!(machine.state(), State::Ready);
        }
    }
}
