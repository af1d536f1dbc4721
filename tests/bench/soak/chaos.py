"""What is done to the fleet, and a record of it: kills, stops of processes, stalls and cuts of links."""

import collections
import heapq
import random
import signal
import time

from soak.links import STALLS

STALL_SECONDS = (1, 25)
# Every third round leaves the server alone, or its kills would end half-open links before anybody has to notice them.
CALM_ROUND = 3
SERVER_DOWN_SECONDS = (0, 0.5)
AGENT_DOWN_SECONDS = (0, 0.3)


class Chaos:
    """Rates are in events a minute, over all rounds; the moments of each kind are a Poisson process."""

    def __init__(self, fleet, seed, rates):
        self.fleet, self.rates = fleet, rates
        self.chance = random.Random(f"{seed} chaos")
        self.victims = [name for name in fleet.names if name not in fleet.bystanders]
        self.counts = collections.Counter()
        self.disturbed = {name: [] for name in fleet.names}  # [begin, end] in Unix seconds; end None: goes on
        self.stopped, self.stalled = {}, {}  # name: when to heal it, and its interval in `disturbed`
        self.server_killed = []  # when, in Unix seconds
        self.rounds = 0

    def round(self, seconds):
        """Disturbs for so long, then heals everything; answers the moment when all was whole."""
        self.rounds += 1
        now = time.monotonic()
        end = now + seconds
        due = [(now + self.wait(kind), kind) for kind in self.rates if self.rate(kind) > 0]
        heapq.heapify(due)
        while due and due[0][0] < end:
            at, kind = heapq.heappop(due)
            self.until(at)
            getattr(self, kind)()
            heapq.heappush(due, (max(at, time.monotonic() - 1) + self.wait(kind), kind))
        self.until(end)
        for name in list(self.stopped):
            self.go_on(name)
        for name in list(self.stalled):
            self.heal(name)
        return time.time()

    def rate(self, kind):
        if kind != "kill_server":
            return self.rates[kind]
        return 0 if self.rounds % CALM_ROUND == 0 else self.rates[kind] * CALM_ROUND / (CALM_ROUND - 1)

    def wait(self, kind):
        return self.chance.expovariate(self.rate(kind) / 60)

    def until(self, moment):
        """Waits; heals what is to be healed meanwhile."""
        while True:
            now = time.monotonic()
            for name in [name for name, (at, _) in self.stopped.items() if at <= now]:
                self.go_on(name)
            for name in [name for name, (at, _) in self.stalled.items() if at <= now]:
                self.heal(name)
            if now >= moment:
                return
            time.sleep(min(0.05, moment - now))

    def begin(self, name):
        self.disturbed[name].append([time.time(), None])
        return self.disturbed[name][-1]

    def kill_server(self):
        self.counts["server kills"] += 1
        self.server_killed.append(time.time())
        self.fleet.kill("server")
        time.sleep(self.chance.uniform(*SERVER_DOWN_SECONDS))
        self.fleet.start_server()

    def kill_agent(self):
        name = self.chance.choice(self.victims)
        if name in self.stopped:
            self.go_on(name)
        self.counts["agent kills"] += 1
        interval = self.begin(name)
        self.fleet.kill(name)
        time.sleep(self.chance.uniform(*AGENT_DOWN_SECONDS))
        self.fleet.start_agent(name)
        interval[1] = time.time()

    def stop_agent(self):
        name = self.chance.choice(self.victims)
        if name in self.stopped:
            return
        self.counts["agents stopped"] += 1
        interval = self.begin(name)
        self.fleet.signal(name, signal.SIGSTOP)
        self.stopped[name] = (time.monotonic() + self.chance.uniform(*STALL_SECONDS), interval)

    def go_on(self, name):
        _, interval = self.stopped.pop(name)
        self.fleet.signal(name, signal.SIGCONT)
        interval[1] = time.time()

    def stall_link(self):
        name = self.chance.choice(self.victims)
        if name in self.stalled:
            return
        kind = self.chance.choice(list(STALLS))
        self.counts[f"link {kind}"] += 1
        interval = self.begin(name)
        self.fleet.links[name].stall(kind)
        self.stalled[name] = (time.monotonic() + self.chance.uniform(*STALL_SECONDS), interval)

    def heal(self, name):
        _, interval = self.stalled.pop(name)
        self.fleet.links[name].heal()
        interval[1] = time.time()

    def cut_link(self):
        name = self.chance.choice(self.victims)
        self.counts["link cut"] += 1
        interval = self.begin(name)
        self.fleet.links[name].cut()
        interval[1] = time.time()

    def touched(self, name, begin, end):
        """Whether anything was done to this agent or its link between the two moments."""
        return any(since <= end and (until is None or until >= begin) for since, until in self.disturbed[name])
