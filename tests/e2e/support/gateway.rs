//! A gateway on a runtime of its own, so that killing it drops its sockets as a killed process does.

use std::{
    fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use portcullis::{
    certs,
    disk::PipePolicy,
    gateway::{
        Engine, GatewayOutcome,
        handle::{Command, CommandAnswer, GatewayHandle},
    },
    source::{ChosenProfile, ProfileSource},
    telemetry::{
        clock::WallClock,
        snapshot::{EndedRow, PoolRow, Snapshot},
    },
};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
    time::{interval, timeout},
};

/// Nothing that a test waits for takes longer, unless the test says so.
pub const PATIENCE: Duration = Duration::from_secs(8);

/// It happens then, and not before; later by no more than a busy machine makes it.
pub async fn happens_after<T>(value: Duration, event: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let came = event.await;
    let took = began.elapsed();
    assert!(took >= value && took < value + PATIENCE, "after {took:?}, not {value:?}");
    came
}
/// Between two looks at a gateway.
const LOOK: Duration = Duration::from_millis(4);

/// The port that clients of a service come in by.
pub fn client_port_in(snapshot: &Snapshot, service: &str) -> SocketAddr {
    let row = snapshot.services.iter().find(|row| row.name == service && !row.accept.is_empty());
    row.unwrap().accept[0].rsplit_once("//").unwrap().1.parse().unwrap()
}

/// The port that links come in by.
pub fn link_port_in(snapshot: &Snapshot) -> SocketAddr {
    let at = snapshot.listening[0].split_once("//").unwrap().1;
    at.split('/').next().unwrap().parse().unwrap()
}

/// A folder with profiles and a `pki` folder beside them.
#[derive(Clone)]
pub struct TestFolder {
    folder: Arc<TempDir>,
    clock: WallClock,
}

impl TestFolder {
    pub fn new() -> Self {
        Self::with(&["dmz", "internal"])
    }

    /// With a certificate for each of these names, in files of that name.
    pub fn with(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let halves: Vec<_> = names.iter().map(|half| certs::HalfNames { half, names: &[] }).collect();
        certs::write(&folder.path().join("pki"), &halves).unwrap();
        Self { folder: Arc::new(folder), clock: WallClock::default() }
    }

    /// Its gateways go by this clock.
    pub fn with_clock(self, clock: WallClock) -> Self {
        Self { clock, ..self }
    }

    pub fn pki(&self, file: &str) -> PathBuf {
        self.folder.path().join("pki").join(file)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Writes `NAME.yaml`.
    pub fn profile(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.path().join(format!("{name}.yaml"));
        fs::write(&file, text).unwrap();
        file
    }

    /// Starts a gateway with this profile.
    pub fn start(&self, name: &str, text: &str) -> Gateway {
        self.start_file(&self.profile(name, text))
    }

    pub fn start_file(&self, profile: &Path) -> Gateway {
        Gateway::start(profile, self.folder.clone(), self.clock.clone())
    }
}

pub struct Gateway {
    pub handle: GatewayHandle,
    runtime: Option<Runtime>,
    running: Option<JoinHandle<GatewayOutcome>>,
    /// It reads its profile and its certificates again at a reload.
    _folder: Arc<TempDir>,
}

impl Gateway {
    fn start(profile: &Path, folder: Arc<TempDir>, clock: WallClock) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let source = ProfileSource {
            folders: vec![profile.parent().unwrap().into()],
            half: None,
            pipes: PipePolicy::Refused,
        };
        let chosen = ChosenProfile::File(profile.into());
        let loaded = match source.load_to_serve(&chosen, None) {
            Ok(loaded) => loaded,
            Err(problems) => panic!("{problems:#?}"),
        };
        let (handle, engine) = {
            let _inside = runtime.enter();
            // Nothing is looked up, so it does not wait.
            Engine::start(source, chosen, loaded).now_or_never().unwrap().unwrap()
        };
        let running = Some(runtime.spawn(engine.with_wall_clock(clock).run()));
        Self { handle, runtime: Some(runtime), running, _folder: folder }
    }

