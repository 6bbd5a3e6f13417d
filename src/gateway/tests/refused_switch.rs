//! A switch that is refused, and a run of the checklist that has ended, leave in force what the running profile says
//! about name servers and descriptors.

use std::{fs, net::TcpListener, path::Path, time::Duration};

use tokio::time::timeout;

use crate::{
    disk::PipePolicy,
    gateway::{
        Engine,
        descriptors::DescriptorShares,
        handle::{Command, GatewayHandle},
        switch::SwitchFiles,
    },
    net::{dns::NameServers, resolved_names::ResolvedNames},
    source::{ChosenProfile, LoadedProfile, ProfileSource},
    telemetry::checklist::CheckStep,
};

/// The engine notices the end of a run at once.
const PATIENCE: Duration = Duration::from_secs(5);

fn load(folder: &Path, name: &str, text: &str) -> (ProfileSource, ChosenProfile, LoadedProfile) {
    let file = folder.join(name);
    fs::write(&file, text).expect("the folder can be written to");
    let source = ProfileSource { folders: vec![folder.into()], half: None, pipes: PipePolicy::Refused };
    let chosen = ChosenProfile::File(file);
    let loaded = source.load(&chosen, None).expect("it is valid");
    (source, chosen, loaded)
}

fn direct(keys: &str) -> String {
    format!(
        "mode: direct\n{keys}dmz: {{ services: {{ echo: {{ accept: ['tcp://127.0.0.1:0'], connect: 'echo://' }} }} }}\n"
    )
}

/// Both halves, with another name server, and a client port of this number.
fn pair(port: u16) -> String {
    format!(
        "mode: reverse\nresolver: ['127.0.0.1:5399']\n\
         dmz: {{ link: {{ listen: 'socks://127.0.0.1:0' }}, \
         services: {{ echo: {{ accept: ['tcp://127.0.0.1:{port}'] }} }} }}\n\
         internal: {{ link: {{ connect: 'socks://127.0.0.1:9' }}, services: {{ echo: {{ connect: 'echo://' }} }} }}\n"
    )
}

async fn start(folder: &Path) -> (GatewayHandle, Engine) {
    let (source, chosen, loaded) = load(folder, "running.yaml", &direct(""));
    Engine::start(source, chosen, loaded).await.expect("its port is free")
}

fn in_force(engine: &Engine) -> (NameServers, DescriptorShares) {
    (engine.shared.dns.servers().borrow().clone(), **engine.shared.shares.load())
}

#[tokio::test]
async fn a_switch_whose_port_is_taken_leaves_name_servers_and_shares_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_handle, engine) = start(folder.path()).await;
    let before = in_force(&engine);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let (_, chosen, loaded) = load(folder.path(), "other.yaml", &pair(port));
    let begun = engine.begin_switch(chosen, loaded, SwitchFiles::default(), &ResolvedNames::default());
    assert!(begun.is_err(), "its port is taken");
    assert_eq!(in_force(&engine), before);
}

#[tokio::test]
async fn a_switch_that_is_rolled_back_leaves_them_alone_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_handle, mut engine) = start(folder.path()).await;
    let before = in_force(&engine);
    let (_, chosen, loaded) = load(folder.path(), "other.yaml", &pair(0));
    let begun = engine.begin_switch(chosen, loaded, SwitchFiles::default(), &ResolvedNames::default());
    let begun = begun.expect("its ports are free");
    let other = in_force(&engine);
    assert!(other.0 != before.0 && other.1 != before.1, "the new parts need theirs: {other:?}");
    engine.roll_back(begun, "the test says so");
    assert_eq!(in_force(&engine), before);
}

/// The file has changed since it was put in force, and the parts of the other mode are opened from what it says now.
#[tokio::test]
async fn a_run_of_the_checklist_leaves_them_alone_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let both = |resolver: &str| {
        let link = "link: { listen: 'socks://127.0.0.1:0', connect: 'socks://127.0.0.1:9' }";
        format!(
            "mode: forward\nresolver: ['{resolver}']\n\
             dmz: {{ {link}, services: {{ echo: {{ accept: ['tcp://127.0.0.1:0'] }} }} }}\n\
             internal: {{ {link}, services: {{ echo: {{ connect: 'echo://' }} }} }}\n"
        )
    };
    let (source, chosen, loaded) = load(folder.path(), "both.yaml", &both("127.0.0.1:5398"));
    let (handle, engine) = Engine::start(source, chosen, loaded).await.expect("its ports are free");
    let (dns, before) = (engine.shared.dns.clone(), in_force(&engine).0);
    let mut seen = dns.servers();
    load(folder.path(), "both.yaml", &both("127.0.0.1:5397"));
    let steps = CheckStep::ALL.to_vec();
    let verified = async {
        let changed = async { seen.wait_for(|used| *used != before).await.is_ok() };
        let (_, has_changed) = tokio::join!(handle.send_and_wait(Command::Verify { steps }), changed);
        let restored = timeout(PATIENCE, seen.wait_for(|used| *used == before)).await;
        assert!(has_changed && restored.is_ok_and(|seen| seen.is_ok()), "they are restored");
        handle.send_and_wait(Command::Stop).await
    };
    tokio::join!(verified, engine.run());
}
