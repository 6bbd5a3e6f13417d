//! Profiles that are checked together: the two halves of a pair, each in a file of its own.
//!
//! Whatever one file can show is checked where it is read. What appears only in a comparison is here: services
//! without a partner, halves in different modes, services that carry something else.

use std::path::Path;

use super::{
    Mode, carries, chain, cross_checks,
    problem::{Problem, ProfileLocation, ValueProblem},
    raw::{self, RawProfile},
};
use crate::disk::PipePolicy;

/// Compares files that contain only a DMZ half with files that contain only an internal half. Files that cannot
/// be read have been refused already and are left out, and so are pipes, which can be read only once.
pub fn compare_files(files: &[&Path], mode: Option<Mode>) -> Vec<Problem> {
    let read = |file: &&Path| {
        let (tree, _) = chain::read(file, PipePolicy::Refused).ok()?;
        raw::read(&tree, None, &mut Vec::new())
    };
    let raws: Vec<RawProfile> = files.iter().filter_map(read).collect();
    let dmz: Vec<_> =
        raws.iter().filter(|raw| raw.internal.is_absent() && raw.dmz.good().is_some()).collect();
    let internal: Vec<_> =
        raws.iter().filter(|raw| raw.dmz.is_absent() && raw.internal.good().is_some()).collect();
    let mut problems = Vec::new();
    if dmz.is_empty() || internal.is_empty() {
        return problems;
    }
    if mode.is_none() {
        check_modes(&dmz, &internal, &mut problems);
    }
    let outer: Vec<_> = dmz.iter().filter_map(|raw| raw.dmz.good()).collect();
    let inner: Vec<_> = internal.iter().filter_map(|raw| raw.internal.good()).collect();
    cross_checks::check_partners(&outer, &inner, &mut problems);
    carries::compare(&outer, &inner, &mut problems);
    problems
}

fn check_modes(dmz: &[&RawProfile], internal: &[&RawProfile], problems: &mut Vec<Problem>) {
    let mode = |raw: &RawProfile| raw.mode.good().copied();
    for inside in internal {
        let Some(inner) = mode(inside) else { continue };
        // Files of more than one pair may be checked at once, so one partner is enough.
        let is_partner = |outside: &&&RawProfile| mode(outside).is_none_or(|outer| outer == inner);
        if let Some(other) = dmz.first().filter(|_| !dmz.iter().any(|outside| is_partner(&outside))) {
            let location = ProfileLocation { key: "mode".to_owned(), ..inside.location.clone() };
            let what = format!(
                "the DMZ half in {} runs in another mode, so no link joins them",
                other.location.file
            );
            problems.push(ValueProblem::new(what, "give both the same `mode`").at(location));
        }
    }
}
