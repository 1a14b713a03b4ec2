"""A POSIX queue's receiver, flooded by four senders."""

import json
import os
import subprocess
import tempfile

from .process import Failed, calls, finish, pinned, running, strace
from .table import C

SENDERS = 4
FEW, MANY = 4000, 24000
TIMED = 200000


def flooded(receiver, cpu, sender_pin, count, wrapper=()):
    """What the receiver reports of `count` messages."""
    name = f"/peers-{os.getpid()}"
    command = [*pinned(cpu), *wrapper, str(receiver.binary), *receiver.options, name, "-n", str(count)]
    senders = []
    try:
        with running(command) as process:
            if process.stdout.readline() != "ready\n":
                finish(process)
                raise Failed("the receiver did not start")
            send = [*sender_pin, str(C / "queue"), "send", name, "-n", str(count // SENDERS)]
            senders = [subprocess.Popen(send) for _ in range(SENDERS)]
            output = finish(process)[0]
    finally:
        for sender in senders:
            sender.kill()
            sender.wait()
        # Left by a receiver that was killed.
        subprocess.run([str(C / "queue"), "remove", name])
    return output


def syscalls(receiver, cpu):
    """System calls a message. The senders share the receiver's core and have a higher priority, where SCHED_FIFO is
    permitted: they fill each free place at once, so the receiver always finds a message, also on a busy machine.
    """

    def counted(count):
        with tempfile.NamedTemporaryFile("r") as summary:
            flooded(receiver, cpu, pinned(cpu, realtime=True), count, strace(summary.name))
            return sum(calls(summary.read()).values())

    return (counted(MANY) - counted(FEW)) / (MANY - FEW)


def timed(receiver, cpu, sender_cpu, shorter):
    report = json.loads(flooded(receiver, cpu, pinned(sender_cpu), TIMED // shorter))
    report["rate"] = report["messages"] * 1e9 / report["elapsed_ns"]
    return report
