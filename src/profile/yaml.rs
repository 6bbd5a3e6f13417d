//! Turns text into a tree of values with their positions.
//!
//! This is the only module that uses `serde_yaml`, which is no longer developed. To replace it, replace
//! [`NodeSeed`] by something else that reads a plain value. Whether a text is fit to be read is decided before,
//! in `positions`; what the values mean is decided after, in `fields` and `resolve`.

use std::{cell::RefCell, fmt, path::PathBuf, sync::Arc};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{
    positions::{EntryMark, MarkChildren, SourceMark, SyntaxProblem, mark_positions},
    problem::{Problem, ProfileLocation, ValueProblem, quote_for_problem},
};

/// A file that profiles are read from.
#[derive(Debug, PartialEq)]
pub(super) struct SourceFile {
    /// Its name in problems.
    pub label: Arc<str>,
    /// The folder that relative paths in it start from.
    pub folder: PathBuf,
}

/// The position where something was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SourcePosition {
    pub source: Arc<SourceFile>,
    pub line: usize,
    pub column: usize,
}

impl SourcePosition {
    pub fn location(&self, key: &str) -> ProfileLocation {
        let key = if key.is_empty() { WHOLE } else { key };
        ProfileLocation {
            file: self.source.label.clone(),
            line: self.line,
            column: self.column,
            key: key.to_owned(),
        }
    }
}

