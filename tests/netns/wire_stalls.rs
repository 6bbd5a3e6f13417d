//! A wire that carries nothing for some seconds while sessions of bulk and small dialogues run over its links. The
//! streams are paced, so that what is measured is the pause and not how fast the machine is.

use std::{fs, path::Path, thread, time::Duration};

use crate::{
    BLACK_HOLE, HELLO, NOTICED, TLS, Wire, can_run, client,
    process::{Gateway, TestFolder},
    run, start_linked,
};

/// None of these costs a session.
const STALLS: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3), Duration::from_secs(5)];
/// This one is noticed.
const OUTAGE: Duration = Duration::from_secs(15);
/// Time in which all streams run again.
const BETWEEN: Duration = Duration::from_secs(3);
const BULKS: u64 = 3;
const DIALOGUES: u64 = 10;

/// Streams of half a MiB a second each, of which each block says where it belongs, and dialogues at paces of their
/// own, through an echo and until there is a file; prints what was lost, and how many blocks came back.
const STREAMS: &str = "import os, socket, sys, threading, time\n\
    over, lost, back = sys.argv[1], [], []\n\
    def dial():\n    s = socket.create_connection(('192.0.2.1', 8000)); s.settimeout(30); return s\n\
    def block(session, number): return (b'%02d%014d' % (session, number)) * 512\n\
    def bulk(session):\n    s, sent = dial(), []\n    \
    def send():\n        \
    while not os.path.exists(over):\n            s.sendall(block(session, len(sent))); sent.append(1); time.sleep(0.016)\n        \
    s.shutdown(1)\n    \
    def guarded():\n        \
    try: send()\n        \
    except Exception as error: lost.append((session, repr(error)))\n    \
    sender = threading.Thread(target=guarded); sender.start()\n    \
    read, number = s.makefile('rb').read, 0\n    \
    while (data := read(8192)):\n        \
    if data != block(session, number): raise ValueError('block %d' % number)\n        number += 1\n    \
    sender.join()\n    \
    if number != len(sent): raise ValueError('%d of %d' % (number, len(sent)))\n    back.append(number)\n\
    def dialogue(session):\n    s = dial()\n    \
    while not os.path.exists(over):\n        s.sendall(b'x' * 64); got = 0\n        \
    while got < 64: got += len(s.recv(64 - got)) or 1 / 0\n        time.sleep(session / 5)\n    \
    back.append(1)\n\
    def one(what, session):\n    \
    try: what(session)\n    \
    except Exception as error: lost.append((session, repr(error)))\n\
    all = [threading.Thread(target=one, args=(bulk, at)) for at in range(int(sys.argv[2]))]\n\
    all += [threading.Thread(target=one, args=(dialogue, at + 1)) for at in range(int(sys.argv[3]))]\n\
    [each.start() for each in all]; [each.join() for each in all]\n\
    print(len({at for at, _ in lost}), 'lost', len(back), 'well', sum(back), 'blocks', lost)";

/// The streams from their start to their end, which `during` brings about.
fn streams(wire: &Wire, dmz: &Gateway<'_>, over: &Path, during: impl FnOnce()) -> String {
    let [bulks, dialogues] = [BULKS, DIALOGUES].map(|count| count.to_string());
    let line = ["python3", "-c", STREAMS, over.to_str().expect("text"), &bulks, &dialogues];
    thread::scope(|scope| {
        let running = scope.spawn(|| run(&wire.outside, &line));
        dmz.wait("all streams run", NOTICED, |status| {
            let bytes = status["totals"]["bytes_down"].as_u64();
            status["totals"]["sessions_open"] == BULKS + DIALOGUES && bytes > Some(BULKS * 8192)
        });
        during();
        fs::write(over, "").expect("a file");
        running.join().expect("they end")
    })
}

fn check(mode: &str) {
    let (wire, folder) = (Wire::new(), TestFolder::with_certificates());
    let pair = start_linked(&folder, &wire, mode, "echo://", ["socks+tls", TLS[0], TLS[1]]);
    let reported = streams(&wire, &pair[0], &folder.path("stalls-over"), || {
        for stall in STALLS {
            wire.rules(BLACK_HOLE);
            thread::sleep(stall);
            wire.rules("");
            thread::sleep(BETWEEN);
        }
    });
    let all = format!("0 lost {} well ", BULKS + DIALOGUES);
    assert!(reported.starts_with(&all), "{mode}: {reported}\n{}", pair[0].log());
    for half in &pair {
        assert!(!half.log().contains("does not answer any more"), "{mode}: {}", half.log());
    }

    let reported = streams(&wire, &pair[0], &folder.path("outage-over"), || {
        wire.rules(BLACK_HOLE);
        thread::sleep(OUTAGE);
        for half in &pair {
            half.wait("it has been noticed", NOTICED, |status| status["totals"]["sessions_open"] == 0);
        }
        wire.rules("");
    });
    assert!(reported.contains(" 0 well "), "{mode}: {reported}");
    pair.iter().for_each(|half| drop(half.wait_healthy()));
    assert_eq!(client(&wire, HELLO).trim(), "hello.", "{mode}");
}

#[test]
fn bulk_survives_a_wire_that_pauses_for_five_seconds_and_not_one_that_is_dead() {
    if can_run("bulk_survives_a_wire_that_pauses_for_five_seconds_and_not_one_that_is_dead") {
        thread::scope(|scope| {
            for mode in ["reverse", "forward"] {
                scope.spawn(move || check(mode));
            }
        });
    }
}
