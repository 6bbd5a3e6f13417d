//! Reads single values from the merged tree. Each reader returns the value, or leaves a problem and returns
//! `None`, so that reading continues and finds the next problem, too.

use std::{collections::HashSet, ops::RangeInclusive, time::Duration};

use super::{
    duration,
    keys::{AnyKey, KeyMap},
    problem::{Problem, ProfileLocation, ValueProblem, quote_for_problem},
    spelling::listed,
    yaml::{SourcePosition, YamlEntry, YamlNode, YamlValue, join_path},
};

/// A value and the location at which it is reported.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Located<T> {
    pub value: T,
    pub location: ProfileLocation,
}

/// The result of reading a key. For a bad value, the problem has already been left.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ReadValue<T> {
    Absent,
    Bad,
    Good(T),
}

impl<T> ReadValue<T> {
    /// Reads the key's value if the key is there.
    pub fn read<'a>(field: Option<ValueReader<'a>>, read: impl FnOnce(ValueReader<'a>) -> Option<T>) -> Self {
        match field.map(read) {
            None => Self::Absent,
            Some(None) => Self::Bad,
            Some(Some(value)) => Self::Good(value),
        }
    }

    pub fn good(&self) -> Option<&T> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }

    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

/// Whether a duration of zero has a meaning.
#[derive(Debug, Clone, Copy)]
pub(super) enum ZeroDuration {
    Allowed,
    Refused,
}

/// A map with known keys.
pub(super) struct MapReader<'a> {
    path: String,
    keys: &'static KeyMap,
    /// The location of the map's own key.
    pub location: ProfileLocation,
    entries: &'a [YamlEntry],
}

impl<'a> MapReader<'a> {
    /// The map at the top of a tree.
    pub fn from_top(node: &'a YamlNode, keys: &'static KeyMap, problems: &mut Vec<Problem>) -> Option<Self> {
        ValueReader { path: String::new(), position: &node.position, node }.map(keys, problems)
    }

    /// A key's value. Null is absent: there was nothing to remove.
    pub fn take(&self, key: &dyn AnyKey) -> Option<ValueReader<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key.name())?;
        let field = ValueReader {
            path: join_path(&self.path, key.name()),
            position: &entry.position,
            node: &entry.node,
        };
        (entry.node.value != YamlValue::Null).then_some(field)
    }

    /// Reports that `key` is missing from this map, unless it is there misspelled.
    pub fn report_missing(&self, key: &dyn AnyKey, advice: impl Into<String>, problems: &mut Vec<Problem>) {
        let key = key.name();
        if self.entries.iter().any(|entry| self.keys.meant(&entry.key) == Some(key)) {
            return;
        }
        let location = ProfileLocation { key: join_path(&self.path, key), ..self.location.clone() };
        problems.push(ValueProblem::new("this key is missing", advice).at(location));
    }
}

/// A value, and the key that it belongs to.
#[derive(Clone)]
pub(super) struct ValueReader<'a> {
    /// Dotted, with the index for an item of a list.
    pub path: String,
    position: &'a SourcePosition,
    pub node: &'a YamlNode,
}

impl<'a> ValueReader<'a> {
    /// The position of the value.
    pub fn location(&self) -> ProfileLocation {
        self.node.position.location(&self.path)
    }

    /// The position of the key.
    pub fn key_location(&self) -> ProfileLocation {
        self.position.location(&self.path)
    }

    pub fn at<T>(&self, value: T) -> Located<T> {
        Located { value, location: self.location() }
    }

    /// Leaves a problem at the value.
    pub fn refuse<T>(&self, fault: ValueProblem, problems: &mut Vec<Problem>) -> Option<T> {
        problems.push(fault.at(self.location()));
        None
    }

    /// Leaves a problem: the value does not have the type `wanted`.
    pub fn refuse_type<T>(&self, wanted: &str, advice: &str, problems: &mut Vec<Problem>) -> Option<T> {
        let is = match &self.node.value {
            YamlValue::Null => "nothing",
            YamlValue::Bool(_) => "true or false",
            YamlValue::Integer(_) | YamlValue::Float(_) => "a number",
            YamlValue::Text(_) => "text",
            YamlValue::List(_) => "a list",
            YamlValue::Map(_) => "a map of keys",
        };
        self.refuse(ValueProblem::new(format!("this is {is}, not {wanted}"), advice), problems)
    }

