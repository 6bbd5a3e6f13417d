//! Where the screen's pictures come from, and where its commands go.
//!
//! The screen is the same whatever it shows. What differs is its [`Attachment`]: what it is to that
//! gateway, and so what may be asked from here.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use crate::{
    gateway::handle::{
        AdminAccess, Command, CommandAnswer, FleetHandles, GatewayContact, GatewayHandle, SnapshotWatch,
    },
    record::{PlayerAction, RecordError, RecordingPlayer, ReplayProgress},
    telemetry::{recording, snapshot::Snapshot},
    tui::{keys::Action, screen::Screen},
};

/// What the screen shows.
#[derive(Debug)]
pub enum ScreenSource {
    /// The gateway of this process.
    Own(GatewayHandle, SnapshotWatch),
    /// A gateway of another process, behind its admin socket.
    Attached(GatewayHandle, SnapshotWatch, AdminAccess, watch::Receiver<GatewayContact>),
    /// Many gateways: the pictures of all in one, and the handles that commands go by.
    Fleet(GatewayHandle, SnapshotWatch, FleetHandles, AdminAccess),
    /// A recording, with its first picture.
    Replay(RecordingPlayer, Arc<Snapshot>),
}

/// What comes from a source.
#[derive(Debug)]
pub enum SourceEvent {
    Snapshot(Arc<Snapshot>),
    /// The standing has changed.
    Attachment,
    /// A picture that should have come can not be had; the text says why.
    Failed(String),
    Ended,
}

/// What the screen is to the gateway that it shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Attachment {
    /// Both are one process: to quit is to stop the gateway.
    Own,
    /// The gateway is another process, and goes on when the screen leaves.
    Attached(AdminAccess, GatewayContact),
    /// There are many, each reached or not; they go on as well.
    Fleet(AdminAccess),
    /// There is no gateway, only what was recorded of one.
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
    ) -> Self {
        let watch = handle.watch();
        Self::Attached(handle, watch, access, contact)
    }

    pub fn fleet(merged: GatewayHandle, members: FleetHandles, access: AdminAccess) -> Self {
        let watch = merged.watch();
        Self::Fleet(merged, watch, members, access)
    }

    pub fn replay(mut player: RecordingPlayer) -> Result<Self, RecordError> {
        let first = player.current_snapshot()?;
        Ok(Self::Replay(player, first))
    }

    /// The first picture to show.
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

    /// Waits for news; may be dropped half-way, nothing is lost by it.
    pub async fn next(&mut self) -> SourceEvent {
        match self {
            Self::Own(_, watch) => snapshot_event(watch).await,
            Self::Attached(_, watch, _, contact) => tokio::select! {
                biased;
                // Where its teller has ended, so have the pictures.
                Ok(()) = contact.changed() => SourceEvent::Attachment,
                source_event = snapshot_event(watch) => with_own_recording(source_event),
            },
            Self::Fleet(_, watch, ..) => with_own_recording(snapshot_event(watch).await),
            Self::Replay(player, _) => replay_event(player.next().await),
        }
    }

    /// Sends a command on its way; the answer comes later.
    pub fn ask(&self, command: Command) -> BoxFuture<'static, CommandAnswer> {
        match self {
            Self::Own(handle, ..) | Self::Attached(handle, ..) => {
                let handle = handle.clone();
                async move { handle.ask(command).await }.boxed()
            }
            Self::Fleet(..) => {
                async { CommandAnswer::Refused("no gateway is chosen; select a row of one".into()) }.boxed()
            }
            Self::Replay(..) => {
                async { CommandAnswer::Refused("a recording takes no commands".into()) }.boxed()
            }
        }
    }

    /// The same, to one gateway of a fleet; its answer names it.
    pub fn ask_gateway(&self, name: &Arc<str>, command: Command) -> BoxFuture<'static, CommandAnswer> {
        let handle = match self {
            Self::Fleet(_, _, members, _) => members.get(name).cloned(),
            Self::Own(..) | Self::Attached(..) | Self::Replay(..) => None,
        };
        let name = Arc::clone(name);
        async move {
            match handle {
                Some(handle) => handle.ask(command).await.of_gateway(&name),
                None => CommandAnswer::Refused(format!("no gateway is called {name}")),
            }
        }
        .boxed()
    }

    /// Moves through a recording; `None` where there is none.
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

/// An attached screen may record too; its header tells of that, and not of the gateway's own.
fn with_own_recording(source_event: SourceEvent) -> SourceEvent {
    match (source_event, recording::state()) {
        (SourceEvent::Snapshot(snapshot), Some(own)) => {
            SourceEvent::Snapshot(Arc::new(Snapshot { recording: Some(own), ..(*snapshot).clone() }))
        }
        (source_event, _) => source_event,
    }
}

fn replay_event(read: Result<Arc<Snapshot>, RecordError>) -> SourceEvent {
    read.map_or_else(|error| SourceEvent::Failed(error.to_string()), SourceEvent::Snapshot)
}

impl Attachment {
    /// Whether `action` has a meaning here; keys without one are neither offered nor heard.
    pub fn offers(&self, action: Action) -> bool {
        match action {
            _ if action.changes() => match self {
                Self::Own | Self::Attached(AdminAccess::Full, _) | Self::Fleet(AdminAccess::Full) => true,
                Self::Attached(AdminAccess::ReadOnly, _) | Self::Fleet(AdminAccess::ReadOnly) => false,
                Self::Replay(_) => false,
            },
            Action::ConfirmQuit | Action::LeaveHeadless => *self == Self::Own,
            // To suspend the gateway's own process would freeze every session.
            Action::Suspend => *self != Self::Own,
            Action::Play(_) => matches!(self, Self::Replay(_)),
            // A recording has pictures, and no history behind them.
            Action::Show(Screen::History) => !matches!(self, Self::Replay(_)),
            Action::Only | Action::Show(Screen::Gateways) => matches!(self, Self::Fleet(_)),
            _ => true,
        }
    }
}
