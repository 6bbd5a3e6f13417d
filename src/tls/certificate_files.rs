//! The state of certificate files when they were opened, so that a change is noticed cheaply. Length and times are
//! compared, and nothing is opened; the contents are read only when one of them differs.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::profile::PemSource;

/// How many changed files are named in a message.
const LISTED_FILES_MAX: usize = 4;

/// The state of some certificate files; `None` for one that does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFiles(BTreeMap<PathBuf, Option<FileStamp>>);

/// Metadata that changes with every new content, whether the file is rewritten, replaced, or linked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl CertificateFiles {
    pub fn stat<'a>(materials: impl Iterator<Item = &'a PemSource>) -> Self {
        let mut files = BTreeMap::new();
        for material in materials {
            if let PemSource::File { path, .. } = material {
                files.entry(path.clone()).or_insert_with_key(|path| stat_file(path));
            }
        }
        Self(files)
    }

    /// The files whose state differs from `before`.
    pub fn changed_since(&self, before: &Self) -> ChangedFiles {
        let differs = |(path, look): &(&PathBuf, &Option<FileStamp>)| before.0.get(*path) != Some(look);
        ChangedFiles(self.0.iter().filter(differs).map(|(path, _)| path.clone()).collect())
    }
}

/// Files that have changed.
pub struct ChangedFiles(Vec<PathBuf>);

impl ChangedFiles {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of these is among them.
    pub fn has_any_of<'a>(&self, mut materials: impl Iterator<Item = &'a PemSource>) -> bool {
        materials.any(|material| match material {
            PemSource::File { path, .. } => self.0.contains(path),
            PemSource::Memory(_) => false,
        })
    }
}

impl fmt::Display for ChangedFiles {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reported: Vec<_> =
            self.0.iter().take(LISTED_FILES_MAX).map(|path| path.display().to_string()).collect();
        out.write_str(&reported.join(", "))?;
        match self.0.len().saturating_sub(LISTED_FILES_MAX) {
            0 => Ok(()),
            more => write!(out, " and {more} more"),
        }
    }
}

fn stat_file(path: &Path) -> Option<FileStamp> {
    let seen = fs::metadata(path).ok()?;
    Some(FileStamp {
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
    use crate::profile::ProfileLocation;

    fn file(path: &Path) -> PemSource {
        let location = ProfileLocation { file: "p.yaml".into(), line: 1, column: 1, key: "tls".into() };
        PemSource::File { path: path.to_owned(), location }
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
        let look = || CertificateFiles::stat(materials.iter().chain([&PemSource::Memory("pem".into())]));
        let before = look();
        assert_eq!(before, look());
        symlink(at("new"), at("another")).expect("a link");
        fs::rename(at("another"), at("linked")).expect("it is renamed");
        fs::copy(at("old"), at("same")).expect("it is copied");
        fs::rename(at("same"), at("moved")).expect("it is renamed");
        fs::write(at("written"), "and more").expect("it is written");
        let changed = look().changed_since(&before);
        for (material, differs) in materials.iter().zip([true, true, true, false]) {
            assert_eq!(changed.has_any_of([material].into_iter()), differs, "{material:?}");
        }
        let reported = changed.to_string();
        let expected = ["linked", "moved", "written"].map(|name| at(name).display().to_string());
        assert_eq!(reported, expected.join(", "));
        fs::remove_file(at("old")).expect("it is removed");
        assert_ne!(look(), before);
    }
}
