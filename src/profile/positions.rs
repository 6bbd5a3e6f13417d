//! The first pass over a profile's text: where each key and value is, and whether the text is fit to be read at
//! all.
//!
//! `serde_yaml` knows no positions, follows aliases, and takes many seconds over deeply nested brackets. This
//! pass reads the events of another parser, one at a time and without recursion. It gives up at the first limit
//! that is exceeded, and refuses what a profile has no use for. It does not look at the values.

use std::collections::HashSet;

use saphyr_parser::{Event, Marker, Parser};

use super::problem::{ValueProblem, quote_for_problem};

/// The position of a value and of everything under it. Line and column count from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SourceMark {
    pub line: usize,
    pub column: usize,
    pub under: MarkChildren,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum MarkChildren {
    Nothing,
    Items(Vec<SourceMark>),
    Entries(Vec<EntryMark>),
}

/// A key, its position, and the position of its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EntryMark {
    pub name: String,
    pub line: usize,
    pub column: usize,
    /// Its key was used before in this map.
    pub again: bool,
    pub value: SourceMark,
}

/// A fault in the text itself, with its position.
#[derive(Debug, PartialEq)]
pub(super) struct SyntaxProblem {
    pub line: usize,
    pub column: usize,
    /// The dotted path of the map or list that contains it.
    pub key: String,
    pub fault: ValueProblem,
}

/// Positions of everything in `text`, or why it cannot be read. `None`: the text is empty.
pub(super) fn mark_positions(text: &str) -> Result<Option<SourceMark>, Vec<SyntaxProblem>> {
    let mut guard = SyntaxCheck::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let step = match next {
            Ok((event, span)) => guard.take(event, span.start),
            Err(error) => Err(guard.refusal(*error.marker(), syntax(error.info()))),
        };
        if let Err(last) = step {
            guard.refusals.push(last);
            break;
        }
        if guard.refusals.len() >= REFUSALS_MAX {
            break;
        }
    }
    if guard.refusals.is_empty() { Ok(guard.root) } else { Err(guard.refusals) }
}

fn syntax(info: &str) -> ValueProblem {
    // The parser looks ahead along a line, and may find the brackets too deep first.
    if info.contains("recursion limit") {
        return too_deep();
    }
    ValueProblem::new(
        format!("not valid YAML: {}", quote_for_problem(info)),
        "correct the line, or the one above it",
    )
}

fn too_deep() -> ValueProblem {
    let what = format!("nested more than {DEPTH_MAX} deep");
    ValueProblem::new(what, "no profile is; look for brackets that are not closed")
}

#[derive(Default)]
struct SyntaxCheck {
    /// The open maps and lists, outermost first.
    open: Vec<OpenNode>,
    root: Option<SourceMark>,
    nodes: usize,
    documents: usize,
    refusals: Vec<SyntaxProblem>,
}

struct OpenNode {
    line: usize,
    column: usize,
    kind: OpenNodeKind,
}

enum OpenNodeKind {
    List(Vec<SourceMark>),
    Map { entries: Vec<EntryMark>, names: HashSet<String>, key: Option<PendingKey> },
}

/// A key whose value has not come yet.
struct PendingKey {
    name: String,
    line: usize,
    column: usize,
    again: bool,
}

