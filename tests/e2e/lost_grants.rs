//! A peer that a new profile takes a service away from, while sessions of it are open.

use portcullis::gateway::handle::{Command, CommandAnswer};

use crate::{
    pool::{dmz, echoes, four, internal, tls, until_ready},
    support::peers::{dial_refused, expect_bytes, send},
};

/// They go on, since nothing but a revocation, a lockdown or a kill cuts; the plan and the answer name them.
#[tokio::test]
async fn open_sessions_of_a_peer_that_loses_its_service_go_on_and_are_named() {
    let folder = four();
    let outer = dmz(&folder, "dmz", 0, "");
    let at = [outer.link_port().await];
    let alpha = internal(&folder, "alpha", &at, "");
    until_ready(&outer, &[("alpha", 2)]).await;
    let mut open = [echoes(&outer).await, echoes(&outer).await];
    let file = outer_profile(&folder, "peers: [beta]");
    let plan = outer.handle.send_and_wait(Command::Plan { profile: file }).await;
    let CommandAnswer::Planned(plan) = plan else { panic!("{plan:?}") };
    let named = "orders: 2 open sessions of alpha go on, though it may no longer serve it; \
                 `kill --peer alpha --service orders` ends them";
    assert_eq!(plan.lost_grants, [named]);
    assert!(plan.to_string().lines().any(|line| line.trim() == format!("stay     {named}")), "{plan}");

    let done = outer.done(Command::Reload).await;
    assert!(done.contains(named), "{done}");
    outer.until_notice(named).await;
    for client in &mut open {
        send(client, b"still here").await;
        expect_bytes(client, b"still here").await;
    }
    dial_refused(outer.client_port("orders").await).await;

    // Inside the same goes for a gateway that may no longer use a service.
    let text = std::fs::read_to_string(folder.path("alpha.yaml")).unwrap();
    let text = text.replace("connect: 'echo://'", "connect: 'echo://', peers: [dmz2]");
    folder.profile("alpha", &text);
    let done = alpha.done(Command::Reload).await;
    assert!(done.contains("orders: 2 open sessions of dmz go on, though it may no longer use it"), "{done}");
    // With the grant back, there is nothing to say.
    let file = outer_profile(&folder, "peers: [alpha]");
    let plan = outer.handle.send_and_wait(Command::Plan { profile: file }).await;
    let CommandAnswer::Planned(plan) = plan else { panic!("{plan:?}") };
    assert!(plan.lost_grants.is_empty(), "{plan}");
}

/// The profile of the DMZ half with more about its service; where it is.
fn outer_profile(folder: &crate::support::gateway::TestFolder, service: &str) -> String {
    let text = format!(
        "mode: reverse\ndmz:\n  link: {{ listen: 'socks+tls://127.0.0.1:0', tls: {}, prepared: 2 }}\n  \
         services: {{ orders: {{ accept: ['tcp://127.0.0.1:0'], {service} }} }}\n",
        tls("dmz", "alpha, beta")
    );
    folder.profile("dmz", &text).to_str().unwrap().to_owned()
}
