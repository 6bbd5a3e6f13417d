//! A program that carries the admin protocol: it is started, its standard error is kept for the operator, and it is
//! ended with its caller. It has a process group of its own, so that what it has started ends with it.

use std::{
    collections::BTreeSet,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::unix::pipe,
    time::{sleep, timeout},
};
use tokio_util::bytes::BytesMut;

use super::{protocol::WireError, target::ProgramCommand};
use crate::{systemd, tasks, text};

/// How much of its standard error is kept, from the end.
const STDERR_BYTES_MAX: usize = 2048;
const STDERR_CHARS_MAX: usize = 200;
/// The longest banner that a login may print before the program at the remote end begins.
const BANNER_BYTES_MAX: usize = 16 * 1024;
/// How long a program that has closed its output gets to say why, and to end.
const EXIT_OUTPUT_TIMEOUT: Duration = Duration::from_millis(500);
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How every gateway's first message begins, after its length.
const HELLO_BEGINS: &[u8] = b"{\"portcullis\":";
const LENGTH_BYTES: usize = 4;

/// The process groups of running programs: when a process exits, what its tasks hold is not dropped.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Ends every program of this process, before it exits.
pub fn end_all() {
    let running = std::mem::take(&mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
    running.into_iter().for_each(kill_group);
}

/// A program that has already ended is fine.
fn kill_group(group: i32) {
    let _ = Pid::from_raw(group).map(|group| kill_process_group(group, Signal::KILL));
}

/// A running program; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct AdminProgram {
    child: Option<Child>,
    errors: pipe::Receiver,
    error_output: Vec<u8>,
    has_closed: bool,
}

impl AdminProgram {
    /// Starts it; returns its output and its input.
    pub fn start(command: &ProgramCommand) -> io::Result<(Self, pipe::Receiver, pipe::Sender)> {
        let mut process = Command::new(&command.program);
        systemd::keep_from(&mut process);
        let mut child = process
            .args(&command.arguments)
            // If it is asked for a password, it should fail and not write over the screen.
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("SSH_ASKPASS", "false")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A key that ends the screen must not reach it, and whatever it starts ends with it.
            .process_group(0)
            .spawn()?;
        let group = i32::try_from(child.id()).unwrap_or_default();
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(group);
        let (child_input, child_output, errors) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(child_input), Some(child_output), Some(errors)) = (child_input, child_output, errors)
        else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let errors = pipe::Receiver::from_owned_fd(OwnedFd::from(errors))?;
        let child_output = pipe::Receiver::from_owned_fd(OwnedFd::from(child_output))?;
        let child_input = pipe::Sender::from_owned_fd(OwnedFd::from(child_input))?;
        Ok((
            Self { child: Some(child), errors, error_output: Vec::new(), has_closed: false },
            child_output,
            child_input,
        ))
    }

    /// Reads its standard error forever, since a full pipe would stop it. May be dropped at any point.
    pub async fn keep_errors(&mut self) {
        while !self.has_closed {
            let mut chunk = [0; 1024];
            match self.errors.read(&mut chunk).await {
                Ok(0) | Err(_) => self.has_closed = true,
                Ok(count) => {
                    self.error_output.extend_from_slice(&chunk[..count]);
                    let over = self.error_output.len().saturating_sub(STDERR_BYTES_MAX);
                    self.error_output.drain(..over);
                }
            }
        }
        std::future::pending().await
    }

    /// Why it carries nothing any more: its last output or, if there is none, how it ended.
    pub async fn exit_reason(&mut self) -> Option<String> {
        let ended = async {
            while !self.has_closed {
                // This never returns by itself; what it has read is kept.
                let _ = timeout(EXIT_POLL_INTERVAL, self.keep_errors()).await;
            }
            loop {
                match self.child.as_mut().map(Child::try_wait) {
                    Some(Ok(None)) => sleep(EXIT_POLL_INTERVAL).await,
                    Some(Ok(Some(status))) => break Some(status),
                    Some(Err(_)) | None => break None,
                }
            }
        };
        let status = timeout(EXIT_OUTPUT_TIMEOUT, ended).await.ok().flatten();
        let error_output = String::from_utf8_lossy(&self.error_output);
        let last = error_output.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let last = last.map(|line| text::clean_text(line, STDERR_CHARS_MAX));
        last.or_else(|| status.filter(|status| !status.success()).map(|status| status.to_string()))
    }
}

impl Drop for AdminProgram {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let group = i32::try_from(child.id()).unwrap_or_default();
        // A group that is not in the list has been killed already.
        if RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&group) {
            kill_group(group);
        }
        // Its process id is free once it was waited for. That is done on another thread, since the kernel may
        // take its time.
        let _ = tasks::spawn_thread("program end", move || drop(child.wait()));
    }
}

/// Reads up to a gateway's first message, and returns what was read of that; a banner before it is dropped.
pub(super) async fn skip_banner(child_output: &mut (impl AsyncRead + Unpin)) -> Result<BytesMut, WireError> {
    let mut read = BytesMut::new();
    loop {
        if let Some(at) = hello_at(&read) {
            return Ok(read.split_off(at));
        }
        if read.len() > BANNER_BYTES_MAX {
            return Err(WireError::Banner(describe_banner(&read)));
        }
        if child_output.read_buf(&mut read).await? == 0 {
            return Err(match read.iter().all(u8::is_ascii_whitespace) {
                true => WireError::Closed,
                false => WireError::Banner(describe_banner(&read)),
            });
        }
    }
}

fn hello_at(read: &[u8]) -> Option<usize> {
    let begins = read.windows(HELLO_BEGINS.len()).position(|part| part == HELLO_BEGINS)?;
    begins.checked_sub(LENGTH_BYTES)
}

fn describe_banner(read: &[u8]) -> String {
    let text = String::from_utf8_lossy(&read[..read.len().min(STDERR_BYTES_MAX)]).into_owned();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    text::clean_text(line, STDERR_CHARS_MAX)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_login_banner_is_skipped_and_garbage_is_reported() {
        let hello = b"\x00\x00\x00\x25{\"portcullis\":\"0.1.0\",\"snapshot\":1}";
        for banner in ["", "Welcome to edge-1!\n", "tty: no terminal\r\n\r\n"] {
            let output = [banner.as_bytes(), hello, b"more"].concat();
            let read = skip_banner(&mut output.as_slice()).await.unwrap();
            assert!(read.starts_with(hello), "{banner:?}: {read:?}");
        }
        let reported = |output: Vec<u8>| async move {
            skip_banner(&mut output.as_slice()).await.unwrap_err().to_string()
        };
        assert_eq!(reported(Vec::new()).await, "it closed without an answer");
        let rubbish = reported(b"\x1b[31mbash: portcullis: command not found\n".to_vec()).await;
        assert!(rubbish.contains("bash: portcullis: command not found"), "{rubbish}");
        let endless = reported(b"x".repeat(10 * BANNER_BYTES_MAX)).await;
        assert!(endless.contains("xxx") && endless.len() < 400, "{endless}");
    }
}
