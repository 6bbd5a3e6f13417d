//! Reloads certificates that were renewed on disk while the gateway runs. The files are checked from time to
//! time; one that has changed is opened and takes effect as after a reload, and nothing else changes.
//!
//! A file may be seen half written, or before the key that belongs to it. So it is opened only after it has
//! looked the same twice, and one that cannot be used leaves the previous one in force.
//!
//! Lists of revoked certificates wait for nothing else: they take effect during a switch and a checklist too, and
//! while a certificate beside them is broken.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Engine,
    halves::{DmzSide, InternalSide, SharedContext},
    ports::{self, ClientPorts},
    service_faults::ServiceFaults,
};
use crate::{
    disk::{FileWorkError, PipePolicy},
    profile::Problem,
    source::{self, OpenedMaterials},
    telemetry::{format, health::FileFaultRow, log::LogEvent},
    tls::{
        certificate_files::{CertificateFiles, ChangedFiles},
        edge::EdgeTls,
        link::LinkIdentity,
        revocation::{ListExpiry, RevocationCheck},
    },
};

/// How often the files are checked.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The object of problems that no key names.
const ALL_FILES: &str = "certificates";
/// How often files that could not be used are opened again, even if they look unchanged.
const FILE_RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// The state of the certificate files of the current profile.
#[derive(Debug)]
pub struct CertificateReload {
    in_force: CertificateFiles,
    /// What was opened last, whether or not all of it could be used.
    applied: CertificateFiles,
    last: CertificateFiles,
    /// Files that could not be used, which has been reported.
    refused: Option<CertificateFiles>,
    /// What is wrong as long as it is so, but for the faults of single services.
    pub faults: Vec<FileFaultRow>,
    /// When the files are checked next; nothing while a check or a reload is under way.
    next_check: Option<Instant>,
    /// When files that could not be used are opened again.
    retry: Instant,
    /// The files looked the same at the last two checks.
    is_unchanged: bool,
    /// The last check got no answer from the file system.
    is_silent: bool,
    /// Identifies the profile: a result for a previous profile is ignored.
    profile_token: Arc<()>,
}

impl CertificateReload {
    /// Starts from these files as the ones in force.
    pub fn new(in_force: CertificateFiles) -> Self {
        Self {
            last: in_force.clone(),
            applied: in_force.clone(),
            in_force,
            refused: None,
            faults: Vec::new(),
            next_check: Some(Instant::now() + FILE_CHECK_INTERVAL),
            retry: Instant::now() + FILE_RETRY_INTERVAL,
            is_unchanged: false,
            is_silent: false,
            profile_token: Arc::default(),
        }
    }

    fn schedule_next_check(&mut self) {
        self.next_check = Some(Instant::now() + FILE_CHECK_INTERVAL);
    }

    /// The files, if they have changed, look the same as last time, and were not refused.
    fn settled_change(&mut self, files: CertificateFiles) -> Option<CertificateFiles> {
        self.is_unchanged = self.last == files;
        self.last = files;
        if self.last == self.in_force {
            self.refused = None;
            return None;
        }
        let is_refused = self.refused.as_ref() == Some(&self.last);
        (self.is_unchanged && !is_refused).then(|| self.last.clone())
    }
}

impl Engine {
    /// Checks the files when that is due.
    pub(super) fn check_certificate_files(&mut self) {
        if self.certificate_reload.next_check.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.certificate_reload.next_check = None;
        let (profile, profile_token) = (self.profile.clone(), self.certificate_reload.profile_token.clone());
        self.read_periodically(
            move || CertificateFiles::stat(profile.materials()),
            move |engine, seen| {
                if Arc::ptr_eq(&profile_token, &engine.certificate_reload.profile_token) {
                    engine.handle_file_check(profile_token, seen);
                }
            },
        );
    }

