//! An operator's name for a gateway: `NAME=TARGET`, where a target is a socket's path, `ssh:` or `exec:`.
//! A host can be neither an option of `ssh` nor anything that a shell would interpret.

use std::{collections::HashSet, path::Path, sync::Arc};

use thiserror::Error;

use crate::{
    admin::target::{AdminTarget, ProgramCommand},
    gateway::handle::AdminAccess,
    profile::is_gateway_name,
};

/// A gateway of a fleet: its name, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetTarget {
    pub name: Arc<str>,
    pub at: AdminTarget,
}

/// Why a target is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TargetError {
    #[error("it is empty; write a socket's path, `ssh:HOST` or `exec:COMMAND`")]
    Empty,
    #[error("`ssh:` lacks a host; write `ssh:[USER@]HOST[:PROFILE]`")]
    NoHost,
    #[error("`{0}` begins with `-`, which ssh would take for an option; write a host, or a user and a host")]
    Option(String),
    #[error(
        "`{0}` cannot be a host or user; write letters, digits, `.`, `_`, `-`, `:`, or a name of ssh_config"
    )]
    Host(String),
    #[error(
        "`{0}` is not a profile name, and the remote shell would read it; write letters, digits, `.`, `_`, `-`"
    )]
    Profile(String),
    #[error("`exec:` lacks a command")]
    NoCommand,
    #[error("a quote is not closed")]
    OpenQuote,
    #[error("`{0}` names two gateways; give each a name of its own")]
    Twice(Arc<str>),
}

/// Parses the command line, in order; a target without a name gets one derived from it.
pub fn parse_all(words: &[String], access: AdminAccess) -> Result<Vec<FleetTarget>, (String, TargetError)> {
    let split: Vec<_> = words.iter().map(|word| (word, split_name(word))).collect();
    let mut taken = HashSet::new();
    for (word, (name, _)) in &split {
        if let Some(name) = name
            && !taken.insert((*name).to_owned())
        {
            return Err(((*word).clone(), TargetError::Twice((*name).into())));
        }
    }
    let mut targets = Vec::with_capacity(split.len());
    for (word, (name, target)) in split {
        let at = parse(target, access).map_err(|error| (word.clone(), error))?;
        let name = match name {
            Some(name) => name.to_owned(),
            None => free_name(&derived_name(target), &mut taken),
        };
        targets.push(FleetTarget { name: name.into(), at });
    }
    Ok(targets)
}

/// Splits at the first `=` if a name comes before it, since a path may contain one too.
fn split_name(word: &str) -> (Option<&str>, &str) {
    match word.split_once('=') {
        Some((name, target)) if is_gateway_name(name) => (Some(name), target),
        _ => (None, word),
    }
}

/// An operator's description of where a gateway is. Over `ssh`, the remote end enforces read-only access.
pub fn parse(text: &str, access: AdminAccess) -> Result<AdminTarget, TargetError> {
    let text = text.trim();
    match (text.strip_prefix("ssh:"), text.strip_prefix("exec:")) {
        (Some(host), _) => ssh(text, host, access),
        (_, Some(command)) => exec(text, command),
        _ if text.is_empty() => Err(TargetError::Empty),
        _ => Ok(AdminTarget::Socket(text.into())),
    }
}

/// `[USER@]HOST[:PROFILE]`; an IPv6 address is in brackets.
fn ssh(shown: &str, text: &str, access: AdminAccess) -> Result<AdminTarget, TargetError> {
    let (user, rest) = text.rsplit_once('@').map_or((None, text), |(user, rest)| (Some(user), rest));
    let (host, profile) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, remainder)) => (host, Some(remainder.strip_prefix(':').unwrap_or(remainder))),
        None => rest.split_once(':').map_or((rest, None), |(host, profile)| (host, Some(profile))),
    };
    for part in user.into_iter().chain([host]) {
        if part.is_empty() {
            return Err(TargetError::NoHost);
        }
        if part.starts_with('-') {
            return Err(TargetError::Option(part.into()));
        }
        if !part.chars().all(|sign| sign.is_alphanumeric() || ".-_:%+".contains(sign)) {
            return Err(TargetError::Host(part.into()));
        }
    }
    if let Some(profile) = profile
        && !is_gateway_name(profile)
    {
        return Err(TargetError::Profile(profile.into()));
    }
    let destination = user.map_or(host.to_owned(), |user| format!("{user}@{host}"));
    let fixed = ["-T", "-o", "BatchMode=yes", "--", &destination, "portcullis", "admin", "--stdio"];
    let mut arguments: Vec<String> = fixed.map(str::to_owned).into();
    arguments.extend((access == AdminAccess::ReadOnly).then(|| "--read-only".into()));
    arguments.extend(profile.into_iter().flat_map(|profile| ["--profile".to_owned(), profile.to_owned()]));
    Ok(AdminTarget::Program(ProgramCommand { shown: shown.into(), program: "ssh".into(), arguments }))
}

