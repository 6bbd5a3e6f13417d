//! Where profiles come from: the folders they are looked up in, the built-in one, and the certificates they name.
//! Reading is kept from running: a profile with its certificates is complete and checked before anything is bound.

use std::path::{Path, PathBuf};

use crate::{
    auth::AuthFiles,
    certs::CertificateAuthority,
    disk::PipePolicy,
    profile::{
        self, DemoPorts, DemoTls, DmzHalf, Half, InternalHalf, KeyExchangePolicy, LinkTls, Mode, PemSource,
        Problem, Profile, ProfileLocation, ProfileOverrides, RevokedFiles,
    },
    proto::{multiplex, socks5},
    text,
    tls::{
        certificate_files::CertificateFiles,
        edge::EdgeTls,
        expiry::{self, CertificateExpiry},
        link::LinkIdentity,
        party::TlsParty,
    },
};

/// A profile that an operator has chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChosenProfile {
    Demo(DemoPorts),
    File(PathBuf),
}

/// Reads profiles for one gateway.
#[derive(Debug, Clone)]
pub struct ProfileSource {
    pub folders: Vec<PathBuf>,
    /// Run only this half of a profile that has both.
    pub half: Option<Half>,
    pub pipes: PipePolicy,
}

/// A profile with the certificates of its links and edges, all checked. A gateway starts with nothing less:
///
/// ```
/// use portcullis::{gateway::Engine, profile::Problem, source::*};
///
/// async fn start(source: ProfileSource, chosen: ChosenProfile) -> Result<(), Vec<Problem>> {
///     let loaded: LoadedProfile = source.load(&chosen, None)?;
///     Engine::start(source, chosen, loaded).await;
///     Ok(())
/// }
/// ```
///
/// ```compile_fail,E0308
/// use portcullis::{gateway::Engine, profile::Profile, source::*};
///
/// async fn start(source: ProfileSource, chosen: ChosenProfile, profile: Profile) {
///     Engine::start(source, chosen, profile).await;
/// }
/// ```
///
/// ```compile_fail,E0451
/// use portcullis::{profile::Profile, source::LoadedProfile};
///
/// fn with_its_certificates(profile: Profile, of_another: LoadedProfile) -> LoadedProfile {
///     LoadedProfile { profile, ..of_another }
/// }
/// ```
#[derive(Debug)]
pub struct LoadedProfile {
    pub profile: Profile,
    pub dmz: Option<LinkIdentity>,
    pub internal: Option<LinkIdentity>,
    pub edges: EdgeTls,
    /// The files that identify the clients of requests.
    pub auth: AuthFiles,
    /// The state of the certificate files before they were opened.
    pub files: CertificateFiles,
    /// When the certificates end.
    pub certificates: Vec<CertificateExpiry>,
    _checked: MaterialsChecked,
}

/// Nothing outside of this module makes one.
#[derive(Debug)]
struct MaterialsChecked;

impl ProfileSource {
    /// A plain name is looked up in the folders; `demo` is built in, unless a folder has one.
    pub fn choose(&self, name_or_file: &str) -> Result<ChosenProfile, Vec<Problem>> {
        match profile::find(name_or_file, &self.folders) {
            Ok(file) => Ok(ChosenProfile::File(file)),
            Err(_) if name_or_file == "demo" => Ok(ChosenProfile::Demo(DemoPorts::USUAL)),
            Err(problem) => Err(vec![problem]),
        }
    }

    /// Loads and checks a profile and its certificates; returns every problem.
    pub fn load(&self, chosen: &ChosenProfile, mode: Option<Mode>) -> Result<LoadedProfile, Vec<Problem>> {
        let loaded = self.load_to_serve(chosen, mode)?;
        match [loaded.edges.problems(), loaded.auth.problems()].concat() {
            problems if problems.is_empty() => Ok(loaded),
            problems => Err(problems),
        }
    }

