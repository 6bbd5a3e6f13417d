//! curl and Python's websockets as clients that say who they are; tokens that openssl has signed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use data_encoding::{BASE64URL_NOPAD as BASE64URL, HEXLOWER_PERMISSIVE as HEX};

use crate::{
    ended, has, printed,
    process::TestFolder,
    setup::{Pair, dmz_half, internal_half},
};

/// Of `s3cret`, as Python's bcrypt makes it.
const USERS: &str = "alice:$2b$04$mPxoEKurFJxN9brGFUz.KuNr8BQiL0MNMI93eNTwce6AL7yg70siS\n";
/// Sends a word and prints what comes back, or the status of a refusal.
const ECHO: &str = r#"
import asyncio, sys, websockets
async def say(url):
    try:
        async with websockets.connect(url) as socket:
            await socket.send(b"word")
            print((await socket.recv()).decode())
    except Exception as error:
        print("refused" if "401" in str(error) else error)
asyncio.run(say(sys.argv[1]))
"#;

fn write_secret(folder: &TestFolder, name: &str, text: &str) {
    folder.write(name, text);
    fs::set_permissions(folder.path(name), fs::Permissions::from_mode(0o600)).expect("it is ours");
}

fn status_of(arguments: &[&str], url: &str) -> String {
    let curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"];
    printed(&[&curl, arguments, &[url]].concat())
}

#[test]
fn a_web_socket_of_python_is_asked_who_it_is() {
    if !has("a_web_socket_of_python_is_asked_who_it_is", &["curl", "/usr/bin/python3"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    write_secret(&folder, "users.htpasswd", USERS);
    folder.write("echo.py", ECHO);
    let dmz = dmz_half("127.0.0.1:0", &[])
        + "    web: { accept: 'ws://127.0.0.1:0/live', auth: { basic: users.htpasswd } }\n";
    let pair = Pair::of(&folder, &dmz, |link| internal_half(link, &[("web", "echo://")]));
    let at = pair.dmz.accept("web");
    let sent = |user: &str| {
        let script = folder.path("echo.py");
        let script = script.to_str().expect("UTF-8");
        printed(&["/usr/bin/python3", script, &format!("ws://{user}{at}/live")])
    };
    assert_eq!(sent("alice:s3cret@").trim(), "word");
    for other in ["", "alice:wrong@", "bob:s3cret@"] {
        assert_eq!(sent(other).trim(), "refused", "{other}");
    }
    let url = format!("http://{at}/live");
    assert_eq!(status_of(&[], &url), "401");
    // It is known, and asks for no WebSocket.
    assert_eq!(status_of(&["-u", "alice:s3cret"], &url), "426");
}

/// A token of RS256, signed by openssl.
fn signed_by_openssl(folder: &Path, claims: &str) -> String {
    let signed = format!(
        "{}.{}",
        BASE64URL.encode(br#"{"alg":"RS256","kid":"one"}"#),
        BASE64URL.encode(claims.as_bytes())
    );
    fs::write(folder.join("signed"), &signed).expect("a file");
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-sign", "key.pem", "signed"]).current_dir(folder);
    format!("{signed}.{}", BASE64URL.encode(&ended(&mut openssl).stdout))
}

#[test]
fn tokens_that_openssl_has_signed_name_their_client() {
    if !has("tokens_that_openssl_has_signed_name_their_client", &["curl", "openssl"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let (subfolder, key) = (folder.path(""), folder.path("key.pem"));
    let key = key.to_str().expect("UTF-8");
    printed(&["openssl", "genrsa", "-out", key, "2048"]);
    let modulus = printed(&["openssl", "rsa", "-in", key, "-noout", "-modulus"]);
    let modulus = modulus.trim().strip_prefix("Modulus=").expect("a modulus");
    let modulus = BASE64URL.encode(&HEX.decode(modulus.to_lowercase().as_bytes()).expect("hexadecimal"));
    let keys = format!(r#"{{"keys":[{{"kty":"RSA","kid":"one","n":"{modulus}","e":"AQAB"}}]}}"#);
    folder.write("jwks.json", &keys);
    let dmz = dmz_half("127.0.0.1:0", &[])
        + "    web: { accept: 'ws://127.0.0.1:0/live', auth: { jwt: { keys: jwks.json, audience: orders } } }\n";
    let pair = Pair::of(&folder, &dmz, |link| internal_half(link, &[("web", "echo://")]));
    let url = format!("http://{}/live", pair.dmz.accept("web"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let status = |claims: String| {
        let token = signed_by_openssl(&subfolder, &claims);
        status_of(&["-H", &format!("Authorization: Bearer {token}")], &url)
    };
    let good = format!(r#"{{"sub":"alice","aud":"orders","exp":{}}}"#, now + 600);
    // Known, and asked for a WebSocket.
    assert_eq!(status(good.clone()), "426");
    assert_eq!(status(good.replace("orders", "others")), "401");
    assert_eq!(status(good.replace(&(now + 600).to_string(), &(now - 600).to_string())), "401");
}
