//! MQTT: Mosquitto behind a `ws` accept, with clients of its own at a `tcp` accept and Paho at the
//! WebSocket.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    thread,
};

use crate::{
    Server, has, printed,
    process::TestFolder,
    setup::{Pair, dmz_half, free_port, internal_half},
};

/// Python as Debian has it, with Paho.
const PYTHON: &str = "/usr/bin/python3";

/// Receives its own messages, among them large ones, and one of another client's; reports that it is
/// ready for that once it has subscribed.
const PAHO: &str = r#"
import queue, sys
import paho.mqtt.client as mqtt
heard = queue.Queue()
client = mqtt.Client(transport="websockets")
client.ws_set_options(path="/mqtt")
client.on_message = lambda client, data, message: heard.put((message.topic, message.payload))
client.on_subscribe = lambda *rest: heard.put(("ready", b""))
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_start()
client.subscribe("all/#", qos=2)
assert heard.get(timeout=30) == ("ready", b"")
sent = [(f"all/{at}", bytes([at]) * size) for at in range(3) for size in (0, 1, 125, 126, 65535, 100000)]
for topic, payload in sent:
    client.publish(topic, payload, qos=2)
for message in sent:
    assert heard.get(timeout=30) == message, message[0]
print("ready", flush=True)
assert heard.get(timeout=30) == ("all/other", b"from elsewhere")
client.publish("back", b"from the web", qos=1, retain=True).wait_for_publish()
client.disconnect()
client.loop_stop()
print("done", flush=True)
"#;

#[test]
fn paho_and_mosquitto_meet_through_a_websocket() {
    let test = "paho_and_mosquitto_meet_through_a_websocket";
    if !has(test, &["mosquitto", "mosquitto_pub", "mosquitto_sub"]) {
        return;
    }
    let has_paho =
        Command::new(PYTHON).args(["-c", "import paho.mqtt.client"]).stderr(Stdio::null()).status();
    if !has_paho.is_ok_and(|status| status.success()) {
        println!("skipped: {test} needs python3-paho-mqtt");
        return;
    }
    let folder = TestFolder::with_certificates();
    let backend = free_port();
    folder.write("mosquitto.conf", &format!("listener {backend} 127.0.0.1\nallow_anonymous true\n"));
    let mut command = Command::new("/usr/sbin/mosquitto");
    let _broker = Server::start(command.arg("-c").arg(folder.path("mosquitto.conf")), backend);
    let to = format!("tcp://127.0.0.1:{backend}");
    let dmz = dmz_half("127.0.0.1:0", &["plain"]) + "    web: { accept: 'ws://127.0.0.1:0/mqtt' }\n";
    let services = [("plain", &*to), ("web", &to)];
    let pair = Pair::of(&folder, &dmz, |link| internal_half(link, &services));
    let [plain, web] = ["plain", "web"].map(|service| pair.dmz.accept(service).port().to_string());
    folder.write("client.py", PAHO);
    let mut paho = Command::new("timeout");
    paho.args(["60", PYTHON]).arg(folder.path("client.py")).arg(&web);
    let paho = paho.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("Python runs");
    let sub = ["mosquitto_sub", "-h", "127.0.0.1", "-p", &plain, "-t", "back", "-C", "1", "-W", "30"];
    let publish =
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", &plain, "-t", "all/other", "-m", "from elsewhere"];
    let received = thread::scope(|scope| {
        let hearing = scope.spawn(|| printed(&sub));
        let paho = ready(paho);
        printed(&publish);
        let output = paho.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        hearing.join().expect("no panic")
    });
    assert_eq!(received, "from the web\n");
}

/// Waits until the client says that it is ready.
fn ready(mut paho: Child) -> Child {
    let mut reported = [0; 6];
    let received = paho.stdout.as_mut().expect("it is piped").read_exact(&mut reported);
    if received.is_err() || &reported != b"ready\n" {
        let output = paho.wait_with_output().expect("it ends");
        panic!("{}", String::from_utf8_lossy(&output.stderr));
    }
    paho
}
