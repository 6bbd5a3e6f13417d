//! The container's recipe: what it runs is understood by the program, and by nobody who may more than needed.

use std::fs;

use clap::Parser;
use portcullis::cli::{Cli, CliAction};

use crate::root;

/// The words of `["a", "b"]`.
fn words(list: &str) -> Vec<String> {
    serde_json::from_str(list).expect("a list of words")
}

#[test]
fn the_container_runs_the_program_as_a_user_of_its_own_and_asks_it_whether_it_is_ready() {
    let text = fs::read_to_string(root().join("assets/Containerfile")).expect("the recipe");
    // In the other format the health check would be left out.
    assert!(text.contains("podman build --format docker "));
    let last = text.rsplit("\nFROM ").next().expect("a last stage");
    let value = |key: &str| last.lines().find_map(|line| line.strip_prefix(key)).expect("the key is there");
    assert_eq!((value("USER "), value("STOPSIGNAL ")), ("portcullis", "SIGTERM"));
    let health = value("HEALTHCHECK ").split_once("CMD ").expect("a command").1;
    let requested = Cli::try_parse_from(words(health)).expect("it is understood");
    assert!(matches!(requested.command, Some(CliAction::Status { ready: true, .. })));
    let mut run = words(value("ENTRYPOINT "));
    run.extend(["--profile".into(), "dmz".into()]);
    let run = Cli::try_parse_from(run).expect("it is understood");
    assert!(run.no_ui && run.command.is_none() && run.profiles.is_some());
    // The socket that the health check asks at is where the gateway puts it.
    assert_eq!(value("ENV "), "XDG_RUNTIME_DIR=/run");
    assert!(last.contains("-o portcullis -g portcullis /run/portcullis"));
}
