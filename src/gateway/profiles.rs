//! Lists the profiles that this gateway can be switched to, each read and checked exactly as a switch would.

use std::path::Path;

use super::{Engine, audit::CommandAudit, handle::CommandAnswer};
use crate::{
    disk::{self, PipePolicy},
    profile::{Half, Problem, Profile, ProfileOverrides, load},
    source::{ChosenProfile, ProfileSource},
    telemetry::snapshot::{ProblemRow, ProfileRow},
    text,
};

impl Engine {
    pub(super) fn list_profiles(&self, requester: CommandAudit) {
        let (source, current) = (self.source.clone(), self.chosen.clone());
        self.read_for_operator(
            move || profile_rows(&source, &current),
            move |engine, read| {
                requester.answer(match read {
                    Ok(rows) => CommandAnswer::Profiles(
                        rows.into_iter().map(|(row, profile)| engine.judged(row, profile)).collect(),
                    ),
                    Err(error) => CommandAnswer::Refused(error.to_string()),
                });
            },
        );
    }

    /// With the reason why this process would refuse to switch to it.
    fn judged(&self, row: ProfileRow, profile: Option<Profile>) -> ProfileRow {
        let refused = profile.and_then(|profile| self.lock.refusal(&profile)).map(|why| why.to_string());
        ProfileRow { refused: refused.filter(|_| !row.is_current && row.problems.is_empty()), ..row }
    }
}

/// Each with the profile itself, if it can be read.
fn profile_rows(source: &ProfileSource, current: &ChosenProfile) -> Vec<(ProfileRow, Option<Profile>)> {
    let mut chosen: Vec<_> = source.list().into_iter().map(ChosenProfile::File).collect();
    // The running profile may be in no folder, or be the built-in one.
    if !chosen.iter().any(|chosen| is_same(chosen, current)) {
        chosen.insert(0, current.clone());
    }
    chosen.truncate(PROFILES_MAX);
    chosen.iter().map(|chosen| profile_row(source, chosen, is_same(chosen, current))).collect()
}

/// Whether two names lead to the same file.
fn is_same(one: &ChosenProfile, other: &ChosenProfile) -> bool {
    let real = |chosen: &ChosenProfile| chosen.file().and_then(|file| file.canonicalize().ok());
    one == other || real(one).is_some_and(|file| Some(file) == real(other))
}

fn profile_row(
    source: &ProfileSource,
    chosen: &ChosenProfile,
    is_current: bool,
) -> (ProfileRow, Option<Profile>) {
    let file = chosen.file();
    let stem = file.and_then(Path::file_stem).map_or("demo".into(), |stem| stem.to_string_lossy());
    let choice = ProfileOverrides { mode: None, half: source.half };
    let (profile, problems) = match source.load(chosen, None) {
        Ok(loaded) => (Some(loaded.profile), Vec::new()),
        // If certificates are missing, whatever can be read is still worth showing.
        Err(problems) => (file.and_then(|file| load(file, &choice).ok()), problems),
    };
    let (mode, halves, services) = profile.as_ref().map_or((None, Vec::new(), Vec::new()), mode_and_halves);
    let row = ProfileRow {
        name: stem.into_owned(),
        file: file.map(text::clean_path),
        is_current,
        mode,
        halves,
        services,
        problems: problems.iter().take(PROBLEMS_MAX).map(problem_row).collect(),
        refused: None,
    };
    (row, profile)
}

fn mode_and_halves(profile: &Profile) -> (Option<crate::profile::Mode>, Vec<Half>, Vec<String>) {
    let dmz = profile.dmz.as_ref().map(|half| half.services.iter().map(|service| service.name.to_string()));
    let internal =
        profile.internal.as_ref().map(|half| half.services.iter().map(|service| service.name.to_string()));
    let halves = [dmz.is_some().then_some(Half::Dmz), internal.is_some().then_some(Half::Internal)];
    let mut services: Vec<_> = dmz.into_iter().flatten().chain(internal.into_iter().flatten()).collect();
    services.sort_unstable();
    services.dedup();
    (Some(profile.mode), halves.into_iter().flatten().collect(), services)
}

fn problem_row(problem: &Problem) -> ProblemRow {
    ProblemRow { text: problem.to_string(), excerpt: excerpt(problem).unwrap_or_default() }
}

/// The line before, the line itself, and a mark under its column.
fn excerpt(problem: &Problem) -> Option<Vec<String>> {
    let (line, column) = (problem.location.line.checked_sub(1)?, problem.location.column.saturating_sub(1));
    let read = disk::read(Path::new(&*problem.location.file), EXCERPT_BYTES_MAX, PipePolicy::Refused).ok()?;
    let text = String::from_utf8(read.bytes).ok()?;
    let numbered = |at: usize| {
        let text: String = text.lines().nth(at)?.chars().take(LINE_CHARS_MAX).collect();
        Some(format!("{:>5} | {text}", at + 1))
    };
    let before = line.checked_sub(1).and_then(numbered);
    let this = numbered(line)?;
    let sign = (column < LINE_CHARS_MAX).then(|| format!("      | {}^", " ".repeat(column)));
    Some(before.into_iter().chain([this]).chain(sign).collect())
}

/// A folder with more files than this is not a folder of profiles.
const PROFILES_MAX: usize = 200;
/// The first problems are enough here; `portcullis check` lists all of them.
const PROBLEMS_MAX: usize = 20;
/// No profile is larger.
const EXCERPT_BYTES_MAX: u64 = 1024 * 1024;
const LINE_CHARS_MAX: usize = 160;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_profile_that_runs_is_listed_once_however_it_was_named() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let text = "mode: direct\ndmz: { services: { echo: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' } } }\n";
        for name in ["one.yaml", "two.yaml"] {
            std::fs::write(real.join(name), text).unwrap();
        }
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let source = ProfileSource { folders: vec![link], half: None, pipes: PipePolicy::Refused };
        let rows = profile_rows(&source, &ChosenProfile::File(real.join("one.yaml")));
        let reported: Vec<_> =
            rows.iter().map(|(row, _)| (&*row.name, row.is_current, row.problems.len())).collect();
        assert_eq!(reported, [("one", true, 0), ("two", false, 0)]);
    }
}
