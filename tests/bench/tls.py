#!/usr/bin/env python3
"""Measures what TLS adds to a round trip: with and without it, alternately, in one run.

    cargo build --release && python3 tests/bench/tls.py [COUNT] [BINARY]

Two servers and two real agents of the release build in temporary folders on a real disk, one pair with `serve --tls`.
COUNT times (default 300), by turns, each in two ways: `true` over one open HTTP connection with `?wait=`, and a whole
`postrider run AGENT -- true`, which opens its connections anew. Prints medians and their ratios.
"""

import http.client
import json
import os
import pathlib
import ssl
import subprocess
import sys
import tempfile
import time

from round_trip import wait_for


class Pair:
    """A server and its agent, and an open connection to the server."""

    def __init__(self, binary, folder, name, *flags):
        self.binary, self.data, self.processes = binary, folder / name, []
        self.log = open(folder / f"{name}.log", "w")
        self.start([binary, "serve", "--data", str(self.data), "--listen", "127.0.0.1:0", "--exit-with-stdin", *flags])
        listen = self.data / "listen"
        wait_for(listen.exists, "the server")
        scheme, host = listen.read_text().strip().split("://")
        self.client = http.client.HTTPConnection(host) if scheme == "http" else self.over_tls(host)
        token = (self.data / "owner.token").read_text().strip()
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        join = self.call("POST", "/api/join", {})["join"]
        self.start([binary, "agent", "--data", str(folder / f"{name}-agent"), "--name", "one", "--exit-with-stdin"],
                   POSTRIDER_JOIN=join)
        wait_for(lambda: any(agent["online"] for agent in self.call("GET", "/api/agents")["agents"]), "the agent")

    def start(self, command, **environment):
        self.processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self.log, stderr=self.log,
                                               env={**os.environ, **environment}))

    def over_tls(self, host):
        """A connection that is checked as agents do it: against the pinned authority, by the name of its pin."""
        pin = (self.data / "pins").read_text().split()[0]
        context = ssl.create_default_context(cafile=next((self.data / "tls").glob("authority-*.pem")))
        wrap = context.wrap_socket
        context.wrap_socket = lambda sock, **_: wrap(sock, server_hostname=f"{pin[:32]}.postrider.internal")
        return http.client.HTTPSConnection(host, context=context)

    def call(self, method, path, body=None):
        self.client.request(method, path, json.dumps(body) if body is not None else None, self.headers)
        return json.loads(self.client.getresponse().read())

    def request(self):
        command = self.call("POST", "/api/agents/one/command?wait=30", {"argv": ["true"]})
        if command.get("state") != "succeeded":
            sys.exit(f"not a success: {command}")

    def run(self):
        subprocess.run([self.binary, "run", "one", "--data", str(self.data), "--", "true"], check=True)

    def stop(self):
        for process in reversed(self.processes):
            process.stdin.close()
            process.wait()


def timed(work):
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    binary = os.path.abspath(sys.argv[2] if len(sys.argv) > 2 else "target/release/postrider")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        folder, pairs = pathlib.Path(folder), []
        try:
            pairs.append(Pair(binary, folder, "plain"))
            pairs.append(Pair(binary, folder, "tls", "--tls"))
            plain, tls = pairs
            for what, turn in (("?wait= on an open connection", Pair.request), ("postrider run", Pair.run)):
                times = {plain: [], tls: []}
                for _ in range(count):
                    for pair in pairs:
                        times[pair].append(timed(lambda: turn(pair)))
                medians = [sorted(times[pair])[count // 2] for pair in pairs]
                print(f"{what}, {count} each: median {medians[0]:.2f} ms plain, {medians[1]:.2f} ms with TLS, "
                      f"ratio {medians[1] / medians[0]:.2f}")
        finally:
            for pair in pairs:
                pair.stop()


if __name__ == "__main__":
    main()
