//! A profile file together with everything it extends, merged into one tree.
//!
//! Each value keeps the file it was written in: problems name that file, and relative paths
//! start from its folder.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    problem::{Problem, ProfileLocation, ValueProblem},
    yaml::{self, SourceFile, YamlEntry, YamlNode, YamlValue},
};
use crate::{
    disk::{self, PipePolicy, ReadError},
    text,
};

/// Reads `file` and what it extends. The top of the tree is a map.
pub(super) fn read(file: &Path, pipes: PipePolicy) -> Result<(YamlNode, Vec<Problem>), Vec<Problem>> {
    let mut chain = Vec::new();
    let mut seen = Vec::new();
    let mut problems = Vec::new();
    let mut next = Some((file.to_path_buf(), None));
    while let Some((path, named_at)) = next {
        check_extends(&path, named_at.as_ref(), &mut seen)
            .map_err(|last| append_problems(&mut problems, vec![last]))?;
        let text =
            read_text(&path, named_at, pipes).map_err(|last| append_problems(&mut problems, vec![last]))?;
        let (mut node, more) =
            yaml::read(&text, &source(&path)).map_err(|last| append_problems(&mut problems, last))?;
        problems.extend(more);
        next = take_extends(&mut node, &path, &mut problems);
        if !chain.is_empty() {
            let _ = remove_entry(&mut node, "name");
        }
        chain.push(node);
    }
    let whole = chain.into_iter().reduce(|over, under| merge(under, over));
    whole.map(|node| (node, problems)).ok_or_else(Vec::new)
}

/// `file` and the files it extends, as far as they can be read.
pub fn files(file: &Path) -> Vec<PathBuf> {
    let mut found = vec![file.to_path_buf()];
    while let Some(path) = found.last()
        && found.len() <= CHAIN_MAX
    {
        let read = read_text(path, None, PipePolicy::Refused).ok();
        let Some((mut node, _)) = read.and_then(|text| yaml::read(&text, &source(path)).ok()) else { break };
        let Some((next, _)) = take_extends(&mut node, path, &mut Vec::new()) else { break };
        found.push(next);
    }
    found
}

fn append_problems(problems: &mut Vec<Problem>, last: Vec<Problem>) -> Vec<Problem> {
    problems.extend(last);
    std::mem::take(problems)
}

/// Refuses a file that was read already, and a chain that does not end.
fn check_extends(
    path: &Path,
    named_at: Option<&ProfileLocation>,
    seen: &mut Vec<PathBuf>,
) -> Result<(), Problem> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let Some(location) = named_at else {
        seen.push(real);
        return Ok(());
    };
    let fault = if seen.contains(&real) {
        let what = format!("`{}` extends itself, through this key", text::clean_path(path));
        ValueProblem::new(what, "remove this key, or name another file")
    } else if seen.len() == CHAIN_MAX {
        ValueProblem::new(format!("a chain of more than {CHAIN_MAX} files"), "put some of them together")
    } else {
        seen.push(real);
        return Ok(());
    };
    Err(fault.at(location.clone()))
}

/// The text of a file, or why there is none; reported at `named_at` if another file named it.
fn read_text(path: &Path, named_at: Option<ProfileLocation>, pipes: PipePolicy) -> Result<String, Problem> {
    let whole = || ProfileLocation { file: label(path), line: 0, column: 0, key: "profile".to_owned() };
    let named = text::clean_path(path);
    let fault = |error: ReadError| match error {
        ReadError::NotPlain(kind) => ValueProblem::new(format!("`{named}` is {kind}"), "name a profile file"),
        ReadError::TooLarge { .. } => {
            ValueProblem::new(format!("`{named}` is larger than 1 MiB"), "no profile is; name another file")
        }
        ReadError::Locked => {
            ValueProblem::new(format!("`{named}` cannot be read: {error}"), "restart with that profile")
        }
        ReadError::Silent => ValueProblem::new(format!("`{named}`: {error}"), "name a profile file"),
        ReadError::Io(ref missing) if missing.kind() == io::ErrorKind::NotFound => {
            let advice = match &named_at {
                Some(_) => "correct the name",
                None => "correct the name, or write a first profile with `portcullis init`",
            };
            ValueProblem::new(format!("there is no file `{named}`"), advice)
        }
        ReadError::Io(_) => {
            let usual = || "make it readable to this user".to_owned();
            let advice = error.permission_advice(path).unwrap_or_else(usual);
            ValueProblem::new(format!("`{named}` cannot be read: {error}"), advice)
        }
    };
    let contents = disk::read(path, FILE_BYTES_MAX, pipes)
        .map_err(|error| fault(error).at(named_at.clone().unwrap_or_else(whole)))?;
    String::from_utf8(contents.bytes).map_err(|error| not_utf8(&label(path), &error))
}

fn not_utf8(file: &Arc<str>, error: &std::string::FromUtf8Error) -> Problem {
    let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let column = 1 + String::from_utf8_lossy(&before[start..]).chars().count();
    let location = ProfileLocation { file: file.clone(), line, column, key: "profile".to_owned() };
    ValueProblem::new("the text is not UTF-8 from here on", "save the file as UTF-8").at(location)
}

