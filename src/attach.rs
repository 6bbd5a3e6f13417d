//! The front ends without a gateway of their own: the dashboard on a gateway in another process, and on a
//! recording.

use std::{path::Path, pin::pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::anyhow;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{
    admin::{self, carrier, target::AdminTarget},
    fleet::{members, target::FleetTarget},
    gateway::handle::{AdminAccess, GatewayHandle},
    record::{Recorder, Recording, RecordingPlayer},
    tasks::Tasks,
    tui::{self, ScreenEnd, source::ScreenSource},
};

/// After a signal, a terminal that nobody reads may hold the screen for this long.
const SCREEN_FAREWELL: Duration = Duration::from_secs(1);

/// Shows the gateway at `target` until the operator leaves.
pub async fn run(
    target: &AdminTarget,
    access: AdminAccess,
    record: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let tasks = Tasks::default();
    let (handle, contact) = admin::attach::attach(target, access, &tasks).await?;
    check_terminal()?;
    let recording = handle.clone();
    show_recorded(ScreenSource::attached(handle, access, contact), &recording, record, &tasks).await
}

/// Shows all these gateways until the operator leaves, whether they can be reached or not.
pub async fn run_fleet(
    targets: Vec<FleetTarget>,
    access: AdminAccess,
    record: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    check_terminal()?;
    let tasks = Tasks::default();
    let (handle, members) = members::attach(targets, access, &tasks);
    let recording = handle.clone();
    show_recorded(ScreenSource::fleet(handle, members, access), &recording, record, &tasks).await
}

async fn show_recorded(
    source: ScreenSource,
    handle: &GatewayHandle,
    record: Option<&Path>,
    tasks: &Tasks,
) -> anyhow::Result<ExitCode> {
    let recorder = match record {
        Some(file) => Some({
            // Its notices would only be seen on the screen; there is no log here.
            Recorder::open(file).await?.start(handle.watch(), tasks, Arc::default())
        }),
        None => None,
    };
    let code = show_screen(source).await;
    carrier::end_all();
    let code = code?;
    if let Some(recorder) = recorder {
        // The gateway goes on; only what has gone wrong so far is reported.
        recorder.so_far()?;
    }
    Ok(code)
}

/// Shows the recording in `file` until the operator leaves.
pub async fn replay(file: &Path) -> anyhow::Result<ExitCode> {
    let player = RecordingPlayer::new(Recording::open(file)?);
    check_terminal()?;
    show_screen(ScreenSource::replay(player)?).await
}

fn check_terminal() -> anyhow::Result<()> {
    tui::check_terminal().map_err(|why| anyhow!("the dashboard can not open: {why}"))
}

/// Opens the screen and waits for its end, by the operator or by a signal.
async fn show_screen(source: ScreenSource) -> anyhow::Result<ExitCode> {
    let (ends, mut ended) = oneshot::channel();
    let on_end = |why| {
        // If nobody waits for its end any more, nobody needs to know.
        let _ = ends.send(why);
    };
    // Before the screen opens, so that a signal always finds a way to end it.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut others = pin!(tui::signals::handle_signals()?);
    let screen = tui::spawn(source, on_end)?;
    tokio::select! {
        ended = &mut ended => return Ok(exit_code(ended.ok())),
        _ = terminate.recv() => screen.end(ScreenEnd::Left),
        _ = interrupt.recv() => screen.end(ScreenEnd::Left),
        _ = hang_up.recv() => screen.terminal_gone(),
        () = &mut others => {}
    }
    Ok(exit_code(tokio::time::timeout(SCREEN_FAREWELL, ended).await.ok().and_then(Result::ok)))
}

/// A screen that has lost its terminal, has panicked or is stuck has failed.
fn exit_code(ended: Option<ScreenEnd>) -> ExitCode {
    match ended {
        Some(ScreenEnd::Quit | ScreenEnd::Left | ScreenEnd::LeftHeadless | ScreenEnd::GatewayStopped) => {
            ExitCode::SUCCESS
        }
        Some(ScreenEnd::TerminalGone) | None => ExitCode::FAILURE,
    }
}
