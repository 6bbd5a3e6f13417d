//! Explains why a backend's response could not be parsed. hyper's own errors say less, and only as text.

use thiserror::Error;

use super::{ANSWER_FIELDS_MAX, HEAD_BYTES_MAX};

/// Why a response is invalid, or that there was none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ResponseParseError {
    #[error("the backend ended before it had answered")]
    Nothing,
    #[error("the backend ended within the head of its answer")]
    Cut,
    #[error("the backend's answer has a head over {HEAD_BYTES_MAX} bytes")]
    Long,
    #[error("the backend's answer has over {ANSWER_FIELDS_MAX} fields")]
    Many,
    #[error("the backend's answer has a malformed field line")]
    Field,
    #[error("the backend's answer has a malformed status line")]
    Status,
    #[error("the backend's answer speaks {0}")]
    Version(String),
    #[error("the backend's answer is not HTTP")]
    Foreign,
    #[error("the backend's answer has a malformed Content-Length")]
    Length,
    #[error("the backend's answer has a transfer coding other than chunked")]
    Coded,
    #[error("the backend's answer has a Transfer-Encoding in HTTP/1.0")]
    Old,
}

impl ResponseParseError {
    /// Finds what is wrong with the received part of an answer that hyper has refused.
    pub fn diagnose(mut received: &[u8]) -> Self {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; ANSWER_FIELDS_MAX];
            let mut head = httparse::Response::new(&mut fields);
            match head.parse(received) {
                Ok(httparse::Status::Complete(length)) if length > HEAD_BYTES_MAX => return Self::Long,
                Ok(httparse::Status::Complete(length)) => match head.code {
                    // Interim responses come before an answer (RFC 9110, section 15.2).
                    Some(100 | 102..=199) => received = &received[length..],
                    // There is no such class (RFC 9110, section 15).
                    Some(..100) => return Self::Status,
                    _ => return Self::diagnose_fields(&head),
                },
                Ok(httparse::Status::Partial) if received.len() >= HEAD_BYTES_MAX => return Self::Long,
                Ok(httparse::Status::Partial) if received.is_empty() => return Self::Nothing,
                Ok(httparse::Status::Partial) => return Self::Cut,
                Err(httparse::Error::TooManyHeaders) => return Self::Many,
                Err(httparse::Error::Version | httparse::Error::Token) => {
                    return Self::diagnose_version(received);
                }
                Err(httparse::Error::Status) => return Self::Status,
                Err(
                    httparse::Error::HeaderName | httparse::Error::HeaderValue | httparse::Error::NewLine,
                ) => return Self::Field,
            }
        }
    }

    /// Why a head is invalid although its syntax is correct.
    fn diagnose_fields(head: &httparse::Response<'_, '_>) -> Self {
        let has = |name: &str| head.headers.iter().any(|field| field.name.eq_ignore_ascii_case(name));
        if has("transfer-encoding") {
            if head.version == Some(0) { Self::Old } else { Self::Coded }
        } else if has("content-length") {
            Self::Length
        } else {
            Self::Status
        }
    }

    fn diagnose_version(received: &[u8]) -> Self {
        let word = received.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
        match str::from_utf8(word) {
            Ok(word) if word.starts_with("HTTP/") && (6..16).contains(&word.len()) => {
                Self::Version(word.chars().filter(char::is_ascii_graphic).collect())
            }
            _ => Self::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flaw_has_its_name() {
        let ok = "HTTP/1.1 200 OK\r\n";
        let long = format!("{ok}X: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        for (received, reported) in [
            ("", "the backend ended before it had answered"),
            ("HTTP/1.1 103 Early Hints\r\n\r\n", "the backend ended before it had answered"),
            ("HTTP/1.1 200 OK\r\nX: ", "the backend ended within the head of its answer"),
            (&long, "the backend's answer has a head over 32768 bytes"),
            (&long[..long.len() - 4], "the backend's answer has a head over 32768 bytes"),
            (&format!("{ok}{}\r\n", "X: y\r\n".repeat(201)), "the backend's answer has over 200 fields"),
            (&format!("{ok}X-A : 1\r\n\r\n"), "the backend's answer has a malformed field line"),
            (&format!("{ok}X: a\r\n b\r\n\r\n"), "the backend's answer has a malformed field line"),
            ("HTTP/1.1 2x0 OK\r\n\r\n", "the backend's answer has a malformed status line"),
            (
                "HTTP/1.1 099 x\r\nContent-Length: 0\r\n\r\n",
                "the backend's answer has a malformed status line",
            ),
            ("HTTP/2.0 200 OK\r\n\r\n", "the backend's answer speaks HTTP/2.0"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "the backend's answer is not HTTP"),
            (
                &format!("{ok}Content-Length: x\r\n\r\n"),
                "the backend's answer has a malformed Content-Length",
            ),
        ] {
            assert_eq!(
                ResponseParseError::diagnose(received.as_bytes()).to_string(),
                reported,
                "{received:.60}"
            );
        }
    }
}
