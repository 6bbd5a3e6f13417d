//! The command line. Nothing but the grammar: man page and completions are made from it.

mod options;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use self::options::{AnswerForm, CarrierOptions, InitHalf, InitOptions, KillOptions, LockdownOptions};
use crate::{
    profile::{Half, Mode},
    telemetry::{audit::LineHash, log::LogFormat},
};

/// A gateway pair that lets clients reach a service inside a trusted network, without one open
/// inbound port there.
///
/// Without a command it runs the gateway of the profile: with a terminal the dashboard opens,
/// otherwise it runs headless.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, long_version = LONG_VERSION, after_help = EXIT_CODES)]
pub struct Cli {
    /// Profile to run: a name in the profiles folder, or a file
    #[arg(long, global = true, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// Profiles folder [default: ./profiles, the user's configuration folder, /etc/portcullis/profiles]
    #[arg(long, global = true, value_name = "DIR")]
    pub profiles: Option<PathBuf>,
    /// Run the profile in another mode
    #[arg(long, global = true)]
    pub mode: Option<Mode>,
    /// Run only one half of a profile that has both; files of the other half are not read
    #[arg(id = "role", long = "role", value_name = "ROLE", global = true)]
    pub half: Option<Half>,
    /// Headless: log lines on standard error, no screen
    #[arg(long, global = true)]
    pub no_ui: bool,
    /// Local admin socket, or `none` [default: PROFILE.sock or PROFILE-ROLE.sock in the runtime folder]
    #[arg(long, global = true, value_name = "PATH")]
    pub admin: Option<PathBuf>,
    /// Form of the log lines
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// With a gateway or `attach`: record a snapshot a second into a new file, for `replay`
    #[arg(long, global = true, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Run the built-in profile without its sample clients
    #[arg(long)]
    pub no_samples: bool,
    /// Exit when the process with this id, which started this one, exits
    #[arg(long, hide = true, value_name = "PROCESS")]
    pub ends_with: Option<u32>,
    #[command(subcommand)]
    pub command: Option<CliAction>,
}

/// The text of `--version`; `-V` prints its first line.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("PORTCULLIS_BUILT_FROM"),
    "\ntarget: ",
    env!("PORTCULLIS_TARGET"),
    "\nTLS: rustls with aws-lc-rs",
);

/// For `--help`, and for the manual page.
pub const EXIT_CODES: &str = "Exit codes:
  0  clean
  1  could not start, failed for good, or a command was refused or not answered
  2  bad command line or profile
  3  sessions were cut, by the drain deadline or a second signal";

