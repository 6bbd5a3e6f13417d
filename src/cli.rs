//! The command line. Nothing but the grammar: man page and completions are made from it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    profile::{Half, Mode, Network},
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
    #[arg(long, global = true)]
    pub role: Option<Half>,
    /// Headless: log lines on standard error, no screen
    #[arg(long, global = true)]
    pub no_ui: bool,
    /// Local admin socket, or `none` [default: PROFILE.sock or PROFILE-ROLE.sock in the runtime folder]
    #[arg(long, global = true, value_name = "PATH")]
    pub admin: Option<PathBuf>,
    /// Form of the log lines
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// With a gateway or `attach`: keep a picture of it a second in a new file, for `replay`
    #[arg(long, global = true, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Run the built-in profile without its sample clients
    #[arg(long)]
    pub no_samples: bool,
    /// Ends with the process of this number, which has started it
    #[arg(long, hide = true, value_name = "PROCESS")]
    pub ends_with: Option<u32>,
    #[command(subcommand)]
    pub command: Option<CliAction>,
}

/// What `--version` says; `-V` says the first line.
const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("PORTCULLIS_BUILT_FROM"),
    "\ntarget: ",
    env!("PORTCULLIS_TARGET"),
    "\nTLS: rustls with aws-lc-rs",
);

const EXIT_CODES: &str = "Exit codes:
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
        /// Print the problems as a JSON list, empty where there is none
        #[arg(long)]
        json: bool,
    },
    /// Walk the checklist: profile, basic, forward, reverse, closed
    ///
    /// Gateways of the profile that run on this host walk themselves; where none runs, halves of its
    /// own are started on the profile's addresses. Exit 0 when no step fails, 1 when one does.
    Verify {
        /// The report as JSON on standard output; progress stays on standard error
        #[arg(long)]
        json: bool,
    },
    /// Print one picture of a running gateway
    Status {
        /// The whole picture as JSON; with `--ready`, whether it is ready and why not
        #[arg(long)]
        json: bool,
        /// Exit 0 when it is ready for clients, 1 when it is not, and say what is not
        #[arg(long)]
        ready: bool,
        /// Ready means every service, and a link to each gateway that the profile names
        #[arg(long, requires = "ready")]
        strict: bool,
    },
    /// Say what limits a running gateway, or several, and what to change
    ///
    /// Of several, named as for `attach`, the clocks are compared too. Exit 1 when something must be done, 0 when
    /// nothing.
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
    /// Print the numbers of a running gateway once, as monitors read them
    Metrics {
        /// The text of Prometheus, 0.0.4, instead of OpenMetrics
        #[arg(long)]
        text: bool,
    },
    /// Open the dashboard on a running gateway, or on several at once
    ///
    /// A TARGET is a socket's path, ssh:[USER@]HOST[:PROFILE], which runs your own ssh, or exec:COMMAND, whose
    /// standard input and output lead to a gateway.
    Attach {
        /// Look only: nothing can be changed from here
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
        /// Only say what would open and close, and what becomes of links and sessions
        #[arg(long)]
        plan: bool,
    },
    /// No new sessions, of one service or of all; those open go on, `reload` undoes it
    Drain { service: Option<String> },
    /// Drain with the deadline, then exit; returns when it has ended
    Stop,
    /// Read the profile and the certificates again
    Reload,
    /// Forget a gateway that was lost, by its name or address; it stays listed until it is back otherwise
    Dismiss { peer: String },
    /// End one session, or all of a client, a user, a peer or a service, and print how many
    Kill(KillOptions),
    /// Inside: cut a service, a gateway or all, and refuse it from now on, over a restart, until `unlock`
    Lockdown(LockdownOptions),
    /// Lift what was locked, or all without arguments
    Unlock(LockdownOptions),
    /// Change what a running gateway writes into its log: error, warn, info, debug, trace or off
    LogLevel { level: String },
    /// Check a file that `audit` of a profile has named
    Audit {
        #[command(subcommand)]
        of: AuditAction,
    },
    /// Make a private CA, and a certificate and key for each half or client; renew and revoke them
    ///
    /// What is there is never overwritten. What is not done is told, with exit code 1.
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
        /// Make a client's certificate of this name, NAME.pem and NAME.key; of a CA that is there, this alone
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        client: Vec<String>,
        /// Replace what ends within 30 days, of these names or of all; what it was stays as `.old`
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
    /// Try from within what the kernel should refuse a locked half, and print a table
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
    /// Walk the chain of its lines, and print how many there are and the hash of the last
    ///
    /// Exit 0 when it is whole, 1 when it is not; the first line that is wrong is named. Lines that were taken
    /// away at the end are seen only where the hash of the last is known from before.
    Verify {
        file: PathBuf,
        /// The hash that the last line has to have
        #[arg(long, value_name = "HASH")]
        head: Option<LineHash>,
    },
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true)]
pub struct KillOptions {
    /// One session: ID, or PEER/ID where two have the same
    #[arg(conflicts_with_all = ["client", "user", "peer", "service"])]
    pub session: Option<String>,
    /// All sessions of this client, or of all clients of a network; with other options those that fit all
    #[arg(long, value_name = "ADDRESS|NETWORK")]
    pub client: Option<Network>,
    /// All of this user, as sessions are listed with it
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// All that go over this gateway
    #[arg(long, value_name = "NAME")]
    pub peer: Option<String>,
    /// All of this service
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct LockdownOptions {
    /// For this DMZ gateway alone; without a service, its links are closed too
    #[arg(long, value_name = "NAME")]
    pub peer: Option<String>,
    /// This service alone; links stay
    pub service: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct CarrierOptions {
    /// Over standard input and output: what `attach ssh:` runs at the far end
    #[arg(long, required = true)]
    pub stdio: bool,
    /// Nothing can be changed over it, whatever the other end asks
    #[arg(long)]
    pub read_only: bool,
}

#[derive(Debug, Clone, Args)]
pub struct InitOptions {
    /// The half of this host, or both for a trial on one machine
    pub half: InitHalf,
    /// Where it is written
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// Name of the service [default: web]
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Where clients come in [default: tcp://0.0.0.0:8000, of a pair tcp://127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS")]
    pub accept: Option<String>,
    /// The back-end, as the internal gateway reaches it [default: tcp://127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub connect: Option<String>,
    /// Host of the DMZ gateway, which is dialled in reverse mode
    #[arg(long, value_name = "HOST")]
    pub dmz_host: Option<String>,
    /// Host of the internal gateway, which is dialled in forward mode
    #[arg(long, value_name = "HOST")]
    pub internal_host: Option<String>,
    /// Port of the link [default: 1443]; the other mode has the next one
    #[arg(long, value_name = "PORT")]
    pub link_port: Option<u16>,
    /// Ask nothing: what is not given has its default
    #[arg(long)]
    pub defaults: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InitHalf {
    Dmz,
    Internal,
    /// Both, in two profiles that find each other on this machine
    Pair,
}
