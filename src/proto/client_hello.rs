//! The name in a ClientHello (RFC 6066, section 3), of any version of TLS: to pass a connection on, nothing
//! else needs to be checked.
//!
//! Everything else in it is skipped by its length. If TLS ends here, rustls reads it again and checks it.

use std::net::IpAddr;

use thiserror::Error;

/// The first byte of a record with a handshake message (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const RECORD_BYTES_MAX: usize = 1 << 14;
/// As many as rustls accepts.
const HELLO_BYTES_MAX: usize = 64 * 1024;

/// Why the client's bytes are not a ClientHello, or contain no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ClientHelloError {
    #[error("it does not speak TLS: its first byte is {0:#04x}")]
    NoTls(u8),
    #[error("the records of its hello are of version {0}, which is not TLS")]
    Version(u8),
    #[error("the record of its hello has {0} bytes")]
    Record(usize),
    #[error("its first message is of kind {0}, and no hello")]
    Message(u8),
    #[error("its hello is longer than {HELLO_BYTES_MAX} bytes")]
    Long,
    #[error("a length in its hello exceeds the message")]
    Cut,
    #[error("its hello asks for two names")]
    Twice,
    #[error("its hello has an invalid server name")]
    Name,
}

/// Collects the records of a hello as they arrive.
#[derive(Debug, Default)]
pub struct RecordReader {
    /// The received part of a record's header.
    head: Vec<u8>,
    /// Bytes of the record that are still missing.
    left: usize,
    message: Vec<u8>,
}

impl RecordReader {
    /// Takes received bytes. Returns `None` while the hello is incomplete, then the name that it asks for, if
    /// any.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<Option<Option<String>>, ClientHelloError> {
        while let Some(first) = bytes.first() {
            if self.left == 0 {
                self.head.push(*first);
                bytes = &bytes[1..];
                self.begin_record()?;
                continue;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(self.left));
            self.message.extend_from_slice(piece);
            (self.left, bytes) = (self.left - piece.len(), rest);
            if let Some(name) = self.finished()? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn begin_record(&mut self) -> Result<(), ClientHelloError> {
        match self.head.as_slice() {
            [HANDSHAKE, 3, _, high, low] => {
                self.left = usize::from(u16::from_be_bytes([*high, *low]));
                self.head.clear();
                if (1..=RECORD_BYTES_MAX).contains(&self.left) {
                    Ok(())
                } else {
                    Err(ClientHelloError::Record(self.left))
                }
            }
            [HANDSHAKE] | [HANDSHAKE, 3, ..] => Ok(()),
            [HANDSHAKE, other, ..] => Err(ClientHelloError::Version(*other)),
            [other, ..] => Err(ClientHelloError::NoTls(*other)),
            [] => Ok(()),
        }
    }

    fn finished(&self) -> Result<Option<Option<String>>, ClientHelloError> {
        match self.message.as_slice() {
            [kind, ..] if *kind != CLIENT_HELLO => Err(ClientHelloError::Message(*kind)),
            [_, long, high, low, body @ ..] => {
                let length = usize::from(*long) << 16 | usize::from(*high) << 8 | usize::from(*low);
                if length > HELLO_BYTES_MAX {
                    return Err(ClientHelloError::Long);
                }
                body.get(..length).map(name).transpose()
            }
            _ => Ok(None),
        }
    }
}

/// The name that a hello asks for. An address does not count as a name (RFC 6066, section 3).
fn name(hello: &[u8]) -> Result<Option<String>, ClientHelloError> {
    let mut rest = HelloCursor(hello);
    // The version and the random bytes.
    rest.take(2 + 32)?;
    // Session id, cipher suites, compression methods.
    rest.take_prefixed(1)?;
    rest.take_prefixed(2)?;
    rest.take_prefixed(1)?;
    // The oldest clients have no extensions.
    let mut extensions =
        if rest.0.is_empty() { HelloCursor(&[]) } else { HelloCursor(rest.take_prefixed(2)?) };
    let mut found = None;
    while !extensions.0.is_empty() {
        let (kind, body) = (extensions.number(2)?, extensions.take_prefixed(2)?);
        if kind == usize::from(SERVER_NAME) && found.replace(host_name(body)?).is_some() {
            return Err(ClientHelloError::Twice);
        }
    }
    let Some(name) = found else { return Ok(None) };
    Ok(Some(name).filter(|name| name.parse::<IpAddr>().is_err()))
}

/// In lower case, and without the dot of the root.
fn host_name(body: &[u8]) -> Result<String, ClientHelloError> {
    let mut names = HelloCursor(HelloCursor(body).take_prefixed(2)?);
    let mut found = None;
    while !names.0.is_empty() {
        let (kind, name) = (names.number(1)?, names.take_prefixed(2)?);
        if kind == usize::from(HOST_NAME) && found.replace(name).is_some() {
            return Err(ClientHelloError::Twice);
        }
    }
    let name =
        std::str::from_utf8(found.ok_or(ClientHelloError::Name)?).map_err(|_| ClientHelloError::Name)?;
    let bare = name.strip_suffix('.').unwrap_or(name);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    match (1..=253).contains(&bare.len()) && bare.bytes().all(is_allowed) {
        true => Ok(bare.to_ascii_lowercase()),
        false => Err(ClientHelloError::Name),
    }
}

/// The unread rest of a hello.
struct HelloCursor<'a>(&'a [u8]);

