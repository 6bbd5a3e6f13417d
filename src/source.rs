//! Where profiles come from: the folders they are looked up in, the built-in one, the certificates
//! they name.

use std::path::{Path, PathBuf};

use crate::{
    certs::Authority,
    disk::Pipes,
    net::{
        edges::Edges,
        expiry::{self, Expiry},
        files::Files,
        tls::Identity,
    },
    profile::{
        self, Choice, DemoPorts, DemoTls, DmzHalf, InternalHalf, LinkTls, Material, Mode, Place, Problem,
        Profile, Role,
    },
    proto::link,
    text,
};

/// A profile that an operator has chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    Demo(DemoPorts),
    File(PathBuf),
}

/// Reads profiles for one gateway.
#[derive(Debug, Clone)]
pub struct Source {
    pub folders: Vec<PathBuf>,
    /// Run only this half of a profile that has both.
    pub role: Option<Role>,
    pub pipes: Pipes,
}

/// A profile with the certificates of its links and edges, all checked.
#[derive(Debug)]
pub struct Loaded {
    pub profile: Profile,
    pub dmz: Option<Identity>,
    pub internal: Option<Identity>,
    pub edges: Edges,
    /// How the files of the certificates looked before they were opened.
    pub files: Files,
    /// When the certificates end.
    pub certificates: Vec<Expiry>,
}

impl Source {
    /// A plain name is looked up in the folders; `demo` is built in unless a folder has one.
    pub fn choose(&self, name_or_file: &str) -> Result<Chosen, Vec<Problem>> {
        match profile::find(name_or_file, &self.folders) {
            Ok(file) => Ok(Chosen::File(file)),
            Err(_) if name_or_file == "demo" => Ok(Chosen::Demo(DemoPorts::USUAL)),
            Err(problem) => Err(vec![problem]),
        }
    }

    /// Reads and checks a profile and the certificates it names; every problem.
    pub fn load(&self, chosen: &Chosen, mode: Option<Mode>) -> Result<Loaded, Vec<Problem>> {
        let loaded = self.load_to_serve(chosen, mode)?;
        match loaded.edges.problems() {
            [] => Ok(loaded),
            problems => Err(problems.to_vec()),
        }
    }

    /// The same, as a gateway serves it: what is wrong with the TLS of one service is its own fault, and is
    /// told with the edges.
    pub fn load_to_serve(&self, chosen: &Chosen, mode: Option<Mode>) -> Result<Loaded, Vec<Problem>> {
        let choice = Choice { mode, role: self.role };
        let profile = match chosen {
            Chosen::File(file) => profile::load_with(file, &choice, self.pipes)?,
            Chosen::Demo(ports) => profile::builtin_demo(&choice, &demo_tls()?, *ports)?,
        };
        open(&profile, self.pipes).of(profile)
    }

    /// Looks in the folder of a profile that was named as a file, too, and there first.
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

    /// The profiles in the folders, the first of a name winning.
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

impl Chosen {
    /// The file, where there is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Demo(_) => None,
            Self::File(file) => Some(file),
        }
    }
}

/// What a profile names, opened and checked part by part.
#[derive(Debug)]
pub struct Opened {
    pub dmz: Result<Option<Identity>, Vec<Problem>>,
    pub internal: Result<Option<Identity>, Vec<Problem>>,
    pub edges: Edges,
    /// How the files looked before they were opened.
    pub files: Files,
    /// When the certificates end.
    pub certificates: Vec<Expiry>,
}

pub fn open(profile: &Profile, pipes: Pipes) -> Opened {
    Opened {
        files: Files::of(profile.materials()),
        dmz: identity(profile.dmz.as_ref().and_then(DmzHalf::link_tls), pipes),
        internal: identity(profile.internal.as_ref().and_then(InternalHalf::link_tls), pipes),
        edges: edges(profile, pipes),
        certificates: expiry::of(profile),
    }
}

impl Opened {
    /// Without its links a half serves nobody: what is wrong with those is the whole profile's fault.
    fn of(self, profile: Profile) -> Result<Loaded, Vec<Problem>> {
        let Self { dmz, internal, edges, files, certificates } = self;
        match (dmz, internal) {
            (Ok(dmz), Ok(internal)) => Ok(Loaded { profile, dmz, internal, edges, files, certificates }),
            (dmz, internal) => {
                let of_links = [dmz.err(), internal.err()].into_iter().flatten().flatten();
                Err(of_links.chain(edges.problems().to_vec()).collect())
            }
        }
    }
}

/// Whether the links of a DMZ half and an internal half, each in a profile of its own, would accept
/// each other's certificates.
pub fn compare_certificates(dmz: &Loaded, internal: &Loaded) -> Vec<Problem> {
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
            let why = identity.refuses(other)?;
            let Material::File { place, .. } = &tls.certificate else { return None };
            let key = place.key.trim_end_matches("certificate");
            let place = Place { key: format!("{key}peers"), ..place.clone() };
            let file = of.profile.file.as_deref().unwrap_or(Path::new("demo"));
            let what = format!("it would refuse the other half, in {}: {why}", text::path(file));
            let advice = "correct `peers`, or issue both certificates from one CA".to_owned();
            Some(Problem { place, what, advice })
        })
        .collect()
}

fn identity(tls: Option<&LinkTls>, pipes: Pipes) -> Result<Option<Identity>, Vec<Problem>> {
    let alpn = [link::ALPN.to_vec(), link::ALPN_SOCKS.to_vec()];
    tls.map(|tls| Identity::load(tls, &alpn, pipes)).transpose()
}

/// How TLS is spoken with the clients and backends of a profile.
pub fn edges(profile: &Profile, pipes: Pipes) -> Edges {
    Edges::load(profile.accept_tls(), profile.connect_tls(), pipes)
}

/// Certificates for the demo's two halves, in memory only.
fn demo_tls() -> Result<DemoTls, Vec<Problem>> {
    let make = || -> Result<DemoTls, rcgen::Error> {
        let authority = Authority::create()?;
        let half = |name: &str, peer: &str| {
            let pair = authority.issue(name)?;
            let memory = |text: &str| Material::Memory(text.into());
            Ok::<_, rcgen::Error>(LinkTls {
                certificate: memory(&pair.certificate),
                key: memory(&pair.key),
                ca: memory(&authority.pair.certificate),
                peers: vec![peer.into()],
            })
        };
        Ok(DemoTls { dmz: half("dmz", "internal")?, internal: half("internal", "dmz")? })
    };
    make().map_err(|error| {
        let place = Place { file: "demo".into(), line: 0, column: 0, key: "tls".into() };
        let what = format!("the demo's certificates can not be made: {error}");
        vec![Problem { place, what, advice: "please report this".into() }]
    })
}
