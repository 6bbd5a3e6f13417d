//! The password hashes that a file may contain: bcrypt and argon2, whose cost can be set.

use std::str::FromStr;

use argon2::{Argon2, PasswordVerifier, password_hash::phc};
use bcrypt::HashParts;
use thiserror::Error;

/// A hash that could be parsed and whose cost is limited.
#[derive(Clone)]
pub enum PasswordHash {
    Bcrypt(Box<str>),
    Argon2(Box<phc::PasswordHash>),
}

/// Why a hash is invalid. Nothing of it is shown, since it may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PasswordHashError {
    #[error("it is MD5 (`htpasswd -m`), which is too weak; use `htpasswd -B`")]
    Md5,
    #[error("it is SHA-1 (`htpasswd -s`), which is too weak; use `htpasswd -B`")]
    Sha1,
    #[error("it is made by crypt(3) without bcrypt")]
    Crypt,
    #[error("it is not a hash: a password in plain text, perhaps")]
    PlainText,
    #[error("it is damaged")]
    Damaged,
    #[error("its bcrypt cost is {0}; allowed are {start} to {end}", start = BCRYPT_COST.start(), end = BCRYPT_COST.end())]
    BcryptCost(u32),
    #[error("it takes more than {} MiB of memory, {ARGON2_PASSES_MAX} passes or {ARGON2_LANES_MAX} lanes", ARGON2_KIB_MAX >> 10)]
    Argon2Cost,
}

/// Each step doubles the time; 16 takes about four seconds of a processor.
const BCRYPT_COST: std::ops::RangeInclusive<u32> = 4..=16;
const ARGON2_KIB_MAX: u32 = 256 * 1024;
const ARGON2_PASSES_MAX: u32 = 64;
const ARGON2_LANES_MAX: u32 = 64;

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        let begins = |begin: &str| text.starts_with(begin);
        if begins("$2a$") || begins("$2b$") || begins("$2y$") {
            let parts = HashParts::from_str(text).map_err(|_| PasswordHashError::Damaged)?;
            let cost = parts.get_cost();
            return match BCRYPT_COST.contains(&cost) {
                true => Ok(Self::Bcrypt(text.into())),
                false => Err(PasswordHashError::BcryptCost(cost)),
            };
        }
        if begins("$argon2id$") || begins("$argon2i$") || begins("$argon2d$") {
            let hash = phc::PasswordHash::new(text).map_err(|_| PasswordHashError::Damaged)?;
            return read_argon2(hash);
        }
        Err(match text {
            _ if begins("$apr1$") || begins("$1$") => PasswordHashError::Md5,
            _ if begins("{SHA}") => PasswordHashError::Sha1,
            _ if begins("$") => PasswordHashError::Crypt,
            _ => PasswordHashError::PlainText,
        })
    }
}

fn read_argon2(hash: phc::PasswordHash) -> Result<PasswordHash, PasswordHashError> {
    let cost = |name: &str| hash.params.get_decimal(name).ok_or(PasswordHashError::Damaged);
    let (memory, passes, lanes) = (cost("m")?, cost("t")?, cost("p")?);
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(PasswordHashError::Damaged);
    }
    if memory > ARGON2_KIB_MAX || passes > ARGON2_PASSES_MAX || lanes > ARGON2_LANES_MAX {
        return Err(PasswordHashError::Argon2Cost);
    }
    Ok(PasswordHash::Argon2(Box::new(hash)))
}

impl PasswordHash {
    /// Whether it belongs to this password. This takes as long as the hash demands.
    pub fn is_of(&self, password: &[u8]) -> bool {
        match self {
            // A hash that cannot be checked matches nothing.
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Argon2(hash) => Argon2::default().verify_password(password, &**hash).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of `s3cret`, made by Python's bcrypt and argon2-cffi.
    const BCRYPT: &str = "$2b$04$mPxoEKurFJxN9brGFUz.KuNr8BQiL0MNMI93eNTwce6AL7yg70siS";
    const ARGON2: &str =
        "$argon2id$v=19$m=64,t=1,p=1$M6yKp8SmKRuZtNnd2SnxCQ$h4vmPB3UjrPqi+JIABCuiKLXMonwZeDKlqVHOydPjAE";

    #[test]
    fn hashes_of_other_programs_are_of_their_passwords_alone() {
        for text in [BCRYPT, &BCRYPT.replace("$2b$", "$2y$"), ARGON2] {
            let hash: PasswordHash = text.parse().expect("it is taken");
            assert!(hash.is_of(b"s3cret"), "{text}");
            assert!(!hash.is_of(b"s3cre") && !hash.is_of(b"") && !hash.is_of(b"s3cret\0"), "{text}");
        }
    }

    #[test]
    fn what_is_guessed_fast_or_checked_slowly_is_refused_by_kind() {
        let table = [
            ("$apr1$tF.DHJcI$0nQkgVPtBUJGEYpjWvQbN/", PasswordHashError::Md5),
            ("$1$abcdefgh$G//4keteveJp0qb8z2DxG/", PasswordHashError::Md5),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", PasswordHashError::Sha1),
            ("$6$salt$hash", PasswordHashError::Crypt),
            ("rqXexS6ZhobKA", PasswordHashError::PlainText),
            ("s3cret", PasswordHashError::PlainText),
            ("", PasswordHashError::PlainText),
            (&BCRYPT[..59], PasswordHashError::Damaged),
            (&BCRYPT.replace("$04$", "$03$"), PasswordHashError::BcryptCost(3)),
            (&BCRYPT.replace("$04$", "$17$"), PasswordHashError::BcryptCost(17)),
            (&ARGON2.replace("m=", "m=x"), PasswordHashError::Damaged),
            ("$argon2id$v=19$m=64,t=1,p=1", PasswordHashError::Damaged),
            (&ARGON2.replace("m=", "m=4194304,x="), PasswordHashError::Argon2Cost),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<PasswordHash>().err(), Some(expected), "{text}");
        }
    }
}
