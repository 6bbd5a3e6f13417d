//! The profiles that this gateway can be switched to, each read and checked as a switch would.

use std::{fs, path::Path};

use super::Engine;
use crate::{
    profile::{Choice, Problem, Profile, Role, load},
    source::Chosen,
    telemetry::snapshot::{ProblemRow, ProfileRow},
    text,
};

impl Engine {
    pub(super) fn profile_rows(&self) -> Vec<ProfileRow> {
        let mut chosen: Vec<_> = self.source.list().into_iter().map(Chosen::File).collect();
        // The one that runs may lie in no folder, or be the built-in one.
        if !chosen.contains(&self.chosen) {
            chosen.insert(0, self.chosen.clone());
        }
        chosen.truncate(PROFILES_MAX);
        chosen.iter().map(|chosen| self.profile_row(chosen)).collect()
    }

    fn profile_row(&self, chosen: &Chosen) -> ProfileRow {
        let file = chosen.file();
        let stem = file.and_then(Path::file_stem).map_or("demo".into(), |stem| stem.to_string_lossy());
        let (profile, problems) = match self.source.load(chosen, None) {
            Ok(loaded) => (Some(loaded.profile), Vec::new()),
            // What can be read of one with missing certificates is still worth telling.
            Err(problems) => (file.and_then(|file| load(file, &self.choice()).ok()), problems),
        };
        let (mode, roles, services) = profile.as_ref().map_or((None, Vec::new(), Vec::new()), facts);
        ProfileRow {
            name: stem.into_owned(),
            file: file.map(text::path),
            is_current: *chosen == self.chosen,
            mode,
            roles,
            services,
            problems: problems.iter().take(PROBLEMS_MAX).map(problem_row).collect(),
        }
    }

    fn choice(&self) -> Choice {
        Choice { mode: None, role: self.source.role }
    }
}

fn facts(profile: &Profile) -> (Option<crate::profile::Mode>, Vec<Role>, Vec<String>) {
    let dmz = profile.dmz.as_ref().map(|half| half.services.iter().map(|service| service.name.to_string()));
    let internal =
        profile.internal.as_ref().map(|half| half.services.iter().map(|service| service.name.to_string()));
    let roles = [dmz.is_some().then_some(Role::Dmz), internal.is_some().then_some(Role::Internal)];
    let mut services: Vec<_> = dmz.into_iter().flatten().chain(internal.into_iter().flatten()).collect();
    services.sort();
    services.dedup();
    (Some(profile.mode), roles.into_iter().flatten().collect(), services)
}

fn problem_row(problem: &Problem) -> ProblemRow {
    ProblemRow { text: problem.to_string(), excerpt: excerpt(problem).unwrap_or_default() }
}

/// The line before, the line itself, and a sign under its column.
fn excerpt(problem: &Problem) -> Option<Vec<String>> {
    let (line, column) = (problem.place.line.checked_sub(1)?, problem.place.column.saturating_sub(1));
    let text = fs::read_to_string(&*problem.place.file).ok()?;
    let numbered = |at: usize| {
        let text: String = text.lines().nth(at)?.chars().take(LINE_CHARS_MAX).collect();
        Some(format!("{:>5} | {text}", at + 1))
    };
    let before = line.checked_sub(1).and_then(numbered);
    let this = numbered(line)?;
    let sign = (column < LINE_CHARS_MAX).then(|| format!("      | {}^", " ".repeat(column)));
    Some(before.into_iter().chain([this]).chain(sign).collect())
}

/// A folder with more is none of profiles.
const PROFILES_MAX: usize = 200;
/// Enough to go on with; `portcullis check` tells all.
const PROBLEMS_MAX: usize = 20;
const LINE_CHARS_MAX: usize = 160;
