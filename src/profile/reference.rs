//! The reference of every key for the manual: a table for each kind of map, generated from the table of keys.

use super::keys::{self, AnyKey, KeyMap};

/// In Markdown: for each map, where it may be, and a row for each key with its meaning, type, default and an
/// example.
pub fn reference() -> String {
    let mut text = String::new();
    for (location, map) in locations() {
        text.push_str(&format!("### {location}\n\n{}\n\n", map.about));
        text.push_str("| key | meaning | type and range | default | example |\n|---|---|---|---|---|\n");
        map.keys().for_each(|key| text.push_str(&row(key)));
        text.push('\n');
    }
    text
}

fn row(key: &dyn AnyKey) -> String {
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let default = key.value().default().unwrap_or_default();
    let cells = [
        code(key.name()),
        key.about().to_owned(),
        key.value().describe_type(),
        code(&default),
        code(key.example()),
    ];
    let cells = cells.map(|cell| cell.replace('|', "\\|"));
    format!("| {} |\n", cells.join(" | "))
}

/// Each kind of map once, with all places where it may be, from the top down.
fn locations() -> Vec<(String, &'static KeyMap)> {
    let mut found: Vec<(Vec<String>, &'static KeyMap)> = Vec::new();
    let mut open = std::collections::VecDeque::from([(String::new(), &keys::PROFILE)]);
    while let Some((path, map)) = open.pop_front() {
        let location = if path.is_empty() { "The profile".to_owned() } else { format!("`{path}`") };
        if let Some((locations, _)) = found.iter_mut().find(|(_, known)| std::ptr::eq(*known, map)) {
            locations.push(location);
            continue;
        }
        found.push((vec![location], map));
        for key in map.keys() {
            let Some(below) = key.value().map() else { continue };
            let name = if path.is_empty() { key.name().to_owned() } else { format!("{path}.{}", key.name()) };
            open.push_back((if key.value().is_named() { format!("{name}.NAME") } else { name }, below));
        }
    }
    found.into_iter().map(|(locations, map)| (locations.join(", "), map)).collect()
}
