//! Where the screen gets its snapshots from, and where its commands go.
//!
//! The screen is the same whatever it shows. The difference is its [`Attachment`], which says what may be
//! requested from here.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use crate::{
    gateway::handle::{
        AdminAccess, Command, CommandAnswer, FleetHandles, GatewayContact, GatewayHandle, SnapshotWatch,
    },
    record::{PlayerAction, RecordError, RecordingPlayer, ReplayProgress},
    telemetry::{history::HistoryReport, notices::NoticeLog, recording, snapshot::Snapshot},
    tui::{keys::Action, screen::Screen},
};

/// The source of what the screen shows.
#[derive(Debug)]
pub enum ScreenSource {
    /// The gateway of this process.
    Own(GatewayHandle, SnapshotWatch),
    /// A gateway of another process, through its admin socket.
    Attached(GatewayHandle, SnapshotWatch, OwnRecorder, AdminAccess, watch::Receiver<GatewayContact>),
    /// Many gateways: a snapshot of all, and the handles for their commands.
    Fleet(GatewayHandle, SnapshotWatch, OwnRecorder, FleetHandles, AdminAccess),
    /// A recording, with its first snapshot.
    Replay(RecordingPlayer, Arc<Snapshot>),
}

/// Notices of an attached screen's recorder, if it records: no gateway and no log would show them.
pub type OwnRecorder = Option<Arc<NoticeLog>>;

/// An event of a source.
#[derive(Debug)]
pub enum SourceEvent {
    Snapshot(Arc<Snapshot>),
    /// The attachment has changed.
    Attachment,
    /// A snapshot that should have come is not available, for this reason.
    Failed(String),
    Ended,
}

/// How the screen is connected to what it shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Attachment {
    /// Both are one process: quitting stops the gateway.
    Own,
    /// The gateway is another process, and goes on when the screen leaves.
    Attached(AdminAccess, GatewayContact),
    /// Many gateways, each reached or not; they go on as well.
    Fleet(AdminAccess),
    /// There is no gateway, only a recording of one.
    Replay(ReplayProgress),
}

impl ScreenSource {
    pub fn own(handle: GatewayHandle) -> Self {
        let watch = handle.watch();
        Self::Own(handle, watch)
    }

    pub fn attached(
        handle: GatewayHandle,
        access: AdminAccess,
        contact: watch::Receiver<GatewayContact>,
        recorder: OwnRecorder,
    ) -> Self {
        let watch = handle.watch();
        Self::Attached(handle, watch, recorder, access, contact)
    }

    pub fn fleet(
        merged: GatewayHandle,
        members: FleetHandles,
        access: AdminAccess,
        recorder: OwnRecorder,
    ) -> Self {
        let watch = merged.watch();
        Self::Fleet(merged, watch, recorder, members, access)
    }

    pub fn replay(mut player: RecordingPlayer) -> Result<Self, RecordError> {
        let first = player.current_snapshot()?;
        Ok(Self::Replay(player, first))
    }

    /// The first snapshot to show.
    pub fn first(&self) -> Arc<Snapshot> {
        match self {
            Self::Own(handle, ..) | Self::Attached(handle, ..) | Self::Fleet(handle, ..) => handle.latest(),
            Self::Replay(_, first) => Arc::clone(first),
        }
    }

    pub fn attachment(&self) -> Attachment {
        match self {
            Self::Own(..) => Attachment::Own,
            Self::Attached(.., access, contact) => Attachment::Attached(*access, contact.borrow().clone()),
            Self::Fleet(.., access) => Attachment::Fleet(*access),
            Self::Replay(player, _) => Attachment::Replay(player.progress()),
        }
    }

    /// Waits for news; may be dropped at any point without losing anything.
    pub async fn next(&mut self) -> SourceEvent {
        match self {
            Self::Own(_, watch) => snapshot_event(watch).await,
            Self::Attached(_, watch, recorder, _, contact) => tokio::select! {
                biased;
                // When its sender has ended, so have the snapshots.
                Ok(()) = contact.changed() => SourceEvent::Attachment,
                source_event = snapshot_event(watch) => with_own_recording(source_event, recorder),
            },
            Self::Fleet(_, watch, recorder, ..) => with_own_recording(snapshot_event(watch).await, recorder),
            Self::Replay(player, _) => replay_event(player.next().await),
        }
    }

