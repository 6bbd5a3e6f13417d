//! How clients of accepts that read requests prove who they are: `auth` and `users`, of an accept, its service,
//! or the DMZ half for all of them. The contents of the files are read in `crate::auth`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    AcceptAddress, Network, PemSource, defaults,
    fields::{Located, MapReader, ReadValue, ValueReader},
    keys,
    link::named_file,
    problem::{Problem, ValueProblem, quote_for_problem},
    yaml::YamlValue,
};

/// The login that an accept requires of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    pub source: AuthSource,
    /// The realm that browsers show; `None` means the service's name.
    pub realm: Option<String>,
    /// The users that may come in; `None` means all known ones.
    pub users: Option<BTreeSet<String>>,
    pub credential: CredentialPolicy,
    pub preflight: PreflightPolicy,
}

impl ClientAuth {
    /// Whether a known client may come in.
    pub fn admits(&self, user: &str) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(user))
    }
}

/// The kind of proof that identifies a client, and the file for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AuthSource {
    /// Names with hashes of passwords.
    Passwords(PemSource),
    /// Signed tokens.
    Tokens(Box<TokenRules>),
}

/// The tokens that identify a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenRules {
    /// The keys that they are signed with.
    pub keys: PemSource,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    /// Other claims that they must have.
    pub claims: BTreeMap<String, ClaimValue>,
    /// Where they may be, in this order.
    pub from: Vec<TokenLocation>,
    pub expiry: ExpiryPolicy,
}

/// The value of a claim, or one that its list must contain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClaimValue {
    Text(String),
    Number(i64),
    Flag(bool),
}

/// The location of a token in a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenLocation {
    Header,
    Cookie(String),
    Query(String),
}

/// The policy for a session whose token expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExpiryPolicy {
    Continues,
    EndsSession,
}

impl AuthSource {
    /// Its file.
    pub fn material(&self) -> &PemSource {
        match self {
            Self::Passwords(file) => file,
            Self::Tokens(rules) => &rules.keys,
        }
    }
}

/// The policy for the credential of a client that may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialPolicy {
    Removed,
    Passed,
}

/// The policy for a browser's preflight request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PreflightPolicy {
    #[default]
    Refuse,
    Pass,
}

/// `auth` as it was written.
#[derive(Clone)]
struct WrittenAuth {
    auth: ClientAuth,
    is_insecure: bool,
}

/// The written options, of one map.
#[derive(Clone)]
pub(super) struct RawAuth {
    auth: ReadValue<Located<WrittenAuth>>,
    users: ReadValue<Located<BTreeSet<String>>>,
}

impl RawAuth {
    pub const NOTHING: Self = Self { auth: ReadValue::Absent, users: ReadValue::Absent };

    pub fn read(fields: &MapReader<'_>, problems: &mut Vec<Problem>) -> Self {
        let users = ReadValue::read(fields.take(&keys::USERS), |field| {
            let names = user_names(&field, problems)?;
            Some(field.at(names))
        });
        Self { auth: ReadValue::read(fields.take(&keys::AUTH), |field| auth(&field, problems)), users }
    }

    /// Options written here replace those written `above`, one key at a time.
    pub fn over(self, above: &Self) -> Self {
        Self {
            auth: if self.auth.is_absent() { above.auth.clone() } else { self.auth },
            users: if self.users.is_absent() { above.users.clone() } else { self.users },
        }
    }