    pub async fn now(&self) -> Arc<Snapshot> {
        match self.handle.send_and_wait(Command::Status).await {
            CommandAnswer::Status(snapshot) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the picture shows `seen`.
    pub async fn until(&self, what: &str, seen: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        self.until_within(PATIENCE, what, seen).await
    }

    pub async fn until_within(
        &self,
        patience: Duration,
        what: &str,
        seen: impl Fn(&Snapshot) -> bool,
    ) -> Arc<Snapshot> {
        let looking = async {
            let mut looks = interval(LOOK);
            loop {
                looks.tick().await;
                let snapshot = self.now().await;
                if seen(&snapshot) {
                    return snapshot;
                }
            }
        };
        match timeout(patience, looking).await {
            Ok(snapshot) => snapshot,
            Err(_) => panic!("not seen within {patience:?}: {what}; {:#?}", self.now().await),
        }
    }

    /// The port that clients of a service come in by.
    pub async fn client_port(&self, service: &str) -> SocketAddr {
        client_port_in(&*self.now().await, service)
    }

    /// The port that links come in by.
    pub async fn link_port(&self) -> SocketAddr {
        link_port_in(&*self.now().await)
    }

    /// Waits until a session has ended with these two letters.
    pub async fn until_ended(&self, end: &str) -> EndedRow {
        let seen = |snapshot: &Snapshot| snapshot.ended.iter().any(|row| row.end == end);
        let snapshot = self.until(&format!("a session that ended {end}"), seen).await;
        snapshot.ended.iter().find(|row| row.end == end).unwrap().clone()
    }

    /// Waits until a notice contains `text`.
    pub async fn until_notice(&self, text: &str) -> String {
        let of = |snapshot: &Snapshot| {
            let lines: Vec<_> = snapshot.notices.iter().filter(|line| line.text.contains(text)).collect();
            lines.last().map(|line| line.text.clone())
        };
        of(&*self.until(&format!("a notice with `{text}`"), |snapshot| of(snapshot).is_some()).await).unwrap()
    }

    /// Waits until the only pool row shows `seen`.
    pub async fn until_pool(&self, what: &str, seen: impl Fn(&PoolRow) -> bool) -> PoolRow {
        let snapshot =
            self.until(what, |snapshot| snapshot.pools.len() == 1 && seen(&snapshot.pools[0])).await;
        snapshot.pools[0].clone()
    }

    /// What a command was answered, which must have been done.
    pub async fn done(&self, command: Command) -> String {
        match self.handle.send_and_wait(command).await {
            CommandAnswer::Done(line) => line,
            other => panic!("{other:?}"),
        }
    }

    /// Why a command was refused.
    pub async fn refusal_of(&self, command: Command) -> String {
        match self.handle.send_and_wait(command).await {
            CommandAnswer::Refused(why) => why,
            other => panic!("{other:?}"),
        }
    }

    pub async fn switch(&self, profile: &Path) -> String {
        self.done(Command::Switch { profile: profile.to_str().unwrap().into() }).await
    }

    /// Stops it and waits for its outcome.
    pub async fn stop(mut self) -> GatewayOutcome {
        match self.handle.send_and_wait(Command::Stop).await {
            CommandAnswer::Done(_) | CommandAnswer::Cut(_) => {}
            other => panic!("{other:?}"),
        }
        timeout(PATIENCE, self.running.take().unwrap()).await.unwrap().unwrap()
    }

    /// Drops its only handle; returns how it ends then.
    pub fn abandon(mut self) -> impl Future<Output = GatewayOutcome> {
        let (runtime, running) = (self.runtime.take().unwrap(), self.running.take().unwrap());
        drop(self);
        async move {
            let outcome = timeout(PATIENCE, running).await.unwrap().unwrap();
            runtime.shutdown_background();
            outcome
        }
    }

    /// Kills it: no drain, no farewell.
    pub fn kill(self) {}
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
