//! How files looked when they were opened, to see cheaply that they have changed.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::profile::Material;

/// Files named where so many have changed.
const TOLD_MAX: usize = 4;

/// The files of some materials; `None` for one that is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<PathBuf, Option<Look>>);

/// What changes with every new content, be it written in place, renamed there, or behind a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Files {
    pub fn of<'a>(materials: impl Iterator<Item = &'a Material>) -> Self {
        let mut files = BTreeMap::new();
        for material in materials {
            if let Material::File { path, .. } = material {
                files.entry(path.clone()).or_insert_with_key(|path| look(path));
            }
        }
        Self(files)
    }

    /// Those that do not look as they do in `before`.
    pub fn unlike(&self, before: &Self) -> Unlike {
        let is_unlike = |(path, look): &(&PathBuf, &Option<Look>)| before.0.get(*path) != Some(look);
        Unlike(self.0.iter().filter(is_unlike).map(|(path, _)| path.clone()).collect())
    }
}

/// Files that have changed.
pub struct Unlike(Vec<PathBuf>);

impl Unlike {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of these is among them.
    pub fn has_any_of<'a>(&self, mut materials: impl Iterator<Item = &'a Material>) -> bool {
        materials.any(|material| match material {
            Material::File { path, .. } => self.0.contains(path),
            Material::Memory(_) => false,
        })
    }
}

impl fmt::Display for Unlike {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: Vec<_> = self.0.iter().take(TOLD_MAX).map(|path| path.display().to_string()).collect();
        out.write_str(&told.join(", "))?;
        match self.0.len().saturating_sub(TOLD_MAX) {
            0 => Ok(()),
            more => write!(out, " and {more} more"),
        }
    }
}

fn look(path: &Path) -> Option<Look> {
    let seen = fs::metadata(path).ok()?;
    Some(Look {
        device: seen.dev(),
        inode: seen.ino(),
        bytes: seen.len(),
        modified: (seen.mtime(), seen.mtime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::profile::Place;

    fn file(path: &Path) -> Material {
        let place = Place { file: "p.yaml".into(), line: 1, column: 1, key: "tls".into() };
        Material::File { path: path.to_owned(), place }
    }

    #[test]
    fn a_new_content_looks_new_however_it_comes() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("old"), "one").expect("it is written");
        fs::write(at("new"), "two").expect("it is written");
        symlink(at("old"), at("linked")).expect("a link");
        fs::copy(at("old"), at("moved")).expect("it is copied");
        fs::copy(at("old"), at("written")).expect("it is copied");
        let materials = ["linked", "moved", "written", "old"].map(|name| file(&at(name)));
        let look = || Files::of(materials.iter().chain([&Material::Memory("pem".into())]));
        let before = look();
        assert_eq!(before, look());
        symlink(at("new"), at("another")).expect("a link");
        fs::rename(at("another"), at("linked")).expect("it is renamed");
        fs::copy(at("old"), at("same")).expect("it is copied");
        fs::rename(at("same"), at("moved")).expect("it is renamed");
        fs::write(at("written"), "and more").expect("it is written");
        let unlike = look().unlike(&before);
        for (material, is_unlike) in materials.iter().zip([true, true, true, false]) {
            assert_eq!(unlike.has_any_of([material].into_iter()), is_unlike, "{material:?}");
        }
        let told = unlike.to_string();
        let expected = ["linked", "moved", "written"].map(|name| at(name).display().to_string());
        assert_eq!(told, expected.join(", "));
        fs::remove_file(at("old")).expect("it is removed");
        assert_ne!(look(), before);
    }
}
