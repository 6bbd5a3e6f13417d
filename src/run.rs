//! Runs the gateway of a profile, with a screen or without, until it ends.

use std::{path::Path, process::ExitCode};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    admin::{place, server::AdminSocket},
    cli::Cli,
    commands::{self, exit},
    demo,
    gateway::{
        Engine, Outcome,
        handle::{Answer, Command, Handle},
    },
    headless,
    source::Chosen,
    tasks::Tasks,
    telemetry::log,
};

/// Runs the gateway; `terminal` says whether a screen could open.
pub fn run(cli: &Cli, runtime: &Runtime, terminal: bool) -> anyhow::Result<ExitCode> {
    let source = commands::source(cli);
    let chosen = cli.profile.as_deref().map_or(Ok(Chosen::Demo), |name| source.choose(name));
    let (chosen, loaded) =
        match chosen.and_then(|chosen| Ok((chosen.clone(), source.load(&chosen, cli.mode)?))) {
            Ok(loaded) => loaded,
            Err(problems) => {
                problems.iter().for_each(|problem| eprintln!("{problem}"));
                return Ok(exit::BAD_INPUT.into());
            }
        };
    let _log = log::init(cli.log_format);
    let limit = raise_descriptors();
    let _inside = runtime.enter();
    // The admin socket and its folder are nobody else's business from the moment they exist.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // The admin socket first: where it answers, this gateway runs already.
    let admin = match cli.admin.as_deref() {
        Some(path) if path == Path::new("none") => None,
        Some(path) => Some(AdminSocket::bind(path)?),
        None => Some(AdminSocket::bind(&place::default_socket(&loaded.profile.name, cli.role)?)?),
    };
    let is_demo = chosen == Chosen::Demo;
    let (handle, engine) = Engine::start(source, chosen, loaded)?;
    tracing::info!("up to {limit} open files");
    let tasks = Tasks::default();
    if is_demo && !cli.no_samples {
        demo::start_clients(&handle, &tasks);
    }
    let admin = admin.map(|(socket, listener)| {
        socket.serve(listener, handle.clone());
        socket
    });
    let outcome = runtime.block_on(async {
        obey_signals(&handle, &tasks)?;
        if !terminal || cli.no_ui {
            if !cli.no_ui {
                tracing::info!("no terminal on standard input and output: running headless");
            }
            tasks.spawn("summary", headless::summarise(handle.for_asker("headless")));
        }
        let outcome = engine.run().await;
        if let Some(admin) = admin {
            admin.close().await;
        }
        anyhow::Ok(outcome)
    })?;
    Ok(match outcome {
        Outcome::Clean => ExitCode::SUCCESS,
        Outcome::Cut(_) => exit::CUT.into(),
    })
}

/// Each session needs two descriptors or more: the soft limit is raised to the hard one.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not be raised, the one there is will do.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn obey_signals(handle: &Handle, tasks: &Tasks) -> std::io::Result<()> {
    for (kind, name, command) in [
        (SignalKind::terminate(), "SIGTERM", Command::Stop),
        (SignalKind::interrupt(), "SIGINT", Command::Stop),
        (SignalKind::hangup(), "SIGHUP", Command::Reload),
    ] {
        let signals = signal(kind)?;
        tasks.spawn("signals", obey(signals, handle.for_asker(name), command, tasks.clone()));
    }
    Ok(())
}

async fn obey(mut signals: Signal, handle: Handle, command: Command, tasks: Tasks) {
    while signals.recv().await.is_some() {
        // Asked in a task of its own: a second SIGTERM must not wait for the first one's answer.
        let (handle, command) = (handle.clone(), command.clone());
        tasks.spawn("signal", async move {
            if let Answer::Refused(why) = handle.ask(command).await {
                tracing::warn!("{why}");
            }
        });
    }
}