impl<'a> HelloCursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ClientHelloError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(ClientHelloError::Cut)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, ClientHelloError> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// Takes bytes preceded by their length, which itself has this many bytes.
    fn take_prefixed(&mut self, bytes: usize) -> Result<&'a [u8], ClientHelloError> {
        let length = self.number(bytes)?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).expect("short").to_be_bytes(), bytes].concat()
    }

    fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
        let list: Vec<_> = names.iter().map(|(kind, name)| [&[*kind][..], &long(name)].concat()).collect();
        [&[0, 0][..], &long(&long(&list.concat()))].concat()
    }

    fn record(message: &[u8]) -> Vec<u8> {
        [&[22, 3, 1][..], &long(message)].concat()
    }

    /// A hello of this version, with these extensions; `None` for a client that knows none.
    fn hello(version: u8, extensions: Option<&[u8]>) -> Vec<u8> {
        let mut body = [&[3, version][..], &[7; 32], b"\x02id", b"\0\x02\0\x2f", b"\x01\0"].concat();
        body.extend(extensions.map(long).unwrap_or_default());
        record(&[&[1, 0][..], &long(&body)].concat())
    }

    fn read(bytes: &[u8]) -> Result<Option<Option<String>>, ClientHelloError> {
        let whole = RecordReader::default().feed(bytes);
        let mut reader = RecordReader::default();
        let bytewise = bytes.iter().map(|byte| reader.feed(&[*byte])).find(|received| *received != Ok(None));
        assert_eq!(whole, bytewise.unwrap_or(Ok(None)), "at once, and byte by byte");
        whole
    }

    #[test]
    fn a_hello_of_any_version_names_what_it_asks_for() {
        let named = |name: &[u8]| names(&[(0, name)]);
        for version in 0..=4 {
            for (extensions, name) in [
                (Some(named(b"Shop.Example")), Some("shop.example")),
                (Some(named(b"shop.example.")), Some("shop.example")),
                (Some([&[0, 43, 0, 1, 9][..], &named(b"a_b")].concat()), Some("a_b")),
                (Some(names(&[(9, b"\xff"), (0, b"a")])), Some("a")),
                (Some(named(b"192.0.2.7")), None),
                (Some(named(b"2001:db8::7")), None),
                (Some(vec![]), None),
                (None, None),
            ] {
                let bytes = hello(version, extensions.as_deref());
                assert_eq!(read(&bytes), Ok(Some(name.map(str::to_owned))), "{version} {extensions:?}");
                assert_eq!(read(&[&bytes[..], b"\x17more"].concat()), read(&bytes));
                assert_eq!(read(&bytes[..bytes.len() - 1]), Ok(None));
                let pieces: Vec<_> = bytes[5..].chunks(3).map(record).collect();
                assert_eq!(read(&pieces.concat()), read(&bytes), "in records of three bytes");
            }
        }
    }

    #[test]
    fn an_invalid_hello_is_refused_at_once() {
        let with_extensions = |extensions: &[u8]| hello(3, Some(extensions));
        let two = [names(&[(0, b"a")]), names(&[(0, b"b")])].concat();
        for (bytes, fault) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), ClientHelloError::NoTls(b'G')),
            (b"\x80\x2e\x01\x03\x01".to_vec(), ClientHelloError::NoTls(0x80)),
            (b"\x16\x02".to_vec(), ClientHelloError::Version(2)),
            (b"\x16\x03\x01\0\0".to_vec(), ClientHelloError::Record(0)),
            (b"\x16\x03\x01\x40\x01".to_vec(), ClientHelloError::Record(0x4001)),
            (record(&[14, 0, 0, 0]), ClientHelloError::Message(14)),
            (record(&[1, 1, 0, 1]), ClientHelloError::Long),
            (record(&[1, 0, 0, 0]), ClientHelloError::Cut),
            (with_extensions(&[0, 0, 0, 9, 0]), ClientHelloError::Cut),
            (with_extensions(&two), ClientHelloError::Twice),
            (with_extensions(&names(&[(0, b"a"), (0, b"b")])), ClientHelloError::Twice),
            (with_extensions(&names(&[])), ClientHelloError::Name),
            (with_extensions(&names(&[(0, b"")])), ClientHelloError::Name),
            (with_extensions(&names(&[(0, b"a/b")])), ClientHelloError::Name),
            (with_extensions(&names(&[(0, &[b'a'; 254])])), ClientHelloError::Name),
        ] {
            assert_eq!(read(&bytes), Err(fault), "{bytes:?}");
        }
    }
}
