//! Users with hashes of their passwords, one per line, as written by `htpasswd -B`.
//! An unknown user costs a hash as well, so that the time says nothing about who exists. When a hash is computed is up to
//! `hashing`.

use std::{collections::HashMap, fmt, hash::BuildHasher, net::IpAddr, str::FromStr};

use aws_lc_rs::digest::{self, SHA256};
use thiserror::Error;

use super::{
    basic::BasicLogin,
    hashing::{HashingQueue, HashingRefusal},
    password_hash::{PasswordHash, PasswordHashError},
    remembered::RememberedLogins,
};
use crate::profile::is_user_name;

/// A file.
pub struct PasswordFile {
    /// Where each user's hash is in `hashes`.
    users: HashMap<String, usize>,
    hashes: Vec<PasswordHash>,
    remembered: RememberedLogins,
    digest: digest::Digest,
}

impl fmt::Debug for PasswordFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PasswordFile of {} users", self.users.len())
    }
}

/// Why a file is invalid. No line is shown, since it may contain a password.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum PasswordFileError {
    #[error("it is not text")]
    NotText,
    #[error("it contains no users")]
    Empty,
    #[error("it has more than {USERS_MAX} users")]
    TooMany,
    #[error("line {0}: there is no `:` between name and hash")]
    NoColon(usize),
    #[error("line {0}: a name has 1 to 255 bytes, none of them a control character")]
    Name(usize),
    #[error("line {line}: `{name}` is already on line {first}")]
    Twice { line: usize, name: String, first: usize },
    #[error("line {line}, of `{name}`: {error}")]
    Hash { line: usize, name: String, error: PasswordHashError },
}

const USERS_MAX: usize = 65_536;

impl PasswordFile {
    pub fn parse(bytes: &[u8]) -> Result<Self, PasswordFileError> {
        let text = std::str::from_utf8(bytes).map_err(|_| PasswordFileError::NotText)?;
        let (mut users, mut lines, mut hashes) = (HashMap::new(), HashMap::new(), Vec::new());
        for (line, text) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_ascii())) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (name, hash) = text.split_once(':').ok_or(PasswordFileError::NoColon(line))?;
            if !is_user_name(name) {
                return Err(PasswordFileError::Name(line));
            }
            if let Some(first) = lines.insert(name, line) {
                return Err(PasswordFileError::Twice { line, name: name.to_owned(), first });
            }
            let hash = PasswordHash::from_str(hash).map_err(|error| PasswordFileError::Hash {
                line,
                name: name.to_owned(),
                error,
            })?;
            users.insert(name.to_owned(), hashes.len());
            hashes.push(hash);
            if users.len() > USERS_MAX {
                return Err(PasswordFileError::TooMany);
            }
        }
        if hashes.is_empty() {
            return Err(PasswordFileError::Empty);
        }
        Ok(Self {
            users,
            hashes,
            remembered: RememberedLogins::default(),
            digest: digest::digest(&SHA256, bytes),
        })
    }

    /// Whether both have exactly the same contents.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.digest.as_ref() == other.digest.as_ref()
    }

    pub fn has_user(&self, name: &str) -> bool {
        self.users.contains_key(name)
    }

    /// Which hash is computed for an unknown name, so that it takes as long as a user's, and the same one each
    /// time: hashes of one file may have different costs.
    fn stand_in(&self, name: &str) -> usize {
        self.users.hasher().hash_one(name) as usize % self.hashes.len()
    }

    /// Whether a login is right. If it is not remembered, the hash is computed when it is the client's turn.
    pub async fn check(
        &self,
        login: BasicLogin,
        client: IpAddr,
        hashing: &HashingQueue,
    ) -> Result<bool, HashingRefusal> {
        let key = self.remembered.key_of(&login);
        if self.remembered.knows(&key) {
            return Ok(true);
        }
        let known = self.users.get(&login.user).copied();
        let hash = self.hashes[known.unwrap_or_else(|| self.stand_in(&login.user))].clone();
        let is_known = known.is_some();
        let is_right = hashing.run(client, move || hash.is_of(&login.password) && is_known).await?;
        if is_right {
            self.remembered.remember(key);
        }
        Ok(is_right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2b$04$mPxoEKurFJxN9brGFUz.KuNr8BQiL0MNMI93eNTwce6AL7yg70siS";
    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn login(user: &str, password: &str) -> BasicLogin {
        BasicLogin { user: user.to_owned(), password: password.as_bytes().to_vec() }
    }

    #[test]
    fn a_line_that_cannot_be_used_is_named_and_not_shown() {
        let table = [
            (format!("# users\n\nalice:{HASH}\r\nbob:{HASH}\n"), Ok(2)),
            (String::new(), Err("it contains no users".to_owned())),
            (format!("alice:{HASH}\nbob\n"), Err("line 2: there is no `:` between name and hash".into())),
            (
                format!(":{HASH}"),
                Err("line 1: a name has 1 to 255 bytes, none of them a control character".into()),
            ),
            (format!("alice:{HASH}\n\nalice:{HASH}"), Err("line 3: `alice` is already on line 1".into())),
            (
                format!("alice:{HASH}\nbob:hunter2\n"),
                Err("line 2, of `bob`: it is not a hash: a password in plain text, perhaps".into()),
            ),
        ];
        for (text, expected) in table {
            let read = PasswordFile::parse(text.as_bytes());
            assert_eq!(read.map(|file| file.users.len()).map_err(|error| error.to_string()), expected);
        }
        assert_eq!(PasswordFile::parse(b"\xff").err(), Some(PasswordFileError::NotText));
    }

    #[test]
    fn unknown_names_take_as_long_as_users_and_each_of_them_the_same_time() {
        let text: String = (0..4).map(|user| format!("user-{user}:{HASH}\n")).collect();
        let file = PasswordFile::parse(text.as_bytes()).expect("it is right");
        let names: Vec<_> = (0..400).map(|number| format!("nobody-{number}")).collect();
        let indexes: Vec<_> = names.iter().map(|name| file.stand_in(name)).collect();
        assert!((0..4).all(|index| indexes.contains(&index)), "each cost is met");
        assert!(names.iter().zip(&indexes).all(|(name, index)| file.stand_in(name) == *index));
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_password_is_computed_once_and_a_wrong_one_each_time() {
        let file = PasswordFile::parse(format!("alice:{HASH}").as_bytes()).expect("it is right");
        let (hashing, busy) = (HashingQueue::new(1), HashingQueue::new(0));
        let timed_out = Err(HashingRefusal::OfAll);
        for (user, password, by, expected) in [
            ("alice", "s3cret", &busy, timed_out),
            ("alice", "s3cret", &hashing, Ok(true)),
            ("alice", "s3cret", &busy, Ok(true)),
            ("alice", "wrong", &hashing, Ok(false)),
            ("alice", "wrong", &busy, timed_out),
            ("nobody", "s3cret", &hashing, Ok(false)),
            ("nobody", "s3cret", &busy, timed_out),
        ] {
            assert_eq!(file.check(login(user, password), CLIENT, by).await, expected, "{user} {password}");
        }
    }
}