    /// Loads a profile to run it: a fault in the TLS of one service, or in the file of its users, affects
    /// only that service and is reported with the edges.
    pub fn load_to_serve(
        &self,
        chosen: &ChosenProfile,
        mode: Option<Mode>,
    ) -> Result<LoadedProfile, Vec<Problem>> {
        let choice = ProfileOverrides { mode, half: self.half };
        let profile = match chosen {
            ChosenProfile::File(file) => profile::load_with(file, &choice, self.pipes)?,
            ChosenProfile::Demo(ports) => profile::builtin_demo(&choice, &demo_tls()?, *ports)?,
        };
        open_materials(&profile, self.pipes).into_loaded(profile)
    }

    /// Also looks in the folder of a profile that was named as a file, and there first.
    pub fn add_folder(&mut self, folder: &Path) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let is_same = |other: &PathBuf| match (other.canonicalize(), folder.canonicalize()) {
            (Ok(one), Ok(other)) => one == other,
            _ => other == folder,
        };
        if !self.folders.iter().any(is_same) {
            self.folders.insert(0, folder.to_path_buf());
        }
    }

    /// The files that make up a profile and those that it names, in its own mode and in reverse mode.
    pub fn files_of(&self, profile: &Path) -> Vec<PathBuf> {
        let mut files = profile::profile_files(profile);
        for mode in [None, Some(Mode::Reverse)] {
            let choice = ProfileOverrides { mode, half: self.half };
            let Ok(profile) = profile::load_with(profile, &choice, self.pipes) else { continue };
            let named =
                profile.materials().chain(profile.credentials()).filter_map(|material| match material {
                    PemSource::File { path, .. } => Some(path.clone()),
                    PemSource::Memory(_) => None,
                });
            files.extend(named);
        }
        files
    }

    /// The files that a profile writes.
    pub fn files_written_by(&self, profile: &Path) -> Vec<PathBuf> {
        let choice = ProfileOverrides { mode: None, half: self.half };
        let Ok(profile) = profile::load_with(profile, &choice, self.pipes) else { return Vec::new() };
        profile.files_written().map(Path::to_path_buf).collect()
    }

    /// The profiles in the folders; of several with one name, the first counts.
    pub fn list(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = Vec::new();
        for file in self.folders.iter().flat_map(|folder| profile::list(folder)) {
            if !found.iter().any(|other| other.file_name() == file.file_name()) {
                found.push(file);
            }
        }
        found
    }
}

impl ChosenProfile {
    /// Its file, or a description if it has none.
    pub fn describe(&self) -> String {
        self.file().map_or_else(|| "the built-in `demo`".into(), |file| format!("`{}`", file.display()))
    }

    /// The file, if there is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Demo(_) => None,
            Self::File(file) => Some(file),
        }
    }
}

/// The files that a profile names, loaded and checked part by part.
#[derive(Debug)]
pub struct OpenedMaterials {
    pub dmz: Result<Option<LinkIdentity>, Vec<Problem>>,
    pub internal: Result<Option<LinkIdentity>, Vec<Problem>>,
    pub edges: EdgeTls,
    pub auth: AuthFiles,
    /// The state of the files before they were opened.
    pub files: CertificateFiles,
    /// When the certificates end.
    pub certificates: Vec<CertificateExpiry>,
}

pub fn open_materials(profile: &Profile, pipes: PipePolicy) -> OpenedMaterials {
    OpenedMaterials {
        files: CertificateFiles::stat(profile.materials()),
        dmz: load_identity(profile.dmz.as_ref().and_then(DmzHalf::link_tls), pipes),
        internal: load_identity(profile.internal.as_ref().and_then(InternalHalf::link_tls), pipes),
        edges: load_edges(profile, pipes),
        auth: AuthFiles::load(profile.auth_sources(), pipes),
        certificates: expiry::certificate_expiries(profile),
    }
}

impl OpenedMaterials {
    /// Whether the TLS of a link or an edge cannot be used as a whole.
    pub fn has_link_or_edge_faults(&self) -> bool {
        self.dmz.is_err() || self.internal.is_err() || !self.edges.problems().is_empty()
    }