#[derive(Debug, Subcommand)]
pub enum CliAction {
    /// Read profiles and their certificates, and print every problem [default: all in the folder]
    Check {
        // An id of its own: clap keeps one value for each id, and `--profiles` has taken the name.
        #[arg(id = "checked", value_name = "PROFILE")]
        profiles: Vec<String>,
        /// Print the problems as a JSON list, which is empty if there are none
        #[arg(long)]
        json: bool,
    },
    /// Print a profile with everything it extends, and the file and line of each value
    PrintConfig {
        // An id of its own, as above.
        #[arg(id = "printed", value_name = "PROFILE")]
        profile: String,
    },
    /// Run the checklist: profile, basic, forward, reverse, closed
    ///
    /// Gateways of the profile that run on this host check themselves. If none runs, temporary
    /// halves are started on the profile's addresses. Exit 0 when no step fails, 1 when one does.
    Verify {
        /// The report as JSON on standard output; progress stays on standard error
        #[arg(long)]
        json: bool,
    },
    /// Print one snapshot of a running gateway
    Status {
        /// The full snapshot as JSON; with `--ready`, whether the gateway is ready, and why not
        #[arg(long)]
        json: bool,
        /// Exit 0 if the gateway is ready for clients; otherwise print what is missing and exit 1
        #[arg(long)]
        ready: bool,
        /// Ready means every service, and a link to each gateway that the profile names
        #[arg(long, requires = "ready")]
        strict: bool,
    },
    /// Find what limits a running gateway, or several, and what to change
    ///
    /// If several are named, as for `attach`, their clocks are compared too. Exit 1 if something must be
    /// changed, otherwise 0.
    Doctor {
        /// A list of findings as JSON
        #[arg(long)]
        json: bool,
        /// Gateways from a YAML file of NAME: TARGET, which nobody else may be able to write
        #[arg(long, value_name = "FILE")]
        fleet: Option<PathBuf>,
        #[arg(value_name = "NAME=TARGET")]
        targets: Vec<String>,
    },
    /// Print the metrics of a running gateway once, in the format that monitors read
    Metrics {
        /// The text of Prometheus, 0.0.4, instead of OpenMetrics
        #[arg(long)]
        text: bool,
    },
    /// Open the dashboard on a running gateway, or on several at once
    ///
    /// A TARGET is a socket's path; ssh:USER@HOST:PROFILE, which runs your own ssh, with USER and PROFILE if they
    /// are needed; or exec:COMMAND, whose standard input and output lead to a gateway.
    Attach {
        /// Read-only: no command that changes anything is accepted
        #[arg(long)]
        read_only: bool,
        /// Gateways from a YAML file of NAME: TARGET, which nobody else may be able to write
        #[arg(long, value_name = "FILE")]
        fleet: Option<PathBuf>,
        #[arg(value_name = "NAME=TARGET")]
        targets: Vec<String>,
    },
    /// Carry the admin protocol between standard input and output and a gateway's socket
    Admin(CarrierOptions),
    /// Open the dashboard on a recording: pause, step, speed
    Replay {
        /// What `--record` has written
        file: PathBuf,
    },
    /// Move a running gateway to another profile
    Switch {
        // An id of its own, as above: `--profile` has taken the name.
        #[arg(id = "wanted", value_name = "PROFILE")]
        profile: String,
        /// Only print what would be opened and closed, and what happens to links and sessions
        #[arg(long)]
        plan: bool,
        #[command(flatten)]
        form: AnswerForm,
    },
    /// Refuse new sessions of one service or of all; open ones continue. `reload` undoes it
    Drain {
        service: Option<String>,
        #[command(flatten)]
        form: AnswerForm,
    },
    /// Drain until the deadline, then exit; returns when the gateway has stopped
    Stop(AnswerForm),
    /// Read the profile and the certificates again
    Reload(AnswerForm),
    /// Remove a lost gateway, by its name or address, from the list; otherwise it stays until it returns
    Dismiss {
        peer: String,
        #[command(flatten)]
        form: AnswerForm,
    },
    /// End one session, or all of a client, a user, a peer or a service, and print how many
    Kill {
        #[command(flatten)]
        of: KillOptions,
        #[command(flatten)]
        form: AnswerForm,
    },
    /// Internal half: cut a service, a gateway or everything, and refuse it, even after a restart, until
    /// `unlock`
    Lockdown {
        #[command(flatten)]
        of: LockdownOptions,
        #[command(flatten)]
        form: AnswerForm,
    },
    /// Remove a lock; without arguments, remove all locks
    Unlock {
        #[command(flatten)]
        of: LockdownOptions,
        #[command(flatten)]
        form: AnswerForm,
    },
    /// Change the log level of a running gateway: error, warn, info, debug, trace or off
    LogLevel {
        level: String,
        #[command(flatten)]
        form: AnswerForm,
    },
    /// Verify an audit file
    Audit {
        #[command(subcommand)]
        of: AuditAction,
    },
    /// Make a private CA, and a certificate and key for each half or client; renew and revoke them
    ///
    /// Existing files are never overwritten. Anything that could not be done is reported, and the
    /// exit code is 1.
    Certs {
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Name in the DMZ half's certificate; several names make a certificate each, called after them
        /// [default: dmz]
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        dmz: Vec<String>,
        /// Name in the internal half's certificate, or several [default: internal]
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        internal: Vec<String>,
        /// Make a client certificate NAME.pem and NAME.key; with an existing CA, make nothing else
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        client: Vec<String>,
        /// Replace certificates that expire within 30 days, those of these names or all; the old
        /// files are kept as `.old`
        #[arg(long)]
        renew: bool,
        /// Add the certificates of this name to the CA's list of revoked ones, crl.pem
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        revoke: Vec<String>,
    },
    /// Write a commented profile with certificates, and the matching half for the other host
    ///
    /// What no option gives is asked in a terminal. Nothing is overwritten.
    Init(InitOptions),
    /// List the profiles found, with mode, halves and whether each is valid
    Profiles,
    /// Print the JSON Schema of a profile, for editors
    Schema,
    /// Print shell completions
    Completions { shell: clap_complete::Shell },
    /// Print the manual page
    Man,
    /// Lock a test process and try every system call that should be refused; print a table
    #[command(hide = true)]
    Selftest {
        #[command(subcommand)]
        of: SelftestSubject,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum SelftestSubject {
    /// The lock of `confine`: of one half with `--role`, otherwise of both
    Confine,
    /// Make one call as a program of 32 bits does, locked as a half with `--role`
    #[command(hide = true)]
    Int80,
}

#[derive(Debug, Clone, Subcommand)]
pub enum AuditAction {
    /// Verify the hash chain, and print the number of lines and the hash of the last one
    ///
    /// Exit 0 if the chain is intact; otherwise name the first wrong line and exit 1. Lines removed from the
    /// end are detected only if the hash of the last line is known from before.
    Verify {
        file: PathBuf,
        /// The expected hash of the last line
        #[arg(long, value_name = "HASH")]
        head: Option<LineHash>,
    },
}
