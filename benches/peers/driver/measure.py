"""How one number of an echo server is taken. Every function gives a value or raises Failed with the reason."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from . import process as programs
from .process import CALLGRIND, PIN, TIMEOUT_S, Failed, calls, last_line, pinned, strace
from .table import C, IDLE_FOR_MEMORY

BURST = str(C / "burst")


def probe(path, process, settle):
    """Waits until the server accepts, and gives its process id, which strace's child does not tell. To `settle`, it is
    seen to have gone to sleep after each of the two events that this makes: so their number is always the same.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            try:
                client.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                if process.poll() is not None:
                    raise Failed(f"ended at start with status {process.returncode}{said(process)}")
                time.sleep(0.005)
                continue
            pid = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            if settle:
                await_sleep(pid)
        if settle:
            await_sleep(pid)
        return pid
    raise Failed("does not accept")


def said(process):
    process.errors.seek(0)
    return last_line(process.errors.read().decode(errors="replace"))


def end(process, pid, how):
    os.kill(pid, how)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.kill(pid, signal.SIGKILL)
        process.wait()
        raise Failed("does not end on SIGTERM")


def await_sleep(pid):
    """Until the server has seen the load go: it sleeps, twice in a row."""
    asleep, deadline = 0, time.monotonic() + TIMEOUT_S
    while asleep < 2:
        if time.monotonic() > deadline:
            raise Failed("does not sleep after the load has gone")
        time.sleep(0.02)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if state == "S" else 0


@contextmanager
def serve(server, cpu, wrapper=(), how=signal.SIGTERM, **policy):
    """Runs the server, ends it, and gives its pid and socket path."""
    with tempfile.TemporaryDirectory(prefix="peers-") as folder, tempfile.TemporaryFile() as errors:
        path = os.path.join(folder, "socket")
        program = [str(server.binary), *server.options, server.address.format(path=path)]
        process = subprocess.Popen(
            [*pinned(cpu, **policy), *programs.LAUNCHER, *wrapper, *program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        process.errors = errors
        pid = None
        try:
            pid = probe(path, process, bool(wrapper))
            yield pid, path
            if process.poll() is not None:
                raise Failed(f"ended during the run with status {process.returncode}{said(process)}")
        finally:
            if process.poll() is None:
                end(process, pid or process.pid, how)
        if process.returncode not in (0, -how):
            raise Failed(f"ended with status {process.returncode}{said(process)}")


def load(server, path, cpu, args, **policy):
    try:
        command = [*pinned(cpu, **policy), BURST, path, *args, *server.client]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Failed("the load did not finish")
    if done.returncode != 0:
        raise Failed(done.stderr.strip() or f"the load ended with status {done.returncode}")
    return json.loads(done.stdout)


def per_message(run, case, tries, same):
    """The difference of a short and a long run, so that set-up and end cancel. What else runs on the core can
    only add to a count, by breaking a burst in two: each run is repeated until its lowest count came twice.
    """

    def lowest(rounds):
        counts = []
        for _ in range(tries):
            count, messages = run(rounds)
            counts.append(count)
            if sum(count <= min(counts) * (1 + same) for count in counts) > 1:
                break
        return min(counts), messages

    (few, few_messages), (many, many_messages) = lowest(case.short), lowest(case.long)
    return (many - few) / (many_messages - few_messages)


def syscalls(server, case, cpu, tries):
    def run(rounds):
        with tempfile.NamedTemporaryFile("r") as summary:
            # Killed: its end is no message's, and some take minutes to part with 10,000 clients.
            with serve(server, cpu, strace(summary.name), how=signal.SIGKILL, realtime=True) as (pid, path):
                args = [*case.load(rounds), "--settle"]
                messages = load(server, path, cpu, args, realtime=True)["messages"]
                await_sleep(pid)
            return sum(calls(summary.read()).values()), messages

    return per_message(run, case, tries, 0)


def instructions(server, case, cpu, tries):
    def run(rounds):
        # Asked of the living process, which is then killed: valgrind holds signals back from one in io_uring_enter.
        with serve(server, cpu, CALLGRIND, how=signal.SIGKILL, realtime=True) as (pid, path):
            messages = load(server, path, cpu, [*case.load(rounds), "--settle"], realtime=True)["messages"]
            await_sleep(pid)
            answer = subprocess.run(
                ["callgrind_control", "-e", str(pid)], capture_output=True, text=True, timeout=TIMEOUT_S
            )
        threads = re.findall(r"^\s*Th \d+\s+([\d,]+)", answer.stdout, re.M)
        if not threads:
            raise Failed(f"callgrind tells no count: {answer.stderr.strip()[-200:]}")
        return sum(int(count.replace(",", "")) for count in threads), messages

    return per_message(run, case, tries, 0.0005)


def private_bytes(pid):
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+)", rollup, re.M))


def memory(server, cpu):
    """Private bytes a client that was answered once and then stays silent."""
    # Killed: its end is not looked at.
    with serve(server, cpu, how=signal.SIGKILL) as (pid, path):
        load(server, path, cpu, ["-c", "1", "-n", "100"])
        before = private_bytes(pid)
        command = [PIN, str(cpu), BURST, path, "-c", "1", "-n", "1", "--idle", str(IDLE_FOR_MEMORY), "--hold"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
            reported = clients.stdout.readline()
            after = private_bytes(pid)
            clients.stdin.close()
        if not reported:
            raise Failed("the idle clients did not get through")
    return (after - before) / IDLE_FOR_MEMORY


def sleeps(pid):
    """How often the process has gone to sleep of its own accord."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)[1])


def timed(server, case, server_cpu, client_cpu, rounds):
    """burst's report, with the rate in messages a second added; where clients run free, also the batch."""
    with serve(server, server_cpu, ordinary=case.ordinary) as (pid, path):
        warmup = 0 if case.churn else max(2, rounds // 20)
        before = sleeps(pid)
        report = load(server, path, client_cpu, case.load(rounds, warmup), ordinary=case.ordinary)
        slept = sleeps(pid) - before
    report["rate"] = report["messages"] * 1e9 / report["elapsed_ns"]
    if case.free:
        report["batch"] = case.clients * case.pipeline * (warmup + rounds) / max(1, slept)
    return report
