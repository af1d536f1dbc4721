#!/usr/bin/env python3
"""Measures how throughput and cost grow with the fleet: 10 to 10,000 agents under the same 256 submitters.

    cargo build --release && python3 tests/bench/growth.py [BINARY] [--runs 3] [--duration 20] [--quick] [--out FILE] [--svg FILE]

A closed loop with each size; the medians as a Markdown table and as `growth.svg` beside this script. If nothing in the
server grows with the fleet except memory, completed/s and CPU for 1,000 commands stay as they are from size to size.

The physical limit beside them is limit.py's, the better of a measurement before and one after, for as many rows as a command
writes here: it is the lower of what bare SQLite can write on this disk, and of what all cores can do if they do nothing but
bare SQLite's rows and the bare frames, both ends. limit.py says what these loops leave out and what Python adds.

`--quick` tries the script: small fleets, short runs, no picture unless `--svg` names it.
"""

import argparse
import pathlib
import sys

import chart
import limit
import runs
from tables import median, number, spread, table

SIZES, QUICK_SIZES = [10, 100, 1000, 10000], [10, 100, 1000]
SUBMITTERS = 256
HEAD = ["agents", "completed/s", "min–max", "CPU s per 1,000", "server, MiB at most", "rows per commit", "commits/s",
        "rows per command", "server", "generator", "limit/s", "of the limit", "what limits"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default=runs.BINARY, metavar="BINARY")
    parser.add_argument("--runs", type=int, help="with each size (3)")
    parser.add_argument("--duration", type=int, help="of each run, in seconds (20)")
    parser.add_argument("--quick", action="store_true", help="small fleets, one short run each")
    parser.add_argument("--out", metavar="FILE", help="for all reports, as JSON")
    parser.add_argument("--svg", metavar="FILE", help="for the picture (growth.svg beside this script)")
    args = parser.parse_args()
    runs_default, duration_default = (1, 2) if args.quick else (3, 20)
    args.runs = runs_default if args.runs is None else args.runs
    args.duration = duration_default if args.duration is None else args.duration
    if min(args.runs, args.duration) < 1:
        parser.error("--runs and --duration must be at least 1")
    if not args.svg and not args.quick:
        args.svg = pathlib.Path(__file__).with_name("growth.svg")
    return args


class Size:
    """The runs with one size of the fleet."""

    def __init__(self, agents):
        self.agents, self.reports = agents, []

    def args(self, seconds):
        return ["--agents", str(self.agents), "--submitters", str(SUBMITTERS), "--duration", f"{seconds}s"]

    def all(self, name):
        return [report[name] for report in self.reports]

    def middle(self, name):
        return median(self.all(name))

    def rows_per_command(self):
        return median([report["commits_per_s"] * report["rows_per_commit"] / report["completed_per_s"]
                       for report in self.reports if report["completed_per_s"]])

    def bar(self, name):
        values = [value for value in self.all(name) if value is not None]
        return self.agents, median(values), min(values), max(values)


class Limit:
    """What the host can do at best, by limit.py's loops."""

    def __init__(self, measured):
        loops = [loop for found in measured for loop in found["sqlite"]]
        self.rows_per_s = max(loop["rows_per_s"] for loop in loops)
        self.cpu_per_row = min(loop["cpu_s_per_1000_rows"] for loop in loops) / 1000
        frames = min((loop for found in measured for loop in found["frames"]), key=lambda loop: loop["cpu_s_per_1000"])
        self.frames, self.server_frames = frames["cpu_s_per_1000"] / 1000, frames["server_cpu_s_per_1000"] / 1000

    def commands(self, rows):
        """How many commands a second that write so many rows, and what ends it."""
        return min((self.rows_per_s / rows, "bare SQLite"),
                   (runs.cores() / (self.frames + rows * self.cpu_per_row), "all cores"))

    def server_cpu(self, rows):
        """The server's CPU seconds for 1,000 of them."""
        return (self.server_frames + rows * self.cpu_per_row) * 1000


