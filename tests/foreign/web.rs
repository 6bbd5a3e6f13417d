//! curl, through the pair and as a SOCKS5 client.

use std::{fs, process::Command};

use crate::{
    Server, has, printed,
    process::TestFolder,
    setup::{Pair, free_port},
};

fn file_server(folder: &TestFolder) -> (Server, u16) {
    let port = free_port();
    fs::create_dir(folder.path("www")).expect("a folder");
    folder.write("www/page.txt", "a page from the inside\n");
    fs::write(folder.path("www/large.bin"), (0..3_000_000_u32).map(|n| n as u8).collect::<Vec<_>>())
        .expect("a file");
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]);
    (Server::start(command.current_dir(folder.path("www")), port), port)
}

#[test]
fn curl_reaches_a_web_server() {
    if !has("curl_reaches_a_web_server", &["curl", "python3"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let (_server, port) = file_server(&folder);
    let pair = Pair::reverse(&folder, &[("web", &format!("tcp://127.0.0.1:{port}"))]);
    let base = format!("http://{}", pair.dmz.accept("web"));
    assert_eq!(printed(&["curl", "-sSf", &format!("{base}/page.txt")]), "a page from the inside\n");
    let fetched = folder.path("fetched.bin");
    let pages: Vec<String> = (0..20).map(|_| format!("{base}/page.txt")).collect();
    let mut line = vec!["curl", "-sSf", "--parallel"];
    line.extend(pages.iter().map(String::as_str));
    assert_eq!(printed(&line).lines().count(), 20);
    let large = format!("{base}/large.bin");
    printed(&["curl", "-sSf", "-o", fetched.to_str().expect("UTF-8"), &large]);
    assert_eq!(
        fs::read(fetched).expect("it came"),
        fs::read(folder.path("www/large.bin")).expect("it is there")
    );
}

#[test]
fn curl_is_the_far_side_of_forward_mode() {
    if !has("curl_is_the_far_side_of_forward_mode", &["curl", "python3"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let (_server, port) = file_server(&folder);
    folder.write(
        "internal.yaml",
        &format!(
            "mode: forward\ninternal:\n  link: {{ listen: \"socks://127.0.0.1:0\" }}\n  services:\n    \
             web: {{ connect: \"tcp://127.0.0.1:{port}\" }}\n    gone: {{ connect: \"tcp://127.0.0.1:{}\" }}\n",
            free_port()
        ),
    );
    let internal = folder.start("internal");
    let socks = format!("127.0.0.1:{}", internal.link_port());
    let curl = ["curl", "-sS", "--socks5-hostname", &socks];
    assert_eq!(printed(&[&curl[..], &["-f", "http://web/page.txt"]].concat()), "a page from the inside\n");
    // The port of the request means nothing.
    assert_eq!(printed(&[&curl[..], &["-f", "http://web:99/page.txt"]].concat()), "a page from the inside\n");
    // curl ends with 97 and names the reply's code.
    for (url, code) in [("http://nobody/", "(2)"), ("http://gone/", "(5)")] {
        let output = crate::ended(Command::new("timeout").arg("30").args(curl).arg(url));
        let reported = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(97), "{url}: {reported}");
        assert!(reported.contains(code), "{url}: {reported}");
    }
    // An address instead of a name is not ours to serve: what a name reaches is decided inside.
    let output = crate::ended(
        Command::new("timeout")
            .args(["30", "curl", "-sS", "--socks5", &socks])
            .arg(format!("http://127.0.0.1:{port}/")),
    );
    let reported = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(97), "{reported}");
    assert!(reported.contains("(8)"), "{reported}");
    let status = internal.status();
    assert_eq!(status["ended"].as_array().map(Vec::len), Some(3), "{status:#}");
    assert_eq!(status["ended"][0]["client"], "unknown");
}
