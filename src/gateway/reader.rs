//! Reads and writes files, and looks up names, for the engine, on threads that may hang, under a deadline. The engine keeps
//! running meanwhile and receives the result between two commands.
//!
//! The periodic check of certificate files has its own slot. It runs all the time, and if it hangs it must
//! not block what operators ask for.

use std::time::Duration;

use tokio::sync::mpsc;

use super::Engine;
use crate::{
    disk::{FileWork, FileWorkError},
    net::{resolved_names::ResolvedNames, resolver::NameResolver},
    profile::HostPort,
    tasks::Tasks,
};

/// A healthy disk answers at once, a busy one within this time.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// A name to listen on that is not resolved within this time counts as unresolvable.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How many reads for operators may run (or hang) at once.
const AT_ONCE: usize = 4;
/// Finished reads that the engine has not handled yet.
const UNHANDLED_READS_MAX: usize = 16;

/// The engine's work with the result of a read.
pub type EngineContinuation = Box<dyn FnOnce(&mut Engine) + Send>;

#[derive(Debug)]
pub struct EngineReader {
    pub(super) on_request: FileWork,
    periodic: FileWork,
    /// For files in the state folder: the next one is written when the last is done.
    pub(super) states: FileWork,
    /// Kept apart from the engine's other tasks: a stop does not wait for these.
    tasks: Tasks,
    continuation_sender: mpsc::Sender<EngineContinuation>,
    continuations: mpsc::Receiver<EngineContinuation>,
}

impl Default for EngineReader {
    fn default() -> Self {
        let (continuation_sender, continuations) = mpsc::channel(UNHANDLED_READS_MAX);
        let [periodic, states] = [(); 2].map(|()| FileWork::new(1, READ_TIMEOUT));
        Self {
            on_request: FileWork::new(AT_ONCE, READ_TIMEOUT),
            periodic,
            states,
            tasks: Tasks::default(),
            continuation_sender,
            continuations,
        }
    }
}

impl EngineReader {
    /// The next read that has finished.
    pub async fn next(&mut self) -> EngineContinuation {
        self.continuations.recv().await.expect("`continuation_sender` keeps the channel open")
    }
}

impl Engine {
    /// Reads files for an operator's command.
    pub(super) fn read_for_operator<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Self, Result<T, FileWorkError>) + Send + 'static,
    ) {
        self.read_with(self.reader.on_request.clone(), work, then);
    }

    /// Reads files for a periodic check.
    pub(super) fn read_periodically<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Self, Result<T, FileWorkError>) + Send + 'static,
    ) {
        self.read_with(self.reader.periodic.clone(), work, then);
    }

    /// Writes into the state folder.
    pub(super) fn write_state<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Self, Result<T, FileWorkError>) + Send + 'static,
    ) {
        self.read_with(self.reader.states.clone(), work, then);
    }

    /// Looks up the addresses to listen on; continues at once if there are only IP addresses.
    pub(super) fn look_up(
        &mut self,
        wanted: Vec<HostPort>,
        then: impl FnOnce(&mut Self, ResolvedNames) + Send + 'static,
    ) {
        if ResolvedNames::needs_none(&wanted) {
            return then(self, ResolvedNames::default());
        }
        let continuation_sender = self.reader.continuation_sender.clone();
        self.reader.tasks.spawn("look-up", async move {
            let found = ResolvedNames::look_up(NameResolver::system(), wanted, LOOKUP_TIMEOUT).await;
            // An engine that has ended needs no result.
            let _ = continuation_sender.send(Box::new(move |engine: &mut Self| then(engine, found))).await;
        });
    }

    fn read_with<T: Send + 'static>(
        &self,
        files: FileWork,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Self, Result<T, FileWorkError>) + Send + 'static,
    ) {
        let continuation_sender = self.reader.continuation_sender.clone();
        self.reader.tasks.spawn("files", async move {
            let read = files.run(work).await;
            // An engine that has ended needs no result.
            let _ = continuation_sender.send(Box::new(move |engine: &mut Self| then(engine, read))).await;
        });
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::mpsc as threads;

    use super::*;
    use crate::{
        disk::PipePolicy,
        gateway::{
            GatewayOutcome,
            handle::{Command, CommandAnswer},
        },
        source::{ChosenProfile, ProfileSource},
        tests::{happens_after, happens_after_beside_a_thread},
    };

    /// As on a network file system whose server is gone.
    #[tokio::test(flavor = "multi_thread")]
    async fn files_that_hang_hold_up_neither_commands_nor_a_stop() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("direct.yaml");
        let services = "{ echo: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' } }";
        std::fs::write(&file, format!("mode: direct\ndmz: {{ services: {services} }}\n")).unwrap();
        let source =
            ProfileSource { folders: vec![folder.path().into()], half: None, pipes: PipePolicy::Refused };
        let chosen = ChosenProfile::File(file);
        let loaded = source.load(&chosen, None).unwrap();
        let (handle, mut engine) = crate::gateway::Engine::start(source, chosen, loaded).await.unwrap();
        engine.reader.on_request = FileWork::new(1, Duration::from_millis(200));
        let (release, held) = threads::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let hangs = move || begun.send(()).is_ok() && held.recv().is_ok();
        engine.read_for_operator(hangs, |_, read| assert!(read.is_err()));
        begins.await.unwrap();
        let running = tokio::task::JoinSet::from_iter([engine.run()]);
        for command in [Command::Reload, Command::Profiles, Command::Plan { profile: "direct".into() }] {
            match handle.send_and_wait(command.clone()).await {
                CommandAnswer::Refused(why) => {
                    assert!(why.contains("did not answer within"), "{command:?}: {why}")
                }
                other => panic!("{command:?}: {other:?}"),
            }
            assert!(matches!(handle.send_and_wait(Command::Status).await, CommandAnswer::Status(_)));
        }
        assert!(matches!(handle.send_and_wait(Command::Stop).await, CommandAnswer::Done(_)));
        assert_eq!(running.join_all().await, [GatewayOutcome::Clean]);
        release.send(()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_hangs_is_given_up_at_its_deadline() {
        let reader = EngineReader::default();
        for files in [reader.on_request, reader.periodic, reader.states] {
            let (release, held) = threads::channel::<()>();
            let read = files.run(move || held.recv().is_ok());
            assert_eq!(
                happens_after_beside_a_thread(READ_TIMEOUT, read).await,
                Err(FileWorkError::Late(READ_TIMEOUT))
            );
            drop(release);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_not_answered_is_given_up_at_its_deadline() {
        let (release, held) = threads::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let names = NameResolver::new(move |_| {
            drop(held.lock().map(|held| held.recv()));
            Err(std::io::ErrorKind::NotFound.into())
        });
        let wanted = HostPort { host: "db".into(), port: 7 };
        let looking_up = ResolvedNames::look_up(&names, vec![wanted.clone()], LOOKUP_TIMEOUT);
        let found = happens_after(LOOKUP_TIMEOUT, looking_up).await;
        let error = found.addresses(&wanted).unwrap_err();
        assert!(error.to_string().contains("no answer within 5s"), "{error}");
        drop(release);
    }
}
