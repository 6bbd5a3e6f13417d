//! What is done before anything runs: the profile is loaded, and the part of the lock that applies from the start is
//! taken. The lock comes first, because it holds only for threads that are started later.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use rustix::process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};
use signal_hook::consts::SIGUSR1;

use crate::{
    admin::socket_path,
    cli::Cli,
    commands::profile_folders::profile_source,
    confine::{self, ProcessLock, folders::LockedFolders},
    demo, exit,
    gateway::{SavedHistory, SavedLockdown, history_file::HistoryFile, lockdown_file::LockdownFile},
    net::{inherited::InheritedSockets, passed},
    output::print_note,
    profile::{DemoPorts, Profile},
    source::{ChosenProfile, LoadedProfile, ProfileSource},
    telemetry::log,
    tui,
};

/// A gateway whose profile has been loaded, before anything runs.
pub enum PreparedGateway {
    Ready(Box<GatewayStart>),
    /// The profile cannot be loaded, and the reason was printed.
    Refused(ExitCode),
}

/// The profile and everything else that a gateway starts with.
pub struct GatewayStart {
    pub(super) source: ProfileSource,
    pub(super) chosen: ChosenProfile,
    pub(super) loaded: LoadedProfile,
    pub(super) lock: ProcessLock,
    pub(super) inherited: InheritedSockets,
    pub(super) lockdown: SavedLockdown,
    pub(super) history: SavedHistory,
    pub(super) demo_ports: Option<DemoPorts>,
    /// The path of its admin socket.
    pub(super) socket: Option<PathBuf>,
}

/// Loads the profile, and takes the part of the lock that applies from the start. No thread runs yet.
pub fn prepare(cli: &Cli) -> anyhow::Result<PreparedGateway> {
    if let Some(parent) = cli.ends_with {
        end_with_parent(parent)?;
    }
    forbid_core_dumps();
    // From now on it never ends the process, however early or often it comes; `obey_signals` does what it asks
    // for.
    signal_hook::flag::register(SIGUSR1, Arc::default())?;
    let source = profile_source(cli);
    let chosen = cli
        .profile
        .as_deref()
        .map_or(Ok(ChosenProfile::Demo(demo::free_ports())), |name| source.choose(name));
    let (chosen, mut loaded) =
        match chosen.and_then(|chosen| Ok((chosen.clone(), source.load_to_serve(&chosen, cli.mode)?))) {
            Ok(loaded) => loaded,
            Err(problems) => {
                for problem in problems.iter().map(ToString::to_string) {
                    print_note(log::failed_start_line(cli.log_format, &problem, &problem));
                }
                return Ok(PreparedGateway::Refused(exit::BAD_INPUT.into()));
            }
        };
    if cli.ends_with.is_some() {
        // A gateway that `verify` starts writes nothing of the real gateway's.
        (loaded.profile.log, loaded.profile.access_log, loaded.profile.audit) = (None, None, None);
    }
    let log = loaded.profile.log.clone();
    let prepared = prepare_loaded(cli, source, chosen, loaded);
    // Whoever reports the failure writes it there; nothing is locked then.
    prepared.inspect_err(|_| log::set_file(log.as_deref()))
}

fn prepare_loaded(
    cli: &Cli,
    mut source: ProfileSource,
    chosen: ChosenProfile,
    loaded: LoadedProfile,
) -> anyhow::Result<PreparedGateway> {
    if let Some(folder) = chosen.file().and_then(Path::parent) {
        source.add_folder(folder);
    }
    let socket = match cli.admin.as_deref() {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(path.to_path_buf()),
        None => Some(socket_path::default_socket(&loaded.profile.name, cli.half)?),
    };
    // What `verify` starts may have been handed some: its checklist looks for them.
    let inherited = cli.ends_with.map_or_else(InheritedSockets::look, |_| InheritedSockets::default());
    // Those of a service manager are refused by their names.
    if passed::names().is_empty()
        && let Some(why) = inherited.refusal(&loaded.profile)
    {
        anyhow::bail!(why);
    }
    // A gateway that `verify` starts keeps no locks.
    let keeps_locks = cli.ends_with.is_none();
    let file = LockdownFile::of_profile(&loaded.profile).filter(|_| keeps_locks);
    let history = history_file(cli, &chosen, &loaded.profile);
    make_log_folders(&loaded.profile);
    let mut folders = locked_folders(cli, &source, &chosen, socket.as_deref());
    let state_files =
        [file.as_ref().map(LockdownFile::state_file), history.as_ref().map(HistoryFile::state_file)];
    for file in state_files.into_iter().flatten() {
        if confine::half_to_lock(&loaded.profile).is_some() {
            // A locked half cannot create the folder later. If it cannot be created now, the first write
            // reports that.
            let _ = file.prepare_folder();
        }
        folders.written.push(file.folder().to_path_buf());
    }
    // Faults in the files are kept and reported once the log is open.
    let lockdown = if keeps_locks { SavedLockdown::read(file) } else { SavedLockdown::default() };
    let history = SavedHistory::read(history);
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
        inherited,
        lockdown,
        history,
        demo_ports,
        socket,
    })))
}

/// Keys are in memory, and would be in a core dump. Under a limit of 0 the kernel still hands the dump to a program,
/// where there is one for them (core(5)); at 1 it writes none and starts none.
fn forbid_core_dumps() {
    // Refused only where even that is too much, and then the limit is 0.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) });
}

/// Where the last hour is kept. What `verify` starts keeps none, nor does the built-in profile.
fn history_file(cli: &Cli, chosen: &ChosenProfile, profile: &Profile) -> Option<HistoryFile> {
    let is_kept = chosen.file().is_some() && cli.ends_with.is_none();
    HistoryFile::of_profile(profile).filter(|_| is_kept)
}

/// A locked half cannot create them later. If one cannot be created now, its file is reported with the lost
/// lines.
fn make_log_folders(profile: &Profile) {
    if confine::half_to_lock(profile).is_none() {
        return;
    }
    let files = profile.files_written().filter_map(|file| std::path::absolute(file).ok());
    for folder in files.filter_map(|file| file.parent().map(Path::to_path_buf)) {
        let _ = DirBuilder::new().mode(0o750).create(folder);
    }
}

/// What is read and written while a gateway runs: the profiles that it can switch to, with the files they name,
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
    named.chain(of_profiles.iter().map(PathBuf::as_path)).for_each(|file| folders.write_folder_of(file));
    if !cli.no_ui && tui::check_terminal().is_ok() {
        // Where tables are exported to.
        folders.written.extend(std::env::current_dir().ok().filter(|folder| folder.parent().is_some()));
    }
    folders
}

/// A gateway that `verify` has started ends with it, however that ends.
fn end_with_parent(parent: u32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // The parent may have ended before the line above.
    let is_there = getppid().is_some_and(|now| now.as_raw_pid() == parent as i32);
    anyhow::ensure!(is_there, "process {parent} has not started this one, or has ended");
    Ok(())
}