    /// Resolves what an accept asks of its clients. A bad value has already left its problem.
    pub fn resolve(
        &self,
        address: &AcceptAddress,
        proxies: [Option<&[Network]>; 2],
        problems: &mut Vec<Problem>,
    ) -> ReadValue<Arc<ClientAuth>> {
        let users = match (&self.auth, &self.users) {
            (ReadValue::Bad, _) | (_, ReadValue::Bad) => return ReadValue::Bad,
            (ReadValue::Absent, ReadValue::Absent) => return ReadValue::Absent,
            (ReadValue::Absent, ReadValue::Good(users)) => {
                let fault = ValueProblem::new(
                    "there is no `auth` that would tell who a client is",
                    "write `auth: { basic: FILE }` or `auth: { jwt: … }`, or remove it",
                );
                problems.push(fault.at(users.location.clone()));
                return ReadValue::Bad;
            }
            (ReadValue::Good(_), users) => users.good(),
        };
        let Some(written) = self.auth.good() else { return ReadValue::Absent };
        let behind_proxy = proxies.iter().any(Option::is_some);
        let fault = if !address.scheme.is_web() {
            ValueProblem::new(
                format!("`auth` does not apply to `{address}`, which reads no requests"),
                "write it at the accepts that do, or carry requests by `https://…` or `wss://…` there",
            )
        } else if !(address.scheme.is_tls()
            || address.at.is_loopback()
            || written.value.is_insecure
            || behind_proxy)
        {
            ValueProblem::new(
                format!("`{address}` would have clients send their credentials in the clear"),
                "use `https` or `wss`, a loopback address, `proxy` or `forwarded` where TLS ends before it, or say `insecure: true` under `auth`",
            )
        } else {
            let users = users.map(|users| users.value.clone());
            return ReadValue::Good(Arc::new(ClientAuth { users, ..written.value.auth.clone() }));
        };
        problems.push(fault.at(written.location.clone()));
        ReadValue::Bad
    }
}

