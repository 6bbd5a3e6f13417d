//! Two halves as processes on loopback, over mutual TLS in reverse mode.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{
    ports::free_ports,
    process::{Gateway, TestFolder},
};

/// Two halves as processes of their own.
pub struct Pair<'a> {
    pub dmz: Gateway<'a>,
    pub internal: Gateway<'a>,
}

impl<'a> Pair<'a> {
    /// A reverse pair over mutual TLS, with a service for each name and backend.
    pub fn reverse(folder: &'a TestFolder, services: &[(&str, &str)]) -> Self {
        let names: Vec<&str> = services.iter().map(|(name, _)| *name).collect();
        Self::of(folder, &dmz_half("127.0.0.1:0", &names), |link| internal_half(link, services))
    }

    /// The DMZ half of this profile, and the internal half that dials where it listens.
    pub fn of(folder: &'a TestFolder, dmz: &str, internal: impl FnOnce(&str) -> String) -> Self {
        folder.write("dmz.yaml", dmz);
        let dmz = folder.start("dmz");
        let link = format!("127.0.0.1:{}", dmz.link_port());
        folder.write("internal.yaml", &internal(&link));
        let internal = folder.start("internal");
        dmz.wait_healthy();
        internal.wait_healthy();
        Self { dmz, internal }
    }
}

impl TestFolder {
    /// Runs the gateway of the profile `NAME.yaml` and waits until it answers.
    pub fn start(&self, name: &str) -> Gateway<'_> {
        let profile = format!("{name}.yaml");
        self.start_as(name, &[], &["--no-ui", "--profile", &profile])
    }
}

impl Gateway<'_> {
    /// The port that clients of a service of the DMZ half connect to.
    pub fn accept(&self, service: &str) -> SocketAddr {
        let status = self.status();
        let services = status["services"].as_array().expect("a list of services");
        let row = services.iter().find(|row| row["role"] == "dmz" && row["name"] == service);
        let row = row.expect("the service is there");
        address(&row["accept"][0])
    }

    /// The port that links come in by.
    pub fn link_port(&self) -> u16 {
        address(&self.status()["listening"][0]).port()
    }
}

/// A port of loopback that is free.
pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// A DMZ half in reverse mode: `link` is where it listens.
pub fn dmz_half(link: &str, services: &[&str]) -> String {
    let tls = "{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] }";
    let services: String =
        services.iter().map(|name| format!("    {name}: {{ accept: [\"tcp://127.0.0.1:0\"] }}\n")).collect();
    format!(
        "mode: reverse\ndmz:\n  link: {{ listen: \"socks+tls://{link}\", prepared: 2, tls: {tls} }}\n  \
         services:\n{services}"
    )
}

/// An internal half in reverse mode: `link` is where it dials.
pub fn internal_half(link: &str, services: &[(&str, &str)]) -> String {
    let tls = "{ certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz] }";
    let services: String = services
        .iter()
        .map(|(name, backend)| format!("    {name}: {{ connect: \"{backend}\" }}\n"))
        .collect();
    format!(
        "mode: reverse\ninternal:\n  link: {{ connect: \"socks+tls://{link}\", prepared: 2, tls: {tls}, \
         retry: {{ first: 100ms, maximum: 300ms }} }}\n  services:\n{services}"
    )
}

fn address(row: &Value) -> SocketAddr {
    let text = row.as_str().expect("an address");
    let (_, at) = text.split_once("//").expect("a scheme");
    at.split('/').next().expect("one part at least").parse().expect("host and port")
}
