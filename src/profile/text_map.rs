//! A file that is a flat map of names and texts, read as carefully as a profile: every problem has its line,
//! and no name may appear twice.

use std::{path::PathBuf, sync::Arc};

use super::{
    problem::{Problem, ProfileLocation, ValueProblem},
    yaml::{self, DocumentWords, SourceFile, WHOLE, YamlValue},
};

/// An entry, and its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedText {
    pub name: String,
    pub text: String,
    pub location: ProfileLocation,
}

const WORDS: DocumentWords = DocumentWords {
    empty: ["the file is empty", "write `NAME: TARGET`, a line for each"],
    not_a_map: ["the file is not a map of names", "write `NAME: TARGET`, a line for each"],
};

/// The valid entries in order, with the problems of the others; an error if it is not such a file.
pub fn read_text_map(text: &str, label: &str) -> Result<(Vec<NamedText>, Vec<Problem>), Vec<Problem>> {
    let source = Arc::new(SourceFile { label: label.into(), folder: PathBuf::new() });
    let of_file = |problem: Problem| match problem.location.key == WHOLE {
        true => Problem { location: ProfileLocation { key: "file".into(), ..problem.location }, ..problem },
        false => problem,
    };
    let (top, problems) = yaml::read_map(text, &source, &WORDS)
        .map_err(|problems| problems.into_iter().map(of_file).collect::<Vec<_>>())?;
    let mut problems: Vec<_> = problems.into_iter().map(of_file).collect();
    let entries = if let YamlValue::Map(entries) = top.value { entries } else { Vec::new() };
    let mut texts = Vec::new();
    for entry in entries {
        let location = entry.position.location(&yaml::join_path("", &entry.key));
        if let YamlValue::Text(text) = entry.node.value {
            texts.push(NamedText { name: entry.key, text, location });
            continue;
        }
        let fault = ValueProblem::new("the value of a name must be text", "write `NAME: TARGET`");
        problems.push(fault.at(location));
    }
    Ok((texts, problems))
}
