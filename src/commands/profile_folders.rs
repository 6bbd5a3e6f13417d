//! Where commands look for profiles.

use std::{env, path::PathBuf};

use crate::{cli::Cli, disk::PipePolicy, source::ProfileSource};

/// The folder given on the command line, or else ./profiles, the user's, and the system's.
pub fn profile_source(cli: &Cli) -> ProfileSource {
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
    ProfileSource { folders, half: cli.half, pipes: PipePolicy::Refused }
}
