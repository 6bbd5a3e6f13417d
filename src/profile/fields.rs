//! Takes single values out of the merged tree: each reader returns the value, or leaves a
//! problem and returns `None`, so that reading goes on and finds the next problem, too.

use std::{collections::HashSet, ops::RangeInclusive, time::Duration};

use super::{
    duration,
    keys::Keys,
    problem::{Fault, Place, Problem, shown},
    yaml::{Entry, Node, Spot, Value, joined},
};

/// A value and the place that it is told by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

/// What became of a key. A bad value has its problem already: nothing more is to be said of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Given<T> {
    Absent,
    Bad,
    Good(T),
}

impl<T> Given<T> {
    /// Reads the key's value if the key is there.
    pub fn read<'a>(field: Option<Field<'a>>, read: impl FnOnce(Field<'a>) -> Option<T>) -> Self {
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

/// Whether a duration of nothing means something.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zero {
    Allowed,
    Refused,
}

/// A map whose keys are known ones.
pub(super) struct Fields<'a> {
    path: String,
    keys: &'static Keys,
    /// Where the map's own key stands.
    pub place: Place,
    entries: &'a [Entry],
}

impl<'a> Fields<'a> {
    /// The map at the top of a tree.
    pub fn top(node: &'a Node, keys: &'static Keys, problems: &mut Vec<Problem>) -> Option<Self> {
        Field { path: String::new(), spot: &node.spot, node }.map(keys, problems)
    }

    /// A key's value. Null is absent: there was nothing to remove.
    pub fn take(&self, key: &str) -> Option<Field<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let field = Field { path: joined(&self.path, key), spot: &entry.spot, node: &entry.node };
        (entry.node.value != Value::Null).then_some(field)
    }

    /// A key's value, or what stands for it when it is absent or bad.
    pub fn take_or<T>(&self, key: &str, default: T, read: impl FnOnce(Field<'a>) -> Option<T>) -> T {
        self.take(key).and_then(read).unwrap_or(default)
    }

    /// Says that `key` is missing from this map, unless it is there with a slip in it.
    pub fn missing(&self, key: &str, advice: impl Into<String>, problems: &mut Vec<Problem>) {
        if self.entries.iter().any(|entry| self.keys.meant(&entry.key) == Some(key)) {
            return;
        }
        let place = Place { key: joined(&self.path, key), ..self.place.clone() };
        problems.push(Fault::new("this key is missing", advice).at(place));
    }
}

/// One value, and the key that it belongs to.
#[derive(Clone)]
pub(super) struct Field<'a> {
    /// Dotted, and with the index of an item of a list.
    pub path: String,
    spot: &'a Spot,
    pub node: &'a Node,
}

impl<'a> Field<'a> {
    /// Where the value stands.
    pub fn place(&self) -> Place {
        self.node.spot.place(&self.path)
    }

    /// Where the key stands.
    pub fn key_place(&self) -> Place {
        self.spot.place(&self.path)
    }

    pub fn at<T>(&self, value: T) -> At<T> {
        At { value, place: self.place() }
    }

    /// Leaves a problem at the value.
    pub fn refuse<T>(&self, fault: Fault, problems: &mut Vec<Problem>) -> Option<T> {
        problems.push(fault.at(self.place()));
        None
    }

