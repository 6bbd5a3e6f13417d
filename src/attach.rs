//! The front ends without a gateway of their own: the dashboard on a gateway in another process, and on a
//! recording.

use std::{path::Path, pin::pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::anyhow;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::{
    admin::{self, program, target::AdminTarget},
    fleet::{members, target::FleetTarget},
    gateway::handle::{AdminAccess, GatewayHandle},
    output::print_note,
    record::{Recorder, Recording, RecordingPlayer},
    tasks::Tasks,
    telemetry::{format, notices::NoticeLog, recording, snapshot::RecordingRow},
    tui::{
        self, ScreenEnd,
        source::{OwnRecorder, ScreenSource},
    },
};

/// After a signal, a terminal that nobody reads may hold the screen for this long.
const SCREEN_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Shows the gateway at `target` until the operator leaves.
pub async fn run(
    target: &AdminTarget,
    access: AdminAccess,
    record: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let tasks = Tasks::default();
    let (handle, contact) = admin::attach::attach(target, access, &tasks).await?;
    check_terminal()?;
    let recorder = record_screen(&handle, record, &tasks).await?;
    show_recorded(ScreenSource::attached(handle, access, contact, recorder)).await
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
    let recorder = record_screen(&handle, record, &tasks).await?;
    show_recorded(ScreenSource::fleet(handle, members, access, recorder)).await
}

/// Records what the screen shows, if that is wanted; the screen shows what goes wrong.
async fn record_screen(
    handle: &GatewayHandle,
    record: Option<&Path>,
    tasks: &Tasks,
) -> anyhow::Result<OwnRecorder> {
    let Some(file) = record else { return Ok(None) };
    let notices = Arc::<NoticeLog>::default();
    Recorder::open(file).await?.start(handle.watch(), tasks, Arc::clone(&notices));
    Ok(Some(notices))
}

/// Shows it until the operator leaves; then says so if its recording lacks anything. The gateways go on.
async fn show_recorded(source: ScreenSource) -> anyhow::Result<ExitCode> {
    let code = show_screen(source).await;
    program::end_all();
    let code = code?;
    let Some(RecordingRow { file, left_out, trouble: reason }) = recording::state() else { return Ok(code) };
    let missing = format::count(left_out, "snapshot");
    match reason {
        Some(why) => Err(anyhow!("recording {file}: {why}; {missing} could not be written")),
        None if left_out > 0 => {
            print_note(format_args!("portcullis: recording {file}: {missing} could not be written"));
            Ok(code)
        }
        None => Ok(code),
    }
}

/// Shows the recording in `file` until the operator leaves.
pub async fn replay(file: &Path) -> anyhow::Result<ExitCode> {
    let player = RecordingPlayer::new(Recording::open(file)?);
    check_terminal()?;
    show_screen(ScreenSource::replay(player)?).await
}

fn check_terminal() -> anyhow::Result<()> {
    tui::check_terminal().map_err(|why| anyhow!("the dashboard cannot open: {why}"))
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
    let mut others = pin!(tui::signals::handle_signals(program::end_all)?);
    let screen = tui::spawn(source, on_end)?;
    tokio::select! {
        ended = &mut ended => return Ok(exit_code(ended.ok())),
        _ = terminate.recv() => screen.end(ScreenEnd::Left),
        _ = interrupt.recv() => screen.end(ScreenEnd::Left),
        _ = hang_up.recv() => screen.terminal_gone(),
        () = &mut others => {}
    }
    Ok(exit_code(tokio::time::timeout(SCREEN_CLOSE_TIMEOUT, ended).await.ok().and_then(Result::ok)))
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