    /// Opens the files if they have changed, and from time to time while something is wrong with them: a
    /// certificate may have become valid, or a key readable.
    fn handle_file_check(&mut self, profile_token: Arc<()>, seen: Result<CertificateFiles, FileWorkError>) {
        self.certificate_reload.schedule_next_check();
        let Some(files) = self.report_file_silence(seen) else { return };
        let has_faults = !self.faults.is_empty() || !self.certificate_reload.faults.is_empty();
        let is_due = has_faults && Instant::now() >= self.certificate_reload.retry;
        let changed = self.certificate_reload.settled_change(files.clone());
        let Some(files) =
            changed.or_else(|| (is_due && self.certificate_reload.is_unchanged).then_some(files))
        else {
            return;
        };
        self.certificate_reload.next_check = None;
        if self.busy_reason().is_some() {
            return self.read_lists_again(profile_token);
        }
        self.certificate_reload.retry = Instant::now() + FILE_RETRY_INTERVAL;
        let changed_files = files.changed_since(&self.certificate_reload.in_force);
        let (profile, checks) = (self.profile.clone(), self.revocation_checks());
        let open = move || {
            let opened = source::open_materials(&profile, PipePolicy::Refused);
            if opened.has_link_or_edge_faults() {
                checks.iter().for_each(|check| check.read_again());
            }
            opened
        };
        self.read_periodically(open, move |engine, opened| {
            if Arc::ptr_eq(&profile_token, &engine.certificate_reload.profile_token) {
                engine.handle_opened_files(files, &changed_files, opened);
            }
        });
    }

    /// Applies the lists alone; the rest is opened once nothing else is changing.
    fn read_lists_again(&self, profile_token: Arc<()>) {
        let checks = self.revocation_checks();
        self.read_periodically(
            move || checks.iter().for_each(|check| check.read_again()),
            move |engine, read| {
                if Arc::ptr_eq(&profile_token, &engine.certificate_reload.profile_token) {
                    engine.certificate_reload.schedule_next_check();
                    if engine.report_file_silence(read).is_some() {
                        engine.enforce_revocations();
                    }
                }
            },
        );
    }

    /// All that tells whose certificates are revoked, in the parts that run and in what a switch has loaded, for its
    /// new parts and for those that stay.
    fn revocation_checks(&self) -> Vec<Arc<RevocationCheck>> {
        let pending = self.pending_switch();
        let running =
            [self.dmz.as_ref().map(DmzSide::identity), self.internal.as_ref().map(InternalSide::identity)];
        let running = running.into_iter().flatten();
        let of_running = running.filter_map(|identity| Some(identity.as_ref().as_ref()?.revoked().clone()));
        let loaded = pending.into_iter().flat_map(|it| [&it.loaded.dmz, &it.loaded.internal]).flatten();
        let of_loaded = loaded.map(|identity| identity.revoked().clone());
        let of_edges = pending.iter().map(|it| &it.loaded.edges).chain([&self.edge_tls]);
        let of_edges = of_edges.flat_map(EdgeTls::revoked).cloned();
        of_running.chain(of_loaded).chain(of_edges).collect()
    }

    /// What changed in the meantime is opened at the next check.
    fn handle_opened_files(
        &mut self,
        files: CertificateFiles,
        changed_files: &ChangedFiles,
        opened: Result<OpenedMaterials, FileWorkError>,
    ) {
        self.certificate_reload.schedule_next_check();
        let Some(opened) = self.report_file_silence(opened) else { return };
        if self.busy_reason().is_some() {
            return;
        }
        // What could not be used is opened again and again, but the rest is not applied each time.
        let fresh = files.changed_since(&self.certificate_reload.applied);
        let identity = |of: &Result<Option<LinkIdentity>, _>| of.as_ref().ok().cloned().flatten();
        let lost = self.lost_peers(identity(&opened.dmz).as_ref(), identity(&opened.internal).as_ref());
        let problems = self.apply_renewed(opened, &fresh);
        self.certificate_reload.applied = files.clone();
        self.enforce_revocations();
        let of_gateway = problems.iter().filter(|problem| !self.faults.has(problem));
        self.certificate_reload.faults = of_gateway.map(file_fault_row).collect();
        if problems.is_empty() {
            self.certificate_reload.in_force = files.clone();
            self.certificate_reload.refused = None;
            if !changed_files.is_empty() {
                let line = [format!("certificates renewed: {changed_files}")].into_iter().chain(lost);
                let line = line.collect::<Vec<_>>().join("; ");
                self.shared.notices.info(LogEvent::CertificatesRenewed.line(line));
                self.audit_own("certificate", &changed_files.to_string(), "done: renewed, and in force");
            }
        } else if self.certificate_reload.refused.as_ref() != Some(&files) {
            let why = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            self.audit_own("certificate", &changed_files.to_string(), &format!("refused: {why}"));
            let line = format!("{changed_files} changed, and cannot be used: {why}");
            self.shared
                .notices
                .warn(LogEvent::CertificatesRefused.line(format!("{line}; the previous ones stay in force")));
            self.certificate_reload.refused = Some(files);
        }
    }

