//! The certificates and keys that a profile names, anywhere in it. Opening, watching and reloading go over the same
//! list, so none can miss a file.

use super::{
    Accept, AcceptTls, AuthSource, BackendSet, ConnectTls, DmzHalf, DmzMode, Half, InternalHalf,
    InternalMode, KeyPair, LinkAddress, LinkTls, PemSource, Profile,
};

impl Profile {
    /// All files: those of both halves' links, of clients and of backends.
    pub fn materials(&self) -> impl Iterator<Item = &PemSource> {
        let links = self.dmz.iter().filter_map(DmzHalf::link_tls);
        let links = links.chain(self.internal.iter().filter_map(InternalHalf::link_tls));
        let links = links.flat_map(|LinkTls { certificate, key, ca, revoked, .. }| {
            [certificate, key, ca].into_iter().chain(&revoked.files)
        });
        links.chain(self.edge_materials()).chain(self.auth_sources().map(AuthSource::material))
    }

    /// Files of clients and of backends, and those around the WebSockets of links.
    pub fn edge_materials(&self) -> impl Iterator<Item = &PemSource> {
        let accepts = self.accept_tls().chain(self.outer_accept_tls().map(|(_, tls)| tls));
        let connects = self.connect_tls().chain(self.outer_connect_tls());
        accepts.flat_map(of_accept).chain(connects.flat_map(of_connect))
    }

    /// What the listeners of links show around a WebSocket, by half.
    pub fn outer_accept_tls(&self) -> impl Iterator<Item = (Half, &AcceptTls)> {
        let dmz = self.dmz.iter().filter_map(DmzHalf::link_listen).map(|listen| (Half::Dmz, listen));
        let internal = self.internal.iter().filter_map(InternalHalf::link_listen);
        let internal = internal.map(|listen| (Half::Internal, listen));
        dmz.chain(internal).filter_map(|(half, listen)| Some((half, listen.shown_tls()?)))
    }

    /// Who must be at the other ends of the TLS around the WebSockets of links.
    pub fn outer_connect_tls(&self) -> impl Iterator<Item = &ConnectTls> {
        let dmz = self.dmz.iter().filter_map(|half| match &half.mode {
            DmzMode::Forward { connect, .. } => Some(connect),
            DmzMode::Direct(_) | DmzMode::Reverse { .. } => None,
        });
        let internal = self.internal.iter().filter_map(|half| match &half.mode {
            InternalMode::Reverse { connect, .. } => Some(connect),
            InternalMode::Forward { .. } => None,
        });
        dmz.chain(internal).flatten().filter_map(LinkAddress::checked_tls)
    }

    /// What identifies the clients of requests.
    pub fn auth_sources(&self) -> impl Iterator<Item = &AuthSource> {
        let accepts = self.dmz.iter().flat_map(|half| &half.services).flat_map(|service| &service.accept);
        accepts.filter_map(Accept::auth_source)
    }

    /// The TLS for clients.
    pub fn accept_tls(&self) -> impl Iterator<Item = &AcceptTls> {
        let services = self.dmz.iter().flat_map(|half| &half.services);
        services.flat_map(|service| &service.accept).filter_map(|accept| accept.tls.as_ref())
    }

    /// The TLS for backends.
    pub fn connect_tls(&self) -> impl Iterator<Item = &ConnectTls> {
        let direct = self.dmz.iter().filter_map(|half| match &half.mode {
            DmzMode::Direct(backends) => Some(backends.values()),
            DmzMode::Forward { .. } | DmzMode::Reverse { .. } => None,
        });
        let inside = self.internal.iter().flat_map(|half| &half.services);
        let sets = direct.flatten().chain(inside.map(|service| &service.connect));
        sets.flat_map(BackendSet::backends).filter_map(|backend| backend.remote()?.tls.as_deref())
    }
}

impl Accept {
    /// What identifies its clients.
    pub fn auth_source(&self) -> Option<&AuthSource> {
        Some(&self.web.as_ref()?.auth.as_ref()?.source)
    }
}

impl DmzHalf {
    /// Where its links come in, if they do.
    pub fn link_listen(&self) -> Option<&LinkAddress> {
        match &self.mode {
            DmzMode::Direct(_) | DmzMode::Forward { .. } => None,
            DmzMode::Reverse { listen, .. } => Some(listen),
        }
    }

    /// The TLS of its link, if it has one.
    pub fn link_tls(&self) -> Option<&LinkTls> {
        match &self.mode {
            DmzMode::Direct(_) => None,
            DmzMode::Forward { tls, .. } | DmzMode::Reverse { tls, .. } => tls.as_ref(),
        }
    }
}

impl InternalHalf {
    /// Where its links come in, if they do.
    pub fn link_listen(&self) -> Option<&LinkAddress> {
        match &self.mode {
            InternalMode::Forward { listen, .. } => Some(listen),
            InternalMode::Reverse { .. } => None,
        }
    }

    /// The TLS of its link, if it has one.
    pub fn link_tls(&self) -> Option<&LinkTls> {
        match &self.mode {
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
