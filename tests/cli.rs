//! The program as a user, a script and a service manager see it: commands, exit codes, files,
//! signals, and the two halves as processes of their own.

#[path = "cli/commands.rs"]
mod commands;
#[path = "cli/descriptors.rs"]
mod descriptors;
#[path = "cli/lifetime.rs"]
mod lifetime;
#[path = "cli/operate.rs"]
mod operate;
#[path = "cli/pair.rs"]
mod pair;
mod process;

use std::process::Output;

/// What a command printed and how it ended.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Runs a command to its end.
fn run(place: &process::Place, args: &[&str]) -> Said {
    said(place.command(args).output().expect("the program runs"))
}

/// One gateway, direct, with an echo service.
const DIRECT: &str =
    "mode: direct\ndmz:\n  services:\n    echo: { accept: [\"tcp://127.0.0.1:0\"], connect: \"echo://\" }\n";
