//! Where the screen's pictures come from, and where its commands go.
//!
//! The screen is the same whatever it shows. What differs is its [`Standing`]: what it is to that
//! gateway, and so what may be asked from here.

use std::{future::Future, sync::Arc};

use tokio::sync::watch;

use crate::{
    gateway::handle::{Access, Answer, Command, Contact, Handle, Watch},
    telemetry::snapshot::Snapshot,
    tui::keys::Action,
};

/// A gateway to show.
#[derive(Debug)]
pub struct Source {
    handle: Handle,
    watch: Watch,
    /// Of a gateway in another process.
    attached: Option<(Access, watch::Receiver<Contact>)>,
}

/// What comes from a source.
#[derive(Debug)]
pub enum News {
    Snapshot(Arc<Snapshot>),
    /// The standing has changed.
    Standing,
    Ended,
}

/// What the screen is to the gateway that it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Both are one process: to quit is to stop the gateway.
    Own,
    /// The gateway is another process, and goes on when the screen leaves.
    Attached(Access, Contact),
}

impl Source {
    /// The gateway of this process.
    pub fn own(handle: Handle) -> Self {
        Self { watch: handle.watch(), handle, attached: None }
    }

    /// A gateway behind its admin socket.
    pub fn attached(handle: Handle, access: Access, contact: watch::Receiver<Contact>) -> Self {
        Self { attached: Some((access, contact)), ..Self::own(handle) }
    }

    pub fn latest(&self) -> Arc<Snapshot> {
        self.handle.latest()
    }

    pub fn standing(&self) -> Standing {
        match &self.attached {
            None => Standing::Own,
            Some((access, contact)) => Standing::Attached(*access, contact.borrow().clone()),
        }
    }

    /// Waits for news; may be dropped half-way, a watch loses nothing by it.
    pub async fn next(&mut self) -> News {
        let contact = async {
            if let Some((_, contact)) = &mut self.attached
                && contact.changed().await.is_ok()
            {
                return;
            }
            // Where its teller has ended, so have the pictures.
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = contact => News::Standing,
            snapshot = self.watch.next() => snapshot.map_or(News::Ended, News::Snapshot),
        }
    }

    pub fn ask(&self, command: Command) -> impl Future<Output = Answer> + Send + use<> {
        let handle = self.handle.clone();
        async move { handle.ask(command).await }
    }
}

impl Standing {
    /// Whether `action` has a meaning here; keys without one are neither offered nor heard.
    pub fn offers(&self, action: Action) -> bool {
        match action {
            Action::Close | Action::Reload | Action::ConfirmClose => {
                !matches!(self, Self::Attached(Access::ReadOnly, _))
            }
            // To suspend the gateway's own process would freeze every session.
            Action::Suspend => matches!(self, Self::Attached(..)),
            Action::Down
            | Action::Up
            | Action::PageDown
            | Action::PageUp
            | Action::First
            | Action::Last
            | Action::Freeze
            | Action::Mask
            | Action::Help
            | Action::Quit
            | Action::Back
            | Action::ConfirmQuit
            | Action::LeaveHeadless => true,
        }
    }
}
