//! The options of single commands.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::profile::Network;

/// How the answer to a command is printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct AnswerForm {
    /// Print the answer as JSON: whether it is `done`, and `text`
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true)]
pub struct KillOptions {
    /// One session: ID, or PEER/ID where two have the same
    #[arg(conflicts_with_all = ["client", "user", "peer", "service"])]
    pub session: Option<String>,
    /// All sessions of this client, or of a network; with other options, only sessions that match all of
    /// them
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
    /// Over standard input and output: what `attach ssh:` runs at the remote end
    #[arg(long, required = true)]
    pub stdio: bool,
    /// Nothing can be changed over it, whatever the other end asks
    #[arg(long)]
    pub read_only: bool,
}

#[derive(Debug, Clone, Args)]
pub struct InitOptions {
    /// Which half runs on this host, or both to try it on one machine
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
    /// The backend, as the internal gateway reaches it [default: tcp://127.0.0.1:8080]
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
    /// Ask no questions: use the default of everything that is not given
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