    /// A half without links serves nobody, so a fault in them makes the whole profile fail.
    fn into_loaded(self, profile: Profile) -> Result<LoadedProfile, Vec<Problem>> {
        let Self { dmz, internal, edges, auth, files, certificates } = self;
        let outer_accepts = profile.outer_accept_tls().filter_map(|(_, tls)| edges.fault_of_accept(tls));
        let outer_connects = profile.outer_connect_tls().filter_map(|tls| edges.fault_of_connect(tls));
        let has_outer_fault = outer_accepts.chain(outer_connects).next().is_some();
        match (dmz, internal) {
            (Ok(dmz), Ok(internal)) if !has_outer_fault => Ok(LoadedProfile {
                profile,
                dmz,
                internal,
                edges,
                auth,
                files,
                certificates,
                _checked: MaterialsChecked,
            }),
            (dmz, internal) => {
                let of_links = [dmz.err(), internal.err()].into_iter().flatten().flatten();
                let others = [edges.problems(), auth.problems()].concat();
                Err(of_links.chain(others).collect())
            }
        }
    }
}

/// Whether the links of a DMZ half and an internal half, in separate profiles, would accept each other's
/// certificates.
pub fn compare_certificates(dmz: &LoadedProfile, internal: &LoadedProfile) -> Vec<Problem> {
    let dmz_tls = dmz.profile.dmz.as_ref().and_then(DmzHalf::link_tls);
    let internal_tls = internal.profile.internal.as_ref().and_then(InternalHalf::link_tls);
    let (Some(outer), Some(inner), Some(outer_tls), Some(inner_tls)) =
        (&dmz.dmz, &internal.internal, dmz_tls, internal_tls)
    else {
        return Vec::new();
    };
    [(outer, outer_tls, inner, internal), (inner, inner_tls, outer, dmz)]
        .into_iter()
        .filter_map(|(identity, tls, other, of)| {
            let why = identity.refusal_reason(other)?;
            let PemSource::File { location, .. } = &tls.certificate else { return None };
            let key = location.key.trim_end_matches("certificate");
            let location = ProfileLocation { key: format!("{key}peers"), ..location.clone() };
            let file = of.profile.file.as_deref().unwrap_or(Path::new("demo"));
            let what = format!("it would refuse the other half, in {}: {why}", text::clean_path(file));
            let advice = "correct `peers`, or issue both certificates from one CA".to_owned();
            Some(Problem { location, what, advice })
        })
        .collect()
}

fn load_identity(tls: Option<&LinkTls>, pipes: PipePolicy) -> Result<Option<LinkIdentity>, Vec<Problem>> {
    let alpn = [multiplex::PROTOCOL_NAME.into(), socks5::PROTOCOL_NAME.into()];
    tls.map(|tls| LinkIdentity::load(tls, &alpn, pipes)).transpose()
}

/// The TLS for the clients and backends of a profile, and around the WebSockets of its links.
pub fn load_edges(profile: &Profile, pipes: PipePolicy) -> EdgeTls {
    let accepts = profile.accept_tls().chain(profile.outer_accept_tls().map(|(_, tls)| tls));
    let backends = profile.connect_tls().map(|tls| (TlsParty::Backend, tls));
    let connects = backends.chain(profile.outer_connect_tls().map(|tls| (TlsParty::Outer, tls)));
    EdgeTls::load(accepts, connects, pipes)
}

/// Certificates for the demo's two halves, only in memory.
fn demo_tls() -> Result<DemoTls, Vec<Problem>> {
    let make = || -> Result<DemoTls, rcgen::Error> {
        let authority = CertificateAuthority::create()?;
        let half = |name: &str, peer: &str| {
            let pair = authority.issue(name)?;
            let memory = |text: &str| PemSource::Memory(text.into());
            Ok::<_, rcgen::Error>(LinkTls {
                certificate: memory(&pair.certificate),
                key: memory(&pair.key),
                ca: memory(&authority.pair.certificate),
                peers: vec![peer.into()],
                revoked: RevokedFiles::default(),
                key_exchange: KeyExchangePolicy::default(),
            })
        };
        Ok(DemoTls { dmz: half("dmz", "internal")?, internal: half("internal", "dmz")? })
    };
    make().map_err(|error| {
        let location = ProfileLocation { file: "demo".into(), line: 0, column: 0, key: "tls".into() };
        let what = format!("the demo's certificates cannot be made: {error}");
        vec![Problem { location, what, advice: "please report this".into() }]
    })
}
