"""What is submitted: commands of several kinds, each with an idempotency key, repeated until it is answered."""

import dataclasses
import heapq
import random
import threading
import time

# Ends that a command of any kind may come to under kills: it ran, or its agent died in the middle.
RAN = {"succeeded", "interrupted"}
KINDS = {  # kind: share, ends that it may come to
    "plain": (58, RAN),
    "short": (10, RAN),
    "long": (4, RAN),
    "output": (10, RAN),
    "large": (2, RAN),
    "many": (4, RAN),
    "timeout": (3, {"timed_out", "interrupted"}),
    "ttl": (5, RAN | {"expired"}),
    "cancel": (4, RAN | {"cancelled"}),
}
# Larger than a dispatch frame takes, so that the agent fetches the specification.
LARGE_BYTES = 40_000


@dataclasses.dataclass
class Asked:
    """What was submitted, and what may become of it."""

    run: str
    kind: str
    agents: list
    body: dict
    lines: int = 0
    id: str = ""

    def output(self):
        """What it prints when it runs to its end; none: it is not looked at."""
        if self.kind != "output":
            return None
        return "".join(f"{self.run} {number}\n" for number in range(1, self.lines + 1)).encode()


def ask(run, fleet, chance):
    """A command of a random kind."""
    kind = chance.choices(list(KINDS), [share for share, _ in KINDS.values()])[0]
    agents = [chance.choice(fleet.names)]
    body, line, lines = {"timeout_s": 20}, "", 0
    if kind == "short":
        line = f"sleep {chance.random():.2f}"
    elif kind == "long":
        line = f"sleep {chance.uniform(1, 5):.2f}"
    elif kind == "output":
        lines = chance.choices([3, 40, 2000, 30_000], [45, 45, 9, 1])[0]
        line = f"seq -f '{run} %.0f' {lines}"
    elif kind == "large":
        line = "# " + "x" * LARGE_BYTES
    elif kind == "many":
        agents = chance.sample(fleet.names, min(len(fleet.names), chance.randint(2, 5)))
        body["targets"] = {"agents": agents}
    elif kind == "timeout":
        line, body["timeout_s"] = "sleep 30", round(chance.uniform(0.3, 1.5), 2)
    elif kind == "ttl":
        body["ttl_s"] = round(chance.uniform(0.05, 3), 2)
    elif kind == "cancel":
        line = chance.choice(["", f"sleep {chance.uniform(0.1, 3):.2f}"])
    body["command"] = f'echo {run} >> "$SOAK_RUNS"\n{line}'
    return Asked(run, kind, agents, body, lines)


class Work:
    """The submitters and the canceller, which rest between rounds."""

    def __init__(self, fleet, seed, submitters, rate):
        self.fleet, self.pause = fleet, submitters / rate
        self.asked, self.tries = [], 0
        self.trouble = []
        self.going = threading.Event()
        self.idle = threading.Semaphore(0)
        self.cancels, self.lock = [], threading.Lock()
        self.submitters = submitters
        for number in range(submitters):
            chance = random.Random(f"{seed} submitter {number}")
            threading.Thread(target=self.submit, args=(number, chance), daemon=True).start()
        threading.Thread(target=self.cancel, daemon=True).start()

    def rest(self):
        """Lets the submitters finish what they are at; returns when all of it is answered."""
        self.going.clear()
        for _ in range(self.submitters):
            self.idle.acquire()
        while self.cancels and not self.trouble:
            time.sleep(0.05)

    def submit(self, number, chance):
        count = 0
        while True:
            self.going.wait()
            next_at = time.monotonic()
            while self.going.is_set():
                count += 1
                self.one(ask(f"{number}-{count}", self.fleet, chance), chance)
                next_at = max(next_at + self.pause, time.monotonic() - 1)
                time.sleep(max(0, next_at - time.monotonic()))
            self.idle.release()

    def one(self, asked, chance):
        self.tries += 1
        path = "/api/commands" if asked.kind == "many" else f"/api/agents/{asked.agents[0]}/command"
        try:
            status, answer = self.fleet.surely("POST", path, asked.body, key=f"soak-{asked.run}")
        except TimeoutError as error:
            self.trouble.append(str(error))
            return
        if status not in (200, 201):
            self.trouble.append(f"refused: {status} {answer}")
            return
        asked.id = answer["id"]
        del asked.body
        with self.lock:
            self.asked.append(asked)
            if asked.kind == "cancel":
                heapq.heappush(self.cancels, (time.monotonic() + chance.uniform(0, 1.5), asked.id))

    def cancel(self):
        while True:
            time.sleep(0.02)
            with self.lock:
                if not self.cancels or self.cancels[0][0] > time.monotonic():
                    continue
                command = self.cancels[0][1]
            try:
                status, answer = self.fleet.surely("POST", f"/api/commands/{command}/cancel")
                if status != 202:
                    self.trouble.append(f"cancel refused: {status} {answer}")
            except TimeoutError as error:
                self.trouble.append(str(error))
            with self.lock:
                self.cancels = [waiting for waiting in self.cancels if waiting[1] != command]
                heapq.heapify(self.cancels)