fn auth(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Located<WrittenAuth>> {
    let before = problems.len();
    let fields = field.map(&keys::AUTH_KEYS, problems)?;
    let advice = "write the file with the users and their hashes, as `htpasswd -B` makes it";
    let source = match (fields.take(&keys::BASIC), fields.take(&keys::JWT)) {
        (Some(file), None) => named_file(&file, advice, problems).map(AuthSource::Passwords),
        (None, Some(field)) => token_rules(&field, problems).map(|rules| AuthSource::Tokens(Box::new(rules))),
        (Some(_), Some(field)) => {
            let fault = ValueProblem::new("`basic` is also given", "leave one of them out");
            field.refuse(fault, problems)
        }
        (None, None) => {
            fields.report_missing(&keys::BASIC, format!("{advice}, or `jwt`"), problems);
            None
        }
    };
    let realm = fields.take(&keys::REALM).and_then(|field| realm(&field, problems));
    let credential = match keys::PASS.read(&fields, problems) {
        true => CredentialPolicy::Passed,
        false => CredentialPolicy::Removed,
    };
    let preflight = keys::PREFLIGHT.written(&fields, problems).unwrap_or_default();
    let is_insecure = keys::AUTH_INSECURE.read(&fields, problems);
    let auth = ClientAuth { source: source?, realm, users: None, credential, preflight };
    // Reported at the key: the value would be the first of its own keys.
    let location = field.key_location();
    (problems.len() == before).then_some(Located { value: WrittenAuth { auth, is_insecure }, location })
}

fn token_rules(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<TokenRules> {
    let before = problems.len();
    let fields = field.map(&keys::JWT_KEYS, problems)?;
    let advice = "write the file with the keys that tokens are signed with, a JWKS";
    let file = fields.take(&keys::TOKEN_KEYS);
    if file.is_none() {
        fields.report_missing(&keys::TOKEN_KEYS, advice, problems);
    }
    let file = file.and_then(|file| named_file(&file, advice, problems));
    let issuer = fields.take(&keys::ISSUER).and_then(|field| claim_text(&field, problems));
    let audience = fields.take(&keys::AUDIENCE).and_then(|field| claim_text(&field, problems));
    let claims = fields.take(&keys::CLAIMS).map(|field| claims(&field, problems)).unwrap_or_default();
    let from = match fields.take(&keys::TOKEN_FROM) {
        None => vec![TokenLocation::Header],
        Some(field) => token_locations(&field, problems).unwrap_or_default(),
    };
    let expiry = match keys::UNTIL_EXPIRY.read(&fields, problems) {
        true => ExpiryPolicy::EndsSession,
        false => ExpiryPolicy::Continues,
    };
    (problems.len() == before).then_some(TokenRules { keys: file?, issuer, audience, claims, from, expiry })
}

fn claim_text(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<String> {
    match field.text(problems)? {
        "" => field
            .refuse(ValueProblem::new("it is empty", "write it as tokens have it, or remove it"), problems),
        text => Some(text.to_owned()),
    }
}

fn claims(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> BTreeMap<String, ClaimValue> {
    let named = field.named(problems).unwrap_or_default();
    if named.len() > defaults::CLAIMS_MAX {
        let what = format!("there are {} claims", named.len());
        let advice = format!("write {} at most", defaults::CLAIMS_MAX);
        problems.push(ValueProblem::new(what, advice).at(field.location()));
    }
    let read = |(name, value): (&str, ValueReader<'_>)| {
        let read = match &value.node.value {
            YamlValue::Text(text) => Some(ClaimValue::Text(text.clone())),
            YamlValue::Bool(flag) => Some(ClaimValue::Flag(*flag)),
            YamlValue::Integer(number) => i64::try_from(*number).ok().map(ClaimValue::Number),
            YamlValue::Null | YamlValue::Float(_) | YamlValue::List(_) | YamlValue::Map(_) => None,
        };
        let Some(read) = read else {
            let what = "text, a whole number, or true or false";
            return value.refuse_type(what, "write the one value that it has to be, or to hold", problems);
        };
        Some((name.to_owned(), read))
    };
    named.into_iter().filter_map(read).collect()
}

fn token_locations(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<Vec<TokenLocation>> {
    let mut locations = Vec::new();
    for item in field.one_or_many(defaults::TOKEN_PLACES_MAX, problems)? {
        let Some(text) = item.text(problems) else { continue };
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let is_name = |name: &&str| (1..=64).contains(&name.len()) && name.bytes().all(is_allowed);
        let location = match text.split_once(':') {
            None if text == "header" => Some(TokenLocation::Header),
            Some(("cookie", name)) => {
                Some(name).filter(is_name).map(|name| TokenLocation::Cookie(name.into()))
            }
            Some(("query", name)) => Some(name).filter(is_name).map(|name| TokenLocation::Query(name.into())),
            _ => None,
        };
        let fault = match location {
            Some(location) if !locations.contains(&location) => {
                locations.push(location);
                continue;
            }
            Some(_) => ValueProblem::new(format!("`{text}` is listed twice"), "remove one"),
            None => ValueProblem::new(
                format!("`{}` is not where a token can be", quote_for_problem(text)),
                "write `header`, `cookie:NAME` or `query:NAME`, with a name of letters, digits, `_`, `.` and `-`",
            ),
        };
        problems.push(fault.at(item.location()));
    }
    Some(locations)
}

/// Restricted to characters that can be used unchanged in a challenge (RFC 9110, section 5.6.4).
fn realm(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<String> {
    let text = field.text(problems)?;
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
    if (1..=defaults::REALM_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain) {
        return Some(text.to_owned());
    }
    let what = format!("`{}` is not a realm", quote_for_problem(text));
    let advice = format!("write 1 to {} visible ASCII signs, without quotes", defaults::REALM_BYTES_MAX);
    field.refuse(ValueProblem::new(what, advice), problems)
}

fn user_names(field: &ValueReader<'_>, problems: &mut Vec<Problem>) -> Option<BTreeSet<String>> {
    let (before, mut names) = (problems.len(), BTreeSet::new());
    for item in field.one_or_many(defaults::USERS_MAX, problems)? {
        let Some(text) = item.text(problems) else { continue };
        let fault = if !is_user_name(text) {
            let what = format!("`{}` is not a user's name", quote_for_problem(text));
            ValueProblem::new(what, "write 1 to 255 bytes without control characters")
        } else if names.insert(text.to_owned()) {
            continue;
        } else {
            ValueProblem::new(format!("`{}` is listed twice", quote_for_problem(text)), "remove one")
        };
        problems.push(fault.at(item.location()));
    }
    (problems.len() == before).then_some(names)
}

/// Whether this is allowed as a user's name, in logs, in lists and towards a backend.
pub fn is_user_name(text: &str) -> bool {
    (1..=defaults::USER_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control)
}
