//! Cleans a backend's response for clients. Wherever a client would follow one of the backend's own names, that
//! name is replaced by the one the client used: in references, in the domain of a cookie, in the sources of a
//! policy. Everything else in a field is the backend's own business and is forwarded byte for byte.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::{
    fields::{self, HeadOrigin},
    own_names::{OwnNames, split_reference},
    request::strip_folder,
};

const REFRESH: HeaderName = HeaderName::from_static("refresh");

/// The backend's own names, and its path if that replaces the accept's.
#[derive(Debug)]
pub struct NameMapping {
    own: OwnNames,
    path: Vec<u8>,
}

/// The address that the client sent its request to.
#[derive(Debug)]
pub struct PublicAddress {
    /// The accept's path; `/` if it has none.
    pub prefix: Vec<u8>,
    /// The `Host` of the request.
    pub host: Vec<u8>,
}

impl NameMapping {
    pub fn new(own: OwnNames, path: &str) -> Self {
        Self { own, path: path.as_bytes().to_vec() }
    }

    /// Turns a backend's head into one of our own. `report_field` is called for each field that names the backend and
    /// cannot be corrected.
    pub fn clean_response(
        &self,
        headers: &mut HeaderMap,
        public: &PublicAddress,
        mut report_field: impl FnMut(&HeaderName),
    ) {
        fields::clean_headers(headers, HeadOrigin::Response);
        for (name, value) in headers.iter_mut() {
            let bytes = value.as_bytes();
            let rewritten = match *name {
                header::LOCATION | header::CONTENT_LOCATION => self.map_reference(bytes, public),
                REFRESH => self.map_refresh(bytes, public),
                header::LINK => self.map_links(bytes, public),
                header::SET_COOKIE => self.map_cookie(bytes, public),
                header::CONTENT_SECURITY_POLICY | header::CONTENT_SECURITY_POLICY_REPORT_ONLY => {
                    self.map_policy(bytes, public)
                }
                header::DATE | header::CONTENT_LENGTH => None,
                _ => {
                    if self.own.are_in(bytes) {
                        report_field(name);
                    }
                    None
                }
            };
            if let Some(rewritten) = rewritten.and_then(|rewritten| HeaderValue::from_bytes(&rewritten).ok())
            {
                *value = rewritten;
            }
        }
    }

    /// A reference that clients can follow; `None` if it stays as it is.
    fn map_reference(&self, reference: &[u8], public: &PublicAddress) -> Option<Vec<u8>> {
        let Some((scheme, authority, target)) = split_reference(reference) else {
            return self.map_path(reference, public).map(path_only);
        };
        if self.own.contains_authority(authority) {
            let slash: &[u8] = if target.starts_with(b"/") { b"" } else { b"/" };
            return Some(path_only(
                self.map_path(target, public).unwrap_or_else(|| [slash, target].concat()),
            ));
        }
        let target =
            self.map_path(target, public).filter(|_| authority.eq_ignore_ascii_case(&public.host))?;
        Some([scheme, authority, &target].concat())
    }

    /// A target below the backend's path, as one below the accept's path.
    fn map_path(&self, target: &[u8], public: &PublicAddress) -> Option<Vec<u8>> {
        if self.path == b"/" || !target.starts_with(b"/") {
            return None;
        }
        let rest = strip_folder(target, &self.path)?;
        let prefix = public.prefix.strip_suffix(b"/").unwrap_or(&public.prefix);
        let slash: &[u8] = if prefix.is_empty() && !rest.starts_with(b"/") { b"/" } else { b"" };
        Some([prefix, slash, rest].concat())
    }

    /// `5; url=http://backend/`, as browsers read it.
    fn map_refresh(&self, value: &[u8], public: &PublicAddress) -> Option<Vec<u8>> {
        let past = |from: usize, signs: &dyn Fn(&u8) -> bool| {
            from + value[from..].iter().take_while(|byte| signs(byte)).count()
        };
        let is_space = |byte: &u8| byte.is_ascii_whitespace();
        let mut at = past(0, &|byte| byte.is_ascii_digit() || *byte == b'.');
        at = past(at, &|byte| is_space(byte) || b";,".contains(byte));
        if value.get(at..at + 3).is_some_and(|word| word.eq_ignore_ascii_case(b"url")) {
            let equals = past(at + 3, &is_space);
            if value.get(equals) == Some(&b'=') {
                at = past(equals + 1, &is_space);
            }
        }
        let quote = value.get(at).copied().filter(|byte| b"\"'".contains(byte));
        at += usize::from(quote.is_some());
        let end =
            value[at..].iter().position(|byte| Some(*byte) == quote).map_or(value.len(), |end| at + end);
        Some([&value[..at], &self.map_reference(&value[at..end], public)?, &value[end..]].concat())
    }

