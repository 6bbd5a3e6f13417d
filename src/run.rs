//! Runs the gateway of a profile, with a screen or without, until it ends. All that comes before, from loading the
//! profile to the kernel's lock, is in [`mod@prepare`].

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
        audit::{ActorOrigin, AuditActor},
        log::{self, LogEvent},
        notices::NoticeLog,
    },
    tui::{self, Dashboard, source::ScreenSource},
};

pub use self::prepare::{GatewayStart, PreparedGateway, prepare};

/// How long the screen gets to restore the terminal after the gateway has stopped.
const SCREEN_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the last snapshot of a recording gets to be written.
const RECORDER_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the gateway until it ends; its outcome is the exit code.
pub fn run(cli: &Cli, start: GatewayStart, runtime: &Runtime) -> anyhow::Result<ExitCode> {
    let GatewayStart { source, chosen, loaded, lock, inherited, lockdown, history, demo_ports, socket } =
        start;
    let _inside = runtime.enter();
    let log_guard = log::init_log(cli.log_format);
    // From the moment they exist, nobody else may access the admin socket and its folder.
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    log::keep_umask(umask.bits());
    log::set_file(loaded.profile.log.as_deref());
    // From the first line on, since a late line would spoil the screen.
    log::set_quiet(!cli.no_ui && tui::check_terminal().is_ok() && std::io::stderr().is_terminal());
    refuse_sockets_inside(&loaded.profile)?;
    let limit = raise_descriptors();
    // The admin socket first: if it answers, this gateway is running already.
    let named = loaded.profile.passed.clone();
    let admin = socket.as_deref().map(AdminSocket::bind).transpose()?;
    let (handle, engine) = runtime.block_on(Engine::start_locked(source, chosen, loaded, lockdown))?;
    close_unnamed_sockets(&named);
    let manager = NotifySocket::of_environment().unwrap_or_else(|error| {
        tracing::warn!(event = %LogEvent::ServiceManager, "{error}");
        None
    });
    let engine = engine.with_saved_history(history).with_service_manager(manager);
    let engine = engine.with_admin_socket(admin.as_ref().map(|(socket, _)| socket.path()));
    // Only when it is certain that there will be something to record.
    let recorder = cli.record.as_deref().map(|file| runtime.block_on(Recorder::open(file))).transpose()?;
    // From here on, only what the half needs is opened.
    let engine = engine.with_inherited(inherited).with_lock(lock)?;
    tracing::info!(event = %LogEvent::DescriptorLimit, limit, "up to {limit} open files");
    let tasks = Tasks::default();
    if let Some(line) = log_guard.refused_level() {
        engine.notices().warn(line);
    }
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

/// Says why a gateway does not start: on standard error in the form of its log, and in the profile's `log`.
pub fn report_failed_start(cli: &Cli, error: &anyhow::Error) -> ExitCode {
    // Each of our errors includes its cause already.
    let problem = error.to_string();
    print_note(log::failed_start_line(cli.log_format, &problem, &format!("portcullis: {problem}")));
    exit::FAILED.into()
}

/// Closes everything that shows the gateway, after the gateway has ended.
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
        let _ = screen.wait(SCREEN_CLOSE_TIMEOUT);
    }
    if let Some(Err(error)) = OptionFuture::from(recorded.map(|it| it.wait(RECORDER_FLUSH_TIMEOUT))).await {
        // Once more at the end, since a screen may have hidden the log line.
        print_note(format_args!("portcullis: {error}"));
    }
}

/// Opens the dashboard if there is a terminal; otherwise the gateway runs headless and says so.
fn open_screen(
    cli: &Cli,
    handle: &GatewayHandle,
    tasks: &Tasks,
    notices: Arc<NoticeLog>,
) -> anyhow::Result<Option<Arc<Dashboard>>> {
    tasks.spawn("summary", headless::log_summaries(handle.for_actor("headless")));
    if cli.no_ui {
        return Ok(None);
    }
    if let Err(why) = tui::check_terminal() {
        tracing::info!(event = %LogEvent::Headless, "running headless: {why}");
        return Ok(None);
    }
    let (quit, tasks, runtime) = (on_screen(handle), tasks.clone(), RuntimeHandle::current());
    // Checked while it exists: nothing can be found out about a lost terminal.
    let logs_there = std::io::stderr().is_terminal();
    let on_end = move |ended| {
        // After a stop from the screen, the countdown and the summary report it.
        log::set_quiet(logs_there && matches!(ended, tui::ScreenEnd::TerminalGone | tui::ScreenEnd::Quit));
        match ended {
            tui::ScreenEnd::Quit => {
                let _inside = runtime.enter();
                tasks.spawn("quit", async move { drop(quit.send_and_wait(Command::Stop).await) });
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

/// The handle for commands from the screen of this process.
fn on_screen(handle: &GatewayHandle) -> GatewayHandle {
    handle.for_actor("dashboard").acting_for(AuditActor::own(ActorOrigin::Screen))
}

/// The internal half does not use listening sockets that others have opened.
fn refuse_sockets_inside(profile: &Profile) -> anyhow::Result<()> {
    let names = passed::names();
    let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let reported =
        "was passed in, and the internal half takes no sockets; take it out of the service's units";
    anyhow::ensure!(profile.dmz.is_some() || names.is_empty(), "{listed} {reported}");
    Ok(())
}

/// Closes sockets that were passed in but not named, once all named ones were found.
fn close_unnamed_sockets(named: &BTreeSet<String>) {
    for name in passed::close_others(|name| named.contains(name)) {
        tracing::info!(event = %LogEvent::PassedClosed, name, "a socket that the profile does not name is closed");
    }
}

/// Raises the soft limit to the hard one, because each session needs at least two descriptors.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // If it cannot be raised, the existing limit has to do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn obey_signals(
    handle: &GatewayHandle,
    tasks: &Tasks,
    screen: Option<Arc<Dashboard>>,
) -> std::io::Result<()> {
    tasks.spawn("signals", tui::signals::handle_signals(|| {})?);
    signals::obey(handle, exit::CUT)?;
    let (mut hangups, handle) =
        (signal(SignalKind::hangup())?, handle.for_actor("SIGHUP").acting_for(AuditActor::signal("SIGHUP")));
    tasks.spawn("signals", async move {
        let mut screen = screen;
        while hangups.recv().await.is_some() {
            match screen.take() {
                // With a screen, it means that the terminal is gone; after that there is no screen.
                Some(screen) if screen.wait(Duration::ZERO).is_none() => screen.terminal_gone(),
                // Signals that come meanwhile are one reload afterwards: files may have changed since they were read.
                _ => send_command(handle.clone(), Command::Reload).await,
            }
        }
    });
    Ok(())
}

/// The gateway itself records the result.
async fn send_command(handle: GatewayHandle, command: Command) {
    drop(handle.send_and_wait(command).await);
}
