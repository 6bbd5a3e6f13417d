//! The admin socket of a running gateway: only its owner can open it (mode 0600).

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    place,
    wire::{Hello, Wire},
};
use crate::{
    gateway::handle::{Command, Handle},
    tasks::Tasks,
    telemetry::snapshot,
};

/// Clients at once.
const CLIENTS_MAX: usize = 64;
/// A client that is connected and asks nothing is let go.
const SILENT: Duration = Duration::from_secs(60);
/// An answer that is not read in this time is dropped with its client.
const SEND: Duration = Duration::from_secs(10);
/// Answers under way get so long when the gateway ends.
const FAREWELL: Duration = Duration::from_millis(500);

#[derive(Debug, Error)]
pub enum AdminError {
    #[error("admin socket {}: a gateway answers there already; stop it, or choose another with --admin", .0.display())]
    Taken(PathBuf),
    #[error("admin socket {}: there is something else of that name; remove it, or choose another with --admin", .0.display())]
    NoSocket(PathBuf),
    #[error("admin socket {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The bound socket; dropping it removes it.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
    stop: CancellationToken,
    tasks: Tasks,
}

impl AdminSocket {
    /// Binds `path`, replacing a socket that nobody answers.
    pub fn bind(path: &Path) -> Result<(Self, UnixListener), AdminError> {
        let io = |source| AdminError::Io { path: path.into(), source };
        if let Ok(facts) = fs::symlink_metadata(path) {
            if !facts.file_type().is_socket() {
                return Err(AdminError::NoSocket(path.into()));
            }
            if place::answers(path) {
                return Err(AdminError::Taken(path.into()));
            }
            fs::remove_file(path).map_err(io)?;
        }
        // The process's umask (077) keeps others out between these two lines.
        let listener = UnixListener::bind(path).map_err(io)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io)?;
        let socket = Self { path: path.into(), stop: CancellationToken::new(), tasks: Tasks::default() };
        Ok((socket, listener))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers until [`AdminSocket::close`].
    pub fn serve(&self, listener: UnixListener, handle: Handle) {
        let (stop, tasks, path) = (self.stop.clone(), self.tasks.clone(), self.path.clone());
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        self.tasks.spawn("admin socket", async move {
            while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
                let Ok((stream, _)) = accepted else {
                    // Out of descriptors: some will be free in a moment.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let handle = handle.for_asker(&asker(&stream, &path));
                let stop = stop.clone();
                tasks.spawn("admin client", async move {
                    let _place = place;
                    attend(Wire::new(stream), handle, &stop).await;
                });
            }
        });
    }

    /// Lets answers under way be read, then removes the socket.
    pub async fn close(self) {
        self.stop.cancel();
        // A client that does not read its answer is dropped with the process.
        let _ = timeout(FAREWELL, self.tasks.ended()).await;
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.path);
    }
}

async fn attend(mut wire: Wire, handle: Handle, stop: &CancellationToken) {
    let hello = Hello { portcullis: env!("CARGO_PKG_VERSION").into(), snapshot: snapshot::VERSION };
    if !matches!(timeout(SEND, wire.send(&hello)).await, Ok(Ok(()))) {
        return;
    }
    loop {
        let asked = timeout(SILENT, wire.receive::<Command>());
        let Some(Ok(Ok(command))) = stop.run_until_cancelled(asked).await else { return };
        let answer = handle.ask(command).await;
        if !matches!(timeout(SEND, wire.send(&answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

fn asker(stream: &UnixStream, path: &Path) -> String {
    match stream.peer_cred() {
        Ok(who) => {
            let pid = who.pid().unwrap_or_default();
            format!("admin socket {} (uid {}, pid {pid})", path.display(), who.uid())
        }
        Err(_) => format!("admin socket {}", path.display()),
    }
}
