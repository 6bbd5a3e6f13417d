//! A backend's response as clients may see it: without the names by which the inside knows the backend.

use std::net::SocketAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::{
    fields::{self, Of},
    request::below,
};

const REFRESH: HeaderName = HeaderName::from_static("refresh");

/// What the inside calls a backend, and its path where that stands in for the accept's.
#[derive(Debug)]
pub struct Names {
    /// In lower case: the host of its address, and what that is in numbers.
    hosts: Vec<String>,
    port: u16,
    path: String,
}

/// Where a request was sent by its client.
#[derive(Debug)]
pub struct Public {
    /// Of the accept; `/` where it has none.
    pub prefix: String,
    /// The `Host` of the request.
    pub host: String,
}

impl Names {
    pub fn new(host: &str, port: u16, reached: Option<SocketAddr>, path: &str) -> Self {
        let mut hosts = vec![host.to_ascii_lowercase()];
        hosts.extend(reached.map(|reached| reached.ip().to_canonical().to_string()));
        hosts.dedup();
        Self { hosts, port, path: path.to_owned() }
    }

    /// Makes a backend's head one of our own.
    pub fn clean(&self, headers: &mut HeaderMap, public: &Public) {
        fields::clean(headers, Of::Response);
        self.clean_names(headers, public);
    }

    fn clean_names(&self, headers: &mut HeaderMap, public: &Public) {
        let mut dropped = Vec::new();
        for (name, value) in headers.iter_mut() {
            let cleaned = match *name {
                header::LOCATION | header::CONTENT_LOCATION => self.place(value, public),
                REFRESH => self.refresh(value, public),
                header::LINK => self.links(value, public),
                header::SET_COOKIE => self.cookie(value, public),
                header::SERVER | header::DATE | header::CONTENT_LENGTH | header::CONTENT_TYPE => None,
                _ if self.is_told_by(value.as_bytes()) => {
                    dropped.push(name.clone());
                    None
                }
                _ => None,
            };
            if let Some(cleaned) = cleaned.and_then(|cleaned| HeaderValue::from_str(&cleaned).ok()) {
                *value = cleaned;
            }
        }
        for name in dropped {
            headers.remove(name);
        }
    }

    fn place(&self, value: &HeaderValue, public: &Public) -> Option<String> {
        self.outside(value.to_str().ok()?, public)
    }

    /// A reference as clients can follow it; `None` where it stays as it is.
    fn outside(&self, reference: &str, public: &Public) -> Option<String> {
        let (authority, target) = split(reference);
        let is_backends = authority.is_some_and(|authority| self.is_authority(authority));
        let is_public = authority.is_some_and(|authority| authority.eq_ignore_ascii_case(&public.host));
        if authority.is_some() && !is_backends && !is_public {
            return None;
        }
        let inner = match self.path.as_str() {
            "/" => None,
            path => below(target, path).filter(|_| target.starts_with('/')),
        };
        let target = match inner {
            Some(rest) if public.prefix == "/" && !rest.starts_with('/') => format!("/{rest}"),
            Some(rest) => format!("{}{rest}", public.prefix.trim_end_matches('/')),
            None if is_backends && !target.starts_with('/') => format!("/{target}"),
            None if is_backends => target.to_owned(),
            None => return None,
        };
        match is_public {
            true => Some(format!("{}{target}", &reference[..reference.len() - split(reference).1.len()])),
            false => Some(target),
        }
    }

    /// `5; url=http://backend/`
    fn refresh(&self, value: &HeaderValue, public: &Public) -> Option<String> {
        let text = value.to_str().ok()?;
        let at = text.to_ascii_lowercase().find("url=")? + "url=".len();
        let url = text[at..].trim_matches(['"', '\'', ' ']);
        Some(format!("{}{}", &text[..at], self.outside(url, public)?))
    }

    /// `<http://backend/next>; rel=next, <…>`
    fn links(&self, value: &HeaderValue, public: &Public) -> Option<String> {
        let text = value.to_str().ok()?;
        let (mut rest, mut cleaned) = (text, String::new());
        while let Some((before, from)) = rest.split_once('<') {
            let (url, after) = from.split_once('>')?;
            cleaned.push_str(before);
            cleaned.push('<');
            cleaned.push_str(self.outside(url, public).as_deref().unwrap_or(url));
            cleaned.push('>');
            rest = after;
        }
        cleaned.push_str(rest);
        (cleaned != text).then_some(cleaned)
    }

    /// A cookie belongs to the host that the client asked, and to a path that it knows.
    fn cookie(&self, value: &HeaderValue, public: &Public) -> Option<String> {
        let text = value.to_str().ok()?;
        let attribute = |part: &str| -> Option<String> {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim();
            if name.trim().eq_ignore_ascii_case("domain") {
                let host = value.trim_start_matches('.').to_ascii_lowercase();
                return (!self.hosts.contains(&host)).then(|| part.to_owned());
            }
            if name.trim().eq_ignore_ascii_case("path")
                && let Some(outside) = self.outside(value, public)
            {
                return Some(format!(" Path={outside}"));
            }
            Some(part.to_owned())
        };
        let mut parts = text.split(';');
        let pair = parts.next()?.to_owned();
        let cleaned: Vec<String> = std::iter::once(pair).chain(parts.filter_map(attribute)).collect();
        let cleaned = cleaned.join(";");
        (cleaned != text).then_some(cleaned)
    }

