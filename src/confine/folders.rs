//! The lock of files and of TCP ports (Landlock), a second layer behind the filters. It applies to the calling
//! thread and those it starts later, so it is taken before any other thread runs.

use std::{
    collections::BTreeSet,
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use thiserror::Error;

use super::{count_threads, lock_refusal::LockRefusal};
use crate::{
    disk,
    profile::{Half, Profile},
};

#[derive(Debug, Error)]
pub enum FolderLockError {
    #[error("this kernel has no Landlock")]
    Missing,
    #[error("Landlock: other threads run already")]
    Threads,
    #[error("Landlock: {0}")]
    Io(#[from] io::Error),
    #[error("Landlock: {0}")]
    Ruleset(#[from] RulesetError),
}

/// A Landlock lock that is in force.
#[derive(Debug, Clone)]
pub struct FolderLock {
    pub abi: u32,
    /// Where files may still be written.
    written: Vec<PathBuf>,
}

/// Files and folders that a locked gateway may still access.
#[derive(Debug, Default)]
pub struct LockedFolders {
    /// In addition to the system's folders.
    pub read: Vec<PathBuf>,
    /// A single file too, where its folder holds what is not ours.
    pub written: Vec<PathBuf>,
}

/// Folders that the system's libraries, the resolver and the clock read.
const SYSTEM: [&str; 8] = ["/etc", "/usr", "/lib", "/lib32", "/lib64", "/libx32", "/proc/self", "/sys"];
/// Files of the resolver that are often links.
const LINKED: [&str; 4] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/localtime"];
/// The devices that are read and written: the process' own terminal, and the one that holds nothing.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/tty"];
/// Devices that are only read.
const READ_DEVICES: [&str; 2] = ["/dev/random", "/dev/urandom"];
/// Disks, memory and other people's terminals are here too, so this is never opened as a whole.
const DEVICE_FOLDER: &str = "/dev";
/// The newest version whose rights are used; later ones concern things that nothing here does.
const NEWEST: ABI = ABI::V5;

impl LockedFolders {
    /// Takes the lock, as far as this kernel supports it.
    pub fn lock(&self, half: Half) -> Result<FolderLock, FolderLockError> {
        if count_threads()? != 1 {
            return Err(FolderLockError::Threads);
        }
        let read = self.readable();
        let net = match half {
            Half::Internal => AccessNet::BindTcp,
            Half::Dmz => AccessNet::ConnectTcp,
        };
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(net)?
            .create()?;
        let ruleset = allow(ruleset, &read, AccessFs::ReadFile | AccessFs::ReadDir)?;
        let devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        let ruleset = allow(ruleset, DEVICES, devices)?;
        let ruleset = allow(ruleset, READ_DEVICES, AccessFs::ReadFile.into())?;
        let never = AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::MakeFifo;
        let ruleset = allow(ruleset, &self.written, AccessFs::from_all(NEWEST) & !never)?;
        let status = ruleset.restrict_self()?;
        let LandlockStatus::Available { effective_abi, kernel_abi } = status.landlock else {
            return Err(FolderLockError::Missing);
        };
        if status.ruleset == RulesetStatus::NotEnforced {
            return Err(FolderLockError::Missing);
        }
        let real = |folder: &PathBuf| folder.canonicalize().ok();
        let written: Vec<_> =
            self.written.iter().filter_map(|path| real(path).or_else(|| pipe(path))).collect();
        let devices = DEVICES.into_iter().chain(READ_DEVICES).map(PathBuf::from);
        let read = read.iter().filter_map(real).chain(devices);
        disk::note_folders_allowed(read.chain(written.iter().cloned()).collect());
        Ok(FolderLock { abi: kernel_abi.map_or(effective_abi as u32, i32::unsigned_abs), written })
    }

    fn readable(&self) -> BTreeSet<PathBuf> {
        let linked =
            LINKED.into_iter().filter_map(|file| Some(Path::new(file).canonicalize().ok()?.parent()?.into()));
        // A profile may come from `/dev/stdin`, which opens nothing else there.
        let named = self.read.iter().filter(|folder| !is_device_folder(folder)).cloned();
        SYSTEM.into_iter().map(PathBuf::from).chain(linked).chain(named).collect()
    }

    /// Allows writing in the folder of `file`, in which it may be created again. Of a device, or of what stands
    /// in the folder of devices, the file alone.
    pub fn write_folder_of(&mut self, file: &Path) {
        let Ok(file) = std::path::absolute(file) else { return };
        let is_device = file.metadata().is_ok_and(|found| {
            let kind = found.file_type();
            kind.is_char_device() || kind.is_block_device()
        });
        let Some(folder) = file.parent() else { return };
        let is_alone = is_device || is_device_folder(folder);
        self.written.push(if is_alone { file } else { folder.into() });
    }

    /// Allows reading the folder of `file` and, if it is a link, the folder it leads to.
    pub fn read_folder_of(&mut self, file: &Path) {
        let of_file = |file: &Path| {
            file.parent().map(|folder| match folder.as_os_str().is_empty() {
                true => PathBuf::from("."),
                false => folder.into(),
            })
        };
        self.read.extend(of_file(file));
        self.read.extend(file.canonicalize().ok().as_deref().and_then(of_file));
    }
}

impl FolderLock {
    /// Why a gateway of `profile` could not write once it is locked.
    pub fn refusal(&self, profile: &Profile) -> Option<LockRefusal> {
        let file = profile.files_written().find(|file| !self.lets_write(file))?;
        Some(LockRefusal::Folder(file.into()))
    }

    fn lets_write(&self, file: &Path) -> bool {
        let Ok(file) = std::path::absolute(file) else { return false };
        if self.written.contains(&file) {
            return true;
        }
        // A device exists already; a log file may have to be created, in a folder that exists.
        if let Ok(real) = file.canonicalize() {
            let is_open = DEVICES.iter().any(|device| real == Path::new(device));
            return is_open || self.written.iter().any(|folder| real.starts_with(folder));
        }
        let there = file.ancestors().skip(1).find_map(|folder| folder.canonicalize().ok());
        there.is_some_and(|there| self.written.iter().any(|folder| there.starts_with(folder)))
    }
}

fn is_device_folder(folder: &Path) -> bool {
    folder.canonicalize().is_ok_and(|real| real == Path::new(DEVICE_FOLDER))
}

/// What `/dev/stdout` leads to where it is a pipe: it is there, and has no path of its own.
fn pipe(path: &Path) -> Option<PathBuf> {
    path.metadata().is_ok().then(|| path.into())
}

/// A missing folder needs no rule.
fn allow(
    ruleset: RulesetCreated,
    folders: impl IntoIterator<Item = impl AsRef<Path>>,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    // A pipe has no place in a folder. No rule can name it, and none is needed.
    let is_named = folders.into_iter().filter(|folder| Path::canonicalize(folder.as_ref()).is_ok());
    let there = is_named.filter_map(|folder| PathFd::new(folder).ok());
    ruleset.add_rules(there.map(|folder| Ok::<_, RulesetError>(PathBeneath::new(folder, access))))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_may_be_written_is_known_by_its_real_folder() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        for folder in ["logs", "logs/inner", "other"] {
            fs::create_dir(at(folder)).unwrap();
        }
        fs::write(at("other/there"), "").unwrap();
        symlink(at("other/there"), at("logs/link")).unwrap();
        symlink(at("logs"), at("to-logs")).unwrap();
        let lock = FolderLock { abi: 1, written: vec![at("logs")] };
        let table = [
            ("logs/a", true),
            ("logs/inner/a", true),
            ("logs/new/a", true),
            ("to-logs/a", true),
            ("logs/link", false),
            ("other/a", false),
            ("other/there", false),
            ("logs-2/a", false),
            ("a", false),
        ];
        for (file, expected) in table {
            assert_eq!(lock.lets_write(&at(file)), expected, "{file}");
        }
        assert!(lock.lets_write(Path::new("/dev/null")));
        for other in ["/dev/shm/none", "/dev/zero", "/dev/none"] {
            assert!(!lock.lets_write(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn of_a_device_no_more_than_itself_may_be_written() {
        let mut folders = LockedFolders::default();
        let folder = tempfile::tempdir().unwrap();
        let (log, link) = (folder.path().join("log"), folder.path().join("link"));
        symlink("/dev/full", &link).unwrap();
        for file in
            [log.as_path(), &link, Path::new("/dev/full"), Path::new("/dev/none"), Path::new("/dev/shm/log")]
        {
            folders.write_folder_of(file);
        }
        let expected =
            [folder.path(), &link, Path::new("/dev/full"), Path::new("/dev/none"), Path::new("/dev/shm")];
        assert_eq!(folders.written, expected);
    }
}
