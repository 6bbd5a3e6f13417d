//! Which file a profile's name refers to.

use std::{
    fs,
    path::{MAIN_SEPARATOR, Path, PathBuf},
};

use super::{
    problem::{Problem, ProfileLocation, ValueProblem},
    spelling::nearest,
};
use crate::text;

/// The file for `name_or_file`: that file if it looks like a file's name, or else `NAME.yaml` in the first
/// folder that has it.
pub fn find(name_or_file: &str, folders: &[PathBuf]) -> Result<PathBuf, Problem> {
    let ends = |ending: &str| name_or_file.ends_with(ending);
    if name_or_file.contains(['/', MAIN_SEPARATOR]) || ends(".yaml") || ends(".yml") {
        return Ok(PathBuf::from(name_or_file));
    }
    let file_name = format!("{name_or_file}.yaml");
    let found = folders.iter().map(|folder| folder.join(&file_name)).find(|file| file.is_file());
    found.ok_or_else(|| {
        let looked: Vec<_> = folders.iter().map(|folder| text::clean_path(folder)).collect();
        let location = ProfileLocation {
            file: text::clean_path(Path::new(&file_name)).into(),
            line: 0,
            column: 0,
            key: "profile".to_owned(),
        };
        let what = format!("no profile of this name in {}", looked.join(", "));
        let there: Vec<_> = folders.iter().flat_map(|folder| list(folder)).collect();
        let names: Vec<_> =
            there.iter().filter_map(|file| Some(file.file_stem()?.to_string_lossy())).collect();
        let names: Vec<_> = names.iter().map(|name| &**name).collect();
        let advice = match (nearest(name_or_file, &names), names.is_empty()) {
            (Some(meant), _) => format!("did you mean `{meant}`? `portcullis profiles` lists them"),
            (None, false) => {
                "`portcullis profiles` lists those there are; a file is named with its path (`./NAME.yaml`)"
                    .into()
            }
            (None, true) => {
                "name a file (`./NAME.yaml`), or write a first profile with `portcullis init`".into()
            }
        };
        ValueProblem::new(what, advice).at(location)
    })
}

/// The profiles of a folder, sorted by name. A missing folder has none. Anything that is not a plain file is
/// listed too, so that the problem can be shown.
pub fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_profile =
        |path: &PathBuf| path.extension().is_some_and(|ending| ending == "yaml") && !path.is_dir();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(is_profile).collect();
    files.sort_unstable();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_a_file_is_taken() {
        let (first, second) = (tempfile::tempdir(), tempfile::tempdir());
        let (first, second) = (first.expect("a folder"), second.expect("a folder"));
        fs::write(second.path().join("web.yaml"), "").expect("a file");
        fs::write(second.path().join("notes.txt"), "").expect("a file");
        let folders = [first.path().to_path_buf(), second.path().to_path_buf()];

        assert_eq!(find("web", &folders), Ok(second.path().join("web.yaml")));
        assert_eq!(find("web.yaml", &folders), Ok(PathBuf::from("web.yaml")));
        assert_eq!(find("./web", &folders), Ok(PathBuf::from("./web")));
        let lost = find("wob", &folders).map_err(|problem| problem.to_string());
        let words = "wob.yaml:0:0: profile: no profile of this name in ";
        let is_named = |text: String| text.starts_with(words) && text.contains("did you mean `web`?");
        assert!(lost.is_err_and(is_named));
        assert_eq!(list(second.path()), [second.path().join("web.yaml")]);
        assert!(list(&second.path().join("none")).is_empty());
    }
}
