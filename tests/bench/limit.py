#!/usr/bin/env python3
"""Measures what this host can do at best, without the program: its disk, bare SQLite, and bare sockets.

    python3 tests/bench/limit.py [--seconds 3] [--quick] [--out FILE]

Three things that every command costs, whatever the program does around them:

* **disk**: 4 KiB and `fdatasync`, again and again, in one file: appended, where the file system has to note a new length each
  time, and over what is there, as SQLite does with its log once that has its size. A commit is one of the latter.
* **SQLite**: a bare loop in WAL mode with `synchronous=FULL`, as the server has it: BEGIN, so many rows into a table with
  one index that grows at its end, COMMIT, with checkpoints. With more rows in a commit the disk is shared and the CPU counts.
* **frames**: the bytes of one command over loopback TCP between two processes, as they are seen on the wire: request and
  answer on one connection; dispatch, accepted, started, finished and stored on a second one. Either one command after
  the other, where each step wakes a process, or several under way, where wake-ups are shared.

It is a measure to compare with, not a law: the loops are Python, whose own work is in their CPU seconds (most of what is
not in the kernel), so a program that is written well may come closer than they do, and for rows and frames even pass them.
Their SQLite is the one of this Python. Files are in TMPDIR, else in /var/tmp, which must not be in memory.
"""

import argparse
import itertools
import multiprocessing
import os
import pathlib
import resource
import signal
import socket
import sqlite3
import sys
import tempfile
import time

import runs
from tables import at, number, table

SYNC_BYTES = 4096
APPENDED, OVER = "appended", "over what is there"
# SQLite begins its log anew about after so many pages.
LOG_PAGES = 1000
# More rows than fit into so many.
LOG_ROWS = 40_000
ROWS_PER_COMMIT = [1, 100, 1000]
# Commands under way at one time.
UNDER_WAY = [1, 64]
# Bytes on the wire of a command with two short words.
REQUEST, ANSWER, DISPATCH, ACCEPTED, STARTED, FINISHED, STORED = 272, 817, 294, 75, 74, 205, 69
IN_MEMORY = ("tmpfs", "ramfs")


def disk_folder():
    """Where files are written: on a disk, or the figures would not be true."""
    folder = os.environ.get("TMPDIR", "/var/tmp")
    if runs.mount(folder)[1] in IN_MEMORY:
        sys.exit(f"{folder} is in memory: commits to it cost nothing; name a folder on a disk with TMPDIR")
    return folder


def cpu():
    """CPU seconds of this process: its own, the kernel's."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime


def disk(folder, how, seconds):
    """`fdatasync` after each block: appended, or over what is there."""
    times, block = [], os.urandom(SYNC_BYTES)
    file = os.open(folder / how, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        if how == OVER:
            os.write(file, block * LOG_PAGES)
            os.fsync(file)
            os.lseek(file, 0, os.SEEK_SET)
        begun = time.perf_counter()
        while not times or time.perf_counter() - begun < seconds:
            before = time.perf_counter()
            os.write(file, block)
            os.fdatasync(file)
            if how == OVER and len(times) % LOG_PAGES == LOG_PAGES - 1:
                os.lseek(file, 0, os.SEEK_SET)
            times.append(time.perf_counter() - before)
        took = time.perf_counter() - begun
    finally:
        os.close(file)
    return {"how": how, "per_s": len(times) / took, "p50_ms": at(times, 0.5) * 1000, "p99_ms": at(times, 0.99) * 1000}


def sqlite(folder, rows, seconds):
    """Commits of so many rows each."""
    database = sqlite3.connect(folder / f"rows-{rows}.db", isolation_level=None)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -16000"):
            database.execute(f"PRAGMA {pragma}").fetchall()
        database.execute("CREATE TABLE rows (seq INTEGER PRIMARY KEY, id BLOB NOT NULL, state TEXT NOT NULL, due_ms INTEGER, "
                         "spec TEXT)")
        # Ids grow with time, as the server's do: in any other order each row would touch a page of its own.
        database.execute("CREATE UNIQUE INDEX rows_id ON rows (id)")
        insert = "INSERT INTO rows (id, state, due_ms, spec) VALUES (?, 'queued', ?, ?)"
        numbers, spec = itertools.count(), "x" * 100
        make = lambda count: [(number.to_bytes(16, "big"), number, spec) for number in itertools.islice(numbers, count)]
        # The log gets its size, so that what follows is written over it.
        database.execute("BEGIN IMMEDIATE")
        database.executemany(insert, make(LOG_ROWS))
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        times, commits = [], []
        used, begun = cpu(), time.perf_counter()
        while not times or time.perf_counter() - begun < seconds:
            before = time.perf_counter()
            database.execute("BEGIN IMMEDIATE")
            database.executemany(insert, make(rows))
            written = time.perf_counter()
            database.execute("COMMIT")
            done = time.perf_counter()
            times.append(done - before)
            commits.append(done - written)
        took, used = time.perf_counter() - begun, sum(cpu()) - sum(used)
    finally:
        database.close()
    total = len(times) * rows
    return {"rows_per_commit": rows, "rows_per_s": total / took, "commits_per_s": len(times) / took,
            "commit_p50_ms": at(commits, 0.5) * 1000, "cpu_s_per_1000_rows": used / total * 1000}


def receive(link, count, room=memoryview(bytearray(65536))):
    """Exactly so many bytes; whether they came."""
    while count:
        got = link.recv_into(room, count)
        if not got:
            return False
        count -= got
    return True


def serve(listener, under_way, told):
    """The server's side, in a process of its own, until the other side hangs up."""
    # Whoever started us ends us, by hanging up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    answer, dispatch, stored = bytes(ANSWER), bytes(DISPATCH), bytes(STORED)
    links = [(quick(listener.accept()[0]), quick(listener.accept()[0])) for _ in range(under_way)]
    listener.close()
    before = cpu()
    while all(take_in(client, agent, answer, dispatch) for client, agent in links):
        for _, agent in links:
            receive(agent, ACCEPTED + STARTED + FINISHED)
            agent.sendall(stored)
    told.send([after - before for after, before in zip(cpu(), before)])


