//! Whether a peer that has lost all its links meant to leave.
//!
//! A gateway that drains, stops or retires its links says so before they end. One that is killed or
//! unreachable cannot.

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GoodbyeState {
    /// It has links, or lost them without a goodbye.
    #[default]
    NotReceived,
    /// Its last link was closed in good order.
    LastLink,
    /// It drains, so it meant to leave whatever happens to its links.
    Drains,
}

impl GoodbyeState {
    pub fn was_received(self) -> bool {
        self != Self::NotReceived
    }

    /// Whether it takes no new sessions, though links may still carry some.
    pub fn drains(self) -> bool {
        self == Self::Drains
    }

    /// Why none of its links takes sessions, as far as it has said so.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::NotReceived => None,
            Self::LastLink => Some("its last link left in good order"),
            Self::Drains => Some("it drains, and takes no new sessions"),
        }
    }

    pub fn note_drain(&mut self) {
        *self = Self::Drains;
    }

    /// Notes that the last link was closed in good order. While there are others, this would say nothing about them.
    pub fn note_last_retired(&mut self) {
        if *self == Self::NotReceived {
            *self = Self::LastLink;
        }
    }

    /// Notes that a link has failed.
    pub fn note_failure(&mut self) {
        if *self == Self::LastLink {
            *self = Self::NotReceived;
        }
    }

    /// Notes that a link is up.
    pub fn note_established(&mut self) {
        *self = Self::NotReceived;
    }
}
