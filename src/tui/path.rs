//! The path from clients to backends, as far as a snapshot knows it: parts in stages, and which one leads to
//! which.
//!
//! In a fleet, both ends of a link are one part if the gateways say of each other which process they are linked
//! with. For a single gateway, the other half is known only by its links. Drawing is in `view::path`.

mod gateways;
mod links;
mod open;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde::Serialize;

use crate::{
    profile::{Half, Mode},
    telemetry::{
        health::Severity,
        snapshot::{PoolRow, ServiceRow, Snapshot},
    },
    tui::fleet,
};

/// To the part beside: with the bytes of a client, or against them; in the history, with time or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SideStep {
    Left,
    Right,
}

/// The stages on a client's path, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathStage {
    Clients,
    Services,
    DmzGateways,
    Links,
    InternalGateways,
    Backends,
}

impl PathStage {
    pub const ALL: [Self; 6] = [
        Self::Clients,
        Self::Services,
        Self::DmzGateways,
        Self::Links,
        Self::InternalGateways,
        Self::Backends,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Services => "services",
            Self::DmzGateways => "DMZ gateways",
            Self::Links => "links",
            Self::InternalGateways => "internal gateways",
            Self::Backends => "backends",
        }
    }

    fn of_gateways(half: Half) -> Self {
        match half {
            Half::Dmz => Self::DmzGateways,
            Half::Internal => Self::InternalGateways,
        }
    }
}

/// A thing on the path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PathPart {
    pub stage: PathStage,
    /// Its key within its stage.
    #[serde(skip)]
    pub key: String,
    pub name: String,
    /// Its state, in a word.
    pub state: String,
    #[serde(skip)]
    pub severity: Severity,
    /// How bad its word is. A gateway may be degraded by something elsewhere on the path.
    #[serde(skip)]
    pub state_severity: Severity,
    /// Numbers, the most important first.
    pub facts: Vec<String>,
    /// What is wrong with it.
    pub why: Option<String>,
    #[serde(skip)]
    pub rows: PartRows,
}

/// The rows behind a part: they are opened by Enter, and their bytes are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartRows {
    Sessions,
    /// The services with this name.
    Services(String),
    /// A gateway of a fleet.
    Gateway(Arc<str>),
    /// The gateway on the screen.
    Own,
    /// The pools of a link: the key of the worst one, and whose sessions use it.
    Pools {
        worst: String,
        sessions: LinkSessions,
    },
    Nowhere,
}

/// The sessions that a link carries: those of this gateway's half with that peer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkSessions {
    pub gateway: Option<Arc<str>>,
    pub half: Half,
    pub peer: String,
}

impl PathPart {
    fn new(stage: PathStage, key: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            stage,
            key: key.into(),
            name: name.into(),
            state: String::new(),
            severity: Severity::Fine,
            state_severity: Severity::Fine,
            facts: Vec::new(),
            why: None,
            rows: PartRows::Nowhere,
        }
    }

    /// Its key on the whole path.
    pub fn path_key(&self) -> String {
        format!("{:?} {}", self.stage, self.key)
    }
}

/// The parts, by stage and name, and which one leads to which.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DrawnPath {
    pub parts: Vec<PathPart>,
    /// Pairs of indexes into `parts`.
    pub leads: Vec<(usize, usize)>,
}

impl DrawnPath {
    pub fn of(snapshot: &Snapshot) -> Self {
        let (parts, leads) = (BTreeMap::new(), BTreeSet::new());
        let mut builder = PathBuilder { snapshot, known_peers: HashMap::new(), parts, leads };
        builder.note_known_peers();
        builder.add_own_gateways();
        builder.add_links();
        builder.add_services();
        builder.add_backends();
        builder.add_clients();
        builder.finish()
    }