def take_in(client, agent, answer, dispatch):
    if not receive(client, REQUEST):
        return False
    client.sendall(answer)
    agent.sendall(dispatch)
    return True


def quick(link):
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def frames(under_way, seconds):
    """Commands over loopback TCP, so many under way at one time."""
    fork = multiprocessing.get_context("fork")
    told, tell = fork.Pipe(duplex=False)
    links = []
    with socket.create_server(("127.0.0.1", 0), backlog=2 * under_way) as listener:
        server = fork.Process(target=serve, args=(listener, under_way, tell), daemon=True)
        server.start()
        address = listener.getsockname()
        try:
            # The server takes them in this order: the client's, the agent's, and so on.
            links = [(quick(socket.create_connection(address)), quick(socket.create_connection(address)))
                     for _ in range(under_way)]
            took, count, own = submit(links, seconds)
            for link in (link for pair in links for link in pair):
                link.shutdown(socket.SHUT_WR)
            if not told.poll(10):
                sys.exit("the other process of the frames' loop did not end")
            other = told.recv()
        finally:
            for link in (link for pair in links for link in pair):
                link.close()
            server.terminate()
            server.join()
    thousands = count / 1000
    return {"under_way": under_way, "per_s": count / took, "cpu_s_per_1000": (sum(own) + sum(other)) / thousands,
            "server_cpu_s_per_1000": sum(other) / thousands, "kernel_cpu_s_per_1000": (own[1] + other[1]) / thousands}


def submit(links, seconds):
    """The submitters' and the agents' side."""
    request = bytes(REQUEST)
    said = [bytes(ACCEPTED), bytes(STARTED), bytes(FINISHED)]
    before, begun, count = cpu(), time.perf_counter(), 0
    while not count or time.perf_counter() - begun < seconds:
        for client, _ in links:
            client.sendall(request)
        for client, agent in links:
            receive(client, ANSWER)
            receive(agent, DISPATCH)
            # An agent says them one by one: each is due as soon as it is true.
            for frame in said:
                agent.sendall(frame)
        for _, agent in links:
            receive(agent, STORED)
        count += len(links)
    took = time.perf_counter() - begun
    return took, count, [after - before for after, before in zip(cpu(), before)]


def measure(seconds):
    """All three, each for so long."""
    with tempfile.TemporaryDirectory(prefix="postrider-limit-", dir=disk_folder()) as folder:
        folder = pathlib.Path(folder)
        return {"disk": [disk(folder, how, seconds) for how in (APPENDED, OVER)],
                "sqlite": [sqlite(folder, rows, seconds) for rows in ROWS_PER_COMMIT],
                "frames": [frames(under_way, seconds) for under_way in UNDER_WAY]}


def show(found):
    """The tables."""
    rows = [[loop["how"], *[number(loop[key]) for key in ("per_s", "p50_ms", "p99_ms")]] for loop in found["disk"]]
    print(table(["4 KiB and fdatasync", "times/s", "p50, ms", "p99, ms"], rows) + "\n")
    keys = ["rows_per_s", "commits_per_s", "commit_p50_ms", "cpu_s_per_1000_rows"]
    rows = [[f"{loop['rows_per_commit']:,}", *[number(loop[key]) for key in keys]] for loop in found["sqlite"]]
    head = ["SQLite, rows in a commit", "rows/s", "commits/s", "p50 of COMMIT, ms", "CPU s per 1,000 rows"]
    print(table(head, rows) + "\n")
    keys = ["per_s", "cpu_s_per_1000", "server_cpu_s_per_1000", "kernel_cpu_s_per_1000"]
    rows = [[f"{loop['under_way']:,}", *[number(loop[key]) for key in keys]] for loop in found["frames"]]
    print(table(["frames, commands under way", "commands/s", "CPU s per 1,000", "of it the server's side",
                 "of it in the kernel"], rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="of each of the seven loops (3)")
    parser.add_argument("--quick", action="store_true", help="half a second each")
    parser.add_argument("--out", metavar="FILE", help="for the figures, as JSON")
    args = parser.parse_args()
    runs.end_by_signal()
    host = runs.host()
    record = runs.Record(args.out, {"host": host})
    try:
        found = measure(0.5 if args.quick else args.seconds)
    except KeyboardInterrupt:
        sys.exit(130)
    record.add(limit=found)
    print(runs.host_line(host) + f"; SQLite {sqlite3.sqlite_version}.\n")
    show(found)


if __name__ == "__main__":
    main()
