//! `attach`, to one gateway or to many, and its remote end, `admin --stdio`.

use std::{path::Path, process::ExitCode};

use tokio::fs::File;

use crate::{
    admin::{socket_path, stdio, target::AdminTarget},
    attach,
    cli::Cli,
    commands::admin_socket,
    exit,
    fleet::{self, target::FleetTarget},
    gateway::handle::AdminAccess,
    output::print_note,
};

/// Opens the dashboard on the named gateways, or on the one that runs here.
pub async fn attach(
    cli: &Cli,
    access: AdminAccess,
    file: Option<&Path>,
    words: &[String],
) -> anyhow::Result<ExitCode> {
    let record = cli.record.as_deref();
    let targets = match read_targets(access, file, words) {
        Ok(targets) => targets,
        Err(problems) => {
            problems.iter().for_each(print_note);
            return Ok(exit::BAD_INPUT.into());
        }
    };
    match targets.as_slice() {
        [] => attach::run(&AdminTarget::Socket(admin_socket(cli)?), access, record).await,
        // A single named gateway gets the same screen as the one that runs here.
        [only] if file.is_none() => attach::run(&only.at, access, record).await,
        _ => attach::run_fleet(targets, access, record).await,
    }
}

/// The targets of the file, then those of the command line; or what is wrong with them.
pub(super) fn read_targets(
    access: AdminAccess,
    file: Option<&Path>,
    words: &[String],
) -> Result<Vec<FleetTarget>, Vec<String>> {
    let of_file = file.map_or(Ok(Vec::new()), |file| fleet::file::read(file, access));
    let mut targets =
        of_file.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let named = fleet::target::parse_all(words, access)
        .map_err(|(word, error)| vec![format!("portcullis: target `{word}`: {error}")])?;
    for target in named {
        if targets.iter().any(|known| known.name == target.name) {
            let error = fleet::target::TargetError::Twice(target.name);
            return Err(vec![format!("portcullis: target `{}`: {error}", target.at)]);
        }
        targets.push(target);
    }
    Ok(targets)
}

/// Carries the admin protocol over standard input and output.
pub async fn carry(cli: &Cli, access: AdminAccess) -> anyhow::Result<ExitCode> {
    let path = match (&cli.admin, &cli.profile) {
        (None, Some(profile)) => socket_path::socket_of(profile)?,
        _ => admin_socket(cli)?,
    };
    // As files: whether they are pipes, sockets or terminals depends on whoever started this.
    let [input, output] = [rustix::stdio::stdin(), rustix::stdio::stdout()].map(rustix::io::dup);
    let [input, output] = [input?, output?].map(|end| File::from_std(end.into()));
    stdio::carry(&path, access, input, output).await?;
    Ok(ExitCode::SUCCESS)
}
