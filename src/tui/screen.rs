//! The screens, by number.

/// A screen: the panels that are shown together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Screen {
    Overview,
    Pool,
    Sessions,
    Services,
    Events,
    Profiles,
    Failures,
    /// Only for a fleet.
    Gateways,
    Path,
    Doctor,
    History,
}

impl Screen {
    pub const ALL: [Self; 11] = [
        Self::Overview,
        Self::Pool,
        Self::Sessions,
        Self::Services,
        Self::Events,
        Self::Profiles,
        Self::Failures,
        Self::Gateways,
        Self::Path,
        Self::Doctor,
        Self::History,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Pool => "Pool",
            Self::Sessions => "Sessions",
            Self::Services => "Services",
            Self::Events => "Events",
            Self::Profiles => "Profiles",
            Self::Failures => "Failures",
            Self::Gateways => "Gateways",
            Self::Path => "Path",
            Self::Doctor => "Doctor",
            Self::History => "History",
        }
    }

    /// A shorter name, where there is little room.
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Overview => "Over",
            Self::Pool => "Pool",
            Self::Sessions => "Sess",
            Self::Services => "Serv",
            Self::Events => "Event",
            Self::Profiles => "Prof",
            Self::Failures => "Fail",
            Self::Gateways => "Gate",
            Self::Path => "Path",
            Self::Doctor => "Doct",
            Self::History => "Hist",
        }
    }

    /// The key that opens it.
    pub fn key(self) -> char {
        match self {
            Self::Overview => '1',
            Self::Pool => '2',
            Self::Sessions => '3',
            Self::Services => '4',
            Self::Events => '5',
            Self::Profiles => '6',
            Self::Failures => '7',
            Self::Gateways => '8',
            Self::Path => '9',
            Self::Doctor => '0',
            Self::History => 'H',
        }
    }

    /// Its index in [`Screen::ALL`].
    pub fn index(self) -> usize {
        Self::ALL.iter().position(|&screen| screen == self).unwrap_or(0)
    }

    /// Whether its list is the sessions.
    pub fn lists_sessions(self) -> bool {
        matches!(self, Self::Overview | Self::Sessions)
    }
}