def measure(args, binary, record):
    sizes, limits = [Size(agents) for agents in (QUICK_SIZES if args.quick else SIZES)], []
    seconds = 0.5 if args.quick else 3

    def limits_now():
        tell("what this host can do at best …")
        limits.append(limit.measure(seconds))
        record.add(limit=limits[-1])

    limits_now()
    # Size by size in each turn, so that a host that becomes slower meanwhile makes no curve.
    for turn in range(args.runs):
        for size in sizes:
            tell(f"turn {turn + 1}: {runs.shown(size.args(args.duration))}")
            report = runs.run(binary, size.args(args.duration))
            if not report["completed"]:
                raise runs.RunFailed(f"with {size.agents} agents nothing was completed: give it more than {args.duration} s")
            size.reports.append(report)
            record.add(turn=turn + 1, command=runs.shown(size.args(args.duration)), report=report)
            tell(f"  {report['completed_per_s']:.0f}/s, generator {report['generator_cores'] * 100:.0f} % of a core")
    limits_now()
    return sizes, Limit(limits)


def tell(text):
    print(text, file=sys.stderr, flush=True)


def rows(sizes, best):
    for size in sizes:
        completed, per_command = size.middle("completed_per_s"), size.rows_per_command()
        most, what = best.commands(per_command)
        yield [f"{size.agents:,}", number(completed), spread(size.all("completed_per_s")),
               number(size.middle("server_cpu_s_per_1000")), number(size.middle("server_mib_max")),
               number(size.middle("rows_per_commit")), number(size.middle("commits_per_s")), number(per_command),
               f"{size.middle('server_cores') * 100:.0f} %", f"{size.middle('generator_cores') * 100:.0f} %",
               number(most), f"{completed / most * 100:.0f} %", what]


def picture(sizes, best, host):
    per_size = [(size.agents, size.rows_per_command()) for size in sizes]
    lines = [(agents, best.commands(per_command)) for agents, per_command in per_size]
    most = [most for _, (most, _) in lines]
    named = f"{spread(most)}/s ({' or '.join(sorted({what for _, (_, what) in lines}))})"
    wide = chart.Panel("Commands completed a second", "agents", [size.bar("completed_per_s") for size in sizes],
                       [(agents, most) for agents, (most, _) in lines], f"physical limit of this host: {named}")
    cpu = chart.Panel("CPU seconds of the server for 1,000 commands", "agents",
                      [size.bar("server_cpu_s_per_1000") for size in sizes],
                      [(agents, best.server_cpu(per_command)) for agents, per_command in per_size],
                      "bare rows and bare frames")
    memory = chart.Panel("Memory of the server at most, MiB", "agents", [size.bar("server_mib_max") for size in sizes])
    about = f"{SUBMITTERS} submitters, each waits for its outcome; {host['cpu']}, {host['cores']} cores, {host['date']}"
    return chart.svg("How the server grows with the fleet", about, wide, [cpu, memory])


def show(args, sizes, best, host):
    if args.quick:
        print("A trial of the script: small fleets, short runs.\n")
    print(runs.host_line(host) + f"; {args.runs} runs of {args.duration} s with each size.\n")
    print(table(HEAD, list(rows(sizes, best))))
    print(f"\nEach run: `{runs.shown(Size('N').args(args.duration))}`. The shares of server and generator are of one core; "
          f"this host has {runs.cores()}.")
    shared = [f"{size.agents:,}" for size in sizes if any(map(runs.is_shared, size.reports))]
    if shared:
        print(f"With {', '.join(shared)} agents the generator was a bound: it took more than {runs.GENERATOR_MOST * 100:.0f} % "
              f"of a core, or it and the server together more than {runs.HOST_MOST * 100:.0f} % of all cores.")
    else:
        print("The generator was nowhere a bound.")


def main():
    args = parse()
    runs.end_by_signal()
    binary, host = runs.find(args.binary), runs.host()
    record = runs.Record(args.out, {"host": host, "quick": args.quick})
    try:
        sizes, best = measure(args, binary, record)
    except KeyboardInterrupt:
        sys.exit(130)
    except runs.RunFailed as failed:
        sys.exit(str(failed))
    show(args, sizes, best, host)
    image = picture(sizes, best, host)
    if args.svg:
        pathlib.Path(args.svg).write_text(image)
        tell(f"{args.svg} is written")


if __name__ == "__main__":
    main()
