//! The keys that tokens are signed with (RFC 7517), and the single algorithm that each is for.
//! The key decides, so that the header of a forged token cannot choose another one.

use std::collections::HashSet;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use thiserror::Error;

/// The keys that tokens may be signed with.
pub struct KeySet {
    keys: Vec<TokenKey>,
    pub secrecy: KeySecrecy,
}

/// Whether the file must be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySecrecy {
    Public,
    /// Whoever can check a token can also make one.
    Shared,
}

pub struct TokenKey {
    id: Option<String>,
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

/// Why a set is invalid; `at` counts its keys from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeySetError {
    #[error("it is not JSON with a list `keys`")]
    NoSet,
    #[error(
        "it holds no key that could be used: RSA, P-256 and Ed25519 for RS256, ES256 and EdDSA, `oct` for HS256"
    )]
    Empty,
    #[error("it holds more than {KEYS_MAX} keys")]
    TooMany,
    #[error("key {at}{id} holds a private key (`d`)", id = named(.id))]
    Private { at: usize, id: Option<String> },
    #[error("key {at}{id}: {what}", id = named(.id))]
    Damaged { at: usize, id: Option<String>, what: KeyError },
    #[error("key {at}: there is another one called `{id}`")]
    Twice { at: usize, id: String },
    #[error("shared secrets (`oct`) and public keys must be in separate files")]
    Mixed,
}

/// Why a key is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// A member is missing, or is not base64url.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    #[error("it is shorter than 2048 bits")]
    ShortModulus,
    #[error("its `x` and `y` are not 32 bytes long each")]
    PointLength,
    #[error("its `x` is not 32 bytes long")]
    EdwardsLength,
    #[error("its secret is shorter than 32 bytes")]
    ShortSecret,
    #[error("its secret is empty")]
    EmptySecret,
}

const KEYS_MAX: usize = 64;
/// As long as the output of HS256 (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// RFC 7518, section 3.3.
const RSA_BYTES_MIN: usize = 2048 / 8;
/// Members that only a private key has (RFC 7518, sections 6.2.2 and 6.3.2).
const PRIVATE_JWK_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

fn named(id: &Option<String>) -> String {
    id.as_ref().map_or_else(String::new, |id| format!(" (`{}`)", id.escape_debug()))
}

impl KeySet {
    pub fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        let set: Value = serde_json::from_slice(bytes).map_err(|_| KeySetError::NoSet)?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoSet)?;
        if listed.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let (mut keys, mut ids) = (Vec::new(), HashSet::new());
        for (at, key) in listed.iter().enumerate().map(|(at, key)| (at + 1, key)) {
            let fields = key.as_object().ok_or(KeySetError::NoSet)?;
            let id = text(fields, "kid").map(str::to_owned);
            if PRIVATE_JWK_MEMBERS.iter().any(|name| fields.contains_key(*name)) {
                return Err(KeySetError::Private { at, id });
            }
            let damaged = |what| KeySetError::Damaged { at, id: id.clone(), what };
            let Some((algorithm, key)) = read_key(fields).map_err(damaged)? else { continue };
            if let Some(id) = &id
                && !ids.insert(id.clone())
            {
                return Err(KeySetError::Twice { at, id: id.clone() });
            }
            keys.push(TokenKey { id, algorithm, key });
        }
        let secret = keys.iter().filter(|key| key.algorithm == Algorithm::HS256).count();
        let secrecy = match (secret, keys.len()) {
            (_, 0) => return Err(KeySetError::Empty),
            (0, _) => KeySecrecy::Public,
            (secret, all) if secret == all => KeySecrecy::Shared,
            (_, _) => return Err(KeySetError::Mixed),
        };
        Ok(Self { keys, secrecy })
    }

    /// The keys that a token may have been signed with, according to its header.
    pub fn find<'a>(
        &'a self,
        algorithm: Algorithm,
        id: Option<&'a str>,
    ) -> impl Iterator<Item = &'a TokenKey> {
        let is_meant = move |key: &&TokenKey| match (&key.id, id) {
            (Some(own), Some(named)) => own == named,
            (_, None) | (None, Some(_)) => true,
        };
        self.keys.iter().filter(move |key| key.algorithm == algorithm).filter(is_meant)
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str)
}

