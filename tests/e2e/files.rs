//! Files that do not answer: what a gateway reads is read beside it, and what is not a plain file is refused.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use portcullis::{
    gateway::handle::{Command, CommandAnswer},
    profile::Mode,
    telemetry::snapshot::{ServicePhase, Snapshot},
};
use rustix::fs::{CWD, FileType, Mode as Bits, mknodat};
use tokio::time::timeout;

use crate::support::{
    gateway::{Gateway, PATIENCE, TestFolder},
    lists::ListMaker,
    mode_pair::{DMZ_TLS, Plan},
};

const LISTEN: &str = "listen: 'socks+tls://127.0.0.1:0'";

/// A pipe that nobody writes to: opening it waits forever.
fn becomes_a_pipe(path: &Path) {
    fs::remove_file(path).unwrap();
    mknodat(CWD, path, FileType::Fifo, Bits::from_raw_mode(0o600), 0).unwrap();
}

fn start(folder: &TestFolder) -> Gateway {
    ListMaker::new(folder).issue();
    let listed = DMZ_TLS.replace(" }", ", revoked: [pki/crl.pem] }");
    folder.start("dmz", &Plan::new(Mode::Reverse, "").dmz(LISTEN).replace(DMZ_TLS, &listed))
}

/// An answer, from an engine that is not held up.
async fn ask(gateway: &Gateway, command: Command) -> CommandAnswer {
    timeout(PATIENCE, gateway.handle.send_and_wait(command)).await.expect("the engine answers")
}

#[tokio::test]
async fn a_pipe_in_place_of_a_file_is_refused_and_blocks_nothing() {
    for file in ["dmz.yaml", "pki/dmz.pem", "pki/dmz.key", "pki/ca.pem", "pki/crl.pem"] {
        let folder = TestFolder::new();
        let gateway = start(&folder);
        becomes_a_pipe(&folder.path(file));
        let profile = folder.path("dmz.yaml").to_str().unwrap().to_owned();
        for command in
            [Command::Reload, Command::Plan { profile: profile.clone() }, Command::Switch { profile }]
        {
            match ask(&gateway, command).await {
                CommandAnswer::Refused(why) => assert!(why.contains("is a pipe"), "{file}: {why}"),
                other => panic!("{file}: {other:?}"),
            }
        }
        assert!(matches!(ask(&gateway, Command::Status).await, CommandAnswer::Status(_)));
        if file != "dmz.yaml" {
            // Found by itself, too.
            gateway.until_notice("it is a pipe").await;
        }
        gateway.stop().await;
    }
}

/// The users whom it knew go on, so a reload with them is done.
#[tokio::test]
async fn a_pipe_in_place_of_the_users_is_an_alert_and_blocks_nothing() {
    let folder = TestFolder::new();
    let users = folder.path("users");
    fs::write(&users, "alice:$2b$04$mPxoEKurFJxN9brGFUz.KuNr8BQiL0MNMI93eNTwce6AL7yg70siS\n").unwrap();
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).unwrap();
    let accept = "{ address: 'ws://127.0.0.1:0/', auth: { basic: users } }";
    let plan = Plan { accept, ..Plan::new(Mode::Direct, "echo://") };
    let gateway = folder.start("direct", &plan.direct());
    becomes_a_pipe(&users);
    assert!(matches!(ask(&gateway, Command::Reload).await, CommandAnswer::Done(_)));
    let is_shown = |seen: &Snapshot| seen.alerts.iter().any(|alert| alert.text.contains("it is a pipe"));
    let seen = gateway.until("it is an alert", is_shown).await;
    assert_eq!(seen.services[0].phase, ServicePhase::Open);
    gateway.stop().await;
}

#[tokio::test]
async fn a_profile_that_names_a_pipe_is_listed_with_that() {
    let folder = TestFolder::new();
    let gateway = start(&folder);
    mknodat(CWD, folder.pki("pipe.pem"), FileType::Fifo, Bits::from_raw_mode(0o600), 0).unwrap();
    let text = Plan::new(Mode::Reverse, "").dmz(LISTEN).replace("pki/dmz.pem", "pki/pipe.pem");
    folder.profile("piped", &text);
    mknodat(CWD, folder.path("itself.yaml"), FileType::Fifo, Bits::from_raw_mode(0o600), 0).unwrap();
    let CommandAnswer::Profiles(rows) = ask(&gateway, Command::Profiles).await else { panic!("no profiles") };
    for name in ["piped", "itself"] {
        let row = rows.iter().find(|row| row.name == name).unwrap();
        assert!(row.problems[0].text.contains("is a pipe"), "{:?}", row.problems);
    }
    assert!(matches!(ask(&gateway, Command::Status).await, CommandAnswer::Status(_)));
}
