//! `doctor`: what limits the gateway that runs here, or each of several, whose clocks are compared too.
//! The findings are made in `crate::doctor`; here gateways are asked for their snapshots.

use std::{cmp::Reverse, path::Path, process::ExitCode, sync::Arc, time::SystemTime};

use futures_util::future::join_all;

use super::{admin_socket, ask_status, remote};
use crate::{
    admin::{client, target::AdminTarget},
    cli::Cli,
    doctor::{self, DoctorFinding, GatewayClock, MachineFacts},
    exit,
    fleet::target::FleetTarget,
    gateway::handle::{AdminAccess, Command, CommandAnswer},
    output::{OutputForm, print_line, print_note},
};

/// One gateway's findings, and its clock.
struct ExaminedGateway {
    findings: Vec<DoctorFinding>,
    clock: Option<GatewayClock>,
}

/// Asks those that are named, or else the one that runs here.
pub async fn run(
    cli: &Cli,
    form: OutputForm,
    file: Option<&Path>,
    words: &[String],
) -> anyhow::Result<ExitCode> {
    match remote::read_targets(AdminAccess::ReadOnly, file, words) {
        Ok(targets) if targets.is_empty() => {
            let examined = examine(&"here".into(), &AdminTarget::Socket(admin_socket(cli)?)).await?;
            print_findings(&examined.findings, "this gateway", form)
        }
        Ok(targets) => run_on_all(&targets, form).await,
        Err(problems) => {
            problems.iter().for_each(print_note);
            Ok(exit::BAD_INPUT.into())
        }
    }
}

async fn run_on_all(targets: &[FleetTarget], form: OutputForm) -> anyhow::Result<ExitCode> {
    let examined = join_all(targets.iter().map(|FleetTarget { name, at }| examine(name, at))).await;
    let (mut findings, mut clocks, mut is_missing) = (Vec::new(), Vec::new(), false);
    for (FleetTarget { name, .. }, examined) in targets.iter().zip(examined) {
        match examined {
            Ok(examined) => {
                let of_gateway = |finding| DoctorFinding { gateway: Some(Arc::clone(name)), ..finding };
                findings.extend(examined.findings.into_iter().map(of_gateway));
                clocks.extend(examined.clock);
            }
            Err(error) => {
                is_missing = true;
                print_note(format_args!("portcullis: {name}: {error}"));
            }
        }
    }
    findings.extend(doctor::find_clock_skew(clocks));
    findings.sort_by_key(|finding| Reverse(finding.severity));
    let code = print_findings(&findings, "these gateways", form)?;
    Ok(if is_missing { exit::FAILED.into() } else { code })
}

async fn examine(name: &Arc<str>, at: &AdminTarget) -> anyhow::Result<ExaminedGateway> {
    let snapshot = ask_status(at).await?;
    let clock = GatewayClock::of_snapshot(name, &snapshot, 0.0, SystemTime::now());
    let machine = match at {
        AdminTarget::Socket(_) => MachineFacts::read(),
        // It may lead to another machine, of which nothing is known here.
        AdminTarget::Program(_) => MachineFacts::default(),
    };
    let mut findings = doctor::find_limits(&snapshot, &machine);
    // A gateway without a history refuses.
    if let CommandAnswer::History(report) =
        client::send_command_to(at, Command::History(doctor::LAST_HOUR)).await?
    {
        findings.extend(doctor::find_in_last_hour(&report));
    }
    Ok(ExaminedGateway { findings, clock })
}

fn print_findings(findings: &[DoctorFinding], whom: &str, form: OutputForm) -> anyhow::Result<ExitCode> {
    print_line(match form {
        OutputForm::Json => serde_json::to_string_pretty(findings)?,
        OutputForm::Text => doctor::findings_text(findings, whom),
    })?;
    Ok(if doctor::must_act(findings) { exit::FAILED.into() } else { ExitCode::SUCCESS })
}