fn source(path: &Path) -> Arc<SourceFile> {
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    Arc::new(SourceFile { label: label(path), folder })
}

fn label(path: &Path) -> Arc<str> {
    text::clean_path(path).into()
}

/// Takes `extends` out of the top map: the file it names, and the location that names it.
fn take_extends(
    node: &mut YamlNode,
    path: &Path,
    problems: &mut Vec<Problem>,
) -> Option<(PathBuf, Option<ProfileLocation>)> {
    let value = remove_entry(node, "extends")?.node;
    let location = value.position.location("extends");
    match value.value {
        YamlValue::Null => None,
        YamlValue::Text(name) if !name.is_empty() => {
            let folder = path.parent().unwrap_or(Path::new(""));
            // Rebuilt from its components, which removes a `.` in the middle.
            Some((folder.join(name).components().collect(), Some(location)))
        }
        YamlValue::Text(_)
        | YamlValue::Bool(_)
        | YamlValue::Integer(_)
        | YamlValue::Float(_)
        | YamlValue::List(_)
        | YamlValue::Map(_) => {
            problems.push(
                ValueProblem::new("this is not the name of a file", "write one, `forward.yaml`").at(location),
            );
            None
        }
    }
}

fn remove_entry(node: &mut YamlNode, key: &str) -> Option<YamlEntry> {
    let YamlValue::Map(entries) = &mut node.value else { return None };
    let index = entries.iter().position(|entry| entry.key == key)?;
    Some(entries.remove(index))
}

/// Maps are merged, lists and scalars replace, null removes.
fn merge(under: YamlNode, over: YamlNode) -> YamlNode {
    match (under.value, over.value) {
        (YamlValue::Map(under), YamlValue::Map(over_entries)) => {
            YamlNode { position: over.position, value: YamlValue::Map(merge_entries(under, over_entries)) }
        }
        (_, value) => YamlNode { position: over.position, value },
    }
}

fn merge_entries(under: Vec<YamlEntry>, over: Vec<YamlEntry>) -> Vec<YamlEntry> {
    let mut slots: Vec<Option<YamlEntry>> = under.into_iter().map(Some).collect();
    let index: HashMap<String, usize> = slots
        .iter()
        .enumerate()
        .filter_map(|(index, slot)| slot.as_ref().map(|entry| (entry.key.clone(), index)))
        .collect();
    for entry in over {
        match index.get(&entry.key) {
            // A null with nothing to remove stays, so that its key is still checked.
            None => slots.push(Some(entry)),
            Some(&index) => {
                slots[index] = match (slots[index].take(), &entry.node.value) {
                    (_, YamlValue::Null) => None,
                    (None, _) => Some(entry),
                    (Some(below), _) => Some(YamlEntry { node: merge(below.node, entry.node), ..entry }),
                };
            }
        }
    }
    slots.into_iter().flatten().collect()
}

/// People lose track of longer `extends` chains, too.
const CHAIN_MAX: usize = 16;

/// A thousand services with every key written out take less than 300 KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::{SourceFile, YamlNode, YamlValue, merge, yaml};
    use std::sync::Arc;

    fn node(text: &str) -> YamlNode {
        let source = Arc::new(SourceFile { label: "test".into(), folder: Default::default() });
        yaml::read(text, &source).expect("the text of a test reads").0
    }

    /// The tree without positions, on one line.
    fn plain(node: &YamlNode) -> String {
        match &node.value {
            YamlValue::Map(entries) => {
                let entry = |entry: &super::YamlEntry| format!("{}: {}", entry.key, plain(&entry.node));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
            YamlValue::List(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
            YamlValue::Text(text) => text.clone(),
            YamlValue::Integer(number) => number.to_string(),
            YamlValue::Null => "null".to_owned(),
            other @ (YamlValue::Bool(_) | YamlValue::Float(_)) => format!("{other:?}"),
        }
    }

    #[test]
    fn maps_merge_the_rest_replaces_and_null_removes() {
        let table = [
            ("a: 1", "b: 2", "{a: 1, b: 2}"),
            ("a: 1", "a: 2", "{a: 2}"),
            ("a: {x: 1, y: 2}", "a: {y: 3, z: 4}", "{a: {x: 1, y: 3, z: 4}}"),
            ("a: [1, 2]", "a: [3]", "{a: [3]}"),
            ("a: {x: 1}", "a: [3]", "{a: [3]}"),
            ("a: [1]", "a: {x: 1}", "{a: {x: 1}}"),
            ("a: {x: 1, y: 2}", "a: {x: ~}", "{a: {y: 2}}"),
            ("a: {x: 1}\nb: 2", "a:", "{b: 2}"),
            ("b: 2", "a: ~", "{b: 2, a: null}"),
        ];
        for (under, over, expected) in table {
            assert_eq!(plain(&merge(node(under), node(over))), expected, "{under:?} below {over:?}");
        }
    }
}
