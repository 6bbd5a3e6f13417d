//! The admin protocol between standard input and output and a gateway's socket: the remote end of `attach ssh:`.
//!
//! Read-only access is enforced here, where nobody at the other end can change it: a key in `authorized_keys`
//! may be restricted to this command.

use std::{io, path::Path, time::Duration};

use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::{
    client::ClientError,
    protocol::{ANSWER_BYTES_MAX, AdminRequest, REQUEST_BYTES_MAX, RequestParseError},
};
use crate::gateway::handle::{AdminAccess, CommandAnswer};

/// A gateway answers a command, or reports that it hangs, in less time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// A gateway closes a connection whose answers are not read in this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Carries requests and answers until either end closes.
pub async fn carry(
    path: &Path,
    access: AdminAccess,
    mut request_stream: impl AsyncRead + Unpin,
    mut answer_stream: impl AsyncWrite + Unpin,
) -> Result<(), ClientError> {
    let at = path.display().to_string();
    let gateway = UnixStream::connect(path).await;
    let gateway = gateway.map_err(|source| ClientError::Connect { at: at.clone(), source })?;
    let (mut answers, mut requests) = gateway.into_split();
    let carried = match access {
        AdminAccess::Full => tokio::select! {
            // The requests end first: the last answer is still on its way.
            requested = copy_all(&mut request_stream, &mut requests, SilenceLimit::None) => match requested {
                Ok(()) => copy_all(&mut answers, &mut answer_stream, SilenceLimit::Answers).await,
                Err(error) => Err(error),
            },
            answered = copy_all(&mut answers, &mut answer_stream, SilenceLimit::None) => answered,
        },
        AdminAccess::ReadOnly => {
            carry_read_only(&mut request_stream, &mut requests, &mut answers, &mut answer_stream).await
        }
    };
    match carried {
        // The other end has closed, so the error cannot be reported.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(ClientError::Wire { at, source: error.into() })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// How long more bytes are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SilenceLimit {
    /// A client may be silent for as long as it likes.
    None,
    /// Behind the last request: a gateway that sends nothing more is not waited for.
    Answers,
}

/// Copies every byte as soon as it arrives, until the end or the silence.
async fn copy_all(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    limit: SilenceLimit,
) -> io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let reading = from.read(&mut chunk);
        let count = match limit {
            SilenceLimit::None => reading.await?,
            SilenceLimit::Answers => timeout(ANSWER_TIMEOUT, reading).await.unwrap_or(Ok(0))?,
        };
        match count {
            0 => return to.shutdown().await,
            count => write_in_time(to, &chunk[..count]).await?,
        }
    }
}

/// Standard output, or a gateway's socket, that takes nothing any more: an `ssh` that stalls would keep this process
/// forever, long after the gateway has closed its end.
#[derive(Debug, Error)]
#[error("nothing was taken for {}s", WRITE_TIMEOUT.as_secs())]
struct StalledReader;