    /// Leaves a problem: the value is of another type than `wanted`.
    pub fn wrong<T>(&self, wanted: &str, advice: &str, problems: &mut Vec<Problem>) -> Option<T> {
        let is = match &self.node.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map of keys",
        };
        self.refuse(Fault::new(format!("this is {is}, not {wanted}"), advice), problems)
    }

    pub fn map(&self, keys: &'static Keys, problems: &mut Vec<Problem>) -> Option<Fields<'a>> {
        let Value::Map(entries) = &self.node.value else {
            let advice = format!("write keys under it: {}", super::keys::listed(keys.known));
            return self.wrong("a map of keys", &advice, problems);
        };
        let faults = entries.iter().filter_map(|entry| {
            let path = joined(&self.path, &entry.key);
            keys.fault(&entry.key).map(|fault| fault.at(entry.spot.place(&path)))
        });
        problems.extend(faults);
        Some(Fields { path: self.path.clone(), keys, place: self.key_place(), entries })
    }

    /// The names and values of a map whose keys are the operator's own.
    pub fn named(&self, problems: &mut Vec<Problem>) -> Option<Vec<(&'a str, Field<'a>)>> {
        let Value::Map(entries) = &self.node.value else {
            return self.wrong("a map of names", "write a name and a colon, and its keys under it", problems);
        };
        let field = |entry: &'a Entry| {
            let path = joined(&self.path, &entry.key);
            (entry.key.as_str(), Field { path, spot: &entry.spot, node: &entry.node })
        };
        Some(entries.iter().map(field).collect())
    }

    pub fn text(&self, problems: &mut Vec<Problem>) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => self.wrong("text", "write text, in quotes if it looks like something else", problems),
        }
    }

    pub fn flag(&self, problems: &mut Vec<Problem>) -> Option<bool> {
        match &self.node.value {
            Value::Bool(flag) => Some(*flag),
            _ => self.wrong("true or false", "write `true`, or remove the key", problems),
        }
    }

    pub fn number(&self, range: RangeInclusive<usize>, problems: &mut Vec<Problem>) -> Option<usize> {
        let advice = format!("write a whole number from {} to {}", range.start(), range.end());
        let Value::Integer(number) = &self.node.value else {
            return self.wrong("a whole number", &advice, problems);
        };
        match usize::try_from(*number) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => self.refuse(Fault::new(format!("{number} is out of range"), advice), problems),
        }
    }

    pub fn duration(&self, zero: Zero, problems: &mut Vec<Problem>) -> Option<Duration> {
        let read = match &self.node.value {
            Value::Text(text) => duration::parse(text),
            Value::Integer(number) => duration::parse(&number.to_string()),
            _ => {
                return self.wrong(
                    "a duration",
                    "write a whole number and its unit: `500ms`, `30s`",
                    problems,
                );
            }
        };
        match (read, zero) {
            (Ok(Duration::ZERO), Zero::Refused) => self.refuse(
                Fault::new("a duration of nothing makes no sense here", "write a longer one"),
                problems,
            ),
            (Ok(duration), _) => Some(duration),
            (Err(fault), _) => self.refuse(fault, problems),
        }
    }

    /// The items of a list, at least one and at most `max`.
    pub fn items(&self, max: usize, problems: &mut Vec<Problem>) -> Option<Vec<Field<'a>>> {
        let Value::List(items) = &self.node.value else {
            return self.wrong("a list", "write `[ITEM, ITEM]`, or a line with `- ITEM` for each", problems);
        };
        if items.is_empty() {
            return self.refuse(Fault::new("the list is empty", "write at least one item"), problems);
        }
        if items.len() > max {
            let what = format!("the list has {} items", items.len());
            return self.refuse(Fault::new(what, format!("write {max} at most")), problems);
        }
        let item = |(index, node)| Field { path: format!("{}[{index}]", self.path), spot: self.spot, node };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A single value stands for a list of one.
    pub fn one_or_many(&self, max: usize, problems: &mut Vec<Problem>) -> Option<Vec<Field<'a>>> {
        match &self.node.value {
            Value::List(_) => self.items(max, problems),
            _ => Some(vec![self.clone()]),
        }
    }

    /// Names that a certificate can carry.
    pub fn names(&self, max: usize, problems: &mut Vec<Problem>) -> Option<Vec<At<String>>> {
        let before = problems.len();
        let mut seen = HashSet::new();
        let mut names = Vec::new();
        for item in self.items(max, problems)? {
            let Some(text) = item.text(problems) else { continue };
            let fault = if !is_peer_name(text) {
                let what = format!("`{}` is not a name", shown(text));
                Fault::new(what, "write a name as the peer's certificate has it, without spaces")
            } else if !seen.insert(text) {
                Fault::new(format!("`{text}` stands here twice"), "remove one")
            } else {
                names.push(item.at(text.to_owned()));
                continue;
            };
            problems.push(fault.at(item.place()));
        }
        (problems.len() == before).then_some(names)
    }
}

fn is_peer_name(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