    /// Sends a command; the answer comes later.
    pub fn ask(&self, command: Command) -> BoxFuture<'static, CommandAnswer> {
        match self {
            Self::Own(handle, ..) | Self::Attached(handle, ..) => {
                let handle = handle.clone();
                async move { handle.send_and_wait(command).await }.boxed()
            }
            Self::Fleet(..) => {
                async { CommandAnswer::Refused("no gateway is chosen; select a row of one".into()) }.boxed()
            }
            Self::Replay(player, _) => {
                let Command::History(requested) = command else {
                    return async { CommandAnswer::Refused("a recording takes no commands".into()) }.boxed();
                };
                player.history(requested).map(history_answer).boxed()
            }
        }
    }

    /// Sends a command to one gateway of a fleet, which the answer names.
    pub fn ask_gateway(&self, name: &Arc<str>, command: Command) -> BoxFuture<'static, CommandAnswer> {
        let handle = match self {
            Self::Fleet(_, _, _, members, _) => members.get(name).cloned(),
            Self::Own(..) | Self::Attached(..) | Self::Replay(..) => None,
        };
        let name = Arc::clone(name);
        async move {
            match handle {
                Some(handle) => handle.send_and_wait(command).await.of_gateway(&name),
                None => CommandAnswer::Refused(format!("no gateway is called {name}")),
            }
        }
        .boxed()
    }

    /// Moves through a recording; `None` if there is none.
    pub fn play(&mut self, requested: PlayerAction) -> Option<SourceEvent> {
        match self {
            Self::Own(..) | Self::Attached(..) | Self::Fleet(..) => None,
            Self::Replay(player, _) => Some(replay_event(player.perform(requested))),
        }
    }
}

async fn snapshot_event(watch: &mut SnapshotWatch) -> SourceEvent {
    watch.next().await.map_or(SourceEvent::Ended, SourceEvent::Snapshot)
}

/// An attached screen may record as well. Its header then shows its own recording and not the gateway's, and what
/// its recorder reports is among the events.
fn with_own_recording(source_event: SourceEvent, recorder: &OwnRecorder) -> SourceEvent {
    match (source_event, recording::state(), recorder) {
        (SourceEvent::Snapshot(snapshot), Some(own), Some(notices)) => {
            let mut shown = Snapshot { recording: Some(own), ..(*snapshot).clone() };
            for notice in notices.all() {
                // The others keep their order, which is not that of their times where clocks differ.
                let earlier = shown.notices.iter().rposition(|other| other.time <= notice.time);
                shown.notices.insert(earlier.map_or(0, |index| index + 1), notice);
            }
            SourceEvent::Snapshot(Arc::new(shown))
        }
        (source_event, ..) => source_event,
    }
}

fn replay_event(read: Result<Arc<Snapshot>, RecordError>) -> SourceEvent {
    read.map_or_else(|error| SourceEvent::Failed(error.to_string()), SourceEvent::Snapshot)
}

fn history_answer(read: Result<HistoryReport, RecordError>) -> CommandAnswer {
    read.map_or_else(
        |error| CommandAnswer::Refused(error.to_string()),
        |report| CommandAnswer::History(Box::new(report)),
    )
}

impl Attachment {
    /// Whether `action` makes sense here; keys without a meaning are neither shown nor handled.
    pub fn is_available(&self, action: Action) -> bool {
        match action {
            _ if action.changes() => match self {
                Self::Own | Self::Attached(AdminAccess::Full, _) | Self::Fleet(AdminAccess::Full) => true,
                Self::Attached(AdminAccess::ReadOnly, _) | Self::Fleet(AdminAccess::ReadOnly) => false,
                Self::Replay(_) => false,
            },
            Action::ConfirmQuit | Action::LeaveHeadless => *self == Self::Own,
            // Suspending the gateway's own process would freeze every session.
            Action::Suspend => *self != Self::Own,
            Action::Play(_) => matches!(self, Self::Replay(_)),
            Action::Only | Action::Hide | Action::Show(Screen::Gateways) => matches!(self, Self::Fleet(_)),
            _ => true,
        }
    }
}