fn exec(shown: &str, text: &str) -> Result<AdminTarget, TargetError> {
    let mut words = split_words(text)?.into_iter();
    let program = words.next().filter(|program| !program.is_empty()).ok_or(TargetError::NoCommand)?;
    Ok(AdminTarget::Program(ProgramCommand { shown: shown.into(), program, arguments: words.collect() }))
}

/// Splits at blanks outside single or double quotes. No other character is special, since no shell is involved.
fn split_words(text: &str) -> Result<Vec<String>, TargetError> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for sign in text.chars() {
        match (sign, quote) {
            (sign, Some(open)) if sign == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(sign);
                word.get_or_insert_default();
            }
            (sign, None) if sign.is_whitespace() => words.extend(word.take()),
            (sign, _) => word.get_or_insert_default().push(sign),
        }
    }
    words.extend(word);
    if quote.is_some() { Err(TargetError::OpenQuote) } else { Ok(words) }
}

/// The name of a socket's file, a host, or a program.
fn derived_name(target: &str) -> String {
    let named = match (target.strip_prefix("ssh:"), target.strip_prefix("exec:")) {
        (Some(host), _) => host.rsplit_once('@').map_or(host, |(_, host)| host).to_owned(),
        (_, Some(command)) => file_stem(command.split_whitespace().next().unwrap_or_default()),
        _ => file_stem(target),
    };
    let fit: String =
        named.chars().map(|sign| if is_gateway_name(&sign.to_string()) { sign } else { '-' }).collect();
    let fit: String = fit.trim_matches('-').chars().take(NAME_CHARS).collect();
    if is_gateway_name(&fit) { fit } else { "gateway".into() }
}

fn file_stem(path: &str) -> String {
    Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The name itself, or with a number appended if it is taken.
fn free_name(name: &str, taken: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    let free = names.find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(free.clone());
    free
}

/// Enough to recognise a gateway, and short enough to leave its row some room.
const NAME_CHARS: usize = 24;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn command(text: &str, access: AdminAccess) -> String {
        match parse(text, access) {
            Ok(AdminTarget::Program(command)) => {
                [vec![command.program], command.arguments].concat().join(" ")
            }
            Ok(AdminTarget::Socket(path)) => path.display().to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn ssh_gets_no_argument_that_looks_like_an_option() {
        let full = |text| command(text, AdminAccess::Full);
        let route = "ssh -T -o BatchMode=yes --";
        let far = "portcullis admin --stdio";
        assert_eq!(full("ssh:edge-1"), format!("{route} edge-1 {far}"));
        assert_eq!(full("ssh:ops@10.0.0.5:shop"), format!("{route} ops@10.0.0.5 {far} --profile shop"));
        assert_eq!(
            full("ssh:ops@[2001:db8::1]:shop"),
            format!("{route} ops@2001:db8::1 {far} --profile shop")
        );
        assert_eq!(command("ssh:edge", AdminAccess::ReadOnly), format!("{route} edge {far} --read-only"));
        for bad in ["ssh:-oProxyCommand=x", "ssh:-x@host", "ssh:ops@-host"] {
            assert!(full(bad).contains("begins with `-`"), "{bad}");
        }
        for bad in ["ssh:", "ssh:ops@", "ssh::shop"] {
            assert!(full(bad).contains("lacks a host"), "{bad}");
        }
        assert!(full("ssh:a b").contains("cannot be a host"));
        assert!(full("ssh:edge:a;reboot").contains("not a profile name"));
        assert!(full("ssh:edge:$(x)").contains("not a profile name"));
    }

    #[test]
    fn a_command_is_split_into_words_and_read_by_no_shell() {
        let words = |text: &str| split_words(text).map(|words| words.join("|"));
        assert_eq!(words("kubectl exec  edge -- portcullis"), Ok("kubectl|exec|edge|--|portcullis".into()));
        assert_eq!(words("sh -c 'a  b; c' \"d e\"f ''"), Ok("sh|-c|a  b; c|d ef|".into()));
        assert_eq!(words("a 'b"), Err(TargetError::OpenQuote));
        assert_eq!(parse("exec:  ", AdminAccess::Full), Err(TargetError::NoCommand));
        assert_eq!(parse(" ", AdminAccess::Full), Err(TargetError::Empty));
    }

    #[test]
    fn a_name_stands_before_the_first_equals_sign_and_a_path_may_hold_one() {
        let names = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            let parsed = parse_all(&words, AdminAccess::Full).unwrap();
            parsed.into_iter().map(|it| format!("{} {}", it.name, it.at)).collect::<Vec<_>>()
        };
        assert_eq!(
            names(&["edge=/run/a=b.sock", "/run/x=y/shop-dmz.sock", "ssh:ops@edge", "exec:/bin/cat -"]),
            [
                "edge /run/a=b.sock",
                "shop-dmz /run/x=y/shop-dmz.sock",
                "edge-2 ssh:ops@edge",
                "cat exec:/bin/cat -"
            ]
        );
        let twice = ["a=/x".to_owned(), "a=/y".to_owned()];
        let (word, error) = parse_all(&twice, AdminAccess::Full).unwrap_err();
        assert_eq!((word.as_str(), error), ("a=/y", TargetError::Twice("a".into())));
    }
}