    pub fn map(&self, keys: &'static KeyMap, problems: &mut Vec<Problem>) -> Option<MapReader<'a>> {
        let YamlValue::Map(entries) = &self.node.value else {
            let advice = format!("write keys under it: {}", listed(&keys.names()));
            return self.refuse_type("a map of keys", &advice, problems);
        };
        let faults = entries.iter().filter_map(|entry| {
            let path = join_path(&self.path, &entry.key);
            keys.fault(&entry.key).map(|fault| fault.at(entry.position.location(&path)))
        });
        problems.extend(faults);
        Some(MapReader { path: self.path.clone(), keys, location: self.key_location(), entries })
    }

    /// The names and values of a map whose keys the operator chooses.
    pub fn named(&self, problems: &mut Vec<Problem>) -> Option<Vec<(&'a str, ValueReader<'a>)>> {
        let YamlValue::Map(entries) = &self.node.value else {
            return self.refuse_type(
                "a map of names",
                "write a name and a colon, and its keys under it",
                problems,
            );
        };
        let field = |entry: &'a YamlEntry| {
            let path = join_path(&self.path, &entry.key);
            (entry.key.as_str(), ValueReader { path, position: &entry.position, node: &entry.node })
        };
        Some(entries.iter().map(field).collect())
    }

    pub fn text(&self, problems: &mut Vec<Problem>) -> Option<&'a str> {
        let YamlValue::Text(text) = &self.node.value else {
            let advice = "write text, in quotes if it looks like something else";
            return self.refuse_type("text", advice, problems);
        };
        Some(text)
    }

    pub fn flag(&self, problems: &mut Vec<Problem>) -> Option<bool> {
        let YamlValue::Bool(flag) = &self.node.value else {
            return self.refuse_type("true or false", "write `true`, or remove the key", problems);
        };
        Some(*flag)
    }

    pub fn number(&self, range: RangeInclusive<usize>, problems: &mut Vec<Problem>) -> Option<usize> {
        let advice = format!("write a whole number from {} to {}", range.start(), range.end());
        let YamlValue::Integer(number) = &self.node.value else {
            return self.refuse_type("a whole number", &advice, problems);
        };
        match usize::try_from(*number) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => self.refuse(ValueProblem::new(format!("{number} is out of range"), advice), problems),
        }
    }

    pub fn duration(&self, zero: ZeroDuration, problems: &mut Vec<Problem>) -> Option<Duration> {
        let read = match &self.node.value {
            YamlValue::Text(text) => duration::parse(text),
            YamlValue::Integer(number) => duration::parse(&number.to_string()),
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Float(_)
            | YamlValue::List(_)
            | YamlValue::Map(_) => {
                return self.refuse_type(
                    "a duration",
                    "write a whole number and its unit: `500ms`, `30s`",
                    problems,
                );
            }
        };
        match (read, zero) {
            (Ok(Duration::ZERO), ZeroDuration::Refused) => self.refuse(
                ValueProblem::new("a duration of nothing makes no sense here", "write a longer one"),
                problems,
            ),
            (Ok(duration), _) => Some(duration),
            (Err(fault), _) => self.refuse(fault, problems),
        }
    }

    /// The items of a list, at least one and at most `max`.
    pub fn items(&self, max: usize, problems: &mut Vec<Problem>) -> Option<Vec<ValueReader<'a>>> {
        let YamlValue::List(items) = &self.node.value else {
            return self.refuse_type(
                "a list",
                "write `[ITEM, ITEM]`, or a line with `- ITEM` for each",
                problems,
            );
        };
        if items.is_empty() {
            return self.refuse(ValueProblem::new("the list is empty", "write at least one item"), problems);
        }
        if items.len() > max {
            let what = format!("the list has {} items", items.len());
            return self.refuse(ValueProblem::new(what, format!("write {max} at most")), problems);
        }
        let item = |(index, node)| ValueReader {
            path: format!("{}[{index}]", self.path),
            position: self.position,
            node,
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A single value counts as a list of one.
    pub fn one_or_many(&self, max: usize, problems: &mut Vec<Problem>) -> Option<Vec<ValueReader<'a>>> {
        if let YamlValue::List(_) = &self.node.value {
            return self.items(max, problems);
        }
        Some(vec![self.clone()])
    }

    /// Names that a certificate can contain.
    pub fn names(&self, max: usize, problems: &mut Vec<Problem>) -> Option<Vec<Located<String>>> {
        let before = problems.len();
        let mut seen = HashSet::new();
        let mut names = Vec::new();
        for item in self.items(max, problems)? {
            let Some(text) = item.text(problems) else { continue };
            let fault = if !is_peer_name(text) {
                let what = format!("`{}` is not a name", quote_for_problem(text));
                ValueProblem::new(what, "write a name as the peer's certificate has it, without spaces")
            } else if !seen.insert(text) {
                ValueProblem::new(format!("`{text}` is listed twice"), "remove one")
            } else {
                names.push(item.at(text.to_owned()));
                continue;
            };
            problems.push(fault.at(item.location()));
        }
        (problems.len() == before).then_some(names)
    }
}

fn is_peer_name(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
