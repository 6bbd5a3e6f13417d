//! Runs the gateway of a profile, with a screen or without, until it ends.

use std::{
    collections::BTreeSet,
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use futures_util::future::OptionFuture;
use rustix::process::{
    Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use signal_hook::consts::SIGUSR1;
use tokio::{
    runtime::{Handle as RuntimeHandle, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{
    admin::{server::AdminSocket, socket_path},
    cli::Cli,
    commands,
    confine::{ProcessLock, folders::LockedFolders},
    demo, exit,
    gateway::{
        Engine, GatewayOutcome, KeptLockdown,
        handle::{Command, GatewayHandle},
        lockdown_file::LockdownFile,
    },
    headless,
    net::passed,
    output::print_note,
    profile::{ConfinePolicy, DemoPorts, Profile},
    record::{Recorder, RecorderEnd},
    signals,
    source::{ChosenProfile, LoadedProfile, ProfileSource},
    systemd::notify::NotifySocket,
    tasks::Tasks,
    telemetry::{
        audit::{ActorPlace, AuditActor},
        log::{self, LogEvent},
        notices::NoticeLog,
    },
    tui::{self, Dashboard, source::ScreenSource},
};

/// The screen gets so long to restore the terminal when the gateway has stopped.
const SCREEN_FAREWELL: Duration = Duration::from_secs(1);
/// The last picture of a recording gets so long to be written.
const RECORDER_FAREWELL: Duration = Duration::from_secs(1);

/// A gateway whose profile has been read, before anything runs.
pub enum PreparedGateway {
    Ready(Box<GatewayStart>),
    /// The profile does not read, and it was told why.
    Refused(ExitCode),
}

/// What a gateway starts with.
pub struct GatewayStart {
    source: ProfileSource,
    chosen: ChosenProfile,
    loaded: LoadedProfile,
    lock: ProcessLock,
    lockdown: KeptLockdown,
    demo_ports: Option<DemoPorts>,
    /// Of its admin socket.
    socket: Option<PathBuf>,
}

/// Reads the profile, and takes the part of the lock that holds from the start. No thread runs yet.
pub fn prepare(cli: &Cli) -> anyhow::Result<PreparedGateway> {
    if let Some(parent) = cli.ends_with {
        end_with_parent(parent)?;
    }
    // From now on it ends nothing, however early or often it comes; what it asks for is done by `obey_signals`.
    signal_hook::flag::register(SIGUSR1, Arc::default())?;
    let mut source = commands::profile_source(cli);
    let chosen = cli
        .profile
        .as_deref()
        .map_or(Ok(ChosenProfile::Demo(demo::free_ports())), |name| source.choose(name));
    let (chosen, mut loaded) =
        match chosen.and_then(|chosen| Ok((chosen.clone(), source.load_to_serve(&chosen, cli.mode)?))) {
            Ok(loaded) => loaded,
            Err(problems) => {
                problems.iter().for_each(print_note);
                return Ok(PreparedGateway::Refused(exit::BAD_INPUT.into()));
            }
        };
    if let Some(folder) = chosen.file().and_then(Path::parent) {
        source.add_folder(folder);
    }
    if cli.ends_with.is_some() {
        // What `verify` starts writes nothing that is the gateway's own.
        (loaded.profile.log, loaded.profile.access_log, loaded.profile.audit) = (None, None, None);
    }
    let socket = match cli.admin.as_deref() {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.to_path_buf()),
        None => Some(socket_path::default_socket(&loaded.profile.name, cli.role)?),
    };
    let file = lockdown_file(cli, &loaded.profile);
    let mut folders = locked_folders(cli, &source, &chosen, socket.as_deref());
    folders.written.extend(file.as_ref().map(|file| file.folder().to_path_buf()));
    // What is wrong with the file is told when there is somewhere to tell it.
    let lockdown = KeptLockdown::read(file);
    let lock = ProcessLock::begin(&loaded.profile, &folders)?;
    let demo_ports = match &chosen {
        ChosenProfile::Demo(ports) => Some(*ports),
        ChosenProfile::File(_) => None,
    };
    Ok(PreparedGateway::Ready(Box::new(GatewayStart {
        source,
        chosen,
        loaded,
        lock,
        lockdown,
        demo_ports,
        socket,
    })))
}

/// Where the locks of an internal half are kept. What `verify` starts neither keeps nor has any.
fn lockdown_file(cli: &Cli, profile: &Profile) -> Option<LockdownFile> {
    let is_kept = profile.internal.is_some() && cli.ends_with.is_none();
    let file = LockdownFile::of_profile(&profile.name).filter(|_| is_kept)?;
    if profile.confine != ConfinePolicy::Off && profile.dmz.is_none() {
        // A locked half can not make the folder later; where it can not be made now, `lockdown` says so.
        let _ = file.prepare_folder();
    }
    Some(file)
}

/// What is read and written while a gateway runs: the profiles that it can be switched to with what they name,
/// and what its command line names.
fn locked_folders(
    cli: &Cli,
    source: &ProfileSource,
    chosen: &ChosenProfile,
    socket: Option<&Path>,
) -> LockedFolders {
    let mut folders = LockedFolders { read: source.folders.clone(), written: Vec::new() };
    let profiles = source.list().into_iter().chain(chosen.file().map(Path::to_path_buf));
    for file in profiles.flat_map(|profile| source.files_of(&profile)) {
        folders.read_folder_of(&file);
    }
    let of_profiles: Vec<_> = source
        .list()
        .iter()
        .map(PathBuf::as_path)
        .chain(chosen.file())
        .flat_map(|it| source.files_written_by(it))
        .collect();
    let named = socket.into_iter().chain(cli.record.as_deref());
    let written = named.chain(of_profiles.iter().map(PathBuf::as_path));
    folders
        .written
        .extend(written.filter_map(|file| std::path::absolute(file).ok()?.parent().map(Path::to_path_buf)));
    if !cli.no_ui && tui::check_terminal().is_ok() {
        // Where tables are exported to.
        folders.written.extend(std::env::current_dir().ok().filter(|folder| folder.parent().is_some()));
    }
    folders
}

/// Runs the gateway until it ends; its outcome is the exit code.
pub fn run(cli: &Cli, start: GatewayStart, runtime: &Runtime) -> anyhow::Result<ExitCode> {
    let GatewayStart { source, chosen, loaded, lock, lockdown, demo_ports, socket } = start;
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
    let engine = engine.with_service_manager(manager);
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
    let gone = move |ended| {
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
    Ok(Some(Arc::new(tui::spawn(ScreenSource::own(on_screen(handle)), gone)?)))
}

/// What is asked on the screen of this very process.
fn on_screen(handle: &GatewayHandle) -> GatewayHandle {
    handle.for_asker("dashboard").acting_for(AuditActor::own(ActorPlace::Screen))
}

/// The internal half listens by nothing that others opened.
fn refuse_sockets_inside(profile: &Profile) -> anyhow::Result<()> {
    let names = passed::names();
    let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let told = "was passed in, and the internal half takes no sockets; take it out of the service's units";
    anyhow::ensure!(profile.dmz.is_some() || names.is_empty(), "{listed} {told}");
    Ok(())
}

/// What was passed in and is not named is closed; not before all that is named was found.
fn close_unnamed_sockets(named: &BTreeSet<String>) {
    for name in passed::close_others(|name| named.contains(name)) {
        tracing::info!(event = %LogEvent::PassedClosed, name, "a socket that the profile does not name is closed");
    }
}

/// A gateway that a `verify` has started does not outlive it, however that ends.
fn end_with_parent(parent: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have ended before the line above.
    let is_there = getppid().is_some_and(|now| now.as_raw_pid() == parent as i32);
    anyhow::ensure!(is_there, "process {parent} has not started this one, or has ended");
    Ok(())
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
    let (mut hangups, handle, asks) = (
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
                _ => asks.spawn("reload", send_command(handle.clone(), Command::Reload)),
            }
        }
    });
    Ok(())
}

/// The gateway writes down itself what came of it.
async fn send_command(handle: GatewayHandle, command: Command) {
    drop(handle.ask(command).await);
}
