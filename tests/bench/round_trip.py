#!/usr/bin/env python3
"""Measures sequential round trips of one real agent, and the memory of idle processes.

    cargo build --release && python3 tests/bench/round_trip.py [COUNT] [BINARY]

Starts a server and an agent of the release build in a temporary folder on a real disk, submits `true` COUNT times
(default 1000) one after the other over one HTTP connection with `?wait=`, and prints the time from the request to the
stored outcome. Every round trip passes both databases with fsync and runs a real process.
"""

import http.client
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time


def resident_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def wait_for(look, what, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    sys.exit(f"waited in vain: {what}")


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    binary = sys.argv[2] if len(sys.argv) > 2 else "target/release/postrider"
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        folder = pathlib.Path(folder)
        data = folder / "server"
        log = open(folder / "log", "w")
        processes = []
        try:
            processes.append(subprocess.Popen(
                [binary, "serve", "--data", str(data), "--listen", "127.0.0.1:0", "--exit-with-stdin"],
                stdin=subprocess.PIPE, stdout=log, stderr=log))
            listen = data / "listen"
            wait_for(listen.exists, "the server")
            host = listen.read_text().strip().removeprefix("http://")
            token = (data / "owner.token").read_text().strip()
            client = http.client.HTTPConnection(host)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

            def call(method, path, body=None):
                client.request(method, path, json.dumps(body) if body is not None else None, headers)
                answer = client.getresponse()
                return answer.status, json.loads(answer.read())

            join = call("POST", "/api/join", {})[1]["join"]
            processes.append(subprocess.Popen(
                [binary, "agent", "--data", str(folder / "agent"), "--name", "one", "--exit-with-stdin",
                 "--starts-per-minute", "60000"],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, "POSTRIDER_JOIN": join}))
            wait_for(lambda: any(agent["online"] for agent in call("GET", "/api/agents")[1]["agents"]), "the agent")
            time.sleep(2)
            idle = [resident_kib(process.pid) for process in processes]
            times = []
            for _ in range(count):
                begun = time.perf_counter()
                status, command = call("POST", "/api/agents/one/command?wait=30", {"argv": ["true"]})
                times.append((time.perf_counter() - begun) * 1000)
                if status != 201 or command["state"] != "succeeded":
                    sys.exit(f"not a success: {status} {command}")
            busy = [resident_kib(process.pid) for process in processes]
        finally:
            for process in reversed(processes):
                process.stdin.close()
                process.wait()
        times.sort()
        at = lambda share: times[min(len(times) - 1, int(len(times) * share))]
        print(f"{count} round trips: p50 {at(.5):.2f} ms  p90 {at(.9):.2f} ms  p99 {at(.99):.2f} ms  max {times[-1]:.2f} ms")
        print(f"resident memory, idle: server {idle[0] / 1024:.1f} MiB, agent {idle[1] / 1024:.1f} MiB; "
              f"after the run: server {busy[0] / 1024:.1f} MiB, agent {busy[1] / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
