"""The processes: one server, its agents, each behind a link of its own; and a client of the server."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time

from soak.links import Links


class Fleet:
    """To the bystanders among the agents nothing is ever done, but for the kills of their server."""

    def __init__(self, binary, folder, agents, bystanders, seed):
        self.binary, self.folder = binary, folder
        self.names = [f"agent-{number}" for number in range(agents)]
        self.bystanders = self.names[:bystanders]
        self.log = open(folder / "agents.log", "w")
        self.server_log = folder / "server.log"
        self.processes, self.fallen = {}, []
        self.port = 0
        self.links = Links(self.names, lambda: self.port, seed)

    def start(self):
        self.start_server()
        for name in self.names:
            join = self.call("POST", "/api/join", {"server_url": self.links[name].url})[1]["join"]
            self.start_agent(name, join)
        until = time.monotonic() + 30
        while sum(agent["online"] for agent in self.call("GET", "/api/agents")[1]["agents"]) < len(self.names):
            if time.monotonic() > until:
                sys.exit(f"the agents do not come; see {self.folder}")
            time.sleep(0.1)

    def start_server(self):
        data = self.folder / "server"
        (data / "listen").unlink(missing_ok=True)
        with open(self.server_log, "a") as log:
            self.processes["server"] = subprocess.Popen(
                [self.binary, "serve", "--data", data, "--listen", f"127.0.0.1:{self.port}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + 30
        while not (data / "listen").exists():
            if time.monotonic() > until or self.processes["server"].poll() is not None:
                sys.exit(f"the server does not start; see {self.server_log}")
            time.sleep(0.01)
        self.port = int((data / "listen").read_text().strip().rsplit(":", 1)[1])
        self.token = (data / "owner.token").read_text().strip()

    def start_agent(self, name, join=None):
        environment = {**os.environ, "SOAK_RUNS": str(self.runs(name)), **({"POSTRIDER_JOIN": join} if join else {})}
        self.processes[name] = subprocess.Popen(
            [self.binary, "agent", "--data", self.folder / name, "--name", name],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment)

    def kill(self, name):
        self.note_fallen(name)
        self.processes[name].kill()
        self.processes[name].wait()

    def signal(self, name, number):
        self.processes[name].send_signal(number)

    def runs(self, name):
        """The file to which each command appends its number on this agent."""
        return self.folder / f"{name}.runs"

    def note_fallen(self, *names):
        """Notes who has ended by itself: nobody should."""
        self.fallen += [name for name in names or self.processes if self.processes[name].poll() is not None]

    def end(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def raw(self, method, path, body=None, key=None):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Authorization": f"Bearer {self.token}", **({"Idempotency-Key": key} if key else {})}
        try:
            client.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = client.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            client.close()

    def call(self, method, path, body=None, key=None):
        status, _, text = self.raw(method, path, body, key)
        return status, json.loads(text)

    def surely(self, method, path, body=None, key=None, seconds=120):
        """Repeats it until it is answered by something else than a failure."""
        until = time.monotonic() + seconds
        while True:
            try:
                status, answer = self.call(method, path, body, key)
                if status < 500:
                    return status, answer
            except (OSError, http.client.HTTPException, ValueError):
                pass
            if time.monotonic() > until:
                raise TimeoutError(f"no answer for {seconds} s: {method} {path}")
            time.sleep(0.05)

    def open(self):
        """How many commands have not ended."""
        return sum(len(self.surely("GET", f"/api/commands?state={state}&limit=1000")[1]["commands"])
                   for state in ("queued", "accepted", "running"))

    def history(self):
        """All commands, by id."""
        found, before = {}, ""
        while True:
            page = self.surely("GET", f"/api/commands?limit=1000{before}")[1]
            found.update({command["id"]: command for command in page["commands"]})
            if not page["next"]:
                return found
            before = f"&before={page['next']}"

    def output(self, command, agent):
        """All stored bytes of a delivery's standard output, and whether there is a gap."""
        whole, position = b"", 0
        while True:
            path = f"/api/commands/{command}/output?agent={agent}&from={position}"
            status, headers, part = self.raw("GET", path)
            if status != 200 or int(headers["x-postrider-start"]) != position:
                return whole, f"{status} from {position}"
            if not part:
                return whole, None
            whole += part
            position = int(headers["x-postrider-next"])