    fn is_authority(&self, authority: &str) -> bool {
        let authority = authority.to_ascii_lowercase();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
            _ => (authority.as_str(), None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        self.hosts.iter().any(|own| own == host) && port.is_none_or(|port: u16| port == self.port)
    }

    /// Whether a value names the backend: its host as a word of its own; one that could be any word only
    /// where it stands as a host does.
    fn is_told_by(&self, value: &[u8]) -> bool {
        self.hosts.iter().any(|host| {
            let is_word = !host.contains(['.', ':']);
            let port = format!(":{}", self.port);
            let starts = value.windows(host.len()).enumerate();
            let mut found = starts.filter(|(_, window)| window.eq_ignore_ascii_case(host.as_bytes()));
            found.any(|(at, _)| {
                let (before, after) = (&value[..at], &value[at + host.len()..]);
                let goes_on = |byte: Option<&u8>| {
                    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
                };
                let is_whole = !goes_on(before.last()) && !goes_on(after.first());
                is_whole && (!is_word || before.ends_with(b"//") || after.starts_with(port.as_bytes()))
            })
        })
    }
}

/// The authority of a reference that has one, and what follows it.
fn split(reference: &str) -> (Option<&str>, &str) {
    let lower = reference.get(..8).unwrap_or(reference).to_ascii_lowercase();
    let scheme =
        ["http://", "https://", "//", "ws://", "wss://"].into_iter().find(|scheme| lower.starts_with(scheme));
    let Some(scheme) = scheme else { return (None, reference) };
    let rest = &reference[scheme.len()..];
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    (Some(&rest[..end]), &rest[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Names {
        Names::new("App.inside.example", 9000, Some(([10, 0, 0, 5], 9000).into()), path)
    }

    fn cleaned(names: &Names, prefix: &str, name: &str, value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
        let public = Public { prefix: prefix.into(), host: "shop.example".into() };
        names.clean(&mut headers, &public);
        headers.get(name).map(|value| value.to_str().expect("text").to_owned())
    }

    #[test]
    fn references_to_the_backend_become_ones_that_a_client_can_follow() {
        let plain = [
            ("http://app.inside.example:9000/a?b#c", "/a?b#c"),
            ("HTTPS://APP.INSIDE.example/a", "/a"),
            ("//10.0.0.5:9000/a", "/a"),
            ("http://10.0.0.5:9000", "/"),
            ("http://10.0.0.5:9000?q", "/?q"),
            ("http://app.inside.example:9001/other", "http://app.inside.example:9001/other"),
            ("https://elsewhere.example/a", "https://elsewhere.example/a"),
            ("http://shop.example/a", "http://shop.example/a"),
            ("/a", "/a"),
            ("a/b", "a/b"),
        ];
        for (value, expected) in plain {
            for name in ["location", "content-location"] {
                assert_eq!(cleaned(&names("/"), "/shop", name, value).as_deref(), Some(expected), "{value}");
            }
        }
        let mapped = [
            ("http://app.inside.example:9000/app/a", "/shop", "/shop/a"),
            ("/app/a", "/shop", "/shop/a"),
            ("/app", "/", "/"),
            ("/app?x", "/", "/?x"),
            ("/apples", "/shop", "/apples"),
            ("https://shop.example/app/a", "/shop", "https://shop.example/shop/a"),
            ("http://10.0.0.5/other", "/shop", "/other"),
        ];
        for (value, prefix, expected) in mapped {
            assert_eq!(
                cleaned(&names("/app"), prefix, "location", value).as_deref(),
                Some(expected),
                "{value}"
            );
        }
        let refresh = cleaned(&names("/"), "/", "refresh", "5; URL=http://10.0.0.5:9000/a");
        assert_eq!(refresh.as_deref(), Some("5; URL=/a"));
        let link = "<http://app.inside.example:9000/2>; rel=next, <https://cdn.example/x>; rel=preload";
        let link = cleaned(&names("/"), "/", "link", link);
        assert_eq!(link.as_deref(), Some("</2>; rel=next, <https://cdn.example/x>; rel=preload"));
    }

    #[test]
    fn a_cookie_is_not_bound_to_the_backend() {
        let table = [
            ("a=b; Domain=app.inside.example; Secure", "/", "a=b; Secure"),
            ("a=b; domain=.10.0.0.5", "/", "a=b"),
            ("a=b; Domain=shop.example; Path=/x", "/", "a=b; Domain=shop.example; Path=/x"),
            ("a=b; Path=/app/x; HttpOnly", "/app", "a=b; Path=/shop/x; HttpOnly"),
            ("a=domain=10.0.0.5", "/", "a=domain=10.0.0.5"),
        ];
        for (value, path, expected) in table {
            assert_eq!(
                cleaned(&names(path), "/shop", "set-cookie", value).as_deref(),
                Some(expected),
                "{value}"
            );
        }
    }

    #[test]
    fn fields_that_name_the_backend_go() {
        let gone = [
            ("x-upstream", "10.0.0.5:9000"),
            ("via", "1.1 app.inside.example (squid)"),
            ("x-debug", "from=APP.inside.example;x"),
            ("alt-svc", "h2=\":443\""),
            ("connection", "close"),
        ];
        for (name, value) in gone {
            assert_eq!(cleaned(&names("/"), "/", name, value), None, "{name}: {value}");
        }
        let kept = [
            ("x-a", "110.0.0.5"),
            ("x-a", "10.0.0.50"),
            ("server", "app.inside.example"),
            ("x-a", "inside.example"),
        ];
        for (name, value) in kept {
            assert_eq!(cleaned(&names("/"), "/", name, value).as_deref(), Some(value), "{name}: {value}");
        }
        // A host that could be any word.
        let app = Names::new("app", 9000, None, "/");
        assert_eq!(cleaned(&app, "/", "x-a", "an app of ours").as_deref(), Some("an app of ours"));
        assert_eq!(cleaned(&app, "/", "x-a", "see app:9000"), None);
        assert_eq!(cleaned(&app, "/", "x-a", "http://app/x"), None);
    }
}
