//! Identifies the clients of requests by the credential in each request: a name and a password, which are
//! looked up in a file ([`password_file`]), or a signed token ([`token`]).
//!
//! The files are loaded with the certificates of a profile ([`AuthFiles`]) and checked for changes like them.
//! What a client must show is set in the profile (`ClientAuth`); how it is answered is decided in `accept`.

mod basic;
mod files;
mod hashing;
mod key_set;
mod login_clients;
mod password_file;
mod password_hash;
mod remembered;
mod token;
mod token_checks;

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use hyper::{
    Method, Request, Uri,
    header::{self, HeaderMap, HeaderValue},
    http::request::Parts,
};

pub use self::files::{AuthFileError, AuthFiles};
use self::{
    files::OpenedSource,
    hashing::{HashingQueue, HashingRefusal},
    token::{find_token, remove_token},
    token_checks::TokenChecks,
};
use crate::{
    admission::clients::LoginRefusal,
    profile::{AuthSource, ClientAuth, CredentialPolicy, ExpiryPolicy, PreflightPolicy},
    proto::multiplex::open::ProvenUser,
};

/// Password files and keys that identify clients, for all accepts of the gateway.
#[derive(Debug, Default)]
pub struct ClientLogins {
    sources: ArcSwap<HashMap<AuthSource, Arc<OpenedSource>>>,
    hashing: HashingQueue,
    token_checks: TokenChecks,
}

impl ClientLogins {
    /// Uses these files from now on.
    pub fn update(&self, files: &AuthFiles) {
        self.sources.store(Arc::new(files.in_force()));
    }

    /// Who has sent a request; `None` for a preflight that is let in without a login.
    pub async fn identify(
        &self,
        required: &ClientAuth,
        head: AuthHead<'_>,
        client: IpAddr,
    ) -> Result<Option<KnownClient>, LoginRefusal> {
        if required.preflight == PreflightPolicy::Pass && is_preflight(head.method, head.headers) {
            return Ok(None);
        }
        let source = self.sources.load().get(&required.source).cloned();
        match (source.as_deref(), &required.source) {
            (Some(OpenedSource::Passwords(users)), _) => {
                let login = basic::login(head.headers)?;
                let user = ProvenUser { method: BASIC_METHOD.into(), name: login.user.clone() };
                match users.check(login, client, &self.hashing).await {
                    Ok(true) => Ok(Some(KnownClient { user, expires: None })),
                    Ok(false) => Err(LoginRefusal::WrongPassword),
                    Err(HashingRefusal::OfClient) => Err(LoginRefusal::TooMany),
                    Err(HashingRefusal::OfAll) => Err(LoginRefusal::Busy),
                }
            }
            (Some(OpenedSource::Tokens(keys)), AuthSource::Tokens(rules)) => {
                let token = find_token(&rules.from, head.headers, head.uri)?;
                let bearer = keys.identify(token, rules, client, &self.token_checks).await?;
                let user = ProvenUser { method: TOKEN_METHOD.into(), name: bearer.user };
                let expires = (rules.expiry == ExpiryPolicy::EndsSession).then_some(bearer.expires);
                Ok(Some(KnownClient { user, expires }))
            }
            (None | Some(OpenedSource::Tokens(_)), _) => Err(LoginRefusal::Unavailable),
        }
    }
}

/// The parts of a request that identify its sender.
#[derive(Debug, Clone, Copy)]
pub struct AuthHead<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
}

impl<'a> AuthHead<'a> {
    pub fn of<B>(request: &'a Request<B>) -> Self {
        Self { method: request.method(), uri: request.uri(), headers: request.headers() }
    }
}

/// An identified sender of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownClient {
    pub user: ProvenUser,
    /// When the proof ends, and its session with it.
    pub expires: Option<SystemTime>,
}

/// The method of a user who has shown a token.
const TOKEN_METHOD: &str = "jwt";
/// The method of a user who has given a password.
const BASIC_METHOD: &str = "basic";

/// With a preflight, a browser asks whether a page may send a request; it has no credential (CORS-preflight
/// fetch).
fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Tells a client what it has to show (RFC 9110, section 11.6.1; RFC 6750, section 3). `service` is used if
/// there is no realm.
pub fn challenge(required: &ClientAuth, service: &str, refused: LoginRefusal) -> HeaderValue {
    let realm = required.realm.as_deref().unwrap_or(service);
    let text = match &required.source {
        AuthSource::Passwords(_) => format!("Basic realm=\"{realm}\""),
        AuthSource::Tokens(_) if refused == LoginRefusal::NoCredential => format!("Bearer realm=\"{realm}\""),
        AuthSource::Tokens(_) => format!("Bearer realm=\"{realm}\", error=\"invalid_token\""),
    };
    // A realm is visible ASCII, and so is a service's name.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Basic"))
}

/// Removes the credential from a request, unless it is to be passed on.
pub fn remove_credential(required: &ClientAuth, parts: &mut Parts) {
    match (required.credential, &required.source) {
        (CredentialPolicy::Passed, _) => {}
        (CredentialPolicy::Removed, AuthSource::Passwords(_)) => {
            parts.headers.remove(header::AUTHORIZATION);
        }
        (CredentialPolicy::Removed, AuthSource::Tokens(rules)) => remove_token(&rules.from, parts),
    }
}