    /// `<http://backend/next>; rel=next, <…>`
    fn map_links(&self, value: &[u8], public: &PublicAddress) -> Option<Vec<u8>> {
        let (mut rewritten, mut at, mut is_quoted) = (Vec::new(), 0, false);
        while let Some(byte) = value.get(at) {
            rewritten.push(*byte);
            at += 1;
            match byte {
                b'"' => is_quoted = !is_quoted,
                b'\\' if is_quoted => {
                    rewritten.extend(value.get(at));
                    at += 1;
                }
                b'<' if !is_quoted => {
                    let end = at + value[at..].iter().position(|byte| *byte == b'>')?;
                    let target = &value[at..end];
                    rewritten.extend(self.map_reference(target, public).as_deref().unwrap_or(target));
                    at = end;
                }
                _ => {}
            }
        }
        (rewritten != value).then_some(rewritten)
    }

    /// A cookie applies to the host that the client used, and to a path that it knows.
    fn map_cookie(&self, value: &[u8], public: &PublicAddress) -> Option<Vec<u8>> {
        let attribute = |part: &[u8]| -> Option<Vec<u8>> {
            let equals = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
            let (name, value) =
                (part[..equals].trim_ascii(), part.get(equals + 1..).unwrap_or_default().trim_ascii());
            if name.eq_ignore_ascii_case(b"domain") {
                let host = value.strip_prefix(b".").unwrap_or(value);
                return (!self.own.contains_host(host)).then(|| part.to_vec());
            }
            match self.map_path(value, public) {
                Some(path) if name.eq_ignore_ascii_case(b"path") => Some([b" Path=", &path[..]].concat()),
                _ => Some(part.to_vec()),
            }
        };
        let mut parts = value.split(|byte| *byte == b';');
        let pair = parts.next()?.to_vec();
        let parts: Vec<_> = std::iter::once(pair).chain(parts.filter_map(attribute)).collect();
        let rewritten = parts.join(&b';');
        (rewritten != value).then_some(rewritten)
    }

    /// The sources that a policy names, directive by directive.
    fn map_policy(&self, value: &[u8], public: &PublicAddress) -> Option<Vec<u8>> {
        let rewritten: Vec<_> = value
            .split_inclusive(|byte| b";,".contains(byte))
            .map(|directive| {
                let mut names_sources = None;
                let words = directive.split_inclusive(|byte| b" \t;,".contains(byte)).map(|word| {
                    let end =
                        word.len() - usize::from(word.last().is_some_and(|byte| b" \t;,".contains(byte)));
                    let (source, remainder) = word.split_at(end);
                    let rewritten = match names_sources {
                        Some(true) => self.map_source(source, public),
                        Some(false) => None,
                        None if source.is_empty() => None,
                        None => {
                            names_sources = Some(has_sources(source));
                            None
                        }
                    };
                    [rewritten.as_deref().unwrap_or(source), remainder].concat()
                });
                words.collect::<Vec<_>>().concat()
            })
            .collect();
        let rewritten = rewritten.concat();
        (rewritten != value).then_some(rewritten)
    }

    /// A source of a policy that is the backend: replaced by the host that the client used.
    fn map_source(&self, source: &[u8], public: &PublicAddress) -> Option<Vec<u8>> {
        let without_scheme = || {
            let end = source.iter().position(|byte| *byte == b'/').unwrap_or(source.len());
            (&b""[..], &source[..end], &source[end..])
        };
        let (scheme, authority, target) = split_reference(source).unwrap_or_else(without_scheme);
        // `data:` is a scheme, whatever a backend is called.
        if !self.own.contains_authority(authority) || authority.ends_with(b":") {
            return None;
        }
        if public.host.is_empty() {
            return Some(b"'self'".to_vec());
        }
        let mapped = self.map_path(target, public);
        Some([scheme, &public.host, mapped.as_deref().unwrap_or(target)].concat())
    }
}

