//! Sockets at which others reach this process and which it did not open: whoever started it has handed them on. A
//! half that only dials runs without them.

use std::io;

use super::sockets::{ListeningSocket, process_sockets};
use crate::profile::{ConfinePolicy, Mode, Profile};

/// The sockets that were open at the start, or why the kernel does not say.
#[derive(Debug)]
pub struct InheritedSockets(io::Result<Vec<ListeningSocket>>);

impl Default for InheritedSockets {
    /// Nothing is looked for, as where a gateway runs as a library.
    fn default() -> Self {
        Self(Ok(Vec::new()))
    }
}

impl InheritedSockets {
    /// Must be called before this process opens a socket.
    pub fn look() -> Self {
        Self(process_sockets().map(|held| held.open))
    }

    /// Why this process cannot run `profile`.
    pub fn refusal(&self, profile: &Profile) -> Option<String> {
        if !dials_only(profile) {
            return None;
        }
        match self.first_open() {
            Ok(socket) => Some(format!(
                "the internal half was started with a socket at which others reach it, {}; start it without inherited \
                 sockets",
                socket?
            )),
            Err(error) if profile.confine == ConfinePolicy::Required => {
                Some(format!("`confine: required`: {}; mount /proc", unknown(&error)))
            }
            Err(_) => None,
        }
    }

    /// What an operator should know where `profile` still runs.
    pub fn warning(&self, profile: &Profile) -> Option<String> {
        self.first_open().err().filter(|_| dials_only(profile)).map(|error| unknown(&error))
    }

    /// The first of them that has not been closed since.
    fn first_open(&self) -> io::Result<Option<ListeningSocket>> {
        let inherited = match &self.0 {
            Ok(inherited) if inherited.is_empty() => return Ok(None),
            Ok(inherited) => inherited,
            Err(error) => return Err(io::Error::new(error.kind(), error.to_string())),
        };
        let now = process_sockets()?.open;
        Ok(inherited.iter().find(|socket| now.contains(socket)).cloned())
    }
}

fn unknown(error: &io::Error) -> String {
    format!(
        "the kernel does not say whether this process was started with a socket at which others reach it: {error}"
    )
}

/// Whether nobody may reach the process that runs this profile.
fn dials_only(profile: &Profile) -> bool {
    profile.mode == Mode::Reverse && profile.dmz.is_none()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::profile::ProfileOverrides;

    fn profile(mode: &str, confine: &str) -> Profile {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("internal.yaml");
        let text = format!(
            "mode: {mode}\nconfine: {confine}\ninternal:\n  link: {{ connect: 'socks://127.0.0.1:1', listen: \
             'socks://127.0.0.1:2' }}\n  services: {{ orders: {{ connect: 'echo://' }} }}\n"
        );
        std::fs::write(&file, text).expect("it is written");
        let choice = ProfileOverrides { mode: None, half: None };
        crate::profile::load_with(&file, &choice, crate::disk::PipePolicy::Refused).expect("a profile")
    }

    #[test]
    fn a_half_that_only_dials_runs_without_them_and_where_that_is_unknown_as_its_lock_says() {
        let (reverse, forward) = (profile("reverse", "on"), profile("forward", "on"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = listener.local_addr().expect("it is bound").to_string();
        let found = InheritedSockets(
            process_sockets()
                .map(|held| held.open.into_iter().filter(|socket| socket.at.to_string() == at).collect()),
        );
        assert!(found.refusal(&reverse).is_some_and(|why| why.contains(&at)));
        assert_eq!(found.refusal(&forward), None);
        drop(listener);
        assert_eq!(found.refusal(&reverse), None, "it was closed");
        let unknown = || InheritedSockets(Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(unknown().refusal(&reverse), None);
        assert!(unknown().warning(&reverse).is_some_and(|line| line.contains("does not say")));
        assert_eq!(unknown().warning(&forward), None);
        let refused = unknown().refusal(&profile("reverse", "required"));
        assert!(refused.is_some_and(|why| why.contains("`confine: required`")));
    }
}
