//! Proxies that are not ours, between an internal half and the DMZ half that it dials.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::Command,
};

use crate::{
    Server, has,
    process::TestFolder,
    setup::{Pair, dmz_half, free_port, internal_half},
};

/// A session over links that go through a proxy.
fn carries_through(place: &TestFolder, via: &str) {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("tcp://{}", backend.local_addr().expect("its address"));
    let dmz = dmz_half("127.0.0.1:0", &["app"]);
    let pair = Pair::of(place, &dmz, |link| {
        internal_half(link, &[("app", &address)]).replacen("prepared: 2", &format!("prepared: 2, {via}"), 1)
    });
    let mut client = TcpStream::connect(pair.dmz.accept("app")).expect("it listens");
    let (mut session, _) = backend.accept().expect("it is dialled");
    client.write_all(b"hello").expect("it is sent");
    let mut received = [0; 5];
    session.read_exact(&mut received).expect("it arrives");
    assert_eq!(&received, b"hello");
    let log = pair.internal.log() + &pair.internal.status().to_string();
    // As it is, and as Basic has it.
    assert!(!log.contains("s3cret") && !log.contains("Z2F0ZTpzM2NyZXQ"), "{log}");
}

fn write_login(place: &TestFolder) {
    place.write("login", "gate:s3cret\n");
    let only_us = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(place.path("login"), only_us).expect("the file is ours");
}

#[test]
fn links_go_through_tinyproxy_with_a_password() {
    if !has("links_go_through_tinyproxy_with_a_password", &["tinyproxy"]) {
        return;
    }
    let (place, port) = (TestFolder::with_certificates(), free_port());
    write_login(&place);
    place.write(
        "tinyproxy.conf",
        &format!("Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 100\nBasicAuth gate s3cret\n"),
    );
    let file = place.path("tinyproxy.conf").display().to_string();
    let _proxy = Server::start(Command::new("tinyproxy").args(["-d", "-c", &file]), port);
    carries_through(&place, &format!("via: 'http://127.0.0.1:{port}', via_credentials: login"));
}

/// What squid has left in memory, by the beginning of its name; removed with the test.
struct SharedMemory(String);

impl Drop for SharedMemory {
    fn drop(&mut self) {
        let found = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        for segment in found.filter(|segment| segment.file_name().to_string_lossy().starts_with(&self.0)) {
            // It is squid's own to be there or not.
            let _ = std::fs::remove_file(segment.path());
        }
    }
}

#[test]
fn links_go_through_squid() {
    if !has("links_go_through_squid", &["squid"]) {
        return;
    }
    let (place, port) = (TestFolder::with_certificates(), free_port());
    place.write(
        "squid.conf",
        &format!(
            "http_port 127.0.0.1:{port}\nhttp_access allow all\ncache deny all\naccess_log none\n\
             cache_log /dev/null\ncache_store_log none\npid_filename none\nshutdown_lifetime 0 seconds\n\
             visible_hostname proxy\ncache_effective_user proxy\npinger_enable off\n"
        ),
    );
    let file = place.path("squid.conf").display().to_string();
    // Its shared memory has the name of the service, and one that is killed leaves it behind.
    let service = format!("gate{port}");
    let _memory = SharedMemory(format!("{service}-"));
    let arguments = ["-N", "-n", &service, "-f", &file];
    let _proxy = Server::start(Command::new("/usr/sbin/squid").args(arguments), port);
    carries_through(&place, &format!("via: 'http://127.0.0.1:{port}'"));
}

#[test]
fn links_go_through_dante() {
    if !has("links_go_through_dante", &["danted"]) {
        return;
    }
    let (place, port) = (TestFolder::with_certificates(), free_port());
    place.write(
        "danted.conf",
        &format!(
            "logoutput: /dev/null\ninternal: 127.0.0.1 port = {port}\nexternal: lo\nclientmethod: none\n\
             socksmethod: none\nuser.privileged: root\nuser.unprivileged: root\n\
             client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\n\
             socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 protocol: tcp }}\n"
        ),
    );
    let file = place.path("danted.conf").display().to_string();
    let pid = place.path("danted.pid").display().to_string();
    let _proxy = Server::start(Command::new("/usr/sbin/danted").args(["-f", &file, "-p", &pid]), port);
    carries_through(&place, &format!("via: 'socks5://127.0.0.1:{port}'"));
}
