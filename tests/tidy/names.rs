//! Everyday words are no names for what the field has a word for: a reader who knows proxies learns none.

use super::sources;

/// Names that are refused, each with the field's word for what it stood for.
const REFUSED_NAMES: &[(&str, &str)] = &[
    ("ahead", "read_ahead, offset"),
    ("behind", "remainder"),
    ("books", "state"),
    ("came", "arrived"),
    ("course", "dial_state"),
    ("door", "route, endpoint"),
    ("doors", "routes, endpoints"),
    ("fares", "progress"),
    ("front", "port_routes, connection"),
    ("gone", "reason, away"),
    ("greeted", "handshake_done"),
    ("greeter", "handshake_context"),
    ("greeting", "handshake, permit"),
    ("guarded", "checked"),
    ("heard", "received"),
    ("hears", "reader"),
    ("lane", "group"),
    ("lasts", "ttl"),
    ("late", "timed_out, expired"),
    ("leg", "link, session_side"),
    ("lent", "borrowed"),
    ("looks", "checks"),
    ("meter", "counters"),
    ("objection", "error, response"),
    ("picture", "snapshot"),
    ("pinned", "self_issued"),
    ("pulse", "tracker"),
    ("rewound", "prefixed"),
    ("room", "space, fill_level"),
    ("said", "sent, message"),
    ("says", "writer"),
    ("seat", "guard"),
    ("spoken", "protocol"),
    ("spot", "position"),
    ("standing", "agreement, attachment"),
    ("stays", "is_unchanged"),
    ("stood", "lifetime"),
    ("teller", "outcome_sender"),
    ("told", "reported, message, reason"),
    ("trouble", "error, alerts"),
    ("turned", "last_turn"),
    ("unlike", "mismatch"),
    ("untold", "unreported"),
    ("walk", "run"),
    ("way", "mode, direction, route"),
    ("whose", "owner, network"),
];
/// Fields that `status --json` shows under these names.
const FIELDS_OF_STATUS: &[&str] = &["heard", "trouble", "walk"];

/// The identifiers of a text that stand alone: no field or method of a value, and not what is within quotes.
fn names(code: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut is_quoted = false;
    let mut rest = code;
    while let Some(at) = rest.find(|sign: char| sign.is_alphanumeric() || sign == '_' || sign == '"') {
        let before = &rest[..at];
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix('"') {
            let escapes = before.len() - before.trim_end_matches('\\').len();
            let is_sign = after.starts_with('\'') && (before.ends_with('\'') || before.ends_with("'\\"));
            if !is_quoted && before.ends_with('#') {
                // Raw: nothing within is escaped.
                rest = after.split_once("\"#").map_or("", |(_, after)| after);
            } else {
                is_quoted = if is_quoted { escapes % 2 == 1 } else { !is_sign };
                rest = after;
            }
            continue;
        }
        let end = rest.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let is_member = before.ends_with('.') && !before.ends_with("..");
        if !is_quoted && !is_member {
            found.push((name, after));
        }
        rest = after;
    }
    found
}

fn refused_names(code: &str) -> Vec<(&str, &str)> {
    let is_of_status = |name: &str, after: &str| FIELDS_OF_STATUS.contains(&name) && after.starts_with(':');
    let names = names(code).into_iter().filter(|(name, after)| !is_of_status(name, after));
    names
        .filter_map(|(name, _)| REFUSED_NAMES.iter().find(|(refused, _)| *refused == name).copied())
        .collect()
}

#[test]
fn no_everyday_word_stands_for_one_of_the_field() {
    let mut refused = Vec::new();
    for source in sources() {
        for (name, instead) in refused_names(&source.code) {
            refused.push(format!("{}: `{name}`, where the field says {instead}", source.path.display()));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn the_reader_of_names_knows_what_is_one() {
    let code = "let (told, way) = (\"a \\\"room\\\"\", b.front()); fn late(heard: bool) { c.walk = '\"'; d(r#\"a \"gone\" b\"#); \
                Row { heard: None, walk: \"gone\" }; let books = ..said; untold_told }";
    let found: Vec<_> = refused_names(code).into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, ["told", "way", "late", "books", "said"]);
}
