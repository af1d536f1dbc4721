#!/usr/bin/env python3
"""Runs a real server and real agents under kills, stops and broken links, and counts what became of every command.

    cargo build --release && python3 tests/bench/soak.py [--minutes 20] [--agents 10] [--seed N] [--keep]

In rounds of two minutes, the server and the agents are killed with -9, agents are stopped (SIGSTOP), and links are cut
with RST, made half-open in either direction or both, or held so that buffers fill; a stall takes 1 to 25 s. Every third
round leaves the server alone, so that both ends have to notice dead links by themselves. Meanwhile
commands of several kinds are submitted, each with an idempotency key and repeated until it is answered: plain, with
output of known bytes, long, large, to many agents, cancelled, with a short time to live, with a timeout that fires.
Each appends its number to a file of its agent, so that a second run is seen. After each round everything is healed, and
all deliveries have to end. Some agents (`--bystanders`) suffer nothing but the kills of the server.

The summary: what was done; what was submitted, answered, and how deliveries ended; why sessions ended; for each round,
how many deliveries were open at its last heal and how long after it the last of them ended; how long plain commands
took on bystanders meanwhile. Then the numbers that have to be 0, and one line for each kind of violation with the first
few examples. `lost` counts deliveries in the state `lost`, `missing` answered commands that the history does not have,
`liars` deliveries whose state contradicts the runs. A session is healthy if neither its agent nor its link was touched
in its last 25 s. Exits 1 on any violation. `--keep` leaves logs and databases where they are.

The seed fixes what is done and submitted, not the moments at which processes notice.
"""

import argparse
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

from soak.chaos import Chaos
from soak.fleet import Fleet
from soak.verdict import ENDED_WITHIN, Verdict
from soak.work import Work

ROUND_SECONDS = 120


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="of faults; each round's healing comes on top")
    parser.add_argument("--agents", type=int, default=10)
    parser.add_argument("--bystanders", type=int, default=2, help="of the agents, left alone")
    parser.add_argument("--submitters", type=int, default=4)
    parser.add_argument("--commands-per-s", type=float, default=50)
    parser.add_argument("--server-kills-per-min", type=float, default=12)
    parser.add_argument("--agent-kills-per-min", type=float, default=24)
    parser.add_argument("--stops-per-min", type=float, default=3)
    parser.add_argument("--link-stalls-per-min", type=float, default=6)
    parser.add_argument("--link-cuts-per-min", type=float, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--binary", default="target/release/postrider")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="soak-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    good = False
    try:
        good = soak(args, folder)
    finally:
        if args.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if good else 1)


def soak(args, folder):
    fleet = Fleet(args.binary, folder, args.agents, args.bystanders, args.seed)
    chaos = Chaos(fleet, args.seed, {
        "kill_server": args.server_kills_per_min, "kill_agent": args.agent_kills_per_min,
        "stop_agent": args.stops_per_min, "stall_link": args.link_stalls_per_min, "cut_link": args.link_cuts_per_min})
    rounds = []
    try:
        fleet.start()
        work = Work(fleet, args.seed, args.submitters, args.commands_per_s)
        left = args.minutes * 60
        while left > 0 and not work.trouble:
            work.going.set()
            healed = chaos.round(min(left, ROUND_SECONDS))
            left -= ROUND_SECONDS
            work.rest()
            still_open = wait_for_ends(fleet, healed)
            rounds.append((healed, still_open))
            print(f"{len(work.asked)} commands, {sum(chaos.counts.values())} disturbances, "
                  f"{time.time() - healed:.0f} s after the heal {still_open} open", flush=True)
        fleet.note_fallen()
        return Verdict().judge(fleet, chaos, work, rounds)
    finally:
        fleet.end()


def wait_for_ends(fleet, healed):
    """Waits until all deliveries have ended, or it took far too long; answers how many commands are open."""
    while True:
        still_open = fleet.open()
        if not still_open or time.time() - healed > 3 * ENDED_WITHIN:
            return still_open
        time.sleep(0.5)


if __name__ == "__main__":
    main()
