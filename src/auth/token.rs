//! A signed token that names its bearer (RFC 7519): where it is in a request, and whether it is valid.
//! A request with two of them has none, since parsers would not agree on which counts.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::digest::{self, SHA256};
use hyper::{
    Uri,
    header::{self, HeaderMap, HeaderValue},
    http::{request::Parts, uri::PathAndQuery},
};
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::{
    basic::credentials,
    key_set::KeySet,
    remembered::RememberedLogins,
    token_checks::{TokenChecks, TokenMemory},
};
use crate::{
    admission::clients::LoginRefusal,
    profile::{ClaimValue, TokenLocation, TokenRules, is_user_name},
};

/// The keys of one file.
pub struct TokenKeys {
    pub keys: KeySet,
    remembered: RememberedLogins,
    digest: digest::Digest,
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TokenKeys, {} of them", self.keys.len())
    }
}

/// The bearer of a token, and when it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBearer {
    pub user: String,
    pub expires: SystemTime,
}

/// Longer than anything that fits into a cookie.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How many keys are tried for a token that names none.
const TRIED_MAX: usize = 8;
/// How far the clocks of two hosts may differ.
const CLOCK_LEEWAY_MAX: Duration = Duration::from_secs(60);

impl TokenKeys {
    pub fn new(keys: KeySet, file: &[u8]) -> Self {
        Self { keys, remembered: RememberedLogins::default(), digest: digest::digest(&SHA256, file) }
    }

    /// Whether both have exactly the same contents.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.digest.as_ref() == other.digest.as_ref()
    }

    /// Who has sent a request with this token, once it is the client's turn.
    pub async fn identify(
        &self,
        token: &[u8],
        rules: &TokenRules,
        client: IpAddr,
        checks: &TokenChecks,
    ) -> Result<TokenBearer, LoginRefusal> {
        let key = self.remembered.key_of_token(token);
        let memory = if self.remembered.knows(&key) { TokenMemory::Right } else { TokenMemory::Unknown };
        let checked = checks.run(client, memory, || self.check(token, rules)).await;
        match &checked {
            Ok(_) => self.remembered.remember(key),
            // Nothing was found out about it.
            Err(LoginRefusal::TooManyTokens) => {}
            // Its time may be over, or another service wants other claims.
            Err(_) => self.remembered.forget(&key),
        }
        checked
    }

    /// Who has sent a request with this token, if the token is valid. Nothing of it is shown, whatever is wrong
    /// with it.
    fn check(&self, token: &[u8], rules: &TokenRules) -> Result<TokenBearer, LoginRefusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(LoginRefusal::Unreadable);
        }
        let head = decode_header(token).map_err(|_| LoginRefusal::Unreadable)?;
        let mut validation = Validation::new(head.alg);
        validation.leeway = CLOCK_LEEWAY_MAX.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        match &rules.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        let keys = self.keys.find(head.alg, head.kid.as_deref());
        let good = keys
            .take(TRIED_MAX)
            .find_map(|key| decode::<Map<String, Value>>(token, &key.key, &validation).ok());
        let claims = good.ok_or(LoginRefusal::WrongToken)?.claims;
        let is_issued = |issuer: &String| claims.get("iss").and_then(Value::as_str) == Some(issuer);
        if !rules.issuer.as_ref().is_none_or(is_issued) {
            return Err(LoginRefusal::WrongToken);
        }
        let user = claims.get("sub").and_then(Value::as_str).filter(|user| is_user_name(user));
        let user = user.ok_or(LoginRefusal::WrongToken)?.to_owned();
        let expires = claims
            .get("exp")
            .and_then(Value::as_f64)
            .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?));
        let expires = expires.ok_or(LoginRefusal::WrongToken)?;
        let has = |(name, wanted): (&String, &ClaimValue)| {
            claims.get(name).is_some_and(|claim| holds(claim, wanted))
        };
        // A token that has expired, and is accepted because clocks differ, expires when that tolerance ends.
        let expires = if expires > SystemTime::now() { expires } else { expires + CLOCK_LEEWAY_MAX };
        match rules.claims.iter().all(has) {
            true => Ok(TokenBearer { user, expires }),
            false => Err(LoginRefusal::WrongClaims),
        }
    }
}

/// Whether a claim has this value, or is a list that contains it.
fn holds(claim: &Value, wanted: &ClaimValue) -> bool {
    let is_it = |value: &Value| match wanted {
        ClaimValue::Text(text) => value.as_str() == Some(text),
        ClaimValue::Number(number) => value.as_i64() == Some(*number),
        ClaimValue::Flag(flag) => value.as_bool() == Some(*flag),
    };
    is_it(claim) || claim.as_array().is_some_and(|list| list.iter().any(is_it))
}

/// The token of a request, from the first of the allowed places that has one.
pub fn find_token<'a>(
    locations: &[TokenLocation],
    headers: &'a HeaderMap,
    uri: &'a Uri,
) -> Result<&'a [u8], LoginRefusal> {
    for location in locations {
        let found = match location {
            TokenLocation::Header => match credentials(headers, b"bearer") {
                Err(LoginRefusal::NoCredential) => None,
                found => Some(found?),
            },
            TokenLocation::Cookie(name) => only(cookies(headers).filter_map(|pair| value_of(pair, name)))?,
            TokenLocation::Query(name) => only(members(uri).filter_map(|pair| value_of(pair, name)))?,
        };
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Err(LoginRefusal::NoCredential)
}

/// If there are two, parsers would not agree on which counts.
fn only<'a>(mut found: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a [u8]>, LoginRefusal> {
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(LoginRefusal::Unreadable),
        (found, None) => Ok(found),
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::COOKIE).iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii)
}

fn members(uri: &Uri) -> impl Iterator<Item = &[u8]> {
    uri.query().unwrap_or_default().as_bytes().split(|byte| *byte == b'&')
}

fn value_of<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// Removes tokens from a request, wherever one may be.
pub fn remove_token(locations: &[TokenLocation], parts: &mut Parts) {
    for location in locations {
        match location {
            TokenLocation::Header => {
                parts.headers.remove(header::AUTHORIZATION);
            }
            TokenLocation::Cookie(name) => remove_cookie(&mut parts.headers, name),
            TokenLocation::Query(name) => remove_member(&mut parts.uri, name),
        }
    }
}

fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    if !cookies(headers).any(|pair| value_of(pair, name).is_some()) {
        return;
    }
    let left: Vec<_> = cookies(headers).filter(|pair| value_of(pair, name).is_none()).collect();
    let left = HeaderValue::from_bytes(&left.join(&b"; "[..])).ok().filter(|left| !left.is_empty());
    headers.remove(header::COOKIE);
    headers.extend(left.map(|left| (header::COOKIE, left)));
}

fn remove_member(uri: &mut Uri, name: &str) {
    let Some(query) = uri.query() else { return };
    let left: Vec<_> = query.split('&').filter(|pair| value_of(pair.as_bytes(), name).is_none()).collect();
    let left = left.join("&");
    if left.len() == query.len() {
        return;
    }
    let target = if left.is_empty() { uri.path().to_owned() } else { format!("{}?{left}", uri.path()) };
    let mut parts = std::mem::take(uri).into_parts();
    // A target is still valid after something was removed from it.
    parts.path_and_query = target.parse::<PathAndQuery>().ok().or(Some(PathAndQuery::from_static("/")));
    *uri = Uri::from_parts(parts).unwrap_or_default();
}
