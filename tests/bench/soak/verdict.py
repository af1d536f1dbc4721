"""Compares what was asked with what the server tells and with what ran, and prints what came of it."""

import bisect
import collections

from soak.sessions import Sessions
from soak.work import KINDS

# After the last heal of a round everything has to be ended within this time.
ENDED_WITHIN = 60
NEVER_RAN = {"expired", "cancelled", "refused"}
WHOLE = {"succeeded"}


class Verdict:
    def __init__(self):
        self.violations = collections.defaultdict(list)

    def violation(self, what, which):
        self.violations[what].append(which)

    def judge(self, fleet, chaos, work, rounds):
        history = fleet.history()
        ids = {asked.id for asked in work.asked}
        states = collections.Counter()
        for extra in history.keys() - ids:
            self.violation("in the history, never answered", extra)
        runs = {name: collections.Counter(fleet.runs(name).read_text().split()) if fleet.runs(name).exists() else {}
                for name in fleet.names}
        for name in fleet.names:
            for run, count in runs[name].items():
                if count > 1:
                    self.violation("run twice", f"{run} on {name}: {count} times")
        for asked in work.asked:
            command = history.get(asked.id)
            if command is None:
                self.violation("missing", asked.run)
                continue
            told = {delivery["agent_name"]: delivery for delivery in command["deliveries"]}
            if sorted(told) != sorted(asked.agents):
                self.violation("other agents than asked", f"{asked.run}: {sorted(told)}")
            for name, delivery in told.items():
                states[delivery["state"]] += 1
                self.delivery(asked, name, delivery, runs[name].get(asked.run, 0))
        for asked in work.asked:
            if asked.id in history and asked.output() is not None:
                self.output(fleet, asked, history[asked.id]["deliveries"][0])
        for trouble in work.trouble:
            self.violation("not answered or refused", trouble)
        for name in fleet.fallen:
            self.violation("ended by itself", name)
        sessions = Sessions(fleet.server_log, chaos)
        for line in sessions.healthy_ended:
            self.violation("evictions of healthy sessions", line)
        for line in sessions.unexplained:
            self.violation("sessions that ended for a reason that no fault explains", line)
        for line in sessions.panics:
            self.violation("panics", line)
        heals = [self.heal(history, *round) for round in rounds]
        self.print(chaos, work, history, states, sessions, heals, latencies(fleet, chaos, work, history, sessions))
        return not self.violations

    def delivery(self, asked, name, delivery, count):
        state, ran = delivery["state"], f"{asked.run} ({asked.kind}) on {name}: {delivery['state']}, {count} runs"
        if state == "lost":
            self.violation("lost", ran)
        elif state not in KINDS[asked.kind][1]:
            self.violation("ends that this kind cannot come to", f"{ran}: {delivery}")
        if state in WHOLE and count != 1:
            self.violation("liars: succeeded without one run", ran)
        if state in NEVER_RAN and delivery.get("duration_ms") is None and count:
            self.violation("liars: never started, and has run", ran)

    def output(self, fleet, asked, delivery):
        stored, gap = fleet.output(asked.id, delivery["agent_name"])
        expected = asked.output()
        right = stored == expected if delivery["state"] == "succeeded" else expected.startswith(stored)
        if gap or not right:
            what = f"{asked.run} on {delivery['agent_name']}: {delivery['state']}, {len(stored)} of {len(expected)} bytes"
            self.violation("output differs", f"{what}, {gap or 'no gap'}")

    def heal(self, history, healed, still_open):
        """How many deliveries were open at the heal, and when the last of them ended."""
        ends = [delivery["finished_ms"] / 1000 - healed
                for command in history.values() for delivery in command["deliveries"]
                if command["created_ms"] / 1000 <= healed and (delivery["finished_ms"] or 0) / 1000 > healed]
        longest = max(ends, default=0)
        if longest > ENDED_WITHIN or still_open:
            self.violation(f"not ended within {ENDED_WITHIN} s of the last heal", f"{longest:.1f} s, open: {still_open}")
        return len(ends), longest

    def print(self, chaos, work, history, states, sessions, heals, spans):
        print(f"done: {', '.join(f'{count} {what}' for what, count in sorted(chaos.counts.items()))}")
        print(f"commands: {work.tries} submitted, {len(work.asked)} answered, {len(history)} in the history")
        print(f"deliveries by state: {', '.join(f'{count} {state}' for state, count in states.most_common())}")
        print(f"sessions: {sessions.begun} begun; ends by reason: {dict(sessions.reasons.most_common())}; "
              f"{sessions.bad_frames} bad frames")
        print("after each last heal: " + ", ".join(f"{count} open, all ended in {longest:.1f} s" for count, longest in heals))
        if spans:
            at = lambda share: spans[int(share * (len(spans) - 1))]
            print(f"plain commands of connected bystanders: {len(spans)}, submission to end p50 {at(.5)} ms, "
                  f"p99 {at(.99)} ms, longest {spans[-1]} ms")
        for what in ("missing", "lost", "run twice", "liars: succeeded without one run",
                     "liars: never started, and has run", "output differs",
                     f"not ended within {ENDED_WITHIN} s of the last heal", "evictions of healthy sessions"):
            print(f"{what}: {len(self.violations.get(what, []))}")
        for what, which in self.violations.items():
            print(f"VIOLATION: {what}: {len(which)}")
            for one in which[:5]:
                print(f"    {one}")


def latencies(fleet, chaos, work, history, sessions):
    """Milliseconds from the submission to the end, of plain commands that a bystander got in one whole session."""
    spans = []
    for asked in work.asked:
        if asked.kind != "plain" or asked.agents[0] not in fleet.bystanders or asked.id not in history:
            continue
        delivery, created = history[asked.id]["deliveries"][0], history[asked.id]["created_ms"]
        finished = delivery["finished_ms"] or created
        connects = sessions.connected[asked.agents[0]]
        before = bisect.bisect(connects, created / 1000)
        if before and not any(connects[before - 1] <= kill <= finished / 1000 for kill in chaos.server_killed):
            spans.append(finished - created)
    return sorted(spans)
