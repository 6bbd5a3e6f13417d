//! What each subcommand does. Answers go to standard output, trouble to standard error.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use clap::CommandFactory;
use serde_json::json;

use crate::{
    admin::{client, place},
    attach, certs,
    cli::{Action, Cli},
    disk::Pipes,
    gateway::handle::{Access, Answer, Command},
    profile::{self, Problem, Profile},
    source::{Chosen, Source},
    status, text, verify,
};

/// Exit codes of the program.
pub mod exit {
    pub const FAILED: u8 = 1;
    pub const BAD_INPUT: u8 = 2;
    pub const CUT: u8 = 3;
}

/// Runs one subcommand.
pub async fn run(cli: &Cli, action: &Action) -> anyhow::Result<ExitCode> {
    let source = source(cli);
    match action {
        Action::Check { profiles } => {
            let source = Source { pipes: Pipes::Read, ..source };
            return Ok(check(cli, &source, profiles));
        }
        Action::Profiles => list(&source),
        Action::Verify { json } => return verify::run(cli, *json).await,
        Action::Status { json } => return print_status(cli, *json).await,
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
        Action::Kill { session } => return tell(cli, Command::Kill { session: session.clone() }).await,
        Action::Certs { out, dmz, internal } => {
            let written = certs::write(out, &[("dmz", dmz), ("internal", internal)])?;
            written.iter().for_each(|path| println!("made {}", path.display()));
            if written.is_empty() {
                println!("nothing to make: {} holds a CA and both halves' certificates", out.display());
            }
        }
        Action::Schema => print(&format!("{:#}\n", profile::schema())),
        Action::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "portcullis", &mut text);
            print(&String::from_utf8_lossy(&text));
        }
        Action::Man => {
            let mut text = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut text)?;
            print(&String::from_utf8_lossy(&text));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what may be long: a reader such as `head` may have had enough of it, which is no error.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
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

fn check(cli: &Cli, source: &Source, names: &[String]) -> ExitCode {
    let named = names.iter().map(|name| source.choose(name)).collect();
    let listed = || source.list().into_iter().map(|file| Ok(Chosen::File(file))).collect();
    let all: Vec<Result<Chosen, Vec<Problem>>> = if names.is_empty() { listed() } else { named };
    if all.is_empty() {
        let folders: Vec<_> = source.folders.iter().map(|folder| text::path(folder)).collect();
        println!("no profiles in {}", folders.join(", "));
    }
    let mut code = ExitCode::SUCCESS;
    for chosen in all {
        match chosen.and_then(|chosen| source.load(&chosen, cli.mode)) {
            Ok(loaded) => {
                let file = loaded.profile.file.as_deref().unwrap_or(Path::new("demo"));
                println!("{}: ok, {}", text::path(file), describe(&loaded.profile));
                for warning in profile::warnings(&loaded.profile) {
                    println!("{}: warning: {warning}", text::path(file));
                }
            }
            Err(problems) => {
                problems.iter().for_each(|problem| println!("{problem}"));
                code = exit::BAD_INPUT.into();
            }
        }
    }
    code
}

fn list(source: &Source) {
    for file in source.list() {
        let name = text::path(Path::new(file.file_stem().unwrap_or_default()));
        match source.load(&Chosen::File(file.clone()), None) {
            Ok(loaded) => {
                println!("{name:<24} {:<32} valid    {}", describe(&loaded.profile), text::path(&file))
            }
            Err(problems) => {
                let count = problems.len();
                println!(
                    "{name:<24} {:<32} invalid  {} ({count} problems, see `check`)",
                    "-",
                    text::path(&file)
                );
            }
        }
    }
}

fn describe(profile: &Profile) -> String {
    let halves = match (&profile.dmz, &profile.internal) {
        (Some(_), Some(_)) => "dmz and internal",
        (Some(_), None) => "dmz",
        (None, _) => "internal",
    };
    format!("{}, {halves}", serde_word(&json!(profile.mode)))
}

fn serde_word(value: &serde_json::Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

async fn print_status(cli: &Cli, json: bool) -> anyhow::Result<ExitCode> {
    match client::ask(&socket(cli)?, Command::Status).await? {
        Answer::Status(snapshot) => {
            let text = if json { serde_json::to_string_pretty(&*snapshot)? } else { status::text(&snapshot) };
            print(&format!("{text}\n"));
            Ok(ExitCode::SUCCESS)
        }
        Answer::Refused(text) => bail!("the gateway gave no status: {text}"),
        other => bail!("the gateway gave no status but {other:?}"),
    }
}

async fn tell(cli: &Cli, command: Command) -> anyhow::Result<ExitCode> {
    match client::ask(&socket(cli)?, command).await? {
        Answer::Done(text) => {
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Answer::Refused(text) => {
            eprintln!("portcullis: {text}");
            Ok(exit::FAILED.into())
        }
        // The same code as the gateway itself ends with.
        Answer::Cut(text) => {
            println!("{text}");
            Ok(exit::CUT.into())
        }
        Answer::Planned(plan) => {
            println!("{plan}");
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
