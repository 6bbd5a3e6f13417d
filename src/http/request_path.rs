//! Compares the path of a request with that of a service.
//!
//! A character that needs no encoding means the same when it is encoded (RFC 3986, section 6.2.2.2), so paths are
//! compared without such encodings. Some backends go further: they decode a slash, take several slashes for one,
//! or drop what follows a `;`. Where that would lead to another service, the request is refused, as nobody can
//! tell which one is meant.

use std::borrow::Cow;

/// A character of a path: a byte, and whether it stays encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PathSign {
    byte: u8,
    is_encoded: bool,
}

/// The part of a path below a folder, as it is written there; `None` if the path is not in the folder.
pub fn rest_below<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let (mut rest, mut wanted) = (path, folder.strip_suffix('/').unwrap_or(folder));
    while let Some((ch, after)) = next_sign(wanted.as_bytes()) {
        let (found, length) = next_sign(rest.as_bytes())?;
        if found != ch {
            return None;
        }
        (rest, wanted) = (rest.get(length..)?, wanted.get(after..)?);
    }
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// A path as the most lenient backend reads it. It is decoded once, since a client may send a long one.
pub struct LenientPath(Vec<u8>);

impl LenientPath {
    pub fn of(path: &str) -> Self {
        let (mut plain, mut left) = (Vec::with_capacity(path.len()), path.as_bytes());
        while let Some((ch, length)) = next_sign(left) {
            plain.push(ch.byte);
            left = &left[length..];
        }
        Self(plain)
    }

    /// Whether such a backend could find it in a folder.
    pub fn is_below(&self, folder: &str) -> bool {
        let (folder, mut found) = (Self::of(folder), self.segments());
        folder.segments().all(|wanted| found.next() == Some(wanted))
    }

    /// The segments that mean something to it.
    fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let segments = self.0.split(|byte| matches!(byte, b'/' | b'\\'));
        let bare = segments.map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default());
        bare.filter(|segment| !matches!(segment, [] | [b'.']))
    }
}

/// Whether all readers agree on where this path is.
pub fn is_plain(path: &str) -> bool {
    let is_odd = |byte: u8| matches!(byte, b'%' | b';' | b'\\');
    !path.bytes().any(is_odd) && !path.contains("//") && !path.contains("/.")
}

/// The first character, and its length as it is written.
fn next_sign(text: &[u8]) -> Option<(PathSign, usize)> {
    let first = *text.first()?;
    Some(match decoded(text) {
        Some(byte) => (PathSign { byte, is_encoded: !is_unreserved(byte) }, 3),
        None => (PathSign { byte: first, is_encoded: false }, 1),
    })
}

/// The byte that these bytes begin with, if they begin with an encoded one.
fn decoded(text: &[u8]) -> Option<u8> {
    let (b"%", [high, low, ..]) = text.split_at_checked(1)? else { return None };
    let digit = |ch: u8| (ch as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(*high)? << 4 | digit(*low)?)
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// A path in this folder, with the folder as the profile writes it.
pub fn spelled_below<'a>(path_and_query: &'a str, folder: &str) -> Cow<'a, str> {
    let folder = folder.strip_suffix('/').unwrap_or(folder);
    let (path, query) = path_and_query.split_at(path_and_query.find('?').unwrap_or(path_and_query.len()));
    match rest_below(path, folder) {
        Some(rest) if !path.starts_with(folder) => format!("{folder}{rest}{query}").into(),
        _ => path_and_query.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_that_changes_nothing_is_no_other_path() {
        for (path, folder, rest) in [
            ("/admin/x", "/admin", Some("/x")),
            ("/admin", "/admin/", Some("")),
            ("/%61dmin/%78", "/admin", Some("/%78")),
            ("/%61%64%6D%69%6e", "/admin", Some("")),
            ("/a%2Db%5fc%7E/", "/a-b_c~", Some("/")),
            ("/any", "/", Some("/any")),
            ("/admins", "/admin", None),
            ("/%61dmins", "/admin", None),
            ("/adm", "/admin", None),
            ("/admin%2fx", "/admin", None),
            ("//admin", "/admin", None),
            ("/ADMIN", "/admin", None),
            ("/%", "/admin", None),
            ("/%6", "/admin", None),
            ("/a%3Ab", "/a:b", None),
        ] {
            assert_eq!(rest_below(path, folder), rest, "{path} {folder}");
        }
        for (target, folder, spelled) in [
            ("/%61dmin/%78?%61", "/admin", "/admin/%78?%61"),
            ("/admin?x", "/admin", "/admin?x"),
            ("/any/%61?x", "/", "/any/%61?x"),
            ("*", "/", "*"),
        ] {
            assert_eq!(spelled_below(target, folder), spelled);
        }
    }

    #[test]
    fn what_a_lenient_backend_could_read_as_the_folder_is_seen() {
        for path in [
            "/admin",
            "/admin%2fx",
            "/admin%2Fx",
            "//admin/x",
            "/%2fadmin",
            "/./admin",
            "/%2e/admin",
            "/admin;a=b/x",
            "/;a/admin",
            "/admin%3bx",
            "/admin%5cx",
            "/\\admin",
        ] {
            assert!(LenientPath::of(path).is_below("/admin"), "{path}");
            assert!(path == "/admin" || !is_plain(path), "{path}");
        }
        for path in ["/", "/admins", "/x/admin", "/x;/admin", "/%25admin", "/%2561dmin", "/ADMIN"] {
            assert!(!LenientPath::of(path).is_below("/admin"), "{path}");
            assert!(LenientPath::of(path).is_below("/"), "{path}");
        }
    }
}
