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
    faults::Faults,
    ports::{self, Ports},
};
use crate::{
    disk::{Pipes, WorkError},
    net::{
        edges::Edges,
        files::{Files, Unlike},
    },
    profile::Problem,
    source::{self, Opened},
};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// What can not be used is opened again so often, though it looks as it did.
const RETRY: Duration = Duration::from_secs(10);

/// What is known of the files of the profile in force.
#[derive(Debug)]
pub struct Renewal {
    in_force: Files,
    last: Files,
    /// What could not be used, and was told.
    refused: Option<Files>,
    next: Instant,
    /// When what can not be used is opened again.
    retry: Instant,
    /// The files looked the same twice.
    is_still: bool,
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
        Self {
            last: in_force.clone(),
            in_force,
            refused: None,
            next,
            retry: Instant::now() + RETRY,
            is_still: false,
            is_looking: false,
            is_silent: false,
            of: Arc::default(),
        }
    }

    fn looked(&mut self) {
        (self.is_looking, self.next) = (false, Instant::now() + LOOK);
    }

    /// The files, where they have changed, look as they did the last time, and were not refused.
    fn changed(&mut self, files: Files) -> Option<Files> {
        self.is_still = self.last == files;
        self.last = files;
        if self.last == self.in_force {
            self.refused = None;
            return None;
        }
        let is_refused = self.refused.as_ref() == Some(&self.last);
        (self.is_still && !is_refused).then(|| self.last.clone())
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

    /// Opens the files where they have changed, and from time to time while something is wrong with them:
    /// a certificate may have become valid, or a key readable.
    fn seen(&mut self, of: Arc<()>, seen: Result<Files, WorkError>) {
        self.renewal.looked();
        let Some(files) = self.answered(seen) else { return };
        let is_due = !self.faults.is_empty() && Instant::now() >= self.renewal.retry;
        let changed = self.renewal.changed(files.clone());
        let Some(files) = changed.or_else(|| (is_due && self.renewal.is_still).then_some(files)) else {
            return;
        };
        self.renewal.is_looking = true;
        self.renewal.retry = Instant::now() + RETRY;
        let told = files.unlike(&self.renewal.in_force);
        let profile = self.profile.clone();
        self.look_at(
            move || source::open(&profile, Pipes::Refused),
            move |engine, opened| {
                if Arc::ptr_eq(&of, &engine.renewal.of) {
                    engine.opened(files, &told, opened);
                }
            },
        );
    }

    /// What was changed meanwhile is opened at the next look.
    fn opened(&mut self, files: Files, told: &Unlike, opened: Result<Opened, WorkError>) {
        self.renewal.looked();
        let Some(opened) = self.answered(opened).filter(|_| !self.is_changing()) else { return };
        let problems = self.take_over(opened, told);
        if problems.is_empty() {
            self.renewal.in_force = files.clone();
            self.renewal.refused = None;
            if !told.is_empty() {
                self.common.notices.info(format!("certificates renewed: {told}"));
            }
        } else if self.renewal.refused.as_ref() != Some(&files) {
            let why = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            let line = format!("{told} changed, and can not be used: {why}");
            self.common.notices.warn(format!("{line}; those before stay in force"));
            self.renewal.refused = Some(files);
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

    /// What can be used takes over; what can not leaves in force what is, and is returned.
    fn take_over(&mut self, opened: Opened, changed: &Unlike) -> Vec<Problem> {
        let Opened { dmz, internal, edges, files: _, certificates } = opened;
        self.certificates = certificates;
        let mut problems = Vec::new();
        match (dmz, &mut self.dmz) {
            (Ok(identity), Some(side)) => side.renew(identity),
            (Ok(_), None) => {}
            (Err(more), _) => problems.extend(more),
        }
        match (internal, &mut self.internal) {
            (Ok(identity), Some(side)) => side.renew(identity),
            (Ok(_), None) => {}
            (Err(more), _) => problems.extend(more),
        }
        let edges = edges.over(&self.edges);
        problems.extend(edges.kept().cloned());
        let faults = Faults::of(&self.profile, &edges);
        // Clients that ask again and again are let go where their doors change.
        if changed.has_any_of(self.profile.edge_materials()) || faults != self.faults {
            self.renew_edges(&edges);
            self.take_over_faults(faults);
            self.edges = edges;
        }
        problems
    }

    fn renew_edges(&mut self, edges: &Edges) {
        let services = self.common.sessions.services.load_full();
        for (key, _, connector) in self.wanted_services(&self.profile, edges) {
            if let Some(service) = services.get(&key)
                && !service.connector.load().is_same_as(&connector)
            {
                service.connector.store(connector.into());
            }
        }
        ports::replace(&mut self.ports, Ports::new(), self.profile.dmz.as_ref(), edges, &self.common);
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