    /// The stages on this path; without links there are two fewer.
    pub fn stages(&self) -> Vec<PathStage> {
        let has = |stage| self.parts.iter().any(|part| part.stage == stage);
        let is_direct = !has(PathStage::Links) && !has(PathStage::InternalGateways);
        let is_shown = |stage: &PathStage| {
            !is_direct || !matches!(stage, PathStage::Links | PathStage::InternalGateways)
        };
        PathStage::ALL.into_iter().filter(is_shown).collect()
    }

    /// The parts of one stage, with their indexes.
    pub fn of_stage(&self, stage: PathStage) -> impl Iterator<Item = (usize, &PathPart)> {
        self.parts.iter().enumerate().filter(move |(_, part)| part.stage == stage)
    }

    pub fn worst(&self) -> Option<&PathPart> {
        let worst = self.parts.iter().rev().max_by_key(|part| part.severity);
        worst.filter(|part| part.severity > Severity::Fine)
    }

    /// The part of the next or previous stage that this one is connected to; otherwise the first part of that
    /// stage.
    pub fn beside(&self, at: usize, step: SideStep) -> Option<usize> {
        let part = self.parts.get(at)?;
        let led = self.leads.iter().find_map(|&(from, to)| match step {
            SideStep::Right => (from == at).then_some(to),
            SideStep::Left => (to == at).then_some(from),
        });
        let mut stages = self.parts.iter().map(|other| other.stage);
        let stage = match step {
            SideStep::Right => stages.find(|&stage| stage > part.stage),
            SideStep::Left => stages.rfind(|&stage| stage < part.stage),
        };
        led.or_else(|| self.parts.iter().position(|other| Some(other.stage) == stage))
    }
}

/// The address of a peer, as seen from a gateway's half.
type PeerAddress<'a> = (Option<&'a Arc<str>>, Half, Option<&'a str>);

/// Stage and key of a part.
type PartKey = (PathStage, String);

struct PathBuilder<'a> {
    snapshot: &'a Snapshot,
    /// The pools that know which process their peer is.
    known_peers: HashMap<PeerAddress<'a>, Vec<&'a PoolRow>>,
    parts: BTreeMap<PartKey, PathPart>,
    leads: BTreeSet<(PartKey, PartKey)>,
}

impl<'a> PathBuilder<'a> {
    /// Services of the halves that run here; rows of a half that was switched off may remain for a while.
    fn services(&self) -> impl Iterator<Item = &'a ServiceRow> + use<'a> {
        let snapshot = self.snapshot;
        snapshot.services.iter().filter(move |row| is_shown(snapshot, row.half))
    }

    fn pools(&self) -> impl Iterator<Item = &'a PoolRow> + use<'a> {
        let snapshot = self.snapshot;
        snapshot.pools.iter().filter(move |row| is_shown(snapshot, row.half) && !row.standby)
    }

    fn is_answering(&self, gateway: Option<&Arc<str>>) -> bool {
        fleet::is_answering(self.snapshot, gateway)
    }

    fn add(&mut self, part: PathPart) -> PartKey {
        let key = (part.stage, part.key.clone());
        self.parts.entry(key.clone()).or_insert(part);
        key
    }

    fn lead(&mut self, from: &PartKey, to: &PartKey) {
        self.leads.insert((from.clone(), to.clone()));
    }

    fn finish(self) -> DrawnPath {
        let indexes: BTreeMap<_, _> =
            self.parts.keys().enumerate().map(|(index, key)| (key.clone(), index)).collect();
        let index = |key: &PartKey| indexes.get(key).copied();
        let leads = self.leads.iter().filter_map(|(from, to)| Some((index(from)?, index(to)?))).collect();
        DrawnPath { parts: self.parts.into_values().collect(), leads }
    }

    fn is_direct(&self) -> bool {
        self.snapshot.mode == Mode::Direct && self.snapshot.pools.is_empty()
    }
}

fn is_shown(snapshot: &Snapshot, half: Half) -> bool {
    !snapshot.gateways.is_empty() || snapshot.halves.contains(&half)
}
