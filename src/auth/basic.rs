//! A name and a password in the head of a request (RFC 7617).

use data_encoding::BASE64;
use hyper::header::{self, HeaderMap};

use crate::{admission::clients::LoginRefusal, profile::is_user_name};

/// The login that a client sends.
pub struct BasicLogin {
    pub user: String,
    pub password: Vec<u8>,
}

/// The login in a request.
pub fn login(headers: &HeaderMap) -> Result<BasicLogin, LoginRefusal> {
    let encoded = credentials(headers, b"basic")?;
    let decoded = BASE64.decode(encoded).map_err(|_| LoginRefusal::Unreadable)?;
    let colon = decoded.iter().position(|byte| *byte == b':').ok_or(LoginRefusal::Unreadable)?;
    let user = std::str::from_utf8(&decoded[..colon]).map_err(|_| LoginRefusal::Unreadable)?;
    if !is_user_name(user) {
        return Err(LoginRefusal::Unreadable);
    }
    Ok(BasicLogin { user: user.to_owned(), password: decoded[colon + 1..].to_vec() })
}

/// The value of `Authorization` after the name of a scheme.
pub fn credentials<'a>(headers: &'a HeaderMap, scheme: &[u8]) -> Result<&'a [u8], LoginRefusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(LoginRefusal::NoCredential)?.as_bytes();
    // Parsers would not agree on which of them counts.
    if values.next().is_some() {
        return Err(LoginRefusal::Unreadable);
    }
    let (named, rest) = value.split_at(value.len().min(scheme.len()));
    if !named.eq_ignore_ascii_case(scheme) || rest.first() != Some(&b' ') {
        return Err(LoginRefusal::NoCredential);
    }
    Ok(rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_reads_in_one_way_or_not_at_all() {
        type Row<'a> = (&'a [&'a str], Result<(&'a str, &'a str), LoginRefusal>);
        let table: &[Row<'_>] = &[
            (&["Basic YWxpY2U6YTpi"], Ok(("alice", "a:b"))),
            (&["bAsIc  YWxpY2U6YTpi "], Ok(("alice", "a:b"))),
            (&["Basic YWxpY2U6"], Ok(("alice", ""))),
            (&[], Err(LoginRefusal::NoCredential)),
            (&["Bearer YWxpY2U6YTpi"], Err(LoginRefusal::NoCredential)),
            (&["Basic"], Err(LoginRefusal::NoCredential)),
            (&["BasicYWxpY2U6YTpi"], Err(LoginRefusal::NoCredential)),
            (&["Basic YWxpY2U6YTpi", "Basic YWxpY2U6YTpi"], Err(LoginRefusal::Unreadable)),
            (&["Basic YWxpY2U"], Err(LoginRefusal::Unreadable)),
            (&["Basic YWxpY2U="], Err(LoginRefusal::Unreadable)),
            (&["Basic OmI="], Err(LoginRefusal::Unreadable)),
            (&["Basic /zpi"], Err(LoginRefusal::Unreadable)),
            (&["Basic CTpi"], Err(LoginRefusal::Unreadable)),
        ];
        for (values, expected) in table {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(header::AUTHORIZATION, value.parse().expect("a value"));
            }
            let read = login(&headers).map(|login| {
                (login.user, String::from_utf8(login.password).expect("it was written as text"))
            });
            let expected = expected.map(|(user, password)| (user.to_owned(), password.to_owned()));
            assert_eq!(read, expected, "{values:?}");
        }
    }
}
