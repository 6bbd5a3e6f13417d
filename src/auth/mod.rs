//! Who the clients of requests are, by the credential that a request carries: a name and a password, which are looked
//! up in a file ([`password_file`]).
//!
//! Files are opened with the certificates of a profile ([`AuthFiles`]) and looked at again as they are. What is asked of
//! a client is the profile's (`ClientAuth`); what it is answered is `accept`'s.

mod basic;
mod files;
mod hashing;
mod password_file;
mod password_hash;
mod remembered;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use hyper::{
    Method,
    header::{self, HeaderMap, HeaderValue},
    http::request::Parts,
};

pub use self::files::{AuthFault, AuthFiles};
use self::{
    files::OpenedSource,
    hashing::{HashingQueue, HashingRefusal},
};
use crate::{
    admission::clients::LoginRefusal,
    profile::{AuthSource, ClientAuth, CredentialPolicy, PreflightPolicy},
    proto::multiplex::open::ProvenUser,
};

/// What tells who clients are, of all accepts of the gateway.
#[derive(Debug, Default)]
pub struct ClientLogins {
    sources: ArcSwap<HashMap<AuthSource, Arc<OpenedSource>>>,
    hashing: HashingQueue,
}

impl ClientLogins {
    /// Goes by these from now on.
    pub fn update(&self, files: &AuthFiles) {
        self.sources.store(Arc::new(files.in_force()));
    }

    /// Who has sent a request; `None` for a preflight that is let in as it is.
    pub async fn identify(
        &self,
        asked: &ClientAuth,
        method: &Method,
        headers: &HeaderMap,
        client: IpAddr,
    ) -> Result<Option<ProvenUser>, LoginRefusal> {
        if asked.preflight == PreflightPolicy::Pass && is_preflight(method, headers) {
            return Ok(None);
        }
        let source = self.sources.load().get(&asked.source).cloned();
        match source.as_deref() {
            None => Err(LoginRefusal::Unavailable),
            Some(OpenedSource::Passwords(users)) => {
                let login = basic::login(headers)?;
                let name = login.user.clone();
                match users.check(login, client, &self.hashing).await {
                    Ok(true) => Ok(Some(ProvenUser { method: BASIC_METHOD.into(), name })),
                    Ok(false) => Err(LoginRefusal::WrongPassword),
                    Err(HashingRefusal::OfClient) => Err(LoginRefusal::TooMany),
                    Err(HashingRefusal::OfAll) => Err(LoginRefusal::Busy),
                }
            }
        }
    }
}

/// How a user is proven who has named a password.
const BASIC_METHOD: &str = "basic";

/// A browser asks whether a page may send a request, and sends no credential with that (CORS-preflight fetch).
fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// How a client is told what it has to show (RFC 9110, section 11.6.1). `service` stands in for a realm.
pub fn challenge(asked: &ClientAuth, service: &str) -> HeaderValue {
    let realm = asked.realm.as_deref().unwrap_or(service);
    let text = match &asked.source {
        AuthSource::Passwords(_) => format!("Basic realm=\"{realm}\""),
    };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Basic"))
}

/// Takes the credential out of a request, unless it is to go on.
pub fn remove_credential(asked: &ClientAuth, parts: &mut Parts) {
    match (asked.credential, &asked.source) {
        (CredentialPolicy::Passed, _) => {}
        (CredentialPolicy::Removed, AuthSource::Passwords(_)) => {
            parts.headers.remove(header::AUTHORIZATION);
        }
    }
}
