//! Programs that are not ours, through a reverse pair of processes over mutual TLS.
//!
//! A missing program is reported by a line `skipped: NAME needs X`.

#[path = "foreign/balancer.rs"]
mod balancer;
#[path = "foreign/browser.rs"]
mod browser;
#[path = "foreign/bulk.rs"]
mod bulk;
#[path = "foreign/changing_names.rs"]
mod changing_names;
#[path = "foreign/clients.rs"]
mod clients;
#[path = "foreign/databases.rs"]
mod databases;
#[path = "foreign/http.rs"]
mod http;
#[path = "foreign/inspecting_proxy.rs"]
mod inspecting_proxy;
#[path = "foreign/link_balancers.rs"]
mod link_balancers;
#[path = "foreign/logins.rs"]
mod logins;
#[path = "foreign/mqtt.rs"]
mod mqtt;
#[path = "foreign/netcat.rs"]
mod netcat;
#[path = "process/ports.rs"]
mod ports;
mod process;
#[path = "foreign/proxy.rs"]
mod proxy;
#[path = "foreign/reuse.rs"]
mod reuse;
#[path = "foreign/scan.rs"]
mod scan;
#[path = "process/pair.rs"]
mod setup;
#[path = "foreign/shell.rs"]
mod shell;
#[path = "foreign/tls.rs"]
mod tls;
#[path = "foreign/upstream.rs"]
mod upstream;
#[path = "foreign/web.rs"]
mod web;
#[path = "foreign/websocket.rs"]
mod websocket;

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use process::{SOON, until};

/// Whether each program is there; says which is not.
fn has(test: &str, programs: &[&str]) -> bool {
    let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let there = |program: &str| folders.split(':').any(|folder| Path::new(folder).join(program).is_file());
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !there(program)).collect();
    if !missing.is_empty() {
        println!("skipped: {test} needs {}", missing.join(", "));
    }
    missing.is_empty()
}

/// A server that ends with the test.
struct Server(Child);

impl Server {
    /// Starts it and waits until its port is open.
    #[track_caller]
    fn start(command: &mut Command, port: u16) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self(quiet.spawn().expect("the server starts"));
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        until("the server listens", SOON, || {
            assert_eq!(server.0.try_wait().expect("the child is ours"), None, "the server ended");
            TcpStream::connect(at).ok()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a client to its end under a deadline and returns what it printed.
#[track_caller]
fn printed(line: &[&str]) -> String {
    let output = ended(Command::new("timeout").arg("60").args(line));
    assert!(output.status.success(), "{line:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ended(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the client runs")
}
