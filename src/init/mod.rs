//! `init`: the first profiles of a pair, with certificates, written from a few answers.
//!
//! Nothing is overwritten, and nothing is left half done. Each half gets only what belongs to its host; the
//! private CA's key stays with the internal half. `certs` makes certificates for more gateways.
//!
//! The files here use each other: questions and the text of profiles share the answers.

mod answers;
mod text;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use thiserror::Error;

use self::answers::{InitAnswers, InitAnswersError, InitQuestion};
use crate::{
    certs::CertificateAuthority,
    cli::{InitHalf, InitOptions},
    exit,
    output::{OutputError, print_line, print_note},
    profile::{Half, Mode},
};

#[derive(Debug, Error)]
pub enum InitError {
    #[error("{} already: nothing was written; choose another folder with --out, or remove what is there", list(.0))]
    Exists(Vec<PathBuf>),
    #[error("{}: {source}; nothing was written: {}", path.display(), write_advice(source))]
    Write { path: PathBuf, source: io::Error },
    #[error("the certificates cannot be made: {0}; please report this")]
    Certificates(#[from] rcgen::Error),
    #[error("{0}")]
    Output(#[from] OutputError),
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    format!("{} {} there", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// Asks for what is not given, writes the files, and says how to go on.
pub fn run(options: &InitOptions, mode: Option<Mode>) -> Result<ExitCode, InitError> {
    let answers = match InitAnswers::gather(options, mode.unwrap_or(Mode::Reverse)) {
        Ok(answers) => answers,
        Err(error @ InitAnswersError::Stopped) => {
            print_note(format_args!("portcullis: {error}"));
            return Ok(exit::FAILED.into());
        }
        Err(error) => {
            print_note(format_args!("portcullis: {error}"));
            return Ok(exit::BAD_INPUT.into());
        }
    };
    let folders = HalfFolders::of(options);
    let files = files(&folders, &answers)?;
    write(&files)?;
    files.iter().try_for_each(|file| print_line(format_args!("made {}", file.path.display())))?;
    print_line(next_commands(options.half, &folders, &answers))?;
    Ok(ExitCode::SUCCESS)
}

/// The folder of each half: the same one for a trial on one machine. Otherwise, the folder of the other host's
/// half is inside this one, to be moved as a whole.
struct HalfFolders {
    dmz: PathBuf,
    internal: PathBuf,
}

impl HalfFolders {
    fn of(options: &InitOptions) -> Self {
        let out = if options.out == Path::new(".") { PathBuf::new() } else { options.out.clone() };
        match options.half {
            InitHalf::Pair => Self { dmz: out.clone(), internal: out },
            InitHalf::Dmz => Self { internal: out.join("internal-host"), dmz: out },
            InitHalf::Internal => Self { dmz: out.join("dmz-host"), internal: out },
        }
    }
}

fn write_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "make room there, or choose another folder with --out",
        _ => "choose a folder with --out that this user may write to",
    }
}

struct NewFile {
    path: PathBuf,
    text: String,
    /// Keys are readable by their owner only.
    mode: u32,
}

fn files(folders: &HalfFolders, answers: &InitAnswers) -> Result<Vec<NewFile>, InitError> {
    let authority = CertificateAuthority::create()?;
    let mut files = Vec::new();
    let mut add = |folder: &Path, name: &str, text: String, mode| {
        files.push(NewFile { path: folder.join(name), text, mode });
    };
    for (half, name, folder) in
        [(Half::Dmz, "dmz", &folders.dmz), (Half::Internal, "internal", &folders.internal)]
    {
        let pair = authority.issue(name)?;
        add(folder, &format!("{name}.yaml"), text::profile(half, answers), 0o644);
        if half == Half::Internal || folders.dmz != folders.internal {
            add(folder, "pki/ca.pem", authority.pair.certificate.clone(), 0o644);
        }
        add(folder, &format!("pki/{name}.pem"), pair.certificate, 0o644);
        add(folder, &format!("pki/{name}.key"), pair.key, 0o600);
    }
    // Whoever has it can be either half, so it stays away from the DMZ.
    add(&folders.internal, "pki/ca.key", authority.pair.key, 0o600);
    Ok(files)
}

/// Writes all of the files, or none.
fn write(files: &[NewFile]) -> Result<(), InitError> {
    // A broken symbolic link counts as existing.
    let is_there = |file: &&NewFile| fs::symlink_metadata(&file.path).is_ok();
    let there: Vec<_> = files.iter().filter(is_there).map(|file| file.path.clone()).collect();
    if !there.is_empty() {
        return Err(InitError::Exists(there));
    }
    for (count, file) in files.iter().enumerate() {
        if let Err(source) = create(file) {
            // Removes only what this call has made; a file that is already gone is fine.
            files[..count].iter().for_each(|made| drop(fs::remove_file(&made.path)));
            return Err(InitError::Write { path: file.path.clone(), source });
        }
    }
    Ok(())
}

fn create(file: &NewFile) -> io::Result<()> {
    if let Some(folder) = file.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    let mut open = options.write(true).create_new(true).mode(file.mode).open(&file.path)?;
    let written = open.write_all(file.text.as_bytes());
    if written.is_err() {
        drop(fs::remove_file(&file.path));
    }
    written
}

fn next_commands(half: InitHalf, folders: &HalfFolders, answers: &InitAnswers) -> String {
    let dmz = shell_word(&folders.dmz.join("dmz.yaml"));
    let internal = shell_word(&folders.internal.join("internal.yaml"));
    let [first, second, third, then] = match half {
        InitHalf::Pair => [
            format!("portcullis check {dmz} {internal}"),
            // Its log must not be written over the dashboard that the next command opens.
            format!("portcullis --profile {dmz} --no-ui 2> dmz.log &"),
            format!("portcullis --profile {internal}"),
            format!("then a client at {} reaches {}", answers.accept(), answers.connect()),
        ],
        InitHalf::Dmz => across(&dmz, &folders.internal, "internal", answers),
        InitHalf::Internal => across(&internal, &folders.dmz, "dmz", answers),
    };
    format!("\nnext:\n  {first}\n  {second}\n  {third}\n{then}")
}

/// For the half on this host, with the other half's folder and name.
fn across(profile: &str, other: &Path, name: &str, answers: &InitAnswers) -> [String; 4] {
    let folder = shell_word(other);
    let dials_other = matches!((name, answers.mode), ("dmz", Mode::Reverse) | ("internal", Mode::Forward));
    let host = if dials_other { answers.value(InitQuestion::Host) } else { "OTHER-HOST".into() };
    [
        format!("portcullis check {profile}"),
        format!("scp -rp {folder} {host}:portcullis"),
        format!("portcullis --profile {profile}"),
        format!(
            "on the other host: portcullis --profile portcullis/{name}.yaml\nthen remove {folder} here: its keys \
             belong to the other host alone"
        ),
    ]
}

/// A file's name, quoted so that a shell takes it for one word.
fn shell_word(path: &Path) -> String {
    let name = path.display().to_string();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+,@%:=".contains(letter);
    if name.chars().all(is_plain) && !name.starts_with('-') {
        name
    } else {
        format!("'{}'", name.replace('\'', "'\\''"))
    }
}
