#!/usr/bin/env python3
"""Runs a real server and real agents under kills and stalls, and counts what became of every command.

    cargo build --release && python3 tests/bench/soak.py [--minutes 5] [--agents 8] [--seed N] [--binary PATH]

The server is killed with -9 about every 4 s, an agent about every 2 s, an agent is stopped (SIGSTOP, 1 to 25 s) about
every 10 s. Submissions go on throughout, each with an idempotency key and repeated until it is answered. Every command
appends its number to a file of its agent, so that a second run is seen. At the end everything is healed, and each
delivery must end. Exits 1 if a command that was answered is missing, ran twice, says `succeeded` without having run, or
does not end.
"""

import argparse
import collections
import http.client
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time


class Fleet:
    def __init__(self, binary, folder, agents):
        self.binary, self.folder = binary, folder
        self.names = [f"agent-{number}" for number in range(agents)]
        self.log = open(folder / "log", "w")
        self.processes = {}
        self.port = 0
        self.lock = threading.Lock()

    def start_server(self):
        data = self.folder / "server"
        (data / "listen").unlink(missing_ok=True)
        self.processes["server"] = subprocess.Popen(
            [self.binary, "serve", "--data", data, "--listen", f"127.0.0.1:{self.port}"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        until = time.monotonic() + 30
        while not (data / "listen").exists():
            if time.monotonic() > until:
                sys.exit(f"the server does not start; see {self.folder}/log")
            time.sleep(0.01)
        self.port = int((data / "listen").read_text().strip().rsplit(":", 1)[1])
        self.token = (data / "owner.token").read_text().strip()

    def start_agent(self, name, join=None):
        environment = {**os.environ, "POSTRIDER_LOG": "warn", **({"POSTRIDER_JOIN": join} if join else {})}
        self.processes[name] = subprocess.Popen(
            [self.binary, "agent", "--data", self.folder / name, "--name", name],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment)

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()

    def call(self, method, path, body=None, key=None):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Authorization": f"Bearer {self.token}"}
        if key:
            headers["Idempotency-Key"] = key
        client.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = client.getresponse()
        text = answer.read()
        client.close()
        return answer.status, json.loads(text)

    def surely(self, method, path, body=None, key=None, seconds=120):
        until = time.monotonic() + seconds
        while True:
            try:
                status, answer = self.call(method, path, body, key)
                if status < 500:
                    return status, answer
            except (OSError, http.client.HTTPException, ValueError):
                pass
            if time.monotonic() > until:
                sys.exit(f"no answer for {seconds} s: {method} {path}")
            time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--agents", type=int, default=8)
    parser.add_argument("--submitters", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--binary", default="target/release/postrider")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        soak(args, chance, pathlib.Path(folder))


def soak(args, chance, folder):
    fleet = Fleet(args.binary, folder, args.agents)
    counts = collections.Counter()
    submitted = {}
    stop = threading.Event()

    def submit(worker):
        mine = random.Random(args.seed + worker)
        number = 0
        while not stop.is_set():
            number += 1
            name, run = mine.choice(fleet.names), f"{worker}-{number}"
            line = f"echo {run} >> {folder}/{name}.runs" + (f"; sleep {mine.random():.2f}" if number % 5 == 0 else "")
            body = {"command": line, "timeout_s": 20}
            status, command = fleet.surely("POST", f"/api/agents/{name}/command", body, key=f"{args.seed}-{run}")
            if status not in (200, 201):
                sys.exit(f"refused: {status} {command}")
            with fleet.lock:
                submitted[run] = (command["id"], name)
            time.sleep(0.02)

    try:
        fleet.start_server()
        for name in fleet.names:
            fleet.start_agent(name, fleet.call("POST", "/api/join", {})[1]["join"])
        until = time.monotonic() + 30
        while sum(agent["online"] for agent in fleet.call("GET", "/api/agents")[1]["agents"]) < args.agents:
            if time.monotonic() > until:
                sys.exit("the agents do not come")
            time.sleep(0.1)
        workers = [threading.Thread(target=submit, args=(worker,), daemon=True) for worker in range(args.submitters)]
        for worker in workers:
            worker.start()
        begun, stalled = time.monotonic(), {}
        end = begun + args.minutes * 60
        next_report = begun + 30
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.2, 1.0))
            now = time.monotonic()
            for name in [name for name, until in stalled.items() if until < now]:
                fleet.processes[name].send_signal(signal.SIGCONT)
                del stalled[name]
            if chance.random() < 0.15:
                fleet.kill("server")
                counts["server kills"] += 1
                time.sleep(chance.uniform(0, 0.5))
                fleet.start_server()
            if chance.random() < 0.3:
                name = chance.choice(fleet.names)
                stalled.pop(name, None)
                fleet.kill(name)
                counts["agent kills"] += 1
                time.sleep(chance.uniform(0, 0.3))
                fleet.start_agent(name)
            if chance.random() < 0.06:
                name = chance.choice(fleet.names)
                fleet.processes[name].send_signal(signal.SIGSTOP)
                stalled[name] = now + chance.uniform(1, 25)
                counts["stalls"] += 1
            if now > next_report:
                next_report = now + 30
                print(f"{now - begun:.0f} s: {len(submitted)} submitted, {dict(counts)}", flush=True)
        for name in stalled:
            fleet.processes[name].send_signal(signal.SIGCONT)
        stop.set()
        for worker in workers:
            worker.join()
        healed = time.monotonic()
        while True:
            opened = sum(len(fleet.surely("GET", f"/api/commands?state={state}&limit=1000")[1]["commands"])
                         for state in ("queued", "accepted", "running"))
            if not opened or time.monotonic() - healed > 300:
                break
            time.sleep(0.5)
        drained = time.monotonic() - healed
        states = {}
        before = ""
        while True:
            page = fleet.surely("GET", f"/api/commands?limit=1000{before}")[1]
            states.update({command["id"]: command["deliveries"][0] for command in page["commands"]})
            if not page["next"]:
                break
            before = f"&before={page['next']}"
        verdict(fleet, folder, submitted, states, counts, opened, drained)
    finally:
        for process in fleet.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def verdict(fleet, folder, submitted, states, counts, opened, drained):
    runs = collections.Counter()
    for name in fleet.names:
        path = folder / f"{name}.runs"
        if path.exists():
            runs.update(path.read_text().split())
    missing = [run for run, (command, _) in submitted.items() if command not in states]
    twice = [run for run, count in runs.items() if count > 1]
    by_state = collections.Counter(delivery["state"] for delivery in states.values())
    liars = [run for run, (command, _) in submitted.items()
             if command in states and states[command]["state"] == "succeeded" and runs[run] != 1]
    extra = len(states) - len(submitted)
    print(f"{dict(counts)}")
    print(f"{len(submitted)} answered submissions, {extra} more in the history; by state: {dict(by_state)}")
    print(f"missing {len(missing)}, run twice {len(twice)}, succeeded without one run {len(liars)}, "
          f"not ended {opened}; all ended {drained:.1f} s after the heal")
    for run in liars[:5] + twice[:5]:
        print("  ", run, runs[run], states.get(submitted[run][0]))
    if missing or twice or liars or opened or extra:
        sys.exit(1)


if __name__ == "__main__":
    main()
