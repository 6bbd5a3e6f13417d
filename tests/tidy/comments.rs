//! What comments must not be: hints at a neighbour that an editor's hover or a diff does not show, and openings that
//! only say the name of the file again.

use std::{fs, path::Path};

use super::{names::rust_files, sources};

/// Openings that say nothing, whatever the file.
const EMPTY_OPENINGS: &[&str] = &["//! Tests of the module above."];
/// How a comment on an item must not begin: without the item before it, it says nothing.
const NEIGHBOUR: &str = "The same";

#[test]
fn a_comment_on_an_item_stands_alone() {
    let mut refused = Vec::new();
    for source in sources() {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&source.path)).unwrap();
        let mut is_within = false;
        for (at, line) in text.lines().enumerate() {
            let comment = line.trim_start().strip_prefix("/// ");
            if !is_within && comment.is_some_and(|comment| comment.starts_with(NEIGHBOUR)) {
                refused.push(format!("{}:{}: {}", source.path.display(), at + 1, line.trim()));
            }
            is_within = line.trim_start().starts_with("///");
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn an_opening_says_more_than_the_name_of_its_file() {
    for (path, text) in ["src", "tests"].into_iter().flat_map(rust_files) {
        let first = text.lines().next().unwrap_or_default();
        assert!(!EMPTY_OPENINGS.contains(&first), "{}: {first}", path.display());
    }
}
