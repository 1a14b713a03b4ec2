"""The JSON document of a run: what was measured, on which machine, with which versions."""

import json
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

from .table import HERE


def jiffies():
    """The time of all cores, and the part of it that the hypervisor gave to other machines (steal)."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    return sum(fields[:8]), fields[7]


class Machine:
    """The machine's other load during the run."""

    def __init__(self):
        self.load_before, self.load_after = os.getloadavg()[0], None
        self.all, self.stolen = jiffies()
        self.stolen_percent = None

    def end(self):
        all_now, stolen_now = jiffies()
        self.stolen_percent = 100 * (stolen_now - self.stolen) / max(1, all_now - self.all)
        self.load_after = os.getloadavg()[0]


def output_of(*command):
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
        return output.strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return None


def crates():
    """More than one version of mio: monoio brings an older one, which the mio server does not use."""
    found = {}
    for lock in (HERE / "Cargo.lock", HERE.parent.parent / "Cargo.lock"):
        for name, version in re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"', lock.read_text()):
            if name in ("mio", "tokio", "calloop", "monoio", "iceoryx2", "ipc-reactor"):
                if version not in found.setdefault(name, []):
                    found[name].append(version)
    return found


def of(run):
    """What --json writes, and `load` reads."""
    cpu = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu[1] if cpu else platform.machine(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "load before": run.machine.load_before,
            "load after": run.machine.load_after,
            "stolen percent": run.machine.stolen_percent,
        },
        "versions": {
            "gcc": output_of("gcc", "-dumpfullversion"),
            "rustc": output_of("rustc", "--version"),
            "strace": output_of("strace", "-V"),
            "valgrind": output_of("valgrind", "--version"),
            "libuv": output_of("pkg-config", "--modversion", "libuv"),
            "libevent": output_of("pkg-config", "--modversion", "libevent"),
            "libsystemd": output_of("pkg-config", "--modversion", "libsystemd"),
            **crates(),
        },
        "repetitions": run.repetitions,
        "quick": run.args.quick,
        "noise": run.noise,
        "values": run.values,
        "notes": run.notes,
    }


def load(path):
    """A saved run, to print or plot again."""
    read = json.loads(path.read_text())
    machine = read["machine"]
    return SimpleNamespace(
        values=read["values"],
        noise=read["noise"],
        notes=read["notes"],
        repetitions=read["repetitions"],
        args=SimpleNamespace(quick=read["quick"]),
        machine=SimpleNamespace(
            load_before=machine["load before"],
            load_after=machine["load after"],
            stolen_percent=machine["stolen percent"],
        ),
        about=read,
    )
