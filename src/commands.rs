//! What each subcommand does. Answers go to standard output, trouble to standard error.

use std::{env, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::bail;
use clap::CommandFactory;

use crate::{
    admin::{client, place},
    attach,
    certs::{self, Wanted},
    check,
    cli::{Action, Cli},
    disk::Pipes,
    exit,
    gateway::handle::{Access, Answer, Command},
    manual,
    output::{note, print, print_line},
    profile,
    source::Source,
    status,
    telemetry::{health::readiness::Demand, snapshot::Snapshot},
    verify,
};

/// Runs one subcommand.
pub async fn run(cli: &Cli, action: &Action) -> anyhow::Result<ExitCode> {
    let source = source(cli);
    match action {
        Action::Check { profiles } => {
            let source = Source { pipes: Pipes::Read, ..source };
            return Ok(check::run(cli, &source, profiles)?);
        }
        Action::Profiles => check::list(&source)?,
        Action::Verify { json } => return verify::run(cli, *json).await,
        Action::Status { json, ready: false, .. } => return print_status(cli, *json).await,
        Action::Status { json, ready: true, strict } => {
            let demand = if *strict { Demand::Strict } else { Demand::Usual };
            return print_readiness(cli, demand, *json).await;
        }
        Action::Attach { read_only } => {
            let access = if *read_only { Access::ReadOnly } else { Access::Full };
            return attach::run(&socket(cli)?, access, cli.record.as_deref()).await;
        }
        Action::Replay { file } => return attach::replay(file).await,
        Action::Switch { profile, plan } => {
            let profile = absolute(profile)?;
            let command = if *plan { Command::Plan { profile } } else { Command::Switch { profile } };
            return tell(cli, command).await;
        }
        Action::Drain { service } => return tell(cli, Command::Drain { service: service.clone() }).await,
        Action::Stop => return tell(cli, Command::Stop).await,
        Action::Reload => return tell(cli, Command::Reload).await,
        Action::Dismiss { peer } => return tell(cli, Command::Dismiss { peer: peer.clone() }).await,
        Action::Kill { session } => return tell(cli, Command::Kill { session: session.clone() }).await,
        Action::Certs { out, dmz, internal } => {
            let (dmz, internal) =
                (Wanted { half: "dmz", names: dmz }, Wanted { half: "internal", names: internal });
            let written = certs::write(out, &[dmz, internal])?;
            written.iter().try_for_each(|path| print_line(format_args!("made {}", path.display())))?;
            if written.is_empty() {
                let folder = out.display();
                print_line(format_args!(
                    "nothing to make: {folder} holds a CA and both halves' certificates"
                ))?;
            }
        }
        Action::Schema => print_line(format_args!("{:#}", profile::schema()))?,
        Action::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "portcullis", &mut text);
            print(&String::from_utf8_lossy(&text))?;
        }
        Action::Man => {
            print(&String::from_utf8_lossy(&manual::page()?))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where profiles are looked up: the folder named, else ./profiles, the user's, the system's.
pub fn source(cli: &Cli) -> Source {
    let folders = match &cli.profiles {
        Some(folder) => vec![folder.clone()],
        None => {
            let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
            let user = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
            let user = user.map(|folder| folder.join("portcullis/profiles"));
            let system = PathBuf::from("/etc/portcullis/profiles");
            [Some("profiles".into()), user, Some(system)].into_iter().flatten().collect()
        }
    };
    Source { folders, role: cli.role, pipes: Pipes::Refused }
}

async fn print_status(cli: &Cli, json: bool) -> anyhow::Result<ExitCode> {
    let snapshot = snapshot(cli).await?;
    print_line(if json { serde_json::to_string_pretty(&*snapshot)? } else { status::text(&snapshot) })?;
    Ok(ExitCode::SUCCESS)
}

async fn print_readiness(cli: &Cli, demand: Demand, json: bool) -> anyhow::Result<ExitCode> {
    let snapshot = snapshot(cli).await?;
    let Some(readiness) = &snapshot.readiness else {
        bail!("the gateway is version {}, which does not say whether it is ready", snapshot.version)
    };
    let is_ready = readiness.meets(demand);
    print_line(match json {
        true => serde_json::json!({ "ready": is_ready, "reasons": readiness.lacks(demand) }).to_string(),
        false => {
            let word = if is_ready { "ready" } else { "not ready" };
            [vec![word.to_owned()], readiness.lacks(demand)].concat().join("\n")
        }
    })?;
    Ok(if is_ready { ExitCode::SUCCESS } else { exit::FAILED.into() })
}

async fn snapshot(cli: &Cli) -> anyhow::Result<Arc<Snapshot>> {
    match client::ask(&socket(cli)?, Command::Status).await? {
        Answer::Status(snapshot) => Ok(snapshot),
        Answer::Refused(text) => bail!("the gateway gave no status: {text}"),
        other => bail!("the gateway gave no status but {other:?}"),
    }
}

async fn tell(cli: &Cli, command: Command) -> anyhow::Result<ExitCode> {
    match client::ask(&socket(cli)?, command).await? {
        Answer::Done(text) => {
            print_line(text)?;
            Ok(ExitCode::SUCCESS)
        }
        Answer::Refused(text) => {
            note(format_args!("portcullis: {text}"));
            Ok(exit::FAILED.into())
        }
        // The same code as the gateway itself ends with.
        Answer::Cut(text) => {
            print_line(text)?;
            Ok(exit::CUT.into())
        }
        Answer::Planned(plan) => {
            print_line(plan)?;
            Ok(ExitCode::SUCCESS)
        }
        Answer::Status(_) | Answer::Verified(_) | Answer::Profiles(_) => {
            bail!("the gateway answered another question")
        }
    }
}

fn socket(cli: &Cli) -> anyhow::Result<PathBuf> {
    match &cli.admin {
        Some(path) => Ok(path.clone()),
        None => Ok(place::only_socket()?),
    }
}

/// A file name is made absolute here, since the gateway stands elsewhere; a plain name is looked
/// up by the gateway.
fn absolute(profile: &str) -> anyhow::Result<String> {
    let is_file = profile.contains('/') || profile.ends_with(".yaml") || profile.ends_with(".yml");
    if !is_file {
        return Ok(profile.to_owned());
    }
    let path = std::path::absolute(profile).map_err(|error| anyhow::anyhow!("{profile}: {error}"))?;
    path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("{}: not UTF-8", path.display()))
}
