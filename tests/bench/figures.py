#!/usr/bin/env python3
"""Measures what the server promises: each workload several times, the medians beside the targets, as a Markdown table.

    cargo build --release && python3 tests/bench/figures.py [BINARY] [--runs 5] [--only NAME]... [--seconds N]
        [--quick] [--out FILE]

Each run is one `postrider bench`, with a server and a database of its own on a real disk. Workloads that compare take
turns: one run with, one without, and so on; their figure is the median of the ratios of neighbours, so that a host which
becomes slower meanwhile does not decide. `met` says whether the median is within the target, or even within the aim.

The generator shares the host with the server. Its share is in the table and is told below it: where it is a bound, the
server alone can do better than the figure says. `--out` keeps every report as JSON, also when it is ended by Ctrl-C.

`--quick` tries the script: one short run of each workload with a tenth of the agents. Its figures are not to be compared
with the targets. Exits 1 if a run failed, 0 otherwise, whatever the figures are.
"""

import argparse
import sys

import runs
from tables import median, number, spread, table
from workloads import WORKLOADS

HEAD = ["workload", "figure", "median", "min–max", "target", "aim", "met", "server", "generator", "command"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="?", default=runs.BINARY, metavar="BINARY")
    parser.add_argument("--runs", type=int, help="of each workload (5)")
    parser.add_argument("--only", action="append", choices=[workload.name for workload in WORKLOADS], metavar="NAME",
                        help="only this workload; may be repeated: " +
                             ", ".join(workload.name for workload in WORKLOADS))
    parser.add_argument("--seconds", type=int, help="of each run, where the workload would have more")
    parser.add_argument("--quick", action="store_true", help="one short run each, with a tenth of the agents")
    parser.add_argument("--out", metavar="FILE", help="for all reports, as JSON")
    args = parser.parse_args()
    args.runs = (1 if args.quick else 5) if args.runs is None else args.runs
    if args.runs < 1:
        parser.error("--runs must be at least 1")
    return args


class Measured:
    """What the runs of one workload gave."""

    def __init__(self, workload):
        # For each turn: the reports of its sides, in the workload's order.
        self.workload, self.turns, self.trouble = workload, [], None

    def reports(self):
        return [report for turn in self.turns for report in turn]

    def rows(self, is_quick):
        sides = self.workload.commands(is_quick)
        command = " against ".join(f"`{runs.shown(side)}`" for side in sides)
        if self.trouble:
            yield [self.workload.what, "**failed**", *["–"] * 7, command]
        elif self.turns:
            server = median([report["server_cores"] for report in self.reports()])
            generator = median([report["generator_cores"] for report in self.reports()])
            shared = [percent(server), percent(generator), command]
            for figure in self.workload.figures:
                values = [figure.of(turn) for turn in self.turns]
                middle = median(values)
                met = "–" if is_quick else figure.judge(middle)
                name = figure.name + (f", {figure.unit}" if figure.unit else "")
                is_first = figure is self.workload.figures[0]
                yield [self.workload.what if is_first else "", name, number(middle), spread(values),
                       figure.wanted(figure.target), figure.wanted(figure.aim), met, *(shared if is_first else [""] * 3)]


def percent(share):
    return f"{share * 100:.0f} %"


def measure(args, binary, record, all_measured):
    chosen = [workload for workload in WORKLOADS if not args.only or workload.name in args.only]
    for workload in chosen if args.seconds else []:
        workload.seconds = min(workload.seconds, args.seconds)
    seconds = sum(workload.seconds_least(args.quick) for workload in chosen) * args.runs
    tell(f"{sum(len(workload.sides) for workload in chosen) * args.runs} runs, {seconds / 60:.0f} minutes "
         "and what it takes to bring up fleets and databases")
    for workload in chosen:
        measured = Measured(workload)
        all_measured.append(measured)
        for turn in range(args.runs):
            try:
                measured.turns.append([one(binary, workload, side, turn, record) for side in workload.commands(args.quick)])
            except runs.RunFailed as failed:
                tell(f"{workload.name}: {failed}")
                measured.trouble = failed
                break


def one(binary, workload, side, turn, record):
    tell(f"{workload.name}, turn {turn + 1}: {runs.shown(side)}")
    report = runs.run(binary, side)
    record.add(workload=workload.name, turn=turn + 1, command=runs.shown(side), report=report)
    tell(f"  {report['verdict']} (generator: {percent(report['generator_cores'])} of a core)")
    return report


def tell(text):
    print(text, file=sys.stderr, flush=True)


def show(args, host, all_measured):
    if args.quick:
        print("A trial of the script with a tenth of the agents and short runs: not figures to compare with the targets.\n")
    print(runs.host_line(host) + f"; {args.runs} runs of each.\n")
    print(table(HEAD, [row for measured in all_measured for row in measured.rows(args.quick)]))
    reports = [report for measured in all_measured for report in measured.reports()]
    if not reports:
        return
    most = max(reports, key=lambda report: report["generator_cores"])
    both = max(report["generator_cores"] + report["server_cores"] for report in reports)
    print(f"\nThe generator took at most {percent(most['generator_cores'])} of a core; it and the server together at most "
          f"{percent(both)} of the {runs.cores() * 100} % that this host has.")
    shared = [measured.workload.name for measured in all_measured if any(map(runs.is_shared, measured.reports()))]
    if shared:
        print(f"In {', '.join(shared)} it was a bound: it took more than {percent(runs.GENERATOR_MOST)} of a core, or both "
              f"together more than {percent(runs.HOST_MOST)} of all cores. The server alone can do better than is said there.")
    else:
        print("It was nowhere a bound.")


def main():
    args = parse()
    runs.end_by_signal()
    binary, host, all_measured, code = runs.find(args.binary), runs.host(), [], 0
    record = runs.Record(args.out, {"host": host, "quick": args.quick})
    try:
        measure(args, binary, record, all_measured)
    except KeyboardInterrupt:
        tell("ended early: what was measured until now")
        code = 130
    show(args, host, all_measured)
    sys.exit(code or int(any(measured.trouble for measured in all_measured)))


if __name__ == "__main__":
    main()
