//! A flood of connections from many addresses of another host: whoever else comes is served, operators are answered,
//! and the gateway holds little more than before.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::{
    Wire, can_run, ip,
    process::{Gateway, SOON, TestFolder},
    run,
};

const CONNECTIONS: u64 = 20_000;
/// Where they come from: 198.18.0.1 and on.
const ADDRESSES: u64 = 200;
/// How much memory the gateway may take for it.
const GROWN_MAX: usize = 64 << 20;
/// Clients of another address that are served meanwhile, at least.
const OTHERS: u64 = 20;

const PROFILE: &str = "mode: direct\ndmz:\n  services:\n    \
    echo: { accept: ['tcp://192.0.2.2:8000'], connect: 'echo://', per_client: { sessions: 20, rate: 20/s, burst: 40 } }\n";

/// Each comes, says a byte, and is gone by a reset; prints how many could not even connect.
const FLOOD: &str = "import socket, struct, sys, threading\n\
    count, addresses, failed = int(sys.argv[1]), int(sys.argv[2]), []\n\
    def flood(part):\n    \
    for at in range(part, count, 4):\n        \
    s = socket.socket()\n        \
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.settimeout(30)\n        \
    try:\n            \
    s.bind(('198.18.0.%d' % (at % addresses + 1), 0)); s.connect(('192.0.2.2', 8000)); s.send(b'x')\n        \
    except ConnectionError: pass\n        \
    except OSError as error: failed.append(repr(error))\n        \
    s.close()\n\
    all = [threading.Thread(target=flood, args=(part,)) for part in range(4)]\n\
    [each.start() for each in all]; [each.join() for each in all]; print(len(failed), failed[:3])";

/// One after the other, each with an answer; `rate` allows this address as many.
const OTHER: &str = "import socket, sys, time\n\
    for _ in range(int(sys.argv[1])):\n    \
    s = socket.create_connection(('192.0.2.2', 8000), 30); s.sendall(b'here')\n    \
    assert s.recv(4) == b'here'; s.close(); time.sleep(0.06)\n\
    print('served')";

fn memory(gateway: &Gateway<'_>, which: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", gateway.child.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("the line is there");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

#[test]
fn a_flood_of_another_host_keeps_neither_clients_nor_operators_waiting() {
    if !can_run("a_flood_of_another_host_keeps_neither_clients_nor_operators_waiting") {
        return;
    }
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    for at in 1..=ADDRESSES {
        ip(&["-n", &wire.outside, "addr", "add", &format!("198.18.0.{at}/32"), "dev", "wire0"]);
    }
    ip(&["-n", &wire.inside, "route", "add", "198.18.0.0/24", "via", "192.0.2.1"]);
    folder.write("one.yaml", PROFILE);
    let wrapper = ["ip", "netns", "exec", &wire.inside, "prlimit", "--nofile=2048"];
    let gateway = folder.start_as("one", &wrapper, &["--no-ui", "--profile", "one.yaml"]);
    let before = memory(&gateway, "VmRSS:");
    let [count, addresses, others] = [CONNECTIONS, ADDRESSES, OTHERS].map(|number| number.to_string());
    let began = Instant::now();
    let (failed, served, longest) = thread::scope(|scope| {
        let flood = scope.spawn(|| run(&wire.outside, &["python3", "-c", FLOOD, &count, &addresses]));
        let (mut served, mut longest) = (0, Duration::ZERO);
        while served == 0 || !flood.is_finished() {
            assert_eq!(run(&wire.outside, &["python3", "-c", OTHER, &others]).trim(), "served");
            served += OTHERS;
            let asked = Instant::now();
            gateway.status();
            longest = longest.max(asked.elapsed());
        }
        (flood.join().expect("it ends"), served, longest)
    });
    println!(
        "{CONNECTIONS} connections of {ADDRESSES} addresses in {:.1} s; {served} others were served, and `status` \
         took {longest:.1?} at most, its process included",
        began.elapsed().as_secs_f64()
    );
    assert_eq!(failed.trim(), "0 []", "each was accepted or reset");
    gateway.wait("each was served or refused", SOON, |status| {
        let totals = &status["totals"];
        let all = totals["sessions"].as_u64().zip(totals["refused"].as_u64()).map(|(one, other)| one + other);
        totals["sessions_open"] == 0
            && all.is_some_and(|all| (served + ADDRESSES..=served + CONNECTIONS).contains(&all))
    });
    let most = memory(&gateway, "VmHWM:");
    assert!(most < before + GROWN_MAX, "from {before} to {most} bytes");
}
