//! The proxy through which links are dialled, and the name and password for it, which are in a file of their own and
//! are never shown. What is spoken with the proxy is `net::via`.

use std::{fmt, sync::Arc};

use super::{
    DmzMode, HostPort, InternalMode, PemSource, Profile,
    endpoint::{AllowedUrlSchemes, PortUse, host_port, split},
    fields::{MapReader, ReadValue},
    keys,
    link::material,
    problem::{Problem, ValueProblem},
};
use crate::disk::{self, PipePolicy};

/// A proxy between this gateway and its peers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ViaProxy {
    pub kind: ProxyKind,
    pub at: HostPort,
    pub login: Option<ProxyLogin>,
    /// The file with the login.
    pub credentials: Option<PemSource>,
}

/// The protocol of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyKind {
    /// HTTP's CONNECT (RFC 9110, section 9.3.6).
    Http,
    /// SOCKS5's CONNECT (RFC 1928).
    Socks5,
}

/// How this gateway identifies itself to a proxy.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ProxyLogin {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for ProxyLogin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("ProxyLogin")
    }
}

impl fmt::Display for ViaProxy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            ProxyKind::Http => "http",
            ProxyKind::Socks5 => "socks5",
        };
        write!(out, "{scheme}://{}", self.at)
    }
}

const VIA: AllowedUrlSchemes =
    AllowedUrlSchemes { known: &["http", "socks5"], example: "http://proxy.example.com:3128" };
/// The limit of each part in SOCKS5 (RFC 1929).
const LOGIN_BYTES_MAX: usize = 255;
const FILE_BYTES_MAX: u64 = 4096;

/// `via` of a link, with the file for its login.
pub(super) fn read(link: &MapReader<'_>, problems: &mut Vec<Problem>) -> ReadValue<ViaProxy> {
    let credentials = link.take(&keys::VIA_CREDENTIALS);
    if let (Some(field), None) = (&credentials, link.take(&keys::VIA)) {
        let what = "there is no proxy that would ask for it";
        problems.push(
            ValueProblem::new(what, "write `via: http://HOST:PORT`, or remove it").at(field.location()),
        );
    }
    ReadValue::read(link.take(&keys::VIA), |field| {
        let text = field.text(problems)?;
        let parsed = split(text, &VIA).and_then(|(scheme, rest)| {
            let kind = if scheme == "http" { ProxyKind::Http } else { ProxyKind::Socks5 };
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            Ok((kind, host_port(rest, PortUse::Dialled, VIA.example)?))
        });
        let (kind, at) = match parsed {
            Ok(parsed) => parsed,
            Err(fault) => return field.refuse(fault, problems),
        };
        let credentials = match credentials {
            Some(field) => Some(material(&field, problems)?),
            None => None,
        };
        Some(ViaProxy { kind, at, login: None, credentials })
    })
}

/// Reads the logins of the halves that run. Changes take effect at a reload.
pub(super) fn read_logins(profile: &mut Profile, problems: &mut Vec<Problem>) {
    let dmz = profile.dmz.iter_mut().filter_map(|half| match &mut half.mode {
        DmzMode::Forward { connect, .. } => Some(connect),
        DmzMode::Direct(_) | DmzMode::Reverse { .. } => None,
    });
    let internal = profile.internal.iter_mut().filter_map(|half| match &mut half.mode {
        InternalMode::Reverse { connect, .. } => Some(connect),
        InternalMode::Forward { .. } => None,
    });
    for connect in dmz.chain(internal) {
        // One file for all addresses of a link.
        let Some(via) = connect.iter().find_map(|address| address.via.clone()) else { continue };
        let Some(PemSource::File { path, location }) = &via.credentials else { continue };
        match read_login(path) {
            Ok(login) => {
                let via = Arc::new(ViaProxy { login: Some(login), ..ViaProxy::clone(&via) });
                connect.iter_mut().for_each(|address| address.via = Some(via.clone()));
            }
            Err(fault) => problems.push(fault.at(location.clone())),
        }
    }
}

fn read_login(path: &std::path::Path) -> Result<ProxyLogin, ValueProblem> {
    let shown = path.display();
    let advice = "write one line there, USER:PASSWORD, and run chmod 600 on it";
    let fault = |what: &str| ValueProblem::new(format!("{shown}: {what}"), advice);
    let contents = disk::read(path, FILE_BYTES_MAX, PipePolicy::Refused).map_err(|error| {
        let advice = error.permission_advice(path).unwrap_or_else(|| advice.to_owned());
        ValueProblem::new(format!("{shown}: {error}"), advice)
    })?;
    if !contents.access.keeps_secret() {
        return Err(fault(&format!("others may read it (mode {:04o})", contents.access.mode)));
    }
    let text = std::str::from_utf8(&contents.bytes).map_err(|_| fault("it is not text"))?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (user, password) =
        line.split_once(':').ok_or_else(|| fault("there is no `:` between user and password"))?;
    if line.chars().any(char::is_control) {
        return Err(fault("it has more than one line, or a control character"));
    }
    if user.is_empty() || user.len() > LOGIN_BYTES_MAX || password.len() > LOGIN_BYTES_MAX {
        return Err(fault("user and password have 1 to 255 bytes each"));
    }
    Ok(ProxyLogin { user: user.to_owned(), password: password.to_owned() })
}

impl Profile {
    /// The files with logins of proxies.
    pub fn credentials(&self) -> impl Iterator<Item = &PemSource> {
        let dmz = self.dmz.iter().filter_map(|half| match &half.mode {
            DmzMode::Forward { connect, .. } => Some(connect),
            DmzMode::Direct(_) | DmzMode::Reverse { .. } => None,
        });
        let internal = self.internal.iter().filter_map(|half| match &half.mode {
            InternalMode::Reverse { connect, .. } => Some(connect),
            InternalMode::Forward { .. } => None,
        });
        dmz.chain(internal).flatten().filter_map(|address| address.via.as_ref()?.credentials.as_ref())
    }
}
