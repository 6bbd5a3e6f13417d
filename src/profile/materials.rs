//! The certificates and keys that a profile names, wherever it names them.

use super::{
    Accept, AcceptTls, AuthSource, BackendSet, ConnectTls, DmzHalf, DmzMode, InternalHalf, InternalMode,
    KeyPair, LinkTls, PemSource, Profile,
};

impl Profile {
    /// All of them, those of both halves' links, of clients and of backends.
    pub fn materials(&self) -> impl Iterator<Item = &PemSource> {
        let links = self.dmz.iter().filter_map(DmzHalf::link_tls);
        let links = links.chain(self.internal.iter().filter_map(InternalHalf::link_tls));
        let links = links.flat_map(|LinkTls { certificate, key, ca, revoked, .. }| {
            [certificate, key, ca].into_iter().chain(&revoked.files)
        });
        links.chain(self.edge_materials()).chain(self.auth_sources().map(AuthSource::material))
    }

    /// Those of clients and of backends.
    pub fn edge_materials(&self) -> impl Iterator<Item = &PemSource> {
        self.accept_tls().flat_map(of_accept).chain(self.connect_tls().flat_map(of_connect))
    }

    /// What tells who the clients of requests are.
    pub fn auth_sources(&self) -> impl Iterator<Item = &AuthSource> {
        let accepts = self.dmz.iter().flat_map(|half| &half.services).flat_map(|service| &service.accept);
        accepts.filter_map(Accept::auth_source)
    }

    /// How TLS is spoken with clients.
    pub fn accept_tls(&self) -> impl Iterator<Item = &AcceptTls> {
        let services = self.dmz.iter().flat_map(|half| &half.services);
        services.flat_map(|service| &service.accept).filter_map(|accept| accept.tls.as_ref())
    }

    /// How TLS is spoken with backends.
    pub fn connect_tls(&self) -> impl Iterator<Item = &ConnectTls> {
        let direct = self.dmz.iter().filter_map(|half| match &half.way {
            DmzMode::Direct(backends) => Some(backends.values()),
            DmzMode::Forward { .. } | DmzMode::Reverse { .. } => None,
        });
        let inside = self.internal.iter().flat_map(|half| &half.services);
        let sets = direct.flatten().chain(inside.map(|service| &service.connect));
        sets.flat_map(BackendSet::backends).filter_map(|backend| backend.remote()?.tls.as_deref())
    }
}

impl Accept {
    /// What tells who its clients are.
    pub fn auth_source(&self) -> Option<&AuthSource> {
        Some(&self.web.as_ref()?.auth.as_ref()?.source)
    }
}

impl DmzHalf {
    /// Of its link, where it has one that speaks TLS.
    pub fn link_tls(&self) -> Option<&LinkTls> {
        match &self.way {
            DmzMode::Direct(_) => None,
            DmzMode::Forward { tls, .. } | DmzMode::Reverse { tls, .. } => tls.as_ref(),
        }
    }
}

impl InternalHalf {
    /// Of its link, where that speaks TLS.
    pub fn link_tls(&self) -> Option<&LinkTls> {
        match &self.way {
            InternalMode::Forward { tls, .. } | InternalMode::Reverse { tls, .. } => tls.as_ref(),
        }
    }
}

fn of_accept(tls: &AcceptTls) -> impl Iterator<Item = &PemSource> {
    let clients = tls.client_certificates().into_iter();
    let clients = clients.flat_map(|clients| [&clients.ca].into_iter().chain(&clients.revoked.files));
    of_pair(&tls.pair).into_iter().chain(clients)
}

fn of_connect(tls: &ConnectTls) -> impl Iterator<Item = &PemSource> {
    [&tls.ca].into_iter().chain(tls.pair.iter().flat_map(of_pair))
}

fn of_pair(KeyPair { certificate, key }: &KeyPair) -> [&PemSource; 2] {
    [certificate, key]
}
