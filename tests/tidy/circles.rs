//! Who uses whom, file by file: no two files of different folders use each other, by whatever way round.

use std::collections::{BTreeMap, BTreeSet};

use super::{Path, PathBuf, Source, sources};

/// The path of a module from the crate's root.
fn module_path(file: &Path) -> Vec<String> {
    let without = file.strip_prefix("src").unwrap().with_extension("");
    let mut parts: Vec<_> =
        without.components().map(|part| part.as_os_str().to_str().unwrap().to_owned()).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// The paths of one `use`, whose text begins behind the word; `None` where it is none.
fn use_paths(text: &str) -> Option<(Vec<Vec<String>>, &str)> {
    let mut prefix = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(inner) = rest.strip_prefix('{') {
            let mut paths = Vec::new();
            rest = inner.trim_start();
            while !rest.starts_with('}') {
                let (found, behind) = use_paths(rest)?;
                paths.extend(found.into_iter().map(|path| [prefix.clone(), path].concat()));
                rest = behind.trim_start().trim_start_matches(',').trim_start();
            }
            return Some((paths, &rest[1..]));
        }
        let end = rest.find(|sign: char| !sign.is_alphanumeric() && sign != '_' && sign != '*')?;
        if end == 0 {
            return None;
        }
        prefix.push(rest[..end].to_owned());
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(behind) => rest = behind,
            None => {
                let alias = rest.strip_prefix(" as ").map(|behind| behind.find([',', ';', '}']).unwrap_or(0));
                return Some((vec![prefix], alias.map_or(rest, |end| &rest[" as ".len() + end..])));
            }
        }
    }
}

/// The paths within this crate that a file names, from the crate's root.
fn named_paths(code: &str, own: &[String]) -> Vec<Vec<String>> {
    let imports = code.lines().scan(0, |at, line| {
        let begins = *at;
        *at += line.len() + 1;
        let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(super) ");
        let line = line.trim_start_matches("pub(crate) ");
        Some(line.starts_with("use ").then(|| &code[begins + code[begins..].find("use ").unwrap() + 4..]))
    });
    let mut paths: Vec<_> = imports.flatten().filter_map(use_paths).flat_map(|(paths, _)| paths).collect();
    paths.extend(code.match_indices("crate::").filter_map(|(at, _)| {
        let end = code[at..].find(|sign: char| !sign.is_alphanumeric() && sign != '_' && sign != ':')?;
        Some(code[at..at + end].split("::").map(str::to_owned).collect())
    }));
    let absolute = |path: Vec<String>| match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([own, &path[1..]].concat()),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            Some([&own[..own.len().saturating_sub(up)], &path[up..]].concat())
        }
        _ => None,
    };
    paths.into_iter().filter_map(absolute).collect()
}

/// The files that each file uses.
fn uses(sources: &[Source]) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let files: BTreeMap<_, _> =
        sources.iter().map(|source| (module_path(&source.path), source.path.clone())).collect();
    let file_of = |path: Vec<String>| (1..=path.len()).rev().find_map(|end| files.get(&path[..end]));
    let used = |source: &Source| {
        let named = named_paths(&source.code, &module_path(&source.path));
        named.into_iter().filter_map(file_of).filter(|file| **file != source.path).cloned().collect()
    };
    sources.iter().map(|source| (source.path.clone(), used(source))).collect()
}

fn reached<'a>(from: &'a Path, uses: &'a BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> BTreeSet<&'a Path> {
    let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(file) = left.pop() {
        for used in uses.get(file).into_iter().flatten() {
            if seen.insert(used.as_path()) {
                left.push(used);
            }
        }
    }
    seen
}

/// The folder of a file. What is in `src/a/b/` beside a `src/a/b.rs` is that file's, in its folder.
fn room(file: &Path) -> PathBuf {
    let folder = file.parent().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    match root.join(folder.with_extension("rs")).is_file() {
        true => folder.parent().unwrap().to_path_buf(),
        false => folder.to_path_buf(),
    }
}

#[test]
fn no_circle_goes_through_two_folders() {
    let uses = uses(&sources());
    assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 500, "imports are not seen");
    for file in uses.keys() {
        for used in reached(file, &uses) {
            let is_circle = room(file) != room(used) && reached(used, &uses).contains(file.as_path());
            assert!(!is_circle, "{} and {} use each other", file.display(), used.display());
        }
    }
}

#[test]
fn the_reader_of_uses_knows_their_forms() {
    let code =
        "use super::{\n    a::{self, B as C},\n    d,\n};\npub use self::e::F;\nlet x = crate::g::H::new();";
    let own = ["m".to_owned(), "n".to_owned()];
    let named: Vec<_> = named_paths(code, &own).into_iter().map(|path| path.join("::")).collect();
    assert_eq!(named, ["m::a::self", "m::a::B", "m::d", "m::n::e::F", "g::H::new"]);
}