/// A target that cannot lead elsewhere: two slashes would begin an authority.
fn path_only(target: Vec<u8>) -> Vec<u8> {
    match target.as_slice() {
        [b'/', b'/' | b'\\', ..] => [b"/.", &target[..]].concat(),
        _ => target,
    }
}

/// Whether a directive of a policy is followed by sources, or by places to report to.
fn has_sources(directive: &[u8]) -> bool {
    let name = directive.to_ascii_lowercase();
    let kinds = [&b"-src"[..], b"-src-elem", b"-src-attr"];
    let others = [&b"base-uri"[..], b"form-action", b"frame-ancestors", b"navigate-to", b"report-uri"];
    kinds.iter().any(|kind| name.ends_with(kind)) || others.contains(&name.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> NameMapping {
        let others = ["other.example".to_owned(), "web".to_owned()];
        let reached = Some(([10, 0, 0, 5], 9000).into());
        NameMapping::new(OwnNames::new("App.inside.example", 9000, reached, &others), path)
    }

    /// A field as it is forwarded, with a Latin-1 character for each byte, and whether it was reported.
    fn cleaned(names: &NameMapping, prefix: &str, name: &str, value: &str) -> (Option<String>, bool) {
        let bytes: Vec<u8> = value.chars().map(|byte| byte as u8).collect();
        let mut headers = HeaderMap::new();
        let name = name.parse::<HeaderName>().expect("a name");
        headers.insert(&name, HeaderValue::from_bytes(&bytes).expect("a value"));
        let public = PublicAddress { prefix: prefix.into(), host: b"shop.example".into() };
        let mut is_reported = false;
        names.clean_response(&mut headers, &public, |reported| is_reported |= *reported == name);
        let value = headers.get(name).map(|value| value.as_bytes().iter().copied().map(char::from).collect());
        (value, is_reported)
    }

    fn check(names: &NameMapping, prefix: &str, name: &str, table: &[(&str, &str)]) {
        for (value, expected) in table {
            let cleaned = cleaned(names, prefix, name, value);
            assert_eq!(cleaned, (Some((*expected).to_owned()), false), "{name}: {value}");
        }
    }

    #[test]
    fn references_to_the_backend_become_ones_that_a_client_can_follow() {
        let plain = [
            ("http://app.inside.example:9000/a?b#c", "/a?b#c"),
            ("HTTPS://APP.INSIDE.example./a", "/a"),
            ("//10.0.0.5:9000/a", "/a"),
            ("http://10.0.0.5:9000", "/"),
            ("http://10.0.0.5:9000?q", "/?q"),
            ("http://10.0.0.5:9000/gr\u{fc}\u{df}e", "/gr\u{fc}\u{df}e"),
            ("http://me:pass@10.0.0.5:9000/a", "/a"),
            ("https://other.example:8443/a", "/a"),
            ("http://web/a", "/a"),
            ("http://app.inside.example:9001/other", "http://app.inside.example:9001/other"),
            ("http://10.0.0.5:9000@elsewhere.example/a", "http://10.0.0.5:9000@elsewhere.example/a"),
            ("https://elsewhere.example/a", "https://elsewhere.example/a"),
            ("/login?next=http://10.0.0.5:9000/", "/login?next=http://10.0.0.5:9000/"),
            ("http://shop.example/a", "http://shop.example/a"),
            ("/a", "/a"),
            ("a/b", "a/b"),
            // It does not lead to another host.
            ("http://10.0.0.5:9000//elsewhere.example/a", "/.//elsewhere.example/a"),
            ("http://10.0.0.5:9000/\\elsewhere.example", "/./\\elsewhere.example"),
        ];
        for name in ["location", "content-location"] {
            check(&names("/"), "/shop", name, &plain);
        }
        for (value, prefix, expected) in [
            ("http://app.inside.example:9000/app/a", "/shop", "/shop/a"),
            ("/app/a", "/shop", "/shop/a"),
            ("/app", "/", "/"),
            ("/app?x", "/", "/?x"),
            ("/app//elsewhere.example", "/", "/.//elsewhere.example"),
            ("/apples", "/shop", "/apples"),
            ("https://shop.example/app/\u{fc}", "/shop", "https://shop.example/shop/\u{fc}"),
            ("http://10.0.0.5/other", "/shop", "/other"),
        ] {
            check(&names("/app"), prefix, "location", &[(value, expected)]);
        }
        let refresh = [
            ("5; URL=http://10.0.0.5:9000/a", "5; URL=/a"),
            ("5;url = \"http://10.0.0.5:9000/\u{fc}\" x", "5;url = \"/\u{fc}\" x"),
            ("0.5,'http://web/'", "0.5,'/'"),
            ("5", "5"),
            ("5; url=", "5; url="),
        ];
        check(&names("/"), "/", "refresh", &refresh);
        let link = [
            (
                "<http://app.inside.example:9000/2>; rel=next, <https://cdn.example/x>; rel=preload",
                "</2>; rel=next, <https://cdn.example/x>; rel=preload",
            ),
            ("<http://web/>; title=\"a\\\"<\u{fc}\", <//web/2>", "</>; title=\"a\\\"<\u{fc}\", </2>"),
            ("<http://web/", "<http://web/"),
        ];
        check(&names("/"), "/", "link", &link);
    }

    #[test]
    fn a_cookie_is_not_bound_to_the_backend() {
        let plain = [
            ("a=b; Domain=app.inside.example; Secure", "a=b; Secure"),
            ("a=b; domain=.10.0.0.5", "a=b"),
            ("a=\u{fc}; domain=WEB.", "a=\u{fc}"),
            ("a=b; Domain=shop.example; Path=/x", "a=b; Domain=shop.example; Path=/x"),
            ("a=domain=10.0.0.5", "a=domain=10.0.0.5"),
            ("a=b;;Secure;", "a=b;;Secure;"),
        ];
        check(&names("/"), "/shop", "set-cookie", &plain);
        let mapped = [
            ("a=b; Path=/app/x; HttpOnly", "a=b; Path=/shop/x; HttpOnly"),
            ("a=b; Path=/apple", "a=b; Path=/apple"),
        ];
        check(&names("/app"), "/shop", "set-cookie", &mapped);
    }

    #[test]
    fn a_policy_names_the_host_that_was_asked() {
        let table = [
            ("default-src 'self' http://10.0.0.5:9000", "default-src 'self' http://shop.example"),
            (
                "Script-Src-Elem\tweb:* data: https://cdn.example;",
                "Script-Src-Elem\tshop.example data: https://cdn.example;",
            ),
            (
                "img-src  wss://other.example/app/x ; report-to web",
                "img-src  wss://shop.example/shop/x ; report-to web",
            ),
            (
                "sandbox web; report-uri http://web/r?http://web/",
                "sandbox web; report-uri http://shop.example/r?http://web/",
            ),
            ("img-src web, form-action web", "img-src shop.example, form-action shop.example"),
            ("img-src app.inside.example:1 x.other.example", "img-src app.inside.example:1 x.other.example"),
            ("img-src web:", "img-src web:"),
            (";; ,", ";; ,"),
        ];
        for name in ["content-security-policy", "content-security-policy-report-only"] {
            check(&names("/app"), "/shop", name, &table);
        }
        // For a client that named no host.
        let public = PublicAddress { prefix: b"/".into(), host: Vec::new() };
        let rewritten = names("/").map_policy(b"img-src web data:", &public);
        assert_eq!(rewritten.as_deref(), Some(&b"img-src 'self' data:"[..]));
    }

    #[test]
    fn other_fields_that_name_the_backend_pass_and_are_reported() {
        for (name, value, is_reported) in [
            ("x-upstream", "10.0.0.5:9000", true),
            ("www-authenticate", "Basic realm=\"10.0.0.5\"", true),
            ("via", "1.1 app.inside.example (squid)", true),
            ("server", "APP.inside.example", true),
            ("x-debug", "\u{fc}from=Other.example;x", true),
            ("x-a", "110.0.0.5", false),
            ("x-a", "10.0.0.50", false),
            ("x-a", "inside.example", false),
            // A name that could be any word.
            ("x-a", "a web of ours", false),
            ("x-a", "see web:9000", true),
            ("x-a", "me@web", true),
            ("x-a", "http://web/x", true),
        ] {
            let expected = (Some(value.to_owned()), is_reported);
            assert_eq!(cleaned(&names("/"), "/", name, value), expected, "{name}: {value}");
        }
        for name in ["alt-svc", "connection"] {
            assert_eq!(cleaned(&names("/"), "/", name, "close"), (None, false));
        }
    }
}
