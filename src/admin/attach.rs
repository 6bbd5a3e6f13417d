//! A handle whose engine is in another process: pictures come through the admin socket, commands
//! go through it. A gateway that is lost is called again until it answers.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use super::{
    client::{self, Client, ClientError},
    wire::Request,
};
use crate::{
    gateway::handle::{self, Access, Answer, Asked, Contact, Handle},
    tasks::Tasks,
    telemetry::snapshot::Snapshot,
};

/// Attaches to the gateway at `path`; an error where it does not answer now. Pictures come, and
/// word of whether it is there, until nobody holds the handle or a watch of it.
pub async fn attach(
    path: &Path,
    access: Access,
    tasks: &Tasks,
) -> Result<(Handle, watch::Receiver<Contact>), ClientError> {
    let (client, first) = call(path).await?;
    let (handle, feed) = handle::channel(first, "attached screen");
    let (tell, contact) = watch::channel(Contact::There);
    let (path, snapshots) = (path.to_owned(), feed.snapshots);
    tasks.spawn("attached commands", obey(path.clone(), access, feed.commands, tasks.clone()));
    tasks.spawn("attached", async move {
        tokio::select! {
            () = follow(&path, client, &snapshots, &tell) => {}
            () = snapshots.closed() => {}
        }
    });
    Ok((handle, contact))
}

async fn call(path: &Path) -> Result<(Client, Arc<Snapshot>), ClientError> {
    let mut client = Client::connect(path).await?;
    client.send(&Request::Watch).await?;
    let first = client.picture().await?;
    Ok((client, first))
}

/// Passes pictures on, for ever: the caller drops it when nobody looks any more.
async fn follow(
    path: &Path,
    mut client: Client,
    snapshots: &watch::Sender<Arc<Snapshot>>,
    tell: &watch::Sender<Contact>,
) {
    loop {
        let mut error = loop {
            match client.picture().await {
                Ok(snapshot) => drop(snapshots.send_replace(snapshot)),
                Err(error) => break error,
            }
        };
        client = loop {
            tell.send_replace(Contact::Lost { why: error.to_string() });
            tokio::time::sleep(BETWEEN_CALLS).await;
            match call(path).await {
                Ok((client, first)) => {
                    // First that it is there: a picture is never drawn as one from before the loss.
                    tell.send_replace(Contact::There);
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
async fn obey(path: PathBuf, access: Access, mut commands: mpsc::Receiver<Asked>, tasks: Tasks) {
    while let Some(Asked { command, answer, .. }) = commands.recv().await {
        let path = path.clone();
        tasks.spawn("attached command", async move {
            let answered = match access {
                Access::ReadOnly if command.changes() => Answer::Refused("this screen is read-only".into()),
                Access::ReadOnly | Access::Full => match client::ask(&path, command).await {
                    Ok(answer) => answer,
                    Err(error) => Answer::Refused(error.to_string()),
                },
            };
            // An asker that has left needs no answer.
            let _ = answer.send(answered);
        });
    }
}

const BETWEEN_CALLS: Duration = Duration::from_millis(500);
