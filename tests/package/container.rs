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
    // The socket that the health check asks at is where the gateway puts it, and so is what it keeps.
    let set: Vec<_> = last.lines().filter_map(|line| line.strip_prefix("ENV ")).collect();
    assert_eq!(set, ["XDG_RUNTIME_DIR=/run", "STATE_DIRECTORY=/var/lib/portcullis"]);
    assert!(last.contains("-m 0700 -o portcullis -g portcullis /run/portcullis /var/lib/portcullis"));
    assert!(text.contains(":/var/lib/portcullis:U"), "a volume keeps it");
}

#[test]
fn no_key_and_no_earlier_build_goes_into_the_container() {
    let lines = |file: &str| fs::read_to_string(root().join(file)).expect("a file");
    let left_out = lines(".dockerignore");
    for ignored in lines(".gitignore").lines().map(|line| line.trim_matches('/')) {
        assert!(left_out.lines().any(|line| line == ignored), "{ignored} is not left out");
    }
    // The version names the commit, which is read from here.
    assert!(!left_out.contains(".git"));
}
