//! ssh and scp to an sshd of the test's own.

use std::{fs, process::Command};

use crate::{
    Server, has, printed,
    process::TestFolder,
    setup::{Pair, free_port},
};

#[test]
fn ssh_and_scp_reach_an_ssh_server() {
    if !has("ssh_and_scp_reach_an_ssh_server", &["ssh", "scp", "ssh-keygen", "sshd"]) {
        return;
    }
    let folder = TestFolder::with_certificates();
    let text = |name: &str| folder.path(name).to_str().expect("UTF-8").to_owned();
    for key in ["host", "user"] {
        printed(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &text(key)]);
    }
    let backend = free_port();
    folder.write(
        "sshd_config",
        &format!(
            "ListenAddress 127.0.0.1:{backend}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n",
            text("host"),
            text("user.pub")
        ),
    );
    // As root sshd wants its folder for unprivileged children.
    if rustix::process::geteuid().is_root() {
        fs::create_dir_all("/run/sshd").expect("a folder");
    }
    let mut command = Command::new("/usr/sbin/sshd");
    let _server = Server::start(command.args(["-D", "-f", &text("sshd_config")]), backend);
    let pair = Pair::reverse(&folder, &[("shell", &format!("tcp://127.0.0.1:{backend}"))]);
    let port = pair.dmz.accept("shell").port().to_string();
    let (identity, known) = (text("user"), format!("UserKnownHostsFile={}", text("known")));
    let options = ["-F", "none", "-i", &identity, "-o", &known, "-o", "StrictHostKeyChecking=accept-new"];
    let user = printed(&["id", "-un"]);
    let target = format!("{}@127.0.0.1", user.trim());

    let ssh = [&["ssh", "-p", &port, "-o", "BatchMode=yes"], &options[..], &[&target]].concat();
    assert_eq!(printed(&[&ssh[..], &["echo from the inside"]].concat()), "from the inside\n");
    assert_eq!(printed(&[&ssh[..], &["head -c 3000000 /dev/zero | wc -c"]].concat()).trim(), "3000000");

    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    fs::write(folder.path("sent.bin"), &sent).expect("a file");
    let scp = [&["scp", "-q", "-P", &port, "-o", "BatchMode=yes"], &options[..]].concat();
    let remote = |name: &str| format!("{target}:{}", text(name));
    printed(&[&scp[..], &[&text("sent.bin"), &remote("there.bin")]].concat());
    printed(&[&scp[..], &[&remote("there.bin"), &text("back.bin")]].concat());
    assert!(fs::read(folder.path("back.bin")).expect("it came back") == sent, "another file came back");
}
