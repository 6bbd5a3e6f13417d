//! Where the screen's pictures come from, and where its commands go.
//!
//! The screen is the same whatever it shows. What differs is its [`Standing`]: what it is to that
//! gateway, and so what may be asked from here.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::watch;

use crate::{
    gateway::handle::{Access, Answer, Command, Contact, Handle, Watch},
    record::{Play, Player, Progress, RecordError},
    telemetry::{recording, snapshot::Snapshot},
    tui::keys::Action,
};

/// What the screen shows.
#[derive(Debug)]
pub enum Source {
    /// The gateway of this process.
    Own(Handle, Watch),
    /// A gateway of another process, behind its admin socket.
    Attached(Handle, Watch, Access, watch::Receiver<Contact>),
    /// A recording, with its first picture.
    Replay(Player, Arc<Snapshot>),
}

/// What comes from a source.
#[derive(Debug)]
pub enum News {
    Snapshot(Arc<Snapshot>),
    /// The standing has changed.
    Standing,
    /// A picture that should have come can not be had; the text says why.
    Trouble(String),
    Ended,
}

/// What the screen is to the gateway that it shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Both are one process: to quit is to stop the gateway.
    Own,
    /// The gateway is another process, and goes on when the screen leaves.
    Attached(Access, Contact),
    /// There is no gateway, only what was recorded of one.
    Replay(Progress),
}

impl Source {
    pub fn own(handle: Handle) -> Self {
        let watch = handle.watch();
        Self::Own(handle, watch)
    }

    pub fn attached(handle: Handle, access: Access, contact: watch::Receiver<Contact>) -> Self {
        let watch = handle.watch();
        Self::Attached(handle, watch, access, contact)
    }

    pub fn replay(mut player: Player) -> Result<Self, RecordError> {
        let first = player.picture()?;
        Ok(Self::Replay(player, first))
    }

    /// The first picture to show.
    pub fn first(&self) -> Arc<Snapshot> {
        match self {
            Self::Own(handle, ..) | Self::Attached(handle, ..) => handle.latest(),
            Self::Replay(_, first) => Arc::clone(first),
        }
    }

    pub fn standing(&self) -> Standing {
        match self {
            Self::Own(..) => Standing::Own,
            Self::Attached(.., access, contact) => Standing::Attached(*access, contact.borrow().clone()),
            Self::Replay(player, _) => Standing::Replay(player.progress()),
        }
    }

    /// Waits for news; may be dropped half-way, nothing is lost by it.
    pub async fn next(&mut self) -> News {
        match self {
            Self::Own(_, watch) => picture(watch).await,
            Self::Attached(_, watch, _, contact) => tokio::select! {
                biased;
                // Where its teller has ended, so have the pictures.
                Ok(()) = contact.changed() => News::Standing,
                news = picture(watch) => with_own_recording(news),
            },
            Self::Replay(player, _) => told(player.next().await),
        }
    }

    /// Sends a command on its way; the answer comes later.
    pub fn ask(&self, command: Command) -> BoxFuture<'static, Answer> {
        match self {
            Self::Own(handle, ..) | Self::Attached(handle, ..) => {
                let handle = handle.clone();
                async move { handle.ask(command).await }.boxed()
            }
            Self::Replay(..) => async { Answer::Refused("a recording takes no commands".into()) }.boxed(),
        }
    }

    /// Moves through a recording; `None` where there is none.
    pub fn play(&mut self, asked: Play) -> Option<News> {
        match self {
            Self::Own(..) | Self::Attached(..) => None,
            Self::Replay(player, _) => Some(told(player.play(asked))),
        }
    }
}

async fn picture(watch: &mut Watch) -> News {
    watch.next().await.map_or(News::Ended, News::Snapshot)
}

/// An attached screen may record too; its header tells of that, and not of the gateway's own.
fn with_own_recording(news: News) -> News {
    match (news, recording::state()) {
        (News::Snapshot(snapshot), Some(own)) => {
            News::Snapshot(Arc::new(Snapshot { recording: Some(own), ..(*snapshot).clone() }))
        }
        (news, _) => news,
    }
}

fn told(read: Result<Arc<Snapshot>, RecordError>) -> News {
    read.map_or_else(|error| News::Trouble(error.to_string()), News::Snapshot)
}

impl Standing {
    /// Whether `action` has a meaning here; keys without one are neither offered nor heard.
    pub fn offers(&self, action: Action) -> bool {
        match action {
            _ if action.changes() => match self {
                Self::Own | Self::Attached(Access::Full, _) => true,
                Self::Attached(Access::ReadOnly, _) | Self::Replay(_) => false,
            },
            Action::ConfirmQuit | Action::LeaveHeadless => *self == Self::Own,
            // To suspend the gateway's own process would freeze every session.
            Action::Suspend => *self != Self::Own,
            Action::Play(_) => matches!(self, Self::Replay(_)),
            _ => true,
        }
    }
}
