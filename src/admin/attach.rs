//! A handle whose engine is in another process: snapshots come through the admin socket, and commands go
//! through it. If the gateway is lost, it is called again until it answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    client::{self, AdminConnection, ClientError},
    protocol::{AdminRequest, WatchPace},
    target::AdminTarget,
};
use crate::{
    gateway::handle::{self, AdminAccess, CommandAnswer, GatewayContact, GatewayHandle, PendingCommand},
    profile::Mode,
    tasks::Tasks,
    telemetry::snapshot::Snapshot,
};

/// Attaches to the gateway at `target`; an error if it does not answer now. Snapshots, and whether it can be
/// reached, are followed until every handle and watch is dropped.
pub async fn attach(
    target: &AdminTarget,
    access: AdminAccess,
    tasks: &Tasks,
) -> Result<(GatewayHandle, watch::Receiver<GatewayContact>), ClientError> {
    let watcher = Watcher { target: target.clone(), pace: None };
    let (client, first) = watcher.connect().await?;
    let (handle, feed) = handle::channel(first, "attached screen");
    let (contact_sender, contact) = watch::channel(GatewayContact::There);
    let snapshots = feed.snapshots;
    tasks.spawn("attached commands", forward_commands(target.clone(), access, feed.commands, tasks.clone()));
    tasks.spawn("attached", async move {
        tokio::select! {
            () = watcher.forward(Some(client), &snapshots, &contact_sender) => {}
            () = snapshots.closed() => {}
        }
    });
    Ok((handle, contact))
}

/// How often snapshots are read. It may be slowed down while they arrive; faster ones are then not read.
#[derive(Debug, Clone)]
pub struct SnapshotPace(Arc<AtomicU64>);

impl SnapshotPace {
    pub fn new(every: Duration) -> Self {
        let pace = Self(Arc::default());
        pace.set(every);
        pace
    }

    pub fn set(&self, every: Duration) {
        self.0.store(u64::try_from(every.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn every(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// Attaches to a gateway that may not be there yet, with at most one snapshot per pace. Until the first one
/// arrives, the handle has an empty one.
pub fn attach_when_there(
    target: &AdminTarget,
    access: AdminAccess,
    pace: &SnapshotPace,
    tasks: &Tasks,
) -> (GatewayHandle, watch::Receiver<GatewayContact>) {
    let watcher = Watcher { target: target.clone(), pace: Some(pace.clone()) };
    let (handle, feed) = handle::channel(Arc::new(Snapshot::new("-", Mode::Direct)), "attached screen");
    let (contact_sender, contact) = watch::channel(GatewayContact::Calling);
    let snapshots = feed.snapshots;
    tasks.spawn("attached commands", forward_commands(target.clone(), access, feed.commands, tasks.clone()));
    tasks.spawn("attached", async move {
        tokio::select! {
            () = watcher.forward(None, &snapshots, &contact_sender) => {}
            () = snapshots.closed() => {}
        }
    });
    (handle, contact)
}

/// The next snapshot may arrive a moment before it is due.
const FIRST_SNAPSHOT_DELAY: Duration = Duration::from_millis(500);

/// Calls one gateway and asks it for snapshots.
struct Watcher {
    target: AdminTarget,
    pace: Option<SnapshotPace>,
}

impl Watcher {
    async fn connect(&self) -> Result<(AdminConnection, Arc<Snapshot>), ClientError> {
        let Some(pace) = &self.pace else { return self.connect_with(&AdminRequest::Watch).await };
        match self.connect_with(&AdminRequest::WatchEvery(WatchPace::new(pace.every()))).await {
            // A version that does not know the pace uses its own.
            Err(ClientError::Refused { .. }) => self.connect_with(&AdminRequest::Watch).await,
            connected => connected,
        }
    }

    async fn connect_with(
        &self,
        request: &AdminRequest,
    ) -> Result<(AdminConnection, Arc<Snapshot>), ClientError> {
        let mut client = AdminConnection::connect(&self.target).await?;
        client.send(request).await?;
        let first = client.next_snapshot().await?;
        Ok((client, first))
    }

    /// Passes snapshots on forever; the caller drops the future when nobody looks any more.
    async fn forward(
        &self,
        client: Option<AdminConnection>,
        snapshots: &watch::Sender<Arc<Snapshot>>,
        contact_sender: &watch::Sender<GatewayContact>,
    ) {
        let mut connected = client;
        loop {
            let mut client = match connected.take() {
                Some(client) => client,
                None => self.connect_until_there(snapshots, contact_sender).await,
            };
            let error = loop {
                match client.next_snapshot().await {
                    Ok(snapshot) => drop(snapshots.send_replace(snapshot)),
                    Err(error) => break error,
                }
                if let Some(pace) = &self.pace
                    && let Err((error, last)) = client
                        .skip_snapshots(Instant::now() + pace.every().saturating_sub(FIRST_SNAPSHOT_DELAY))
                        .await
                {
                    last.into_iter().for_each(|last| drop(snapshots.send_replace(last)));
                    break error;
                }
            };
            contact_sender.send_replace(GatewayContact::Lost { why: error.to_string() });
            tokio::time::sleep(self.target.wait_before_call(0)).await;
        }
    }

    /// Calls the gateway until it answers.
    async fn connect_until_there(
        &self,
        snapshots: &watch::Sender<Arc<Snapshot>>,
        contact_sender: &watch::Sender<GatewayContact>,
    ) -> AdminConnection {
        let mut failed_in_a_row = 0;
        loop {
            match self.connect().await {
                Ok((client, first)) => {
                    // The contact first, so that no snapshot is drawn as one from before the loss.
                    contact_sender.send_replace(GatewayContact::There);
                    snapshots.send_replace(first);
                    return client;
                }
                Err(error) => {
                    contact_sender.send_replace(GatewayContact::Lost { why: error.to_string() });
                    tokio::time::sleep(self.target.wait_before_call(failed_in_a_row)).await;
                    failed_in_a_row = failed_in_a_row.saturating_add(1);
                }
            }
        }
    }
}

/// Each command uses a connection of its own, so a slow answer delays neither snapshots nor other commands.
async fn forward_commands(
    target: AdminTarget,
    access: AdminAccess,
    mut commands: mpsc::Receiver<PendingCommand>,
    tasks: Tasks,
) {
    while let Some(PendingCommand { command, answer, .. }) = commands.recv().await {
        let target = target.clone();
        tasks.spawn("attached command", async move {
            let answered = match access {
                AdminAccess::ReadOnly if command.changes_gateway() => {
                    CommandAnswer::Refused("this screen is read-only".into())
                }
                AdminAccess::ReadOnly | AdminAccess::Full => {
                    match client::send_command_to(&target, command).await {
                        Ok(answer) => answer,
                        Err(error) => CommandAnswer::Refused(error.to_string()),
                    }
                }
            };
            // Nobody may be waiting for the answer any more.
            let _ = answer.send(answered);
        });
    }
}
