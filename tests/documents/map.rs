//! The map in `ARCHITECTURE.md`: what it names exists, and it names each folder and each file that is not small.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::page;

/// The column where descriptions may begin.
const DESCRIPTIONS: usize = 16;
/// A file with more lines than this, tests apart, is on the map, and so is each folder; a smaller one is found in the
/// folder of what it belongs to.
const UNMAPPED_LINES_MAX: usize = 150;

/// Lines of the map: how far they are indented, and the files, modules and folders they name.
fn lines(text: &str) -> Vec<(usize, Vec<&str>)> {
    let map = text.split("## Map\n").nth(1).and_then(|rest| rest.split("```").nth(1)).unwrap();
    let lines = map.lines().filter(|line| !line.trim().is_empty()).skip(1);
    let lines = lines.map(|line| (line.len() - line.trim_start().len(), line.trim_start()));
    // What goes on from the line before stands in the column of the descriptions.
    let lines = lines.filter(|(indent, _)| *indent < DESCRIPTIONS);
    lines.map(|(indent, line)| (indent, line.split("  ").next().unwrap().split(' ').collect())).collect()
}

/// The paths that the map names, below `src` and without endings.
fn named(text: &str) -> BTreeSet<PathBuf> {
    let mut folders: Vec<(usize, &str)> = Vec::new();
    let mut named = BTreeSet::new();
    for (indent, names) in lines(text) {
        folders.retain(|(outer, _)| *outer < indent);
        for name in &names {
            let stem = name.trim_end_matches('/').trim_end_matches(".rs");
            named.insert(folders.iter().map(|(_, folder)| *folder).chain([stem]).collect());
        }
        if let [name] = names.as_slice()
            && let Some(folder) = name.strip_suffix('/')
        {
            folders.push((indent, folder));
        }
    }
    named
}

/// The lines of a file before its tests.
fn production_lines(path: &Path) -> usize {
    let text = fs::read_to_string(path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    lines.iter().position(|line| *line == "mod tests {").unwrap_or(lines.len())
}

/// Folders and files that have to be on the map, below `src` and without endings.
fn wanted(folder: &Path, below: &Path) -> Vec<PathBuf> {
    let mut wanted = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let inner = below.join(path.file_stem().unwrap());
        let stem = inner.file_name().unwrap().to_str().unwrap();
        if matches!(stem, "mod" | "tests" | "lib") {
            continue;
        }
        if path.is_dir() {
            let in_it = self::wanted(&path, &inner);
            let has_code = fs::read_dir(&path).unwrap().any(|entry| entry.unwrap().file_name() != "tests.rs");
            wanted.extend(has_code.then_some(inner).into_iter().chain(in_it));
        } else if below == Path::new("") || production_lines(&path) > UNMAPPED_LINES_MAX {
            wanted.push(inner);
        }
    }
    wanted
}

#[test]
fn whatever_the_map_names_exists_and_no_folder_or_larger_file_is_missing() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let named = named(&page("ARCHITECTURE.md"));
    assert!(named.len() > 200, "the map has moved: {} names", named.len());
    for name in &named {
        let path = source.join(name);
        assert!(
            path.with_extension("rs").exists() || path.is_dir(),
            "the map names {name:?}, which does not exist"
        );
    }
    let missing: Vec<_> =
        wanted(&source, Path::new("")).into_iter().filter(|path| !named.contains(path)).collect();
    assert!(missing.is_empty(), "the map lacks {missing:#?}");
}

#[test]
fn the_reader_of_the_map_knows_folders_and_descriptions() {
    let text = "## Map\n```\nsrc/\n  one.rs          a file\n                  that goes on\n  two/            a folder\n\
                \x20   three four  two files\n  five            another\n```\n";
    let expected = ["one", "two", "two/three", "two/four", "five"].map(PathBuf::from);
    assert_eq!(named(text), BTreeSet::from(expected));
}
