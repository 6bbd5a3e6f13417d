//! Dials a Unix socket of this machine, and distinguishes a socket that is missing from one that does not
//! answer.

use std::{
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};

use crate::{confine::refused_call, net::exhausted::ExhaustedResource};

/// Time between two attempts at a socket whose queue is full: the kernel gives no event for it.
const FULL_CHECK_MAX: Duration = Duration::from_millis(100);

/// Why a Unix socket was not connected.
#[derive(Debug, Error)]
pub enum UnixDialError {
    #[error("unix://{}: there is no such socket", .0.display())]
    Missing(PathBuf),
    #[error("unix://{}: it is not a socket", .0.display())]
    NotSocket(PathBuf),
    #[error("unix://{}: it is not a stream socket", .0.display())]
    OtherKind(PathBuf),
    #[error("unix://{}: this gateway may not write to it", .0.display())]
    Forbidden(PathBuf),
    #[error("unix://{}: connection refused: nobody listens at it", .0.display())]
    Refused(PathBuf),
    #[error("unix://{}: no answer within {}s: its queue is full", at.display(), within.as_secs_f32())]
    Full { at: PathBuf, within: Duration },
    #[error("unix://{}: {}", at.display(), ExhaustedResource::describe(source))]
    Local { at: PathBuf, source: io::Error },
}

/// Connects to the socket at this path.
pub async fn dial_unix(at: &Path, within: Duration) -> Result<UnixStream, UnixDialError> {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(1);
    loop {
        let error = match UnixStream::connect(at).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refused_call::explain("socket", error),
        };
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(dial_error(at, error));
        }
        if Instant::now() + pause > deadline {
            return Err(UnixDialError::Full { at: at.into(), within });
        }
        sleep(pause).await;
        pause = (2 * pause).min(FULL_CHECK_MAX);
    }
}

fn dial_error(at: &Path, source: io::Error) -> UnixDialError {
    let path = at.to_path_buf();
    match source.raw_os_error() {
        // A path below a file is just as missing.
        Some(libc::ENOENT | libc::ENOTDIR) => UnixDialError::Missing(path),
        Some(libc::EACCES) => UnixDialError::Forbidden(path),
        Some(libc::EPROTOTYPE) => UnixDialError::OtherKind(path),
        Some(libc::ECONNREFUSED) => match std::fs::metadata(at) {
            Ok(found) if !found.file_type().is_socket() => UnixDialError::NotSocket(path),
            _ => UnixDialError::Refused(path),
        },
        _ => UnixDialError::Local { at: path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener};

    use super::*;

    const WITHIN: Duration = Duration::from_millis(200);

    async fn dial_error(at: &Path) -> String {
        let error = dial_unix(at, WITHIN).await.expect_err("nobody answers").to_string();
        error.replace(&at.display().to_string(), "PATH")
    }

    #[tokio::test]
    async fn each_reason_why_a_socket_is_not_connected_has_its_own_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "").expect("it is written");
        drop(UnixListener::bind(path("left")).expect("it binds"));
        let _datagrams = std::os::unix::net::UnixDatagram::bind(path("datagrams")).expect("it binds");
        for (name, words) in [
            ("missing", "unix://PATH: there is no such socket"),
            ("file/below", "unix://PATH: there is no such socket"),
            ("file", "unix://PATH: it is not a socket"),
            ("datagrams", "unix://PATH: it is not a stream socket"),
            ("left", "unix://PATH: connection refused: nobody listens at it"),
        ] {
            assert_eq!(dial_error(&path(name)).await, words, "{name}");
        }
        let _listens = UnixListener::bind(path("there")).expect("it binds");
        dial_unix(&path("there"), WITHIN).await.expect("it listens");
    }

    #[tokio::test]
    async fn a_socket_with_a_full_queue_is_tried_until_the_deadline() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("full");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.bind(&socket2::SockAddr::unix(&path).expect("an address")).expect("it binds");
        socket.listen(0).expect("it listens");
        let _queued = dial_unix(&path, WITHIN).await.expect("the kernel takes one");
        assert_eq!(dial_error(&path).await, "unix://PATH: no answer within 0.2s: its queue is full");
        let (dialled, ()) = tokio::join!(dial_unix(&path, Duration::from_secs(20)), async {
            socket.accept().map(drop).expect("one waits");
        });
        dialled.expect("there was room again");
    }
}
