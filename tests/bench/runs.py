"""Runs `postrider bench` and reads its figures: what figures.py and growth.py share."""

import datetime
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys

BINARY = "target/release/postrider"
# How long a run may take to stop once it is asked to, in seconds; and how often it is asked.
STOP_SECONDS, STOP_TIMES = 20, 3
# With the generator above this share of a core its own delays show in the latencies.
GENERATOR_MOST = 0.5
# With both above this share of all cores the server would do more if the generator were elsewhere.
HOST_MOST = 0.9


class RunFailed(Exception):
    """A run that gave no figures, or not the ones that were asked for."""


def end_by_signal():
    """SIGTERM and the terminal's end stop us as Ctrl-C does: in order."""
    def stop(*_):
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def find(binary):
    """The program's whole path, once it is sure that it has the verb."""
    path = pathlib.Path(binary).resolve()
    if not path.is_file():
        sys.exit(f"{binary} is not there: `cargo build --release` makes {BINARY}; another one goes first among the arguments")
    try:
        asked = subprocess.run([path, "bench", "--help"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        sys.exit(f"{binary} cannot be run: {error}")
    if asked.returncode != 0:
        sys.exit(f"{binary} has no verb `bench` (exit code {asked.returncode}): build it anew\n{asked.stderr}")
    return str(path)


def shown(args):
    """The command as one types it."""
    return " ".join(["postrider", "bench", *args])


def run(binary, args):
    """One run; its report. A Ctrl-C is passed on, and waited for until the run has removed its folder."""
    # A session of its own: the terminal's Ctrl-C reaches it through us alone, and so exactly once.
    process = subprocess.Popen([binary, "bench", *args, "--json"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, err = process.communicate()
    except BaseException:
        end(process)
        raise
    if process.returncode != 0:
        raise RunFailed(f"`{shown(args)}` ended with exit code {process.returncode}\n{err.strip()}\n{out.strip()}".rstrip())
    try:
        return json.loads(out)
    except ValueError:
        raise RunFailed(f"`{shown(args)}` printed no JSON:\n{out.strip()}\n{err.strip()}".rstrip()) from None


def end(process):
    """Asks a run to stop; a further Ctrl-C makes it hurry. Killed at once, it would leave its folder behind."""
    print("stopping the run …", file=sys.stderr)
    for _ in range(STOP_TIMES):
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=STOP_SECONDS)
            return
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            continue
    process.kill()
    process.wait()


def cores():
    """How many cores this process, and so a run, may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def host():
    """What the figures were measured on, and whether it had something else to do."""
    folder = os.environ.get("TMPDIR", "/var/tmp")
    memory = field("/proc/meminfo", "MemTotal").split()
    return {"cpu": field("/proc/cpuinfo", "model name") or platform.machine(), "cores": cores(),
            "memory_gib": round(int(memory[0]) / 1024 / 1024, 1) if memory else None,
            "system": f"{platform.system()} {platform.release()}", "file_system": mount(folder)[1],
            "load_before": round(os.getloadavg()[0], 2), "date": datetime.date.today().isoformat()}


def host_line(found):
    """The same in one line."""
    return (f"{found['date']}: {found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB of memory, "
            f"{found['system']}, {found['file_system']}, load before {found['load_before']}")


def field(path, name):
    try:
        for line in pathlib.Path(path).read_text().splitlines():
            if line.startswith(name):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def mount(folder):
    """Where the file system of a folder is mounted, and its type."""
    folder, best = os.path.realpath(folder), ("", "unknown")
    try:
        for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
            _, point, kind = line.split()[:3]
            point = point.replace("\\040", " ")
            # The later one of two at one place lies on top.
            if os.path.commonpath([point, folder]) == point and len(point) >= len(best[0]):
                best = (point, kind)
    except OSError:
        pass
    return best


def is_shared(report):
    """Whether the generator had a part in the figures, and the server alone would be better than they say."""
    own, server = report["generator_cores"], report["server_cores"]
    return own > GENERATOR_MOST or own + server > HOST_MOST * cores()


class Record:
    """All reports, as a JSON file that is whole after each run."""

    def __init__(self, path, about):
        self.path, self.all = path and pathlib.Path(path), {**about, "runs": []}
        self.save()

    def add(self, **run):
        self.all["runs"].append(run)
        self.save()

    def save(self):
        if not self.path:
            return
        new = self.path.with_name(self.path.name + ".new")
        try:
            new.write_text(json.dumps(self.all, indent=1) + "\n")
            new.replace(self.path)
        except OSError as error:
            sys.exit(f"{self.path} cannot be written: {error.strerror}")
