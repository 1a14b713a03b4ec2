"""How one number is taken. Every function gives a value or raises Failed with the reason."""

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

from .table import C, IDLE_FOR_MEMORY, RUST

PIN = str(C / "pin")
BURST = str(C / "burst")
TIMEOUT_S = 120


class Failed(Exception):
    pass


def pinned(cpu, realtime=False):
    return [PIN, *(["-r"] if realtime else []), str(cpu)]


def cpus():
    """The core that both ends share, and one for the client of the cross-core case (or None)."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[-1], (allowed[0] if len(allowed) > 1 else None)


def probe(path, process):
    """Waits until the server accepts, and gives its process id, which strace's child does not tell."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            try:
                client.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                if process.poll() is not None:
                    raise Failed(f"ended at start with status {process.returncode}{last_line(process)}")
                time.sleep(0.005)
                continue
            return struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    raise Failed("does not accept")


def last_line(process):
    process.errors.seek(0)
    lines = process.errors.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1][:200]}" if lines else ""


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
def serve(server, cpu, wrapper=(), how=signal.SIGTERM, realtime=False):
    """Runs the server, ends it, and gives its pid and socket path."""
    with tempfile.TemporaryDirectory(prefix="peers-") as folder, tempfile.TemporaryFile() as errors:
        path = os.path.join(folder, "socket")
        command = [*pinned(cpu, realtime), *wrapper, str(server.binary), server.address.format(path=path)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        process.errors = errors
        pid = None
        try:
            pid = probe(path, process)
            yield pid, path
            if process.poll() is not None:
                raise Failed(f"ended during the run with status {process.returncode}{last_line(process)}")
        finally:
            if process.poll() is None:
                end(process, pid or process.pid, how)
        if process.returncode not in (0, -how):
            raise Failed(f"ended with status {process.returncode}{last_line(process)}")


def load(path, cpu, args, realtime=False):
    try:
        command = [*pinned(cpu, realtime), BURST, path, *args]
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


def strace_total(summary):
    calls = {}
    for line in summary.splitlines():
        fields = line.split()
        # seconds, calls, maybe errors, name
        if len(fields) >= 5 and fields[0].replace(".", "").isdigit():
            calls[fields[-1]] = int(fields[3])
    total = calls.pop("total", None)
    if total is None:
        raise Failed("strace gave no summary")
    return total


def syscalls(server, case, cpu, tries):
    def run(rounds):
        with tempfile.NamedTemporaryFile("r") as summary:
            tool = ["strace", "-f", "-c", "-qq", "-o", summary.name]
            with serve(server, cpu, tool, realtime=True) as (pid, path):
                messages = load(path, cpu, [*case.load(rounds), "--settle"], realtime=True)["messages"]
                await_sleep(pid)
            return strace_total(summary.read()), messages

    return per_message(run, case, tries, 0)


def instructions(server, case, cpu, tries):
    # Asked of the living process, which is then killed: valgrind holds signals back from one in io_uring_enter.
    tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]

    def run(rounds):
        with serve(server, cpu, tool, how=signal.SIGKILL) as (pid, path):
            messages = load(path, cpu, [*case.load(rounds), "--settle"])["messages"]
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
    # Killed: sd-event takes longer than anyone would wait to part with so many clients.
    with serve(server, cpu, how=signal.SIGKILL) as (pid, path):
        load(path, cpu, ["-c", "1", "-n", "100"])
        before = private_bytes(pid)
        command = [PIN, str(cpu), BURST, path, "-c", "1", "-n", "1", "--idle", str(IDLE_FOR_MEMORY), "--hold"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as clients:
            reported = clients.stdout.readline()
            after = private_bytes(pid)
            clients.stdin.close()
        if not reported:
            raise Failed("the idle clients did not get through")
    return (after - before) / IDLE_FOR_MEMORY


def timed(server, case, server_cpu, client_cpu, rounds):
    """burst's report, with the rate in messages a second added."""
    with serve(server, server_cpu) as (_, path):
        report = load(path, client_cpu, case.load(rounds, 0 if case.churn else max(2, rounds // 20)))
    report["rate"] = report["messages"] * 1e9 / report["elapsed_ns"]
    return report


def queue(cpu):
    """Syscalls a message, and messages a second, of the C receiver."""
    name = f"/peers-{os.getpid()}"

    def receive(count, wrapper=(), realtime=False):
        command = [*pinned(cpu, realtime), *wrapper, str(C / "queue"), "recv", name, "-n", str(count)]
        receiver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if receiver.stdout.readline() != "ready\n":
            raise Failed("the receiver did not start")
        send = [*pinned(cpu, realtime), str(C / "queue"), "send", name, "-n", str(count)]
        if wrapper:
            children = Path(f"/proc/{receiver.pid}/task/{receiver.pid}/children").read_text().split()
            send += ["-w", children[0]]
        subprocess.run(send, check=True, timeout=TIMEOUT_S)
        return json.loads(receiver.communicate(timeout=TIMEOUT_S)[0])

    def counted(count):
        with tempfile.NamedTemporaryFile("r") as summary:
            receive(count, ["strace", "-f", "-c", "-qq", "-o", summary.name], realtime=True)
            return strace_total(summary.read())

    report = receive(100000)
    return {
        "syscalls": (counted(6000) - counted(1000)) / 5000,
        "rate": report["messages"] * 1e9 / report["elapsed_ns"],
    }


def shm(cpu):
    """Nanoseconds a sample or a round trip of iceoryx2."""
    binary = RUST / "iceoryx2"
    if not binary.exists():
        raise Failed("not built: build.sh --iceoryx2")
    results = {}
    for key, mode, count, place in [
        ("loop_ns", "loop", 500000, cpu),
        ("round_trip_one_core_ns", "pingpong", 10000, cpu),
        ("round_trip_ns", "pingpong", 10000, "-"),
    ]:
        done = subprocess.run(
            [PIN, str(place), binary, mode, str(count)], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        if done.returncode != 0:
            raise Failed(done.stderr.strip()[-200:])
        report = json.loads(done.stdout)
        results[key] = report["elapsed_ns"] / report["messages"]
    return results
