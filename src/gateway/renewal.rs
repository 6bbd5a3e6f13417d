//! Certificates that are renewed while the gateway runs: their files are looked at from time to time,
//! and what has changed is opened and takes over, as at a reload, with everything else as it is.
//!
//! A file may be seen half written, or without the key that belongs to it: it is opened only when it
//! looks the same twice, and what can not be used leaves in force what is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Engine,
    ports::{self, Ports},
};
use crate::{
    disk::{Pipes, WorkError},
    net::files::{Files, Unlike},
    profile::Problem,
    source::{self, Loaded},
};

type OpenedFiles = Result<Loaded, Vec<Problem>>;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// What is known of the files of the profile in force.
#[derive(Debug)]
pub struct Renewal {
    in_force: Files,
    last: Files,
    /// What could not be used, and was told.
    refused: Option<Files>,
    next: Instant,
    is_looking: bool,
    /// The last look was not answered.
    is_silent: bool,
    /// Whose files they are: what was seen for a profile that has gone means nothing to the next.
    of: Arc<()>,
}

impl Renewal {
    /// From now on these are in force.
    pub fn new(in_force: Files) -> Self {
        let next = Instant::now() + LOOK;
        let (is_looking, is_silent, of) = (false, false, Arc::default());
        Self { last: in_force.clone(), in_force, refused: None, next, is_looking, is_silent, of }
    }

    fn looked(&mut self) {
        (self.is_looking, self.next) = (false, Instant::now() + LOOK);
    }

    /// The files, where they have changed, look as they did the last time, and were not refused.
    fn changed(&mut self, files: Files) -> Option<Files> {
        let is_still = self.last == files;
        self.last = files;
        if self.last == self.in_force {
            self.refused = None;
            return None;
        }
        let is_refused = self.refused.as_ref() == Some(&self.last);
        (is_still && !is_refused).then(|| self.last.clone())
    }
}

impl Engine {
    /// Looks at the files where that is due; not while something else is changing.
    pub(super) fn renew(&mut self) {
        if self.is_changing() || self.renewal.is_looking || Instant::now() < self.renewal.next {
            return;
        }
        self.renewal.is_looking = true;
        let (profile, of) = (self.profile.clone(), self.renewal.of.clone());
        self.look_at(
            move || Files::of(profile.materials()),
            move |engine, seen| {
                if Arc::ptr_eq(&of, &engine.renewal.of) {
                    engine.seen(of, seen);
                }
            },
        );
    }

    fn is_changing(&self) -> bool {
        self.is_switching() || self.stopping.is_some() || self.checks.is_walking()
    }

    /// Opens the files where they have changed.
    fn seen(&mut self, of: Arc<()>, seen: Result<Files, WorkError>) {
        self.renewal.looked();
        let Some(files) = self.answered(seen).and_then(|files| self.renewal.changed(files)) else { return };
        self.renewal.is_looking = true;
        let told = files.unlike(&self.renewal.in_force);
        let profile = self.profile.clone();
        self.look_at(
            move || source::open(profile, Pipes::Refused),
            move |engine, opened| {
                if Arc::ptr_eq(&of, &engine.renewal.of) {
                    engine.opened(files, &told, opened);
                }
            },
        );
    }

    /// What was changed meanwhile is opened at the next look.
    fn opened(&mut self, files: Files, told: &Unlike, opened: Result<OpenedFiles, WorkError>) {
        self.renewal.looked();
        let Some(opened) = self.answered(opened).filter(|_| !self.is_changing()) else { return };
        match opened {
            Ok(loaded) => {
                self.take_over(loaded, told);
                self.common.notices.info(format!("certificates renewed: {told}"));
            }
            Err(problems) => {
                let why = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                let line = format!("{told} changed, and can not be used: {why}");
                self.common.notices.warn(format!("{line}; those before stay in force"));
                self.renewal.refused = Some(files);
            }
        }
    }

    /// Tells once that the files do not answer, and once that they do again.
    fn answered<T>(&mut self, work: Result<T, WorkError>) -> Option<T> {
        let was_silent = std::mem::replace(&mut self.renewal.is_silent, work.is_err());
        match &work {
            Err(error) if !was_silent => self.common.notices.warn(format!(
                "looking at the files of certificates: {error}; those that were read stay in force"
            )),
            Ok(_) if was_silent => self.common.notices.info("the files of certificates answer again"),
            Ok(_) | Err(_) => {}
        }
        work.ok()
    }

    fn take_over(&mut self, loaded: Loaded, changed: &Unlike) {
        let Loaded { profile, dmz, internal, edges, files } = loaded;
        if let Some(side) = &mut self.dmz {
            side.renew(dmz);
        }
        if let Some(side) = &mut self.internal {
            side.renew(internal);
        }
        self.renewal = Renewal::new(files);
        // Clients that ask again and again are let go where their doors change.
        if !changed.has_any_of(profile.edge_materials()) {
            return;
        }
        let services = self.common.sessions.services.load_full();
        for (key, _, connector) in self.wanted_services(&profile, &edges) {
            if let Some(service) = services.get(&key)
                && !service.connector.load().is_same_as(&connector)
            {
                service.connector.store(connector.into());
            }
        }
        ports::replace(&mut self.ports, Ports::new(), profile.dmz.as_ref(), &edges, &self.common);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::profile::{Material, Place};

    #[test]
    fn files_are_opened_when_they_stand_still_and_refused_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("www.pem");
        let place = Place { file: "p.yaml".into(), line: 1, column: 1, key: "tls".into() };
        let material = Material::File { path: path.clone(), place };
        let look = || Files::of([&material].into_iter());
        let write = |text: &str| fs::write(&path, text).expect("it is written");
        write("one");
        let mut renewal = Renewal::new(look());
        assert_eq!(renewal.changed(look()), None, "as it was");
        for part in ["t", "tw", "two!"] {
            write(part);
            assert_eq!(renewal.changed(look()), None, "it is being written");
        }
        let whole = look();
        assert_eq!(renewal.changed(look()), Some(whole.clone()));
        renewal.refused = Some(whole);
        assert_eq!(renewal.changed(look()), None, "it was refused");
        write("another");
        assert_eq!(renewal.changed(look()), None, "for the first time");
        assert_eq!(renewal.changed(look()), Some(look()));
        fs::remove_file(&path).expect("it is removed");
        assert_eq!(renewal.changed(look()), None, "it may be back in a moment");
        assert_eq!(renewal.changed(look()), Some(look()), "it is gone");
    }
}