impl SyntaxCheck {
    /// Handles an event. An error ends the pass; other refusals are collected.
    fn take(&mut self, event: Event<'_>, at: Marker) -> Result<(), SyntaxProblem> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => self.document(at),
            Event::Alias(_) => {
                self.refuse(
                    at,
                    ValueProblem::new("aliases (`*`) are not taken in a profile", "write the value out"),
                );
                self.scalar(at, "*")
            }
            Event::Scalar(text, _, anchor, tag) => {
                self.plain(at, anchor, tag.is_some());
                self.scalar(at, &text)
            }
            Event::SequenceStart(anchor, tag) => {
                self.plain(at, anchor, tag.is_some());
                self.begin(at, OpenNodeKind::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.plain(at, anchor, tag.is_some());
                self.begin(at, OpenNodeKind::Map { entries: Vec::new(), names: HashSet::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.finish();
                Ok(())
            }
        }
    }

    fn document(&mut self, at: Marker) -> Result<(), SyntaxProblem> {
        self.documents += 1;
        match self.documents {
            1 => Ok(()),
            _ => Err(self.refusal(
                at,
                ValueProblem::new(
                    "several documents in one file",
                    "keep one, and put the others in files of their own",
                ),
            )),
        }
    }

    /// Refuses what may come before a value: anchors multiply, tags change types.
    fn plain(&mut self, at: Marker, anchor: usize, tagged: bool) {
        if anchor != 0 {
            let fault = ValueProblem::new(
                "anchors (`&`) are not taken in a profile",
                "remove it, and use `extends` to share",
            );
            self.refuse(at, fault);
        }
        if tagged {
            self.refuse(
                at,
                ValueProblem::new("tags (`!`) are not taken in a profile", "remove it, or quote the text"),
            );
        }
    }

    fn scalar(&mut self, at: Marker, text: &str) -> Result<(), SyntaxProblem> {
        self.count(at)?;
        if let Some(OpenNode { kind: OpenNodeKind::Map { names, key: key @ None, .. }, .. }) =
            self.open.last_mut()
        {
            let (line, column) = position(at);
            let again = !names.insert(text.to_owned());
            *key = Some(PendingKey { name: text.to_owned(), line, column, again });
            return Ok(());
        }
        let (line, column) = position(at);
        self.location(SourceMark { line, column, under: MarkChildren::Nothing });
        Ok(())
    }

    fn begin(&mut self, at: Marker, kind: OpenNodeKind) -> Result<(), SyntaxProblem> {
        self.count(at)?;
        if let Some(OpenNode { kind: OpenNodeKind::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(
                self.refusal(at, ValueProblem::new("a key is not text", "write a name before the colon"))
            );
        }
        if self.open.len() == DEPTH_MAX {
            return Err(self.refusal(at, too_deep()));
        }
        let (line, column) = position(at);
        self.open.push(OpenNode { line, column, kind });
        Ok(())
    }

    fn finish(&mut self) {
        let Some(OpenNode { line, column, kind }) = self.open.pop() else { return };
        let under = match kind {
            OpenNodeKind::List(items) => MarkChildren::Items(items),
            OpenNodeKind::Map { entries, .. } => MarkChildren::Entries(entries),
        };
        self.location(SourceMark { line, column, under });
    }

    /// Puts a finished value where it belongs: into the open list or map, or at the top.
    fn location(&mut self, value: SourceMark) {
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => self.root = Some(value),
            Some(OpenNodeKind::List(items)) => items.push(value),
            Some(OpenNodeKind::Map { entries, key, .. }) => {
                if let Some(PendingKey { name, line, column, again }) = key.take() {
                    entries.push(EntryMark { name, line, column, again, value });
                }
            }
        }
    }

    fn count(&mut self, at: Marker) -> Result<(), SyntaxProblem> {
        self.nodes += 1;
        match self.nodes > NODES_MAX {
            false => Ok(()),
            true => {
                let what = format!("more than {NODES_MAX} keys and values");
                Err(self.refusal(at, ValueProblem::new(what, "no profile has; split it")))
            }
        }
    }

    fn refuse(&mut self, at: Marker, fault: ValueProblem) {
        let refusal = self.refusal(at, fault);
        self.refusals.push(refusal);
    }

    fn refusal(&self, at: Marker, fault: ValueProblem) -> SyntaxProblem {
        let (line, column) = position(at);
        SyntaxProblem { line, column, key: self.path(), fault }
    }

    fn path(&self) -> String {
        let key = |open: &OpenNode| match &open.kind {
            OpenNodeKind::Map { key: Some(key), .. } => Some(quote_for_problem(&key.name)),
            OpenNodeKind::Map { key: None, .. } | OpenNodeKind::List(_) => None,
        };
        self.open.iter().filter_map(key).collect::<Vec<_>>().join(".")
    }
}

fn position(at: Marker) -> (usize, usize) {
    (at.line(), at.col() + 1)
}

/// Enough to see the pattern; a hostile text has thousands.
const REFUSALS_MAX: usize = 10;

/// The deepest key of a profile is at level six.
const DEPTH_MAX: usize = 32;

/// A thousand services with every key written out need about 20,000.
const NODES_MAX: usize = 20_000;
