"""How a program is started, on which core, under which tool; and that it ends."""

import json
import os
import re
import signal
import subprocess
import tempfile
from contextlib import contextmanager

from .table import C

PIN = str(C / "pin")
# What the servers are started by; --as-kernel.
LAUNCHER = []
TIMEOUT_S = 120
# To a file that nobody keeps: the sum is all that is wanted, and it is on standard error.
CALLGRIND = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]


class Failed(Exception):
    """A number that could not be taken, and why."""


def pinned(cpu, realtime=False, ordinary=False):
    return [PIN, *(["-r"] if realtime else []), *(["-o"] if ordinary else []), str(cpu)]


def realtime_is_permitted():
    # What `pin -r` silently goes without; asked of a child, so that this process stays as it is.
    done = subprocess.run(
        ["chrt", "--fifo", "1", "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return done.returncode == 0


def cpus():
    """The core that both ends share, and one for the client of the cross-core case (or None)."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], (allowed[0] if len(allowed) > 1 else None)


def last_line(text):
    # Without what valgrind says of itself.
    lines = [line for line in text.strip().splitlines() if not line.startswith("==")]
    return f": {lines[-1][:200]}" if lines else ""


def strace(summary):
    return ["strace", "-f", "-c", "-qq", "-o", summary]


def calls(summary):
    """What `strace -c` counted, by name."""
    counted = {}
    for line in summary.splitlines():
        fields = line.split()
        # seconds, calls, maybe errors, name
        if len(fields) >= 5 and fields[0].replace(".", "").isdigit():
            counted[fields[-1]] = int(fields[3])
    if counted.pop("total", None) is None:
        raise Failed("strace gave no summary")
    return counted


@contextmanager
def running(command):
    """A program with all the processes that it starts, none of which is left."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        process.errors = errors
        try:
            yield process
        finally:
            try:
                # Its group outlives it if its child does.
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            process.stdout.close()


def finish(process):
    """What a program that `running` started says at its end."""
    try:
        output = process.communicate(timeout=TIMEOUT_S)[0]
    except subprocess.TimeoutExpired:
        raise Failed("did not finish")
    process.errors.seek(0)
    errors = process.errors.read()
    if process.returncode != 0:
        raise Failed(f"ended with status {process.returncode}{last_line(errors)}")
    return output, errors


def report_of(command):
    """The JSON that a program prints."""
    with running([str(word) for word in command]) as process:
        return json.loads(finish(process)[0])


def calls_of(cpu, command):
    """The system calls of a program and its children, from start to end."""
    with tempfile.NamedTemporaryFile("r") as summary:
        with running(
            [str(word) for word in [*pinned(cpu, realtime=True), *strace(summary.name), *command]]
        ) as process:
            finish(process)
        return calls(summary.read())


def instructions_of(cpu, command):
    """The user instructions of a program that starts no other."""
    with running([str(word) for word in [*pinned(cpu), *CALLGRIND, *command]]) as process:
        errors = finish(process)[1]
    collected = re.search(r"Collected : (\d+)", errors)
    if not collected:
        raise Failed(f"callgrind tells no count{last_line(errors)}")
    return int(collected[1])
