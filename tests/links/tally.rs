//! What the runs of the model have come by, against the cells of the state tables.

use std::collections::HashSet;

use portcullis::proto::multiplex::{
    frame::FrameType,
    state::{LinkEnd, LinkStage, SessionStage},
};

pub const ENDS: [LinkEnd; 2] = [LinkEnd::Opener, LinkEnd::Server];

/// What a run has come by.
#[derive(Default)]
pub struct Tally {
    pub sessions: usize,
    /// By whether it was heard, and not sent.
    pub of_sessions: HashSet<(bool, SessionStage, LinkEnd, FrameType)>,
    pub of_links: HashSet<(bool, LinkStage, LinkEnd, FrameType)>,
    /// Sessions whose first end came from the opener, and from the server.
    pub first_ends: [usize; 2],
    /// Frames for sessions that have ended.
    pub late: usize,
    /// Windows that grew, and sessions that had no credit left.
    pub grown: usize,
    pub used_up: usize,
    /// Windows that were as wide behind a move as before it.
    pub regrown: usize,
    /// Sessions that left the link and came back to it.
    pub resumed: usize,
}

impl Tally {
    /// The cells of the tables that are not empty, and were not come by. What a closed session receives is
    /// late, and has no cell.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for is_received in [false, true] {
            for (end, kind) in ENDS.into_iter().flat_map(|end| FrameType::ALL.map(|kind| (end, kind))) {
                let stages = SessionStage::ALL.into_iter().filter(|stage| *stage != SessionStage::Closed);
                for stage in
                    stages.filter(|stage| kind.is_about_session() && stage.after(end, kind).is_some())
                {
                    if !self.of_sessions.contains(&(is_received, stage, end, kind)) {
                        missing.push(format!("{is_received} {stage} {end:?} {kind}"));
                    }
                }
                let may_be =
                    |stage: SessionStage| stage.after(end, kind).is_some() && stage != SessionStage::Closed;
                let is_of_link = !kind.is_about_session() || kind == FrameType::Open;
                if !is_of_link && !SessionStage::ALL.into_iter().any(may_be) {
                    continue;
                }
                for stage in LinkStage::ALL.into_iter().filter(|stage| stage.after(end, kind).is_some()) {
                    if !self.of_links.contains(&(is_received, stage, end, kind)) {
                        missing.push(format!("{is_received} {stage} {end:?} {kind}"));
                    }
                }
            }
        }
        missing
    }
}