/// A value and its position.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct YamlNode {
    pub position: SourcePosition,
    pub value: YamlValue,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum YamlValue {
    Null,
    Bool(bool),
    /// As written: profile keys only take small whole numbers.
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<YamlNode>),
    Map(Vec<YamlEntry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct YamlEntry {
    pub key: String,
    pub position: SourcePosition,
    pub node: YamlNode,
}

/// The messages for a file with unexpected contents: what it is, and what to do.
#[derive(Debug)]
pub(super) struct DocumentWords {
    pub empty: [&'static str; 2],
    pub not_a_map: [&'static str; 2],
}

const PROFILE_WORDS: DocumentWords = DocumentWords {
    empty: ["profile is empty", "write `mode:` and a half, `dmz:` or `internal:`"],
    not_a_map: ["the profile is not a map of keys", "begin with `mode:`, `dmz:` or `internal:`"],
};

/// Reads one profile's text. The top of the tree is a map, and no map has a key twice.
///
/// An error ends the reading; problems returned beside a tree are added to those found later.
pub(super) fn read(text: &str, source: &Arc<SourceFile>) -> Result<(YamlNode, Vec<Problem>), Vec<Problem>> {
    read_map(text, source, &PROFILE_WORDS)
}

/// Reads any file whose top is a map.
pub(super) fn read_map(
    text: &str,
    source: &Arc<SourceFile>,
    words: &DocumentWords,
) -> Result<(YamlNode, Vec<Problem>), Vec<Problem>> {
    let top = SourcePosition { source: source.clone(), line: 1, column: 1 };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(problem) = control_sign(text, &top) {
        return Err(vec![problem]);
    }
    let refused = |problems: Vec<_>| {
        let problem = |refusal: SyntaxProblem| {
            let position = SourcePosition { line: refusal.line, column: refusal.column, ..top.clone() };
            refusal.fault.at(position.location(&refusal.key))
        };
        problems.into_iter().map(problem).collect::<Vec<_>>()
    };
    let Some(marks) = mark_positions(text).map_err(refused)? else {
        return Err(vec![described(words.empty, &top)]);
    };

    let problems = RefCell::default();
    let reading = NodeSeed { mark: &marks, source, path: "", problems: &problems };
    let node = match reading.deserialize(serde_yaml::Deserializer::from_str(text)) {
        Ok(node) => node,
        Err(error) => return Err(vec![parse_problem(&error, &top)]),
    };
    match node.value {
        YamlValue::Map(_) => Ok((YamlNode { position: top, ..node }, problems.into_inner())),
        YamlValue::Null => Err(vec![described(words.empty, &top)]),
        YamlValue::Bool(_)
        | YamlValue::Integer(_)
        | YamlValue::Float(_)
        | YamlValue::Text(_)
        | YamlValue::List(_) => Err(vec![described(words.not_a_map, &node.position)]),
    }
}

/// YAML does not allow control characters (YAML 1.2, section 5.1), and `serde_yaml` does not say where it found
/// one.
fn control_sign(text: &str, top: &SourcePosition) -> Option<Problem> {
    let refused = |ch: char| ch.is_control() && !matches!(ch, '\t' | '\n' | '\r' | '\u{85}');
    let (at, ch) = text.char_indices().find(|(_, ch)| refused(*ch))?;
    let before = &text[..at];
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.chars().rev().take_while(|ch| *ch != '\n').count();
    let what = format!("there is a control character here, `{}`", ch.escape_default());
    Some(ValueProblem::new(what, "remove it").at(SourcePosition { line, column, ..top.clone() }.location("")))
}

fn described([what, advice]: [&'static str; 2], position: &SourcePosition) -> Problem {
    ValueProblem::new(what, advice).at(position.location(""))
}

fn parse_problem(error: &serde_yaml::Error, top: &SourcePosition) -> Problem {
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    let what = format!("not valid YAML: {}", quote_for_problem(&error.to_string()));
    ValueProblem::new(what, "correct the line, or the one above it").at(SourcePosition {
        line,
        column,
        ..top.clone()
    }
    .location(""))
}

/// The dotted path of `key` under `path`.
pub(super) fn join_path(path: &str, key: &str) -> String {
    match path {
        "" => quote_for_problem(key),
        _ => format!("{path}.{}", quote_for_problem(key)),
    }
}

/// The key by which problems name a file as a whole.
pub(super) const WHOLE: &str = "profile";

/// Reads the value at a mark.
#[derive(Clone, Copy)]
struct NodeSeed<'a> {
    mark: &'a SourceMark,
    source: &'a Arc<SourceFile>,
    path: &'a str,
    /// Problems that do not end the reading.
    problems: &'a RefCell<Vec<Problem>>,
}

impl NodeSeed<'_> {
    fn node<E>(&self, value: YamlValue) -> Result<YamlNode, E> {
        let SourceMark { line, column, .. } = *self.mark;
        Ok(YamlNode { position: SourcePosition { source: self.source.clone(), line, column }, value })
    }

    /// The two parsers disagree: it is an odd text, better refused than guessed at.
    fn disagree<E: Error>() -> E {
        E::custom("this can be read in two ways")
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = YamlNode;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<YamlNode, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = YamlNode;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<YamlNode, E> {
        self.node(YamlValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<YamlNode, E> {
        self.node(YamlValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<YamlNode, E> {
        self.node(YamlValue::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<YamlNode, E> {
        self.node(YamlValue::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<YamlNode, E> {
        self.node(YamlValue::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<YamlNode, E> {
        self.node(YamlValue::Integer(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<YamlNode, E> {
        self.node(YamlValue::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<YamlNode, E> {
        self.node(YamlValue::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<YamlNode, A::Error> {
        let MarkChildren::Items(marks) = &self.mark.under else { return Err(Self::disagree()) };
        let mut nodes = Vec::with_capacity(marks.len());
        for mark in marks {
            let reading = NodeSeed { mark, ..self };
            nodes.push(items.next_element_seed(reading)?.ok_or_else(Self::disagree)?);
        }
        // serde_yaml itself reports anything left over.
        self.node(YamlValue::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<YamlNode, A::Error> {
        let MarkChildren::Entries(marks) = &self.mark.under else { return Err(Self::disagree()) };
        let mut entries = Vec::with_capacity(marks.len());
        for mark in marks {
            let EntryMark { ref name, line, column, again, ref value } = *mark;
            let path = join_path(self.path, name);
            let kind = map.next_key_seed(KeySeed)?.ok_or_else(Self::disagree)?;
            let node = map.next_value_seed(NodeSeed { mark: value, path: &path, ..self })?;
            let position = SourcePosition { source: self.source.clone(), line, column };
            if let Some(fault) = key_fault(kind, again) {
                self.problems.borrow_mut().push(fault.at(position.location(&path)));
            }
            // Of equal keys the first stays, so that the rest can be checked.
            if !again {
                entries.push(YamlEntry { key: name.clone(), position, node });
            }
        }
        self.node(YamlValue::Map(entries))
    }
}

fn key_fault(kind: KeyKind, again: bool) -> Option<ValueProblem> {
    match (kind, again) {
        (_, true) => Some(ValueProblem::new("this key appears twice", "keep one of the two")),
        (KeyKind::Other, false) => Some(ValueProblem::new("this key is not text", "put it in quotes")),
        (KeyKind::Text, false) => None,
    }
}

/// Keys must be text; unquoted, `1`, `true` and `~` are not.
enum KeyKind {
    Text,
    Other,
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = KeyKind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<KeyKind, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for KeySeed {
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
