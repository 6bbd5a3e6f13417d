//! Who uses whom, file by file: no two files of different folders use each other, by whatever way round.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

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

/// The paths that are written out, within a `use` or not.
fn written_paths(code: &str) -> impl Iterator<Item = Vec<String>> {
    let words = code.split(|sign: char| !sign.is_alphanumeric() && sign != '_' && sign != ':');
    let paths = words.filter(|word| word.contains("::") && !word.starts_with(':') && !word.ends_with(':'));
    paths.map(|path| path.split("::").map(str::to_owned).collect())
}

/// What a file names of this crate, as paths from the crate's root.
#[derive(Debug, Default)]
struct NamedPaths {
    used: Vec<Vec<String>>,
    /// What it hands on by `pub use`, which is no use of its own.
    reexported: Vec<Vec<String>>,
}

/// `is_module` tells the modules of this crate: one right below needs no `self::`.
fn named_paths(code: &str, own: &[String], is_module: impl Fn(&[String]) -> bool) -> NamedPaths {
    let absolute = |path: Vec<String>| match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([own, &path[1..]].concat()),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            Some([&own[..own.len().saturating_sub(up)], &path[up..]].concat())
        }
        _ => Some([own, &path].concat()).filter(|path| is_module(&path[..own.len() + 1])),
    };
    let mut named = NamedPaths::default();
    // What is left of the text without its imports.
    let (mut rest, mut others) = (code, String::new());
    while let Some(line) = rest.lines().next() {
        let item = line.trim_start();
        let is_public = item.starts_with("pub");
        let import = item
            .find("use ")
            .filter(|at| *at == 0 || is_public && item[..*at].trim_end().ends_with(['b', ')']));
        let behind = rest.split_once('\n').map_or("", |(_, behind)| behind);
        rest = match import.and_then(|_| use_paths(rest.split_once("use ")?.1)) {
            Some((paths, behind)) => {
                let paths = paths.into_iter().filter_map(absolute);
                if is_public {
                    named.reexported.extend(paths)
                } else {
                    named.used.extend(paths)
                }
                behind.split_once('\n').map_or("", |(_, behind)| behind)
            }
            None => {
                others.push_str(line);
                others.push('\n');
                behind
            }
        };
    }
    named.used.extend(written_paths(&others).filter_map(absolute));
    named
}

/// The files that each file uses, by whatever name they are handed on.
fn uses(sources: &[Source]) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let files: BTreeMap<_, _> =
        sources.iter().map(|source| (module_path(&source.path), source.path.clone())).collect();
    let is_module = |path: &[String]| files.contains_key(path);
    let named: BTreeMap<_, _> = files
        .iter()
        .map(|(module, file)| {
            let source = sources.iter().find(|source| source.path == *file).unwrap();
            (module.clone(), named_paths(&source.code, module, is_module))
        })
        .collect();
    let handed_on = |module: &[String], name: &String| {
        named.get(module)?.reexported.iter().find(|path| path.last() == Some(name))
    };
    let file_of = |mut path: Vec<String>| {
        // A name may be handed on a few times.
        for _ in 0..8 {
            let end = (1..=path.len()).rev().find(|end| is_module(&path[..*end]))?;
            let next = path.get(end).and_then(|name| handed_on(&path[..end], name));
            match next {
                Some(next) => path = [&next[..], &path[end + 1..]].concat(),
                None => return files.get(&path[..end]),
            }
        }
        None
    };
    let used = |(module, named): (&Vec<String>, &NamedPaths)| {
        let file = &files[module];
        let used = named.used.iter().cloned().filter_map(file_of).filter(|used| *used != file);
        (file.clone(), used.cloned().collect())
    };
    named.iter().map(used).collect()
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
fn no_circle_goes_through_two_folders_and_each_says_why() {
    let uses = uses(&sources());
    assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 500, "imports are not seen");
    let reached: BTreeMap<_, _> = uses.keys().map(|file| (file.as_path(), reached(file, &uses))).collect();
    for (file, used) in &reached {
        let circle: Vec<_> = used.iter().filter(|used| reached[*used].contains(file)).collect();
        for used in &circle {
            let is_in_room = room(file) == room(used);
            assert!(is_in_room, "{} and {} use each other", file.display(), used.display());
        }
        let is_explained = circle.is_empty()
            || says_why(&room(file).join("mod.rs"))
            || circle.iter().any(|used| says_why(used));
        assert!(is_explained, "{} and {circle:?} use each other: say why", file.display());
    }
}

/// Whether the opening of a file explains why its part of the folder has circles.
fn says_why(file: &Path) -> bool {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default();
    text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains("use each other: "))
}

#[test]
fn the_reader_of_uses_knows_their_forms() {
    let code = "use super::{\n    a::{self, B as C},\n    d,\n};\npub use self::e::F;\nlet x = crate::g::H::new();\n\
                let y = super::i::j();\nuse k::L;\nm::n(Vec::new());\npub(super) use k::Q;\n    use r as s;\n";
    let own = ["o".to_owned(), "p".to_owned()];
    let is_module = |path: &[String]| matches!(path.last().map(String::as_str), Some("k" | "m"));
    let NamedPaths { used, reexported } = named_paths(code, &own, is_module);
    let joined = |paths: Vec<Vec<String>>| paths.iter().map(|path| path.join("::")).collect::<BTreeSet<_>>();
    let expected = ["g::H::new", "o::a::B", "o::a::self", "o::d", "o::i::j", "o::p::k::L", "o::p::m::n"];
    assert_eq!(joined(used).into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(joined(reexported).into_iter().collect::<Vec<_>>(), ["o::p::e::F", "o::p::k::Q"]);
}
