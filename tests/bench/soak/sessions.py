"""How sessions ended, as the log of the server tells it. A session whose server was killed has no end there."""

import collections
import datetime
import re

LINE = re.compile(r"^(\S+)\s+(?:INFO|WARN) (?:task\{.*?\}: )?(agent connected|agent's session ended|agent left) (.*)$")
FIELD = re.compile(r"(\w+)=(\S+)")
# A connection that is dead is noticed within this time: an end so long after the last disturbance has no excuse.
NOTICED_WITHIN = 25
# What an agent that was killed had already sent may still make a session, which ends as soon as it begins.
HANDSHAKE = 3
# Reasons that broken links, stopped processes and kills explain.
EXPLAINED = {"connection_lost", "pong_timeout", "write_timeout", "server_silent", "superseded", "accept_timeout"}


class Sessions:
    def __init__(self, log, chaos):
        self.begun, self.reasons = 0, collections.Counter()
        self.healthy_ended, self.unexplained, self.panics, self.bad_frames = [], [], [], 0
        begins = {}
        self.connected = collections.defaultdict(list)  # by agent: when, in Unix seconds
        for line in log.read_text(errors="replace").splitlines():
            self.bad_frames += " bad frame " in line
            if "panicked" in line:
                self.panics.append(line)
            found = LINE.match(line)
            if not found:
                continue
            at = datetime.datetime.fromisoformat(found[1]).timestamp()
            fields = dict(FIELD.findall(found[3]))
            session = (fields["agent"], fields["epoch"])
            if found[2] == "agent connected":
                self.begun += 1
                begins[session] = at
                self.connected[fields["agent"]].append(at)
                continue
            self.reasons[fields["reason"]] += 1
            begin = begins.get(session, at)
            since = max(at - NOTICED_WITHIN, begin - (HANDSHAKE if at - begin < HANDSHAKE else 0))
            if not chaos.touched(fields["agent"], since, at):
                self.healthy_ended.append(line)
            if fields["reason"] not in EXPLAINED:
                self.unexplained.append(line)
        if not begins:
            self.unexplained.append("no session in the log: its lines have changed, see soak/sessions.py")
