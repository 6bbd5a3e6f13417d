//! What each subcommand does. Answers go to standard output, errors to standard error.
//!
//! This file and its parts use each other: the longer commands are in files of their own, and share what is defined
//! here.

mod audit;
mod doctor;
pub mod profile_folders;
mod remote;
mod verify;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{anyhow, bail};
use clap::CommandFactory;

use self::profile_folders::profile_source;
use crate::{
    admin::{client, socket_path, target::AdminTarget},
    attach,
    certs::{self, CertsRequest},
    check,
    cli::{AnswerForm, AuditAction, Cli, CliAction, KillOptions, LockdownOptions, SelftestSubject},
    disk::PipePolicy,
    exit,
    gateway::{
        handle::{AdminAccess, AnswerMismatch, Command, CommandAnswer, LockdownTarget},
        plan::SwitchVerdict,
    },
    init, manual,
    output::{OutputError, OutputForm, print, print_line, print_note},
    profile::{self, Half},
    selftest,
    source::ProfileSource,
    status,
    telemetry::{
        health::readiness::ReadinessDemand,
        metrics::MetricsFormat,
        registry::{KillSelection, SessionMatch},
        snapshot::Snapshot,
    },
};

/// Runs one subcommand.
pub async fn run(cli: &Cli, action: &CliAction) -> anyhow::Result<ExitCode> {
    let source = profile_source(cli);
    match action {
        CliAction::Check { profiles, json } => {
            let source = ProfileSource { pipes: PipePolicy::Read, ..source };
            return Ok(check::run(cli, &source, profiles, output_form(*json))?);
        }
        CliAction::PrintConfig { profile } => return Ok(check::print_effective(cli, &source, profile)?),
        CliAction::Profiles => check::list_profiles(&source)?,
        CliAction::Verify { json } => return verify::run(cli, output_form(*json)).await,
        CliAction::Status { json, ready: false, .. } => return print_status(cli, output_form(*json)).await,
        CliAction::Status { json, ready: true, strict } => {
            let demand = if *strict { ReadinessDemand::Strict } else { ReadinessDemand::Usual };
            return print_readiness(cli, demand, output_form(*json)).await;
        }
        CliAction::Doctor { json, fleet, targets } => {
            return doctor::run(cli, output_form(*json), fleet.as_deref(), targets).await;
        }
        CliAction::Metrics { text } => {
            let format = if *text { MetricsFormat::Text } else { MetricsFormat::OpenMetrics };
            return print_metrics(cli, format).await;
        }
        CliAction::Attach { read_only, fleet, targets } => {
            return remote::attach(cli, admin_access(*read_only), fleet.as_deref(), targets).await;
        }
        CliAction::Admin(options) => return remote::carry(cli, admin_access(options.read_only)).await,
        CliAction::Replay { file } => return attach::replay(file).await,
        CliAction::Switch { profile, plan, form } => {
            let command: fn(String) -> Command = match plan {
                true => |profile| Command::Plan { profile },
                false => |profile| Command::Switch { profile },
            };
            return print_outcome(switch_outcome(cli, profile, command).await, *form);
        }
        CliAction::Drain { service, form } => {
            return send_command(cli, Command::Drain { service: service.clone() }, *form).await;
        }
        CliAction::Stop(form) => return send_command(cli, Command::Stop, *form).await,
        CliAction::Reload(form) => return send_command(cli, Command::Reload, *form).await,
        CliAction::Dismiss { peer, form } => {
            return send_command(cli, Command::Dismiss { peer: peer.clone() }, *form).await;
        }
        CliAction::Kill { of, form } => return send_command(cli, kill_command(of), *form).await,
        CliAction::Lockdown { of, form } => {
            return send_command(cli, Command::Lockdown(lockdown_target(of)), *form).await;
        }
        CliAction::Unlock { of, form } => {
            return send_command(cli, Command::Unlock(lockdown_target(of)), *form).await;
        }
        CliAction::LogLevel { level, form } => {
            return send_command(cli, Command::LogLevel { level: level.clone() }, *form).await;
        }
        CliAction::Audit { of: AuditAction::Verify { file, head } } => return audit::verify(file, *head),
        CliAction::Certs { out, dmz, internal, client, renew, revoke } => {
            let (dmz, internal, clients) = (dmz.clone(), internal.clone(), client.clone());
            let request = CertsRequest { dmz, internal, clients, renew: *renew, revoke: revoke.clone() };
            return make_certificates(out, &request);
        }
        CliAction::Init(options) => return Ok(init::run(options, cli.mode)?),
        CliAction::Schema => print_line(format_args!("{:#}", profile::schema()))?,
        CliAction::Completions { shell } => print_completions(*shell)?,
        // Outside the runtime, whose threads would be older than the lock.
        CliAction::Selftest { of } => return run_selftest(*of, cli.half),
        CliAction::Man => print(&String::from_utf8_lossy(&manual::page()?))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn make_certificates(out: &Path, request: &CertsRequest) -> anyhow::Result<ExitCode> {
    let report = certs::run(out, request)?;
    report.done.iter().try_for_each(print_line)?;
    report.left.iter().for_each(print_note);
    Ok(if report.left.is_empty() { ExitCode::SUCCESS } else { exit::FAILED.into() })
}

fn print_completions(shell: clap_complete::Shell) -> Result<(), OutputError> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Must be called where no other thread runs.
pub fn run_selftest(of: SelftestSubject, half: Option<Half>) -> anyhow::Result<ExitCode> {
    match of {
        SelftestSubject::Confine => selftest::run(half),
        SelftestSubject::Int80 => selftest::call_as_32_bits(half),
    }
}

async fn print_status(cli: &Cli, form: OutputForm) -> anyhow::Result<ExitCode> {
    let snapshot = snapshot(cli).await?;
    print_line(match form {
        OutputForm::Json => serde_json::to_string_pretty(&*snapshot)?,
        OutputForm::Text => status::status_text(&snapshot),
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn print_readiness(cli: &Cli, demand: ReadinessDemand, form: OutputForm) -> anyhow::Result<ExitCode> {
    let snapshot = snapshot(cli).await?;
    let Some(readiness) = &snapshot.readiness else {
        bail!("the gateway is version {}, which does not say whether it is ready", snapshot.version)
    };
    let is_ready = readiness.meets(demand);
    print_line(match form {
        OutputForm::Json => {
            serde_json::json!({ "ready": is_ready, "reasons": readiness.unmet(demand) }).to_string()
        }
        OutputForm::Text => {
            let word = if is_ready { "ready" } else { "not ready" };
            [vec![word.to_owned()], readiness.unmet(demand)].concat().join("\n")
        }
    })?;
    Ok(if is_ready { ExitCode::SUCCESS } else { exit::FAILED.into() })
}

async fn snapshot(cli: &Cli) -> anyhow::Result<Arc<Snapshot>> {
    ask_status(&AdminTarget::Socket(admin_socket(cli)?)).await
}

async fn ask_status(at: &AdminTarget) -> anyhow::Result<Arc<Snapshot>> {
    let answer = client::send_command_to(at, Command::Status).await?;
    answer.into_status().map_err(|error| anyhow!("the gateway gave no status: {error}"))
}

async fn print_metrics(cli: &Cli, format: MetricsFormat) -> anyhow::Result<ExitCode> {
    let answer = client::send_command(&admin_socket(cli)?, Command::Metrics { format }).await?;
    print(&answer.into_metrics()?)?;
    Ok(ExitCode::SUCCESS)
}

async fn send_command(cli: &Cli, command: Command, form: AnswerForm) -> anyhow::Result<ExitCode> {
    print_outcome(send_for_outcome(cli, command).await, form)
}

async fn switch_outcome(
    cli: &Cli,
    profile: &str,
    command: fn(String) -> Command,
) -> anyhow::Result<(u8, String)> {
    send_for_outcome(cli, command(absolute_profile(profile)?)).await
}

fn print_outcome(outcome: anyhow::Result<(u8, String)>, form: AnswerForm) -> anyhow::Result<ExitCode> {
    let (code, text) = match (outcome, form.json) {
        (outcome, false) => outcome?,
        (outcome, true) => {
            let (code, text) = outcome.unwrap_or_else(|error| (exit::FAILED, error.to_string()));
            (code, serde_json::json!({ "done": code != exit::FAILED, "text": text }).to_string())
        }
    };
    print_line(text)?;
    Ok(code.into())
}

/// What came of a command: the exit code, and what is printed. A refusal is an error.
async fn send_for_outcome(cli: &Cli, command: Command) -> anyhow::Result<(u8, String)> {
    Ok(match client::send_command(&admin_socket(cli)?, command).await? {
        CommandAnswer::Done(text) => (exit::CLEAN, text),
        CommandAnswer::Killed(sessions) => (exit::CLEAN, sessions.to_string()),
        // The code of the gateway itself.
        CommandAnswer::Cut(text) => (exit::CUT, text),
        CommandAnswer::Planned(plan) => {
            let code = match plan.outlook {
                SwitchVerdict::Possible => exit::CLEAN,
                SwitchVerdict::Refused => exit::FAILED,
            };
            (code, plan.to_string())
        }
        CommandAnswer::Refused(text) | CommandAnswer::NotSaved(text) => bail!(text),
        CommandAnswer::Metrics(_)
        | CommandAnswer::Status(_)
        | CommandAnswer::History(_)
        | CommandAnswer::Verified(_)
        | CommandAnswer::Profiles(_) => bail!(AnswerMismatch::OtherQuestion),
    })
}

fn kill_command(options: &KillOptions) -> Command {
    match options.session.clone() {
        Some(session) => Command::Kill { session },
        None => Command::KillAll(KillSelection::Matching(SessionMatch {
            client: options.client,
            user: options.user.clone(),
            peer: options.peer.clone(),
            service: options.service.clone(),
        })),
    }
}

fn lockdown_target(of: &LockdownOptions) -> LockdownTarget {
    LockdownTarget { peer: of.peer.clone(), service: of.service.clone() }
}

/// What `--json` says.
fn output_form(is_json: bool) -> OutputForm {
    if is_json { OutputForm::Json } else { OutputForm::Text }
}

fn admin_access(is_read_only: bool) -> AdminAccess {
    if is_read_only { AdminAccess::ReadOnly } else { AdminAccess::Full }
}

fn admin_socket(cli: &Cli) -> anyhow::Result<PathBuf> {
    match &cli.admin {
        Some(path) => Ok(path.clone()),
        None => Ok(socket_path::only_socket()?),
    }
}

/// A file name is made absolute, since the gateway runs in another folder; a plain name is looked up by the
/// gateway.
fn absolute_profile(profile: &str) -> anyhow::Result<String> {
    let is_file = profile.contains('/') || profile.ends_with(".yaml") || profile.ends_with(".yml");
    if !is_file {
        return Ok(profile.to_owned());
    }
    let path = std::path::absolute(profile).map_err(|error| anyhow::anyhow!("{profile}: {error}"))?;
    path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("{}: not UTF-8", path.display()))
}