/// Writes all of it, as long as some is taken now and then.
async fn write_in_time(to: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> io::Result<()> {
    let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, StalledReader);
    while !bytes.is_empty() {
        match timeout(WRITE_TIMEOUT, to.write(bytes)).await.map_err(timed_out)?? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    timeout(WRITE_TIMEOUT, to.flush()).await.map_err(timed_out)?
}

/// Copies request by request, so that each can be checked and answers stay in order.
async fn carry_read_only(
    request_stream: &mut (impl AsyncRead + Unpin),
    requests: &mut (impl AsyncWrite + Unpin),
    answers: &mut (impl AsyncRead + Unpin),
    answer_stream: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let Some(hello) = read_message(answers, ANSWER_BYTES_MAX).await? else { return Ok(()) };
    write_message(answer_stream, &hello).await?;
    while let Some(request) = read_message(request_stream, REQUEST_BYTES_MAX).await? {
        match check_request(&request) {
            Ok(AdminRequest::Watch | AdminRequest::WatchEvery(_)) => {
                write_message(requests, &request).await?;
                let mut nothing = [0; 1];
                return tokio::select! {
                    watched = copy_all(answers, answer_stream, SilenceLimit::None) => watched,
                    // A watching client requests nothing more; only its end can come.
                    _ = request_stream.read(&mut nothing) => Ok(()),
                };
            }
            Ok(AdminRequest::Command(_)) => {
                write_message(requests, &request).await?;
                let Some(answer) = read_message(answers, ANSWER_BYTES_MAX).await? else { return Ok(()) };
                write_message(answer_stream, &answer).await?;
            }
            Err(why) => {
                let refused = CommandAnswer::Refused(why.to_string());
                write_message(answer_stream, &serde_json::to_vec(&refused)?).await?;
            }
        }
    }
    Ok(())
}

/// Why a request is not forwarded to the gateway.
#[derive(Debug, Error)]
enum RequestRefusal {
    #[error(transparent)]
    Parse(#[from] RequestParseError),
    #[error("this connection to the gateway is read-only")]
    ReadOnly,
}

/// The request, if it changes nothing.
fn check_request(request: &[u8]) -> Result<AdminRequest, RequestRefusal> {
    match AdminRequest::parse(request)? {
        AdminRequest::Command(command) if command.changes_gateway() => Err(RequestRefusal::ReadOnly),
        request @ (AdminRequest::Watch | AdminRequest::WatchEvery(_) | AdminRequest::Command(_)) => {
            Ok(request)
        }
    }
}

async fn read_message(from: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u32().await {
        Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > bytes_max {
        let what = format!("a message is longer than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    // Only as much is held as arrives: an announced length alone costs nothing.
    let mut message = Vec::new();
    from.take(length as u64).read_to_end(&mut message).await?;
    Ok((message.len() == length).then_some(message))
}

async fn write_message(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    write_in_time(to, &[&length.to_be_bytes(), message].concat()).await
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::Arc;

    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::{
        admin::server::AdminSocket,
        gateway::handle::{self, Command, HandleFeed},
        profile::Mode,
        tasks::Tasks,
        telemetry::snapshot::Snapshot,
        tests::happens_after,
    };

    struct FarEnd {
        /// Keeps the socket's folder and the gateway behind it.
        _folder: tempfile::TempDir,
        _socket: AdminSocket,
        feed: HandleFeed,
        request_stream: DuplexStream,
        answer_stream: DuplexStream,
    }

    /// A gateway, and this way to it.
    fn far_end(access: AdminAccess) -> FarEnd {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let (socket, listener) = AdminSocket::bind(&path).unwrap();
        let (handle, feed) = handle::channel(Arc::new(Snapshot::new("demo", Mode::Direct)), "test");
        socket.serve(listener, handle);
        let (request_stream, from) = duplex(1024 * 1024);
        let (to, answer_stream) = duplex(1024 * 1024);
        Tasks::default().spawn("program", async move {
            carry(&path, access, from, to).await.unwrap();
        });
        FarEnd { _folder: folder, _socket: socket, feed, request_stream, answer_stream }
    }

    impl FarEnd {
        async fn ask(&mut self, request: &[u8]) {
            write_message(&mut self.request_stream, request).await.unwrap();
        }

        async fn received(&mut self) -> String {
            let message = read_message(&mut self.answer_stream, ANSWER_BYTES_MAX).await.unwrap();
            String::from_utf8(message.unwrap_or_default()).unwrap()
        }
    }

    #[tokio::test]
    async fn who_may_only_look_is_held_to_that_at_the_far_end() {
        let mut far = far_end(AdminAccess::ReadOnly);
        assert!(far.received().await.contains("portcullis"), "it says hello");
        for request in
            ["\"reload\"", r#"{"kill":{"session":"a"}}"#, "\"stpo\"", "{", r#"{"watch":{"every":1}}"#]
        {
            far.ask(request.as_bytes()).await;
            let answer = far.received().await;
            assert!(answer.starts_with(r#"{"refused":"#), "{request}: {answer}");
        }
        assert!(far.feed.commands.try_recv().is_err(), "none of them has come to the gateway");
        far.ask(b"\"profiles\"").await;
        far.feed.commands.recv().await.unwrap().answer.send(CommandAnswer::Profiles(Vec::new())).unwrap();
        assert_eq!(far.received().await, r#"{"profiles":[]}"#);
        far.ask(b"\"watch\"").await;
        while !far.feed.is_watched() {
            tokio::task::yield_now().await;
        }
        far.feed.snapshots.send_replace(Arc::new(Snapshot::new("seen", Mode::Direct)));
        assert!(far.received().await.contains(r#""profile":"seen""#));
        // A request after a watch is not read, and ends the watch.
        far.ask(b"\"stop\"").await;
        assert_eq!(far.received().await, "", "it has ended");
        assert!(far.feed.commands.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_full_way_carries_what_is_asked_and_ends_behind_the_last_answer() {
        let mut far = far_end(AdminAccess::Full);
        assert!(far.received().await.contains("portcullis"));
        far.ask(b"\"reload\"").await;
        far.request_stream.shutdown().await.unwrap();
        let requested = far.feed.commands.recv().await.unwrap();
        assert_eq!(requested.command, Command::Reload);
        requested.answer.send(CommandAnswer::Done("read again".into())).unwrap();
        assert_eq!(far.received().await, r#"{"done":"read again"}"#);
        assert_eq!(far.received().await, "", "nobody asks any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_hangs_is_waited_for_no_longer_behind_the_last_question() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let _hangs = tokio::net::UnixListener::bind(&path).unwrap();
        let carried = carry(&path, AdminAccess::Full, tokio::io::empty(), tokio::io::sink());
        happens_after(ANSWER_TIMEOUT, carried).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up_in_time() {
        let (mut to, _stalled) = duplex(64);
        let mut endless = tokio::io::repeat(b'x');
        let copied = copy_all(&mut endless, &mut to, SilenceLimit::None);
        let error = happens_after(WRITE_TIMEOUT, copied).await.unwrap_err();
        assert_eq!(error.to_string(), "nothing was taken for 10s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_a_little_at_a_time_is_not_given_up() {
        let (mut to, mut slow) = duplex(64);
        let mut sent = &[7; 64 * 6][..];
        let reading = async {
            let (mut received, mut chunk) = (0, [0; 64]);
            while let Ok(count @ 1..) = slow.read(&mut chunk).await {
                received += count;
                tokio::time::sleep(WRITE_TIMEOUT / 2).await;
            }
            received
        };
        let (copied, received) = tokio::join!(copy_all(&mut sent, &mut to, SilenceLimit::None), reading);
        copied.unwrap();
        assert_eq!(received, 64 * 6);
    }
}
