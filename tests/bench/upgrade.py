#!/usr/bin/env python3
"""Measures an upgrade of the server under load.

    cargo build --release && python3 tests/bench/upgrade.py [BINARY]

A server in a temporary folder on a real disk, stopped and started by a program as on a host without systemd; 200 simulated
agents; 50 submissions a second, each repeated as the command line does it until it is taken. Meanwhile `postrider upgrade`
to another release (the same executable with a line more) and `postrider upgrade --rollback`. Prints how many submissions were
taken, refused for good or lost, the longest one, and the pauses that the upgrades tell. Needs the program `minisign`.
"""

import http.client
import json
import os
import pathlib
import queue
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid

from round_trip import wait_for

AGENTS, RATE, WORKERS = 200, 50, 64
# As src/cli/submit.rs: the first wait, the longest, and when it gives up, in seconds.
WAIT_FIRST, WAIT_MAX, PATIENCE = 0.5, 2, 90

SERVICE = """#!/bin/sh
cd '{folder}' || exit 1
case $1 in
stop)
    pid=$(cat pid 2>/dev/null) && kill "$pid" 2>/dev/null
    # What has ended is there until somebody reaps it.
    while kill -0 "$pid" 2>/dev/null && ! grep -q ') Z ' "/proc/$pid/stat"; do sleep 0.01; done
    rm -f pid
    ;;
start)
    rm -f data/listen
    releases/current/postrider serve --config postrider.toml --data data </dev/null >>log 2>&1 &
    echo $! >pid
    while kill -0 "$(cat pid)" 2>/dev/null; do
        test -s data/listen && exit 0
        sleep 0.01
    done
    exit 1
    ;;
esac
"""


class Server:
    """The server as a client sees it."""

    def __init__(self, port, token):
        self.port = port
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def call(self, method, path, body=None, key=None):
        """The answer, or none where it may be repeated."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {**self.headers, **({"Idempotency-Key": key} if key else {})}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if response.status in (429, 502, 503, 504):
            return None
        if response.status not in (200, 201):
            sys.exit(f"{path}: {response.status} {text}")
        return json.loads(text)

    def online(self):
        agents = self.call("GET", "/api/agents?limit=1000")["agents"]
        return [agent["id"] for agent in agents if agent["online"]]


class Load:
    """Submissions at a steady rate, whatever becomes of them."""

    def __init__(self, server):
        self.server, self.agents, self.due = server, server.online(), queue.Queue()
        self.taken, self.given_up, self.repeated, self.seconds = [], 0, 0, []
        self.lock, self.over = threading.Lock(), False
        self.threads = [threading.Thread(target=self.work) for _ in range(WORKERS)] + [threading.Thread(target=self.clock)]
        for thread in self.threads:
            thread.start()

    def clock(self):
        begun, count = time.monotonic(), 0
        while not self.over:
            self.due.put(begun + count / RATE)
            count += 1
            time.sleep(max(0, begun + count / RATE - time.monotonic()))
        for _ in range(WORKERS):
            self.due.put(None)

    def work(self):
        while (due := self.due.get()) is not None:
            self.submit(due)

    def submit(self, due):
        key, agent, tries = str(uuid.uuid4()), random.choice(self.agents), 0
        while True:
            answer = self.server.call("POST", f"/api/agents/{agent}/command", {"argv": ["true"]}, key)
            with self.lock:
                self.repeated += tries > 0
                if answer is not None:
                    self.taken.append(answer["id"])
                    self.seconds.append(time.monotonic() - due)
                    return
                if time.monotonic() - due > PATIENCE:
                    self.given_up += 1
                    return
            # Full jitter, doubling.
            time.sleep(random.uniform(0, min(WAIT_MAX, WAIT_FIRST * 2 ** tries)))
            tries += 1

    def end(self):
        self.over = True
        for thread in self.threads:
            thread.join()


def release(binary, folder, line, secret):
    """A signed executable that differs from the others by its last line."""
    file = folder / "new"
    shutil.copy(binary, file)
    with open(file, "ab") as end:
        end.write(f"\n{line}\n".encode())
    subprocess.run(["minisign", "-S", "-s", secret, "-m", file], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return file


def main():
    binary = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/release/postrider")
    if not shutil.which("minisign"):
        sys.exit("the program minisign is not there: it signs the releases (Debian: apt install minisign)")
    with tempfile.TemporaryDirectory(prefix="postrider-upgrade-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        measure(binary, pathlib.Path(folder))


def measure(binary, folder):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    secret, public = folder / "key", folder / "key.pub"
    subprocess.run(["minisign", "-G", "-W", "-s", secret, "-p", public], check=True, stdout=subprocess.DEVNULL)
    (folder / "postrider.toml").write_text(
        f'listen = "127.0.0.1:{port}"\nrelease_key = "{public.read_text().splitlines()[1]}"\n')
    (folder / "releases/first").mkdir(parents=True)
    shutil.copy(binary, folder / "releases/first/postrider")
    (folder / "releases/current").symlink_to("first")
    service = folder / "service"
    service.write_text(SERVICE.format(folder=folder))
    service.chmod(0o755)
    subprocess.run([service, "start"], check=True)
    upgrade = [binary, "upgrade", "--config", folder / "postrider.toml", "--data", folder / "data",
               "--releases", folder / "releases", "--service", service, "--backup-to", folder / "backups"]
    fleet = None
    try:
        token = folder / "data/owner.token"
        wait_for(token.exists, "the token")
        fleet = subprocess.Popen([binary, "bench", "--server", f"http://127.0.0.1:{port}", "--token-file", token, "--agents",
                                  str(AGENTS), "--rate", "0", "--duration", "10m"], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=open(folder / "fleet.log", "w"))
        server = Server(port, token.read_text().strip())
        wait_for(lambda: len(server.online()) == AGENTS, "the agents")
        load = Load(server)
        for args in [[release(binary, folder, "another", secret)], ["--rollback"]]:
            time.sleep(5)
            told = subprocess.run([*upgrade, *args, "--json"], capture_output=True, text=True)
            if told.returncode != 0:
                sys.exit(f"the upgrade failed: {told.stderr}")
            print("".join(f"  {line}\n" for line in told.stderr.splitlines()), end="")
            past = json.loads(told.stdout)
            print(f"{past['from']} -> {past['to']}: pause {past['pause_ms']} ms")
        time.sleep(5)
        load.end()
        states = {}
        wait_for(lambda: server.call("GET", "/readyz") is not None, "the server")
        for command in load.taken:
            for _ in range(300):
                state = server.call("GET", f"/api/commands/{command}")["state"]
                if state not in ("queued", "accepted", "running"):
                    break
                time.sleep(0.1)
            states[state] = states.get(state, 0) + 1
        print(f"{len(load.taken)} submissions taken ({len(set(load.taken))} commands), {load.given_up} refused or lost, "
              f"{load.repeated} of the tries were repetitions")
        print(f"longest submission {max(load.seconds):.2f} s; states {states}")
    finally:
        if fleet:
            fleet.terminate()
            fleet.wait()
        subprocess.run([service, "stop"])


if __name__ == "__main__":
    main()
