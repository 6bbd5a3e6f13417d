//! What the engine reads from files, and the names it looks up: beside it, on threads that may hang, and under a deadline. The engine
//! goes on meanwhile, and hears of what was read between two commands.
//!
//! Looking at certificates has a place of its own: it goes on all the time, and when it hangs it takes
//! none from what operators ask for.

use std::time::Duration;

use tokio::sync::mpsc;

use super::Engine;
use crate::{
    disk::{FileWork, WorkError},
    net::resolver::{NameResolver, ResolvedNames},
    profile::HostPort,
    tasks::Tasks,
};

/// A disk that is well answers at once, a busy one in this time.
const WITHIN: Duration = Duration::from_secs(10);
/// A name that is to be listened on, and is not answered in this time, does not resolve.
pub const LOOK_UP: Duration = Duration::from_secs(5);
/// What operators ask for and what may hang of it, at once.
const AT_ONCE: usize = 4;
/// Readings that have ended and of which the engine has not heard.
const UNHEARD_MAX: usize = 16;

/// What the engine does with what was read.
pub type EngineContinuation = Box<dyn FnOnce(&mut Engine) + Send>;

#[derive(Debug)]
pub struct EngineReader {
    pub(super) asked: FileWork,
    looks: FileWork,
    /// Not the engine's other tasks: a stop does not wait for these.
    tasks: Tasks,
    tell: mpsc::Sender<EngineContinuation>,
    heard: mpsc::Receiver<EngineContinuation>,
}

impl Default for EngineReader {
    fn default() -> Self {
        let (tell, heard) = mpsc::channel(UNHEARD_MAX);
        let (asked, looks) = (FileWork::new(AT_ONCE, WITHIN), FileWork::new(1, WITHIN));
        Self { asked, looks, tasks: Tasks::default(), tell, heard }
    }
}

impl EngineReader {
    /// The next that has ended.
    pub async fn next(&mut self) -> EngineContinuation {
        self.heard.recv().await.expect("`tell` lives as long as `heard`")
    }
}

impl Engine {
    /// Reads what an operator asks for.
    pub(super) fn read_for_operator<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Self, Result<T, WorkError>) + Send + 'static,
    ) {
        self.read_with(self.reader.asked.clone(), work, then);
    }

    /// Looks at files because it is time to.
    pub(super) fn read_periodically<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Self, Result<T, WorkError>) + Send + 'static,
    ) {
        self.read_with(self.reader.looks.clone(), work, then);
    }

    /// Looks up what is to be listened on; goes on at once where there are addresses alone.
    pub(super) fn look_up(
        &mut self,
        wanted: Vec<HostPort>,
        then: impl FnOnce(&mut Self, ResolvedNames) + Send + 'static,
    ) {
        if ResolvedNames::needs_none(&wanted) {
            return then(self, ResolvedNames::default());
        }
        let tell = self.reader.tell.clone();
        self.reader.tasks.spawn("look-up", async move {
            let found = ResolvedNames::look_up(NameResolver::system(), wanted, LOOK_UP).await;
            // An engine that has ended needs nothing any more.
            let _ = tell.send(Box::new(move |engine: &mut Self| then(engine, found))).await;
        });
    }

    fn read_with<T: Send + 'static>(
        &self,
        files: FileWork,
        work: impl FnOnce() -> T + Send + 'static,
        then: impl FnOnce(&mut Self, Result<T, WorkError>) + Send + 'static,
    ) {
        let tell = self.reader.tell.clone();
        self.reader.tasks.spawn("files", async move {
            let read = files.run(work).await;
            // An engine that has ended needs nothing any more.
            let _ = tell.send(Box::new(move |engine: &mut Self| then(engine, read))).await;
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
    };

    /// As on a network file system whose server is gone.
    #[tokio::test(flavor = "multi_thread")]
    async fn files_that_hang_hold_up_neither_commands_nor_a_stop() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("direct.yaml");
        let services = "{ echo: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' } }";
        std::fs::write(&file, format!("mode: direct\ndmz: {{ services: {services} }}\n")).unwrap();
        let source =
            ProfileSource { folders: vec![folder.path().into()], role: None, pipes: PipePolicy::Refused };
        let chosen = ChosenProfile::File(file);
        let loaded = source.load(&chosen, None).unwrap();
        let (handle, mut engine) = crate::gateway::Engine::start(source, chosen, loaded).await.unwrap();
        engine.reader.asked = FileWork::new(1, Duration::from_millis(200));
        let (release, held) = threads::channel::<()>();
        engine.read_for_operator(move || held.recv().is_ok(), |_, read| assert!(read.is_err()));
        let running = tokio::task::JoinSet::from_iter([engine.run()]);
        for command in [Command::Reload, Command::Profiles, Command::Plan { profile: "direct".into() }] {
            match handle.ask(command.clone()).await {
                CommandAnswer::Refused(why) => {
                    assert!(why.contains("did not answer within"), "{command:?}: {why}")
                }
                other => panic!("{command:?}: {other:?}"),
            }
            assert!(matches!(handle.ask(Command::Status).await, CommandAnswer::Status(_)));
        }
        assert!(matches!(handle.ask(Command::Stop).await, CommandAnswer::Done(_)));
        assert_eq!(running.join_all().await, [GatewayOutcome::Clean]);
        release.send(()).unwrap();
    }
}