    /// Reports once that the files do not answer, and once when they do again.
    fn report_file_silence<T>(&mut self, work: Result<T, FileWorkError>) -> Option<T> {
        let was_silent = std::mem::replace(&mut self.certificate_reload.is_silent, work.is_err());
        let (faults, notices) = (&mut self.certificate_reload.faults, &self.shared.notices);
        match &work {
            Err(error) if !was_silent => {
                let what = format!("looking at the files of certificates: {error}");
                notices.warn(
                    LogEvent::CertificatesSilent.line(format!("{what}; those that were read stay in force")),
                );
                faults.push(FileFaultRow { object: ALL_FILES.into(), what });
            }
            Ok(_) if was_silent => {
                faults.retain(|row| row.object != ALL_FILES);
                notices.info(LogEvent::CertificatesSilent.line("certificate files can be read again"));
            }
            Ok(_) | Err(_) => {}
        }
        work.ok()
    }

    /// Puts what is usable in force. What is not usable is returned, and its predecessor stays in force. `changed`
    /// are the files that have changed since the last time.
    fn apply_renewed(&mut self, opened: OpenedMaterials, changed: &ChangedFiles) -> Vec<Problem> {
        let OpenedMaterials { dmz, internal, edges, auth, files: _, certificates } = opened;
        self.certificates = certificates;
        let mut problems = Vec::new();
        match (dmz, &mut self.dmz) {
            (Ok(identity), Some(side)) => side.set_identity(identity),
            (Ok(_), None) => {}
            (Err(more), _) => problems.extend(more),
        }
        match (internal, &mut self.internal) {
            (Ok(identity), Some(side)) => side.set_identity(identity),
            (Ok(_), None) => {}
            (Err(more), _) => problems.extend(more),
        }
        let edges = edges.falling_back_to(&self.edge_tls);
        problems.extend(edges.kept_problems().cloned());
        let auth = auth.falling_back_to(&self.auth_files);
        problems.extend(auth.kept_problems().cloned());
        self.shared.sessions.logins.update(&auth);
        let faults = ServiceFaults::find(&self.profile, &edges, &auth);
        self.auth_files = auth;
        // Clients that keep sending requests are closed if their routes change. A certificate may have become valid
        // though no file has changed.
        if changed.has_any_of(self.profile.edge_materials())
            || faults != self.faults
            || !has_same_problems(&edges, &self.edge_tls)
        {
            self.apply_edge_tls(&edges);
            self.set_outer_tls(&edges);
            self.take_over_faults(faults);
            self.edge_tls = edges;
        }
        problems
    }

