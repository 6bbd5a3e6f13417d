#!/usr/bin/env python3
"""What the dashboard of a fleet costs: the share of a core that it takes, and how soon a key is seen.

    cargo build --release && python3 benches/fleet.py target/release/portcullis [GATEWAYS [SESSIONS [SCREENS]]]

SCREENS are keys: 3 the sessions (the default), 9 the path, 1 the overview; 391 measures each of them.

Each gateway is this script again: it repeats the snapshot of a real one with so many sessions, all of which move
bytes, as often as it is asked to. Two and two are a pair, a DMZ half and an internal half that are linked and carry
the same sessions, so that the screen has to join them. What these cost is not counted.
"""

import copy
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time

SETTLE_SECONDS = 10
MEASURED_SECONDS = 30
KEYS = 20


def receive(stream):
    head = stream.read(4)
    return stream.read(struct.unpack(">I", head)[0]) if len(head) == 4 else None


def send(stream, message):
    stream.write(struct.pack(">I", len(message)) + message)
    stream.flush()


def make_half(snapshot, number, count):
    """Makes the snapshot of a gateway that of one half of a pair, the DMZ half first, with so many sessions."""
    role, peer, other = [("dmz", "inside", number + 1), ("internal", "dmz", number - 1)][number % 2]
    snapshot.update(instance=f"i-{number}", mode="reverse", roles=[role])
    for service in snapshot["services"]:
        service["role"] = role
    snapshot["pools"] = [{
        "role": role, "service": "*", "peer": peer, "address": f"10.0.0.{other}", "instance": f"i-{other}",
        "state": "healthy", "ready": 8, "carrying": 0, "dialling": 0, "target": 8, "waiting": 0, "misses": 0,
        "failures": 0, "last_error": None, "retry_seconds": None, "round_trip_ms": 8.0, "round_trip_spread_ms": 1.0,
        "protocol": "portcullis/2", "sessions": count,
    }]
    row = dict(snapshot["sessions"][0], role=role, peer=peer)
    snapshot["sessions"] = [copy.copy(row) for _ in range(count)]
    for place, session in enumerate(snapshot["sessions"]):
        session["id"] = f"{number // 2:02x}{place:04x}"
        session["client"] = f"203.0.113.{place % 250}:{20000 + place}"
    snapshot["totals"]["sessions_open"] = count


def feed(folder, number, count):
    """Speaks the admin protocol on standard input and output, as a gateway with so many sessions."""
    with open(os.path.join(folder, "hello")) as file:
        hello = file.read().encode()
    with open(os.path.join(folder, "answer")) as file:
        answer = json.load(file)
    snapshot = answer["status"]
    make_half(snapshot, number, count)
    send(sys.stdout.buffer, hello)
    while (request := receive(sys.stdin.buffer)) is not None:
        every = json.loads(request)["watch"]["every_ms"] / 1000
        second = 0
        while True:
            second += every
            snapshot["uptime_seconds"] += every
            for place, session in enumerate(snapshot["sessions"]):
                moved = 1000 * (1 + (place * 7 + int(second)) % 90)
                session["rate_up"], session["rate_down"] = moved, 3 * moved
                session["bytes_up"] += moved
                session["bytes_down"] += 3 * moved
                session["age_seconds"] += every
            send(sys.stdout.buffer, json.dumps(answer).encode())
            time.sleep(every)


def snapshot_of_a_gateway(program, folder):
    """Leaves the hello and the snapshot of a gateway with one session in the folder."""
    with open(os.path.join(folder, "one.yaml"), "w") as file:
        file.write("mode: direct\ndmz:\n  services:\n    orders: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' }\n")
    socket_path = os.path.join(folder, "one.sock")
    gateway = subprocess.Popen(
        [program, "--no-ui", "--profile", "one.yaml", "--admin", socket_path],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        while not os.path.exists(socket_path):
            time.sleep(0.05)
        status = json.loads(subprocess.check_output([program, "status", "--json", "--admin", socket_path]))
        accept = status["services"][0]["accept"][0].rsplit(":", 1)
        client = subprocess.Popen(
            ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{accept[1]}; echo x >&3; read -r <&3; sleep 1000"]
        )
        carrier = subprocess.Popen(
            [program, "admin", "--stdio", "--admin", socket_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        hello = receive(carrier.stdout)
        send(carrier.stdin, b'{"watch":{"every_ms":250}}')
        answer = receive(carrier.stdout)
        while not json.loads(answer)["status"].get("sessions"):
            answer = receive(carrier.stdout)
        carrier.kill()
        client.kill()
    finally:
        gateway.terminate()
        gateway.wait()
    for name, message in [("hello", hello), ("answer", answer)]:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(message)


def cpu_seconds(process):
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drain(terminal, seconds):
    """Reads what is drawn for so long, or, with None, until the next frame; says how long that took."""
    began = time.monotonic()
    while seconds is None or time.monotonic() - began < seconds:
        wait = 5 if seconds is None else max(0, seconds - (time.monotonic() - began))
        if select.select([terminal], [], [], wait)[0]:
            os.read(terminal, 1 << 16)
            if seconds is None:
                break
        elif seconds is None:
            raise SystemExit("a key has no effect")
    return time.monotonic() - began


def quiet(terminal):
    """Waits until a frame has just been drawn, so that the next one is that of a key."""
    drain(terminal, None)
    while select.select([terminal], [], [], 0.02)[0]:
        os.read(terminal, 1 << 16)


def measure(screen, terminal, key):
    """The share of a core on the screen that this key shows, and the milliseconds until each of some keys is seen."""
    os.write(terminal, key.encode())
    drain(terminal, 2)
    before = cpu_seconds(screen)
    took = drain(terminal, MEASURED_SECONDS)
    share = 100 * (cpu_seconds(screen) - before) / took
    waits = []
    for number in range(KEYS):
        quiet(terminal)
        os.write(terminal, b"j" if number % 2 == 0 else b"k")
        waits.append(1000 * drain(terminal, None))
    return share, sorted(waits)


def main():
    program = os.path.abspath(sys.argv[1])
    gateways = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    sessions = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
    screens = sys.argv[4] if len(sys.argv) > 4 else "3"
    with tempfile.TemporaryDirectory() as folder:
        snapshot_of_a_gateway(program, folder)
        script = os.path.abspath(__file__)
        targets = [
            f"gate-{number}=exec:python3 {script} --feed {folder} {number} {sessions}" for number in range(gateways)
        ]
        screen, terminal = pty.fork()
        if screen == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execv(program, [program, "attach", *targets])
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        os.kill(screen, signal.SIGWINCH)
        try:
            drain(terminal, SETTLE_SECONDS)
            measured = [(key, *measure(screen, terminal, key)) for key in screens]
        finally:
            # It ends all that it has started.
            os.kill(screen, signal.SIGTERM)
            os.waitpid(screen, 0)
    print(f"{gateways} gateways with {sessions} sessions each")
    for key, share, waits in measured:
        print(
            f"screen {key}: {share:.1f} % of a core; a key is seen after {waits[len(waits) // 2]:.0f} ms, "
            f"the slowest of {KEYS} after {waits[-1]:.0f} ms"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--feed"]:
        feed(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif len(sys.argv) < 2:
        raise SystemExit(__doc__)
    else:
        main()
