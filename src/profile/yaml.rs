//! From text to a tree of values that know where they were written.
//!
//! The one module that uses `serde_yaml`, which is no longer developed: to leave it, replace
//! [`Reading`] by whatever reads a plain value. What is fit to be read is decided before, in
//! `marks`; what the values mean is decided after, in `fields` and `resolve`.

use std::{cell::RefCell, fmt, path::PathBuf, sync::Arc};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{
    marks::{EntryMark, Mark, Refusal, Under, mark},
    problem::{Fault, Place, Problem, shown},
};

/// A file that profiles are read from.
#[derive(Debug, PartialEq)]
pub(super) struct Source {
    /// How problems name it.
    pub label: Arc<str>,
    /// What relative paths in it start from.
    pub folder: PathBuf,
}

/// Where something was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spot {
    pub source: Arc<Source>,
    pub line: usize,
    pub column: usize,
}

impl Spot {
    pub fn place(&self, key: &str) -> Place {
        let key = if key.is_empty() { WHOLE } else { key };
        Place { file: self.source.label.clone(), line: self.line, column: self.column, key: key.to_owned() }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub spot: Spot,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// As written: no profile key takes more than a small whole number.
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub key: String,
    pub spot: Spot,
    pub node: Node,
}

/// Reads one file's text. The tree's top is a map, with no key twice in any map of it.
///
/// An error ends the reading; problems beside a tree are added to those found later.
pub(super) fn read(text: &str, source: &Arc<Source>) -> Result<(Node, Vec<Problem>), Vec<Problem>> {
    let top = Spot { source: source.clone(), line: 1, column: 1 };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(problem) = control_sign(text, &top) {
        return Err(vec![problem]);
    }
    let refused = |problems: Vec<_>| {
        let problem = |refusal: Refusal| {
            let spot = Spot { line: refusal.line, column: refusal.column, ..top.clone() };
            refusal.fault.at(spot.place(&refusal.key))
        };
        problems.into_iter().map(problem).collect::<Vec<_>>()
    };
    let Some(marks) = mark(text).map_err(refused)? else { return Err(vec![empty(&top)]) };

    let problems = RefCell::default();
    let reading = Reading { mark: &marks, source, path: "", problems: &problems };
    let node = match reading.deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(node) => node,
        Err(error) => return Err(vec![unread(&error, &top)]),
    };
    match node.value {
        Value::Map(_) => Ok((Node { spot: top, ..node }, problems.into_inner())),
        Value::Null => Err(vec![empty(&top)]),
        _ => Err(vec![
            Fault::new("the profile is not a map of keys", "begin with `mode:`, `dmz:` or `internal:`")
                .at(node.spot.place("")),
        ]),
    }
}

/// YAML has no place for control signs (YAML 1.2, section 5.1), and `serde_yaml` does not say
/// where it met one.
fn control_sign(text: &str, top: &Spot) -> Option<Problem> {
    let refused = |sign: char| sign.is_control() && !matches!(sign, '\t' | '\n' | '\r' | '\u{85}');
    let (at, sign) = text.char_indices().find(|(_, sign)| refused(*sign))?;
    let before = &text[..at];
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.chars().rev().take_while(|sign| *sign != '\n').count();
    let what = format!("a control sign, `{}`, stands here", sign.escape_default());
    Some(Fault::new(what, "remove it").at(Spot { line, column, ..top.clone() }.place("")))
}

fn empty(top: &Spot) -> Problem {
    Fault::new("profile is empty", "write `mode:` and a half, `dmz:` or `internal:`").at(top.place(""))
}

fn unread(error: &serde_yaml::Error, top: &Spot) -> Problem {
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    let what = format!("not valid YAML: {}", shown(&error.to_string()));
    Fault::new(what, "correct the line, or the one above it")
        .at(Spot { line, column, ..top.clone() }.place(""))
}

/// The dotted path of `key` under `path`.
pub(super) fn joined(path: &str, key: &str) -> String {
    match path {
        "" => shown(key),
        _ => format!("{path}.{}", shown(key)),
    }
}

/// What problems call a file as a whole.
const WHOLE: &str = "profile";

/// Reads the value that stands at a mark.
#[derive(Clone, Copy)]
struct Reading<'a> {
    mark: &'a Mark,
    source: &'a Arc<Source>,
    path: &'a str,
    /// Those that do not end the reading.
    problems: &'a RefCell<Vec<Problem>>,
}

impl Reading<'_> {
    fn node<E>(&self, value: Value) -> Result<Node, E> {
        let Mark { line, column, .. } = *self.mark;
        Ok(Node { spot: Spot { source: self.source.clone(), line, column }, value })
    }

    /// The two parsers see different things: an odd text, better refused than guessed at.
    fn disagree<E: Error>() -> E {
        E::custom("this can be read in two ways")
    }
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Node;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        self.node(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        self.node(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        self.node(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        self.node(Value::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        self.node(Value::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        self.node(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        self.node(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let Under::Items(marks) = &self.mark.under else { return Err(Self::disagree()) };
        let mut nodes = Vec::with_capacity(marks.len());
        for mark in marks {
            let reading = Reading { mark, ..self };
            nodes.push(items.next_element_seed(reading)?.ok_or_else(Self::disagree)?);
        }
        // serde_yaml itself complains of what is left over.
        self.node(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let Under::Entries(marks) = &self.mark.under else { return Err(Self::disagree()) };
        let mut entries = Vec::with_capacity(marks.len());
        for mark in marks {
            let EntryMark { ref name, line, column, again, ref value } = *mark;
            let path = joined(self.path, name);
            let kind = map.next_key_seed(KeyReading)?.ok_or_else(Self::disagree)?;
            let node = map.next_value_seed(Reading { mark: value, path: &path, ..self })?;
            let spot = Spot { source: self.source.clone(), line, column };
            if let Some(fault) = key_fault(kind, again) {
                self.problems.borrow_mut().push(fault.at(spot.place(&path)));
            }
            // Of equal keys the first stays, so that the rest can be checked.
            if !again {
                entries.push(Entry { key: name.clone(), spot, node });
            }
        }
        self.node(Value::Map(entries))
    }
}

fn key_fault(kind: KeyKind, again: bool) -> Option<Fault> {
    match (kind, again) {
        (_, true) => Some(Fault::new("this key stands here a second time", "keep one of the two")),
        (KeyKind::Other, false) => Some(Fault::new("this key is not text", "put it in quotes")),
        (KeyKind::Text, false) => None,
    }
}

/// A key is text; unquoted, `1`, `true` and `~` are not.
enum KeyKind {
    Text,
    Other,
}

struct KeyReading;

impl<'de> DeserializeSeed<'de> for KeyReading {
    type Value = KeyKind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<KeyKind, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for KeyReading {
    type Value = KeyKind;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_str<E>(self, _: &str) -> Result<KeyKind, E> {
        Ok(KeyKind::Text)
    }

    fn visit_unit<E>(self) -> Result<KeyKind, E> {
        Ok(KeyKind::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<KeyKind, E> {
        Ok(KeyKind::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<KeyKind, E> {
        Ok(KeyKind::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<KeyKind, E> {
        Ok(KeyKind::Other)
    }

    fn visit_i128<E>(self, _: i128) -> Result<KeyKind, E> {
        Ok(KeyKind::Other)
    }

    fn visit_u128<E>(self, _: u128) -> Result<KeyKind, E> {
        Ok(KeyKind::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<KeyKind, E> {
        Ok(KeyKind::Other)
    }
}