/// `None` for a key with another purpose.
fn read_key(fields: &Map<String, Value>) -> Result<Option<(Algorithm, DecodingKey)>, KeyError> {
    let (kind, curve) = (text(fields, "kty").ok_or(KeyError::Missing("kty"))?, text(fields, "crv"));
    let algorithm = match (kind, curve) {
        ("RSA", _) => Algorithm::RS256,
        ("EC", Some("P-256")) => Algorithm::ES256,
        ("OKP", Some("Ed25519")) => Algorithm::EdDSA,
        ("oct", _) => Algorithm::HS256,
        _ => return Ok(None),
    };
    let is_for = |name: &str, wanted: &[&str]| {
        fields.get(name).is_none_or(|value| value.as_str().is_some_and(|value| wanted.contains(&value)))
    };
    let names: &[&str] = match algorithm {
        Algorithm::RS256 => &["RS256"],
        Algorithm::ES256 => &["ES256"],
        Algorithm::EdDSA => &["EdDSA", "Ed25519"],
        _ => &["HS256"],
    };
    if !is_for("use", &["sig"]) || !is_for("alg", names) {
        return Ok(None);
    }
    let bytes = |name: &'static str| {
        let value = text(fields, name).ok_or(KeyError::Missing(name))?;
        BASE64URL_NOPAD.decode(value.as_bytes()).map_err(|_| KeyError::Missing(name))
    };
    let key = match algorithm {
        Algorithm::RS256 => {
            let (modulus, exponent) = (bytes("n")?, bytes("e")?);
            if modulus.iter().skip_while(|byte| **byte == 0).count() < RSA_BYTES_MIN {
                return Err(KeyError::ShortModulus);
            }
            DecodingKey::from_rsa_raw_components(&modulus, &exponent)
        }
        Algorithm::ES256 => {
            let point = [vec![4], bytes("x")?, bytes("y")?].concat();
            if point.len() != 65 {
                return Err(KeyError::PointLength);
            }
            DecodingKey::from_ec_der(&point)
        }
        Algorithm::EdDSA => {
            let point = bytes("x")?;
            if point.len() != 32 {
                return Err(KeyError::EdwardsLength);
            }
            DecodingKey::from_ed_der(&point)
        }
        _ => {
            let secret = bytes("k")?;
            if secret.len() < SECRET_BYTES_MIN {
                return Err(KeyError::ShortSecret);
            }
            DecodingKey::from_secret(&secret).map_err(|_| KeyError::EmptySecret)?
        }
    };
    Ok(Some((algorithm, key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_private_weak_or_among_others_is_named() {
        let word = |bytes: usize| BASE64URL_NOPAD.encode(&vec![7; bytes]);
        let oct = |bytes: usize| format!(r#"{{"kty":"oct","kid":"own","k":"{}"}}"#, word(bytes));
        let rsa =
            |bytes: usize, more: &str| format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"{more}}}"#, word(bytes));
        let edwards = format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"e","x":"{}"}}"#, word(32));
        let point = format!(r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#, word(32), word(31));
        let empty = Err(KeySetError::Empty.to_string());
        let damaged = |reported: &str| Err(reported.to_owned());
        let table = [
            ([rsa(256, ""), edwards.clone()].join(","), Ok(2)),
            (oct(32), Ok(1)),
            // None of these is for signatures that are accepted.
            (rsa(256, r#","use":"enc""#), empty.clone()),
            (rsa(256, r#","alg":"RS512""#), empty.clone()),
            (r#"{"kty":"EC","crv":"P-384"}"#.to_owned(), empty.clone()),
            (String::new(), empty),
            (rsa(255, ""), damaged("key 1: it is shorter than 2048 bits")),
            (rsa(256, r#","d":"AQAB""#), damaged("key 1 holds a private key (`d`)")),
            (oct(31), damaged("key 1 (`own`): its secret is shorter than 32 bytes")),
            (point, damaged("key 1: its `x` and `y` are not 32 bytes long each")),
            (r#"{"kid":"e"}"#.to_owned(), damaged("key 1 (`e`): it has no `kty`")),
            ([edwards.clone(), edwards.clone()].join(","), damaged("key 2: there is another one called `e`")),
            ([oct(32), edwards].join(","), damaged(&KeySetError::Mixed.to_string())),
            ("7".to_owned(), damaged(&KeySetError::NoSet.to_string())),
        ];
        for (keys, expected) in table {
            let read = KeySet::parse(format!(r#"{{"keys":[{keys}]}}"#).as_bytes());
            assert_eq!(read.map(|set| set.len()).map_err(|error| error.to_string()), expected, "{keys:.80}");
        }
        assert_eq!(KeySet::parse(b"[]").err(), Some(KeySetError::NoSet));
    }
}
