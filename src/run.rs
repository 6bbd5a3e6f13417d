//! Runs the gateway of a profile, with a screen or without, until it ends.

mod prepare;

use std::{collections::BTreeSet, io::IsTerminal, process::ExitCode, sync::Arc, time::Duration};

use futures_util::future::OptionFuture;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::{Handle as RuntimeHandle, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{
    admin::server::AdminSocket,
    cli::Cli,
    demo, exit,
    gateway::{
        Engine, GatewayOutcome,
        handle::{Command, GatewayHandle},
    },
    headless,
    net::passed,
    output::print_note,
    profile::Profile,
    record::{Recorder, RecorderEnd},
    signals,
    systemd::notify::NotifySocket,
    tasks::Tasks,
    telemetry::{
        audit::{ActorPlace, AuditActor},
        log::{self, LogEvent},
        notices::NoticeLog,
    },
    tui::{self, Dashboard, source::ScreenSource},
};

pub use self::prepare::{GatewayStart, PreparedGateway, prepare};

/// The screen gets so long to restore the terminal when the gateway has stopped.
const SCREEN_FAREWELL: Duration = Duration::from_secs(1);
/// The last picture of a recording gets so long to be written.
const RECORDER_FAREWELL: Duration = Duration::from_secs(1);

/// Runs the gateway until it ends; its outcome is the exit code.
pub fn run(cli: &Cli, start: GatewayStart, runtime: &Runtime) -> anyhow::Result<ExitCode> {
    let GatewayStart { source, chosen, loaded, lock, lockdown, history, demo_ports, socket } = start;
    let _inside = runtime.enter();
    let _log = log::init_log(cli.log_format)?;
    log::set_file(loaded.profile.log.as_deref());
    // From the first line on: a line written late would tear the screen.
    log::set_quiet(!cli.no_ui && tui::check_terminal().is_ok() && std::io::stderr().is_terminal());
    refuse_sockets_inside(&loaded.profile)?;
    let limit = raise_descriptors();
    // The admin socket and its folder are nobody else's business from the moment they exist.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // The admin socket first: where it answers, this gateway runs already.
    let named = loaded.profile.passed.clone();
    let admin = socket.as_deref().map(AdminSocket::bind).transpose()?;
    let (handle, engine) = runtime.block_on(Engine::start_locked(source, chosen, loaded, lockdown))?;
    close_unnamed_sockets(&named);
    let manager = NotifySocket::of_environment().unwrap_or_else(|error| {
        tracing::warn!(event = %LogEvent::ServiceManager, "{error}");
        None
    });
    let engine = engine.with_kept_history(history).with_service_manager(manager);
    let engine = engine.with_admin_socket(admin.as_ref().map(|(socket, _)| socket.path()));
    // Not before it is sure that there will be something to record.
    let recorder = cli.record.as_deref().map(|file| runtime.block_on(Recorder::open(file))).transpose()?;
    // From here on nothing is opened that the half does not need.
    let engine = engine.with_lock(lock)?;
    tracing::info!(event = %LogEvent::DescriptorLimit, limit, "up to {limit} open files");
    let tasks = Tasks::default();
    if let Some(moved) = demo_ports.and_then(demo::replaced_ports) {
        engine.notices().info(LogEvent::DemoPorts.line(moved));
    }
    if demo_ports.is_some() && !cli.no_samples {
        demo::start_clients(&handle, &tasks);
    }
    let recorded = recorder.map(|recorder| recorder.start(handle.watch(), &tasks, engine.notices()));
    let admin = admin.map(|(socket, listener)| {
        socket.serve(listener, handle.clone());
        socket
    });
    let outcome = runtime.block_on(async {
        let screen = open_screen(cli, &handle, &tasks, engine.notices())?;
        obey_signals(&handle, &tasks, screen.clone())?;
        let outcome = engine.run().await;
        close_front_ends(admin, screen, recorded).await;
        anyhow::Ok(outcome)
    })?;
    Ok(match outcome {
        GatewayOutcome::Clean => ExitCode::SUCCESS,
        GatewayOutcome::Cut(_) => exit::CUT.into(),
    })
}

/// Ends whatever shows the gateway, which has ended.
async fn close_front_ends(
    admin: Option<AdminSocket>,
    screen: Option<Arc<Dashboard>>,
    recorded: Option<RecorderEnd>,
) {
    if let Some(admin) = admin {
        admin.close().await;
    }
    if let Some(screen) = screen {
        screen.end(tui::ScreenEnd::GatewayStopped);
        // A terminal that nobody reads is left as it is.
        let _ = screen.wait(SCREEN_FAREWELL);
    }
    if let Some(Err(error)) = OptionFuture::from(recorded.map(|it| it.wait(RECORDER_FAREWELL))).await {
        // Again, and at the end: a screen may have hidden the log's line.
        print_note(format_args!("portcullis: {error}"));
    }
}

/// Opens the dashboard where there is a terminal; otherwise the gateway runs headless and says so.
fn open_screen(
    cli: &Cli,
    handle: &GatewayHandle,
    tasks: &Tasks,
    notices: Arc<NoticeLog>,
) -> anyhow::Result<Option<Arc<Dashboard>>> {
    tasks.spawn("summary", headless::log_summaries(handle.for_asker("headless")));
    if cli.no_ui {
        return Ok(None);
    }
    if let Err(why) = tui::check_terminal() {
        tracing::info!(event = %LogEvent::Headless, "running headless: {why}");
        return Ok(None);
    }
    let (quit, tasks, runtime) = (on_screen(handle), tasks.clone(), RuntimeHandle::current());
    // Asked while it is there: of a lost one nothing can be told any more.
    let logs_there = std::io::stderr().is_terminal();
    let on_end = move |ended| {
        // Of a stop that was asked for on the screen the countdown and the summary tell.
        log::set_quiet(logs_there && matches!(ended, tui::ScreenEnd::TerminalGone | tui::ScreenEnd::Quit));
        match ended {
            tui::ScreenEnd::Quit => {
                let _inside = runtime.enter();
                tasks.spawn("quit", async move { drop(quit.ask(Command::Stop).await) });
            }
            tui::ScreenEnd::LeftHeadless => {
                tracing::info!(event = %LogEvent::Headless, "the screen was left; the gateway goes on headless")
            }
            tui::ScreenEnd::TerminalGone if logs_there => {
                notices.warn(
                    LogEvent::Headless.line(
                        "the terminal is gone, and the log that went there; the gateway goes on headless",
                    ),
                );
            }
            tui::ScreenEnd::TerminalGone => {
                notices.warn(LogEvent::Headless.line("the terminal is gone; the gateway goes on headless"))
            }
            tui::ScreenEnd::GatewayStopped | tui::ScreenEnd::Left => {}
        }
    };
    Ok(Some(Arc::new(tui::spawn(ScreenSource::own(on_screen(handle)), on_end)?)))
}

/// What is asked on the screen of this very process.
fn on_screen(handle: &GatewayHandle) -> GatewayHandle {
    handle.for_asker("dashboard").acting_for(AuditActor::own(ActorPlace::Screen))
}

/// The internal half listens by nothing that others opened.
fn refuse_sockets_inside(profile: &Profile) -> anyhow::Result<()> {
    let names = passed::names();
    let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let reported =
        "was passed in, and the internal half takes no sockets; take it out of the service's units";
    anyhow::ensure!(profile.dmz.is_some() || names.is_empty(), "{listed} {reported}");
    Ok(())
}

/// What was passed in and is not named is closed; not before all that is named was found.
fn close_unnamed_sockets(named: &BTreeSet<String>) {
    for name in passed::close_others(|name| named.contains(name)) {
        tracing::info!(event = %LogEvent::PassedClosed, name, "a socket that the profile does not name is closed");
    }
}

/// Each session needs two descriptors or more: the soft limit is raised to the hard one.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not be raised, the one there is will do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn obey_signals(
    handle: &GatewayHandle,
    tasks: &Tasks,
    screen: Option<Arc<Dashboard>>,
) -> std::io::Result<()> {
    tasks.spawn("signals", tui::signals::handle_signals()?);
    signals::obey(handle, exit::CUT)?;
    let (mut hangups, handle, commands) = (
        signal(SignalKind::hangup())?,
        handle.for_asker("SIGHUP").acting_for(AuditActor::signal("SIGHUP")),
        tasks.clone(),
    );
    tasks.spawn("signals", async move {
        let mut screen = screen;
        while hangups.recv().await.is_some() {
            match screen.take() {
                // With a screen it means that the terminal is gone; after that there is none.
                Some(screen) if screen.wait(Duration::ZERO).is_none() => screen.terminal_gone(),
                _ => commands.spawn("reload", send_command(handle.clone(), Command::Reload)),
            }
        }
    });
    Ok(())
}

/// The gateway writes down itself what came of it.
async fn send_command(handle: GatewayHandle, command: Command) {
    drop(handle.ask(command).await);
}
