//! A handle whose engine is in another process: pictures come through the admin socket, commands
//! go through it. A gateway that is lost is called again until it answers.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use super::{
    client::{self, AdminConnection, ClientError},
    protocol::AdminRequest,
};
use crate::{
    gateway::handle::{self, AdminAccess, CommandAnswer, GatewayContact, GatewayHandle, PendingCommand},
    tasks::Tasks,
    telemetry::snapshot::Snapshot,
};

/// Attaches to the gateway at `path`; an error where it does not answer now. Pictures come, and
/// word of whether it is there, until nobody holds the handle or a watch of it.
pub async fn attach(
    path: &Path,
    access: AdminAccess,
    tasks: &Tasks,
) -> Result<(GatewayHandle, watch::Receiver<GatewayContact>), ClientError> {
    let (client, first) = connect_watching(path).await?;
    let (handle, feed) = handle::channel(first, "attached screen");
    let (tell, contact) = watch::channel(GatewayContact::There);
    let (path, snapshots) = (path.to_owned(), feed.snapshots);
    tasks.spawn("attached commands", forward_commands(path.clone(), access, feed.commands, tasks.clone()));
    tasks.spawn("attached", async move {
        tokio::select! {
            () = forward_snapshots(&path, client, &snapshots, &tell) => {}
            () = snapshots.closed() => {}
        }
    });
    Ok((handle, contact))
}

async fn connect_watching(path: &Path) -> Result<(AdminConnection, Arc<Snapshot>), ClientError> {
    let mut client = AdminConnection::connect(path).await?;
    client.send(&AdminRequest::Watch).await?;
    let first = client.next_snapshot().await?;
    Ok((client, first))
}

/// Passes pictures on, for ever: the caller drops it when nobody looks any more.
async fn forward_snapshots(
    path: &Path,
    mut client: AdminConnection,
    snapshots: &watch::Sender<Arc<Snapshot>>,
    tell: &watch::Sender<GatewayContact>,
) {
    loop {
        let mut error = loop {
            match client.next_snapshot().await {
                Ok(snapshot) => drop(snapshots.send_replace(snapshot)),
                Err(error) => break error,
            }
        };
        client = loop {
            tell.send_replace(GatewayContact::Lost { why: error.to_string() });
            tokio::time::sleep(BETWEEN_CALLS).await;
            match connect_watching(path).await {
                Ok((client, first)) => {
                    // First that it is there: a picture is never drawn as one from before the loss.
                    tell.send_replace(GatewayContact::There);
                    snapshots.send_replace(first);
                    break client;
                }
                Err(again) => error = again,
            }
        };
    }
}

/// Each command goes through a connection of its own: an answer that takes long holds up neither
/// pictures nor other commands.
async fn forward_commands(
    path: PathBuf,
    access: AdminAccess,
    mut commands: mpsc::Receiver<PendingCommand>,
    tasks: Tasks,
) {
    while let Some(PendingCommand { command, answer, .. }) = commands.recv().await {
        let path = path.clone();
        tasks.spawn("attached command", async move {
            let answered = match access {
                AdminAccess::ReadOnly if command.changes_gateway() => {
                    CommandAnswer::Refused("this screen is read-only".into())
                }
                AdminAccess::ReadOnly | AdminAccess::Full => match client::send_command(&path, command).await
                {
                    Ok(answer) => answer,
                    Err(error) => CommandAnswer::Refused(error.to_string()),
                },
            };
            // An asker that has left needs no answer.
            let _ = answer.send(answered);
        });
    }
}

const BETWEEN_CALLS: Duration = Duration::from_millis(500);