    /// Cuts every connection whose certificate is now revoked.
    pub(super) fn enforce_revocations(&mut self) {
        let links =
            [self.dmz.as_ref().map(DmzSide::identity), self.internal.as_ref().map(InternalSide::identity)];
        let links: Vec<_> = links.into_iter().flatten().collect();
        let links = || links.iter().filter_map(|identity| identity.as_ref().as_ref());
        let cut: usize = links().map(LinkIdentity::enforce_revocations).sum();
        let clients = self.edge_tls.enforce_revocations();
        self.note_lists();
        let cut_counts = [(cut, "link"), (clients, "client connection")];
        let cut_counts: Vec<_> = cut_counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format::count(count as u64, what))
            .collect();
        if !cut_counts.is_empty() {
            let line = format!("{} cut: the certificate was revoked", cut_counts.join(" and "));
            self.shared.notices.warn(LogEvent::CertificateRevoked.line(line));
        }
    }

    /// Notes the lists in force, and reports those that are older than what they replace.
    fn note_lists(&mut self) {
        let mut lists: Vec<ListExpiry> = Vec::new();
        for check in self.revocation_checks() {
            let read: Vec<_> = check.lists().expiries().filter(|list| !lists.contains(list)).collect();
            lists.extend(read);
        }
        let before = std::mem::take(&mut self.revocation_lists);
        let is_older = |list: &&ListExpiry| before.iter().any(|before| list.is_older_than(before));
        for list in lists.iter().filter(|list| !before.contains(list)).filter(is_older) {
            self.shared.notices.warn(LogEvent::CertificatesRenewed.line(format!(
                "{}: this revocation list is older than the previous one; certificates listed only there are no \
                 longer revoked",
                list.object
            )));
        }
        self.revocation_lists = lists;
    }

    /// Sets the TLS that the halves use around the WebSockets of their links.
    pub(super) fn set_outer_tls(&self, edges: &EdgeTls) {
        self.dmz.iter().for_each(|half| half.set_outer(edges));
        self.internal.iter().for_each(|half| half.set_outer(edges));
    }

    fn apply_edge_tls(&mut self, edges: &EdgeTls) {
        let services = self.shared.sessions.services.load_full();
        for (key, _, connector) in self.wanted_services(&self.profile, edges) {
            if let Some(service) = services.get(&key) {
                service.replace_connector(connector);
                let SharedContext { notices, dns, own_ports, .. } = &self.shared;
                service.connector.load().watch(notices, dns, own_ports);
            }
        }
        ports::replace_ports(&mut self.ports, ClientPorts::new(), &self.profile, edges, &self.shared);
    }
}

/// Whether the same files cannot be used, and the same ones of them have a predecessor in force.
fn has_same_problems(one: &EdgeTls, other: &EdgeTls) -> bool {
    let is_kept = |edges: &EdgeTls, problem: &Problem| edges.kept_problems().any(|kept| kept == problem);
    one.problems() == other.problems()
        && one.problems().iter().all(|problem| is_kept(one, problem) == is_kept(other, problem))
}

fn file_fault_row(problem: &Problem) -> FileFaultRow {
    FileFaultRow { object: problem.location.key.clone(), what: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::profile::{PemSource, ProfileLocation};

    #[test]
    fn files_are_opened_when_they_stand_still_and_refused_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("www.pem");
        let location = ProfileLocation { file: "p.yaml".into(), line: 1, column: 1, key: "tls".into() };
        let material = PemSource::File { path: path.clone(), location };
        let stat_files = || CertificateFiles::stat([&material].into_iter());
        let write = |text: &str| fs::write(&path, text).expect("it is written");
        write("one");
        let mut renewal = CertificateReload::new(stat_files());
        assert_eq!(renewal.settled_change(stat_files()), None, "as it was");
        for part in ["t", "tw", "two!"] {
            write(part);
            assert_eq!(renewal.settled_change(stat_files()), None, "it is being written");
        }
        let whole = stat_files();
        assert_eq!(renewal.settled_change(stat_files()), Some(whole.clone()));
        renewal.refused = Some(whole);
        assert_eq!(renewal.settled_change(stat_files()), None, "it was refused");
        write("another");
        assert_eq!(renewal.settled_change(stat_files()), None, "for the first time");
        assert_eq!(renewal.settled_change(stat_files()), Some(stat_files()));
        fs::remove_file(&path).expect("it is removed");
        assert_eq!(renewal.settled_change(stat_files()), None, "it may be back in a moment");
        assert_eq!(renewal.settled_change(stat_files()), Some(stat_files()), "it is gone");
    }
}
