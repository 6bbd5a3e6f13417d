//! Whether a peer that has no links any more meant to go.
//!
//! A gateway that drains, stops or retires its links says so before they end; one that is killed, or cannot be
//! reached, does not.

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GoodbyeState {
    /// It has links, or lost them without a word.
    #[default]
    Unsaid,
    /// Its last link was let go in good order.
    LastLink,
    /// It drains: whatever becomes of its links, it meant to go.
    Drains,
}

impl GoodbyeState {
    pub fn is_said(self) -> bool {
        self != Self::Unsaid
    }

    /// Why no link of its takes sessions, as far as it has said so.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Unsaid => None,
            Self::LastLink => Some("its last link left in good order"),
            Self::Drains => Some("it drains, and takes no new sessions"),
        }
    }

    pub fn note_drain(&mut self) {
        *self = Self::Drains;
    }

    /// A link was let go in good order. One of several says nothing of the others.
    pub fn note_retired(&mut self, is_last: bool) {
        if *self == Self::Unsaid && is_last {
            *self = Self::LastLink;
        }
    }

    /// A link has failed.
    pub fn note_failure(&mut self) {
        if *self == Self::LastLink {
            *self = Self::Unsaid;
        }
    }

    /// A link stands, or stands again.
    pub fn note_established(&mut self) {
        *self = Self::Unsaid;
    }
}
