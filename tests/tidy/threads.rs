//! Tasks, work on other threads and threads are started in one place, which gives each a name.

use super::sources;

const STARTS: &[&str] =
    &["spawn_blocking(", "thread::spawn(", "thread::Builder", "thread::scope(", "JoinSet", "spawn_local("];
/// Files that start one themselves, and why.
const MAY_START: &[(&str, &str)] = &[
    ("src/tasks.rs", "this is the place"),
    ("src/selftest.rs", "the thread is what is tested, and is joined there"),
];

#[test]
fn threads_are_started_by_name_in_one_place() {
    for source in sources() {
        let found: Vec<_> = STARTS.iter().filter(|start| source.code.contains(**start)).collect();
        let may = MAY_START.iter().any(|(file, _)| source.path.ends_with(file));
        assert_eq!(!found.is_empty(), may, "{}: {found:?}; see `tasks`", source.path.display());
    }
}
