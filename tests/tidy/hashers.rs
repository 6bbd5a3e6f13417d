//! Tables whose keys others choose have a hasher that nobody can foresee: that of the standard library.

use std::path::Path;

use super::sources;

/// Words of a table with another hasher: faster ones, and the one that the crate of a table brings.
const OTHER_HASHERS: &[&str] =
    &["foldhash", "ahash", "fxhash", "FxHash", "nohash", "LruCache::new(", "LruCache::unbounded("];
/// Who may use one, and why nobody outside can fill a bucket of it.
const MAY_USE_ANOTHER: &[(&str, &str)] = &[
    ("src/auth/remembered.rs", "the keys are hashes by a secret key"),
    ("src/link/link_services.rs", "the keys are services that this half has offered"),
    ("src/link/multiplex/heavy.rs", "the keys are numbers of sessions that stand in the table"),
    ("src/link/multiplex/moving.rs", "the keys are numbers of sessions that stand in the table"),
    ("src/link/multiplex/parked.rs", "the tickets are drawn here, at random"),
    ("src/link/multiplex/table.rs", "the keys are numbers that only rise, and the seed is of the process"),
    ("src/link/peer_links/shared_links.rs", "the keys are services that this half has offered"),
    ("src/telemetry/registry.rs", "the keys are counted here"),
];

#[test]
fn keys_from_outside_are_hashed_as_nobody_can_foresee() {
    for source in sources() {
        let found = OTHER_HASHERS.iter().find(|word| source.code.contains(**word));
        let is_listed = MAY_USE_ANOTHER.iter().any(|(file, _)| source.path == Path::new(file));
        assert!(found.is_none() || is_listed, "{}: {found:?} for keys of whom?", source.path.display());
        assert!(found.is_some() || !is_listed, "{} uses no other hasher any more", source.path.display());
    }
}
