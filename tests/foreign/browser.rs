//! A real browser: a page that comes through the pair, and what it says over WebSockets.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use crate::{
    Server, has,
    process::{SOON, TestFolder, until},
    setup::{Pair, free_port},
};

/// Shows what came back, and what is known of the close, and sends the same to where it came from.
const PAGE: &str = r#"<!DOCTYPE html><title>Portcullis</title><pre></pre><script>
const talk = path => new Promise((done, failed) => {
  const socket = new WebSocket(location.origin.replace("http", "ws") + path);
  socket.binaryType = "arraybuffer";
  const heard = data => typeof data === "string" ? "text " + data : "bytes " + new TextDecoder().decode(data);
  let reported = "nothing";
  socket.onopen = () => socket.send("from the page");
  socket.onmessage = event => { reported = heard(event.data); socket.close(1000); };
  socket.onclose = event => done(`${path}: ${reported}, ${event.code} ${event.wasClean}`);
  socket.onerror = () => failed(`${path}: failed`);
});
const show = text => document.querySelector("pre").textContent += text + "\n";
(async () => {
  for (const path of ["/bytes", "/socket"]) show(await talk(path).catch(reported => reported));
  await fetch("/reported", { method: "POST", body: document.querySelector("pre").textContent });
})();
</script>"#;

/// Serves the page, and keeps what it receives.
const PAGES: &str = r#"
import http.server, sys
class Pages(http.server.SimpleHTTPRequestHandler):
    def do_POST(self):
        reported = self.rfile.read(int(self.headers["Content-Length"]))
        open("reported.part", "wb").write(reported)
        __import__("os").rename("reported.part", "reported.txt")
        self.send_response(204)
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Pages).serve_forever()
"#;

/// A WebSocket server that is not ours; it echoes.
const SOCKETS: &str = r#"
import asyncio, sys, websockets
async def answer(socket, *_):
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(answer, "127.0.0.1", int(sys.argv[1])):
        await asyncio.Future()
asyncio.run(main())
"#;

/// Ends with the test.
struct Browser(Child);

impl Browser {
    fn open(folder: &TestFolder, url: &str) -> Self {
        let profile = format!("--user-data-dir={}", folder.path("browser").display());
        let mut command = Command::new("chromium");
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.args(["--disable-dev-shm-usage", "--ignore-certificate-errors", &profile, url]);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(quiet.spawn().expect("the browser starts"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_page_talks_through_both_gateways() {
    if !has("a_page_talks_through_both_gateways", &["chromium", "python3", "socat"]) {
        return;
    }
    for (page, socket) in [("http", "ws"), ("https", "wss")] {
        let folder = TestFolder::with_certificates();
        folder.write("index.html", PAGE);
        let [pages, sockets, bytes, port] = [(); 4].map(|()| free_port());
        let python = |script: &str, port: u16| {
            let mut command = Command::new("/usr/bin/python3");
            command.args(["-c", script, &port.to_string()]).current_dir(folder.path(""));
            Server::start(&mut command, port)
        };
        let _pages = python(PAGES, pages);
        let _sockets = python(SOCKETS, sockets);
        let listen = format!("TCP-LISTEN:{bytes},bind=127.0.0.1,fork,reuseaddr");
        let _bytes = Server::start(Command::new("socat").args([&listen, "EXEC:cat"]), bytes);
        let at = format!("127.0.0.1:{port}");
        let pair = Pair::of(&folder, &dmz_half(&at, page, socket), |link| {
            internal_half(link, pages, sockets, bytes)
        });
        let _browser = Browser::open(&folder, &format!("{page}://{at}/"));
        let reported =
            until("the page has notified", SOON * 3, || fs::read_to_string(folder.path("reported.txt")).ok());
        assert_eq!(
            reported,
            "/bytes: bytes from the page, 1000 true\n/socket: text from the page, 1000 true\n",
            "{page}\n{}",
            pair.dmz.log()
        );
    }
}

fn dmz_half(at: &str, page: &str, socket: &str) -> String {
    let tls = if page == "https" { ", tls: { certificate: pki/dmz.pem, key: pki/dmz.key }" } else { "" };
    format!(
        "mode: reverse\ndmz:\n  link:\n    listen: socks+tls://127.0.0.1:0\n    prepared: 2\n    \
         tls: {{ certificate: pki/dmz.pem, key: pki/dmz.key, ca: pki/ca.pem, peers: [internal] }}\n  services:\n    \
         pages: {{ accept: [\"{page}://{at}/\"]{tls} }}\n    \
         sockets: {{ carries: http, accept: [\"{socket}://{at}/socket\"]{tls} }}\n    \
         bytes: {{ accept: [\"{socket}://{at}/bytes\"]{tls} }}\n"
    )
}

fn internal_half(link: &str, pages: u16, sockets: u16, bytes: u16) -> String {
    format!(
        "mode: reverse\ninternal:\n  link:\n    connect: socks+tls://{link}\n    prepared: 2\n    \
         tls: {{ certificate: pki/internal.pem, key: pki/internal.key, ca: pki/ca.pem, peers: [dmz] }}\n  services:\n    \
         pages: {{ connect: \"http://127.0.0.1:{pages}\" }}\n    \
         sockets: {{ connect: \"ws://127.0.0.1:{sockets}\" }}\n    \
         bytes: {{ connect: \"tcp://127.0.0.1:{bytes}\" }}\n"
    )
}
