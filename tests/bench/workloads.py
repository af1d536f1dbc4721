"""The workloads that figures.py measures: what is run, what is read from the report, what is wanted of it."""

import dataclasses
import typing

from tables import number

MB_PER_MIB = 1024 * 1024 / 1e6
# `postrider bench` counts nothing before.
WARM_UP_SECONDS = 2


@dataclasses.dataclass
class Figure:
    """One number of a workload. `of` reads it from the reports of one turn; None: there was nothing to count."""

    name: str
    unit: str
    of: typing.Callable
    target: float = None
    aim: float = None
    more_is_better: bool = False

    def judge(self, value):
        if value is None:
            return "no figure"
        for wanted, word in ((self.aim, "aim"), (self.target, "target")):
            if wanted is not None and (value >= wanted if self.more_is_better else value <= wanted):
                return word
        return "no" if self.target is not None else "–"

    def wanted(self, value):
        return "–" if value is None else ("≥ " if self.more_is_better else "≤ ") + number(value)


@dataclasses.dataclass
class Workload:
    """`sides` are run by turns; each is a list of a flag and its value, or none."""

    name: str
    what: str
    seconds: int
    sides: list
    figures: list

    def commands(self, is_quick):
        """The arguments of each side. Quick: with a tenth of the agents and of the history, and for a short time."""
        seconds = self.seconds_measured(is_quick)
        return [[word for flag, value in side for word in words(flag, value, is_quick)] + ["--duration", f"{seconds}s"]
                for side in self.sides]

    def seconds_measured(self, is_quick):
        return min(self.seconds, 5 if self.name == "all" else 2) if is_quick else self.seconds

    def seconds_least(self, is_quick):
        """Of one turn, without the time that it takes to bring everything up."""
        return len(self.sides) * (WARM_UP_SECONDS + self.seconds_measured(is_quick))


def words(flag, value, is_quick):
    if value is None:
        return [flag]
    if is_quick and flag in ("--agents", "--history") and value >= 10:
        value //= 10
    return [flag, str(value)]


def report(name, times=1.0):
    """A number of the report."""
    return lambda turn: scaled(turn[0][name], times)


def latency(name, quantile, times=1.0, side=0):
    """A quantile, in milliseconds times `times`."""
    return lambda turn: scaled((turn[side][name] or {}).get(quantile), times)


def ratio(name, quantile):
    """The first side's over the second's."""
    def of(turn):
        over, under = [(side[name] or {}).get(quantile) for side in turn]
        return over / under if over is not None and under else None

    return of


def scaled(value, times):
    return None if value is None else value * times


def idle(memory_target, memory_aim):
    """What a fleet that has nothing to do costs."""
    return [
        Figure("memory of the server at most", "MB", report("server_mib_max", MB_PER_MIB), memory_target, memory_aim),
        Figure("memory of the server at the end", "MB", report("server_mib", MB_PER_MIB), memory_target, memory_aim),
        Figure("CPU of the server", "% of a core", report("server_cores", 100), 10, 5),
        Figure("list of all agents", "ms", report("list_ms"), 100, 30),
    ]


def compared(name, quantile, first, second):
    """The ratio of two sides, and what it is made of."""
    key, name = f"{name}_ms", f"{name} {quantile}"
    return [
        Figure(name, "ratio", ratio(key, quantile), 1.2, 1.05),
        Figure(f"{name}, {first}", "ms", latency(key, quantile)),
        Figure(f"{name}, {second}", "ms", latency(key, quantile, side=1)),
    ]


ONE = [("--agents", 1), ("--submitters", 1)]
QUIET = [("--agents", 10000), ("--rate", 0)]
HALF = [("--agents", 1000), ("--rate", 500)]

WORKLOADS = [
    Workload("closed", "1,000 agents, 256 submitters that wait", 20, [[("--agents", 1000), ("--submitters", 256)]], [
        Figure("completed", "/s", report("completed_per_s"), 5000, 12000, more_is_better=True),
    ]),
    Workload("one", "1 agent, 1 submitter", 20, [ONE], [
        Figure("stored p50", "ms", latency("stored_ms", "p50"), 1.0, 0.6),
        Figure("stored p99", "ms", latency("stored_ms", "p99"), 3),
    ]),
    Workload("real", "1 real agent, 1 submitter", 20, [[*ONE, ("--real", None)]], [
        Figure("stored p50", "ms", latency("stored_ms", "p50"), 3, 2),
        Figure("stored p99", "ms", latency("stored_ms", "p99"), 10, 5),
    ]),
    Workload("rate", "1,000 commands a second to 1,000 agents", 20, [[("--agents", 1000), ("--rate", 1000)]], [
        Figure("journaled p99", "ms", latency("journaled_ms", "p99"), 15, 5),
    ]),
    # Long enough for several pings of each agent.
    Workload("idle", "10,000 idle agents", 60, [QUIET], idle(200, 120)),
    Workload("idle-tls", "10,000 idle agents, TLS", 60, [[*QUIET, ("--tls", None)]], idle(300, 200)),
    # Long enough for several commands, each of which takes seconds.
    Workload("all", "one command to 10,000 agents", 60, [[("--agents", 10000), ("--all", None), ("--submitters", 1)]], [
        Figure("durable p50", "s", latency("durable_ms", "p50", 0.001), 0.5, 0.2),
        Figure("stored p50", "s", latency("stored_ms", "p50", 0.001), 5, 2),
    ]),
    # What counts has happened before anything is measured.
    Workload("restart", "5,000 agents after a kill of the server", 2,
             [[("--agents", 5000), ("--restart", None), ("--rate", 0)]],
             [Figure("all are back", "s", report("restart_s"), 30, 10)]),
    Workload("history", "1,000,000 finished deliveries against none", 20,
             [[*ONE, ("--history", 1000000)], [*ONE, ("--history", 0)]],
             compared("durable", "p50", "with them", "without")),
    # Longer than a black-holed agent takes to be evicted and to come again.
    Workload("black-hole", "half of 1,000 agents black-holed against none: the healthy ones", 45,
             [[*HALF, ("--black-hole", 50)], [*HALF, ("--black-hole", 0)]],
             compared("stored", "p99", "half black-holed", "none") + compared("journaled", "p99", "half black-holed", "none")),
]
