//! The manual page: one page for all commands, made from the grammar of the command line.
//!
//! `clap_mangen` writes a page for each subcommand. Here they are sections of one page, so that nothing refers
//! to a page that is not installed.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, italic, roman},
};

use crate::cli::{Cli, EXIT_CODES};

/// The page as roff text.
pub fn page() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let man = Man::new(command.clone());
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    commands(&command).to_writer(&mut out)?;
    // `clap_mangen` would call it EXTRA; man-pages(7) has a name for it.
    let codes: Vec<_> = EXIT_CODES.lines().filter_map(|line| line.trim().split_once("  ")).collect();
    section("EXIT STATUS", &codes).to_writer(&mut out)?;
    section("SIGNALS", SIGNALS).to_writer(&mut out)?;
    section("FILES", FILES).to_writer(&mut out)?;
    section("ENVIRONMENT", ENVIRONMENT).to_writer(&mut out)?;
    section("EXAMPLES", EXAMPLES).to_writer(&mut out)?;
    man.render_version_section(&mut out)?;
    Ok(out)
}

const SIGNALS: &[(&str, &str)] = &[
    ("SIGTERM, SIGINT", "drains and stops; a second one cuts the sessions that are open"),
    (
        "SIGHUP",
        "headless: reads the profile and its certificates again; with a dashboard its terminal is gone, and the gateway goes on headless",
    ),
    ("SIGUSR1", "reopens the files of log, access_log and audit, for programs that have renamed them"),
];

const FILES: &[(&str, &str)] = &[
    (
        "./profiles/, $XDG_CONFIG_HOME/portcullis/profiles/, /etc/portcullis/profiles/",
        "where a profile's name is looked up, in this order",
    ),
    (
        "$RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/portcullis/, /run/portcullis/",
        "admin sockets of running gateways, PROFILE.sock or PROFILE-ROLE.sock: the first of these that is set, the last for root",
    ),
    (
        "$STATE_DIRECTORY, /var/lib/portcullis/, $XDG_STATE_HOME/portcullis/",
        "what an internal half has locked, PROFILE-ROLE.lockdown, and the last hour of the history, PROFILE-ROLE.history: the first of these that is set, the second for root",
    ),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "PORTCULLIS_LOG",
        "what is logged: a level (error, warn, info, debug, trace) for the gateway itself, or directives such as portcullis::link=debug,rustls=info; info unless set; debug shows every link that comes up or goes down",
    ),
    ("NO_COLOR", "when set, the dashboard uses no colours"),
    (
        "XDG_RUNTIME_DIR, XDG_CONFIG_HOME, XDG_STATE_HOME, RUNTIME_DIRECTORY, STATE_DIRECTORY",
        "see FILES; relative paths are ignored",
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID",
        "of a service manager: notified when the gateway is ready, reloads, stops and turns; not handed on to programs that are started",
    ),
    (
        "LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES",
        "sockets that a service manager has opened, for addresses such as https://fd@NAME; not handed on",
    ),
    (
        "CREDENTIALS_DIRECTORY",
        "where systemd hands over files with LoadCredential=: a key or another secret there may be readable by the group root, as systemd leaves it",
    ),
    ("JOURNAL_STREAM", "where standard error is the journal, lines have a priority and no time of their own"),
];

const EXAMPLES: &[(&str, &str)] = &[
    ("portcullis", "runs the demo: both halves in one process, with a dashboard"),
    ("portcullis certs --out pki", "makes a private CA and a certificate for each half"),
    ("portcullis check edge inside", "checks two profiles, and whether their halves go together"),
    ("portcullis --profile edge --no-ui", "runs the gateway of a profile as a service"),
    ("portcullis verify --profile reverse", "proves a profile step by step, forward before reverse"),
    ("portcullis switch --plan reverse", "says what a switch of the running gateway would change"),
    ("portcullis attach --read-only", "opens the dashboard on a running gateway, to look only"),
];

/// Every subcommand with its arguments and options, without those of the program itself.
fn commands(program: &Command) -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["COMMANDS"]);
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        page.control("TP", []);
        page.text(usage(command));
        let about = command.get_long_about().or_else(|| command.get_about());
        page.text([roman(about.map(ToString::to_string).unwrap_or_default())]);
        let own =
            command.get_arguments().filter(|argument| !argument.is_global_set() && !argument.is_hide_set());
        for argument in own.filter(|argument| argument.get_id() != "help") {
            let Some(help) = argument.get_help() else { continue };
            let name = argument.get_long().map_or_else(|| value_name(argument), |long| format!("--{long}"));
            page.control("br", []);
            page.text([italic(name), roman(format!(": {help}"))]);
        }
    }
    page
}

fn value_name(argument: &clap::Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    names.first().map_or_else(|| argument.get_id().to_string().to_uppercase(), ToString::to_string)
}

/// `switch [--plan] PROFILE`: bold for words that are typed as they are.
fn usage(command: &Command) -> Vec<Inline> {
    let mut words = vec![bold(command.get_name())];
    for argument in command.get_arguments() {
        if argument.is_global_set() || argument.is_hide_set() || argument.get_id() == "help" {
            continue;
        }
        let takes_value = argument.get_action().takes_values();
        let value = if takes_value { value_name(argument) } else { String::new() };
        let word = match argument.get_long() {
            Some(long) => format!("--{long} {value}").trim().to_owned(),
            None => value,
        };
        let word = if argument.is_required_set() { word } else { format!("[{word}]") };
        words.push(roman(format!(" {word}")));
    }
    words
}

fn section(title: &str, entries: &[(&str, &str)]) -> Roff {
    let mut page = Roff::new();
    page.control("SH", [title]);
    for (name, text) in entries {
        page.control("TP", []);
        page.text([bold(*name)]);
        page.text([roman(*text)]);
    }
    page
}
